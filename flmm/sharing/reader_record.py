"""Which frozen reader a shared head belongs to, and whether the one found is that one.

In: a reader as a config names it. Out: a record of a few lines (name, revision, sizes, hashes) and
back from it a name that transformers can load. A hub reader is known by id and commit; a folder by
its name and its content; the embedded one by its content. Paths of this machine are not written
down.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from flmm.fingerprints import hash_json, list_weight_files, sample_files_hash
from flmm.readers.hub import is_out_of_reach
from flmm.readers.loading import TINY_FOLDER, is_embedded, load_config
from flmm.sharing.settings import show

_CONFIG_FILE = "config.json"
_READER_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
_PLACES = (Path(), Path("checkpoints"))  # where a folder is looked for by its name
_SIZES = {"model_type": str, "num_layers": int, "num_heads": int, "hidden_size": int}
_GREATEST = 2**20  # layers, heads, width
_VOLATILE = ("transformers_version", "torch_dtype", "dtype")
_WAY_OUT = "cfg_options={'reader': FOLDER} (tools: --cfg-options reader=FOLDER)"


def record_reader(name: str, config: Any, has_weights: bool = True) -> dict[str, Any]:
    """The record of a reader.

    Args:
        name: what it was loaded from: "tiny", a folder, or a hub id.
        config: of the loaded transformers model.
        has_weights: false: they were drawn at random.
    """
    source, shown, revision = _locate(name)
    folder = _find_folder(name)
    return {
        "source": source,
        "name": shown,
        "revision": getattr(config, "_commit_hash", None) or revision,
        "sizes": _read_sizes(config),
        "config_hash": None if folder is None else _hash_config(folder),
        "weights_hash": sample_files_hash(folder) if folder and has_weights else None,
    }


def check_reader_record(record: dict[str, Any]) -> None:
    """Whether a record of any origin can be used.

    Raises:
        ValueError: a field is missing, or the name is a path that leads elsewhere.
    """
    sizes = record.get("sizes")
    if not isinstance(sizes, dict) or {key: type(sizes[key]) for key in sizes} != _SIZES:
        raise ValueError(f"reader.sizes is {show(sizes)}: {', '.join(_SIZES)} must be there")
    numbers = [value for value in sizes.values() if isinstance(value, int)]
    if not sizes["model_type"].isidentifier() or not all(0 < n <= _GREATEST for n in numbers):
        raise ValueError(f"reader.sizes is {show(sizes)}, of no model")
    for key, length in (("revision", 40), ("config_hash", None), ("weights_hash", None)):
        if key not in record:
            raise ValueError(f"reader.{key} is missing; null says that nobody knows it")
        if record[key] is not None and not is_digest(record[key], length):
            raise ValueError(f"reader.{key} is {show(record[key])}, no hexadecimal digest")
    source, name = record.get("source"), record.get("name")
    checks = {"embedded": bool, "folder": is_plain_name, "hub": _is_repository}
    is_known = isinstance(source, str) and source in checks and isinstance(name, str)
    if not is_known or not checks[source](name):
        raise ValueError(
            f"reader.name is {show(name)} ({show(source)}), neither a hub id nor a folder name"
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


def choose_reader(record: dict[str, Any], given: str | None = None) -> str:
    """What to load the reader of a record from.

    Args:
        record: of :func:`record_reader`.
        given: the user's own choice; ``None``: the embedded reader, a folder of the name here or
            in ``checkpoints``, or a hub reader at its revision, else as the cache has it.

    Raises:
        FileNotFoundError: there is no such folder; the message says what to give.
        OSError: there is no model.
        ValueError: the reader has other sizes than the head was trained for.
    """
    name = given or _find(record)
    found = _read_sizes(load_config(name))
    if found != record["sizes"]:
        raise ValueError(
            f"the head was trained for reader {format_reader(record)}, but {name} has "
            f"{_format_sizes(found)}: give the head's own reader with {_WAY_OUT}"
        )
    difference = _describe_difference(record, name)
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
    return (
        f"{sizes['model_type']}, {sizes['num_layers']} layers x {sizes['num_heads']} heads, "
        f"width {sizes['hidden_size']}"
    )


def _read_sizes(config: Any) -> dict[str, Any]:
    """What a head depends on, of a transformers config."""
    text = config.get_text_config()
    return {
        "model_type": config.model_type,
        "num_layers": text.num_hidden_layers,
        "num_heads": text.num_attention_heads,
        "hidden_size": text.hidden_size,
    }


def _is_repository(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _locate(name: str) -> tuple[str, str, str | None]:
    """Source, name to write down, and commit of a reader."""
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
    """Where a reader's files are on this machine (of a hub id: at a commit); ``None``: nowhere."""
    if name == "tiny" or Path(name).is_dir():
        return TINY_FOLDER if name == "tiny" else Path(name)
    try:
        path = huggingface_hub.try_to_load_from_cache(name, _CONFIG_FILE, revision=revision)
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None


def _find(record: dict[str, Any]) -> str:
    name, revision = record["name"], record["revision"]
    if record["source"] == "embedded":
        return "tiny"
    if record["source"] == "hub":
        return name if revision is None else _fetch(name, revision)
    for place in _PLACES:
        if (place / name / _CONFIG_FILE).is_file():
            return str(place / name)
    raise FileNotFoundError(
        f"the head was trained for the reader in a folder {format_reader(record)}, which is "
        f"neither here nor in checkpoints/: put it there, or name it with {_WAY_OUT}"
    )


def _fetch(repo_id: str, revision: str) -> str:
    """The folder of a hub reader at its revision; the bare id where it cannot be had."""
    folder = _find_folder(repo_id, revision)
    if folder is not None:
        files = list_weight_files(folder)
        if files and all(path.is_file() for path in files):
            return str(folder)
    try:
        return huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=_READER_FILES,
            local_files_only=is_out_of_reach(repo_id),
        )
    except Exception:  # of many kinds; transformers looks for another revision and says what fails
        return repo_id


def _hash_config(folder: Path) -> str:
    """Hash of a model's config.json, without what saving it anew changes."""
    content = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))
    kept = {key for key in content if not key.startswith("_")} - {*_VOLATILE}
    return hash_json({key: content[key] for key in kept})


def _describe_difference(record: dict[str, Any], name: str) -> str | None:
    """In what the reader found differs, as far as can be told before it is loaded."""
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


__all__ = [
    "check_reader_record",
    "choose_reader",
    "format_reader",
    "is_digest",
    "is_plain_name",
    "record_reader",
]
