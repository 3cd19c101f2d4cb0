"""Settings of a model as plain JSON and back, so that a stranger's file can run no code.

A registered class is its registered name; another type is ``{"__python__": "torch.bfloat16"}``,
where the name is a key of a fixed table. Nothing is imported because a file names it: mmengine's
registries import any dotted ``type`` they do not know, so every name is looked up here before.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flmm.registry import IMAGE_PROCESSORS, MODELS

PYTHON_KEY = "__python__"
# Types that a class reads by itself, without a registry.
LAYER_TYPES = ("GN", "GroupNorm", "InterpConv")
# transformers also takes the name of a hub repository here, whose kernels it would run.
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
_DTYPES = ("bfloat16", "float16", "float32", "float64")
# Types that are no registered classes but may stand in a file.
PYTHON_NAMES: dict[str, Any] = {f"torch.{name}": getattr(torch, name) for name in _DTYPES}
PYTHON_NAMES["torch.nn.GroupNorm"] = nn.GroupNorm
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


def encode_settings(value: Any, place: str) -> Any:
    """Settings as JSON; a dict that builds a registered class gets all its defaults.

    ``place`` is the dotted name of ``value``, for the messages.

    Raises:
        TypeError: it is an object that no JSON can name, such as a ready model.
        ValueError: :func:`decode_settings` would refuse it, or a number is not finite.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which no JSON has: give a finite number")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [encode_settings(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        settings = _complete(dict(value))
        encoded = {key: encode_settings(item, f"{place}.{key}") for key, item in settings.items()}
        decode_settings(encoded, place)
        return encoded
    for name, known in PYTHON_NAMES.items():
        if known is value:
            return {PYTHON_KEY: name}
    what = f"a {type(value).__name__}"
    if hasattr(value, "__qualname__"):
        what = f"{value.__module__}.{value.__qualname__}"
    raise TypeError(
        f"{place} is {what}, which cannot be written into a JSON: give a name, a folder or a dict "
        "of settings in its place"
    )


def decode_settings(value: Any, place: str) -> Any:
    """Parsed JSON of any origin as a config has it; nothing is built yet.

    Raises:
        ValueError: a type or a Python name is not one of those allowed, or a setting is unknown.
    """
    if isinstance(value, list):
        return [decode_settings(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if PYTHON_KEY in value:
        return _decode_python(value, place)
    for key in value:  # mmengine takes keys such as _scope_ for orders; no setting begins like this
        if not key.isidentifier() or key.startswith("_"):
            raise ValueError(f"{place} has the setting {show(key)}, which is no name of a setting")
    decoded = {key: decode_settings(item, f"{place}.{key}") for key, item in value.items()}
    if "type" in decoded:
        _check_type(decoded["type"], set(decoded) - {"type"}, place)
    dtype = decoded.get("dtype")
    if isinstance(dtype, str) and dtype not in ("auto", *_DTYPES):
        raise ValueError(f"{place}.dtype is {show(dtype)}, none of auto, {', '.join(_DTYPES)}")
    attention = decoded.get("attn_implementation")
    if attention is not None and attention not in ATTENTIONS:
        raise ValueError(
            f"{place}.attn_implementation is {show(attention)}, none of {', '.join(ATTENTIONS)}: "
            "it is not loaded"
        )
    return decoded


def find_type(name: Any) -> type | None:
    """The class that a ``type`` may name: one that is registered as a part of a model."""
    return _list_types().get(name) if isinstance(name, str) else None


def show(value: Any) -> str:
    """A value of any origin for a message: one line, and not a long one."""
    return _SHORT.repr(value)


def _list_types() -> dict[str, type]:
    found: dict[str, type] = {}
    for registry in (MODELS, IMAGE_PROCESSORS):
        registry.import_from_location()
        found |= registry.module_dict
    return found


def _complete(settings: dict[str, Any]) -> dict[str, Any]:
    kind, types = settings.get("type"), _list_types()
    if isinstance(kind, str):  # perhaps dotted, as lazy configs write it
        bare = kind.rpartition(".")[2]
        if bare in LAYER_TYPES:
            return settings | {"type": bare}
        name = bare if bare in types else None
    else:
        name = next((name for name, known in types.items() if known is kind), None)
    if name is None:
        return settings
    parameters = inspect.signature(types[name]).parameters.values()
    defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
    return {"type": name, **defaults, **settings} | {"type": name}


def _check_type(kind: Any, arguments: set[str], place: str) -> None:
    """Only what is registered or in a table may be called, and only with what it knows."""
    if kind is nn.GroupNorm or (isinstance(kind, str) and kind in LAYER_TYPES):
        return
    found = find_type(kind)
    if found is None:
        raise ValueError(
            f"{place}.type is {show(kind)}, which is no part of a model that a file may name "
            f"(these are {', '.join(sorted(_list_types()))}): it is not loaded; a head with a "
            "class of somebody's own needs the module that registers it imported before"
        )
    parameters = inspect.signature(found).parameters
    if any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
        return
    unknown = sorted(arguments - set(parameters))
    if unknown:
        raise ValueError(
            f"{place} has the setting {show(unknown[0])}, which {kind} does not take: the file is "
            "damaged, or of a newer flmm than this"
        )


def _decode_python(value: dict[str, Any], place: str) -> Any:
    name = value[PYTHON_KEY]
    if len(value) != 1 or not isinstance(name, str) or name not in PYTHON_NAMES:
        raise ValueError(
            f"{place} names {show(name)}, which is none of the Python names that a file may give "
            f"({', '.join(sorted(PYTHON_NAMES))}): it is not loaded"
        )
    return PYTHON_NAMES[name]
