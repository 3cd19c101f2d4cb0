"""Reads the two files of a RefCOCO-style data set: ``refs(*).p`` and ``instances.json``.

gRefCOCO's ``grefs(*).json`` has the same records as JSON, whose ``ann_id`` is a list.

Records are checked field by field, with the checks that narratives and panoptic files use too.
"""

from __future__ import annotations

import gc
import json
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from flmm.data.plain_pickle import RefusedPickleError, read_plain_pickle

REF_FIELDS = ("ref_id", "ann_id", "image_id", "split", "sentences")
NO_TARGET = -1  # the only ``ann_id`` of an expression of nothing
SENTENCE_FIELDS = ("sent_id", "raw")
ANNOTATION_FIELDS = ("id", "image_id", "segmentation")
IMAGE_FIELDS = ("id", "file_name", "height", "width")


def load_plain_pickle(path: str | Path) -> Any:
    """The value of a pickle of plain containers, strings and numbers; see ``read_plain_pickle``."""
    try:
        with paused_collector():
            return read_plain_pickle(_read(path, "split_file"))
    except RefusedPickleError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def load_json(
    path: str | Path,
    argument: str,
    keep: Callable[[dict[str, Any]], Any] | None = None,
    encoding: str = "utf-8-sig",
) -> Any:
    """The content of a JSON file; what cannot be read is called ``argument``, as the data set's is.

    ``keep`` says what each object becomes while the file is parsed.
    """
    try:
        with paused_collector():  # no name for the text: it is freed as soon as it is parsed
            return json.loads(_read(path, argument).decode(encoding), object_hook=keep)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{argument} {path} is no readable JSON: {error}") from error


def _read(path: str | Path, argument: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{argument} {path} does not exist: check {argument} and data_root"
        ) from error


def load_refs(path: str | Path) -> list[dict[str, Any]]:
    """The refs of a ``refs(*).p`` or ``grefs(*).json``, in file order, with the fields flmm reads.

    ``ann_id`` is one id, or in JSON a list of them, ``[-1]`` for an expression of nothing.

    Raises:
        ValueError: not a list of refs, a ref or sentence lacks a field, or one list of sentences
            stands for more than the file can hold.
    """
    is_json = Path(path).suffix == ".json"
    refs = load_json(path, "split_file") if is_json else load_plain_pickle(path)
    if not isinstance(refs, list):
        raise ValueError(f"{path} holds a {type(refs).__name__}, not a list of refs")
    room = Path(path).stat().st_size  # every sentence that is written takes more than a byte
    for index, ref in enumerate(refs):
        where = f"{path}: ref {index}"
        refs[index] = ref = _pick(ref, REF_FIELDS, where)
        check_ids(ref, ("ref_id", "image_id", "split"), where)
        targets = _as_list(ref["ann_id"]) if is_json else [ref["ann_id"]]
        for target in targets:
            check_ids({"ann_id": target}, ("ann_id",), where)
        if is_json:
            ref["ann_id"] = targets
        where = f"{path}: a sentence of ref {ref['ref_id']}"
        if not isinstance(ref["sentences"], list):
            raise ValueError(f"{path}: the sentences of ref {ref['ref_id']} are no list")
        room -= len(ref["sentences"])
        if room < 0:
            raise ValueError(f"{path} refers to the same sentences again and again: it is broken")
        ref["sentences"] = [_pick(item, SENTENCE_FIELDS, where) for item in ref["sentences"]]
        for sentence in ref["sentences"]:
            check_ids(sentence, ("sent_id", *sentence.keys() & {"kind"}), where)
    return refs


def list_targets(ref: dict[str, Any]) -> list[Any]:
    """The annotation ids of a ref: one, or in gRefCOCO's layout one, several or none."""
    targets = ref["ann_id"]
    if not isinstance(targets, list):
        return [targets]
    return [] if targets == [NO_TARGET] else targets


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _pick(record: Any, fields: tuple[str, ...], where: str) -> dict[str, Any]:
    """The fields of a record, and its ``kind`` if it has one; bytes become text."""
    if isinstance(record, dict) and bytes in map(type, chain(record, record.values())):
        record = {_decode_bytes(key): _decode_bytes(item) for key, item in record.items()}
    check_fields(record, fields, where)
    return {field: record[field] for field in (*fields, "kind") if field in record}


def _decode_bytes(value: Any) -> Any:
    """``bytes`` become ``str`` (UTF-8, else latin-1); anything else stays."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin1")


def load_instances(
    path: str | Path,
    image_ids: Collection[int] | None = None,
    annotation_ids: Collection[int] | None = None,
) -> tuple[dict[int, dict], dict[int, dict]]:
    """Images and annotations of a COCO ``instances.json``, each by its id.

    Those that are not among the wanted ids (None: all) are dropped while the file is parsed and
    never take memory: RefCOCO has 196,771 annotations and refers to 50,000. Ids of two different
    records are refused.
    """

    def drop_unwanted(record: dict[str, Any]) -> dict[str, Any] | None:
        if "image_id" in record:
            wanted = annotation_ids
        elif "file_name" in record:
            wanted = image_ids
        else:
            return record
        # What cannot be an id is kept, for the check below to name it.
        own = record.get("id")
        return record if wanted is None or not _is_id(own) or own in wanted else None

    content = load_json(path, "ann_file", drop_unwanted)
    check_fields(content, ("images", "annotations"), str(path))
    images = _index_by_id(content["images"], f"{path}: an image")
    return images, _index_by_id(content["annotations"], f"{path}: an annotation")


def _index_by_id(records: Any, where: str) -> dict[int, dict]:
    """The records by id; None stands for one that was not wanted."""
    wanted = records
    if isinstance(records, list):
        wanted = [record for record in records if record is not None]
    found: dict[int, dict] = {}
    for record in check_records(wanted, ("id",), where, ids=("id",)):
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
    """Raise a ``ValueError`` that names ``where`` unless a record is a dict with these fields."""
    if not isinstance(record, dict):
        raise ValueError(f"{where} is a {type(record).__name__}, not a dict")
    for field in fields:
        if field not in record:
            raise ValueError(f"{where} has no field {field!r} (it has {sorted(map(str, record))})")


def check_records(
    records: Any, fields: Iterable[str], where: str, ids: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """The same records, if they are a list of dicts with these fields, some of which are ids."""
    if not isinstance(records, list):
        raise ValueError(f"{where} is expected in a list, got a {type(records).__name__}")
    for record in records:
        check_fields(record, fields, where)
        check_ids(record, ids, where)
    return records


def check_ids(record: dict[str, Any], fields: Iterable[str], where: str) -> None:
    """Raise a ``ValueError`` that names ``where`` unless these fields are numbers or texts."""
    for field in fields:
        if not _is_id(record[field]):
            raise ValueError(
                f"{where} has the {field} {reprlib.repr(record[field])}: wanted a number or a text"
            )


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))
