"""Several processes train as one: shares, steps, resuming, testing; here on CPU, through gloo."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as torch_dist
from mmengine.model import MMDistributedDataParallel

from flmm.checkpoints.checkpoint import load_checkpoint
from flmm.config import load_config
from flmm.registry import DATASETS, MODELS
from flmm.toy.shape_files import write_dataset
from flmm.training.runner import run_training
from tests.forks import Fork, finish_ranks, run_fork, start_ranks
from tests.training.toy_training import CONFIG, CONFIGS, read_logs, train

ROOT = Path(__file__).parents[2]
# Nine images: each process has five an epoch, in batches of 2, 2 and 1.
TOY_OPTIONS = [
    "train_cfg.max_iters=8",
    "train_cfg.val_interval=4",
    "default_hooks.checkpoint.interval=3",
    "model.noise=0.3",
    "randomness.diff_rank_seed=True",
]
STEP_CONFIG = f"""
_base_ = ["{CONFIGS}/tiny/tiny_unet_sam_shapes.py"]
optim_wrapper = dict(_delete_=True, type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1),
                     clip_grad=dict(max_norm=1))
param_scheduler = []
train_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(max_iters=2, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
val_cfg = val_dataloader = val_evaluator = None
"""


def train_by_script(*arguments: Any, **environment: str) -> None:
    """``tools/dist_train.sh``, with processes that torchrun starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    names = {"PYTHON": sys.executable, "PORT": port, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [ROOT / "tools/dist_train.sh", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **names, **environment},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def train_in_ranks(config: Path, *arguments: Any, **environment: str) -> list[Fork]:
    """What ``tools/dist_train.sh`` starts."""
    line = [config, "--launcher", "pytorch", *arguments]
    return start_ranks(ROOT / "tools/train.py", *line, **environment)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Iterator[Path]:
    """Config of the toy grounder, with a folder for the trace beside it."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "trace").mkdir()
    (folder / "toy.py").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLMM_DATA_ROOT", str(scenes))
        yield folder / "toy.py"


@pytest.fixture(scope="module")
def whole(toy: Path) -> Path:
    """Work folder of a training by two processes."""
    work_dir = toy.parent / "whole"
    options = ["--work-dir", work_dir, "--cfg-options", *TOY_OPTIONS]
    finish_ranks(train_in_ranks(toy, *options, TOY_TRACE=str(toy.parent / "trace")))
    return work_dir


@pytest.mark.process
def test_each_process_has_its_own_share(toy: Path, whole: Path) -> None:
    shares = [(toy.parent / f"trace/{rank}.txt").read_text().split() for rank in (0, 1)]
    every = {image_id for share in shares for image_id in share}
    assert len(every) == 9
    for epoch in (slice(0, 5), slice(5, 10)):
        first, second = (set(share[epoch]) for share in shares)
        assert len(first) == len(second) == 5
        assert first | second == every
        assert len(first & second) == 1  # nine are made ten
    assert len(shares[0]) == len(shares[1]) == 14  # 3 + 3 + 2 batches


@pytest.mark.process
@pytest.mark.heavy  # its sister: test_what_the_scripts_start
def test_the_script_trains_the_same(toy: Path, whole: Path) -> None:
    """Processes that torchrun starts, each with its own imports."""
    work_dir = toy.parent / "script"
    train_by_script(toy, 2, "--work-dir", work_dir, "--cfg-options", *TOY_OPTIONS)
    one, other = (load_checkpoint(folder / "iter_8.pth") for folder in (whole, work_dir))
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key])


@pytest.mark.process
def test_killed_processes_go_on_each_with_its_own_state(toy: Path, whole: Path) -> None:
    work_dir = toy.parent / "killed"
    options = ["--work-dir", work_dir, "--cfg-options", *TOY_OPTIONS]
    ranks = train_in_ranks(toy, *options, TOY_PAUSE="0.2")
    while ranks[0].poll() is None and not (work_dir / "iter_4.pth").exists():
        time.sleep(0.002)
    for rank in ranks:
        rank.kill()
    assert not (work_dir / "iter_8.pth").exists()
    texts = finish_ranks(train_in_ranks(toy, "--resume", *options))
    assert "resumed epoch: 0, iter: " in texts[0]
    one, other = (load_checkpoint(folder / "iter_8.pth") for folder in (whole, work_dir))
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key])
    states = [item["training_state"]["processes"] for item in (one, other)]
    for mine, theirs in zip(*states):
        assert torch.equal(mine["random"]["torch"], theirs["random"]["torch"])
        assert mine["random"]["python"][1].tolist() == theirs["random"]["python"][1].tolist()
    assert not torch.equal(states[0][0]["random"]["torch"], states[0][1]["random"]["torch"])


def test_another_number_of_processes_goes_on_at_the_same_sample(
    toy: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_TRACE", str(tmp_path))
    options = {"train_cfg.max_iters": 9, "train_cfg.val_interval": 100}
    train(toy, str(tmp_path / "alone"), options, resume=str(whole / "iter_8.pth"))
    # Of the third epoch both processes have seen four images; the ninth is left.
    order = [(toy.parent / f"trace/{rank}.txt").read_text().split()[10:] for rank in (0, 1)]
    left = (tmp_path / "0.txt").read_text().split()
    assert len(left) == 1
    assert left[0] not in order[0] + order[1]
    assert "Resumed with 1 processes and 2 samples a step" in read_logs(str(tmp_path / "alone"))


@pytest.mark.process
def test_testing_by_two_processes_gives_the_same_figures(toy: Path, whole: Path) -> None:
    checkpoint, work_dir = str(whole / "iter_8.pth"), str(toy.parent / "test")
    alone, together = (toy.parent / f"{name}.json" for name in ("alone", "together"))
    done = run_fork(ROOT / "tools/test.py", toy, checkpoint, "--out", alone, "--work-dir", work_dir)
    assert done.returncode == 0, done.stderr[-3000:]
    options = ["--launcher", "pytorch", "--out", together, "--work-dir", work_dir]
    finish_ranks(start_ranks(ROOT / "tools/test.py", toy, checkpoint, *options))
    figures = [json.loads(path.read_text()) for path in (alone, together)]
    assert figures[0]["metrics"] == figures[1]["metrics"]
    assert figures[0]["kinds"] == figures[1]["kinds"]


@pytest.mark.process
def test_a_step_of_two_processes_is_the_step_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model; the processes have different numbers of phrases."""
    write_dataset(tmp_path / "shapes", num_images=12, seed=3)
    monkeypatch.setenv("FLMM_DATA_ROOT", str(tmp_path / "shapes"))
    path = tmp_path / "step.py"
    path.write_text(STEP_CONFIG)
    config = load_config(path, {"train_dataloader.batch_size": 4}, str(tmp_path / "one"))
    runner = run_training(config)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist()
    assert len(runner.train_dataloader.dataset) == 9
    counts = count_phrases(DATASETS.build(config.train_dataloader.dataset), order[:4])
    assert counts[0] + counts[2] != counts[1] + counts[3]
    options = ["--work-dir", tmp_path / "two", "--cfg-options", "train_dataloader.batch_size=2"]
    finish_ranks(train_in_ranks(path, *options))
    before = MODELS.build(config.model).state_dict()
    for name in ("iter_1.pth", "iter_2.pth"):
        one, two = (
            load_checkpoint(tmp_path / folder / name)["state_dict"] for folder in ("one", "two")
        )
        assert one.keys() == two.keys() == before.keys()
        assert max((one[key] - two[key]).abs().max() for key in one) < 1e-6
    assert max((one[key] - before[key]).abs().max() for key in one) > 1e-3
    losses = [read_losses(tmp_path / folder) for folder in ("one", "two")]
    assert losses[0] == [pytest.approx(item, rel=1e-5) for item in losses[1]]


def count_phrases(dataset: Any, indices: list[int]) -> list[int]:
    return [len(dataset[index]["data_samples"].phrases) for index in indices]


def read_losses(work_dir: Path) -> list[dict[str, float]]:
    lines = next(work_dir.glob("*/vis_data/scalars.json")).read_text().splitlines()
    names = ("loss", "accuracy", "aiou", "refined_loss_dice", "refined_aiou", "grad_norm")
    return [{name: json.loads(line)[name] for name in names} for line in lines]


@pytest.mark.parametrize(
    "prompts",
    [
        {},
        {"use_box": False},
        {"use_mask": False},
        {"use_text": False},
        {"multimask_output": True},
    ],
    ids=str,
)
def test_whatever_is_trained_has_a_gradient(scenes: Path, prompts: dict[str, bool]) -> None:
    """DDP would otherwise wait for it."""
    options = {"data_root": str(scenes)}
    config = load_config(CONFIGS / "tiny/tiny_unet_sam_shapes.py", options)
    config.model.sam.update(prompts)
    model = MODELS.build(config.model).train()
    sample = DATASETS.build(config.train_dataloader.dataset)[0]
    losses = model([sample["inputs"]], [sample["data_samples"]], mode="loss")
    sum(value for key, value in losses.items() if "loss" in key).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert without == frozen
    if not prompts.get("multimask_output"):  # there a phrase trains the best of three masks
        trained = [item for item in model.named_parameters() if item[1].grad is not None]
        assert all(weight.grad.any() for _, weight in trained), trained


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch_dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch_dist.destroy_process_group()


def test_the_reader_is_not_wrapped(process_group: None) -> None:
    model = MODELS.build(load_config(CONFIGS / "tiny/tiny_unet_sam_shapes.py").model)
    wrapped = MMDistributedDataParallel(model)
    reader = {id(item) for item in model.vlm.model.parameters()}
    reader |= {id(item) for item in model.vlm.model.buffers()}
    assert reader
    assert not reader & {id(item) for item in [*wrapped.parameters(), *wrapped.buffers()]}
    keys = {key.removeprefix("module.") for key in wrapped.state_dict()}
    assert keys == set(model.state_dict())
    assert not any("vlm" in key for key in keys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_other_launchers_need_gpus(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--launcher slurm needs GPUs, and this machine shows non"):
        run_training(load_config(toy, work_dir=str(tmp_path), launcher="slurm"))


@pytest.mark.parametrize("arguments", [("train", "a.py"), ("test", "a.py", "a.pth")])
def test_what_the_scripts_start(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """That torchrun takes it is seen where a training is started."""
    program = tmp_path / "python"
    program.write_text("""#!/bin/sh\n[ "$1" = -c ] || printf '%s\\n' "$@"\n""")
    program.chmod(0o755)
    tool, *files = arguments
    done = subprocess.run(
        [ROOT / f"tools/dist_{tool}.sh", *files, "2", "--out", "a b"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "PYTHON": str(program), "PORT": "1234"},
    )
    assert done.stdout.splitlines() == [
        *("-m", "torch.distributed.run", "--nnodes=1", "--node_rank=0", "--nproc_per_node=2"),
        *("--master_addr=127.0.0.1", "--master_port=1234"),
        *(str(ROOT / f"tools/{tool}.py"), *files, "--launcher", "pytorch", "--out", "a b"),
    ]


@pytest.mark.parametrize("tool", ["dist_train", "dist_test"])
def test_the_scripts_say_how_they_are_called(tool: str) -> None:
    done = subprocess.run([ROOT / f"tools/{tool}.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"tools/{tool}.sh CONFIG" in done.stderr
    assert "NODE_RANK" in done.stderr
