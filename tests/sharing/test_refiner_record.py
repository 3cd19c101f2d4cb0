"""A head whose refiner is transformers': its hub id and commit are shared, and found again."""

import json

import pytest
import torch
from mmengine.config import Config

from flmm.registry import MODELS
from flmm.sharing import load_pretrained, save_pretrained
from tests.masks.sam_configs import SAM2

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def model():
    """Built from random weights; ``share`` says that they came from elsewhere."""
    torch.manual_seed(0)
    config = Config.fromfile(TINY).model
    config.sam = dict(type="Sam2Refiner", random_init=SAM2)
    return MODELS.build(config)


def share(model, folder, **sources):
    config = Config.fromfile(TINY)
    config.model.sam = dict(type="Sam2Refiner", use_box=False, **sources)
    return save_pretrained(model, config, folder)


@pytest.fixture(scope="module")
def head(model, tmp_path_factory):
    model.sam.revision = COMMIT
    return share(model, tmp_path_factory.mktemp("heads") / "head", name_or_path="someone/sam2")


def test_the_record_names_hub_id_and_commit(head, tmp_path):
    record = json.loads((head / "config.json").read_text())
    hub = {"source": "hub", "name": "someone/sam2", "revision": COMMIT}
    assert record["refiner"] == {**hub, "config_hash": None, "weights_hash": None}
    assert record["model"]["sam"] == {
        "type": "Sam2Refiner",
        "use_mask": True,
        "use_box": False,
        "use_text": True,
        "multimask_output": False,
    }
    assert f"`someone/sam2` at revision {COMMIT}" in (head / "README.md").read_text()
    sam = load_pretrained(head).model.sam
    assert (sam.name_or_path, sam.revision) == ("someone/sam2", COMMIT)
    sam = load_pretrained(head, cfg_options={"model.sam.name_or_path": str(tmp_path)}).model.sam
    assert sam.name_or_path == str(tmp_path) and sam.get("revision") is None


NULLS = {"config_hash": None, "weights_hash": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"refiner": {"source": "hub", "name": "/etc", "revision": None, **NULLS}},
            "refiner.name is '/etc' .* neither a hub id nor a folder name",
        ),
        (
            {"refiner": {"source": "hub", "name": "a/b", "revision": "../x", **NULLS}},
            r"refiner\.revision is '\.\./x', no hexadecimal digest",
        ),
        ({"refiner": {"source": "hub", "name": "a/b"}}, r"refiner\.revision is missing"),
        (
            {"refiner": {"source": "embedded", "file": "a", "sha256": "0" * 64}},
            "'refiner' and 'model.sam' are of different kinds",
        ),
        (
            {"sam": {"type": "Sam2Refiner", "name_or_path": "/etc"}},
            "model.sam.name_or_path is '/etc', and a shared head names no file",
        ),
        (
            {"sam": {"type": "Sam2Refiner", "random_init": {}}},
            "model.sam.random_init is {}, and a shared head names no file",
        ),
    ],
)
def test_a_record_of_any_origin_leads_to_no_file(head, tmp_path, change, message):
    record = json.loads((head / "config.json").read_text())
    record["refiner"] = change.get("refiner", record["refiner"])
    record["model"]["sam"] = change.get("sam", record["model"]["sam"])
    for path in head.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_random_weights_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"SAM 'Sam2Refiner' .*random weights.*name_or_path"):
        share(model, tmp_path / "head", random_init=SAM2)
