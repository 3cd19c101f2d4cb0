"""Two runs side by side: figures over what both have, pictures of where they differ."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

from flmm.apps.comparison import compare_runs
from flmm.config import load_config
from flmm.evaluation.splits import list_referring_splits
from flmm.registry import DATASETS
from flmm.toy.shape_files import write_dataset

TINY = Path(__file__).parents[1] / "configs/tiny/tiny_unet_sam_shapes.py"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "shapes"
    write_dataset(folder, num_images=60, seed=5)
    return load_config(TINY, {"data_root": str(folder)})


@pytest.fixture(scope="module")
def truth(config):
    """Expression id -> true mask of the split val."""
    init_default_scope("flmm")
    dataset = DATASETS.build({**list_referring_splits(config)["shapes", "val"], "test_mode": True})
    samples = [dataset[index]["data_samples"] for index in range(len(dataset))]
    return {
        name: (mask.numpy(), phrase)
        for sample in samples
        for name, mask, phrase in zip(sample.expression_ids, sample.gt_masks, sample.phrases)
    }


def write_run(folder, masks, stem="shapes_val_standard"):
    """What ``--save-predictions`` writes."""
    records = []
    for name, (mask, phrase) in masks.items():
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        rle["counts"] = rle["counts"].decode()
        records.append({"expression_id": name, "expression": phrase, "segmentation": rle})
    path = folder / "eval_refcoco/predictions" / f"{stem}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(records))
    return folder


def cut(mask):
    """The mask without its left half: the IoU of a convex shape falls to about one half."""
    columns = np.flatnonzero(mask.any(0))
    smaller = mask.copy()
    smaller[:, : columns[len(columns) // 2]] = False
    return smaller


def test_figures_are_over_what_both_have_and_pictures_show_where_they_differ(
    config, truth, tmp_path
):
    first, second, third, *_ = truth
    good = dict(truth)
    bad = {name: (cut(mask), phrase) for name, (mask, phrase) in truth.items()}
    bad[first] = truth[first]  # equal
    good[second] = (np.zeros_like(truth[second][0]), truth[second][1])  # there the other is better
    del bad[third]
    runs = write_run(tmp_path / "a", good), write_run(tmp_path / "b", bad)
    table = compare_runs(config, runs, ("large", "small"), tmp_path / "out", show=2)
    row, *sizes = json.loads((tmp_path / "out/compare.json").read_text())
    count = len(truth) - 1
    assert row["expressions"] == count and row["only large"] == 1 and row["only small"] == 0
    assert (row["equal"], row["small better"], row["large better"]) == (1, 1, count - 2)
    pairs = [(name, truth[name][0]) for name in truth if name != third]
    for run, masks in (("large", good), ("small", bad)):
        both = [(masks[name][0] & true).sum() for name, true in pairs]
        either = [(masks[name][0] | true).sum() for name, true in pairs]
        assert row[f"cIoU {run}"] == pytest.approx(100 * sum(both) / sum(either))
        assert row[f"mIoU {run}"] == pytest.approx(100 * np.mean(np.divide(both, either)))
    assert "large better" in table and str(count) in table
    shares = np.array([true.mean() for _, true in pairs])
    expected = {"< 2 %": shares < 0.02, "2-5 %": (shares >= 0.02) & (shares < 0.05)}
    expected[">= 5 %"] = shares >= 0.05
    assert row["object"] == "all" and [own["object"] for own in sizes] == list(expected)
    for own, chosen in zip(sizes, expected.values()):
        ious = np.array([(bad[n][0] & true).sum() / (bad[n][0] | true).sum() for n, true in pairs])
        assert own["expressions"] == chosen.sum() > 0
        assert own["mIoU small"] == pytest.approx(100 * ious[chosen].mean())
        assert own["precision@0.9 small"] == pytest.approx(100 * (ious[chosen] >= 0.9).mean())
    shown = sorted(path.name for path in (tmp_path / "out").rglob("*.png"))
    assert len(shown) == 3  # two where the first is better, the one where the second is
    assert shown[2].startswith("second_better_01_0.") and shown[2].endswith(f"_{second}.png")
    report = (tmp_path / "out/compare.md").read_text()
    for link in re.findall(r"\]\((.*?)\)", report):
        assert Image.open(tmp_path / "out" / link).width > 600
    assert len(re.findall(r"!\[", report)) == 3


def test_what_cannot_be_compared_is_said(config, truth, tmp_path):
    run = write_run(tmp_path / "a", truth)
    with pytest.raises(
        FileNotFoundError, match=r"no predictions of shapes_val, .*save-predictions"
    ):
        compare_runs(config, (run, tmp_path / "nothing"), ("a", "b"), tmp_path / "out")
    other = write_run(tmp_path / "b", truth, "shapes_val_flmm")
    with pytest.raises(
        ValueError, match=r"of shapes_val_standard, .* of shapes_val_flmm: evaluate"
    ):
        compare_runs(config, (run, other), ("a", "b"), tmp_path / "out")
    wrong = write_run(tmp_path / "c", {n: (m[:, :-1], p) for n, (m, p) in truth.items()})
    with pytest.raises(ValueError, match=r"expression \d+ cannot be compared: .* size"):
        compare_runs(config, (run, wrong), ("a", "b"), tmp_path / "out")
    broken = tmp_path / "shapes_val_standard.json"
    broken.write_text("[1, 2")
    with pytest.raises(ValueError, match="is no file of predictions"):
        compare_runs(config, (run, broken), ("a", "b"), tmp_path / "out")
