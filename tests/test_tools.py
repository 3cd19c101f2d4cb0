"""The tools as a user calls them, one after the other: data, training, resuming, testing."""

import json
from pathlib import Path

import pytest

from flmm.checkpoints.checkpoint import load_checkpoint
from tests.forks import run_fork

pytestmark = pytest.mark.process

TINY = "configs/tiny/tiny_unet_sam_shapes.py"


def run_tool(name, *arguments):
    done = run_fork(f"tools/{name}.py", *arguments)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def build_options(folder, iterations):
    """Short training on the folder's own scenes."""
    loaders = [f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")]
    persistent = "train_dataloader.persistent_workers=False"
    length = [f"train_cfg.max_iters={iterations}", "train_cfg.val_interval=100"]
    small = ["train_dataloader.batch_size=2", "default_hooks.checkpoint.interval=2"]
    small.append("default_hooks.logger.interval=1")
    return [f"data_root={folder / 'shapes'}", *loaders, persistent, *length, *small]


@pytest.mark.heavy
def test_from_scenes_to_figures(folder):
    code, text = run_tool("make_shapes", folder / "shapes", "--images", 8, "--seed", 3)
    assert code == 0 and "8 images" in text

    work = folder / "work"
    train = [TINY, "--work-dir", work, "--cfg-options"]
    code, text = run_tool("train", *train, *build_options(folder, 2))
    assert code == 0, text
    assert "eta:" in text and "refined_loss_dice" in text
    first = load_checkpoint(work / "iter_2.pth")["state_dict"]
    assert not any(key.startswith("vlm") or "image_encoder" in key for key in first)

    code, text = run_tool("train", *train, *build_options(folder, 4), "--resume")
    assert code == 0, text
    assert "resumed" in text.lower() and "Iter(train) [4/4]" in text

    out = folder / "metrics.json"
    options = ["--work-dir", folder / "test", "--out", out, "--cfg-options"]
    code, text = run_tool("test", TINY, work / "iter_4.pth", *options, *build_options(folder, 4))
    assert code == 0, text
    assert "precision@0.5" in text
    assert "coarse" in json.dumps(json.loads(Path(out).read_text()))
