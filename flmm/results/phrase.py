"""A phrase and the pixels it points at, of which every answer of flmm is made; their picture."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flmm.fingerprints import hash_picture
from flmm.geometry import Size
from flmm.images import load_image
from flmm.rle import decode_mask, encode_mask, read_runs

SPECK = 0.08  # of the largest part's area


@dataclass(frozen=True)
class GroundedObject:
    """One of the things that a phrase means."""

    # Its mask in each frame (a picture is one) as COCO's compressed RLE.
    segmentations: tuple[dict[str, Any], ...] = field(repr=False, hash=False)
    score: float  # mean foreground probability inside the mask, in [0, 1]


@dataclass(frozen=True)
class GroundedPhrase:
    """A phrase and its mask, which is that of all its objects together.

    Attributes:
        size: (H, W) of the picture.
        objects: what the words mean; none where the mask is empty.
        presence: how probable it is that the picture shows what the words mean, in [0, 1],
            calibrated where the grounder has a presence rule; without one the highest foreground
            probability of any pixel, which is high for nonsense too.
        problem: what went wrong whatever the picture shows (a reader's reply without a readable
            box): the mask is empty, or from attention alone; ``None``: nothing.
    """

    text: str
    size: Size
    objects: tuple[GroundedObject, ...]
    presence: float
    problem: str | None = None

    @classmethod
    def from_mask(
        cls,
        text: str,
        mask: np.ndarray,
        score: float,
        presence: float | None = None,
        problem: str | None = None,
    ) -> GroundedPhrase:
        """A phrase whose mask, bool ``[H, W]``, is one object; without ``presence`` 0 or 1."""
        has_pixels = bool(mask.any())
        objects = (GroundedObject((encode_mask(mask),), float(score)),) if has_pixels else ()
        shown = float(has_pixels) if presence is None else presence
        return cls(text, (mask.shape[0], mask.shape[1]), objects, shown, problem)

    @property
    def segmentation(self) -> dict[str, Any]:
        """The mask (a video's: in its first frame) as COCO's compressed RLE, JSON ready."""
        return self.merge_objects(0)

    def merge_objects(self, frame: int) -> dict[str, Any]:
        """The mask in a frame as COCO's compressed RLE."""
        if not self.objects:
            return _encode_empty(self.size)
        parts = [item.segmentations[frame] for item in self.objects]
        if len(parts) == 1:
            return parts[0]
        return encode_mask(np.logical_or.reduce([decode_mask(part) for part in parts]))

    @property
    def mask(self) -> np.ndarray:
        """Bool ``[H, W]``, pixels of the picture as given; decoded at every access."""
        return np.ascontiguousarray(decode_mask(self.segmentation))

    @property
    def score(self) -> float:
        """The highest of its objects', in [0, 1]; 0 where the mask is empty."""
        return max((item.score for item in self.objects), default=0.0)

    @property
    def box_xyxy(self) -> np.ndarray:
        """Float32 ``[4]``, pixels, right and bottom edge exclusive; NaN where the mask is empty."""
        edges, height = np.cumsum(read_runs(self.segmentation)), self.size[0]
        starts, ends = edges[:-1:2], edges[1::2] - 1  # first and last pixel of each run, downwards
        is_run = starts <= ends
        if not is_run.any():
            return np.full(4, np.nan, np.float32)
        starts, ends = starts[is_run], ends[is_run]
        left, right = starts[0] // height, ends[-1] // height + 1
        top, bottom = 0, height
        if (starts // height == ends // height).all():  # no run goes on in the next column
            top, bottom = (starts % height).min(), (ends % height).max() + 1
        return np.array([left, top, right, bottom], np.float32)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(read_runs(self.segmentation)[1::2].sum())

    @property
    def is_empty(self) -> bool:
        """Whether the mask has no pixel."""
        return self.area == 0

    def split_parts(self, probs: np.ndarray | None = None) -> GroundedPhrase:
        """The phrase with an object for each connected part of its mask, the largest first.

        Parts that meet at a corner are one; those below ``SPECK`` of the largest one's area are
        no objects and left out. A phrase of several objects, or of a video, stays as it is.

        Args:
            probs: ``[H, W]`` in [0, 1], whose mean inside is an object's score; ``None``: every
                object has the phrase's.
        """
        if len(self.objects) != 1 or len(self.objects[0].segmentations) != 1:
            return self
        import cv2

        mask = np.ascontiguousarray(self.mask, np.uint8)
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = statistics[:, cv2.CC_STAT_AREA]
        parts = sorted(range(1, count), key=lambda part: -areas[part])
        objects = []
        for part in parts:
            if areas[part] >= SPECK * areas[parts[0]]:
                own = labels == part
                score = self.score if probs is None else float(probs[own].mean())
                objects.append(GroundedObject((encode_mask(own),), score))
        return replace(self, objects=tuple(objects))

    def list_objects(self) -> list[GroundedPhrase]:
        """Each of the objects as a phrase of its own; itself alone where it has at most one."""
        if len(self.objects) < 2:
            return [self]
        return [replace(self, objects=(item,)) for item in self.objects]

    def to_coco(
        self, image_id: int | str | None = None, annotation_id: int | None = None
    ) -> dict[str, Any]:
        """A COCO-style record, JSON ready.

        ``phrase``, ``segmentation`` (compressed RLE), ``bbox`` (``[x, y, w, h]`` in pixels, all
        zero where the mask is empty), ``score`` and ``presence``; in a data set, which numbers its
        pictures and annotations, also ``id``, ``image_id``, ``category_id``, ``area`` (pixels) and
        ``iscrowd``.
        """
        x0, y0, x1, y1 = np.nan_to_num(self.box_xyxy).tolist()
        record: dict[str, Any] = {} if annotation_id is None else {"id": annotation_id}
        if image_id is not None:
            record |= {"image_id": image_id, "category_id": 1, "iscrowd": 0, "area": self.area}
        return record | {
            "phrase": self.text,
            "segmentation": self.segmentation,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": self.score,
            "presence": self.presence,
        }

    def to_polygons(self) -> list[np.ndarray]:
        """Per connected part of the mask int32 ``[N, 2]``: (x, y) of its outer rim's corner pixels.

        ``cv2.fillPoly`` with all of them draws the mask without its holes, which polygons cannot
        hold. A part of one or two pixels has as many points; an empty mask has no polygon.
        """
        import cv2

        mask = self.mask.astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        return [contour.reshape(-1, 2) for contour in contours]


@dataclass(frozen=True, eq=False)
class ResultPicture:
    """A picture that can be looked at once more; ``digest``: of a file's pixels.

    A thousand results of photographs would hold gigabytes of pixels that hardly anybody asks for.
    """

    source: Path | np.ndarray  # absolute, or uint8 RGB [H, W, 3]
    digest: str | None = None

    @classmethod
    def keep(cls, given: Any, pixels: np.ndarray) -> ResultPicture:
        """Remember what a person called ``given`` by its ``pixels``, uint8 RGB ``[H, W, 3]``."""
        try:
            is_file = isinstance(given, (str, Path)) and Path(given).is_file()
        except (OSError, ValueError):  # a data: address is no file name
            is_file = False
        return cls(Path(given).absolute(), hash_picture(pixels)) if is_file else cls(pixels)

    @property
    def name(self) -> str:
        """Name of the file, ``"picture"`` where there is none."""
        return self.source.name if isinstance(self.source, Path) else "picture"

    def load(self) -> np.ndarray:
        """Uint8 RGB ``[H, W, 3]``, if the file still holds that picture."""
        if isinstance(self.source, np.ndarray):
            return self.source
        pixels = np.asarray(load_image(self.source))
        if hash_picture(pixels) != self.digest:
            raise ValueError(
                f"{self.source} is another picture than the one that was grounded: its masks do "
                "not belong to it"
            )
        return pixels


@functools.lru_cache(maxsize=8)
def _encode_empty(size: Size) -> dict[str, Any]:
    return encode_mask(np.zeros(size, dtype=bool))
