"""A picture as the vision tower of a Qwen-VL model wants it, before it is cut into patches.

The unified processor itself does the work, its patches are laid back into a picture: resize,
rounding and normalisation are therefore its own, whatever its variant (torchvision, PIL).
Carrying ``[C, H', W']`` and patchifying on the device halves what a data loader moves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flmm.geometry import Size
from flmm.images import load_image
from flmm.readers.loading import load_processor
from flmm.records import Grid, ImageInput
from flmm.registry import IMAGE_PROCESSORS

MAX_ASPECT_RATIO = 200  # the limit of transformers' own smart_resize


@IMAGE_PROCESSORS.register_module()
class QwenImageProcessorWrapper:
    """Pictures as resized, normalised ``[C, H', W']``; patches on demand.

    Args:
        processor: unified processor of Qwen2-VL, Qwen2.5-VL or Qwen3-VL, its bare image
            processor, or the folder or hub id to load one from (``"tiny"``: the embedded one).
        min_pixels, max_pixels: limits of H'*W' in pixels; ``None`` keeps the processor's.

    Attributes:
        image_processor: the processor at work, a copy with the pixel limits set.
        patch_size: side of a patch in input pixels.
        merge_size: patches per side of one image token.
        temporal_patch_size: frames per patch; a still image is repeated.
    """

    def __init__(
        self, processor: Any, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> None:
        if isinstance(processor, (str, Path)):
            processor = load_processor(processor)
        if not self.recognises(processor):
            raise TypeError(
                f"{type(processor).__name__} is no processor of Qwen2-VL, Qwen2.5-VL or Qwen3-VL: "
                "hand over what AutoProcessor.from_pretrained gives for one of their folders"
            )
        self.image_processor = copy.copy(getattr(processor, "image_processor", processor))
        self.patch_size = int(self.image_processor.patch_size)
        self.merge_size = int(self.image_processor.merge_size)
        self.temporal_patch_size = int(self.image_processor.temporal_patch_size)
        self.image_token_id = int(getattr(processor, "image_token_id", -1))
        self._set_pixel_limits(min_pixels, max_pixels)

    @staticmethod
    def recognises(processor: Any) -> bool:
        """Whether ``processor`` is a unified Qwen-VL processor or its image processor."""
        if isinstance(processor, QwenImageProcessorWrapper):
            return False
        inner = getattr(processor, "image_processor", processor)
        sizes = ("patch_size", "merge_size", "temporal_patch_size")
        return any("Qwen" in base.__name__ for base in type(inner).__mro__) and all(
            hasattr(inner, size) for size in sizes
        )

    @property
    def pixel_limits(self) -> tuple[int, int]:
        """(least, greatest) number of input pixels H'*W', from whichever key holds them."""
        inner = self.image_processor
        size = dict(getattr(inner, "size", None) or {})
        low = size.get("shortest_edge") or size.get("min_pixels") or inner.min_pixels
        high = size.get("longest_edge") or size.get("max_pixels") or inner.max_pixels
        return int(low), int(high)

    def _set_pixel_limits(self, min_pixels: int | None, max_pixels: int | None) -> None:
        low, high = self.pixel_limits
        low, high = min_pixels or low, max_pixels or high
        if low > high:
            raise ValueError(
                f"min_pixels ({low}) is above max_pixels ({high}): set both, the first below "
                "the second"
            )
        self.image_processor.size = {"shortest_edge": low, "longest_edge": high}
        for name, value in (("min_pixels", low), ("max_pixels", high)):
            if hasattr(self.image_processor, name):
                setattr(self.image_processor, name, value)

    def preprocess(self, images: Any) -> dict[str, list[Any]]:
        """Resize and normalise one picture or several, of anything ``load_image`` reads.

        Returns:
            dict of lists, one entry per picture: ``pixel_values`` (float32 array
            ``[C, H', W']``), ``image_grid_thw`` ((1, grid_h, grid_w) in patches), ``meta_datas``
            (sizes and padding under F-LMM's keys), ``image_sizes`` ((H', W') in input pixels).

        Raises:
            ValueError: the list is empty, or a picture is more than 200 times as long as wide.
        """
        pictures = images if isinstance(images, (list, tuple)) else [images]
        if not pictures:
            raise ValueError("no image given: pass one image or a list of at least one")
        inputs = [self.encode(picture) for picture in pictures]
        return {
            "pixel_values": [item.pixel_values.numpy() for item in inputs],
            "image_grid_thw": [tuple(item.inputs["image_grid_thw"][0].tolist()) for item in inputs],
            "meta_datas": [
                _build_meta_data(item.original_size, _get_input_size(item)) for item in inputs
            ],
            "image_sizes": [_get_input_size(item) for item in inputs],
        }

    def encode(self, image: Any) -> ImageInput:
        """One picture, ready for the reader; an ``ImageInput`` passes unchanged.

        Args:
            image: anything ``load_image`` reads, or an element of a message of qwen-vl-utils:
                ``{"type": "image", "image": ..., "min_pixels": ...}``, resized as it says.
        """
        if isinstance(image, ImageInput):
            return image
        is_element = isinstance(image, Mapping)
        picture = load_image(find_picture(image) if is_element else image)
        long_side, short_side = max(picture.size), min(picture.size)
        if long_side > MAX_ASPECT_RATIO * short_side:
            raise ValueError(
                f"the image is {picture.height} x {picture.width} pixels (h x w), an aspect ratio "
                f"of {long_side / short_side:.0f}; Qwen-VL reads up to {MAX_ASPECT_RATIO}: crop it"
            )
        shown = self._resize(picture, image) if is_element else picture
        features = self.image_processor(images=[shown], return_tensors="pt")
        frames, grid_height, grid_width = (int(side) for side in features["image_grid_thw"][0])
        grid_thw = (frames, grid_height, grid_width)
        pixel_values = self._unpatchify(features["pixel_values"], grid_thw)
        rows, columns = grid_height // self.merge_size, grid_width // self.merge_size
        cells = torch.arange(rows * columns)
        box = (0.0, 0.0, float(picture.width), float(picture.height))
        return ImageInput(
            pixel_values,
            inputs={"image_grid_thw": torch.tensor([grid_thw])},
            token_ids=torch.full_like(cells, self.image_token_id),
            grids=[Grid(cells.view(rows, columns), box)],
            image=np.array(picture),
        )

    def _resize(self, picture: Image.Image, element: Mapping[str, Any]) -> Image.Image:
        """The picture as qwen-vl-utils resizes it for an element of a message."""
        from qwen_vl_utils import process_vision_info

        content = [{**element, "image": picture}]
        messages = [{"role": "user", "content": content}]
        return process_vision_info(messages, image_patch_size=self.patch_size)[0][0]

    def patchify(self, pixel_values: Tensor | Sequence[Tensor] | np.ndarray) -> Tensor:
        """Cut pictures into the patches of the unified processor, in its order.

        ``[C, H', W']``, a batch ``[B, C, H', W']``, or a list of pictures of any sizes become
        ``[n_patches, C*T*p*p]`` on the same device, pictures one after the other.
        """
        if isinstance(pixel_values, (list, tuple)):
            return torch.cat([self.patchify(picture) for picture in pixel_values])
        pixel_values = torch.as_tensor(pixel_values)
        if pixel_values.ndim == 4:
            return torch.cat([self.patchify(picture) for picture in pixel_values])
        return patchify(pixel_values, self.patch_size, self.merge_size, self.temporal_patch_size)

    def _unpatchify(self, patches: Tensor, grid_thw: tuple[int, ...]) -> Tensor:
        """``[n_patches, C*T*p*p]`` of one still picture as float32 ``[C, H', W']``."""
        patch, merge = self.patch_size, self.merge_size
        _, grid_height, grid_width = grid_thw
        blocks = patches.reshape(
            *(grid_height // merge, grid_width // merge, merge, merge),
            *(-1, self.temporal_patch_size, patch, patch),
        )[..., 0, :, :]
        picture = blocks.permute(4, 0, 2, 5, 1, 3, 6)
        shape = (-1, grid_height * patch, grid_width * patch)
        return picture.reshape(shape).to(torch.float32)


def patchify(pixel_values: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Patches of one still picture ``[C, H', W']``, token by token: ``[n_patches, C*T*p*p]``.

    ``patch`` is the side p in pixels, ``merge`` patches are the side of one image token, and the
    picture is taken ``frames`` times, T.
    """
    factor = patch * merge
    channels, height, width = pixel_values.shape
    if height % factor or width % factor:
        raise ValueError(
            f"input of {height} x {width} pixels (h x w) cannot be cut into image tokens: both "
            f"sides must be multiples of {factor}; use preprocess()"
        )
    blocks = pixel_values.reshape(
        channels, height // factor, merge, patch, width // factor, merge, patch
    ).permute(1, 4, 2, 5, 0, 3, 6)
    blocks = blocks.unsqueeze(5).expand(*blocks.shape[:5], frames, patch, patch)
    return blocks.reshape(height * width // patch**2, -1)


def _build_meta_data(original_size: Size, input_size: Size) -> dict[str, Any]:
    """Sizes of a picture (h, w) that was resized and not padded, under the keys of F-LMM."""
    (height, width), (input_height, input_width) = original_size, input_size
    sides = [f"{place}_{side}" for place in ("before", "after") for side in ("height", "width")]
    return {
        "original_shape": {"height": height, "width": width},
        "image_shape": {"height": input_height, "width": input_width},
        "padded_shape": {"height": input_height, "width": input_width},
        "padding": dict.fromkeys(sides, 0),
        "scale_factor": (input_height / height, input_width / width),
    }


def find_picture(element: Mapping[str, Any]) -> Any:
    """What an element of a message calls its picture."""
    source = element.get("image", element.get("image_url"))
    if source is None:
        raise ValueError(
            f"an element of a message has the keys {', '.join(map(str, element))}: give a picture "
            "under 'image'"
        )
    return source.removeprefix("file://") if isinstance(source, str) else source


def _get_input_size(image: ImageInput) -> Size:
    """(H', W') in input pixels."""
    return image.pixel_values.shape[1], image.pixel_values.shape[2]
