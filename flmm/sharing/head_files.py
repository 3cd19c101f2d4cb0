"""The files of a shared head: where they are, and whether they may be believed.

A head may come from anybody, so everything that is built later is looked up here first.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors
from safetensors import SafetensorError, safe_open

import flmm
from flmm.checkpoints.checkpoint import describe_error
from flmm.fingerprints import hash_file
from flmm.readers.loading import is_out_of_reach
from flmm.selectors import SELECTORS
from flmm.sharing.guard import check_grounder, check_size
from flmm.sharing.part_records import check_reader_record, check_refiner_record
from flmm.sharing.settings import decode_settings, show

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
FILES = (WEIGHTS_FILE, CARD_FILE, CONFIG_FILE)  # in the order in which they are written
FORMAT, FORMAT_VERSION = "flmm", 1
_GREATEST_JSON_BYTES = 2**20


def find_head(folder_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a head; one of the hub is downloaded, or found in the cache.

    Raises:
        OSError: there is no such folder, or the hub does not give it; the message says why.
        ValueError: a revision of a folder.
    """
    folder = Path(folder_or_hub_id).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{folder} is a folder: revision={revision!r} is for a hub id")
        return folder
    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(folder_or_hub_id),
                revision=revision,
                allow_patterns=[CONFIG_FILE, WEIGHTS_FILE],
                local_files_only=is_out_of_reach(folder_or_hub_id),
                library_name="flmm",
                library_version=flmm.__version__,
            )
        )
    except Exception as error:  # the hub's client raises many kinds
        raise _explain(error, str(folder_or_hub_id), revision) from error


def _explain(error: Exception, name: str, revision: str | None) -> OSError:
    head = name if revision is None else f"{name} at revision {revision}"
    if isinstance(error, errors.HFValidationError):
        return FileNotFoundError(
            f"there is no folder {name}, and it is no hub id such as owner/name"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return OSError(f"{name} on the hub has no revision {revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return OSError(
            f"there is no folder {name} and no such repository on the hub that this account may "
            "read: check the name, or log in with `hf auth login`"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return OSError(
            f"{head} is neither a folder nor in the hub's cache, and the hub cannot be reached "
            "(HF_HUB_OFFLINE, or no connection): download it where there is one with `hf "
            f"download {name}`, and name the folder"
        )
    return OSError(f"{head} cannot be fetched: {describe_error(error)}")


def read_head(folder: Path) -> dict[str, Any]:
    """A head's config.json, checked (ValueError: it is doubtful) and with its settings decoded."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        _check_file(folder, name)
    path, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    record = _parse(path)
    _check_format(record, path)
    try:
        check_reader_record(record["reader"])
        settings = record["model"] = decode_settings(record["model"], "model")
        check_grounder(settings)
        check_refiner_record(record["refiner"], settings.get("sam"))
        name = settings["model"].pop("name_or_path", None)  # the record alone says which reader
        if name not in (None, record["reader"]["name"]):
            raise ValueError(
                f"model.model.name_or_path is {show(name)}, but reader.name "
                f"{show(record['reader']['name'])}"
            )
        _check_selectors(record["selectors"])
        if record["weights"].get("sha256") != hash_file(weights):
            raise ValueError(
                f"{weights} is cut off, damaged, or not of this {CONFIG_FILE} (SHA-256 differs): "
                "export or download both again"
            )
        check_size(settings, record["reader"]["sizes"], _count_values(weights))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    return record


def _check_file(folder: Path, name: str) -> None:
    """A file of the head is there, and is no link to somewhere else."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no head: it has no {name} (save_pretrained and tools/export.py "
            "write it)"
        )
    home = folder.resolve()
    if home.parent.name == "snapshots":  # the hub's cache keeps its files beside the snapshots
        home = home.parent.parent
    if not path.resolve().is_relative_to(home):
        raise ValueError(
            f"{path} is a link that leads out of its folder: copy the file itself there"
        )


def _parse(path: Path) -> Any:
    """A JSON of any origin: no key twice, no NaN, not large."""
    if path.stat().st_size > _GREATEST_JSON_BYTES:
        raise ValueError(f"{path} has more than {_GREATEST_JSON_BYTES:,} bytes: it is no head's")
    try:
        return json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_build_object,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is cut off or damaged ({describe_error(error)}): export or download it again"
        ) from error


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for name, value in pairs:
        if name in built:
            raise ValueError(f"the key {show(name)} stands there twice")
        built[name] = value
    return built


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _count_values(path: Path) -> int:
    """How many numbers a safetensors file holds; their bytes are not read."""
    try:
        with safe_open(path, "pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {describe_error(error)}") from error


def _check_format(record: Any, path: Path) -> None:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        kind = record.get("model_type") if isinstance(record, dict) else None
        is_model = isinstance(kind, str) and kind.isidentifier()
        what = f"that of a {kind} model" if is_model else "not written by save_pretrained"
        raise ValueError(
            f"{path} is no flmm head's, it is {what}: a head's folder is what save_pretrained or "
            "tools/export.py wrote"
        )
    if record.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {show(record.get('format_version'))}, written by flmm "
            f"{show(record.get('flmm_version'))}, and this is flmm {flmm.__version__}, which reads "
            f"format {FORMAT_VERSION}: update flmm"
        )
    for name in ("model", "reader", "weights"):
        if not isinstance(record.get(name), dict):
            raise ValueError(f"{path} is damaged: {name!r} is missing or no object")
    if not isinstance(record.setdefault("refiner", None), (dict, type(None))):
        raise ValueError(f"{path} is damaged: 'refiner' is no object")
    record.setdefault("selectors", None)


def _check_selectors(selectors: Any) -> None:
    names = ("brackets", *SELECTORS)
    if selectors is None:
        return
    if not isinstance(selectors, list) or any(item not in names for item in selectors):
        raise ValueError(f"selectors is {show(selectors)}: a list of {', '.join(names)}")
    if len(selectors) > len(names):
        raise ValueError(f"selectors has {len(selectors)} entries, there are {len(names)}")
