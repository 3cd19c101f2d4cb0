"""One phrase and the pixels it points at: the record that every answer of flmm is made of."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from flmm.geometry import Size
from flmm.rle import decode_mask, read_runs


@dataclass(frozen=True, eq=False)
class GroundedPhrase:
    """A phrase and its mask.

    Two are equal where all they hold is equal, empty boxes included.

    Attributes:
        text: the words.
        segmentation: the mask as COCO's compressed RLE, JSON ready.
        box_xyxy: float32 ``[4]``, pixels of the picture as given, right and bottom edge exclusive;
            NaN where the mask is empty.
        score: mean foreground probability inside the mask, in [0, 1]; 0 where it is empty.
    """

    text: str
    segmentation: dict[str, Any] = field(repr=False)
    box_xyxy: np.ndarray
    score: float

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and are_fields_equal(self, other)

    def __hash__(self) -> int:
        return hash((self.text, self.segmentation["counts"]))

    @property
    def mask(self) -> np.ndarray:
        """Bool ``[H, W]``, pixels of the picture as given; decoded at every access."""
        return np.ascontiguousarray(decode_mask(self.segmentation))

    @property
    def size(self) -> Size:
        """(H, W) of the picture."""
        height, width = self.segmentation["size"]
        return height, width

    @property
    def area(self) -> int:
        """Pixels of the mask; read off the run lengths, nothing is decoded."""
        return int(read_runs(self.segmentation)[1::2].sum())

    @property
    def is_empty(self) -> bool:
        """Whether the mask has no pixel."""
        return bool(np.isnan(self.box_xyxy).any())

    def to_coco(
        self, image_id: int | str | None = None, annotation_id: int | None = None
    ) -> dict[str, Any]:
        """A COCO-style record, JSON ready.

        Args:
            image_id: of the picture in a data set; ``None``: a record outside any.
            annotation_id: of the phrase there, from 1; only with ``image_id``.

        Returns:
            ``phrase``, ``segmentation`` (compressed RLE), ``bbox`` (``[x, y, w, h]`` in pixels, all
            zero where the mask is empty) and ``score``; with an ``image_id`` also ``id``,
            ``image_id``, ``category_id`` (1), ``area`` (pixels) and ``iscrowd`` (0).
        """
        x0, y0, x1, y1 = (float(edge) for edge in np.nan_to_num(self.box_xyxy))
        record: dict[str, Any] = {} if annotation_id is None else {"id": annotation_id}
        if image_id is not None:
            record |= {"image_id": image_id, "category_id": 1, "iscrowd": 0, "area": self.area}
        return record | {
            "phrase": self.text,
            "segmentation": self.segmentation,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(self.score),
        }

    def to_polygons(self) -> list[np.ndarray]:
        """The outer rims of the mask's parts.

        Returns:
            per connected part int32 ``[N, 2]``: (x, y) of the rim's corner pixels, in OpenCV's
            convention (``cv2.fillPoly`` with all of them draws the mask, but without its holes,
            which polygons cannot hold: ``segmentation`` has them). A part of one or two pixels has
            as many points; an empty mask has no polygon.
        """
        import cv2

        mask = self.mask.astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        return [contour.reshape(-1, 2) for contour in contours]


def are_fields_equal(one: Any, other: Any, without: tuple[str, ...] = ()) -> bool:
    """Whether two dataclasses of one type hold the same; arrays by value, NaN equal to NaN."""
    names = [item.name for item in fields(one) if item.name not in without]
    return all(_are_equal(getattr(one, name), getattr(other, name)) for name in names)


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    return type(one) is type(other) and one == other


__all__ = ["GroundedPhrase", "are_fields_equal"]
