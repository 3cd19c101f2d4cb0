"""A result is a thing to use: read back with pycocotools, OpenCV, pandas, supervision, Pillow."""

import contextlib
import dataclasses
import io
import json
import os
import pickle
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageShow
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from flmm.geometry import compute_boxes_xyxy
from flmm.records import GroundingOutput
from flmm.results import (
    GroundedObject,
    GroundedPhrase,
    GroundingResult,
    build_coco_dataset,
    collect_result,
    make_result,
)
from flmm.rle import decode_mask, encode_mask

SIZE = (40, 60)
PHRASES = ["the red circle", "a dog", "nothing", "../../a dog/" + "x" * 300]


def draw_masks():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    masks = np.zeros((4, *SIZE), dtype=bool)
    masks[0] = (rows - 15) ** 2 + (columns - 20) ** 2 < 80
    masks[1, 5:30, 30:55] = True
    masks[1, 12:20, 40:45] = False  # a hole
    masks[1, 38, 3] = True  # and a part of one pixel
    masks[3, 39, 50:60] = True
    return masks


@pytest.fixture
def image():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([3 * rows, 4 * columns, 2 * rows + columns], -1).astype(np.uint8)


@pytest.fixture
def result(image):
    scores = np.array([0.9, 0.8, 0.0, 0.25], np.float32)
    return GroundingResult.from_masks(PHRASES, draw_masks(), scores, image)


def test_masks_come_back_as_they_went_in(result):
    assert result.masks.dtype == bool and np.array_equal(result.masks, draw_masks())
    assert [found.area for found in result] == draw_masks().sum((1, 2)).tolist()
    assert [found.is_empty for found in result] == [False, False, True, False]
    with pytest.raises(ValueError, match="read-only"):
        result.masks[0, 0, 0] = True  # a change would be lost in every other form
    with pytest.raises(ValueError, match="read-only"):
        result.scores[0] = 1


def test_boxes_are_those_of_the_arrays(result):
    rng = np.random.default_rng(0)
    masks = [*draw_masks(), *(rng.random((60, *SIZE)) > rng.choice([0.5, 0.999], (60, 1, 1)))]
    masks += [np.ones(SIZE, bool), *np.eye(40, 60, k=30, dtype=bool)[None]]
    found = GroundingResult.from_masks([""] * len(masks), np.array(masks), [1.0] * len(masks))
    expected = compute_boxes_xyxy(torch.from_numpy(np.array(masks))).numpy()
    np.testing.assert_array_equal(found.boxes_xyxy, expected)
    assert found.boxes_xyxy.dtype == np.float32 and np.isnan(expected).any()


def test_a_phrase_of_several_objects_in_several_frames_is_the_same_record():
    masks = draw_masks()
    frames = [tuple(map(encode_mask, (mask, mask[::-1]))) for mask in (masks[0], masks[3])]
    dogs = tuple(GroundedObject(own, score) for own, score in zip(frames, (0.6, 0.9)))
    phrase = GroundedPhrase("the dogs", SIZE, dogs, presence=0.95)
    result = GroundingResult([phrase, GroundedPhrase("nothing", SIZE, (), presence=0.1)], SIZE)
    assert np.array_equal(result.masks, [masks[0] | masks[3], masks[2]])
    assert np.array_equal(decode_mask(phrase.merge_objects(1)), (masks[0] | masks[3])[::-1])
    assert result.scores == pytest.approx([0.9, 0]) and result.presence == pytest.approx(
        [0.95, 0.1]
    )
    assert result.to_coco()[0]["bbox"] == coco_mask.toBbox(encode_mask(result.masks[0])).tolist()


def test_phrases_are_found_by_number_words_and_range(result):
    assert len(result) == 4 and [found.text for found in result] == PHRASES
    assert result["a dog"] == result[1] == result[-3] == result[np.int64(1)]
    assert np.array_equal(result["a dog"].mask, draw_masks()[1])
    assert result["a dog"].score == pytest.approx(0.8)
    part = result[1:3]
    assert isinstance(part, GroundingResult) and part.phrases == PHRASES[1:3]
    assert np.array_equal(part.masks, draw_masks()[1:3]) and len(result[9:]) == 0
    assert result[9:].masks.shape == (0, *SIZE)
    assert "a dog" in result and "a cat" not in result and result[0] in result
    with pytest.raises(
        KeyError, match="'the red circel' is no phrase of this result: did you mean"
    ):
        result["the red circel"]
    with pytest.raises(IndexError):
        result[4]


