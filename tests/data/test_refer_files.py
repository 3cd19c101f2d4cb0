"""Pickles from the internet: plain values pass, everything else is refused by name."""

import collections
import gc
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from flmm.data.refer_files import load_instances, load_plain_pickle, load_refs
from tests.fuzz.harness import Fuzz

REF = {"ref_id": 1, "ann_id": 2, "image_id": 3, "split": "val", "sentences": []}


class Attack:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(tmp_path: Path, protocol: int) -> None:
    value = [
        {"a": [1, 2.5, None, True, 10**30], "b": ("x", "é漢"), "c": {1, 2}, "d": b"raw\xff"},
        collections.OrderedDict(z=frozenset("q"), empty=b""),
    ]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert load_plain_pickle(path) == value


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (Attack(os.system, "exit 1"), r"(posix|nt)\.system"),
        (Attack(open, "written", "w"), r"_?io\.open"),
        (Attack(eval, "1 + 1"), r"builtins\.eval"),
        (Attack(getattr, [], "append"), r"builtins\.getattr"),
        (Attack(pickle.loads, b""), r"_?pickle\.loads"),
        (collections.Counter("aa"), r"collections\.Counter"),
        (Path("x"), r"pathlib\.\w+"),
    ],
)
def test_any_other_global_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Any, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{"split": "train", "x": attack}], protocol=protocol))
    with pytest.raises(ValueError, match=rf"refs\.p cannot be read: refused to load {name}"):
        load_plain_pickle(path)
    assert not (tmp_path / "written").exists()


def test_codecs_encode_makes_bytes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x04\x00\x00\x00zlib\x86R.")
    with pytest.raises(ValueError, match=r"refused: _codecs\.encode to 'zlib'"):
        load_plain_pickle(path)


def test_attributes_of_what_a_file_is_given_cannot_be_changed(tmp_path: Path) -> None:
    """BUILD on the function that makes bytes: it would stay changed for every later file."""
    path = tmp_path / "refs.p"
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}X\x04\x00\x00\x00markK\x01sb.")
    with pytest.raises(ValueError, match=r"cannot be read: it holds the instruction b'b', which"):
        load_plain_pickle(path)


def test_a_name_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"](c__builtin__\nset\nK\x01e.")
    with pytest.raises(ValueError, match=r"builtins\.set stands in it as if it were data"):
        load_plain_pickle(path)


NEST = b"(l(I1\nltp0\n0" + b"(g0\ng0\ntp0\n0" * 60  # 2 ** 60 items, if anybody counts them
BOMBS = {
    "place in the memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "place in the memo, as text": b"(dp99999999999999999999\n.",
    "length of a text": b"\x80\x04\x8d\xff\xff\xff\xff\x00\x00\x00\x00a.",
    "length of bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00a.",
    "length of a bytearray": b"\x80\x05\x96\xff\xff\xff\xff\x01\x00\x00\x00a.",
    "length of a number": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "length of a frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\x00\x00].",
    "number of many digits": b"L" + b"9" * 10**6 + b"L\n.",
    "deep nest of lists": b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
    "deep nest of tuples": b")" + b"\x85" * 10**6 + b".",
    "marks": b"(" * 10**5 + b".",
    "list that holds itself": b"]q\x00h\x00a.",
    "ref that holds itself": b"]}q\x00(X\x06\x00\x00\x00ref_idh\x00ua.",
    "key that takes for ever": NEST + b"}g0\nNs.",
    "set that takes for ever": NEST + b"c__builtin__\nset\n((g0\nltR.",
    "one list for all refs": b"](X\x01\x00\x00\x00a" + b"h\x00" * 10**5 + b"e.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_file_takes_more_memory_than_it_has_bytes_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(BOMBS[name])

    def judge(_: Any) -> None:
        with pytest.raises(ValueError, match=r"refs\.p") as caught:
            load_refs(path)
        assert len(str(caught.value)) < 400

    Fuzz(name, 0, 0, 1).check_in_children(lambda rng: None, judge, max_megabytes=200)


def test_sentences_that_stand_for_a_thousand_refs_are_refused(tmp_path: Path) -> None:
    sentences = [{"sent_id": index, "raw": "a"} for index in range(1000)]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{**REF, "sentences": sentences} for _ in range(1000)]))
    with pytest.raises(ValueError, match="refers to the same sentences again and again"):
        load_refs(path)


