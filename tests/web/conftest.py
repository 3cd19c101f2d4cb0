"""The embedded toy behind the page: in this process, and as a server with a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flmm.apps.web.service import PageService
from flmm.inferencer import GroundingInferencer
from tests.web.bad_uploads import LIMIT_BYTES

ROOT = Path(__file__).parents[2]


class PageServer(NamedTuple):
    """Address and log of a running ``tools/web_demo.py``."""

    url: str
    log: Path


@pytest.fixture(scope="session")
def inferencer() -> GroundingInferencer:
    return GroundingInferencer(ROOT / "configs/tiny/tiny_unet_sam_shapes.py", device="cpu")


@pytest.fixture
def service(inferencer: GroundingInferencer) -> PageService:
    return PageService(inferencer)


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A running ``tools/web_demo.py``."""
    pytest.importorskip("uvicorn", reason="the page needs Starlette and uvicorn (the extra 'web')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("web") / "server.log"
    command = [sys.executable, "tools/web_demo.py", "--port", str(port), "--device", "cpu"]
    command += ["--max-upload-mib", str(LIMIT_BYTES / 2**20)]
    with log.open("w") as stream:
        server = subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=os.environ
        )
    try:
        deadline = time.monotonic() + 120
        while "page is at" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield PageServer(f"http://127.0.0.1:{port}", log)
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0, log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the page is tried with playwright (the extra 'dev')"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    chromium = chromium or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed to try the page with")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()
