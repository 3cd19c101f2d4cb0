"""Tensors as a cache stores them: exactly, or as float16 that loses nothing small.

In: a tensor and its name; out: named tensors for a file, and back. Attention weights span more
decades than float16 has, and heads take their logarithm; therefore each row is scaled by a power
of two, which costs no precision, so that its greatest value is just below float16's own limit.
Not its duty: files, keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

STORAGE_DTYPES = ("float16", "float32")
_SCALE_SUFFIX = ".scale"
# The greatest value of a row lands in [2**14, 2**15); float16 ends at 65504.
_GREATEST_EXPONENT = 15
_LEAST_SCALE_EXPONENT = -126  # of a normal float32


def pack_tensor(name: str, tensor: Tensor, storage: str, row_dims: int) -> dict[str, Tensor]:
    """A tensor as it is stored, on the CPU, under ``name`` and perhaps ``name.scale``.

    With ``storage`` "float16", float32 (and wider) becomes float16. The relative error of a value
    is at most 2**-11 down to 2**-28 of the greatest one of its row; of smaller ones, the
    absolute error is at most 2**-39 of the greatest. Everything else is stored exactly: other
    dtypes (bfloat16 needs no more room than float16), and tensors with values that are not finite.

    Args:
        name: of the tensor.
        tensor: any shape, dtype and device.
        storage: "float16" or "float32".
        row_dims: the last so many dimensions share a scale.
    """
    tensor = tensor.detach()
    if storage == "float32" or tensor.dtype not in (torch.float32, torch.float64):
        return {name: _copy_to_cpu(tensor)}
    tensor = tensor.float()
    greatest = tensor.abs().amax(tuple(range(-row_dims, 0)), keepdim=True)
    if not bool(greatest.isfinite().all()):
        return {name: _copy_to_cpu(tensor)}
    exponents = torch.frexp(greatest).exponent - _GREATEST_EXPONENT
    exponents = exponents.masked_fill(greatest == 0, 0).clamp(min=_LEAST_SCALE_EXPONENT)
    scale = torch.ldexp(torch.ones_like(greatest), exponents)
    packed = (tensor / scale).half()
    return {name: _copy_to_cpu(packed), name + _SCALE_SUFFIX: _copy_to_cpu(scale)}


def unpack_tensor(name: str, stored: dict[str, Tensor], device: torch.device) -> Tensor:
    """The tensor that :func:`pack_tensor` stored, in its dtype (scaled ones: float32).

    Args:
        name: of the tensor.
        stored: what was stored, maybe with other tensors.
        device: where it goes; halves are moved as halves.

    Returns:
        a tensor of its own, whatever memory ``stored`` lies in.
    """
    if name + _SCALE_SUFFIX not in stored:
        return stored[name].to(device, copy=True)
    return stored[name].to(device).float() * stored[name + _SCALE_SUFFIX].to(device)


def unpack_tensors(stored: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """All tensors that were packed into ``stored``, by name."""
    names = [name for name in stored if not name.endswith(_SCALE_SUFFIX)]
    return {name: unpack_tensor(name, stored, device) for name in names}


def _copy_to_cpu(tensor: Tensor) -> Tensor:
    """Memory of its own: a view would keep a whole batch, and change with it."""
    return tensor.clone(memory_format=torch.contiguous_format).cpu()


__all__ = ["STORAGE_DTYPES", "pack_tensor", "unpack_tensor", "unpack_tensors"]
