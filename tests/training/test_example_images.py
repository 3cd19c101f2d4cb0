"""The worst and the best masks are drawn, and they are the worst and the best."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from flmm.config import load_config
from flmm.evaluation.metrics import compute_intersections_unions, compute_ious
from flmm.records import Continuation, GroundingSample
from flmm.registry import DATASETS
from flmm.training.example_images import BEST, WORST, ExampleImagesHook, ExtremeExamples, add_sample
from flmm.training.runner import run_test
from tests.training.toy_training import train


def make_sample(first_id: int, sides: list[int], gt_side: int = 10) -> GroundingSample:
    """Squares in the same corner: the IoU of side s with the truth is (s / gt_side) ** 2."""
    masks = torch.zeros(len(sides), 20, 30, dtype=torch.bool)
    for mask, side in zip(masks, sides):
        mask[:side, :side] = True
    truth = torch.zeros_like(masks)
    truth[:, :gt_side, :gt_side] = True
    phrases = [f"square {side}" for side in sides]
    return GroundingSample(
        metainfo={
            "expression_ids": list(range(first_id, first_id + len(sides))),
            "image_id": first_id,
        },
        continuations=[Continuation(phrase) for phrase in phrases],
        gt_masks=truth,
        pred_masks=masks,
        coarse_masks=~masks,
    )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_extremes_of_all_pictures_are_kept_whatever_the_order(order: tuple[int, int]) -> None:
    samples = [make_sample(0, [5, 9, 1]), make_sample(10, [9, 2, 10])]
    examples = ExtremeExamples(2)
    for index in order:
        add_sample(examples, np.zeros((20, 30, 3), np.uint8), samples[index])
    assert [item.expression_id for item in examples.list(WORST)] == [2, 11]
    assert [item.expression_id for item in examples.list(BEST)] == [12, 1]  # 1 before 10: same IoU
    assert [item.phrase for item in examples.list(BEST)] == ["square 10", "square 9"]
    np.testing.assert_allclose([item.value for item in examples.list(WORST)], [0.01, 0.04])


def test_a_picture_that_comes_twice_and_empty_truths_do_not_crowd_the_others() -> None:
    examples = ExtremeExamples(3)
    for sample in (make_sample(0, [5]), make_sample(0, [5]), make_sample(5, [3], gt_side=0)):
        add_sample(examples, np.zeros((20, 30, 3), np.uint8), sample)
    assert [item.expression_id for item in examples.list(WORST)] == [0]


def test_rows_show_picture_truth_coarse_and_refined() -> None:
    examples = ExtremeExamples(1)
    image = np.full((20, 30, 3), 200, np.uint8)
    add_sample(examples, image, make_sample(0, [5]))
    example = examples.list(WORST)[0]
    assert list(example.masks) == ["true mask", "coarse mask", "refined mask"]
    # A quarter of the truth is found, and the coarse mask of this sample is the opposite.
    truth, coarse, refined = (mask.mean() for mask in example.masks.values())
    assert refined == pytest.approx(truth / 4, rel=0.1) and coarse == pytest.approx(1 - refined)
    row = example.draw()
    assert row.width > 4 * example.image.shape[1] and row.height > example.image.shape[0]


def test_a_test_shows_the_worst_and_the_best_of_its_split(
    toy_config: Path, toy_model: nn.Module, tmp_path: Path
) -> None:
    torch.save(toy_model.state_dict(), tmp_path / "toy.pth")
    config = load_config(toy_config, work_dir=str(tmp_path / "work"))
    dataset = DATASETS.build(config.test_dataloader.dataset)
    run_test(config, str(tmp_path / "toy.pth"), show=3)
    ious = {}
    for item in (dataset[index] for index in range(len(dataset))):
        with torch.no_grad():
            (sample,) = toy_model([item["inputs"]], [item["data_samples"]], mode="predict")
        found = compute_ious(*compute_intersections_unions(sample.pred_masks, sample.gt_masks))
        ious |= dict(zip(sample.expression_ids, found))
    for kind, ranked in ((WORST, sorted(ious.values())), (BEST, sorted(ious.values())[::-1])):
        files = sorted((tmp_path / "work/shown").glob(f"{kind}_*.png"))
        assert len(files) == 3
        shown = [float(re.search(r"\d\d_([\d.]+)_", file.name)[1]) for file in files]
        assert shown == [float(f"{iou:.2f}") for iou in ranked[:3]]
    assert Image.open(files[0]).height > 200


def test_every_validation_hands_its_pictures_to_tensorboard(
    toy_config: Path, tmp_path: Path
) -> None:
    train(toy_config, str(tmp_path / "work"), {"default_hooks.examples.count": 2})
    (events,) = (tmp_path / "work").rglob("events.out.tfevents*")
    log = EventAccumulator(str(events.parent)).Reload()
    assert {"val_worst", "val_best"} <= set(log.Tags()["images"])
    assert [entry.step for entry in log.Images("val_worst")] == [3, 6]
    assert log.Images("val_best")[0].height > 2 * 200


def test_zero_shows_nothing_and_less_is_refused(toy_config: Path, tmp_path: Path) -> None:
    train(toy_config, str(tmp_path / "work"), {"default_hooks.examples.count": 0})
    assert not list((tmp_path / "work").rglob("val_*.png"))
    with pytest.raises(ValueError, match="count is -1: give how many examples are shown"):
        ExampleImagesHook(-1)
