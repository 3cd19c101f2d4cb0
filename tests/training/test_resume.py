"""A resumed training is the training that was never interrupted, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop

from flmm.checkpoints.checkpoint import load_checkpoint
from flmm.training.grounding_runner import GroundingRunner
from flmm.training.training_state import capture_random_state, restore_random_state
from tests.training.toy_training import read_logs, train

LONG = {
    "train_cfg.max_iters": 14,  # 9 images, 5 iterations an epoch: nearly three epochs
    "train_cfg.val_interval": 4,
    "default_hooks.checkpoint.interval": 2,
    "model.noise": 0.3,
}
EPOCHS = {
    "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 3, "val_interval": 1},
    "default_hooks.checkpoint.interval": 2,
    "param_scheduler": [
        {
            "type": "CosineAnnealingLR",
            "by_epoch": True,
            "begin": 0,
            "end": 3,
            "convert_to_iter_based": True,
        },
        {"type": "StepLR", "step_size": 1, "gamma": 0.5, "by_epoch": True},
    ],
    "model.noise": 0.3,
}
WORKERS = {"train_dataloader.num_workers": 2, "train_dataloader.persistent_workers": True}


class KilledError(Exception):
    pass


def die_in(patch: pytest.MonkeyPatch, owner: type, name: str, iterations: int) -> None:
    """Let a method of mmengine's die in the iteration after so many."""
    method = getattr(owner, name)

    def run_or_die(loop: Any, *args: Any) -> Any:
        if loop.runner.iter == iterations:
            raise KilledError
        return method(loop, *args)

    patch.setattr(owner, name, run_or_die)


def train_interrupted(
    config: Path, options: dict[str, Any], deaths: list[tuple[type, str, int]]
) -> GroundingRunner:
    """Train, die, resume, die, …, and train to the end; every second time with workers."""
    for index, death in enumerate(deaths):
        with pytest.MonkeyPatch.context() as patch:
            die_in(patch, *death)
            with pytest.raises(KilledError):
                more = WORKERS if index % 2 else {}
                train(config, "killed", options | more, resume="auto" if index else None)
    return train(config, "killed", options, resume="auto")


def assert_same_run(one: str, other: str, name: str) -> None:
    """The last checkpoints hold the same weights, optimiser, schedule and random state."""
    first, second = load_checkpoint(f"{one}/{name}"), load_checkpoint(f"{other}/{name}")
    for part in ("state_dict", "optimizer", "param_schedulers"):
        assert_equal(first[part], second[part], part)
    for part in ("processes", "epoch", "samples"):
        assert_equal(first["training_state"][part], second["training_state"][part], part)
    for key in ("best_score", "keep_ckpt_ids"):
        infos = [item["message_hub"]["runtime_info"].get(key) for item in (first, second)]
        assert infos[0] == infos[1], key


def assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other)):
            assert_equal(*pair, f"{where}.{index}")
    else:
        assert one == other, where


def read_losses(work_dir: str) -> dict[int, tuple[float, float]]:
    """Logged loss and learning rate by iteration; of what was done twice, the last."""
    found = {}
    for path in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            values = json.loads(line)
            if "loss" in values:
                found[values["step"]] = values["loss"], values["lr"]
    return found


def list_validations(work_dir: str) -> list[int]:
    """Iterations after which there was one, in order."""
    paths = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [line["step"] for line in lines if "loss" not in line]


def test_iterations_go_on_as_if_nothing_had_happened(toy_config: Path) -> None:
    train(toy_config, "whole", LONG)
    deaths = [
        (IterBasedTrainLoop, "run_iter", 7),
        (ValLoop, "run", 8),  # after the checkpoint of iteration 8
        (IterBasedTrainLoop, "run_iter", 13),
    ]
    train_interrupted(toy_config, LONG, deaths)
    assert_same_run("whole", "killed", "iter_14.pth")
    assert read_losses("whole") == read_losses("killed")
    assert set(list_validations("whole")) == set(list_validations("killed")) == {4, 8, 12, 14}
    kept = [sorted(path.name for path in Path(run).glob("*.pth")) for run in ("whole", "killed")]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 3  # the last two and the best


