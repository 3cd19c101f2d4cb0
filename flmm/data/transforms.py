"""From one record of a data set to what the grounder reads: the steps of the standard pipeline.

Load the picture -> decode the masks -> encode the picture for the reader -> pack. Nothing is
augmented: a phrase such as "left dog" forbids flips. What makes a record unusable is raised as
``BadRecordError`` and names the image; the data set decides what follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from flmm.data.grounding_dataset import BadRecordError, MissingFileError
from flmm.data.masks import decode_segmentation
from flmm.data.samples import build_sample, keep_phrases
from flmm.images import Orientation, load_image
from flmm.registry import IMAGE_PROCESSORS, TRANSFORMS

# One image processor per config and process: train, val and test share it.
_image_processors: dict[str, Any] = {}


def _name(results: dict[str, Any]) -> str:
    """What messages call a record."""
    return f"image {results['img_path']} (image_id {results['image_id']})"


@TRANSFORMS.register_module()
class LoadRGBImage:
    """Reads the file ``img_path`` and writes ``image``: PIL, RGB, of the annotated size.

    ``orientation``: "stored": pixels are where the file has them, whatever its EXIF tag says
    (COCO's masks are given on these); "upright": as the tag says. Where no size is annotated,
    ``height`` and ``width`` are written too.
    """

    def __init__(self, orientation: Orientation = "stored") -> None:
        self.orientation: Orientation = orientation

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``image``."""
        path = results["img_path"]
        try:
            image = load_image(path, self.orientation)
        except FileNotFoundError as error:
            raise MissingFileError(
                f"{_name(results)} does not exist: check data_root and data_prefix.img_path"
            ) from error
        except (OSError, ValueError) as error:
            raise BadRecordError(f"{error} (image_id {results['image_id']})") from error
        height, width = results.get("height", image.height), results.get("width", image.width)
        if (image.height, image.width) != (height, width):
            raise BadRecordError(
                f"{_name(results)} is {image.height} x {image.width} px (h x w), its annotation "
                f"says {height} x {width}: the masks would not fit"
            )
        return {**results, "image": image, "height": height, "width": width}


@TRANSFORMS.register_module()
class DecodeMasks:
    """Writes ``gt_masks``: bool tensor ``[P, H, W]``, original frame, in phrase order."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_masks``; a mask that several phrases share is decoded once."""
        masks = {}
        size = results["height"], results["width"]
        for ref_id, segmentations in results["segmentations"].items():
            mask = np.zeros(size, dtype=bool)
            try:
                for segmentation in segmentations:
                    mask |= decode_segmentation(segmentation, *size)
            except ValueError as error:
                raise BadRecordError(
                    f"the mask of ref {ref_id} (image_id {results['image_id']}) cannot be decoded: "
                    f"{error}"
                ) from error
            masks[ref_id] = torch.from_numpy(mask)
        return {**results, "gt_masks": torch.stack([masks[key] for key in results["ref_ids"]])}


@TRANSFORMS.register_module()
class DropEmptyMasks:
    """Takes phrases without a single true pixel out of a record that is trained on.

    ``left_out`` has the ids of their expressions; the data set tells them.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Drop them from ``gt_masks``, ``continuations`` and all lists per phrase."""
        kept = results["gt_masks"].flatten(1).any(1)
        if kept.all():
            return results
        if not kept.any():
            raise BadRecordError(
                f"the true masks of all expressions of {_name(results)} are empty: there is "
                "nothing to train on"
            )
        left_out = [key for key, keep in zip(results["expression_ids"], kept.tolist()) if not keep]
        record = keep_phrases(results, kept.tolist())
        return {**record, "gt_masks": results["gt_masks"][kept], "left_out": left_out}


@TRANSFORMS.register_module()
class EncodeImage:
    """Writes ``image_input``: the picture as the frozen reader takes it (an ``ImageInput``).

    ``image_processor`` is the config of a reader's image processor, built at the first picture and
    once per worker; or a ready one.
    """

    def __init__(self, image_processor: dict[str, Any] | Any) -> None:
        self.image_processor = image_processor

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``image_input``."""
        processor = self._get_processor()
        try:
            return {**results, "image_input": processor.encode(results["image"])}
        except ValueError as error:
            raise BadRecordError(
                f"{_name(results)} cannot be encoded for the reader: {error}"
            ) from error

    def _get_processor(self) -> Any:
        if not isinstance(self.image_processor, dict):
            return IMAGE_PROCESSORS.build(self.image_processor)
        key = repr(self.image_processor)
        if key not in _image_processors:
            _image_processors[key] = IMAGE_PROCESSORS.build(self.image_processor)
        return _image_processors[key]


@TRANSFORMS.register_module()
class PackGroundingInputs:
    """Packs the results into ``dict(inputs=ImageInput, data_samples=GroundingSample)``."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack ``image_input``, ``continuations``, ``gt_masks`` and the meta data."""
        sample = build_sample(results)
        sample.gt_masks = results["gt_masks"]
        if "ignored" in results:
            sample.ignored = results["ignored"]
        return {"inputs": results["image_input"], "data_samples": sample}
