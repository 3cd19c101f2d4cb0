"""Captions of synthetic scenes: noun phrases, each true of exactly its segments, and object lists.

Out: the records that ``png_coco_*.json`` and COCO's panoptic files are made of, and a data set of
lists in the words that the tiny reader writes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from flmm.records import Continuation, Span
from flmm.registry import DATASETS
from flmm.toy.shape_sentences import draw_sentence, list_group_sentences
from flmm.toy.shapes import SHAPES, Scene, compute_box_xywh, render_scene

BACKGROUND = "background"
SHAPE_CATEGORIES = [
    {"id": index, "name": shape, "supercategory": "shape"}
    for index, shape in enumerate(SHAPES, start=1)
]
CATEGORIES = [
    *({**category, "isthing": 1} for category in SHAPE_CATEGORIES),
    {"id": len(SHAPES) + 1, "name": BACKGROUND, "supercategory": BACKGROUND, "isthing": 0},
]


class Mention(NamedTuple):
    """A noun phrase, without article, and the segments it means.

    Attributes:
        place: words on where it is, "" for none; they are no part of the phrase.
        segments: places of objects in the scene; the background's is the one after the last.
    """

    phrase: str
    place: str
    segments: tuple[int, ...]


class Caption(NamedTuple):
    """A text, its mentions in order, and the characters of each mention's phrase."""

    text: str
    mentions: tuple[Mention, ...]
    spans: tuple[Span, ...]


def write_caption(rng: random.Random, scene: Scene) -> Caption:
    """A caption such as "The blue squares, the big red circle top left on the background.".

    Groups of alike objects are named together half of the time; an object that no word tells from
    the others is not mentioned alone.
    """
    mentions = _list_groups(rng, scene)
    named = {index for mention in mentions for index in mention.segments}
    mentions += _list_singles(rng, scene, named)
    rng.shuffle(mentions)
    mentions.append(Mention(BACKGROUND, "", (len(scene.objects),)))
    text, spans = "", []
    for number, mention in enumerate(mentions):
        last = number == len(mentions) - 1
        text += "The " if not text else " on the " if last else ", the "
        spans.append((len(text), len(text) + len(mention.phrase)))
        text += mention.phrase + (f" {mention.place}" if mention.place else "")
    return Caption(f"{text}.", tuple(mentions), tuple(spans))


def _list_groups(rng: random.Random, scene: Scene) -> list[Mention]:
    """Groups of two and more, disjoint; each phrase is true of all its objects and no other."""
    mentions: list[Mention] = []
    named: set[int] = set()
    for _, phrase, members in list_group_sentences(scene, noun="objects"):
        if phrase.endswith("crosses"):  # the tiny reader's tokenizer has no such word
            continue
        if not named & set(members) and rng.random() < 0.5:
            mentions.append(Mention(phrase, "", members))
            named |= set(members)
    return mentions


def _list_singles(rng: random.Random, scene: Scene, named: set[int]) -> list[Mention]:
    """Each object that is not named yet, by a sentence that is true of it alone."""
    mentions = []
    for index, item in enumerate(scene.objects):
        sentence = None if index in named else draw_sentence(rng, scene, item)
        if sentence is not None:
            is_placed = sentence.kind in ("place", "superlative")
            place = "" if is_placed else " ".join(item.place(scene.image_size))
            mentions.append(Mention(sentence.text, place, (index,)))
    return mentions


def build_segments(scene: Scene) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """int32 ``[H, W]`` ids, and COCO's ``segments_info``: objects in order, background last."""
    masks = [item.mask for item in scene.objects]
    masks.append(~np.any(masks, axis=0))
    categories = [SHAPES.index(item.shape) + 1 for item in scene.objects] + [len(SHAPES) + 1]
    pixels, infos = np.zeros(scene.image_size, np.int32), []
    for index, (mask, category_id) in enumerate(zip(masks, categories)):
        pixels[mask] = _get_segment_id(index)
        info = {"id": _get_segment_id(index), "category_id": category_id, "area": int(mask.sum())}
        infos.append({**info, "bbox": compute_box_xywh(mask), "iscrowd": 0})
    return pixels, infos


