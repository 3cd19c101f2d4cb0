"""COCO's true masks: segmentations as pycocotools decodes the sound ones, and panoptic PNGs.

pycocotools trusts its input: a coordinate of 1e12 or an outline without end takes all memory. What
is unsound is refused here, in words; runs are the duty of :mod:`flmm.rle`.
"""

from __future__ import annotations

import reprlib
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from flmm.data.grounding_dataset import BadRecordError, MissingFileError
from flmm.data.refer_files import IMAGE_FIELDS, check_fields, check_records, load_json
from flmm.images import open_image
from flmm.registry import TRANSFORMS
from flmm.rle import MAX_PIXELS, decode_mask, read_runs

_MAX_COORDINATE = 1e5  # px; pictures are smaller, polygons may reach outside them a little
_MAX_OUTLINE = 2e6  # px; pycocotools keeps five points for each
_PANOPTIC_FIELDS = ("image_id", "file_name", "segments_info")
_SEGMENT_FIELDS = ("id", "category_id")
_CATEGORY_FIELDS = ("id", "isthing")


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask of one annotation, bool ``[H, W]``; all false where no polygon has three points.

    Args:
        segmentation: list of polygons ``[[x0, y0, x1, y1, ...], ...]`` (px, original frame), or
            an RLE dict with ``size`` (h, w) and ``counts`` (list, str or bytes).
        height, width: of the picture, px.

    Raises:
        ValueError: see :func:`check_segmentation`.
    """
    if isinstance(segmentation, dict):
        return decode_mask(segmentation, (height, width))
    check_segmentation(segmentation, height, width)
    # Two points enclose no pixel; pycocotools would take four numbers for a box.
    polygons = [polygon for polygon in segmentation if len(polygon) > 4]
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.decode(rle).astype(bool)


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    """Raise a ``ValueError`` where a segmentation cannot be decoded; no mask is made here.

    It is neither form, has coordinates that are no pixel positions, outlines longer than any
    object's, more pixels than any picture, or an RLE that :func:`flmm.rle.read_runs` refuses.
    """
    if isinstance(segmentation, dict):
        read_runs(segmentation, (height, width))
    elif isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        if height * width > MAX_PIXELS:
            raise ValueError(f"the mask would be of {height} x {width} px, over {MAX_PIXELS:,} px")
        _check_polygons(segmentation)
    else:
        raise ValueError(
            f"a segmentation is a list of polygons or an RLE dict, got {reprlib.repr(segmentation)}"
        )


def _check_polygons(polygons: list[list[Any]]) -> None:
    """Polygons are pairs of numbers within reach of a picture, and go round some object."""
    for polygon in polygons:
        if len(polygon) % 2:
            raise ValueError(f"a polygon is pairs x, y; this one has {len(polygon)} numbers")
    for value in chain.from_iterable(polygons):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Written so that NaN fails too.
        if not (is_number and abs(value) < _MAX_COORDINATE):
            raise ValueError(
                f"a polygon has the coordinate {reprlib.repr(value)}, which is no pixel position"
            )
    outline = sum(map(_measure_outline, polygons))
    if outline > _MAX_OUTLINE:
        raise ValueError(f"the polygons' outlines are {outline:,.0f} px long: they are no object's")


def _measure_outline(polygon: list[float]) -> float:
    """Length of a closed outline in px, an edge being as long as its longer side."""
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    steps = points - np.roll(points, 1, axis=0)
    return float(np.abs(steps).max(axis=1).sum()) if len(points) else 0.0


class PanopticImage(NamedTuple):
    """One image of a panoptic JSON file: its picture, the PNG with its segments, and their ids.

    Attributes:
        is_thing: by segment id, whether its category is a thing (else stuff).
    """

    file_name: str
    height: int
    width: int
    panoptic_name: str
    is_thing: dict[int, bool]


def load_panoptic(path: str | Path) -> dict[int, PanopticImage]:
    """The annotated images of a panoptic JSON file, by image id; the whole file is checked."""
    content = load_json(path, "panoptic_json")
    check_fields(content, ("images", "annotations", "categories"), str(path))
    categories = check_records(
        content["categories"], _CATEGORY_FIELDS, f"{path}: a category", ids=("id",)
    )
    things = {category["id"]: bool(category["isthing"]) for category in categories}
    pictures = {}
    for image in check_records(content["images"], IMAGE_FIELDS, f"{path}: an image", ids=("id",)):
        where, size = f"{path}: the image with id {image['id']}", [image["height"], image["width"]]
        if not all(type(side) is int and side > 0 for side in size):
            raise ValueError(f"{where} has the size {reprlib.repr(size)} (h, w)")
        if not isinstance(image["file_name"], str):
            raise ValueError(f"{where} has the file_name {reprlib.repr(image['file_name'])}")
        pictures[image["id"]] = image
    annotations = check_records(
        content["annotations"], _PANOPTIC_FIELDS, f"{path}: an annotation", ids=("image_id",)
    )
    return {
        annotation["image_id"]: _build_image(annotation, pictures, things, str(path))
        for annotation in annotations
    }


def _build_image(
    annotation: Any, pictures: dict[int, Any], things: dict[int, bool], path: str
) -> PanopticImage:
    where = f"{path}: the annotation of image_id {annotation['image_id']}"
    if annotation["image_id"] not in pictures:
        raise ValueError(f"{where} is about an image that is not among the file's images")
    if not isinstance(annotation["file_name"], str):
        raise ValueError(f"{where} has the file_name {reprlib.repr(annotation['file_name'])}")
    is_thing = {}
    for segment in check_records(
        annotation["segments_info"], _SEGMENT_FIELDS, f"{where}: a segment", ids=_SEGMENT_FIELDS
    ):
        if segment["category_id"] not in things:
            raise ValueError(
                f"{where}: segment {segment['id']} is of category {segment['category_id']}, "
                "which is not among the file's categories"
            )
        is_thing[segment["id"]] = things[segment["category_id"]]
    image = pictures[annotation["image_id"]]
    return PanopticImage(
        image["file_name"], image["height"], image["width"], annotation["file_name"], is_thing
    )


def decode_segment_ids(source: str | bytes) -> np.ndarray:
    """int32 ``[H, W]`` of a panoptic PNG (path or content): each pixel's segment id, 0 for none.

    An id is red + 256 green + 65536 blue. What is no readable RGB picture is a ``ValueError``.
    """
    try:
        with open_image(source) as picture:
            mode, colors = picture.mode, np.asarray(picture, dtype=np.int32)
    except FileNotFoundError:
        raise
    except Exception as error:  # a broken picture raises almost anything
        raise ValueError(f"no readable picture: {error}") from error
    if mode not in ("RGB", "RGBA"):
        raise ValueError(f"its mode is {mode}, a panoptic PNG has segment ids in RGB colours")
    return colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]


def encode_segment_ids(segment_ids: np.ndarray) -> Image.Image:
    """The panoptic picture of int ``[H, W]`` ids below 2**24; the inverse of decoding."""
    colors = np.stack([segment_ids, segment_ids >> 8, segment_ids >> 16], axis=-1) & 255
    return Image.fromarray(colors.astype(np.uint8))


@TRANSFORMS.register_module()
class DecodePanopticMasks:
    """Writes ``gt_masks``: bool tensor ``[P, H, W]``, the union of each phrase's segments.

    Reads ``panoptic_path`` and ``segment_ids`` (a list of ids per phrase). A segment that has no
    pixel adds nothing. A PNG that is missing or does not fit is a :class:`BadRecordError`.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_masks``."""
        path = results["panoptic_path"]
        name = f"panoptic PNG {path} (image_id {results['image_id']})"
        try:
            pixels = decode_segment_ids(path)
        except FileNotFoundError as error:
            raise MissingFileError(
                f"{name} does not exist: check data_root and data_prefix.panoptic_path"
            ) from error
        except ValueError as error:
            raise BadRecordError(f"{name} cannot be used: {error}") from error
        height, width = results["height"], results["width"]
        if pixels.shape != (height, width):
            raise BadRecordError(
                f"{name} is {pixels.shape[0]} x {pixels.shape[1]} px (h x w), its image "
                f"{height} x {width}: the masks would not fit"
            )
        masks = [np.isin(pixels, ids) for ids in results["segment_ids"]]
        return {**results, "gt_masks": torch.from_numpy(np.stack(masks))}
