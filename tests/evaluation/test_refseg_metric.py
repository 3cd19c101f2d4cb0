"""Our metric against mmdet's, against slow numpy, and in any order on any number of processes."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from flmm import mmcv_ops
from flmm.evaluation import RefSegMetric, compute_intersections_unions

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def make_samples(seed: int, count: int = 12) -> list[dict[str, Any]]:
    """Predictions of every quality; some empty, some without truth, some with neither."""
    rng = np.random.default_rng(seed)
    samples, next_id = [], 0
    for image_id in range(count):
        phrases, size = int(rng.integers(1, 5)), tuple(rng.integers(3, 30, 2))
        gt_masks = rng.random((phrases, *size)) < rng.random((phrases, 1, 1))
        flips = rng.random((phrases, *size)) < rng.random((phrases, 1, 1)) * 0.5
        pred_masks = gt_masks ^ flips
        pred_masks[0] &= image_id % 3 != 0
        gt_masks[-1] &= image_id % 4 != 0
        samples.append(
            {
                "pred_masks": torch.from_numpy(pred_masks),
                "coarse_masks": torch.from_numpy(np.roll(pred_masks, 1, axis=2)),
                "gt_masks": torch.from_numpy(gt_masks),
                "expression_ids": list(range(next_id, next_id + phrases)),
                "expression_kinds": [("shape", "place")[i % 2] for i in range(phrases)],
            }
        )
        next_id += phrases
    return samples


def evaluate(samples: list[dict[str, Any]], **kwargs: Any) -> dict[str, float]:
    metric = RefSegMetric(**kwargs)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def evaluate_with_numpy(samples: list[dict[str, Any]], key: str = "pred_masks") -> dict[str, float]:
    pairs = []
    for sample in samples:
        for mask, gt_mask in zip(sample[key].numpy(), sample["gt_masks"].numpy()):
            both = sum(bool(a and b) for a, b in zip(mask.flat, gt_mask.flat))
            either = sum(bool(a or b) for a, b in zip(mask.flat, gt_mask.flat))
            pairs.append((both, either))
    ious = [both / either if either else 0.0 for both, either in pairs]
    scores = {f"precision@{k}": 100 * np.mean([iou >= k for iou in ious]) for k in THRESHOLDS}
    ciou = 100 * sum(both for both, _ in pairs) / sum(either for _, either in pairs)
    return {"cIoU": ciou, "mIoU": 100 * np.mean(ious)} | scores


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_mmdets_metric(seed: int) -> None:
    mmcv_ops.install()
    from mmdet.evaluation import RefSegMetric as MMDetRefSegMetric
    from mmdet.structures.mask import BitmapMasks

    samples = make_samples(seed)
    theirs = MMDetRefSegMetric()
    for sample in samples:
        masks = sample["gt_masks"].numpy().astype(np.uint8)
        truth = BitmapMasks(masks, *masks.shape[1:])
        theirs.process({}, [{"pred_instances": {"masks": sample["pred_masks"]}, "gt_masks": truth}])
    expected = theirs.compute_metrics(theirs.results)
    ours = evaluate(samples)
    for name in ("cIoU", "mIoU"):
        assert ours[name] == pytest.approx(float(expected[name]), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_slow_numpy(seed: int) -> None:
    samples = make_samples(seed)
    ours = evaluate(samples)
    for name, value in evaluate_with_numpy(samples).items():
        assert ours[name] == pytest.approx(value, abs=1e-9)
    for name, value in evaluate_with_numpy(samples, "coarse_masks").items():
        assert ours[f"coarse/{name}"] == pytest.approx(value, abs=1e-9)


def test_counts_are_those_of_pycocotools() -> None:
    sample = make_samples(1, 1)[0]
    masks, gt_masks = sample["pred_masks"], sample["gt_masks"]
    intersections, unions = compute_intersections_unions(masks, gt_masks)
    for index, (mask, gt_mask) in enumerate(zip(masks, gt_masks)):
        rles = [
            coco_mask.encode(np.asfortranarray(item.numpy().astype(np.uint8)))
            for item in (mask, gt_mask)
        ]
        assert intersections[index] == coco_mask.area(coco_mask.merge(rles, intersect=True))
        assert unions[index] == coco_mask.area(coco_mask.merge(rles))


def test_order_and_repetition_change_nothing() -> None:
    samples = make_samples(3)
    expected = evaluate(samples)
    assert evaluate(samples[::-1] + samples[:5]) == expected


def test_empty_masks() -> None:
    empty, full = torch.zeros(1, 2, 2, dtype=torch.bool), torch.ones(1, 2, 2, dtype=torch.bool)

    def score(masks: torch.Tensor, gt_masks: torch.Tensor) -> dict[str, float]:
        return evaluate([{"pred_masks": masks, "gt_masks": gt_masks, "expression_ids": [0]}])

    assert score(full, full) == dict.fromkeys(score(full, full), 100.0)
    for masks, gt_masks in ((empty, full), (full, empty), (empty, empty)):
        assert set(score(masks, gt_masks).values()) == {0.0}


def test_without_a_refiner_there_are_no_coarse_figures() -> None:
    samples = make_samples(2)
    for sample in samples:
        del sample["coarse_masks"], sample["expression_kinds"]
    assert not any(name.startswith("coarse/") for name in evaluate(samples))


def test_json_has_a_row_per_kind(tmp_path: Path) -> None:
    samples = make_samples(4)
    metrics = evaluate(samples, out_file=str(tmp_path / "new" / "metrics.json"))
    content = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert content["metrics"] == metrics
    counts = content["expressions"]
    assert counts["all"] == counts["shape"] + counts["place"]
    shapes = [dict(sample) for sample in samples]
    for sample in shapes:
        rows = [i for i, kind in enumerate(sample["expression_kinds"]) if kind == "shape"]
        sample.update(
            {key: sample[key][rows] for key in ("pred_masks", "coarse_masks", "gt_masks")}
        )
        sample["expression_ids"] = [sample["expression_ids"][i] for i in rows]
        sample["expression_kinds"] = ["shape"] * len(rows)
    assert content["kinds"]["shape"] == evaluate(shapes)


def test_samples_that_do_not_fit_are_told() -> None:
    sample = make_samples(5, 1)[0]
    with pytest.raises(ValueError, match=r"predicted masks are .*, true masks"):
        RefSegMetric().process({}, [sample | {"pred_masks": sample["pred_masks"][:, 1:]}])
    with pytest.raises(ValueError, match=r"\d expression_ids for \d true masks"):
        RefSegMetric().process({}, [sample | {"expression_ids": [], "expression_kinds": []}])
    with pytest.raises(ValueError, match="saw no prediction"):
        RefSegMetric().evaluate(0)


def make_skipped(rank: int) -> dict[str, Any]:
    """A sample whose picture could not be read."""
    return {
        "expression_ids": [900 + rank],
        "image_id": rank,
        "skipped": f"picture {rank} is broken",
    }


def test_skipped_and_empty_expressions_are_counted(tmp_path: Path) -> None:
    samples = make_samples(2)
    empty = sum(int((~sample["gt_masks"].flatten(1).any(1)).sum()) for sample in samples)
    expected = evaluate(samples)
    out = tmp_path / "metrics.json"
    assert evaluate([make_skipped(0), *samples, make_skipped(1)], out_file=str(out)) == expected
    content = json.loads(out.read_text())
    assert content["skipped"] == 2
    assert content["skipped_expressions"][1] == {
        "expression_id": 901,
        "image_id": 1,
        "reason": "picture 1 is broken",
    }
    assert content["empty_truths"] == empty > 0
    assert content["expressions"]["all"] == sum(len(sample["gt_masks"]) for sample in samples)
    assert set(evaluate([make_skipped(0)]).values()) == {0.0}


def evaluate_share(rank: int, rendezvous: str, results: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    samples = make_samples(6)
    share = samples[:8] if rank == 0 else samples[7:]  # uneven, and one image twice
    metric = RefSegMetric(out_file=f"{rendezvous}.json")
    metric.process({}, [*share, make_skipped(rank)])
    results.put((rank, metric.evaluate(len(samples))))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (str(tmp_path / "rendezvous"), results)
    workers = [context.Process(target=evaluate_share, args=(rank, *arguments)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    both = dict(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert both[0] == both[1] == evaluate(make_samples(6))
    skipped = json.loads((tmp_path / "rendezvous.json").read_text())["skipped_expressions"]
    assert [item["expression_id"] for item in skipped] == [900, 901]
