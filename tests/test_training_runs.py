"""The tiny model trained as a user trains it: stopped in every way there is, and resumed.

``FLMM_KILLS=10 pytest tests/test_training_runs.py -k random_moment`` kills ten runs more.
"""

import json
import os
import random
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flmm.checkpoints.checkpoint import load_checkpoint
from flmm.config import load_config
from flmm.toy.shape_files import write_dataset
from flmm.training.runner import run_test
from tests.forks import Fork

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
ITERATIONS = 10
KILLS = int(os.environ.get("FLMM_KILLS", "0"))
CONFIG = f"""
_base_ = ["{ROOT}/configs/tiny/tiny_unet_sam_shapes.py"]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0, dataset=dict(split="val"))
train_cfg = dict(max_iters={ITERATIONS}, val_interval=5)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1), examples=dict(count=0))
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=9)]
"""
WORKER = ["train_dataloader.num_workers=1", "train_dataloader.persistent_workers=True"]


# Every write stays visible for a while, so that a process can be caught at it.
SLOW_DISK = f"""
import os, runpy, time
fsync = os.fsync
os.fsync = lambda file: (time.sleep(0.2), fsync(file))
runpy.run_path("{ROOT}/tools/train.py", run_name="__main__")
"""


class Run:
    """A training in a process of its own."""

    def __init__(
        self,
        config: Path,
        work_dir: Path,
        *options: str,
        resume: bool = False,
        program: str | Path = ROOT / "tools/train.py",
    ) -> None:
        self.work_dir = work_dir
        arguments = [config, "--work-dir", work_dir, *(["--resume"] if resume else [])]
        arguments += ["--cfg-options", *options] if options else []
        self.process = Fork(program, *arguments)

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def wait_until(self, condition: Callable[[], object]) -> bool:
        """Whether the condition came true before the run ended."""
        while not self.has_ended:
            if condition():
                return True
            time.sleep(0.002)
        return False

    def kill(self) -> None:
        self.process.kill()

    def finish(self) -> str:
        """Wait for the end; what the run printed."""
        done = self.process.finish()
        text = done.stdout + done.stderr
        assert done.returncode == 0, text[-3000:]
        return text

    def count_iterations(self) -> int:
        """Iterations that this work folder has seen logged."""
        return max(read_losses(self.work_dir), default=0)

    def is_writing(self) -> bool:
        return any(self.work_dir.glob("*.pth.tmp"))


def read_scalars(work_dir: Path) -> list[dict]:
    """Every line of the logs, in the order of the runs; a last line may be cut off."""
    lines = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            if line.endswith("}"):
                lines.append(json.loads(line))
    return lines


def read_losses(work_dir: Path) -> dict[int, tuple[float, ...]]:
    """Loss, gradient norm and learning rate by iteration; of what was done twice, the last."""
    lines = [line for line in read_scalars(work_dir) if "loss" in line]
    return {line["step"]: (line["loss"], line["grad_norm"], line["lr"]) for line in lines}


