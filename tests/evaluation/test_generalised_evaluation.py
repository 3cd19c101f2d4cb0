"""Data sets under their own protocols in one table: broken off, beside published figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from pycocotools import mask as coco_mask

from flmm.config import load_config
from flmm.data.masks import decode_segmentation
from flmm.data.reason_seg import paint_shapes
from flmm.evaluation.evaluation_options import EvaluationOptions
from flmm.evaluation.evaluation_runs import run_refcoco_evaluation
from flmm.evaluation.splits import get_protocols, list_referring_splits
from flmm.toy.shape_files import write_dataset

DATASETS = ["shapes", "grefcoco", "shapes_reasonseg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protocols") / "shapes"
    write_dataset(folder, num_images=40, seed=5)  # two images a split
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    config = load_config("configs/tiny/tiny_unet_sam_shapes.py", {"data_root": str(folder)})
    # Under the published name, beside which published figures stand.
    config.eval_datasets["grefcoco"] = config.eval_datasets.pop("shapes_grefcoco")
    return config


def recompute(folder: Path, predictions: Path, truths: dict[Any, np.ndarray]) -> dict[str, float]:
    """gIoU and cIoU of saved masks; 255 in a truth is in no figure."""
    ious, both, either = [], 0, 0
    records = json.loads(predictions.read_text())
    assert {record["expression_id"] for record in records} == set(truths)
    for record in records:
        truth = truths[record["expression_id"]]
        mask = coco_mask.decode(record["segmentation"]).astype(bool) & (truth != 255)
        pair = (mask & (truth == 1)).sum(), (mask | (truth == 1)).sum()
        ious.append(pair[0] / pair[1] if pair[1] else 1.0)
        both, either = both + pair[0], either + pair[1]
    return {"gIoU": 100 * float(np.mean(ious)), "cIoU": 100 * float(both / either)}


def read_generalised_truths(folder: Path) -> dict[Any, np.ndarray]:
    instances = json.loads((folder / "grefcoco/instances.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    segmentations = {item["id"]: item["segmentation"] for item in instances["annotations"]}
    truths = {}
    for ref in json.loads((folder / "grefcoco/grefs(unc).json").read_text()):
        size = sizes[ref["image_id"]]
        masks = [decode_segmentation(segmentations[i], *size) for i in ref["ann_id"] if i != -1]
        if ref["split"] == "val":
            truths[ref["ref_id"]] = np.any([np.zeros(size, bool), *masks], axis=0).astype(int)
    return truths


def read_query_truths(folder: Path) -> dict[Any, np.ndarray]:
    sizes = {
        Path(image["file_name"]).stem: (image["height"], image["width"])
        for image in json.loads((folder / "instances.json").read_text())["images"]
    }
    truths = {}
    for path in (folder / "reason_seg/ReasonSeg/val").glob("*.json"):
        shapes = [
            (item["label"], item["points"]) for item in json.loads(path.read_text())["shapes"]
        ]
        truths[path.stem] = paint_shapes(shapes, *sizes[path.stem])
    return truths


def test_every_data_set_has_its_protocol_in_one_table(
    config: Config, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config.copy()
    config.work_dir = str(tmp_path)
    options: dict[str, Any] = {"datasets": DATASETS, "splits": ["val"], "num_workers": 0}
    options["save_predictions"] = True
    run_refcoco_evaluation(config, EvaluationOptions(limit=1, **options))  # broken off
    capsys.readouterr()
    report = run_refcoco_evaluation(config, EvaluationOptions(**options))
    printed = capsys.readouterr().out
    assert printed.count("1 images were done before") == len(DATASETS)
    table, _, published = printed.partition("Published by others under the same protocol")
    assert "N-acc" in table and "GSVA-7B" in published and "arXiv 2312.10103" in published
    rows = {
        (row["dataset"], row["group"]): row for row in report["rows"] if row["mask"] == "refined"
    }
    protocols = {row["dataset"]: row["protocol"] for row in report["rows"]}
    assert protocols == dict(zip(DATASETS, ("standard", "grefcoco", "reasonseg")))
    truths = read_generalised_truths(folder), read_query_truths(folder)
    for name, own in zip(DATASETS[1:], truths):
        path = tmp_path / "eval_refcoco/predictions" / f"{name}_val_{protocols[name]}.json"
        for figure, value in recompute(folder, path, own).items():
            assert rows[name, "all"][figure] == pytest.approx(value)
    everything = rows["grefcoco", "all"]
    assert everything["N-acc"] == rows["grefcoco", "none"]["N-acc"]
    assert "T-acc" in rows["grefcoco", "one"] and "mIoU" not in everything
    assert {"mIoU", "cIoU"} <= set(rows["shapes", "all"])
    markdown = (tmp_path / "eval_refcoco/eval_refcoco.md").read_text()
    assert "| shapes | val | standard | all | refined |" in markdown
    assert "| grefcoco | val | grefcoco | none | refined |" in markdown
    assert "| grefcoco | val | grefcoco | absent " not in markdown  # kinds are in the JSON alone
    assert any(row["group"].startswith("absent ") for row in report["rows"])
    assert "| ReLA | trained | 63.60 | 62.40 | - | arXiv 2306.00968 |" in markdown
    assert {item["dataset"] for item in report["published"]} == {"grefcoco"}


def test_generalised_data_sets_are_evaluated_where_they_are_named(config: Config) -> None:
    assert {name for name, _ in list_referring_splits(config)} == {"shapes"}
    named = list_referring_splits(config, ["shapes_reasonseg"])
    assert set(named) == {("shapes_reasonseg", "val"), ("shapes_reasonseg", "test")}
    assert get_protocols(config, "shapes", ["flmm"]) == ("flmm",)
    assert get_protocols(config, "grefcoco", ["flmm"]) == ("grefcoco",)


def test_missing_folders_and_unknown_protocols_are_told(config: Config, tmp_path: Path) -> None:
    config = config.copy()
    config.eval_datasets["grefcoco"]["protocols"] = ["grefs"]
    with pytest.raises(ValueError, match="grefcoco is asked under protocol grefs: choose from sta"):
        run_refcoco_evaluation(config, EvaluationOptions(datasets=["grefcoco"]))
    config.test_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ReasonSeg/val/\*.json \(shapes_reasonseg\)"):
        run_refcoco_evaluation(config, EvaluationOptions(datasets=["shapes_reasonseg"]))