@pytest.mark.parametrize("by_epoch", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_epochs_go_on_where_they_stood(toy_config: Path, by_epoch: bool) -> None:
    options = {**EPOCHS, "default_hooks.checkpoint.by_epoch": by_epoch}
    options["default_hooks.checkpoint.interval"] = 1 if by_epoch else 2
    train(toy_config, "whole", options)
    deaths = [
        (EpochBasedTrainLoop, "run_iter", 4),
        (ValLoop, "run", 5),
        (EpochBasedTrainLoop, "run_iter", 9),
        (ValLoop, "run", 15),
    ]
    train_interrupted(toy_config, options, deaths[1:3] if by_epoch else deaths)
    assert_same_run("whole", "killed", "epoch_3.pth" if by_epoch else "iter_15.pth")
    assert read_losses("whole") == read_losses("killed")
    best = [next(Path(run).glob("best_*")).name for run in ("whole", "killed")]
    assert best[0] == best[1]


def test_pictures_that_were_seen_are_not_read_again(
    toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flmm.data.refcoco import RefCocoGroundingDataset

    train(toy_config, "work", {**LONG, "train_cfg.max_iters": 3})
    read: list[int] = []
    prepare = RefCocoGroundingDataset.prepare_data

    def count(dataset: Any, index: int) -> Any:
        if not dataset.test_mode:
            read.append(index)
        return prepare(dataset, index)

    monkeypatch.setattr(RefCocoGroundingDataset, "prepare_data", count)
    runner = train(toy_config, "work", {**LONG, "train_cfg.max_iters": 5}, resume="auto")
    assert len(runner.train_dataloader.dataset) == 9
    assert len(read) == 3  # two images of the fourth iteration, the ninth image in the fifth


def test_a_sampler_that_cannot_skip_reads_and_drops(toy_config: Path) -> None:
    options = {**LONG, "train_dataloader.sampler.type": "InfiniteSampler"}
    train(toy_config, "whole", options)
    train_interrupted(toy_config, options, [(IterBasedTrainLoop, "run_iter", 10)])
    assert_same_run("whole", "killed", "iter_14.pth")
    log = read_logs("killed")
    assert "InfiniteSampler cannot skip: the 10 batches that were trained on before are read" in log


def test_unfinished_gradients_are_kept(toy_config: Path) -> None:
    options = {**LONG, "optim_wrapper.accumulative_counts": 4}
    train(toy_config, "whole", options)
    train_interrupted(toy_config, options, [(IterBasedTrainLoop, "run_iter", 10)])
    assert_same_run("whole", "killed", "iter_14.pth")


def test_what_was_validated_is_not_validated_again(toy_config: Path) -> None:
    options = {
        "train_cfg.val_interval": 3,
        "val_evaluator": {"type": "CountingMetric"},
        "default_hooks.checkpoint.save_best": "better",
    }
    train(toy_config, "work", {**options, "train_cfg.max_iters": 3})
    train(toy_config, "work", options, resume="auto")
    assert list_validations("work") == [3, 6]


def test_a_seed_that_was_drawn_is_kept(toy_config: Path) -> None:
    options = {**LONG, "randomness": {"seed": None}, "train_cfg.max_iters": 3}
    train(toy_config, "drawn", options)
    seeds = [
        train(
            toy_config, "drawn", {**options, "train_cfg.max_iters": count}, resume="auto"
        ).train_dataloader.sampler.seed
        for count in (4, 5)
    ]
    first = load_checkpoint("drawn/iter_3.pth") if Path("drawn/iter_3.pth").exists() else None
    assert seeds[0] == seeds[1]
    if first is not None:
        assert first["training_state"]["sampler_seed"] == seeds[0]


def test_another_batch_size_goes_on_at_the_same_sample(toy_config: Path) -> None:
    options = {**EPOCHS, "default_hooks.checkpoint.interval": 1}
    with pytest.MonkeyPatch.context() as patch:
        die_in(patch, EpochBasedTrainLoop, "run_iter", 7)  # one epoch of 5, then two of 2 images
        with pytest.raises(KilledError):
            train(toy_config, "killed", options)
    larger = {**options, "train_dataloader.batch_size": 3}
    runner = train(toy_config, "killed", larger, resume="auto")
    assert runner.iter == 9  # three epochs of three steps
    rates = {step: rate for step, (_, rate) in read_losses("killed").items()}
    train(toy_config, "whole", larger)
    whole = {step: rate for step, (_, rate) in read_losses("whole").items()}
    # 9 - 4 images are left of the second epoch: two steps, the last two of its three.
    assert [rates[step] for step in range(5, 10)] == [whole[step] for step in range(5, 10)]
    log = read_logs("killed")
    assert "Resumed with 1 processes and 3 samples a step; the checkpoint was written with" in log
    assert "after its first 4 samples" in log


def test_what_cannot_be_resumed_is_told(toy_config: Path, scenes: Path, tmp_path: Path) -> None:
    short = {"train_cfg.max_iters": 3}
    train(toy_config, "work", short)
    with pytest.raises(ValueError, match=r"best_.*: no training can go on from it: it lacks opti"):
        train(toy_config, "other", short, resume=str(next(Path("work").glob("best_*"))))
    from flmm.toy.shape_files import write_dataset

    write_dataset(tmp_path / "more", num_images=16, seed=0)
    options = {**short, "train_dataloader.dataset.data_root": str(tmp_path / "more")}
    with pytest.raises(ValueError, match=r"training data have 1\d records, those of the checkpo"):
        train(toy_config, "work", options, resume="auto")
    options = {**short, "train_cfg.type": "mmengine.IterBasedTrainLoop"}
    with pytest.raises(ValueError, match="builds IterBasedTrainLoop, which cannot be resumed"):
        train(toy_config, "work", options)
    with pytest.raises(ValueError, match="give no batch: 9 records, batch_size 20, drop_last True"):
        train(
            toy_config,
            "work",
            {"train_dataloader.batch_size": 20, "train_dataloader.drop_last": True},
        )


def test_mmengines_short_form_of_a_loop(toy_config: Path) -> None:
    options = {"train_cfg": {"by_epoch": False, "max_iters": 2, "val_interval": 100}}
    assert train(toy_config, "work", options).iter == 2


def test_random_states_come_back() -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [
            random.gauss(0, 1),
            np.random.standard_normal(),
            torch.randn(()).item(),
        ]

    draw()  # leaves a second normal number in the states of Python and numpy
    state = capture_random_state()
    wanted = [draw() for _ in range(3)]
    restore_random_state(state)
    assert [draw() for _ in range(3)] == wanted
