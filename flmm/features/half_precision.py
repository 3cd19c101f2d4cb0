"""Tensors as a cache stores them: exactly, or as float16 that loses nothing small.

Attention weights span more decades than float16 has, and heads take their logarithm; therefore each
row is scaled by a power of two, which costs no precision, so that its greatest value is just below
float16's own limit.
"""

from __future__ import annotations

import torch
from torch import Tensor

STORAGE_DTYPES = ("float16", "float32")
_SCALE_SUFFIX = ".scale"
# The greatest value of a row lands in [2**14, 2**15); float16 ends at 65504.
_GREATEST_EXPONENT = 15
_LEAST_SCALE_EXPONENT = -126  # of a normal float32


def pack_tensors(tensors: dict[str, Tensor], storage: str, row_dims: int) -> dict[str, Tensor]:
    """Tensors as they are stored, on the CPU, each under its name and perhaps ``name.scale``.

    With ``storage`` "float16", float32 (and wider) becomes float16; the last ``row_dims``
    dimensions share a scale. The relative error of a value is at most 2**-11 down to 2**-28 of the
    greatest one of its row; of smaller ones, the absolute error is at most 2**-39 of the greatest.
    Everything else is stored exactly: other dtypes (bfloat16 needs no more room than float16), and
    tensors with values that are not finite.
    """
    packed = {}
    for name, tensor in tensors.items():
        value, scale = tensor.detach(), None
        if storage == "float16" and tensor.dtype in (torch.float32, torch.float64):
            value, scale = _halve(value.float(), row_dims)
        packed[name] = _copy_to_cpu(value)
        if scale is not None:
            packed[name + _SCALE_SUFFIX] = _copy_to_cpu(scale)
    return packed


def unpack_tensors(stored: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """What :func:`pack_tensors` stored, in its dtypes (scaled tensors: float32).

    Tensors of their own on ``device``, whatever memory ``stored`` lies in; halves move as halves.
    """
    tensors = {}
    for name, value in stored.items():
        scale = stored.get(name + _SCALE_SUFFIX)
        if scale is not None:
            tensors[name] = value.to(device).float() * scale.to(device)
        elif not name.endswith(_SCALE_SUFFIX):
            tensors[name] = value.to(device, copy=True)
    return tensors


def _halve(tensor: Tensor, row_dims: int) -> tuple[Tensor, Tensor | None]:
    """Float32 as float16 and the scale of each row; as it is where a value is not finite."""
    greatest = tensor.abs().amax(tuple(range(-row_dims, 0)), keepdim=True)
    if not bool(greatest.isfinite().all()):
        return tensor, None
    exponents = torch.frexp(greatest).exponent - _GREATEST_EXPONENT
    exponents = exponents.masked_fill(greatest == 0, 0).clamp(min=_LEAST_SCALE_EXPONENT)
    scale = torch.ldexp(torch.ones_like(greatest), exponents)
    return (tensor / scale).half(), scale


def _copy_to_cpu(tensor: Tensor) -> Tensor:
    """Memory of its own: a view would keep a whole batch, and change with it."""
    return tensor.clone(memory_format=torch.contiguous_format).cpu()
