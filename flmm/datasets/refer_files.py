"""Reads the two files of a RefCOCO-style data set: ``refs(*).p`` and ``instances.json``.

``refs(*).p`` files are pickles from the internet, so they are read by an unpickler that builds
plain containers, strings and numbers and refuses everything else by name. Data in: two paths.
Data out: plain records, checked field by field. Which sentences are used is not decided here.
"""

from __future__ import annotations

import gc
import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

REF_FIELDS = ("ref_id", "ann_id", "image_id", "split", "sentences")
SENTENCE_FIELDS = ("sent_id", "raw")
ANNOTATION_FIELDS = ("id", "image_id", "segmentation")
IMAGE_FIELDS = ("id", "file_name", "height", "width")


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """What ``_codecs.encode`` does for bytes in old pickle protocols, and nothing more."""
    if encoding.replace("-", "").lower() != "latin1":
        raise pickle.UnpicklingError(f"refused: _codecs.encode to {encoding!r}")
    return text.encode("latin1")


class PlainUnpickler(pickle.Unpickler):
    """Builds lists, tuples, dicts, sets, strings, bytes and numbers; refuses any other global."""

    ALLOWED: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("builtins", "set"): set,
        ("builtins", "frozenset"): frozenset,
        ("builtins", "bytes"): lambda: b"",
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _latin1_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The few harmless globals; Python 2 names were mapped to Python 3's before.

        Raises:
            pickle.UnpicklingError: any other global.
        """
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(
                f"refused to load {module}.{name}: a refs file holds only plain containers, "
                "strings and numbers; this one may be harmful, get it from another source"
            )
        return self.ALLOWED[module, name]


def load_plain_pickle(path: str | Path) -> Any:
    """The content of a pickle of plain containers, strings and numbers (Python 2 or 3).

    Python 2 strings are read as UTF-8, and as latin-1 where they are not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no pickle, is cut off, or names a global that is refused.
    """
    content = Path(path).read_bytes()
    try:
        with paused_collector():
            try:
                return PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
            except UnicodeDecodeError:
                return PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a broken pickle raises almost anything
        raise ValueError(f"{path} cannot be read: {error}") from error


def load_refs(path: str | Path) -> list[dict[str, Any]]:
    """The refs of a ``refs(*).p`` file, in file order, with the fields flmm needs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a list of refs, or a ref or sentence lacks a field.
    """
    refs = load_plain_pickle(path)
    if not isinstance(refs, list):
        raise ValueError(f"{path} holds a {type(refs).__name__}, not a list of refs")
    for index, ref in enumerate(refs):
        if _has_bytes(ref):
            refs[index] = ref = _decode_bytes(ref)
        check_fields(ref, REF_FIELDS, f"{path}: ref {index}")
        _check_ids(ref, ("ref_id", "ann_id", "image_id", "split"), f"{path}: ref {index}")
        where = f"{path}: a sentence of ref {ref['ref_id']}"
        if not isinstance(ref["sentences"], list):
            raise ValueError(f"{path}: the sentences of ref {ref['ref_id']} are no list")
        for sentence in ref["sentences"]:
            check_fields(sentence, SENTENCE_FIELDS, where)
            _check_ids(sentence, ("sent_id",), where)
    return refs


def _has_bytes(ref: Any) -> bool:
    """Whether a ref or one of its sentences has ``bytes`` as a key or value."""
    if not isinstance(ref, dict) or not isinstance(ref.get("sentences"), list):
        return True
    records = [ref, *(item for item in ref["sentences"] if isinstance(item, dict))]
    return any(bytes in map(type, chain(record, record.values())) for record in records)


def _decode_bytes(value: Any) -> Any:
    """``bytes`` anywhere in nested containers become ``str`` (UTF-8, else latin-1)."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin1")
    if isinstance(value, dict):
        return {_decode_bytes(key): _decode_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode_bytes(item) for item in value]
    return value


def load_instances(
    path: str | Path,
    image_ids: Collection[int] | None = None,
    annotation_ids: Collection[int] | None = None,
) -> tuple[dict[int, dict], dict[int, dict]]:
    """Images and annotations of a COCO ``instances.json``, each by its id.

    Args:
        path: of the file.
        image_ids, annotation_ids: sets of the wanted ones; None: all. The others are dropped
            while the file is parsed and never take memory: RefCOCO has 196,771 annotations and
            refers to 50,000.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no JSON, the keys ``images`` and ``annotations`` are missing, or an id stands
            for two different records.
    """

    def drop_unwanted(record: dict[str, Any]) -> dict[str, Any] | None:
        if "image_id" in record:
            wanted = annotation_ids
        elif "file_name" in record:
            wanted = image_ids
        else:
            return record
        return record if wanted is None or record.get("id") in wanted else None

    try:
        with paused_collector():
            # No name for the text: it is freed as soon as it is parsed.
            content = json.loads(
                Path(path).read_text(encoding="utf-8-sig"), object_hook=drop_unwanted
            )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no readable JSON: {error}") from error
    check_fields(content, ("images", "annotations"), str(path))
    images = _index_by_id(content["images"], f"{path}: an image")
    return images, _index_by_id(content["annotations"], f"{path}: an annotation")


def _index_by_id(records: Any, where: str) -> dict[int, dict]:
    """The records by id; None stands for one that was not wanted."""
    if not isinstance(records, list):
        raise ValueError(f"{where} is expected in a list, got a {type(records).__name__}")
    found: dict[int, dict] = {}
    for record in records:
        if record is None:
            continue
        check_fields(record, ("id",), where)
        _check_ids(record, ("id",), where)
        if found.setdefault(record["id"], record) != record:
            raise ValueError(
                f"{where} with id {record['id']} occurs more than once, with other content: it is "
                "not known which one is meant; repair the file"
            )
    return found


@contextmanager
def paused_collector() -> Iterator[None]:
    """No garbage collection: it would walk all records again and again while they are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_fields(record: Any, fields: Iterable[str], where: str) -> None:
    """Check that a record is a dict that has the fields.

    Raises:
        ValueError: it is no dict, or lacks a field; the message names ``where`` and the field.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where} is a {type(record).__name__}, not a dict")
    for field in fields:
        if field not in record:
            raise ValueError(f"{where} has no field {field!r} (it has {sorted(map(str, record))})")


def _check_ids(record: dict[str, Any], fields: Iterable[str], where: str) -> None:
    for field in fields:
        if not isinstance(record[field], (int, str)):
            raise ValueError(f"{where} has the {field} {record[field]!r:.40}: wanted a number")


__all__ = [
    "PlainUnpickler",
    "check_fields",
    "load_instances",
    "load_plain_pickle",
    "load_refs",
    "paused_collector",
]