def test_the_maker_thresholds_scores_and_keeps_what_is_asked_for():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, *SIZE)).astype(np.float32) * 4
    logits[1] = -abs(logits[1])
    logits[2] = -np.inf  # no box, no mask
    coarse, maps = rng.normal(size=(4, 5, 6)), rng.random((4, 2, 5, 6))
    tensors = [torch.from_numpy(array) for array in (maps, coarse, logits)]
    parts = [GroundingOutput(*(item[part] for item in tensors)) for part in (slice(3), slice(3, 4))]
    result = collect_result(PHRASES, parts, return_maps=True, return_probs=True)
    probs = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert result.phrases == PHRASES and np.array_equal(result.masks, logits > 0)
    np.testing.assert_allclose(result.probs, probs, atol=1e-6)
    np.testing.assert_allclose(result.presence, probs.max((1, 2)), atol=1e-6)
    expected = [own[own > 0.5].mean() if (own > 0.5).any() else 0 for own in probs]
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    np.testing.assert_allclose(result.attention_maps, maps, atol=1e-6)
    larger = torch.nn.functional.interpolate(tensors[1][None].float(), SIZE, mode="bilinear")[0]
    assert (result.coarse_masks != (larger > 0).numpy()).mean() < 1e-3
    bare = make_result(PHRASES, tensors[2], problems=[None, None, "no box", None])
    assert [item.problem for item in bare] == [None, None, "no box", None]
    assert (
        bare.probs is bare.coarse_masks is bare.attention_maps is None and len(bare[2].objects) == 0
    )


def test_a_phrase_asked_twice_is_told_apart_by_number(image):
    twice = GroundingResult.from_masks(["a dog", "a dog"], draw_masks()[:2], [0.5, 0.5], image)
    with pytest.raises(KeyError, match=r"'a dog' was asked 2 times, at \[0, 1\]"):
        twice["a dog"]
    assert twice[0] != twice[1]


def test_equality_is_by_value_and_never_raises(result, image):
    again = pickle.loads(pickle.dumps(result))
    assert again == result and result != "a dog" and result != None  # noqa: E711
    again.found[0] = dataclasses.replace(again[0], presence=0.7)
    assert again != result
    kept = dataclasses.replace(result, probs=np.zeros((4, *SIZE), np.float32))
    assert kept != result and kept == dataclasses.replace(kept, probs=kept.probs.copy())
    other = GroundingResult.from_masks(PHRASES, ~draw_masks(), result.scores, image)
    assert other != result and {result[0], result[0]} == {result[0]}


def test_the_empty_phrase_and_the_whole_picture_are_drawn(image, result):
    drawn = np.asarray(result.draw())
    changed = (drawn != image).any(-1)
    assert drawn.shape == image.shape and changed[result.masks[1]].mean() > 0.9
    whole = GroundingResult.from_masks(["all"], np.ones((1, *SIZE), bool), [1.0], image)
    assert (np.asarray(whole.draw()) != image).any(-1).mean() > 0.9


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG", ".webp"])
def test_the_picture_is_saved_with_its_masks(result, tmp_path, ending):
    path = result.save(tmp_path / "new folder" / f"masks{ending}")
    saved = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert saved.shape == (*SIZE, 3)
    distance = np.abs(saved - np.asarray(result.draw()).astype(int)).mean()
    assert distance == 0 if ending == ".png" else distance < 25


