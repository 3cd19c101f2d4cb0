"""Captions of synthetic scenes: true, readable by the tiny model, in the published layout."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer
from transformers.image_transforms import rgb_to_id

import flmm
from flmm.data.masks import load_panoptic
from flmm.data.png import PanopticNarrativeDataset
from flmm.data.refer_files import load_refs
from flmm.toy.shape_captions import BACKGROUND, Caption, build_segments, write_caption
from flmm.toy.shape_files import write_dataset
from flmm.toy.shape_sentences import pick_sentences
from flmm.toy.shapes import COLORS, SHAPES, SIZES, Scene, render_scene

SPLITS = ("train", "val", "testA", "testB")
AXES = {"leftmost": (0, 1), "rightmost": (0, -1), "topmost": (1, 1), "bottommost": (1, -1)}
ENDS = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}


@pytest.fixture(scope="module")
def captions() -> list[tuple[Scene, Caption]]:
    scenes = [render_scene(random.Random(seed), 1 + seed % 6) for seed in range(80)]
    return [(scene, write_caption(random.Random(7), scene)) for scene in scenes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captions")
    write_dataset(path, 12, seed=5, workers=2)
    return path


def list_fitting(scene: Scene, phrase: str) -> set[int]:
    """Objects that have every size, colour and shape word of a phrase, by an own reading of it."""
    words = {word.removesuffix("s") if word[:-1] in SHAPES else word for word in phrase.split()}
    attributes = words & {*SHAPES, *COLORS, *SIZES}
    return {
        index
        for index, item in enumerate(scene.objects)
        if attributes <= {item.shape, item.color, item.size}
    }


def test_phrases_mean_exactly_their_segments(captions: list[tuple[Scene, Caption]]) -> None:
    counts = dict.fromkeys(("single", "placed", "plural", "background"), 0)
    for scene, caption in captions:
        for mention, span in zip(caption.mentions, caption.spans, strict=True):
            phrase, members = caption.text[slice(*span)], set(mention.segments)
            assert phrase == mention.phrase
            fitting = list_fitting(scene, phrase)
            if phrase == BACKGROUND:
                counts["background"] += 1
                assert members == {len(scene.objects)}
            elif len(members) > 1:
                counts["plural"] += 1
                assert members == fitting and phrase.endswith("s")
            elif not set(phrase.split()) & {*AXES, *ENDS}:
                counts["single"] += 1
                assert members == fitting
            else:
                counts["placed"] += 1
                (own,) = members
                for word in set(phrase.split()) & {*AXES, *ENDS}:
                    axis, sign = (AXES | ENDS)[word]
                    places = {i: sign * scene.objects[i].center_xy[axis] for i in fitting}
                    if word in AXES:
                        assert own == min(places, key=places.__getitem__)
                    half = sign * scene.image.shape[1 - axis] / 2
                    assert word in AXES or places[own] < half
    assert min(counts.values()) > 30 and counts["background"] == len(captions)


def test_objects_are_named_once(captions: list[tuple[Scene, Caption]]) -> None:
    for scene, caption in captions:
        named = [index for mention in caption.mentions for index in mention.segments]
        assert len(named) == len(set(named))
        assert set(named) <= set(range(len(scene.objects) + 1))


def test_the_tiny_reader_has_the_words(captions: list[tuple[Scene, Caption]]) -> None:
    """Each is one token, a plural one more; the background alone is spelled out."""
    tokenizer = AutoTokenizer.from_pretrained(Path(flmm.__file__).parent / "assets/tiny_vlm")
    words = {word for _, caption in captions for word in caption.text.strip(".").split()[1:]}
    words = {word.strip(",") for word in words} - {BACKGROUND}
    assert {"circles", "objects", "leftmost", "the"} <= words
    for word in words:
        assert tokenizer.tokenize(f" {word}") in ([f"Ġ{word}"], [f"Ġ{word[:-1]}", "s"])


def test_segments_share_out_the_picture(captions: list[tuple[Scene, Caption]]) -> None:
    for scene, _ in captions[:20]:
        pixels, infos = build_segments(scene)
        assert pixels.all() and sum(info["area"] for info in infos) == pixels.size
        for item, info in zip(scene.objects, infos):
            assert np.array_equal(pixels == info["id"], item.mask)


def test_files_are_in_the_published_layout(folder: Path) -> None:
    instances = json.loads((folder / "instances.json").read_text())
    images = {image["id"]: image for image in instances["images"]}
    seen = []
    for split in SPLITS:
        narratives = json.loads((folder / f"png_{split}.json").read_text())
        panoptic = json.loads((folder / f"panoptic_{split}.json").read_text())
        assert {item["isthing"] for item in panoptic["categories"]} == {0, 1}
        assert [int(item["image_id"]) for item in narratives] == list(
            load_panoptic(folder / f"panoptic_{split}.json")
        )
        for narrative, annotation in zip(narratives, panoptic["annotations"], strict=True):
            joined = "".join(item["utterance"] for item in narrative["segments"])
            assert joined.replace(" ", "") == narrative["caption"].replace(" ", "").lower()
            for item in narrative["segments"]:
                assert item["noun"] == bool(item["segment_ids"])
                assert item["plural"] == (len(item["segment_ids"]) > 1)
            with Image.open(folder / f"panoptic_{split}" / annotation["file_name"]) as picture:
                ids = rgb_to_id(np.asarray(picture))
            for segment in annotation["segments_info"]:
                ys, xs = np.where(ids == segment["id"])
                assert len(ys) == segment["area"]
                assert segment["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert [images[item["id"]] for item in panoptic["images"]] == panoptic["images"]
        seen += [item["id"] for item in panoptic["images"]]
    assert sorted(seen) == sorted(images)


def test_captions_draw_from_a_source_of_their_own(folder: Path) -> None:
    """The refs are those of the scene's own source, as if there were no captions."""
    refs = load_refs(folder / "refs(unc).p")
    for index in range(12):
        rng = random.Random(f"flmm shapes 5 {index}")
        scene = render_scene(rng)
        drawn = [pick_sentences(rng, scene, item, rng.randint(2, 4)) for item in scene.objects]
        written = [ref["sentences"] for ref in refs if ref["image_id"] == index + 1]
        assert [[sentence["raw"] for sentence in sentences] for sentences in written] == [
            [sentence.text for sentence in sentences] for sentences in drawn if sentences
        ]


