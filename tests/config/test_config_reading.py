"""The key ``reader`` is handed to whatever reads pictures, of any family, and to nothing else."""

from pathlib import Path

import pytest

from flmm.config import load_config

CONFIG = """
reader = "a/b"
model = dict(
    type="Grounder",
    model=dict(type="FrozenVLM"),
    mask_head=dict(type="UNetHead"),
    sam=dict(type="Sam2Refiner", name_or_path=None))
encoders = [dict(type="EncodeImage", image_processor=dict(type=kind)) for kind in KINDS]
eval_datasets = dict(x=dict(y=dict(pipeline=encoders)))
"""
KINDS = ["ImageProcessorWrapper", "QwenImageProcessorWrapper"]


@pytest.mark.parametrize(("options", "wanted"), [({}, "a/b"), ({"reader": "c/d"}, "c/d")])
def test_the_reader_goes_where_a_picture_is_read(tmp_path: Path, options, wanted) -> None:
    path = tmp_path / "own.py"
    path.write_text(CONFIG.replace("KINDS", repr(KINDS)))
    config = load_config(path, options)
    assert config.model.model.name_or_path == wanted
    assert config.model.sam.name_or_path is None
    unified, qwen = (item.image_processor for item in config.eval_datasets.x.y.pipeline)
    assert unified.name_or_path == wanted and qwen.processor == wanted


def test_another_reader_that_the_config_names_stays(tmp_path: Path) -> None:
    text = CONFIG.replace("KINDS", repr(KINDS)).replace(
        '"FrozenVLM"', '"FrozenVLM", name_or_path="e"'
    )
    (tmp_path / "own.py").write_text(text)
    assert load_config(tmp_path / "own.py", {"reader": "c/d"}).model.model.name_or_path == "e"
