"""Captions that list the objects of synthetic scenes, in the words that the tiny reader writes.

In: a number of scenes and a seed. Out: one item per scene: a picture, "a big red circle top left,
a white star middle center." as one continuation, and a mask for each name in it. Nothing is read
from disk.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from flmm.records import Continuation, Span
from flmm.registry import DATASETS
from flmm.toy.shapes import Scene, render_scene


@DATASETS.register_module()
class ShapeListDataset(BaseDataset):
    """One item per drawn scene, the same ones in every epoch.

    Args:
        num_scenes: how many.
        seed: scenes of two seeds have nothing in common.
        image_processor: config of the reader's image processor.
        **kwargs: of mmengine's ``BaseDataset``.
    """

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
        """Nothing but the numbers of the scenes."""
        return [{"image_id": index} for index in range(self.num_scenes)]

    def prepare_data(self, idx: int) -> dict[str, Any]:
        """Draw a scene and pack it."""
        image_id = self.get_data_info(idx)["image_id"]
        rng = random.Random(f"flmm shape list {self.seed} {image_id}")
        scene = render_scene(rng)
        text, spans, objects = write_list(rng, scene)
        masks = np.stack([scene.objects[index].mask for index in objects])
        record = {
            "image_id": image_id,
            "img_path": f"scene {image_id} of seed {self.seed}",
            "height": scene.image_size[0],
            "width": scene.image_size[1],
            "image": scene.image,
            "continuations": [Continuation(text, spans)],
            "gt_masks": torch.from_numpy(masks),
            "expression_ids": [f"{image_id}:{place}" for place in range(len(spans))],
        }
        return self.pipeline(record)


def write_list(rng: random.Random, scene: Scene) -> tuple[str, tuple[Span, ...], list[int]]:
    """Every object once, in random order, with colour, shape and place, and often its size.

    Returns:
        the text; per object named the characters of its name, without article and place; and which
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
