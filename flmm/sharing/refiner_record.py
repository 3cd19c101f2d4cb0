"""Which published refiner a shared head uses, and whether what is found is that one.

Its image encoder is frozen, so its weights are not shared with the head. Of segment-anything's the
record names their file and its SHA-256, and the reader of the record puts the file where it is
looked for; of the others it names their hub id and its commit.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from flmm.config.names import is_hub_id
from flmm.fingerprints import hash_file
from flmm.masks import Refiner, TransformersRefiner
from flmm.masks.refiners.sam_weights import TINY_WEIGHTS
from flmm.sharing.reader_record import is_digest, is_plain_name
from flmm.sharing.settings import show

DOWNLOADS = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
# Settings that say which weights a refiner has.
REFINER_SOURCES = ("checkpoint", "name_or_path", "revision", "random_init")
_PLACE = Path("checkpoints")
_WAY_OUT = (
    "cfg_options={'model.sam.checkpoint': PATH} (tools: --cfg-options model.sam.checkpoint=PATH)"
)


def record_refiner(settings: dict[str, Any], refiner: Refiner) -> dict[str, Any]:
    """The record of a refiner's weights.

    Args:
        settings: of the refiner; what names its weights is taken out of them.
        refiner: built from them.

    Raises:
        FileNotFoundError: the file is not there any more.
        ValueError: the weights are random or in a folder, and nobody else could have the same.
    """
    given = {key: settings.pop(key, None) for key in REFINER_SOURCES}
    if isinstance(refiner, TransformersRefiner):
        name = given["name_or_path"]
        if not is_hub_id(name):
            raise ValueError(
                f"the refiner's weights are {'random' if name is None else f'those of {name}'}, "
                "which nobody else has: give model.sam.name_or_path a hub id (owner/name)"
            )
        return {"source": "hub", "name": name, "revision": refiner.revision}
    model_name, checkpoint = settings["model_name"], given["checkpoint"]
    if checkpoint is None and model_name != "tiny":
        raise ValueError(
            f"SAM {model_name!r} was built without a checkpoint, with random weights that nobody "
            "else can have: give model.sam.checkpoint its published file"
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
    if (source == "hub") != ("model_name" not in sam):
        raise ValueError("'refiner' and 'model.sam' are of different kinds")
    if source == "hub":
        revision = record.get("revision")
        if not is_hub_id(record.get("name")) or not (revision is None or is_digest(revision, 40)):
            raise ValueError(
                f"the refiner is {show(record)}: name must be a hub id, revision a commit"
            )
        return
    if source not in ("embedded", "file") or not is_plain_name(file) or not is_digest(digest, 64):
        raise ValueError(
            f"the refiner is {show(record)}: source, sha256 and the file's plain name must be there"
        )
    if source == "embedded" and sam.get("model_name") != "tiny":
        raise ValueError(
            f"model.sam.model_name is {show(sam.get('model_name'))}, and only 'tiny' is embedded"
        )


def place_refiner(settings: dict[str, Any], record: dict[str, Any], folder: Path) -> None:
    """Put into the settings of a refiner where its weights are.

    Args:
        settings: what the user names there stays.
        record: of :func:`record_refiner`.
        folder: of the head.

    Raises:
        FileNotFoundError, ValueError: see :func:`choose_checkpoint`.
    """
    if record["source"] != "hub":
        given = settings.get("checkpoint")
        settings["checkpoint"] = choose_checkpoint(record, given, folder)
    elif settings.get("name_or_path") is None:
        settings["name_or_path"] = record["name"]
        settings["revision"] = settings.get("revision") or record["revision"]


def choose_checkpoint(record: dict[str, Any], given: str | None, folder: Path) -> str | None:
    """What to load SAM from; ``None``: the embedded weights.

    Args:
        record: of :func:`record_refiner`, with a file.
        given: the user's own choice; ``None``: the file of the name in ``checkpoints`` or in
            ``folder``, or the embedded one.
        folder: of the head.

    Raises:
        FileNotFoundError: the file is in neither place; the message says where it belongs.
        ValueError: the file that was found by its name has other content.
    """
    if given is not None:
        if Path(given).expanduser().is_file():  # else SAM itself says that it is missing
            _compare(record, Path(given).expanduser(), is_given=True)
        return given
    if record["source"] == "embedded":
        _compare(record, TINY_WEIGHTS, is_given=False)
        return None
    for path in (_PLACE / record["file"], folder / record["file"]):
        if path.is_file():
            _compare(record, path, is_given=False)
            return str(path)
    raise FileNotFoundError(
        f"SAM's published weights {record['file']} are neither in {_PLACE}/ nor in {folder}, and "
        f"its image encoder is not part of a shared head: download them from {DOWNLOADS} into "
        f"{_PLACE}/, or name your copy with {_WAY_OUT}"
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


__all__ = [
    "DOWNLOADS",
    "REFINER_SOURCES",
    "check_refiner_record",
    "place_refiner",
    "record_refiner",
]
