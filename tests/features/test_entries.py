"""Files of the feature cache: whole or passed over, shared, within their room."""

import os
import random
import re
import time

import pytest
import torch
from safetensors.torch import load_file

from flmm.features import entries as budget_module
from flmm.features.entries import DiskBudget, EntryFolder
from flmm.files import measure_free
from tests.forks import Fork

# Writes entries "<number>-<name>" of 4000 bytes each, and tells what it has put.
WRITER = """
import sys
from pathlib import Path
import torch
from flmm.features.entries import DiskBudget
from flmm.features.entries import EntryFolder
root, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
folder = EntryFolder(root / "part", DiskBudget(root, 1))
for number in range(count):
    folder.put(f"{number}-{name}", {"maps": torch.full((1000,), float(number))})
    print(number, flush=True)
"""


def open_folder(root, max_gb=1.0):
    return EntryFolder(root / "part", DiskBudget(root, max_gb))


def make_entry(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "maps": torch.randn(2, 3, 4, generator=generator),
        "ids": torch.arange(seed % 5, dtype=torch.int32),
    }


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor)


def start_writer(root, name, count):
    return Fork(WRITER, root, name, count)


def test_entries_are_found_by_everybody_at_once(tmp_path):
    mine, other = open_folder(tmp_path), open_folder(tmp_path)
    other.put("abc", make_entry(3))
    for folder in (other, mine):
        assert_equal(folder.get("abc"), make_entry(3))
        assert folder.get("abd") is None and len(folder) == 1
    (path,) = tmp_path.rglob("*.safetensors")
    assert path == tmp_path / "part/ab/abc.safetensors"
    assert torch.equal(load_file(path)["maps"], make_entry(3)["maps"])
    assert mine.bytes_on_disk == path.stat().st_size


def test_any_flipped_bit_is_noticed(tmp_path, messages):
    """In the header (names, shapes), in the checksum and in the tensors: never a wrong value."""
    folder = open_folder(tmp_path)
    folder.put("one", make_entry(2))
    (path,) = tmp_path.rglob("*.safetensors")
    whole, lost = path.read_bytes(), 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        messages.clear()
        found = open_folder(tmp_path).get("one")
        if found is None:
            lost += 1
            assert len(messages) == 1 and str(path) in messages[0]
        else:  # white space of the header
            assert_equal(found, make_entry(2))
            assert not messages
    assert lost >= 0.9 * len(whole)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_passed_over_and_replaced(tmp_path, messages, share):
    folder = open_folder(tmp_path)
    folder.put("a", make_entry(1))
    (path,) = tmp_path.rglob("*.safetensors")
    os.truncate(path, int(path.stat().st_size * share))
    for _ in range(2):
        assert folder.get("a") is None
    assert len(messages) == 1
    assert f"{path} is passed over" in messages[0] and "computed anew" in messages[0]
    folder.put("a", make_entry(1))
    assert_equal(open_folder(tmp_path).get("a"), make_entry(1))


def test_an_entry_under_another_key_is_not_taken_for_it(tmp_path, messages):
    folder = open_folder(tmp_path)
    folder.put("aaa", make_entry(1))
    (path,) = tmp_path.rglob("*.safetensors")
    path.rename(path.with_name("aab.safetensors"))
    assert folder.get("aab") is None and "its checksum is wrong" in messages[0]


@pytest.mark.process
def test_two_processes_share_a_folder(tmp_path):
    """And the same keys."""
    writers = [start_writer(tmp_path, name, 40) for name in ("one", "two", "one")]
    assert all(writer.finish(120).returncode == 0 for writer in writers)
    folder = open_folder(tmp_path)
    assert len(folder) == 80
    for name in ("one", "two"):
        for number in range(40):
            assert torch.equal(
                folder.get(f"{number}-{name}")["maps"], torch.full((1000,), float(number))
            )


@pytest.mark.process
def test_killed_while_it_writes_it_loses_one_entry_at_most(tmp_path, messages):
    for seed in range(2):
        writer = start_writer(tmp_path, str(seed), 10**6)
        while writer.poll() is None and not list(tmp_path.rglob(f"9-{seed}.safetensors")):
            time.sleep(0.002)
        time.sleep(random.Random(seed).uniform(0.05, 0.2))
        writer.kill()
        put = int(writer.finish().stdout.splitlines()[-2])  # the last line may be cut off
        folder = open_folder(tmp_path)
        kept = [number for number in range(put + 3) if folder.get(f"{number}-{seed}") is not None]
        assert kept == list(range(len(kept))) and len(kept) > put
    assert not messages


def test_leftovers_of_killed_processes_go(tmp_path):
    folder = tmp_path / "part" / "ab"
    folder.mkdir(parents=True)
    old, fresh = (folder / f"ab.safetensors.{name}.tmp" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    open_folder(tmp_path)
    assert not old.exists() and fresh.exists()


def test_nothing_is_written_past_the_limit(tmp_path, messages):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "old.safetensors").write_bytes(b"0" * 5000)
    folder = open_folder(tmp_path, max_gb=12_000 / 1e9)
    for seed in range(40):
        folder.put(str(seed), make_entry(seed))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert 11_000 < size <= 12_000
    assert len(messages) == 1
    assert re.search(
        r"takes nothing more: it has reached max_gb=1\.2e-05.*raise max_gb", messages[0]
    )
    (tmp_path / "other" / "old.safetensors").unlink()
    folder.budget.reopen()
    folder.put("late", make_entry(1))
    assert_equal(open_folder(tmp_path).get("late"), make_entry(1))


def test_the_disk_is_not_filled_up(tmp_path, messages, monkeypatch):
    """Checkpoints need the room."""
    free = measure_free(tmp_path)
    monkeypatch.setattr(budget_module, "RESERVE_BYTES", 2 * free)
    folder = open_folder(tmp_path)
    folder.put("a", make_entry(1))
    assert folder.get("a") is None
    assert "free, of which" in messages[0] and "left to checkpoints" in messages[0]


@pytest.mark.process
def test_a_system_that_refuses_to_write_is_no_error(tmp_path, messages):
    """The system refuses files of more than 3 kB, as it would on a full disk."""
    limits = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
"""
    code = limits + WRITER.replace("print(number", "print(folder.budget.is_spent")
    done = Fork(code, tmp_path, "a", 9).finish(120)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line in ("True", "False")]
    assert told == ["True"] * 9
    assert "the system refuses to write (File too large)" in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
