"""The files of a shared head: where they are, and whether they may be believed.

In: a folder, or the id of a repository on the Hugging Face hub. Out: the head's config.json as a
checked record. It may come from anybody, so everything that is built later is looked up here first.
Not its duty: the frozen models (see :mod:`flmm.engine.shared_reader`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors

import flmm
from flmm.engine.checkpoint import describe_error
from flmm.engine.provenance import hash_file
from flmm.engine.shared_reader import check_record
from flmm.engine.shared_refiner import check_refiner
from flmm.engine.shared_settings import decode_settings, list_allowed_types
from flmm.grounder import Grounder
from flmm.selectors import SELECTORS
from flmm.vlms import FrozenVLM

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
FILES = (WEIGHTS_FILE, CARD_FILE, CONFIG_FILE)  # in the order in which they are written
FORMAT, FORMAT_VERSION = "flmm", 1
_SECTIONS = ("model", "reader", "weights")


def find_head(folder_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a head; one of the hub is downloaded, or found in the cache.

    Raises:
        FileNotFoundError: there is no such folder, and it is no hub id.
        OSError: the hub does not give it; the message says why.
    """
    folder = Path(folder_or_hub_id).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{folder} is a folder: revision={revision!r} is for a hub id")
        return folder
    head = str(folder_or_hub_id) + ("" if revision is None else f" at revision {revision}")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(folder_or_hub_id),
                revision=revision,
                allow_patterns=[CONFIG_FILE, WEIGHTS_FILE],
                library_name="flmm",
                library_version=flmm.__version__,
            )
        )
    except errors.HFValidationError as error:
        raise FileNotFoundError(
            f"there is no folder {folder_or_hub_id}, and it is no hub id such as owner/name"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise OSError(f"{folder_or_hub_id} on the hub has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise OSError(
            f"there is no folder {folder_or_hub_id} and no such repository on the hub that this "
            "account may read: check the name, or log in with `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise OSError(
            f"{head} is neither a folder nor in the hub's cache, and the hub cannot be reached "
            "(HF_HUB_OFFLINE, or no connection): download it where there is one with `hf "
            f"download {folder_or_hub_id}`, and name the folder"
        ) from error
    except Exception as error:  # the hub's client raises many kinds
        raise OSError(f"{head} cannot be fetched: {describe_error(error)}") from error


def read_head(folder: Path) -> dict[str, Any]:
    """A head's config.json, checked and with its settings decoded.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or config.json names what it may not.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no head: it has no {name} (save_pretrained and tools/export.py "
                "write it)"
            )
    path = folder / CONFIG_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is cut off or damaged ({describe_error(error)}): export or download it again"
        ) from error
    _check_format(record, path)
    try:
        record["model"] = decode_settings(record["model"], "model")
        check_grounder(record["model"])
        check_record(record["reader"])
        if record.get("refiner") is not None:
            check_refiner(record["refiner"])
        _check_selectors(record.get("selectors"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    if record["weights"].get("sha256") != hash_file(folder / WEIGHTS_FILE):
        raise ValueError(
            f"{folder / WEIGHTS_FILE} is cut off, damaged, or not of this {CONFIG_FILE} (SHA-256 "
            "differs): export or download both again"
        )
    return {"refiner": None, "selectors": None, **record}


def check_grounder(settings: dict[str, Any]) -> None:
    """Whether settings are those of a grounder: what is built from them is nothing else.

    Raises:
        ValueError: they are not.
    """
    _check_part(settings, "model", Grounder)
    _check_part(settings.get("model"), "model.model", FrozenVLM)
    for name, part in settings.items():
        if isinstance(part, dict) and name != "model":
            _check_part(part, f"model.{name}", object)


def _check_part(settings: Any, place: str, kind: type) -> None:
    """Whether settings build a registered class of a kind."""
    name = settings.get("type") if isinstance(settings, dict) else settings
    found = list_allowed_types().get(name) if isinstance(name, str) else None
    if found is None or not issubclass(found, kind):
        raise ValueError(
            f"{place}.type is {name!r}, which is no registered "
            f"{'part of a model' if kind is object else kind.__name__}"
        )


def _check_format(record: Any, path: Path) -> None:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        kind = record.get("model_type") if isinstance(record, dict) else None
        what = f"that of a {kind} model" if kind else "not written by save_pretrained"
        raise ValueError(
            f"{path} is no flmm head's, it is {what}: a head's folder is what save_pretrained or "
            "tools/export.py wrote"
        )
    if record.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {record.get('format_version')!r}, written by flmm "
            f"{record.get('flmm_version')}, and this is flmm {flmm.__version__}, which reads "
            f"format {FORMAT_VERSION}: update flmm"
        )
    for name in _SECTIONS:
        if not isinstance(record.get(name), dict):
            raise ValueError(f"{path} is damaged: {name!r} is missing or no object")
    if not isinstance(record.get("refiner"), (dict, type(None))):
        raise ValueError(f"{path} is damaged: 'refiner' is no object")


def _check_selectors(selectors: Any) -> None:
    names = ("brackets", *SELECTORS)
    if selectors is None:
        return
    if not isinstance(selectors, list) or any(item not in names for item in selectors):
        raise ValueError(f"selectors is {selectors!r}: a list of {', '.join(names)}")


__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "FILES",
    "FORMAT",
    "FORMAT_VERSION",
    "WEIGHTS_FILE",
    "check_grounder",
    "find_head",
    "read_head",
]