def test_the_data_set_reads_them_unchanged(folder: Path) -> None:
    for split in SPLITS:
        dataset = PanopticNarrativeDataset(
            data_root=str(folder),
            ann_file=f"png_{split}.json",
            panoptic_json=f"panoptic_{split}.json",
            data_prefix={"img_path": "images/", "panoptic_path": f"panoptic_{split}/"},
            pipeline=[
                {"type": "flmm.LoadRGBImage"},
                {"type": "flmm.DecodePanopticMasks"},
            ],
            test_mode=True,
        )
        assert len(dataset) == len(json.loads((folder / f"png_{split}.json").read_text()))
        for results in dataset:
            (text,) = results["continuations"]
            masks = results["gt_masks"]
            assert text.phrases[-1] == BACKGROUND and text.text.endswith("background.")
            assert masks.any(dim=(1, 2)).all() and masks.sum(0).max() == 1
            assert results["expression_groups"][-1] == ("stuff", "singulars")
            assert torch.equal(masks[-1], torch.from_numpy(read_background(results)))


def read_background(results: dict) -> np.ndarray:
    """Pixels of the segment with the largest id, the last one."""
    with Image.open(results["panoptic_path"]) as picture:
        ids = rgb_to_id(np.asarray(picture))
    return ids == ids.max()


def test_same_seed_same_bytes_whatever_the_workers(folder: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", 12, seed=5)
    write_dataset(tmp_path / "other", 4, seed=6)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    for name in ("refs(unc).p", "instances.json", "png_train.json"):
        assert (folder / name).read_bytes() != (tmp_path / "other" / name).read_bytes()
