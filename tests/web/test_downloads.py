"""Downloads, read back with pycocotools and Pillow."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from flmm.apps.web.views import build_download
from tests.web.page_requests import ask, send


@pytest.fixture
def files(service) -> tuple[list, dict, zipfile.ZipFile]:
    """Phrases of a conversation of two turns, its COCO JSON, its zip."""
    send(service, "visitor", "open_sample", index=0)
    ask(service, "visitor")
    ask(service, "visitor", "is the [yellow triangle] above the cross?")
    saved = {kind: send(service, "visitor", "save", kind=kind)["saved"] for kind in ("coco", "png")}
    assert [saved[kind]["name"] for kind in saved] == ["sample_1_masks.json", "sample_1_masks.zip"]
    data = {kind: base64.b64decode(item["data"]) for kind, item in saved.items()}
    visitor = service.visitors.find("visitor")
    phrases = [phrase for turn in visitor.chat.turns for phrase in turn.phrases]
    return phrases, json.loads(data["coco"]), zipfile.ZipFile(io.BytesIO(data["png"]))


def test_pycocotools_reads_the_json(files, tmp_path) -> None:
    phrases, coco, _ = files
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(coco))
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        read = COCO(str(path))
    annotations = read.loadAnns(read.getAnnIds(imgIds=[0], catIds=[1]))
    assert len(annotations) == len(phrases) > 2
    for annotation, phrase in zip(annotations, phrases):
        assert annotation["phrase"] == phrase.text and annotation["role"] == phrase.role
        assert np.array_equal(read.annToMask(annotation).astype(bool), phrase.mask)
        assert annotation["area"] == phrase.mask.sum()
    assert {annotation["turn"] for annotation in annotations} == {0, 1}
    assert annotations[-1]["role"] == "answer" or "question" in {a["role"] for a in annotations}
    assert [turn["question"] for turn in coco["turns"]][1].startswith("is the yellow triangle")


def test_the_zip_holds_one_png_per_phrase_and_the_json(files) -> None:
    phrases, coco, archive = files
    names = archive.namelist()
    assert names[-1] == "masks.json" and json.loads(archive.read("masks.json")) == coco
    assert len(names) == len(phrases) + 1 == len(set(names))
    for name, phrase in zip(names, phrases):
        mask = np.asarray(Image.open(io.BytesIO(archive.read(name))))
        assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(mask > 0, phrase.mask)
        assert phrase.role in name


@pytest.mark.parametrize(
    "picture, name",
    [
        ("photo.jpg", "photo_masks.zip"),
        ("猫 1.png", "猫_1_masks.zip"),
        ("...", "picture_masks.zip"),
    ],
)
def test_names_of_downloads(picture: str, name: str) -> None:
    assert build_download([], picture, (4, 4), "png")[0] == name