def assert_same_end(whole: Path, resumed: Path) -> None:
    name = f"iter_{ITERATIONS}.pth"
    one, other = load_checkpoint(whole / name), load_checkpoint(resumed / name)
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key
    for index, state in one["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, other["optimizer"]["state"][index][key])
    assert read_losses(whole) == read_losses(resumed)
    files = [sorted(path.name for path in run.glob("*.pth*")) for run in (whole, resumed)]
    assert files[0] == files[1]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("training")
    write_dataset(folder / "shapes", num_images=12, seed=3)
    path = folder / "short.py"
    path.write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLMM_DATA_ROOT", str(folder / "shapes"))
        yield path


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """Work folder of the run that nothing stopped."""
    run = Run(config, config.parent / "whole")
    text = run.finish()
    assert re.search(rf"Iter\(train\) \[ 3/{ITERATIONS}\].* eta: \d+:\d\d:\d\d", text)
    return run.work_dir


def test_stopped_in_every_way_it_ends_the_same(config: Path, whole: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / "stopped"
    check_full_disk(config, work_dir)
    resumed = Run(config, work_dir, resume=True, program=SLOW_DISK)
    assert resumed.wait_until(resumed.is_writing), "no write was caught"
    resumed.kill()
    resumed = Run(config, work_dir, *WORKER, resume=True)
    stop = random.Random(0).uniform(0, 0.2)
    assert resumed.wait_until(lambda: resumed.count_iterations() > 6)
    time.sleep(stop)
    resumed.kill()
    damage(max(work_dir.glob("iter_*.pth"), key=lambda path: int(path.stem[5:])))
    text = Run(config, work_dir, resume=True).finish()
    assert re.search(r"iter_\d+\.pth is passed over: it is cut off or damaged", text)
    assert_same_end(whole, work_dir)


def check_full_disk(config: Path, work_dir: Path) -> None:
    """The system refuses every file of more than a megabyte once a checkpoint is there."""
    run = Run(config, work_dir, program=SLOW_DISK)
    assert run.wait_until((work_dir / "iter_2.pth").exists)
    size = (work_dir / "iter_2.pth").stat().st_size
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (2**20, 2**20))
    done = run.process.finish()
    text = done.stdout + done.stderr
    assert done.returncode == 1
    message = text[text.index("error: no room for") :]
    needed = int(re.search(r"needs ([\d,]+) bytes", message)[1].replace(",", ""))
    assert abs(needed - size) < 0.1 * size
    name = re.search(r"and (iter_\d)\.pth is whole: make room, then go on with --resume", message)
    assert str(work_dir) in message
    assert "Traceback" not in text
    assert [path.stem for path in work_dir.glob("*.pth*")] == [name[1]]


def damage(path: Path) -> None:
    """Cut a checkpoint off, as a machine that loses power may leave it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_tensorboard_shows_what_the_log_tells(whole: Path) -> None:
    events = EventAccumulator(str(next(whole.glob("*/vis_data")))).Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    assert losses == pytest.approx({step: row[0] for step, row in read_losses(whole).items()})
    logged = {line["step"]: line["cIoU"] for line in read_scalars(whole) if "cIoU" in line}
    assert logged.keys() == {5, 10}
    shown = {event.step: event.value for event in events.Scalars("cIoU")}
    assert shown == pytest.approx(logged)


def test_the_best_checkpoint_is_kept_and_tested(config: Path, whole: Path) -> None:
    logged = {line["step"]: line["cIoU"] for line in read_scalars(whole) if "cIoU" in line}
    best = max(logged, key=logged.__getitem__)
    assert [path.name for path in whole.glob("best_*")] == [f"best_cIoU_iter_{best}.pth"]
    path = str(whole / f"best_cIoU_iter_{best}.pth")
    metrics = run_test(load_config(config, work_dir=str(config.parent / "test")), checkpoint=path)
    assert metrics["cIoU"] == pytest.approx(logged[best], abs=1e-4)


@pytest.mark.skipif(not KILLS, reason="FLMM_KILLS, the number of runs to kill, is not set")
@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_a_random_moment_it_ends_the_same(
    config: Path, whole: Path, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    options = WORKER if seed % 2 else []
    program = SLOW_DISK if seed % 3 == 2 else ROOT / "tools/train.py"
    run = Run(config, tmp_path / "killed", *options, program=program)
    moment, delay = draw.randrange(ITERATIONS), draw.uniform(0, 0.3)
    if seed % 3 == 2:
        moment = draw.randrange(0, ITERATIONS, 2)
        run.wait_until(lambda: run.count_iterations() >= moment)
        assert run.wait_until(run.is_writing)
        what = "writing"
    else:
        run.wait_until(lambda: run.count_iterations() >= moment)
        time.sleep(delay)
        what = "working"
    run.kill()
    left = sorted(path.name for path in run.work_dir.glob("*.pth*"))
    print(f"\nseed {seed}: killed {what} after iteration {run.count_iterations()}; left {left}")
    text = Run(config, run.work_dir, *options, resume=True).finish()
    print(re.search(r"resumed epoch: .*|training begins anew", text)[0])
    assert_same_end(whole, run.work_dir)
