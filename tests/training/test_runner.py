"""Real runs through what the tools call: train, kill, resume, test; and their messages."""

import argparse
import importlib.util
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from flmm.checkpoints.checkpoint import load_checkpoint
from flmm.command_line import run_tool, summarise_error
from flmm.config import load_config
from flmm.training.acceleration import CpuAmpOptimWrapper, adapt_amp_to_cpu
from flmm.training.runner import run_test, run_training

ROOT = Path(__file__).parents[2]


class KilledError(Exception):
    pass


def kill_after(monkeypatch: pytest.MonkeyPatch, iterations: int) -> None:
    """Let the training die in the iteration after so many."""
    from mmengine.runner import IterBasedTrainLoop

    run_iter = IterBasedTrainLoop.run_iter

    def run_or_die(loop: IterBasedTrainLoop, data_batch: object) -> None:
        if loop.iter == iterations:
            raise KilledError
        run_iter(loop, data_batch)

    monkeypatch.setattr(IterBasedTrainLoop, "run_iter", run_or_die)


def get_weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["state_dict"]


def test_killed_and_resumed_it_goes_on(toy_config: Path, tmp_path: Path) -> None:
    run_training(load_config(toy_config, work_dir="whole"))
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 5)
        with pytest.raises(KilledError):
            run_training(load_config(toy_config, work_dir="killed"))
    assert (tmp_path / "killed/last_checkpoint").read_text().endswith("iter_4.pth")
    runner = run_training(load_config(toy_config, work_dir="killed"), resume="auto")
    assert runner.iter == 6
    whole, resumed = (
        get_weights(tmp_path / "whole/iter_6.pth"),
        get_weights(tmp_path / "killed/iter_6.pth"),
    )
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value)
    assert len(list((tmp_path / "killed").glob("iter_*.pth"))) == 2  # the last two are kept
    assert list((tmp_path / "killed").glob("best_cIoU_*.pth"))


