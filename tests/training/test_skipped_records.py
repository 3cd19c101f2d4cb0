"""What a data set leaves out at load is told with the figures of a test and of a validation."""

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from torch import nn

from flmm.config import load_config
from flmm.evaluation.grounding_metrics import list_left_out
from flmm.registry import DATASETS
from flmm.training.runner import run_test, run_training
from tests.training.toy_training import read_logs

TINY = Path(__file__).parents[2] / "configs/tiny/tiny_unet_sam_shapes.py"


@pytest.fixture
def damaged(scenes: Path, tmp_path: Path) -> tuple[Path, dict[int, str]]:
    """Two splits of two images; in each a ref is about no annotation and a sentence is blank."""
    folder = tmp_path / "damaged"
    shutil.copytree(scenes, folder)
    path = folder / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    images = list(dict.fromkeys(ref["image_id"] for ref in refs))
    lost: dict[int, str] = {}
    for split, own in (("val", images[:2]), ("testA", images[2:4])):
        members = [ref for ref in refs if ref["image_id"] in own]
        for ref in members:
            ref["split"] = split
        first, second = members[:2]
        first["ann_id"] = -1
        lost |= {item["sent_id"]: "has ann_id -1" for item in first["sentences"]}
        second["sentences"][0].update(raw=" ", sent=" ")
        lost[second["sentences"][0]["sent_id"]] = "is blank"
    path.write_bytes(pickle.dumps(refs))
    return folder, lost


@pytest.fixture
def weights(toy_model: nn.Module, tmp_path: Path) -> str:
    torch.save(toy_model.state_dict(), tmp_path / "toy.pth")
    return str(tmp_path / "toy.pth")


def list_split(folder: Path, split: str) -> set[int]:
    """Ids of all sentences of a split, as the file has them."""
    refs = pickle.loads((folder / "refs(unc).p").read_bytes())
    return {item["sent_id"] for ref in refs if ref["split"] == split for item in ref["sentences"]}


def test_a_test_lists_them_and_measures_the_others(
    toy_config: Path, damaged: tuple[Path, dict[int, str]], weights: str, tmp_path: Path
) -> None:
    folder, lost = damaged
    options = {"data_root": str(folder), "test_dataloader.dataset.bad_records": "skip"}
    out = tmp_path / "out.json"
    config = load_config(toy_config, options, work_dir="tested")
    metrics = run_test(config, checkpoint=weights, out=str(out))
    content = json.loads(out.read_text())
    own = list_split(folder, "testA")
    listed = {item["expression_id"]: item["reason"] for item in content["skipped_expressions"]}
    assert set(listed) == own & set(lost) and content["skipped"] == len(listed) > 2
    assert all(lost[key] in reason for key, reason in listed.items())
    assert content["expressions"]["all"] == len(own) - len(listed)
    assert content["metrics"] == metrics
    assert f"skipped expressions (in no figure): {len(listed)}" in read_logs("tested")


def test_beside_those_that_could_not_be_read(
    damaged: tuple[Path, dict[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded model on two images, of which one is gone."""
    folder, lost = damaged
    refs = pickle.loads((folder / "refs(unc).p").read_bytes())
    gone = [ref for ref in refs if ref["split"] == "testA"][-1]["image_id"]
    images = json.loads((folder / "instances.json").read_text())["images"]
    (folder / "images" / next(i["file_name"] for i in images if i["id"] == gone)).unlink()
    unread = {
        item["sent_id"]
        for ref in refs
        if (ref["split"], ref["image_id"]) == ("testA", gone)
        for item in ref["sentences"]
    }
    monkeypatch.delenv("FLMM_DATA_ROOT", raising=False)
    options = {"data_root": str(folder), "test_dataloader.num_workers": 0}
    options |= {"test_dataloader.dataset.bad_records": "skip"}
    config = load_config(TINY, options, work_dir=str(tmp_path / "tiny"))
    run_test(config, out=str(tmp_path / "out.json"))
    content = json.loads((tmp_path / "out.json").read_text())
    listed = [item["expression_id"] for item in content["skipped_expressions"]]
    assert len(listed) == len(set(listed)) == content["skipped"]
    assert unread and not unread & set(lost)
    assert set(listed) == unread | (list_split(folder, "testA") & set(lost))


def test_every_validation_of_a_training_counts_them_anew(
    toy_config: Path, damaged: tuple[Path, dict[int, str]]
) -> None:
    folder, lost = damaged
    options = {"data_root": str(folder), "val_dataloader.dataset.bad_records": "skip"}
    options |= {"train_cfg.max_iters": 2, "train_cfg.val_interval": 1}
    run_training(load_config(toy_config, options, work_dir="trained"))
    count = len(list_split(folder, "val") & set(lost))
    told = re.findall(r"skipped expressions \(in no figure\): (\d+)", read_logs("trained"))
    assert told == [str(count)] * 2 and count > 1


def test_wrapped_data_sets_tell_it_too(
    toy_config: Path, damaged: tuple[Path, dict[int, str]]
) -> None:
    folder, lost = damaged
    config = load_config(toy_config, {"data_root": str(folder)})
    parts = [
        DATASETS.build({**config.test_dataloader.dataset, "split": split, "bad_records": "skip"})
        for split in ("val", "testA")
    ]
    assert list_left_out(RepeatDataset(parts[0], times=2)) == parts[0].skipped
    left_out = list_left_out(ConcatDataset(parts))
    assert [item.expression_id for item in left_out] == [
        item.expression_id for part in parts for item in part.skipped
    ]
    assert {item.expression_id for item in left_out} == set(lost)
    assert list_left_out(range(3)) == []