def test_other_endings_are_refused_with_what_there_is(result, tmp_path):
    for name in ("masks.gif", "masks", "masks.v2"):
        with pytest.raises(ValueError, match=r"save takes \.png, .* or \.json"):
            result.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_masks_are_saved_as_png_and_stay_in_their_folder(result, tmp_path):
    folder = tmp_path / "deep" / "masks"
    paths = result.save_masks(folder)
    assert [path.name[:14] for path in paths][:2] == ["001_the_red_ci", "002_a_dog.png"]
    assert {path.parent for path in paths} == {folder} and len(list(folder.iterdir())) == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]
    for path, mask in zip(paths, draw_masks()):
        read = np.asarray(Image.open(path))
        assert read.dtype == np.uint8 and np.array_equal(read, mask * 255)


def load_coco(path):
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        return COCO(str(path))


def test_pycocotools_loads_the_data_set_and_the_results(result, tmp_path):
    coco = load_coco(result.save(tmp_path / "masks.json"))
    assert coco.loadImgs([1])[0] == {"id": 1, "file_name": "picture", "height": 40, "width": 60}
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1], catIds=[1]))
    for annotation, found in zip(annotations, result):
        assert annotation["phrase"] == found.text
        assert np.array_equal(coco.annToMask(annotation).astype(bool), found.mask)
        assert annotation["area"] == coco_mask.area(annotation["segmentation"]) == found.area
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = coco.loadRes(result.to_coco(image_id=1))
    assert [item["score"] for item in loaded.dataset["annotations"]] == pytest.approx(
        [0.9, 0.8, 0.0, 0.25]
    )


def test_several_results_are_one_data_set(result, tmp_path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps(build_coco_dataset([result, result[:2]])))
    coco = load_coco(path)
    assert coco.getImgIds() == [1, 2] and coco.getAnnIds() == [1, 2, 3, 4, 5, 6]
    assert len(coco.getAnnIds(imgIds=[2])) == 2


def test_records_outside_a_data_set_have_no_ids(result):
    records = json.loads(json.dumps(result.to_coco()))
    assert [sorted(record) for record in records] == [
        ["bbox", "phrase", "presence", "score", "segmentation"]
    ] * 4
    assert [record["presence"] for record in records] == [1, 1, 0, 1]


def test_instances_are_the_connected_parts_without_specks(result):
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 2:12, 2:12] = masks[0, 12:22, 12:22] = True  # they meet at a corner: one
    masks[0, 30:36, 40:50] = True
    masks[0, 38, 1:4] = True  # a speck
    masks[1, 5:30, 5:30] = True
    probs = np.where(masks, 0.6, 0.1).astype(np.float32)
    probs[0, 30:36, 40:50] = 0.9
    plain = GroundingResult.from_masks(["the squares", "a square", "none"], masks, [0.7, 0.6, 0])
    split = dataclasses.replace(plain, probs=probs).instances
    assert [len(item.objects) for item in split] == [2, 1, 0] and split.phrases == plain.phrases
    assert [part.area for part in split[0].list_objects()] == [200, 60]  # the largest first
    assert [part.score for part in split[0].objects] == pytest.approx([0.6, 0.9])
    assert [part.score for part in plain.instances[0].objects] == pytest.approx([0.7, 0.7])
    assert split.masks[0].sum() == 260 and np.array_equal(split.masks[1:], masks[1:])
    assert split.instances == split and split[2].list_objects() == [split[2]]
    records = split.to_coco(image_id=1, per_object=True)
    assert [record["phrase"] for record in records] == ["the squares"] * 2 + ["a square", "none"]
    assert [record["area"] for record in records] == [200, 60, 625, 0]
    assert len(split.to_coco()) == 3


def test_supervision_has_finite_boxes_and_the_same_masks(result):
    supervision = pytest.importorskip("supervision")
    detections = result.to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == 3
    assert np.isfinite(detections.xyxy).all()
    kept = [0, 1, 3]
    assert np.array_equal(np.asarray(detections.mask), draw_masks()[kept])
    assert detections.class_id.tolist() == kept
    assert detections.data["class_name"].tolist() == [PHRASES[index] for index in kept]
    assert detections.confidence == pytest.approx([0.9, 0.8, 0.25])
    scene = np.zeros((*SIZE, 3), np.uint8)
    assert supervision.MaskAnnotator().annotate(scene, detections).any()
    assert detections.data["presence"] == pytest.approx([1, 1, 1])
    assert len(result[2:3].to_supervision()) == 0
    assert result.instances.to_supervision(per_object=True).class_id.tolist() == kept


