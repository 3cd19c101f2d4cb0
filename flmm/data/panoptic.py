"""COCO panoptic annotations: which segments an image has, and which pixels they cover."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from flmm.data.grounding_dataset import BadRecordError, MissingFileError
from flmm.data.refer_files import IMAGE_FIELDS, check_fields, check_records, load_json
from flmm.images import open_image
from flmm.registry import TRANSFORMS

ANNOTATION_FIELDS = ("image_id", "file_name", "segments_info")
SEGMENT_FIELDS = ("id", "category_id")
CATEGORY_FIELDS = ("id", "isthing")


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
    """The annotated images of a panoptic JSON file, by image id.

    Raises:
        ValueError: it is no JSON, lacks a field, or an annotation names an image or a category
            that is not in it.
    """
    content = load_json(path, "panoptic_json")
    check_fields(content, ("images", "annotations", "categories"), str(path))
    categories = check_records(
        content["categories"], CATEGORY_FIELDS, f"{path}: a category", ids=("id",)
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
        content["annotations"], ANNOTATION_FIELDS, f"{path}: an annotation", ids=("image_id",)
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
        annotation["segments_info"], SEGMENT_FIELDS, f"{where}: a segment", ids=SEGMENT_FIELDS
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

    An id is red + 256 green + 65536 blue.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a readable picture, or none in RGB.
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