@pytest.mark.parametrize(
    ("raw", "text"), [(b"caf\xc3\xa9", "café"), (b"caf\xe9", "café"), (b"dog", "dog")]
)
def test_strings_of_python_2(tmp_path: Path, raw: bytes, text: str) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"\x80\x02]U" + bytes([len(raw)]) + raw + b"a.")  # SHORT_BINSTRING
    assert load_plain_pickle(path) == [text]


def test_bytes_keys_become_text(tmp_path: Path) -> None:
    ref = {b"ref_id": 1, b"ann_id": 2, b"image_id": 3, b"split": b"val", b"sentences": []}
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([ref]))
    assert load_refs(path)[0]["split"] == "val"


def test_bytes_in_sentences_become_text(tmp_path: Path) -> None:
    sentence = {"sent_id": 5, "raw": "caf\u00e9".encode(), "tokens": [b"caf\xe9"]}
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{**REF, "sentences": [sentence]}, REF]))
    first, second = load_refs(path)
    assert first["sentences"] == [{"sent_id": 5, "raw": "café"}]
    assert second == REF


def test_only_wanted_records_are_kept(tmp_path: Path, data_dir: Path) -> None:
    content = json.loads((data_dir / "coco" / "instances_people.json").read_text())
    path = tmp_path / "instances.json"
    path.write_text("\ufeff" + json.dumps(content), encoding="utf-8")  # with a byte order mark
    images, annotations = load_instances(path)
    assert list(images.values()) == content["images"]
    assert list(annotations.values()) == content["annotations"]
    wanted = {content["annotations"][1]["id"]}
    some_images, some = load_instances(path, image_ids={785}, annotation_ids=wanted)
    assert list(some_images) == [785]
    assert some == {key: annotations[key] for key in wanted}


def test_the_collector_runs_again_after_loading(tmp_path: Path) -> None:
    assert gc.isenabled()
    with pytest.raises(FileNotFoundError):
        load_instances(tmp_path / "none.json")
    assert gc.isenabled()


def test_the_real_file(data_dir: Path) -> None:
    refs = load_refs(data_dir / "refcoco" / "refs(unc).p")
    assert [sentence["raw"] for sentence in refs[0]["sentences"]] == [
        "THE LADY WITH THE BLUE SHIRT",
        "lady w back to us",
        "blue shirt",
    ]
    images, annotations = load_instances(data_dir / "refcoco" / "instances.json")
    assert annotations[refs[0]["ann_id"]]["image_id"] == refs[0]["image_id"]
    assert images[refs[0]["image_id"]]["height"] == 640


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a pickle", "cannot be read"),
        (pickle.dumps({"a": 1}), "holds a dict, not a list of refs"),
        (pickle.dumps([{"ref_id": 1}]), "ref 0 has no field 'ann_id'"),
        (pickle.dumps([5]), "ref 0 is a int, not a dict"),
        (pickle.dumps([{**REF, "sentences": "x"}]), "the sentences of ref 1 are no list"),
        (pickle.dumps([{**REF, "sentences": [{"sent_id": 1}]}]), "of ref 1 has no field 'raw'"),
        (pickle.dumps([{**REF, "ann_id": [2]}]), r"ref 0 has the ann_id \[2\]: wanted a number"),
        (pickle.dumps(list(range(1000)))[:-40], "cannot be read"),
    ],
)
def test_broken_refs_are_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_refs(path)


def test_broken_instances_are_told(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": []}))
    with pytest.raises(ValueError, match="has no field 'annotations'"):
        load_instances(path)
    path.write_text(json.dumps({"images": {}, "annotations": []}))
    with pytest.raises(ValueError, match="an image is expected in a list, got a dict"):
        load_instances(path)
    path.write_text(json.dumps({"images": [{"file_name": "a.jpg"}], "annotations": []}))
    with pytest.raises(ValueError, match="an image has no field 'id'"):
        load_instances(path)
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match="is no readable JSON"):
        load_instances(path)
