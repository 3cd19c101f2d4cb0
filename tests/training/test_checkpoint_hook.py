"""At every moment there is a checkpoint to go on from, and the best one so far."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.runner import IterBasedTrainLoop, ValLoop

from flmm.checkpoints.checkpoint import load_checkpoint
from flmm.files import DiskFullError
from flmm.registry import HOOKS
from flmm.training.checkpoint_hook import SafeCheckpointHook
from tests.training.toy_training import train

OPTIONS = {
    "train_cfg.val_interval": 3,
    "default_hooks.checkpoint.save_best": "better",
    "val_evaluator": {"type": "CountingMetric"},
}
NO_FULL_DEVICE = pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="the system has no /dev/full"
)


class KilledError(Exception):
    pass


def list_files(work_dir: str = "work") -> list[str]:
    return sorted(path.name for path in Path(work_dir).glob("*.pth*"))


def before(
    patch: pytest.MonkeyPatch, owner: type, name: str, iteration: int, act: Callable[[], object]
) -> None:
    """Do something before a method of mmengine's runs in this iteration."""
    method = getattr(owner, name)

    def act_and_run(loop: Any, *args: Any) -> Any:
        if loop.runner.iter == iteration:
            act()
        return method(loop, *args)

    patch.setattr(owner, name, act_and_run)


def let_fill(name: str) -> Callable[[], object]:
    return lambda: Path(f"work/{name}.tmp").symlink_to("/dev/full")


def test_configs_get_ours_under_mmengines_name() -> None:
    assert HOOKS.get("CheckpointHook") is SafeCheckpointHook


def test_the_last_ones_and_the_best_are_kept(toy_config: Path) -> None:
    train(toy_config, "work", {**OPTIONS, "train_cfg.max_iters": 8})
    # The best of iteration 6 and of the last one, each with a checkpoint that knows of it.
    assert list_files() == ["best_better_iter_8.pth", "iter_6.pth", "iter_8.pth"]
    assert Path("work/last_checkpoint").read_text() == str(Path("work/iter_8.pth").absolute())
    assert set(load_checkpoint("work/best_better_iter_8.pth")) == {
        "meta",
        "message_hub",
        "state_dict",
    }


@NO_FULL_DEVICE
def test_the_oldest_goes_only_after_the_new_one_is_there(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "train_cfg.val_interval": 100}
    with monkeypatch.context() as patch:
        before(patch, IterBasedTrainLoop, "run_iter", 1, let_fill("iter_2.pth"))
        with pytest.raises(DiskFullError, match=r"iter_2.* and there is no complete checkpoint"):
            train(toy_config, "work", options)
    assert not list_files()
    before(monkeypatch, IterBasedTrainLoop, "run_iter", 5, let_fill("iter_6.pth"))
    needs = r"it needs [\d,]+ bytes, folder \S+work has [\d,]+ free; no partial file is left"
    told = rf"no room for iter_6\.pth \(No space left on device\): {needs} and iter_4\.pth is whole"
    with pytest.raises(DiskFullError, match=rf"{told}: make room, then go on with --resume"):
        train(toy_config, "work", options)
    assert list_files() == ["iter_2.pth", "iter_4.pth"]
    assert Path("work/last_checkpoint").read_text().endswith("iter_4.pth")


@NO_FULL_DEVICE
def test_the_best_goes_only_after_the_new_one_is_there(toy_config: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        before(patch, ValLoop, "run", 6, let_fill("best_better_iter_6.pth"))
        with pytest.raises(DiskFullError, match="no room for best_better_iter_6"):
            train(toy_config, "work", OPTIONS)
    assert list_files() == ["best_better_iter_3.pth", "iter_4.pth", "iter_6.pth"]
    train(toy_config, "work", OPTIONS, resume="auto")  # validates first: that was not done
    assert list_files() == ["best_better_iter_3.pth", "iter_4.pth", "iter_6.pth"]


def test_what_a_killed_run_could_not_delete_is_deleted(toy_config: Path) -> None:
    options = {**OPTIONS, "train_cfg.val_interval": 100, "train_cfg.max_iters": 8}

    def die() -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        forget = SafeCheckpointHook._forget
        patch.setattr(
            SafeCheckpointHook,
            "_forget",
            lambda hook, runner, kept: die() if runner.iter == 5 else forget(hook, runner, kept),
        )
        with pytest.raises(KilledError):
            train(toy_config, "work", options)
    assert list_files() == ["iter_2.pth", "iter_4.pth", "iter_6.pth"]
    train(toy_config, "work", options, resume="auto")
    assert list_files() == ["best_better_iter_8.pth", "iter_6.pth", "iter_8.pth"]


def test_several_metrics_have_a_best_each(toy_config: Path) -> None:
    options = {
        **OPTIONS,
        "default_hooks.checkpoint.save_best": ["better", "worse"],
        "default_hooks.checkpoint.rule": ["greater", "greater"],
    }
    train(toy_config, "work", options)
    assert list_files()[:2] == ["best_better_iter_6.pth", "best_worse_iter_3.pth"]


def test_a_run_that_was_moved_finds_its_best(toy_config: Path) -> None:
    train(toy_config, "work", {**OPTIONS, "train_cfg.max_iters": 4})
    shutil.move("work", "moved")
    options = {**OPTIONS, "default_hooks.checkpoint.rule": "less"}  # the first one stays best
    train(toy_config, "moved", {**options, "train_cfg.max_iters": 7}, resume="auto")
    assert list_files("moved") == ["best_better_iter_6.pth", "iter_6.pth", "iter_7.pth"]


def test_a_metric_that_nobody_gives_is_told(toy_config: Path) -> None:
    options = {**OPTIONS, "default_hooks.checkpoint.save_best": "gIoU"}
    with pytest.raises(ValueError, match=r"save_best is 'gIoU', but the evaluation gives \['bett"):
        train(toy_config, "work", options)


def test_a_folder_elsewhere_is_refused(toy_config: Path) -> None:
    options = {"default_hooks.checkpoint.out_dir": "https://example.org/checkpoints"}
    with pytest.raises(ValueError, match=r"checkpoint out_dir \S+ is no folder of this machine"):
        train(toy_config, "work", options)


def test_checkpoints_may_lie_in_another_folder(toy_config: Path, tmp_path: Path) -> None:
    options = {"default_hooks.checkpoint.out_dir": str(tmp_path / "large_disk")}
    train(toy_config, "work", {**options, "train_cfg.max_iters": 4})
    assert not list_files()
    assert "iter_4.pth" in list_files("large_disk/work")
    assert train(toy_config, "work", options, resume="auto").iter == 6
