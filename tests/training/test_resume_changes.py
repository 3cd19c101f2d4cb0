"""A resumed training takes the settings of now, says what differs, and refuses what cannot be."""

from pathlib import Path

import pytest

from flmm.config.text import list_changes, read_literals
from flmm.training.resume_changes import format_resume_changes, list_resume_changes
from tests.training.toy_training import read_logs, train


def read_rates(runner) -> float:
    return runner.optim_wrapper.param_groups[0]["lr"]


def test_another_learning_rate_is_taken_and_told(toy_config: Path) -> None:
    """The rate after the resume is that of a run that had it from the beginning."""
    lower = {"optim_wrapper.optimizer.lr": 1e-4}
    whole = train(toy_config, "whole", lower)
    train(toy_config, "stopped", {"train_cfg.max_iters": 4})
    resumed = train(toy_config, "stopped", lower, resume="auto")
    assert resumed.iter == 6
    assert read_rates(resumed) == pytest.approx(read_rates(whole), rel=1e-12)
    log = read_logs("stopped")
    assert "other settings than the checkpoint's; those of now are taken:" in log
    assert "\n  optim_wrapper.optimizer.lr: 0.001 -> 0.0001\n" in log
    assert "\n  train_cfg.max_iters: 4 -> 6\n" in log
    assert "the schedule goes on as if it had been this one from the beginning" in log


def test_the_same_settings_are_not_told(toy_config: Path) -> None:
    first = train(toy_config, "same", {"train_cfg.max_iters": 6})
    again = train(toy_config, "same", {"log_level": "INFO"}, resume="auto")
    assert read_rates(again) == read_rates(first)
    assert "other settings" not in read_logs("same")


def test_another_optimiser_is_refused(toy_config: Path) -> None:
    train(toy_config, "sgd", {"train_cfg.max_iters": 2})
    options = {"optim_wrapper.optimizer": {"_delete_": True, "type": "SGD", "lr": 0.1}}
    with pytest.raises(
        ValueError, match=r"optimizer\.type is 'SGD'.*written with 'AdamW'.*--load-"
    ):
        train(toy_config, "sgd", options, resume="auto")


def test_texts_are_compared_without_running_them() -> None:
    before = (
        "model = dict(lr=1, sizes=(1, 2), parts=[dict(a=1), dict(b=None)])\nother = open('x')\n"
    )
    now = "model = dict(lr=2, sizes=[1, 2], parts=[dict(a=1), dict(b=3)], new=dict(x=1))\n"
    assert list_changes(before, now, {"model", "other"}) == {
        "model.lr": (1, 2),
        "model.parts.1.b": (None, 3),
        "model.new.x": (None, 1),
    }
    assert "other" not in read_literals(before)
    assert list_changes("not python (", now, {"model"}) == {}


def test_what_is_kept_is_told() -> None:
    changes = list_resume_changes("randomness = dict(seed=0)", "randomness = dict(seed=1)")
    assert changes == {"randomness.seed": (0, 1)}
    assert "random states stay the checkpoint's" in format_resume_changes(changes)
    assert "schedule" not in format_resume_changes(changes)