def test_runs_of_one_second_know_nothing_of_each_other(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = time.struct_time((2026, 1, 1, 1, 1, 1, 3, 1, 0))
    monkeypatch.setattr("time.localtime", lambda *_: moment)
    options = {"train_cfg.max_iters": 2, "train_cfg.val_interval": 2}
    runners = [run_training(load_config(toy_config, options, work_dir=name)) for name in "ab"]
    assert runners[0].message_hub is not runners[1].message_hub
    for runner in runners:
        assert list(Path(runner.work_dir).glob("best_cIoU_*.pth"))


def test_resume_from_a_named_checkpoint(toy_config: Path) -> None:
    run_training(load_config(toy_config, {"train_cfg.max_iters": 4}, work_dir="a"))
    named = run_training(load_config(toy_config, work_dir="b"), resume="a/iter_4.pth")
    assert named.iter == 6
    other = load_config(toy_config, work_dir="c")
    assert run_training(other, resume="auto", load_from="a/iter_4.pth").iter == 6
    with pytest.raises(ValueError, match=r"--resume names a, --load-from b: name one"):
        run_training(load_config(toy_config), resume="a", load_from="b")


def test_training_begins_without_the_configs_own_weights(toy_config: Path) -> None:
    options = {"weights": "does/not/exist.pth", "train_cfg.max_iters": 1}
    assert run_training(load_config(toy_config, options)).iter == 1


def test_mixed_precision_on_cpu(toy_config: Path) -> None:
    config = load_config(toy_config, {"train_cfg.max_iters": 2})
    runner = run_training(config, amp=True)
    if not torch.cuda.is_available():
        assert isinstance(runner.optim_wrapper, CpuAmpOptimWrapper)
        with runner.optim_wrapper.optim_context(runner.model):
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dtype is float16, but mixed precision on CPU is bfloat"):
        adapt_amp_to_cpu({"type": "AmpOptimWrapper", "dtype": "float16"})


def test_testing_names_its_weights_or_says_so(
    toy_config: Path, tmp_path: Path, toy_model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(toy_model.state_dict(), tmp_path / "toy.pth")
    config = load_config(toy_config, {"weights": str(tmp_path / "toy.pth")})
    assert config.work_dir == "./work_dirs/toy"
    metrics = run_test(config, out=str(tmp_path / "out.json"))
    assert {"cIoU", "mIoU", "precision@0.9", "coarse/cIoU"} <= set(metrics)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["metrics"] == metrics
    assert content["kinds"]
    line = content["run"]["weights"]
    assert line.startswith(f"weights: {tmp_path / 'toy.pth'} (sha256 ")
    assert line in capsys.readouterr().out
    assert run_test(load_config(toy_config), checkpoint=str(tmp_path / "toy.pth")) == metrics
    with pytest.raises(ValueError, match="names no weights of its own: give CHECKPOINT"):
        run_test(load_config(toy_config))
    with pytest.raises(ValueError, match="does not fit the model"):
        run_test(load_config(toy_config, {"model.width": 4}), checkpoint=str(tmp_path / "toy.pth"))


def test_one_data_root_moves_every_data_set(toy_config: Path, scenes: Path) -> None:
    config = load_config(toy_config)
    assert config.train_dataloader.dataset.data_root == str(scenes)  # FLMM_DATA_ROOT
    config = load_config(toy_config, {"data_root": "elsewhere"})
    for name in ("train", "val", "test"):
        assert config[f"{name}_dataloader"].dataset.data_root == "elsewhere"


def test_errors_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_args: argparse.Namespace) -> None:
        raise ValueError("the sky is low")

    arguments = argparse.Namespace(local_rank=0, debug=False)
    with pytest.raises(SystemExit) as caught:
        run_tool(fail, arguments)
    assert str(caught.value).startswith("error: the sky is low\n")
    arguments.debug = True
    with pytest.raises(ValueError, match="the sky is low"):
        run_tool(fail, arguments)
    wrapped = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent"
    assert summarise_error(ValueError(f"{wrapped} call):\n  x\nValueError: a: b\n")) == "a: b"
    assert summarise_error(KeyError("no x")) == "no x"


@pytest.mark.parametrize("is_typed", [True, False])
def test_ctrl_c_is_heard_where_a_terminal_is_read(
    is_typed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(_args: argparse.Namespace) -> None:
        signal.raise_signal(signal.SIGINT)

    arguments = argparse.Namespace(debug=False)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as children of a background shell
    try:
        with open(pty.openpty()[1] if is_typed else os.devnull) as source:
            monkeypatch.setattr(sys, "stdin", source)
            if not is_typed:
                run_tool(press, arguments)  # is deaf, as the shell wants it
                return
            with pytest.raises(SystemExit) as caught:
                run_tool(press, arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("given", "seen"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_rest_unless_the_user_says_otherwise(
    given: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    policies: list[str | None] = []
    run_tool(lambda _: policies.append(os.environ.get("OMP_WAIT_POLICY")), argparse.Namespace())
    assert policies == [seen]


def test_a_tool_ends_with_one_line() -> None:
    command = [sys.executable, "tools/test.py", "no/such/config.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "no/such/config.py" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("tool", ["train", "test"])
def test_a_tool_hands_its_options_on(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location(f"tool_{tool}", ROOT / f"tools/{tool}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    line = {"train": "x.py --resume --load-from c.pth --amp", "test": "x.py c.pth --out o.json"}[
        tool
    ]
    line += " --work-dir w --cfg-options a.b=1 --launcher none"
    monkeypatch.setattr(sys, "argv", [tool, *line.split()])
    seen: list[object] = []
    monkeypatch.setattr("flmm.config.load_config", lambda *args: seen.append(args) or "config")
    name = {"train": "run_training", "test": "run_test"}[tool]
    monkeypatch.setattr(
        f"flmm.training.runner.{name}", lambda *args, **kwargs: seen.append((args, kwargs))
    )
    module.main(module.parse_args())
    expected = {
        "train": {"resume": "auto", "load_from": "c.pth", "amp": True},
        "test": {"checkpoint": "c.pth", "out": "o.json", "show": None},
    }[tool]
    assert seen == [("x.py", {"a.b": 1}, "w", "none"), (("config",), expected)]
