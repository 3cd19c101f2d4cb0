"""From one record of a data set to what the grounder reads.

load the picture -> decode the masks -> encode the picture for the reader -> pack. Data in: the
dict of :class:`flmm.datasets.refcoco.RefCocoGroundingDataset`. Data out: ``dict(inputs=ImageInput,
data_samples=GroundingSample)``. Nothing is augmented: a phrase such as "left dog" forbids flips.
"""

from __future__ import annotations

import io
from typing import Any

import mmengine.fileio
import numpy as np
import torch
from PIL import Image

from flmm.datasets.masks import decode_segmentation
from flmm.registry import IMAGE_PROCESSORS, TRANSFORMS
from flmm.structures import GroundingSample

# One image processor per config and process: train, val and test share it.
_image_processors: dict[str, Any] = {}


def build_pipeline(image_processor: dict[str, Any]) -> list[dict[str, Any]]:
    """The four steps that every data set takes, as config dicts."""
    return [
        dict(type="flmm.LoadRGBImage"),
        dict(type="flmm.DecodeMasks"),
        dict(type="flmm.EncodeImage", image_processor=image_processor),
        dict(type="flmm.PackGroundingInputs"),
    ]


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB, pixels where they are: EXIF orientation is not applied.

    Annotations are given on the raw pixels. 16-bit grey is scaled to 8 bits, transparency is
    dropped.
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        scale = 257.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 1.0
        image = Image.fromarray(np.clip(values / scale, 0, 255).astype(np.uint8))
    return image.convert("RGB")


@TRANSFORMS.register_module()
class LoadRGBImage:
    """Reads ``img_path`` and writes ``image``: PIL, RGB, of the annotated size.

    Args:
        backend_args: of ``mmengine.fileio.get``; None reads local files.
    """

    def __init__(self, backend_args: dict[str, Any] | None = None) -> None:
        self.backend_args = backend_args

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``image``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: not a readable picture, or not of the size its annotation says.
        """
        path = results["img_path"]
        try:
            content = mmengine.fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"image {path} (image_id {results['image_id']}) does not exist: check data_root "
                "and data_prefix.img_path"
            ) from error
        try:
            image = convert_to_rgb(Image.open(io.BytesIO(content)))
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"image {path} cannot be read: {error}") from error
        annotated = (results["height"], results["width"])
        if (image.height, image.width) != annotated:
            raise ValueError(
                f"image {path} is {image.height} x {image.width} px (h x w), its annotation says "
                f"{annotated[0]} x {annotated[1]}: the masks would not fit"
            )
        return {**results, "image": image}


@TRANSFORMS.register_module()
class DecodeMasks:
    """Writes ``gt_masks``: bool tensor ``[P, H, W]``, original frame, in phrase order."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_masks``; a mask that several phrases share is decoded once.

        Raises:
            ValueError: a segmentation cannot be decoded; the message names image and ref.
        """
        masks = []
        for ref_id, segmentation in results["segmentations"].items():
            try:
                masks.append(decode_segmentation(segmentation, results["height"], results["width"]))
            except (ValueError, TypeError, IndexError) as error:
                raise ValueError(
                    f"the mask of ref {ref_id} (image_id {results['image_id']}) cannot be decoded: "
                    f"{error}"
                ) from error
        rows = {ref_id: row for row, ref_id in enumerate(results["segmentations"])}
        unique = torch.from_numpy(np.stack(masks))
        return {**results, "gt_masks": unique[[rows[ref_id] for ref_id in results["ref_ids"]]]}


@TRANSFORMS.register_module()
class EncodeImage:
    """Writes ``image_input``: the picture as the frozen reader takes it (an ``ImageInput``).

    Args:
        image_processor: config of a reader's image processor, or a ready one; it has
            ``encode(image) -> ImageInput``. Built at the first picture, once per worker.
    """

    def __init__(self, image_processor: dict[str, Any] | Any) -> None:
        self.image_processor = image_processor

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``image_input``."""
        return {**results, "image_input": self._get_processor().encode(results["image"])}

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

    META_KEYS = (
        "image_id",
        "img_path",
        "expression_ids",
        "ref_ids",
        "expression_kinds",
        "expression_groups",
    )

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack ``image_input``, ``continuations``, ``gt_masks`` and the meta data."""
        sample = GroundingSample(
            metainfo={key: results[key] for key in self.META_KEYS if key in results}
            | {"original_size": (results["height"], results["width"])}
        )
        sample.continuations = results["continuations"]
        sample.gt_masks = results["gt_masks"]
        return {"inputs": results["image_input"], "data_samples": sample}


__all__ = [
    "DecodeMasks",
    "EncodeImage",
    "LoadRGBImage",
    "PackGroundingInputs",
    "build_pipeline",
    "convert_to_rgb",
]