def build_narrative(caption: Caption) -> dict[str, Any]:
    """The record of a caption as ``png_coco_*.json`` has it, without ``image_id``.

    Utterances are in lower case, the words between two phrases make one, as published.
    """
    segments: list[dict[str, Any]] = []
    end = 0
    for mention, (start, stop) in zip(caption.mentions, caption.spans):
        ids = [str(_get_segment_id(index)) for index in mention.segments]
        segments.append(_build_utterance(caption.text[end:start]))
        segments.append(_build_utterance(mention.phrase, ids))
        end = stop
    segments.append(_build_utterance(caption.text[end:]))
    return {"annotator_id": 0, "caption": caption.text, "segments": segments}


def _build_utterance(text: str, segment_ids: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "utterance": text.strip().lower(),
        "segment_ids": list(segment_ids),
        "plural": len(segment_ids) > 1,
        "noun": bool(segment_ids),
    }


def _get_segment_id(index: int) -> int:
    """Segment k has the colour (3k, 2k, k): all three channels of a panoptic PNG are in use."""
    return (index + 1) * (3 + 256 * 2 + 65536)


def write_list(rng: random.Random, scene: Scene) -> tuple[str, tuple[Span, ...], list[int]]:
    """Every object once, in random order: "a big red circle top left, a white star middle center.".

    With it, per object named, the characters of its name (without article and place), and which
    object of the scene it is.
    """
    order = list(range(len(scene.objects)))
    rng.shuffle(order)
    text, spans = "", []
    for index in order:
        item = scene.objects[index]
        size = ["size"] if rng.random() < 0.6 else []
        name = item.name(*size, "color", "shape")
        text += ", a " if text else "a "
        spans.append((len(text), len(text) + len(name)))
        text += f"{name} {' '.join(item.place(scene.image_size))}"
    return f"{text}.", tuple(spans), order


@DATASETS.register_module()
class ShapeListDataset(BaseDataset):
    """One item per drawn scene, the same ones in every epoch: its list, and a mask for each name.

    Scenes of two seeds have nothing in common. ``**kwargs`` are mmengine's ``BaseDataset``'s.
    """

    origin = "flmm shape list"  # of the randomness

    def __init__(
        self, num_scenes: int, seed: int, image_processor: dict[str, Any], **kwargs: Any
    ) -> None:
        self.num_scenes = num_scenes
        self.seed = seed
        pipeline = [
            dict(type="flmm.EncodeImage", image_processor=image_processor),
            dict(type="flmm.PackGroundingInputs"),
        ]
        super().__init__(pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The numbers of the scenes."""
        return [{"image_id": index} for index in range(self.num_scenes)]

    def prepare_data(self, idx: int) -> dict[str, Any]:
        """Draw a scene and pack it."""
        image_id = self.get_data_info(idx)["image_id"]
        rng = random.Random(f"{self.origin} {self.seed} {image_id}")
        scene = render_scene(rng)
        asked = self.draw(rng, scene)
        nothing = [np.zeros(scene.image_size, bool)]
        masks = [
            np.any(nothing + [scene.objects[index].mask for index in own], axis=0)
            for own in asked.pop("objects")
        ]
        record = {
            "image_id": image_id,
            "img_path": f"scene {image_id} of seed {self.seed}",
            "height": scene.image_size[0],
            "width": scene.image_size[1],
            "image": scene.image,
            "gt_masks": torch.from_numpy(np.stack(masks)),
            "expression_ids": [f"{image_id}:{place}" for place in range(len(masks))],
            **asked,
        }
        return self.pipeline(record)

    def draw(self, rng: random.Random, scene: Scene) -> dict[str, Any]:
        """A record's ``continuations`` and, per phrase, the places of its ``objects``."""
        text, spans, order = write_list(rng, scene)
        objects = [(index,) for index in order]
        return {"continuations": [Continuation(text, spans)], "objects": objects}
