"""Which frozen reader a shared head belongs to, and whether the one found is that one.

In: a reader as a config names it. Out: a record of a few lines (name, revision, sizes, fingerprint)
and back from it a name that transformers can load. A hub reader is known by id and commit; a folder
by its name and its content; the embedded one by its content. Paths of this machine are not written
down. The fingerprint reads headers and a few bytes of every tensor, so that it takes seconds for
the largest model.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from flmm.fingerprints import hash_json
from flmm.readers.hub import is_out_of_reach
from flmm.readers.loading import TINY_FOLDER, is_embedded, load_config
from flmm.readers.qwen import FAMILIES
from flmm.sharing.shared_settings import show

CONFIG_FILE = "config.json"
READER_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
# Where a folder is looked for by its name.
PLACES = (Path(), Path("checkpoints"))
_INDEX = "model.safetensors.index.json"
_SAMPLED_BYTES = 64
_GREATEST = 2**20  # layers, heads, width
_GREATEST_HEADER = 10**8  # bytes, as safetensors itself has it
_VOLATILE = ("transformers_version", "torch_dtype", "dtype")
_WAY_OUT = "cfg_options={'reader': FOLDER} (tools: --cfg-options reader=FOLDER)"


def describe_reader(name: str, config: Any, has_weights: bool = True) -> dict[str, Any]:
    """The record of a reader.

    Args:
        name: what it was loaded from: "tiny", a folder, or a hub id.
        config: of the loaded transformers model.
        has_weights: false: they were drawn at random.
    """
    source, shown, revision = _locate(name)
    folder = find_folder(name)
    return {
        "source": source,
        "name": shown,
        "revision": getattr(config, "_commit_hash", None) or revision,
        "sizes": describe_sizes(config),
        "config_hash": None if folder is None else hash_config(folder),
        "weights_hash": hash_weights(folder) if folder and has_weights else None,
    }


def describe_sizes(config: Any) -> dict[str, Any]:
    """What a head depends on, of a transformers config."""
    text = config.get_text_config()
    return {
        "model_type": config.model_type,
        "num_layers": text.num_hidden_layers,
        "num_heads": text.num_attention_heads,
        "hidden_size": text.hidden_size,
    }


def check_record(record: dict[str, Any]) -> None:
    """Whether a record can be used.

    Args:
        record: of any origin.

    Raises:
        ValueError: a field is missing, or the name is a path that leads elsewhere.
    """
    sizes = record.get("sizes")
    types = {"model_type": str, "num_layers": int, "num_heads": int, "hidden_size": int}
    if not isinstance(sizes, dict) or {key: type(sizes[key]) for key in sizes} != types:
        raise ValueError(f"reader.sizes is {show(sizes)}: {', '.join(types)} must be there")
    numbers = [value for value in sizes.values() if isinstance(value, int)]
    if not sizes["model_type"].isidentifier() or not all(0 < n <= _GREATEST for n in numbers):
        raise ValueError(f"reader.sizes is {show(sizes)}, of no model")
    for key, length in (("revision", 40), ("config_hash", None), ("weights_hash", None)):
        if key not in record:
            raise ValueError(f"reader.{key} is missing; null says that nobody knows it")
        if record[key] is not None and not is_digest(record[key], length):
            raise ValueError(f"reader.{key} is {show(record[key])}, no hexadecimal digest")
    source, name = record.get("source"), record.get("name")
    known = isinstance(name, str) and source in ("embedded", "folder", "hub")
    if known and source == "hub":
        try:
            validate_repo_id(name)
        except HFValidationError:
            known = False
    if not known or (source == "folder" and not is_plain_name(name)):
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
        record: of :func:`describe_reader`.
        given: the user's own choice; ``None``: the embedded reader, a folder of the name here or
            in ``checkpoints``, or a hub reader at its revision, else as the cache has it.

    Raises:
        FileNotFoundError: there is no such folder; the message says what to give.
        OSError: there is no model.
        ValueError: the reader has other sizes than the head was trained for.
    """
    name = given or _find(record)
    found = describe_sizes(load_config(name, FAMILIES))
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


def find_folder(name: str, revision: str | None = None) -> Path | None:
    """Where the files of a reader are on this machine; ``None``: not here.

    Args:
        name: "tiny", a folder, or a hub id.
        revision: of a hub id, a commit; ``None``: the one last used.
    """
    if name == "tiny" or Path(name).is_dir():
        return TINY_FOLDER if name == "tiny" else Path(name)
    try:
        path = huggingface_hub.try_to_load_from_cache(name, CONFIG_FILE, revision=revision)
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None


