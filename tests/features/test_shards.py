"""Files of the feature cache: whole or passed over, shared, within their room."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flmm.features import budget as budget_module
from flmm.features.budget import DiskBudget
from flmm.features.shards import ShardFolder
from tests.forks import Fork

ROOT = Path(__file__).parents[2]
# Writes entries "<name>-<number>" of 4000 bytes each, five to a file, and tells what it has put.
WRITER = """
import sys
from pathlib import Path
import torch
from flmm.features.budget import DiskBudget
from flmm.features.shards import ShardFolder
root, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
folder = ShardFolder(root / "part", DiskBudget(root, 1), 20_000)
for number in range(count):
    folder.put(f"{name}-{number}", {"maps": torch.full((1000,), float(number))})
    print(number, flush=True)
folder.flush()
"""


def open_folder(root, max_gb=1.0, shard_bytes=10**6):
    return ShardFolder(root / "part", DiskBudget(root, max_gb), shard_bytes)


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


def test_entries_are_found_before_and_after_they_are_written(tmp_path):
    folder = open_folder(tmp_path)
    folder.put("a", make_entry(3))
    assert_equal(folder.get("a"), make_entry(3))
    assert folder.get("b") is None and len(folder) == 1
    assert not list(tmp_path.rglob("*.safetensors"))
    folder.flush()
    assert_equal(folder.get("a"), make_entry(3))
    assert_equal(open_folder(tmp_path).get("a"), make_entry(3))
    (path,) = tmp_path.rglob("*.safetensors")
    assert torch.equal(load_file(path)["a/maps"], make_entry(3)["maps"])


def test_a_file_is_written_when_enough_is_gathered(tmp_path):
    folder = open_folder(tmp_path, shard_bytes=1000)
    for seed in range(30):
        folder.put(str(seed), make_entry(seed))
    size = sum(sum(tensor.nbytes for tensor in make_entry(seed).values()) for seed in range(30))
    written = len(list(tmp_path.rglob("*.safetensors")))
    assert size // 1200 <= written <= size // 1000
    assert len(open_folder(tmp_path)) >= 30 - 11


def test_what_others_write_is_found_after_a_refresh(tmp_path):
    mine, other = open_folder(tmp_path), open_folder(tmp_path)
    other.put("a", make_entry(1))
    other.flush()
    assert mine.get("a") is None
    mine.refresh()
    assert_equal(mine.get("a"), make_entry(1))


def test_any_flipped_bit_is_noticed(tmp_path, messages):
    """In the header (names, shapes, checksums) and in the tensors: never a wrong value."""
    folder = open_folder(tmp_path)
    wanted = {key: make_entry(seed) for seed, key in enumerate(("one", "two", "three"))}
    for key, entry in wanted.items():
        folder.put(key, entry)
    folder.flush()
    (path,) = tmp_path.rglob("*.safetensors")
    whole, lost = path.read_bytes(), 0
    for position in random.Random(0).sample(range(len(whole)), 300):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        messages.clear()
        reader = open_folder(tmp_path)
        missing = 0
        for key, entry in wanted.items():
            found = reader.get(key)
            if found is None:
                missing += 1
            else:
                assert_equal(found, entry)
        lost += missing
        told = [text for text in messages if str(path) in text]
        assert len(told) <= 1 and (told or not missing)
    assert lost >= 250


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_passed_over(tmp_path, messages, share):
    folder = open_folder(tmp_path)
    folder.put("a", make_entry(1))
    folder.flush()
    (path,) = tmp_path.rglob("*.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    again = open_folder(tmp_path)
    assert again.get("a") is None and len(again) == 0
    again.refresh()
    assert len(messages) == 1
    assert f"{path} is passed over" in messages[0] and "computed anew" in messages[0]
    again.put("a", make_entry(1))
    again.flush()
    assert_equal(open_folder(tmp_path).get("a"), make_entry(1))


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 4500), os.unlink])
def test_a_file_that_is_cut_off_in_use_is_passed_over(tmp_path, messages, change):
    """Where the file is mapped into memory, reading behind its end is the end of the process."""
    folder = open_folder(tmp_path)
    for key in "ab":
        folder.put(key, {"maps": torch.arange(10_000.0) + ord(key)})
    folder.flush()
    reader = open_folder(tmp_path)
    reader.get("a"), reader.get("b")
    (path,) = tmp_path.rglob("*.safetensors")
    change(path)
    assert reader.get("a") is None and reader.get("b") is None
    assert len(messages) == 1 and f"{path} is passed over where it is damaged" in messages[0]
    reader.put("a", make_entry(1))
    reader.flush()
    assert_equal(open_folder(tmp_path).get("a"), make_entry(1))


def test_an_entry_is_read_from_another_file_where_one_is_damaged(tmp_path):
    first, second = open_folder(tmp_path), open_folder(tmp_path)
    for folder in (first, second):
        folder.put("a", make_entry(1))
        folder.flush()
    path = min(tmp_path.rglob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert_equal(open_folder(tmp_path).get("a"), make_entry(1))


@pytest.mark.process
def test_two_processes_share_a_folder(tmp_path):
    writers = [start_writer(tmp_path, name, 40) for name in ("one", "two")]
    assert all(writer.finish(120).returncode == 0 for writer in writers)
    folder = open_folder(tmp_path)
    assert len(folder) == 80
    for name in ("one", "two"):
        for number in range(40):
            assert torch.equal(
                folder.get(f"{name}-{number}")["maps"], torch.full((1000,), float(number))
            )


@pytest.mark.process
def test_killed_while_it_writes_it_loses_a_buffer_at_most(tmp_path, messages):
    for seed in range(2):
        writer = start_writer(tmp_path, str(seed), 10**6)
        files = tmp_path / "part"
        before = len(list(files.glob("*.safetensors")))
        while writer.poll() is None and len(list(files.glob("*.safetensors"))) == before:
            time.sleep(0.002)
        time.sleep(random.Random(seed).uniform(0.05, 0.2))
        writer.kill()
        put = int(writer.finish().stdout.splitlines()[-2])  # the last line may be cut off
        folder = open_folder(tmp_path)
        kept = [number for number in range(put + 3) if folder.get(f"{seed}-{number}") is not None]
        assert kept == list(range(len(kept))) and len(kept) >= put - 5
    assert not messages


def test_leftovers_of_killed_processes_go(tmp_path):
    open_folder(tmp_path)
    old, fresh = (tmp_path / "part" / f"{name}.safetensors.tmp" for name in ("old", "fresh"))
    old.parent.mkdir()
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    open_folder(tmp_path)
    assert not old.exists() and fresh.exists()


def test_nothing_is_written_past_the_limit(tmp_path, messages):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "old.safetensors").write_bytes(b"0" * 5000)
    folder = open_folder(tmp_path, max_gb=12_000 / 1e9, shard_bytes=1)
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
    free = DiskBudget(tmp_path, 1).measure_free()
    monkeypatch.setattr(budget_module, "RESERVE_BYTES", 2 * free)
    folder = open_folder(tmp_path, shard_bytes=1)
    folder.put("a", make_entry(1))
    assert folder.get("a") is None
    assert "free, of which" in messages[0] and "left to checkpoints" in messages[0]
    assert folder.budget.measure_room() == 0


@pytest.mark.process
def test_a_system_that_refuses_to_write_is_no_error(tmp_path, messages):
    """The system refuses files of more than 10 kB, as it would on a full disk."""
    code = WRITER.replace("print(number", "print(folder.budget.is_spent")
    command = [sys.executable, "-c", code, str(tmp_path), "a", "9"]

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, preexec_fn=limit, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line in ("True", "False")]
    assert told == ["False"] * 4 + ["True"] * 5
    assert "the system refuses to write (File too large)" in done.stdout + done.stderr
    assert not list((tmp_path / "part").iterdir())
