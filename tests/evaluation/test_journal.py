"""The journal of an evaluation gives back what was written, or says which line it cannot."""

import json
import random
import shutil

import pytest

from flmm.evaluation.journal import Journal

RECORDS = {
    index: {"standard": {"scores": [[index, 12 * index, 30]], "problems": [], "é": None}}
    for index in (3, 0, 7)
}


@pytest.fixture
def folder(tmp_path):
    journal = Journal(tmp_path / "val_0123")
    for index, record in RECORDS.items():
        journal.append(index, record)
    journal.close()
    return journal.folder


def test_records_come_back_and_lines_are_json(folder):
    assert Journal(folder).records == RECORDS
    assert Journal(folder, rank=1).records == RECORDS
    lines = list(map(json.loads, (folder / "rank0.jsonl").read_text().splitlines()))
    assert [tuple(line[:2]) for line in lines] == list(RECORDS.items())


@pytest.mark.parametrize("cut", range(1, 80))
def test_a_last_line_that_was_cut_off_is_computed_again(folder, cut):
    path = folder / "rank0.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-cut])
    journal = Journal(folder)
    assert journal.records == {index: RECORDS[index] for index in (3, 0)}
    journal.append(7, RECORDS[7])
    journal.close()
    assert path.read_text() == whole


def spoil(folder, change):
    path = folder / "rank0.jsonl"
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"[0, {}]\n" + content,
        lambda content: content.replace(b"[3, 36, 30]", b"[3, 30, 30]"),
        lambda content: content.replace(b'[3, {"standard"', b'[4, {"standard"'),
        lambda content: b"noise\n" + content,
        lambda content: b"\n" + content,
        lambda content: content[9:],
        lambda content: content.replace(b"\n", b" ", 1),
    ],
)
def test_a_line_that_is_not_as_written_is_named(folder, change):
    spoil(folder, change)
    with pytest.raises(ValueError, match=r"rank0\.jsonl, line 1, is not as this evaluation wrote"):
        Journal(folder, rank=1)
    spoil(folder, lambda content: content[content.index(b"\n") + 1 :])
    assert Journal(folder).records.items() <= RECORDS.items()


def test_any_flipped_bit_is_noticed(folder):
    path = folder / "rank0.jsonl"
    whole = path.read_bytes()
    for position in range(len(whole) - 1):
        content = bytearray(whole)
        content[position] ^= 1 << random.Random(position).randrange(8)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"line [1-4], is not as this evaluation wrote it"):
            Journal(folder)


def test_lines_of_another_run_are_refused(folder):
    other = folder.with_name("val_4567")
    shutil.copytree(folder, other)
    with pytest.raises(ValueError, match="or is of another run or version"):
        Journal(other)
