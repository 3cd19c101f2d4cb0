"""The embedded toy behind the page: in this process, and as a server with a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flmm.apps.web.service import PageService
from flmm.inferencer import GroundingInferencer
from tests.forks import Fork
from tests.web.bad_uploads import LIMIT_BYTES

ROOT = Path(__file__).parents[2]


class PageServer(NamedTuple):
    """Address and process of a running ``tools/web_demo.py``."""

    url: str
    process: Fork


@pytest.fixture(scope="session")
def inferencer() -> GroundingInferencer:
    return GroundingInferencer(ROOT / "configs/tiny/tiny_unet_sam_shapes.py", device="cpu")


@pytest.fixture
def service(inferencer: GroundingInferencer) -> PageService:
    return PageService(inferencer)


@pytest.fixture(scope="module")
def page_server() -> Iterator[PageServer]:
    """A running ``tools/web_demo.py``."""
    pytest.importorskip("uvicorn", reason="the page needs Starlette and uvicorn (the extra 'web')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", port, "--device", "cpu", "--max-upload-mib", LIMIT_BYTES / 2**20]
    server = Fork(ROOT / "tools/web_demo.py", *options)
    try:
        deadline = time.monotonic() + 120
        while "page is at" not in server.text:
            assert server.poll() is None and time.monotonic() < deadline, server.text
            time.sleep(0.2)
        yield PageServer(f"http://127.0.0.1:{port}", server)
    finally:
        os.kill(server.pid, signal.SIGINT)
        done = server.finish(20)
        assert done.returncode == 0, done.stderr


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
