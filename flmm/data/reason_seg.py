"""ReasonSeg: a folder of pictures with a JSON file each, as grounding samples.

In: ``<split>/*.json`` with ``text`` (wordings of one query), ``is_sentence`` and ``shapes``
(labelled polygons), and the ``.jpg`` of each. Pixels of a shape labelled "ignore" are counted
neither as target nor as ground.

Source: dvlab-research/LISA utils/data_processing.py and utils/dataset.py.
"""

from __future__ import annotations

import reprlib
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from flmm.data.grounding_dataset import BadRecordError, GroundingDataset, check_choice
from flmm.data.masks import check_segmentation
from flmm.data.refer_files import check_fields, check_records, load_json
from flmm.images import Orientation
from flmm.records import Continuation
from flmm.registry import DATASETS, TRANSFORMS

TARGET, IGNORED = 1, 255
_FIELDS = ("text", "is_sentence", "shapes")


@DATASETS.register_module()
class ReasonSegDataset(GroundingDataset):
    """One item per picture: its query and the mask of what it asks for.

    Args:
        data_root, data_prefix, split: ``data_prefix=dict(img_path=...)`` is the folder that holds
            those of the splits.
        text_mode: "first": the first wording, as evaluations take it; "random": one of them, drawn
            from ``(seed, epoch, index)``.
        **kwargs: of :class:`GroundingDataset`.

    Samples have ``ignored``, and the group "short" (a phrase) or "long" (``is_sentence``).
    """

    mask_decoder = "flmm.PaintShapes"
    orientation: Orientation = "upright"  # polygons are on the picture as people see it

    def __init__(
        self,
        data_root: str,
        data_prefix: dict[str, str],
        split: str = "val",
        text_mode: str = "first",
        **kwargs: Any,
    ) -> None:
        check_choice("text_mode", text_mode, ("first", "random"))
        self.split = split
        self.text_mode = text_mode
        super().__init__(data_root=data_root, data_prefix=data_prefix, **kwargs)

    @property
    def folder(self) -> Path:
        """That of the split."""
        return Path(self.data_prefix["img_path"], self.split)

    @property
    def source(self) -> str:
        """What messages call the data."""
        return str(self.folder)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per JSON file, by name."""
        paths = sorted(self.folder.glob("*.json"))
        if not paths:
            raise FileNotFoundError(
                f"{self.folder} holds no *.json: check data_root, data_prefix.img_path and split"
            )
        records = []
        for path in paths:
            try:
                records.append(_read_record(path))
            except ValueError as error:
                self.reject(str(error), path.stem, [path.stem])
        return records

    def build_record(self, idx: int) -> dict[str, Any]:
        """Choose the wording of picture ``idx``."""
        record = self.get_data_info(idx)
        texts = record.pop("text")
        place = 0 if self.text_mode == "first" else self.start_draw(idx).integers(len(texts))
        return {**record, "continuations": [Continuation(texts[place])]}


def _read_record(path: Path) -> dict[str, Any]:
    """The record of a file, whose shapes are checked but for their reach."""
    try:
        content = load_json(path, "query file")
    except ValueError:  # some published files are in this encoding
        content = load_json(path, "query file", encoding="cp1252")
    check_fields(content, _FIELDS, str(path))
    texts = content["text"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path}: text is no list of texts")
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise ValueError(f"{path} has no query: its text is blank")
    shapes = check_records(content["shapes"], ("label", "points"), f"{path}: a shape", ("label",))
    return {
        "image_id": path.stem,
        "img_path": str(path.with_suffix(".jpg")),
        "text": texts,
        "shapes": [(str(shape["label"]).lower(), shape["points"]) for shape in shapes],
        "expression_ids": [path.stem],
        "expression_groups": [("long" if content["is_sentence"] else "short",)],
    }


@TRANSFORMS.register_module()
class PaintShapes:
    """Writes ``gt_masks``, bool ``[1, H, W]``, and ``ignored``, bool ``[H, W]``, of ``shapes``."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add both; a polygon that cannot be painted is a :class:`BadRecordError`."""
        try:
            painted = paint_shapes(results["shapes"], results["height"], results["width"])
        except ValueError as error:
            raise BadRecordError(
                f"a shape of {results['img_path']} cannot be painted: {error}"
            ) from error
        pixels = torch.from_numpy(painted)
        return {**results, "gt_masks": (pixels == TARGET)[None], "ignored": pixels == IGNORED}


def paint_shapes(
    shapes: list[tuple[str, list[list[float]]]], height: int, width: int
) -> np.ndarray:
    """uint8 ``[H, W]``: 1 for the target, 255 for what is ignored, 0 for the ground.

    The largest shape is painted first, so that smaller ones lie on top; corners are cut to whole
    pixels, and outlines belong to a shape. "flag" marks what annotators have given up.

    Args:
        shapes: label in lower case and corners ``[[x, y], ...]`` in px.
    """
    painted: list[tuple[int, int, np.ndarray]] = []
    for label, points in shapes:
        if label == "flag" or not points:
            continue
        if not all(isinstance(point, list) and len(point) == 2 for point in points):
            raise ValueError(f"points are pairs [x, y], got {reprlib.repr(points)}")
        check_segmentation([list(chain.from_iterable(points))], height, width)
        mask = np.zeros((height, width), np.uint8)
        corners = [np.array(points, dtype=np.int32)]
        cv2.polylines(mask, corners, True, 1, 1)
        cv2.fillPoly(mask, corners, 1)
        painted.append((int(mask.sum()), IGNORED if "ignore" in label else TARGET, mask > 0))
    canvas = np.zeros((height, width), np.uint8)
    for _, value, inside in sorted(painted, key=lambda item: item[0])[::-1]:
        canvas[inside] = value
    return canvas
