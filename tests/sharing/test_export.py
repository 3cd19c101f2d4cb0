"""From a real training to a folder that others can use, and the card that tells what it is."""

import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from flmm import GroundingInferencer
from flmm.config import load_config
from flmm.config.text import read_literals
from flmm.evaluation.evaluation_options import EvaluationOptions
from flmm.evaluation.evaluation_runs import run_png_evaluation, run_refcoco_evaluation
from flmm.sharing.exporting import export_checkpoint, find_checkpoint
from flmm.sharing.model_card import CardOptions
from flmm.toy.shape_files import write_dataset
from tests.training.toy_training import train

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs/tiny/tiny_unet_sam_shapes.py"
SCENE = ROOT / "docs/images/scene.png"
PHRASES = ["the red triangle", "the small blue square"]
CONFIG = f"""
_base_ = ["{TINY}"]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
model = dict(model=dict(token_merge="max"))
load_from = "tiny"
train_cfg = dict(max_iters=1, val_interval=1)
param_scheduler = []
"""
Run = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``short.py``, its scenes, and the work folder of its training."""
    folder = tmp_path_factory.mktemp("export")
    write_dataset(folder / "shapes", num_images=10, seed=3)
    (folder / "configs").mkdir()
    (folder / "configs/short.py").write_text(CONFIG)
    options = {"optim_wrapper.optimizer.lr": 1e-2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLMM_DATA_ROOT", str(folder / "shapes"))
        train(folder / "configs/short.py", str(folder / "work"), options)
        yield folder


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    return folder / "configs/short.py"


@pytest.fixture(scope="module")
def best(folder: Path) -> Path:
    (path,) = (folder / "work").glob("best_cIoU*.pth")
    return path


@pytest.fixture(scope="module")
def report(folder: Path, config: Path, best: Path) -> Path:
    """Of tools/eval_refcoco.py on the trained checkpoint."""
    path = folder / "eval.json"
    options = EvaluationOptions(
        checkpoint=str(best),
        splits=["val", "testA"],
        protocols=("standard", "flmm"),
        out=str(path),
        device="cpu",
    )
    run_refcoco_evaluation(load_config(config, work_dir=str(folder / "eval")), options)
    return path


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Run:
    """Calls a tool as the command line does; gives what it prints or its last words."""

    def run(name: str, *arguments: Any) -> str:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / f"tools/{name}.py"), run_name="__main__")
        except SystemExit as end:
            return str(end.code)
        return capsys.readouterr().out

    return run


def test_a_trained_checkpoint_is_shared(config, best, tmp_path, run_tool):
    printed = run_tool("export", config, best, tmp_path / "head")
    assert f"from_pretrained('{tmp_path / 'head'}')" in printed
    trained = GroundingInferencer(config, best, device="cpu")
    shared = GroundingInferencer.from_pretrained(tmp_path / "head", device="cpu")
    assert shared.model.vlm.token_merge == "max"
    masks = shared(SCENE, PHRASES).masks
    assert masks.any() and np.array_equal(masks, trained(SCENE, PHRASES).masks)
    embedded = GroundingInferencer(TINY, device="cpu").model.state_dict()
    weights = shared.model.state_dict()
    assert any(not torch.equal(weights[key], embedded[key]) for key in weights)
    # The live model writes the same files as its checkpoint.
    trained.save_pretrained(tmp_path / "live")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "live" / name).read_bytes() == (tmp_path / "head" / name).read_bytes()


def test_a_work_folder_stands_for_its_best_checkpoint(folder, config, best, tmp_path, run_tool):
    assert find_checkpoint(folder / "work") == str(best)
    work = Path(shutil.copytree(folder / "work", tmp_path / "work"))
    shutil.copy(best, work / "best_mIoU_iter_1.pth")
    said = run_tool("export", config, work, tmp_path / "head")
    assert "has several best checkpoints" in said and "best_mIoU_iter_1.pth" in said
    for path in work.glob("best_*"):
        path.unlink()
    assert find_checkpoint(work).endswith("iter_1.pth")
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        find_checkpoint(tmp_path)


def test_another_config_than_the_trainings_is_refused(best, tmp_path, run_tool):
    said = run_tool("export", TINY, best, tmp_path / "head")
    assert "was trained with model.model.token_merge='max', this config has 'mean'" in said
    assert "--cfg-options model.model.token_merge=max" in said and "Traceback" not in said
    option = ["--cfg-options", "model.model.token_merge=max"]
    assert "written" in run_tool("export", TINY, best, tmp_path / "head", *option)
    said = run_tool("export", TINY, best, tmp_path / "head", *option)
    assert "holds model.safetensors, README.md, config.json already" in said
    assert "written" in run_tool("export", TINY, best, tmp_path / "head", "--overwrite", *option)


def test_a_checkpoints_config_is_read_and_not_run():
    text = "import os\nmodel = dict(a=[1, (2, -3)], b={'c': None, **{}})\nx = os.system('exit 1')\n"
    assert read_literals("model = dict(a=[1, (2, -3)], b={'c': dict(d=True)})").get("model") == {
        "a": [1, [2, -3]],
        "b": {"c": {"d": True}},
    }
    assert read_literals(text).get("x") is None
    assert read_literals("model = dict(a=__import__('os'))").get("model") is None
    assert read_literals("model = (").get("model") is None


def test_demo_takes_the_folder(config, best, tmp_path, run_tool):
    head = export_checkpoint(load_config(config), best, tmp_path / "head")
    options = ["--config", head, "--device", "cpu", "--out", tmp_path / "out"]
    assert "red star" in run_tool("demo", SCENE, "--phrase", "red star", *options)
    (head / "config.json").write_text("{")
    said = run_tool("demo", SCENE, "--phrase", "red star", *options)
    assert "config.json is cut off or damaged" in said and "Traceback" not in said


def test_a_card_without_a_report_has_no_figure(config, best, tmp_path, run_tool):
    run_tool("export", config, best, tmp_path / "head")
    card = ModelCard.load(tmp_path / "head/README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "flmm" and data["pipeline_tag"] == "image-segmentation"
    assert data["license"] == "apache-2.0" and "flmm" in data["tags"]
    assert "model-index" not in data and "base_model" not in data
    figures = card.text.partition("## Figures")[2].partition("## Files")[0]
    assert "Not measured" in figures and "%" not in figures and "|" not in figures
    command = "python tools/eval_refcoco.py configs/short.py head/model.safetensors"
    assert command in figures


def test_figures_are_those_of_the_report(config, best, report, tmp_path, run_tool):
    arguments = ["--results", report, "--repo-id", "someone/shapes", "--license", "mit"]
    arguments += ["--base-model", "someone/reader"]
    assert "written" in run_tool("export", config, best, tmp_path / "head", *arguments)
    card = ModelCard.load(tmp_path / "head/README.md")
    assert card.data.license == "mit" and card.data.base_model == "someone/reader"
    assert 'from_pretrained("someone/shapes")' in card.text
    rows = [row for row in json.loads(report.read_text())["rows"] if row["group"] == "all"]
    assert len(rows) == 8  # splits x protocols x stages of the mask
    for row in rows:
        names = [row[key] for key in ("dataset", "split", "protocol", "mask")]
        line = f"| {' | '.join(names)} | {row['cIoU']:.2f} | {row['mIoU']:.2f} |"
        assert line in card.text, line
    assert (
        "python tools/eval_refcoco.py configs/short.py shapes/model.safetensors --datasets shapes "
        "--splits val testA --protocol both" in card.text
    )
    assert json.loads(report.read_text())["run"]["sha256"] in card.text
    assert str(report.parent) not in card.text  # nothing of this machine
    refined = {
        (row["split"], row["protocol"]): row["cIoU"] for row in rows if row["mask"] == "refined"
    }
    found = {
        (item.dataset_split, item.dataset_config): item.metric_value
        for item in card.data.eval_results
        if item.metric_type == "cIoU"
    }
    assert len(found) == 4
    assert found == {key: round(value, 2) for key, value in refined.items()}


def test_figures_of_narratives_and_of_a_part(folder, config, best, tmp_path):
    narrative = load_config(ROOT / "configs/tiny/tiny_png_shapes.py", work_dir=str(tmp_path))
    narrative.model.model.token_merge = "max"
    options = EvaluationOptions(str(best), out=str(tmp_path / "png.json"), device="cpu", limit=1)
    rows = run_png_evaluation(narrative, options)["rows"]
    card_options = CardOptions([tmp_path / "png.json"])
    export_checkpoint(load_config(config), best, tmp_path / "head", card_options)
    card = ModelCard.load(tmp_path / "head/README.md")
    for row in rows:
        names = [row[key] for key in ("dataset", "split", "protocol", "group", "mask")]
        assert f"| {' | '.join(names)} | {row['average_recall']:.2f} |" in card.text
    assert "tools/eval_png.py configs/tiny/tiny_png_shapes.py" in card.text
    assert "only the first 1 images of each split" in card.text and "--limit 1" in card.text
    assert card.data.eval_results is None  # the hub would show them as those of the split


def edit(path: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(path.read_text())
    change(content)
    target.write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["run"].update(weights_hash="0"), "weights are not those of this head"),
        (lambda c: c["run"].update(checkpoint=None, weights_hash="0"), "measured baselines"),
        (lambda c: c.pop("rows"), "is no JSON report of tools/eval_refcoco.py or"),
        (lambda c: c.update(title="My figures"), "is no JSON report of"),
        (lambda c: c.update(rows=[]), "has no figure"),
        (lambda c: c["rows"][0].pop("protocol"), "is no JSON report of"),
        (lambda c: c["rows"][0].update(protocol=None), "has no figure of a named data set"),
    ],
)
def test_reports_of_something_else_are_refused(config, best, report, tmp_path, change, message):
    path = edit(report, tmp_path / "report.json", change)
    with pytest.raises(ValueError, match=message) as caught:
        export_checkpoint(load_config(config), best, tmp_path / "head", CardOptions([path]))
    assert str(path) in str(caught.value) and not (tmp_path / "head").exists()


def test_a_missing_report(config, best, tmp_path, run_tool):
    said = run_tool("export", config, best, tmp_path / "head", "--results", "nowhere.json")
    assert "report nowhere.json does not exist" in said and not (tmp_path / "head").exists()


def test_the_cards_snippet_runs(config, best, tmp_path, monkeypatch):
    export_checkpoint(load_config(config), best, tmp_path / "my-head")
    text = (tmp_path / "my-head/README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    Image.open(SCENE).convert("RGB").save("photo.jpg")
    names: dict[str, Any] = {}
    exec(code, names)
    height, width = np.asarray(Image.open("photo.jpg")).shape[:2]
    assert names["result"].masks.shape == (2, height, width)
