"""The records of a shared head's frozen parts, reader and refiner: which they are, where they lie.

A refiner's weights in one file (segment-anything's) are known by the file's name and SHA-256, those
that transformers loads as any model of the hub or in a folder.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from flmm.fingerprints import hash_file
from flmm.masks.refiners.segment_anything import TINY_WEIGHTS
from flmm.readers.caches import find_attention_layers
from flmm.readers.families import find_family
from flmm.readers.loading import load_config
from flmm.sharing.frozen_models import (
    PLACE,
    check_model_record,
    describe_difference,
    find_model,
    is_digest,
    is_plain_name,
    record_model,
)
from flmm.sharing.settings import show

_SIZES = {"model_type": str, "num_layers": int, "num_heads": int, "hidden_size": int}
_GREATEST = 2**20  # layers, heads, grids, width
_OTHER_READER = "cfg_options={'reader': FOLDER} (tools: --cfg-options reader=FOLDER)"
DOWNLOADS = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
# Settings that say which weights a refiner has: the record has them, a head's settings have not.
REFINER_SOURCES = ("checkpoint", "name_or_path", "revision", "random_init")
_OTHER_SAM = (
    "cfg_options={'model.sam.checkpoint': PATH} (tools: --cfg-options model.sam.checkpoint=PATH)"
)


def record_reader(name: str, config: Any, has_weights: bool = True) -> dict[str, Any]:
    """The record of a reader loaded from ``name``: "tiny", a folder, or a hub id.

    Args:
        config: of the loaded transformers model.
        has_weights: false: they were drawn at random.
    """
    record = record_model(name, getattr(config, "_commit_hash", None), has_weights)
    hashes = {key: record.pop(key) for key in ("config_hash", "weights_hash")}
    return {**record, "sizes": _read_sizes(config), **hashes}


def check_reader_record(record: dict[str, Any]) -> None:
    """Refuse (ValueError) a record with missing fields, or whose name is a path elsewhere."""
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
    """What to load a record's reader from: what is ``given``, else what :func:`find_model` gives.

    Raises:
        FileNotFoundError: there is none; the message says what to give.
        ValueError: the reader has other sizes than the head was trained for.
    """
    name = given or find_model(record)
    if name is None:
        raise FileNotFoundError(
            f"the head was trained for the reader in a folder {format_reader(record)}, which is "
            f"neither here nor in checkpoints/: put it there, or name it with {_OTHER_READER}"
        )
    found = _read_sizes(load_config(name))
    if found != record["sizes"]:
        raise ValueError(
            f"the head was trained for reader {format_reader(record)}, but {name} has "
            f"{_format_sizes(found)}: give the head's own reader with {_OTHER_READER}"
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
    text = config.get_text_config()
    sizes = {
        "model_type": config.model_type,
        "num_layers": len(find_attention_layers(text)),
        "num_heads": text.num_attention_heads,
        "hidden_size": text.hidden_size,
    }
    grids = find_family(config).num_grids
    return sizes if grids == 1 else {**sizes, "num_grids": grids}


def record_refiner(settings: dict[str, Any], refiner: Any) -> dict[str, Any]:
    """The record of a refiner's weights; what names them is taken out of its ``settings``.

    Raises:
        ValueError: the weights are random, and nobody else could have the same.
    """
    given = {key: settings.pop(key, None) for key in REFINER_SOURCES}
    name, checkpoint = given["name_or_path"], given["checkpoint"]
    if name is not None:
        commit = refiner.revision if is_digest(refiner.revision, 40) else None
        return record_model(str(name), commit)
    model = settings.get("model_name", settings["type"])
    if checkpoint is None and model != "tiny":
        key = "checkpoint" if "model_name" in settings else "name_or_path"
        raise ValueError(
            f"SAM {model!r} was built without published weights, with random weights that nobody "
            f"else can have: give model.sam.{key}"
        )
    path = TINY_WEIGHTS if checkpoint is None else Path(checkpoint).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"SAM checkpoint {path} does not exist (any more), and a head is shared with its "
            f"SHA-256: name the file with {_OTHER_SAM}"
        )
    source = "embedded" if checkpoint is None else "file"
    return {"source": source, "file": path.name, "sha256": hash_file(path)}


def check_refiner_record(record: dict[str, Any] | None, sam: dict[str, Any] | None) -> None:
    """Refuse (ValueError) a record that names no weights, leads elsewhere or is not of ``sam``."""
    if (record is None) != (sam is None):
        raise ValueError("of 'refiner' and 'model.sam' one is missing: they belong together")
    if record is None or sam is None:
        return
    source, file, digest = record.get("source"), record.get("file"), record.get("sha256")
    is_model = source in ("hub", "folder")
    if is_model != ("model_name" not in sam):
        raise ValueError("'refiner' and 'model.sam' are of different kinds")
    if is_model:
        check_model_record(record, "refiner")
        return
    if source not in ("embedded", "file") or not is_plain_name(file) or not is_digest(digest, 64):
        raise ValueError(
            f"the refiner is {show(record)}: source, sha256 and the file's plain name must be there"
        )
    if source == "embedded" and sam.get("model_name") != "tiny":
        raise ValueError(
            f"model.sam.model_name is {show(sam.get('model_name'))}, and only 'tiny' is embedded"
        )


def place_refiner(record: dict[str, Any], settings: Any, folder: Path) -> None:
    """Say in a refiner's ``settings`` what to load it from, unless its user has.

    Raises:
        FileNotFoundError: the weights are not here; the message says where they belong.
        ValueError: the file that was found by its name has other content.
    """
    if "file" in record:
        settings["checkpoint"] = _choose_file(record, settings.get("checkpoint"), folder)
        return
    name = settings.get("name_or_path") or find_model(record)
    if name is None:
        raise FileNotFoundError(
            f"the refiner's folder {record['name']} is neither here nor in {PLACE}/: put it there, "
            "or name it with cfg_options={'model.sam.name_or_path': FOLDER}"
        )
    difference = describe_difference(record, name)
    if difference:
        warnings.warn(f"refiner {name}: {difference}; masks may differ", stacklevel=3)
    settings["name_or_path"] = name
    if name == record["name"]:
        settings["revision"] = settings.get("revision") or record["revision"]


def _choose_file(record: dict[str, Any], given: str | None, folder: Path) -> str | None:
    """The file given, or that of the record's name; ``None``: the embedded weights."""
    if given is not None:
        if Path(given).expanduser().is_file():  # else SAM itself says that it is missing
            _compare(record, Path(given).expanduser(), is_given=True)
        return given
    if record["source"] == "embedded":
        _compare(record, TINY_WEIGHTS, is_given=False)
        return None
    for path in (PLACE / record["file"], folder / record["file"]):
        if path.is_file():
            _compare(record, path, is_given=False)
            return str(path)
    raise FileNotFoundError(
        f"SAM's published weights {record['file']} are neither in {PLACE}/ nor in {folder}, and "
        f"its image encoder is not part of a shared head: download them from {DOWNLOADS} into "
        f"{PLACE}/, or name your copy with {_OTHER_SAM}"
    )


def _compare(record: dict[str, Any], path: Path, is_given: bool) -> None:
    found = hash_file(path)
    if found == record["sha256"]:
        return
    difference = (
        f"SAM checkpoint {path} has SHA-256 {found[:16]}..., the head was trained with "
        f"{record['file']} of {record['sha256'][:16]}..."
    )
    if not is_given:
        raise ValueError(f"{difference}: download it again, or name another with {_OTHER_SAM}")
    warnings.warn(f"{difference}: masks may differ", stacklevel=4)
