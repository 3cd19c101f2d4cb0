"""Tools in processes of their own that need not import torch again.

They are forked from a server that has imported it and has run nothing, so that each begins as a new
interpreter does, seconds earlier. Signals, limits, exit codes, output and the death of a process
are real. That a tool imports what it needs is seen where one is started the ordinary way.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PRELOADED = [
    "tests.config_layouts",
    "torch.utils.tensorboard",
    "matplotlib.figure",
    "mmdet.datasets",
    "flmm.inferencer",
    "flmm.apps.demo",
    "flmm.data",
    "flmm.evaluation",
    "flmm.evaluation.evaluation_runs",
    "flmm.training.feature_caching",
    "flmm.training.runner",
    "flmm.toy.reader_training",
    "flmm.toy.refiner_training",
    "flmm.apps.visual_cot",
    "transformers.models.qwen2_vl.modeling_qwen2_vl",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(PRELOADED)


class Fork:
    """Runs a program with this process's environment.

    Args:
        program: path of a Python file, or code.
        arguments: of its command line.
        environ: variables beside those of this process.
    """

    def __init__(self, program: str | Path, *arguments: Any, **environ: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fork-")
        self._streams = [Path(self._folder.name, name) for name in ("out", "err")]
        line = [str(program), *map(str, arguments)]
        job = (line, str(Path.cwd()), os.environ | environ, [str(path) for path in self._streams])
        self._process = _CONTEXT.Process(target=_execute, args=job)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        """What it has written so far, errors last."""
        return "".join(path.read_text() for path in self._streams if path.exists())

    def poll(self) -> int | None:
        """Its exit code, -N after signal N; ``None`` while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL, to the loader's workers too, and wait for the end."""
        with contextlib.suppress(ProcessLookupError):  # it has ended, or leads no group yet
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def finish(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Wait for the end: exit code and text.

        Raises:
            subprocess.TimeoutExpired: it did not end, and was killed.
        """
        self._process.join(timeout)
        is_late = self.poll() is None
        if is_late:
            self.kill()
        out, err = (path.read_text() if path.exists() else "" for path in self._streams)
        if is_late:
            raise subprocess.TimeoutExpired("fork", timeout, out, err)
        return subprocess.CompletedProcess("fork", self.poll(), out, err)


def run_fork(program: str | Path, *arguments: Any, **environ: str) -> subprocess.CompletedProcess:
    """Run a program up to its end."""
    return Fork(program, *arguments, **environ).finish()


def start_ranks(program: str | Path, *arguments: Any, **environ: str) -> list[Fork]:
    """Start a program as two processes of one group, as ``torchrun`` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Fork(program, *arguments, **environ, **group, RANK=rank, LOCAL_RANK=rank)
        for rank in ("0", "1")
    ]


def finish_ranks(ranks: list[Fork]) -> list[str]:
    """Wait for the end of a group, which must be a good one: the text of each process."""
    done = [rank.finish() for rank in ranks]
    texts = [item.stdout + item.stderr for item in done]
    assert [item.returncode for item in done] == [0] * len(ranks), "".join(texts)[-3000:]
    return texts


def _execute(line: list[str], folder: str, environ: dict[str, str], streams: list[str]) -> None:
    """In the child: be ``python LINE``, the leader of a process group."""
    os.setpgid(0, 0)
    multiprocessing.set_start_method(None, force=True)  # its own children start as anywhere
    gc.freeze()  # what the server has imported stays the server's: no collection walks through it
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    program, sys.argv = line[0], line if line[0].endswith(".py") else ["-c", *line[1:]]
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            exec(program, {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # multiprocessing's children leave without
