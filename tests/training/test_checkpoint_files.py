"""Checkpoint files: whole or not there, broken ones told from whole ones, no room told in words."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import IterBasedTrainLoop

from flmm.checkpoints.checkpoint import RESUMABLE_KEYS, find_latest_checkpoint
from flmm.files import DiskFullError
from tests.training.toy_training import read_logs, train


def write_checkpoint(path: Path, saved_at: int, **extra: object) -> Path:
    content = {key: {} for key in RESUMABLE_KEYS} | {"weights": torch.arange(1000.0)}
    torch.save({**content, "training_state": {"saved_at": saved_at}, **extra}, path)
    return path


@pytest.fixture
def checkpoints(tmp_path: Path) -> dict[int, Path]:
    """Iteration 10 was written last but one: a run that was resumed from an older checkpoint."""
    order = {2: 1, 10: 3, 8: 4, 4: 2}
    return {
        step: write_checkpoint(tmp_path / f"iter_{step}.pth", saved_at)
        for step, saved_at in order.items()
    }


def find(folder: Path) -> tuple[str | None, list[str]]:
    warnings: list[str] = []
    found = find_latest_checkpoint(folder, warnings.append)
    return found and found.name, warnings


def flip_a_byte(path: Path) -> None:
    """In the last tensor: the archive's own tables stay whole."""
    content = bytearray(path.read_bytes())
    position = content.rindex(torch.tensor([700.0]).numpy().tobytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def test_the_latest_is_the_one_that_was_written_last(
    tmp_path: Path, checkpoints: dict[int, Path]
) -> None:
    assert find(tmp_path) == ("iter_8.pth", [])
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy)  # in another order, with other times
    assert find(copy) == ("iter_8.pth", [])
    write_checkpoint(tmp_path / "best_cIoU_iter_8.pth", saved_at=9)
    assert find(tmp_path) == ("iter_8.pth", [])
    assert find(tmp_path / "nothing") == (None, [])


def test_broken_files_are_passed_over_by_name(tmp_path: Path, checkpoints: dict[int, Path]) -> None:
    content = checkpoints[8].read_bytes()
    checkpoints[8].write_bytes(content[: len(content) * 2 // 3])
    flip_a_byte(checkpoints[10])
    torch.save({"state_dict": {}, "meta": {}}, checkpoints[4])
    (tmp_path / "iter_12.pth").write_bytes(b"")
    (tmp_path / "iter_14.pth").write_bytes(bytes(5000))
    found, warnings = find(tmp_path)
    assert found == "iter_2.pth"
    reasons = {re.search(r"iter_\d+", text)[0]: text for text in warnings}
    assert set(reasons) == {f"iter_{step}" for step in (4, 8, 10, 12, 14)}
    for name in ("iter_8", "iter_12", "iter_14"):
        assert re.match(
            rf"checkpoint .*{name}\.pth is passed over: it is cut off or damaged \(.", reasons[name]
        )
    assert "it is damaged (checksum of" in reasons["iter_10"]
    assert "it lacks message_hub, optimizer, training_state" in reasons["iter_4"]
    checkpoints[2].unlink()
    assert find(tmp_path)[0] is None


def test_a_resume_passes_over_what_is_broken(toy_config: Path, tmp_path: Path) -> None:
    train(toy_config, "work", {"train_cfg.max_iters": 4})
    broken = tmp_path / "work/iter_4.pth"
    broken.write_bytes(broken.read_bytes()[:-100])
    leftover = tmp_path / "work/iter_6.pth.tmp"
    leftover.write_bytes(b"half")
    runner = train(toy_config, "work", {}, resume="auto")
    assert runner.iter == 6
    assert not leftover.exists()
    log = read_logs("work")
    assert f"checkpoint {broken} is passed over: it is cut off or damaged" in log
    assert "iter_3.pth" in re.search(r"Loaded 2 tensors from (.*)", log)[1]
    assert f"Removed {leftover}, left by a run that was killed" in log
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot resume from .*: it is cut off or damaged"):
        train(toy_config, "other", {}, resume=str(broken))


def test_with_nothing_to_resume_it_begins_anew(toy_config: Path) -> None:
    Path("work").mkdir()
    Path("work/iter_2.pth").write_bytes(b"")
    runner = train(toy_config, "work", {"train_cfg.max_iters": 2}, resume="auto")
    assert runner.iter == 2
    log = read_logs("work")
    assert "work/iter_2.pth is passed over" in log
    assert "holds no checkpoint to resume from: training begins anew" in log


@pytest.fixture
def full_device() -> Iterator[TextIO]:
    file = open("/dev/full", "w")  # noqa: SIM115  (what is left in its buffer cannot be flushed)
    yield file
    with contextlib.suppress(OSError):
        file.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("victim", ["log", "scalars"])
def test_a_full_disk_stops_at_the_logs_too(
    toy_config: Path, victim: str, full_device: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three iterations the log or the scalars go to a device without room."""
    run_iter = IterBasedTrainLoop.run_iter

    def fill_disk(loop: IterBasedTrainLoop, data_batch: object) -> None:
        if loop.iter == 3 and victim == "scalars":
            scalars = Path(loop.runner.log_dir) / "vis_data/scalars.json"
            scalars.unlink()
            scalars.symlink_to("/dev/full")
        elif loop.iter == 3:
            handlers = loop.runner.logger.handlers
            file = next(item for item in handlers if isinstance(item, logging.FileHandler))
            file.setStream(full_device)
        run_iter(loop, data_batch)

    monkeypatch.setattr(IterBasedTrainLoop, "run_iter", fill_disk)
    try:
        with pytest.raises(
            DiskFullError, match=r"no room for the logs in .*work, which has \S+ by"
        ):
            train(toy_config, "work", {"train_cfg.val_interval": 100})
    finally:  # mmengine's "current" logger stays after the run
        MMLogger.get_current_instance().handlers[1:] = []
    assert [path.name for path in Path("work").glob("*.pth*")] == ["iter_2.pth"]
