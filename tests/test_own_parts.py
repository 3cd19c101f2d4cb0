"""A mask head of one's own, from the config alone: the page's own blocks, run."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from flmm import GroundingInferencer
from flmm.checkpoints.checkpoint import load_checkpoint
from flmm.config import load_config
from flmm.masks import compute_coarse_logits
from flmm.registry import MODELS
from flmm.sharing.exporting import export_checkpoint
from flmm.sharing.sharing import describe_head
from flmm.toy.shape_files import write_dataset
from flmm.training.runner import run_test, run_training

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "docs/images/scene.png"
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own_parts.md").read_text(), re.S)
OPTIONS = {
    "train_cfg": {"max_iters": 2, "val_interval": 100},
    "train_dataloader": {"batch_size": 2, "num_workers": 0, "persistent_workers": False},
    "test_dataloader": {"num_workers": 0},
    "default_hooks.checkpoint.interval": 2,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``my_config.py`` beside ``my_head.py``, with scenes to train on."""
    folder = tmp_path_factory.mktemp("own")
    head, config, _ = BLOCKS
    (folder / "my_head.py").write_text(head)
    (folder / "my_config.py").write_text(config.replace("./configs", f"{ROOT}/configs"))
    write_dataset(folder / "shapes", num_images=8, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("FLMM_DATA_ROOT", str(folder / "shapes"))
        yield folder / "my_config.py"
    sys.modules.pop("my_head", None)
    MODELS._module_dict.pop("PointwiseHead", None)


@pytest.fixture(scope="module")
def checkpoint(config: Path) -> str:
    run_training(load_config(config, OPTIONS, str(config.parent / "work")))
    return str(config.parent / "work/iter_2.pth")


def test_the_example_is_twenty_lines():
    assert len(BLOCKS[0].splitlines()) <= 22 and len(BLOCKS[1].splitlines()) <= 5


def test_it_trains_and_is_evaluated(config, checkpoint):
    weights = load_checkpoint(checkpoint)["state_dict"]
    own = {key for key in weights if key.startswith("mask_head.")}
    assert own == {f"mask_head.{layer}" for layer in ("first.weight", "first.bias")} | {
        "mask_head.last.weight",
        "mask_head.last.bias",
    }
    assert weights["mask_head.first.weight"].shape == (24, 30, 1, 1)
    assert weights["mask_head.first.bias"].dtype == torch.float32
    metrics = run_test(load_config(config, OPTIONS, str(config.parent / "test")), checkpoint)
    assert 0 <= metrics["cIoU"] <= 100


def test_it_is_shared_with_those_who_have_its_code(config, checkpoint, tmp_path, monkeypatch):
    head = export_checkpoint(load_config(config), checkpoint, tmp_path / "head")
    grounder = GroundingInferencer(head, device="cpu")
    assert type(grounder.model.mask_head).__name__ == "PointwiseHead"
    assert grounder(SCENE, ["the red triangle"]).masks.shape[0] == 1
    monkeypatch.delitem(MODELS._module_dict, "PointwiseHead")  # as where nobody imported it
    with pytest.raises(
        ValueError,
        match=r"mask_head\.type is 'PointwiseHead', which is no part .*is not loaded; .*imported b",
    ):
        GroundingInferencer(head, device="cpu")


def test_a_dotted_type_is_built_and_not_shared(config):
    dotted = load_config(config)
    dotted.model.mask_head = {"type": "torch.nn.Conv2d", "out_channels": 1, "kernel_size": 1}
    model = MODELS.build(dotted.model)
    assert type(model.mask_head) is nn.Conv2d
    with pytest.raises(ValueError, match=r"mask_head\.type is 'torch\.nn\.Conv2d', which is no pa"):
        describe_head(model, dotted)


@pytest.mark.parametrize(
    ("give", "error", "message"),
    [
        (lambda maps: maps, ValueError, r"gives \[2, 3, 4, 5\] for 2 phrases: logits \[P, 1"),
        (lambda maps: maps[0], ValueError, r"gives \[3, 4, 5\] for 2 phrases"),
        (lambda maps: [maps], TypeError, "gives a list: a tensor"),
        (lambda maps: maps[:, :1] / 0, ValueError, "what the mask head .* gives holds NaN or inf"),
    ],
)
def test_what_is_no_mask_is_told(give, error, message):
    class Head(nn.Module):
        def forward(self, maps):
            return give(maps)

    with pytest.raises(error, match=message):
        compute_coarse_logits(Head().eval(), torch.rand(2, 3, 4, 5))


def test_a_head_without_weights_and_one_in_half_precision():
    class Mean(nn.Module):
        def forward(self, maps):
            return maps.mean(1, keepdim=True)

    maps = torch.rand(2, 3, 4, 5)
    assert torch.equal(compute_coarse_logits(Mean(), maps)[1], maps.mean(1))
    half = nn.Conv2d(3, 1, 1, dtype=torch.bfloat16)
    given, logits = compute_coarse_logits(half, maps)
    assert given.dtype == logits.dtype == torch.float32 and logits.shape == (2, 4, 5)
