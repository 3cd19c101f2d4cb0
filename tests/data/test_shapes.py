"""Synthetic scenes: exact masks, unambiguous words, RefCOCO's own file layout."""

import hashlib
import json
import pickle
import random

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from flmm.data.refer_files import load_refs
from flmm.toy.shape_files import compute_floor, encode_segmentation, write_dataset
from flmm.toy.shape_sentences import (
    list_absent_sentences,
    list_group_sentences,
    list_sentences,
    render_samples,
)
from flmm.toy.shapes import COLORS, SHAPES, render_scene


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random(3)
    return [render_scene(rng) for _ in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes")
    write_dataset(path, 40, seed=5)
    return path


def decode(segmentation, height, width):
    """The mask as pycocotools decodes it, polygons and uncompressed RLE."""
    rle = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle).astype(bool)


def test_masks_lie_on_pixels_of_their_own_colour(scenes):
    for scene in scenes:
        for item in (o for o in scene.objects if not o.stroke):
            core = scene.image[item.mask].astype(float)
            assert np.abs(np.median(core, axis=0) - item.tone).max() < 40


def test_masks_do_not_overlap_and_are_seen(scenes):
    for scene in scenes:
        stack = np.stack([item.mask for item in scene.objects])
        assert stack.sum(0).max() == 1
        assert stack.any((1, 2)).all()


def test_scenes_vary(scenes):
    ratios = [scene.image_size[0] / scene.image_size[1] for scene in scenes]
    assert min(ratios) < 0.8 and max(ratios) > 1.25 and any(r == pytest.approx(1) for r in ratios)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4, 5, 6}
    assert {item.shape for scene in scenes for item in scene.objects} == set(SHAPES)
    assert {item.color for scene in scenes for item in scene.objects} == set(COLORS)


def read_attributes(text):
    """The attribute words of a sentence, by an own reading of the grammar."""
    kinds = {**dict.fromkeys(SHAPES, "shape"), **dict.fromkeys(COLORS, "color")}
    kinds |= {"small": "size", "big": "size"}
    return {kinds[word]: word for word in text.split() if word in kinds}


def test_sentences_without_place_fit_their_object_alone(scenes):
    checked = 0
    for scene in scenes:
        for item in scene.objects:
            for kind, text in list_sentences(scene, item):
                wanted = read_attributes(text)
                fits = [
                    o for o in scene.objects if all(getattr(o, k) == v for k, v in wanted.items())
                ]
                assert item in fits
                if kind not in ("place", "superlative"):
                    assert len(fits) == 1
                    checked += 1
    assert checked > 200


def test_plural_sentences_are_true_of_all_their_objects_and_absent_ones_of_none(scenes):
    plurals = {f"{shape}s": shape for shape in SHAPES} | {"crosses": "cross", "shapes": ""}
    kinds = set()
    for scene in scenes:

        def find(text, scene=scene):
            wanted = read_attributes(text)
            objects = list(enumerate(scene.objects))
            return [i for i, o in objects if all(getattr(o, k) == v for k, v in wanted.items())]

        for kind, text, objects in list_group_sentences(scene):
            *words, noun = text.split()
            assert find(" ".join([*words, plurals[noun]])) == list(objects)
            assert len(objects) > 1
            kinds.add(kind)
        for kind, text in list_absent_sentences(scene):
            wanted = read_attributes(" ".join(plurals.get(word, word) for word in text.split()))
            assert find(" ".join(wanted.values())) == []
            lacks = {key for key in ("color", "shape") if key in wanted and not find(wanted[key])}
            assert lacks == {
                "absent pair": set(),
                "absent both": {"color", "shape"},
            }.get(kind, {kind.removeprefix("absent ")})
            kinds.add(kind)
    assert len(kinds) == 6 + 4


def test_superlatives_name_the_extreme_object(scenes):
    axes = {"leftmost": (0, 1), "rightmost": (0, -1), "topmost": (1, 1), "bottommost": (1, -1)}
    checked = 0
    for scene in scenes:
        for item in scene.objects:
            for kind, text in list_sentences(scene, item):
                if kind != "superlative":
                    continue
                axis, sign = axes[text.split()[0]]
                wanted = read_attributes(text)
                fits = [
                    o for o in scene.objects if all(getattr(o, k) == v for k, v in wanted.items())
                ]
                assert item is min(fits, key=lambda o: sign * o.center_xy[axis])
                checked += 1
    assert checked > 50


@pytest.mark.parametrize("holes", [False, True])
def test_segmentations_decode_to_the_same_pixels(holes):
    rng = np.random.default_rng(0)
    for _ in range(30):
        mask = np.zeros((37, 53), bool)
        y, x = rng.integers(0, 20, 2)
        mask[y : y + 14, x : x + 17] = True
        mask[y + 3 : y + 20, x + 5 : x + 9] = True
        if holes:
            mask[y + 4 : y + 6, x + 1 : x + 3] = False
        segmentation = encode_segmentation(mask)
        assert isinstance(segmentation, dict if holes else list)
        assert np.array_equal(decode(segmentation, *mask.shape), mask)


