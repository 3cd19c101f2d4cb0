"""Arrays (channels last) and tensors (channels first, as in torchvision) as 8-bit pixels.

What a value means is decided from the array's type and range alone; where two readings are possible
the array is refused, with what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Bicubic resizing (torch's, a = -0.75) overshoots by (2 * 1.1875 * 0.1875) of the range at most.
_OVERSHOOT = 0.45
# Fractions whose greatest value lies between the two ranges may be either, or neither.
_LEAST_OF_255 = 64.0
_RANGES = "give whole numbers in [0, 255] or fractions in [0, 1]"
_CHANNELS = (1, 3, 4)
# Dimension of the channels -> what has them there, and the way out where they are at the other end.
_LAYOUTS = {
    2: ("an array", "array.transpose(1, 2, 0), or a torch tensor, whose channels come first"),
    0: (
        "a tensor",
        "tensor.permute(2, 0, 1), or tensor.numpy(), since the channels of an array come last",
    ),
}


def convert_array(array: np.ndarray) -> np.ndarray:
    """An array ``[H, W]``, ``[H, W, 1]``, RGB or RGBA as uint8 ``[H, W]`` or ``[H, W, 3 | 4]``.

    ``[3, H, 3]`` is a picture of three rows.

    Raises:
        TypeError: its dtype cannot hold a picture, or some of its values are masked.
        ValueError: its shape or its values are not those of a picture.
    """
    if array.dtype.kind not in "buif":
        raise TypeError(f"an array of dtype {array.dtype} is not an image: {_RANGES}")
    if np.ma.is_masked(array):
        raise TypeError("some values of the array are masked: fill them first, array.filled(0)")
    _check_shape(array.shape, channels=2)
    if 0 in array.shape:
        raise ValueError(f"the image has no pixels (array of shape {list(array.shape)})")
    if array.shape[2:] == (1,):
        array = array[:, :, 0]
    return np.ascontiguousarray(convert_values(np.asarray(array)))


def convert_tensor(tensor: Tensor) -> np.ndarray:
    """A tensor ``[H, W]``, ``[1, H, W]``, RGB or RGBA, on any device, as :func:`convert_array`.

    Raises:
        TypeError: it is complex, sparse, quantized or without values.
        ValueError: its shape or its values are not those of a picture.
    """
    is_plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta)
    if not is_plain or tensor.is_complex():
        kind = "one without values" if tensor.is_meta else f"{tensor.layout} of {tensor.dtype}"
        raise TypeError(f"this tensor ({kind}) is not an image: give a dense one of real numbers")
    _check_shape(tensor.shape, channels=0)
    if tensor.is_floating_point() and tensor.dtype != torch.float64:
        tensor = tensor.float()  # numpy has no bfloat16
    array = tensor.numpy(force=True)
    return convert_array(array if array.ndim == 2 else array.transpose(1, 2, 0))


def _check_shape(shape: Sequence[int], channels: int) -> None:
    """Refuse what is no picture whose channels, if it has any, are in dimension 0 or 2."""
    kind, way_out = _LAYOUTS[channels]
    if len(shape) == 4:
        raise ValueError(
            f"{kind} of shape {list(shape)} is several images: give them as a list, "
            f"list({kind.partition(' ')[2]})"
        )
    if len(shape) == 2 or (len(shape) == 3 and shape[channels] in _CHANNELS):
        return
    if len(shape) == 3 and shape[2 - channels] in _CHANNELS:
        where = "last" if channels == 0 else "first"
        raise ValueError(f"{kind} of shape {list(shape)} has its channels {where}: give {way_out}")
    wanted = "[H, W], [H, W, 3] or [H, W, 4]" if channels else "[3, H, W], [4, H, W] or [H, W]"
    raise ValueError(f"{kind} of shape {list(shape)} is not an image: give {wanted}")


def convert_values(array: np.ndarray) -> np.ndarray:
    """The values of a picture as uint8, of the same shape.

    - uint8 as it is; bools are 0 and 255.
    - Whole numbers (of any other type, also floats above 1) are 8 bits where none is above 255,
      and else 16 bits, scaled by 1/257. A 16-bit picture without any value above 255 would be
      black; it is taken for 8 bits in a wider type.
    - Fractions reach from 0 to 1, or to 255. What bicubic resizing made overshoot is clipped.

    Raises:
        ValueError: a value is not finite or out of every range, or fractions reach further than 1
            and not far enough to be taken for [0, 255].
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("some values of the image are infinite or no numbers (NaN): " + _RANGES)
    is_fraction = array.dtype.kind == "f" and (
        high <= 1 or not np.array_equal(array, np.floor(array))
    )
    if is_fraction:
        return _convert_fractions(array, low, high)
    if low < 0 or high > 65535:
        raise _refuse(low, high, _RANGES)
    if high <= 255:
        return array.astype(np.uint8)
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # rounded


def _convert_fractions(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Floats in [0, 1] or [0, 255], give or take what resizing makes them overshoot."""
    is_clear = low >= -_OVERSHOOT * max(high, 0)
    if is_clear and high <= 1 + _OVERSHOOT:
        factor = 255.0
    elif is_clear and _LEAST_OF_255 <= high <= (1 + _OVERSHOOT) * 255:
        factor = 1.0
    else:
        raise _refuse(low, high, f"the range is not clear, {_RANGES}")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return np.rint(np.clip(array * factor, 0, 255)).astype(np.uint8)


def _refuse(low: float, high: float, way_out: str) -> ValueError:
    return ValueError(f"image values reach from {low:g} to {high:g}: {way_out}")
