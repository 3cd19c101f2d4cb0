"""The record of a shared head's reader: the model, and the sizes that the head depends on."""

from __future__ import annotations

import warnings
from typing import Any

from flmm.readers.families import find_family
from flmm.readers.loading import load_config
from flmm.sharing.frozen_models import (
    check_model_record,
    describe_difference,
    find_model,
    record_model,
)
from flmm.sharing.settings import show

_SIZES = {"model_type": str, "num_layers": int, "num_heads": int, "hidden_size": int}
_GREATEST = 2**20  # layers, heads, grids, width
_WAY_OUT = "cfg_options={'reader': FOLDER} (tools: --cfg-options reader=FOLDER)"


def record_reader(name: str, config: Any, has_weights: bool = True) -> dict[str, Any]:
    """The record of a reader.

    Args:
        name: what it was loaded from: "tiny", a folder, or a hub id.
        config: of the loaded transformers model.
        has_weights: false: they were drawn at random.
    """
    record = record_model(name, getattr(config, "_commit_hash", None), has_weights)
    hashes = {key: record.pop(key) for key in ("config_hash", "weights_hash")}
    return {**record, "sizes": _read_sizes(config), **hashes}


def check_reader_record(record: dict[str, Any]) -> None:
    """Whether a record of any origin can be used.

    Raises:
        ValueError: a field is missing, or the name is a path that leads elsewhere.
    """
    found = record.get("sizes")
    sizes: dict[str, Any] = found if isinstance(found, dict) else {}
    kinds = {key: type(value) for key, value in sizes.items()}
    if kinds not in (_SIZES, {**_SIZES, "num_grids": int}):
        raise ValueError(f"reader.sizes is {show(found)}: {', '.join(_SIZES)} must be there")
    numbers = [value for value in sizes.values() if isinstance(value, int)]
    if not sizes["model_type"].isidentifier() or not all(0 < n <= _GREATEST for n in numbers):
        raise ValueError(f"reader.sizes is {show(sizes)}, of no model")
    check_model_record(record, "reader")


def choose_reader(record: dict[str, Any], given: str | None = None) -> str:
    """What to load the reader of a record from.

    Args:
        record: of :func:`record_reader`.
        given: the user's own choice; ``None``: see :func:`flmm.sharing.frozen_models.find_model`.

    Raises:
        FileNotFoundError: there is no such folder; the message says what to give.
        OSError: there is no model.
        ValueError: the reader has other sizes than the head was trained for.
    """
    name = given or find_model(record)
    if name is None:
        raise FileNotFoundError(
            f"the head was trained for the reader in a folder {format_reader(record)}, which is "
            f"neither here nor in checkpoints/: put it there, or name it with {_WAY_OUT}"
        )
    found = _read_sizes(load_config(name))
    if found != record["sizes"]:
        raise ValueError(
            f"the head was trained for reader {format_reader(record)}, but {name} has "
            f"{_format_sizes(found)}: give the head's own reader with {_WAY_OUT}"
        )
    difference = describe_difference(record, name)
    if difference:
        warnings.warn(
            f"reader {name}: {difference}; the head was trained for {format_reader(record)}, so "
            "masks may differ",
            stacklevel=3,
        )
    return name


def format_reader(record: dict[str, Any]) -> str:
    """A record in words: name, revision, sizes."""
    name = "the toy embedded in flmm" if record["source"] == "embedded" else record["name"]
    revision = f" at revision {record['revision']}" if record["revision"] else ""
    return f"{name}{revision} ({_format_sizes(record['sizes'])})"


def _format_sizes(sizes: dict[str, Any]) -> str:
    grids = f" x {sizes['num_grids']} grids" if "num_grids" in sizes else ""
    return (
        f"{sizes['model_type']}, {sizes['num_layers']} layers x {sizes['num_heads']} heads{grids}, "
        f"width {sizes['hidden_size']}"
    )


def _read_sizes(config: Any) -> dict[str, Any]:
    """What a head depends on, of a transformers config."""
    text = config.get_text_config()
    sizes = {
        "model_type": config.model_type,
        "num_layers": text.num_hidden_layers,
        "num_heads": text.num_attention_heads,
        "hidden_size": text.hidden_size,
    }
    grids = find_family(config).num_grids
    return sizes if grids == 1 else {**sizes, "num_grids": grids}
