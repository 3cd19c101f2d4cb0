"""The record of a shared head's refiner: its image encoder is frozen, and not shared with the head.

Weights in one file (segment-anything's) are known by the file's name and SHA-256, those that
transformers loads as any model of the hub or in a folder. The reader of the record puts them where
they are looked for.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from flmm.fingerprints import hash_file
from flmm.masks.refiners.sam_weights import TINY_WEIGHTS
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

DOWNLOADS = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
# Settings that say which weights a refiner has: the record has them, a head's settings have not.
REFINER_SOURCES = ("checkpoint", "name_or_path", "revision", "random_init")
_WAY_OUT = (
    "cfg_options={'model.sam.checkpoint': PATH} (tools: --cfg-options model.sam.checkpoint=PATH)"
)


def record_refiner(settings: dict[str, Any], refiner: Any) -> dict[str, Any]:
    """The record of a refiner's weights.

    Args:
        settings: of the refiner; what names its weights is taken out of them.
        refiner: built from them.

    Raises:
        FileNotFoundError: the file is not there any more.
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
            f"SHA-256: name the file with {_WAY_OUT}"
        )
    source = "embedded" if checkpoint is None else "file"
    return {"source": source, "file": path.name, "sha256": hash_file(path)}


def check_refiner_record(record: dict[str, Any] | None, sam: dict[str, Any] | None) -> None:
    """Whether a record of any origin can be used with the settings of a refiner.

    Raises:
        ValueError: a field is missing, the file is a path that leads elsewhere, or record and
            settings do not belong together.
    """
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
    """Say in a refiner's settings what to load it from, unless its user has.

    Args:
        record: of :func:`record_refiner`.
        settings: of the refiner, changed in place.
        folder: of the head.

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
        f"{PLACE}/, or name your copy with {_WAY_OUT}"
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
        raise ValueError(f"{difference}: download it again, or name another with {_WAY_OUT}")
    warnings.warn(f"{difference}: masks may differ", stacklevel=4)
