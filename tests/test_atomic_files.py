"""Files that are whole or not there: killed, out of room, or read by others all the while."""

import errno
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flmm.files import DiskFullError, is_disk_full, remove_leftovers, replace_file

ROOT = Path(__file__).parents[1]
WRITER = """
import sys
from flmm.files import replace_file
for number in range(10**6):
    replace_file(sys.argv[1], bytes([number % 256]) * 3_000_000)
    print(number, flush=True)
"""
NO_FULL_DEVICE = pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="the system has no /dev/full"
)


def test_it_appears_whole_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    replace_file(str(path), b"one")
    replace_file(path, memoryview(b"two"))
    assert path.read_bytes() == b"two" and list(path.parent.iterdir()) == [path]


def test_a_reader_never_sees_a_part(tmp_path):
    path, seen, is_over = tmp_path / "file", set(), threading.Event()
    replace_file(path, b"a" * 100_000)

    def read():
        while not is_over.is_set():
            content = path.read_bytes()
            seen.add((len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        replace_file(path, bytes([number]) * 100_000)
    is_over.set()
    reader.join()
    assert seen == {(100_000, 1)}


@pytest.mark.process
def test_a_killed_process_leaves_the_file_before(tmp_path):
    path = tmp_path / "file"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITER, str(path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment)
    writer.stdout.readline()
    for _ in range(10_000):  # until it is caught in the middle of a write
        if path.with_name("file.tmp").exists():
            break
        time.sleep(0.0005)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    content = path.read_bytes()
    assert len(content) == 3_000_000 and len(set(content)) == 1
    assert {item.name for item in tmp_path.iterdir()} <= {"file", "file.tmp"}
    remove_leftovers(tmp_path, "*")
    assert list(tmp_path.iterdir()) == [path]


@NO_FULL_DEVICE
def test_no_room_is_one_sentence_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    replace_file(path, b"whole")
    path.with_name("file.tmp").symlink_to("/dev/full")
    with pytest.raises(DiskFullError) as caught:
        replace_file(path, bytes(123456))
    assert re.fullmatch(
        rf"no room for file \(No space left on device\): it needs 123,456 bytes, folder "
        rf"{re.escape(str(tmp_path))} has [\d,]+ free; no partial file is left",
        str(caught.value),
    )
    assert caught.value.reason == "No space left on device"
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), caught.value.reason)


@pytest.mark.process
def test_a_limit_of_one_file_is_no_room_either(tmp_path):
    code = "import sys; from flmm.files import *\n"
    code += "try: replace_file(sys.argv[1], bytes(20_000))\n"
    code += "except DiskFullError as error: print(error.reason)"

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, preexec_fn=limit, check=False
    )
    assert done.stdout == "File too large\n", done.stderr
    assert not list(tmp_path.iterdir())


def test_another_error_stays_what_it_is(tmp_path):
    (tmp_path / "file.tmp").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "file", b"one")
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(FileExistsError):
        replace_file(tmp_path / "taken" / "file", b"one")


def test_which_errors_mean_no_room():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert is_disk_full(OSError(number, "x"))
    assert not is_disk_full(OSError(errno.EACCES, "x"))
    assert not is_disk_full(DiskFullError("told already"))
    assert not is_disk_full(None) and not is_disk_full(ValueError("x"))


def test_leftovers_go_by_name_and_age(tmp_path):
    names = ["a.pth.tmp", "b.pth.tmp", "c.json.tmp", "d.pth"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / "a.pth.tmp", (0, 0))
    ahead = time.time() + 1000  # a clock of another machine
    os.utime(tmp_path / "b.pth.tmp", (ahead, ahead))
    assert remove_leftovers(tmp_path, "*.pth", min_age_s=60) == [tmp_path / "a.pth.tmp"]
    assert remove_leftovers(tmp_path, "*.pth") == [tmp_path / "b.pth.tmp"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["c.json.tmp", "d.pth"]
    assert remove_leftovers(tmp_path / "nowhere", "*") == []