def test_pandas_has_a_row_per_phrase(result):
    pandas = pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    names = ["phrase", "score", "presence", "x0", "y0", "x1", "y1", "area"]
    assert list(frame.columns) == names and frame.presence.tolist() == [1, 1, 0, 1]
    assert frame.area.tolist() == draw_masks().sum((1, 2)).tolist()
    assert frame.x0.isna().tolist() == [False, False, True, False]
    assert len(result.instances.to_pandas(per_object=True)) == 4  # one pixel is no object


@pytest.mark.parametrize("name", ["pandas", "supervision"])
def test_a_missing_library_is_named_with_its_command(result, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # what Python calls not importable
    with pytest.raises(ImportError, match=rf"to_{name}\(\) needs {name}: pip install"):
        getattr(result, f"to_{name}")()


def test_polygons_fill_to_the_mask_without_its_holes(result):
    for index, polygons in enumerate(result.to_polygons()):
        mask = draw_masks()[index]
        canvas = np.zeros(SIZE, np.uint8)
        cv2.fillPoly(canvas, polygons, 1)
        if index == 1:
            mask[12:20, 40:45] = True
        assert np.array_equal(canvas > 0, mask)
        assert all(points.dtype == np.int32 and points.shape[1] == 2 for points in polygons)
    assert [len(polygons) for polygons in result.to_polygons()] == [1, 2, 0, 1]


def test_a_figure_is_drawn_and_pyplot_keeps_none(result):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = result.plot()
    shown = figure.axes[0].images[0].get_array()
    assert np.array_equal(shown, np.asarray(result.draw())) and plt.get_fignums() == before
    own, axes = plt.subplots()
    assert result.plot(axes) is own and len(axes.images) == 1
    plt.close(own)


def test_a_notebook_shows_the_drawing(result):
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(result._repr_png_()))), result.draw())
    assert repr(result).startswith("GroundingResult(4 phrases in 60 x 40 px: 'the red circle' 0.90")
    unseen = GroundingResult.from_masks(PHRASES, draw_masks(), result.scores)
    assert unseen._repr_png_() is None
    with pytest.raises(ValueError, match="does not know its picture"):
        unseen.draw()


def test_show_opens_a_viewer_or_says_that_there_is_none(result, monkeypatch):
    seen = []

    class Viewer(ImageShow.Viewer):
        def show(self, image, **options):
            seen.append(image)
            return True

    monkeypatch.setattr(ImageShow, "_viewers", [])
    with pytest.raises(RuntimeError, match=r"no program here can show .* result\.save"):
        result.show()
    ImageShow.register(Viewer)
    result.show()
    assert seen == [result.draw()]


def test_a_file_is_opened_again_and_must_be_the_same(image, tmp_path, monkeypatch):
    path = tmp_path / "scene.png"
    Image.fromarray(image).save(path)
    monkeypatch.chdir(tmp_path)
    result = GroundingResult.from_masks(PHRASES, draw_masks(), [1.0] * 4, "scene.png")
    monkeypatch.chdir("/")
    assert np.array_equal(result.image, image) and result.picture.name == "scene.png"
    Image.fromarray(image[::-1]).save(path)
    with pytest.raises(ValueError, match=r"scene\.png is another picture than the one"):
        result.draw()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"scene\.png"):
        result.draw()


def test_masks_that_do_not_fit_are_refused(image):
    with pytest.raises(TypeError, match=r"masks is uint8 of shape .* give bool"):
        GroundingResult.from_masks(["a"], np.zeros((1, 4, 4), np.uint8), [1.0])
    with pytest.raises(ValueError, match="got 2 phrases, 1 masks and 1 scores"):
        GroundingResult.from_masks(["a", "b"], np.zeros((1, 4, 4), bool), [1.0])
    with pytest.raises(ValueError, match=r"the picture is of size \(40, 60\), the masks"):
        GroundingResult.from_masks(["a"], np.zeros((1, 4, 4), bool), [1.0], image)
