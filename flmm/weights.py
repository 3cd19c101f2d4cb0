"""What may be loaded into a module: every name, its shape, its kind of number, and no NaN.

torch would cast whole numbers to floats, and go on with NaN, without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def describe_mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Any]) -> list[str]:
    """One line per difference between two state dicts, naming the key; empty if they agree.

    Args:
        expected: the module's own state dict; its tensors may be on the meta device.
        given: what is to be loaded. Floats of any width fit floats; values that are not finite in
            the module's dtype fit nothing.
    """
    lines = [
        f"  missing: {key} {list(expected[key].shape)}" for key in expected if key not in given
    ]
    lines += [f"  unexpected: {key}" for key in given if key not in expected]
    both = [key for key in expected if key in given]
    differences = (_describe_difference(key, expected[key], given[key]) for key in both)
    return lines + [f"  {difference}" for difference in differences if difference]


def _describe_difference(key: str, expected: Tensor, given: Any) -> str | None:
    if not isinstance(given, Tensor):
        return f"no tensor: {key} is a {type(given).__name__}"
    if given.shape != expected.shape:
        return f"wrong shape: {key} is {list(given.shape)}, the model's {list(expected.shape)}"
    both_float = given.is_floating_point() and expected.is_floating_point()
    if not both_float and given.dtype != expected.dtype:
        return f"wrong dtype: {key} is {given.dtype}, the model's {expected.dtype}"
    if both_float and not bool(given.to(expected.dtype).isfinite().all()):
        return f"not finite: {key} holds NaN or infinite values (as {expected.dtype})"
    return None


def find_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor holds NaN or infinity; ``None``: all are finite."""
    floats = ((key, value) for key, value in weights.items() if value.is_floating_point())
    return next((key for key, value in floats if not bool(value.isfinite().all())), None)


def check_finite(values: Tensor, what: str) -> None:
    """Refuse (ValueError) NaN and infinity: NaN is below every threshold, an empty mask."""
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"{what} holds NaN or infinite values: weights are damaged, or a dtype is too narrow "
            "(float16: use bfloat16 or float32)"
        )
