"""Whether a stranger's settings are those of a grounder: what is built from them is nothing else.

Each slot takes its own kind of part, values are of the type that the part's constructor declares,
no text is a path, and the trained parts are built once on torch's meta device, where a number that
is too large costs nothing.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flmm.checkpoints.checkpoint import describe_error
from flmm.config.reading import is_hub_id
from flmm.grounder import Grounder
from flmm.masks import Refiner, SecondLook
from flmm.presence import PresenceRule
from flmm.readers import FrozenVLM
from flmm.registry import IMAGE_PROCESSORS, MODELS
from flmm.selectors import KeywordSelector
from flmm.sharing.part_records import REFINER_SOURCES
from flmm.sharing.settings import LAYER_TYPES, find_type, show

# Slot of a grounder -> the kind of part that belongs there; every other slot stays empty.
SLOTS: dict[str, type] = {
    "model": FrozenVLM,
    "mask_head": nn.Module,
    "sam": Refiner,
    "keyword_selector": KeywordSelector,
    "presence": PresenceRule,
}
_NUMBERS = ("type", "presence_threshold", "max_new_tokens")  # of a grounder, and its class
_PLACES = ["model", *(f"model.{slot}" for slot in SLOTS)]
# They read files, so that they belong into their slots alone.
_READING = (FrozenVLM, Refiner, Grounder)
_HUB_KEYS = ("model.model.processor", "model.model.name_or_path")
# Chosen heads and whether a thing is there: numbers that build nothing, and words that nobody reads
# as a path.
_RECORDS = ("model.mask_head.choice", "model.presence.rule")
_FREE_TEXTS = (
    "model.model.prompt",
    *(f"{place}.{name}" for place in _RECORDS for name in ("reader", "source")),
)
_GREATEST = {"min_pixels": 2**28, "max_pixels": 2**28, "upsample_input": 2048, "seed": 2**63 - 1}
_CHANNELS = ("num_layers", "num_heads", "num_grids")
_LONGEST_LIST = _GREATEST_IN_LIST = 64
_IMAGE_OPTIONS, _GREATEST_OPTION = "model.model.image_options.", 2**14  # sides of a picture


def check_grounder(settings: dict[str, Any]) -> None:
    """Refuse (ValueError) settings that are no grounder's, or lead anywhere but to the hub."""
    _check_kind(settings, "model", Grounder)
    needed = _list_needed(settings["type"])
    for name in needed:
        if name not in settings:
            raise ValueError(f"model.{name} is missing")
    for name, part in settings.items():
        if name in SLOTS and (part is not None or name in needed):
            _check_kind(part, f"model.{name}", SLOTS[name])
        elif name == "second_look" and part is not None:
            _check_second_look(part)
        elif name not in _NUMBERS and part is not None:
            raise ValueError(f"model.{name} is {show(part)}, and a shared head has none of it")
    for name in REFINER_SOURCES:
        value = (settings.get("sam") or {}).get(name)
        if value is not None:
            raise ValueError(
                f"model.sam.{name} is {show(value)}, and a shared head names no file of SAM's "
                "there (its refiner record does): give your own with "
                f"cfg_options={{'model.sam.{name}': PATH}}"
            )
    if settings["model"].get("device_map") is not None:
        raise ValueError("model.model.device_map is the affair of whoever loads the head")
    _check_part(settings, "model")


def check_size(settings: dict[str, Any], sizes: dict[str, Any], greatest: int) -> None:
    """Refuse (ValueError) parts that cannot be built, or have more values than ``greatest``.

    ``settings`` are those that :func:`check_grounder` has let pass, ``sizes`` their reader's,
    ``greatest`` is the number of values in the file of weights.
    """
    layers = (settings.get("mask_head") or {}).get("layers")
    own = sizes | ({"num_layers": layers} if isinstance(layers, int) else {})
    given = {
        "mask_head": {"in_channels": math.prod(own.get(name, 1) for name in _CHANNELS)},
        "keyword_selector": {"hidden_size": sizes["hidden_size"]},
    }
    for name, arguments in given.items():
        if settings.get(name) is None:
            continue
        try:
            with torch.device("meta"):
                part = MODELS.build({**arguments, **settings[name]})
        except Exception as error:  # of many kinds, as the settings are anybody's
            raise ValueError(f"model.{name} cannot be built: {describe_error(error)}") from error
        count = sum(value.numel() for value in part.state_dict().values())
        if count > greatest:
            raise ValueError(
                f"model.{name} would have {count:,} values, its file has {greatest:,}: it is not "
                "built"
            )


