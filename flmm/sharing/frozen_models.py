"""Which published model a shared head belongs to, and whether the one found is that one.

A model of the hub is known by id and commit, a folder by its name and its content, the embedded one
by its content. Paths of this machine are not written down.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError

from flmm.config.reading import is_repository
from flmm.fingerprints import hash_json, list_weight_files, sample_files_hash
from flmm.readers.loading import TINY_FOLDER, is_embedded, is_out_of_reach
from flmm.sharing.settings import show

PLACE = Path("checkpoints")  # where what has no address is looked for by its name
_CONFIG_FILE = "config.json"
_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
_VOLATILE = {"transformers_version", "torch_dtype", "dtype"}


def record_model(name: str, revision: str | None = None, has_weights: bool = True) -> dict:
    """The record of a model loaded from ``name``: "tiny", a folder, or a hub id.

    Args:
        revision: commit of a hub id; ``None``: what the cache has.
        has_weights: false: they were drawn at random.
    """
    source, shown, cached = _locate(name)
    folder = _find_folder(name, revision)
    return {
        "source": source,
        "name": shown,
        "revision": revision or cached,
        "config_hash": None if folder is None else _hash_config(folder),
        "weights_hash": sample_files_hash(folder) if folder and has_weights else None,
    }


def check_model_record(record: dict[str, Any], what: str) -> None:
    """Refuse (ValueError) a record with missing fields, or whose name is a path elsewhere."""
    for key, length in (("revision", 40), ("config_hash", None), ("weights_hash", None)):
        if key not in record:
            raise ValueError(f"{what}.{key} is missing; null says that nobody knows it")
        if record[key] is not None and not is_digest(record[key], length):
            raise ValueError(f"{what}.{key} is {show(record[key])}, no hexadecimal digest")
    source, name = record.get("source"), record.get("name")
    is_known = isinstance(name, str) and source in ("embedded", "folder", "hub")
    if source == "folder":
        is_known = is_plain_name(name)
    elif source == "hub":
        is_known = is_known and is_repository(str(name))
    if not is_known:
        raise ValueError(
            f"{what}.name is {show(name)} ({show(source)}), neither a hub id nor a folder name"
        )


def is_plain_name(name: Any) -> bool:
    """Whether a text is a file's or folder's own name, without a path."""
    if not isinstance(name, str) or name in ("", ".", "..") or name.startswith("~"):
        return False
    return name.isprintable() and not set("/\\:") & set(name)


def is_digest(text: Any, length: int | None) -> bool:
    """Whether a text is hexadecimal, of so many digits (``None``: up to 128)."""
    if not isinstance(text, str) or not set(text) <= set("0123456789abcdef"):
        return False
    return 0 < len(text) <= 128 if length is None else len(text) == length


def find_model(record: dict[str, Any]) -> str | None:
    """What to load the model of a record from; ``None``: its folder is nowhere.

    "tiny"; a folder of the name, here or in ``checkpoints``; or a hub id at its revision, else as
    the cache has it.
    """
    name, revision = record["name"], record["revision"]
    if record["source"] == "embedded":
        return "tiny"
    if record["source"] == "hub":
        return name if revision is None else _fetch(name, revision)
    places = (Path(name), PLACE / name)
    return next((str(place) for place in places if (place / _CONFIG_FILE).is_file()), None)


def describe_difference(record: dict[str, Any], name: str) -> str | None:
    """In what the model found differs, as far as can be told before it is loaded."""
    folder = _find_folder(name)
    if folder is None:
        return None
    changed, has_all = [], True
    for what, compute in (("config", _hash_config), ("weights", sample_files_hash)):
        known = record[f"{what}_hash"]
        has_all = has_all and bool(known)
        if known and compute(folder) != known:
            changed.append("config.json" if what == "config" else what)
    if changed:
        return f"its {' and its '.join(changed)} differ from those of the training"
    revision = _locate(name)[2]
    if has_all or not record["revision"] or revision in (None, record["revision"]):
        return None
    return f"its revision is {revision}"


def _locate(name: str) -> tuple[str, str, str | None]:
    """Source, name to write down, and commit of a model."""
    path = Path(name).expanduser().resolve()
    if is_embedded(name):
        return "embedded", "tiny", None
    if path.is_dir():
        repository = path.parent.parent.name
        if path.parent.name == "snapshots" and repository.startswith("models--"):
            return "hub", repository.removeprefix("models--").replace("--", "/"), path.name
        return "folder", path.name, None
    folder = _find_folder(name)
    return "hub", name, None if folder is None else folder.name


def _find_folder(name: str, revision: str | None = None) -> Path | None:
    """Where a model's files are on this machine (of a hub id: at a commit); ``None``: nowhere."""
    if name == "tiny" or Path(name).is_dir():
        return TINY_FOLDER if name == "tiny" else Path(name)
    try:
        path = huggingface_hub.try_to_load_from_cache(name, _CONFIG_FILE, revision=revision)
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None


def _fetch(repo_id: str, revision: str) -> str:
    """The folder of a hub model at its revision; the bare id where it cannot be had."""
    folder = _find_folder(repo_id, revision)
    files = [] if folder is None else list_weight_files(folder)
    if files and all(path.is_file() for path in files):
        return str(folder)
    try:
        return huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=_MODEL_FILES,
            local_files_only=is_out_of_reach(repo_id),
        )
    except Exception:  # of many kinds; transformers looks for another revision and says what fails
        return repo_id


def _hash_config(folder: Path) -> str:
    """Hash of a model's config.json, without what saving it anew changes."""
    content = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))
    kept = {key for key in content if not key.startswith("_")} - _VOLATILE
    return hash_json({key: content[key] for key in kept})