def hash_config(folder: Path) -> str:
    """Digest of a model's config.json, without what saving it anew changes."""
    content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return hash_json(
        {
            key: value
            for key, value in content.items()
            if not key.startswith("_") and key not in _VOLATILE
        }
    )


def hash_weights(folder: Path) -> str | None:
    """Digest of a folder's safetensors, the same however they are split into files.

    Of every tensor, name, dtype, shape and 64 bytes from its middle count: a fine-tuned model is
    not its base.

    Returns:
        ``None`` where the folder has no safetensors.

    Raises:
        ValueError: a file is cut off or damaged.
    """
    rows = sorted(row for path in _list_weight_files(folder) for row in _sample_tensors(path))
    return hash_json(rows) if rows else None


def format_reader(record: dict[str, Any]) -> str:
    """A record in words: name, revision, sizes."""
    name = {"embedded": "the toy embedded in flmm"}.get(record["source"], record["name"])
    revision = f" at revision {record['revision']}" if record["revision"] else ""
    return f"{name}{revision} ({_format_sizes(record['sizes'])})"


def _format_sizes(sizes: dict[str, Any]) -> str:
    return (
        f"{sizes['model_type']}, {sizes['num_layers']} layers x {sizes['num_heads']} heads, "
        f"width {sizes['hidden_size']}"
    )


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
    folder = find_folder(name)
    return "hub", name, None if folder is None else folder.name


def _find(record: dict[str, Any]) -> str:
    name, revision = record["name"], record["revision"]
    if record["source"] == "embedded":
        return "tiny"
    if record["source"] == "hub":
        return name if revision is None else _fetch(name, revision)
    for place in PLACES:
        if (place / name / CONFIG_FILE).is_file():
            return str(place / name)
    raise FileNotFoundError(
        f"the head was trained for the reader in a folder {format_reader(record)}, which is "
        f"neither here nor in checkpoints/: put it there, or name it with {_WAY_OUT}"
    )


def _fetch(repo_id: str, revision: str) -> str:
    """The folder of a hub reader at its revision; the bare id where it cannot be had."""
    folder = find_folder(repo_id, revision)
    if folder is not None:
        files = _list_weight_files(folder)
        if files and all(path.is_file() for path in files):
            return str(folder)
    try:
        return huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=READER_FILES,
            local_files_only=is_out_of_reach(repo_id),
        )
    except Exception:  # of many kinds; transformers looks for another revision and says what fails
        return repo_id


def _describe_difference(record: dict[str, Any], name: str) -> str | None:
    """In what the reader found differs, as far as can be told before it is loaded."""
    folder = find_folder(name)
    if folder is None:
        return None
    pairs = [("config.json", "config_hash", hash_config), ("weights", "weights_hash", hash_weights)]
    known = [item for item in pairs if record.get(item[1])]
    changed = [what for what, key, compute in known if compute(folder) != record[key]]
    if changed:
        return f"its {' and its '.join(changed)} differ from those of the training"
    revision = _locate(name)[2]
    if (
        len(known) < len(pairs)
        and record["revision"]
        and revision not in (None, record["revision"])
    ):
        return f"its revision is {revision}"
    return None


def _list_weight_files(folder: Path) -> list[Path]:
    if (folder / _INDEX).is_file():
        names = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / Path(name).name for name in sorted(set(names))]
    return sorted(folder.glob("*.safetensors"))


def _sample_tensors(path: Path) -> Iterator[tuple[str, str, list[int], str]]:
    """Name, dtype, shape and a few bytes (hexadecimal) of each tensor of a file.

    Source of the layout: https://github.com/huggingface/safetensors#format.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _GREATEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
            begin = file.tell()
            for name, tensor in header.items():
                if name != "__metadata__":
                    first, last = tensor["data_offsets"]
                    if not 0 <= first <= last:
                        raise ValueError(f"{name} lies nowhere")
                    middle = max(first, min((first + last) // 2, last - _SAMPLED_BYTES))
                    file.seek(begin + middle)
                    sample = file.read(min(_SAMPLED_BYTES, last - middle))
                    if len(sample) < min(_SAMPLED_BYTES, last - first):
                        raise ValueError(f"{name} is cut off")
                    yield name, tensor["dtype"], tensor["shape"], sample.hex()
    except (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"the reader's {path} is missing, cut off or damaged: download it again"
        ) from error


__all__ = [
    "check_record",
    "choose_reader",
    "describe_reader",
    "describe_sizes",
    "find_folder",
    "format_reader",
    "hash_config",
    "hash_weights",
    "is_digest",
    "is_plain_name",
]