def _check_second_look(settings: Any) -> None:
    known = {field.name for field in fields(SecondLook)}
    is_known = isinstance(settings, dict) and set(settings) <= known
    if not is_known or any(type(value) not in (int, float) for value in settings.values()):
        raise ValueError(
            f"model.second_look is {show(settings)}: it holds numbers, by the names "
            f"{', '.join(sorted(known))}"
        )


def _list_needed(kind: str) -> list[str]:
    """The slots that a grounder cannot do without; one that points by boxes needs no mask head."""
    parameters = inspect.signature(typing.cast(type, find_type(kind))).parameters
    head = parameters.get("mask_head")
    is_free = head is not None and head.default is not inspect.Parameter.empty
    return ["model"] if is_free else ["model", "mask_head"]


def _check_kind(settings: Any, place: str, kind: type) -> None:
    name = settings.get("type") if isinstance(settings, dict) else settings
    found = find_type(name)
    is_any = kind is nn.Module
    if found is None or not issubclass(found, kind) or (is_any and _reads_files(found)):
        wanted = "part of this kind" if is_any else kind.__name__
        raise ValueError(f"{place}.type is {show(name)}, which is no registered {wanted}")


def _reads_files(part: type) -> bool:
    return issubclass(part, _READING) or part in IMAGE_PROCESSORS.module_dict.values()


def _check_part(part: dict[str, Any], place: str) -> None:
    """Types and ranges of a part's own settings, then those of the parts in it."""
    kind = find_type(part.get("type"))
    hints = {} if kind is None else _read_hints(kind)
    is_inner = place not in _PLACES and part.get("type") not in LAYER_TYPES
    if is_inner and kind is not None and _reads_files(kind):
        raise ValueError(f"{place}.type is {show(part['type'])}, which has no place there")
    for key, value in part.items():
        hint = hints.get(key, Any)
        if key != "type" and not _fits(value, hint):
            name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else hint
            raise ValueError(f"{place}.{key} is {show(value)}, which is no {name}")
        _check_value(value, f"{place}.{key}")


def _check_value(value: Any, place: str) -> None:
    key = place.rpartition(".")[2]
    if place in _HUB_KEYS and value is not None:
        if value != "tiny" and not is_hub_id(value):  # never a path that a stranger wrote
            raise ValueError(
                f"{place} is {show(value)}, neither a hub id (owner/name) nor 'tiny': a shared "
                f"head leads to no file; give your own with cfg_options={{{place!r}: FOLDER}}"
            )
    elif place in _RECORDS and value != "tiny" and not isinstance(value, dict):
        raise ValueError(f"{place} is {show(value)}, and a shared head leads to no file")
    elif isinstance(value, dict):
        _check_part(value, place)
    elif isinstance(value, list):
        is_record = place.startswith(tuple(f"{name}." for name in _RECORDS))
        if len(value) > _LONGEST_LIST and not is_record:
            raise ValueError(f"{place} has {len(value)} entries, and {_LONGEST_LIST} are the most")
        for index, item in enumerate(value):
            is_bounded = isinstance(item, int) and not is_record
            if is_bounded and not 0 <= item <= _GREATEST_IN_LIST:
                raise ValueError(f"{place} holds {show(item)}, not in 0..{_GREATEST_IN_LIST}")
            _check_value(item, f"{place}[{index}]")
    elif isinstance(value, int) and (key in _GREATEST or place.startswith(_IMAGE_OPTIONS)):
        greatest = _GREATEST.get(key, _GREATEST_OPTION)
        if not 0 <= value <= greatest:
            raise ValueError(f"{place} is {show(value)}, not in 0..{greatest}")
    elif isinstance(value, str) and place not in _FREE_TEXTS and _is_path(value):
        raise ValueError(f"{place} is {show(value)}, and a shared head leads to no file")


def _is_path(text: str) -> bool:
    """Whether a text could be read as a path or an address, on any system."""
    return bool(set(text) & set("/\\~:\0")) or text in (".", "..")


def _read_hints(kind: type) -> dict[str, Any]:
    """What a constructor declares; nothing where that cannot be read."""
    try:
        return typing.get_type_hints(inspect.getattr_static(kind, "__init__"))
    except Exception:  # it names what only a type checker imports, or is no function of Python's
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a decoded setting is of a declared type; unknown types take nothing."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, item) for item in arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict)
    if isinstance(origin, type):  # Sequence[int], tuple[int, ...], list[str]
        return isinstance(value, list) and all(_fits(one, arguments[0]) for one in value)
    if hint in (int, float):
        numbers = int if hint is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, str if hint is Path else hint)