def test_dataset_is_refcoco_on_disk(folder):
    instances = json.loads((folder / "instances.json").read_text())
    refs = load_refs(folder / "refs(unc).p")
    images = {image["id"]: image for image in instances["images"]}
    annotations = {item["id"]: item for item in instances["annotations"]}
    assert {ref["split"] for ref in refs} == {"train", "val", "testA", "testB"}
    sentence_ids = [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]]
    assert len(sentence_ids) == len(set(sentence_ids))
    for ref in refs:
        annotation, image = annotations[ref["ann_id"]], images[ref["image_id"]]
        assert annotation["image_id"] == ref["image_id"]
        assert 1 <= len(ref["sentences"]) <= 4
        with Image.open(folder / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
        mask = decode(annotation["segmentation"], image["height"], image["width"])
        assert mask.sum() == annotation["area"]
        ys, xs = np.where(mask)
        x, y, width, height = annotation["bbox"]
        assert (xs.min(), ys.min()) == (x, y)
        assert (xs.max() + 1, ys.max() + 1) == (x + width, y + height)
    kinds = {isinstance(item["segmentation"], list) for item in instances["annotations"]}
    assert kinds == {True, False}  # polygons and RLE both occur


def test_splits_share_no_image(folder):
    with open(folder / "refs(unc).p", "rb") as file:
        refs = pickle.load(file)  # our own file
    owners = {}
    for ref in refs:
        owners.setdefault(ref["image_id"], set()).add(ref["split"])
    assert all(len(splits) == 1 for splits in owners.values())


@pytest.mark.parametrize(
    ("count", "seed", "least", "digest", "tones"),
    [
        (3, 3, 1, "d5fde01f499c96017c4148274fd40b5b", [12.1, 217.46, 133.39]),
        (9, 7, 5, "c7a8fd3dd5e720182be1d27f525ad9a9", [121.73, 213.46, 81.19]),
    ],
)
def test_scenes_of_a_seed_stay_as_they_were(tmp_path, count, seed, least, digest, tones):
    """Figures are published of scenes that nobody stores: they must be drawn alike for ever."""
    write_dataset(tmp_path / "shapes", count, seed, min_objects=least)
    assert compute_digest(tmp_path / "shapes") == digest
    pictures = sorted((tmp_path / "shapes" / "images").iterdir())[:3]
    # Float arithmetic of another processor may round a value differently.
    means = [np.asarray(Image.open(path)).mean() for path in pictures]
    assert means == pytest.approx(tones, abs=0.02)


def compute_digest(folder):
    """Of all records and of the segments' pixels."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        found.update(path.read_bytes())
    found.update(repr(pickle.loads((folder / "refs(unc).p").read_bytes())).encode())
    for path in sorted(folder.glob("panoptic_*/*.png")):
        found.update(np.asarray(Image.open(path)).tobytes())
    return found.hexdigest()[:32]


def test_expressions_of_a_seed_stay_as_they_were(folder):
    found = hashlib.sha256((folder / "grefcoco" / "grefs(unc).json").read_bytes())
    for path in sorted((folder / "reason_seg" / "ReasonSeg").rglob("*.json")):
        found.update(path.read_bytes())
    assert found.hexdigest()[:32] == "45b417c012e80b6ba088c4a6a9093ee9"


def test_a_dataset_is_not_overwritten(folder):
    with pytest.raises(FileExistsError, match="already holds a dataset"):
        write_dataset(folder, 4, seed=0)


def test_the_floor_is_that_of_masks_of_all_objects(folder):
    """Against decoded masks, pixel by pixel."""
    instances = json.loads((folder / "instances.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    masks = {}
    for item in instances["annotations"]:
        mask = decode(item["segmentation"], *sizes[item["image_id"]])
        masks.setdefault(item["image_id"], {})[item["id"]] = mask
    for split, (ciou, miou) in compute_floor(folder).items():
        rows = []
        for ref in load_refs(folder / "refs(unc).p"):
            if ref["split"] == split:
                own = masks[ref["image_id"]]
                found, true = np.any(list(own.values()), axis=0), own[ref["ann_id"]]
                row = (found & true).sum(), (found | true).sum()
                rows += [row] * len(ref["sentences"])
        intersections, unions = np.array(rows, float).T
        assert ciou == pytest.approx(intersections.sum() / unions.sum())
        assert miou == pytest.approx((intersections / unions).mean())


def test_scenes_are_as_crowded_as_asked_for(tmp_path):
    write_dataset(tmp_path / "crowded", 5, seed=1, min_objects=5)
    instances = json.loads((tmp_path / "crowded" / "instances.json").read_text())
    owners = [annotation["image_id"] for annotation in instances["annotations"]]
    assert all(5 <= owners.count(image["id"]) <= 6 for image in instances["images"])
    with pytest.raises(ValueError, match="--min-objects is 7: give 1 to 6"):
        write_dataset(tmp_path / "none", 5, seed=1, min_objects=7)


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        write_dataset(tmp_path, 0, seed=0)


def test_samples_have_one_mask_per_phrase():
    for sample in render_samples(3, seed=1):
        assert sample.masks.shape == (len(sample.phrases), *sample.image.shape[:2])
