"""The page's server through its own application: a visit, and what is not one."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the page needs Starlette (the extra 'web')")
from starlette.testclient import TestClient

from flmm.apps.web import server
from flmm.apps.web.requests import FIELDS, Limits
from flmm.apps.web.server import build_app, build_start
from flmm.apps.web.service import PageService, Update
from tests.web.bad_uploads import draw, save
from tests.web.page_requests import QUESTION, send

ANNA, BEN = "a" * 32, "b" * 32
ASKED = {"question": QUESTION, "begin": "a", "select": "list"}
UPLOAD = {"name": "a.png", "data": base64.b64encode(save(draw(), "PNG")).decode()}


@pytest.fixture
def client(service: PageService) -> Iterator[TestClient]:
    app = build_app(service, build_start(service, "What is it?", begin="a", select="list"))
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, action: str, key: str = ANNA, **request: Any) -> Any:
    return client.post(f"/{action}", json=request, headers={"x-flmm-visitor": key})


def read_answer(client: TestClient, key: str = ANNA, since: int = 0) -> dict[str, Any]:
    """What a page shows once nothing is being written."""
    shown: dict[str, Any] = {"writing": True}
    while shown["writing"]:
        shown |= post(client, "read", key, since=since).json()
        since = shown["version"]
    return shown


def test_a_visit(client: TestClient, service: PageService) -> None:
    assert 'src="page.js"' in client.get("/").text
    assert "function send(" in client.get("/page.js").text
    start = client.get("/start").json()
    assert len(start["samples"]) == len(service.samples)
    assert start["start"] == {"question": "What is it?", "begin": "a", "select": "list"}
    assert "toy" in start["notice"]
    opened = post(client, "open_sample", index=1).json()
    asked = post(client, "ask", **ASKED).json()
    assert asked["draft"]["question"] == QUESTION and asked["version"] > opened["version"]
    shown = read_answer(client, since=asked["version"])
    send(service, "alone", "open_sample", index=1)
    expected = send(service, "alone", "ask", **ASKED)["turns"]["items"]
    assert shown["turns"]["items"] == expected and shown["draft"] == {}
    assert post(client, "read", BEN, since=0).json() == {
        "version": 0, "writing": False, "gone": True
    }  # fmt: skip


def test_a_stopped_answer_ends(client: TestClient) -> None:
    post(client, "open_sample", index=1)
    post(client, "ask", **ASKED)
    assert post(client, "stop").json() == {}
    assert read_answer(client)["turns"]["items"][0]["note"] == "You stopped the answer here."


PATHS = {"/", "/page.css", "/page.js", "/start", *(f"/{action}" for action in FIELDS)}


def test_there_are_no_other_doors(client: TestClient) -> None:
    assert {route.path for route in client.app.routes} == PATHS
    for path in ("/deep_link", "/config", "/docs", "/openapi.json", "/page.py"):
        assert client.get(f"{path}?session_hash={ANNA}").status_code == 404
        assert client.post(path).status_code == 404
    for path in PATHS:
        wrong = ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
        wrong += ("GET",) if path.lstrip("/") in FIELDS else ("POST",)
        for method in wrong:
            assert client.request(method, path).status_code == 405, (method, path)
    with pytest.raises(Exception), client.websocket_connect("/read"):  # noqa: B017
        pass


@contextlib.contextmanager
def watch_files() -> Iterator[list[str]]:
    """Every file that is opened to be written and every folder that is made, in this process."""
    seen: list[str] = []
    watching = True

    def note(event: str, values: tuple) -> None:
        if not watching:
            return
        if event == "open" and not str(values[0]).endswith("/dev/null"):
            mode, flags = values[1] or "", values[2] or 0
            if set(mode) & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR):
                seen.append(str(values[0]))
        elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "shutil.copyfile"):
            seen.append(f"{event} {values[0]}")

    sys.addaudithook(note)
    try:
        yield seen
    finally:
        watching = False  # a hook stays for the life of the process


def test_nothing_is_written_to_the_disk(client: TestClient, tmp_path) -> None:
    with watch_files() as seen:
        (tmp_path / "seen").write_text("the watch sees this")
        for path in ("/", "/page.css", "/page.js", "/start"):
            assert client.get(path).status_code == 200
        assert "picture" in post(client, "open_upload", **UPLOAD).json()
        large = {"name": "a.png", "data": "A" * 3 * 2**20}
        assert post(client, "open_upload", **large).json()["message"]["kind"] == "error"
        post(client, "open_sample", index=1)
        post(client, "ask", **ASKED)
        assert read_answer(client)["turns"]["items"]
        post(client, "look_from", turn=0, token=1)
        post(client, "look_at", box=[0, 0, 50, 50])
        assert {
            kind: post(client, "save", kind=kind).json()["saved"]["name"][-4:]
            for kind in ("png", "coco")
        }
        post(client, "undo")
        post(client, "leave")
    assert seen == [str(tmp_path / "seen")]


def test_bodies_above_the_limit_are_refused(service: PageService) -> None:
    service.limits = Limits(max_upload_bytes=2**20)
    app = build_app(service, {})

    def drip() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 2**16  # tells no length

    headers = {"x-flmm-visitor": ANNA}
    with TestClient(app, "http://localhost") as client:
        for action in ("open_upload", "ask"):
            for content in (b" " * 2**21, drip()):
                answer = client.post(f"/{action}", content=content, headers=headers)
                assert answer.status_code == 413 and "may hold up to" in answer.text


class HeldService(PageService):
    """Its answers stand still until they are let go."""

    let_go = threading.Event()

    def answer(self, key: str, action: str, request: Update) -> Iterator[Update]:
        updates = super().answer(key, action, request)
        yield next(updates)
        assert action != "ask" or self.let_go.wait(30)
        yield from updates


def test_who_comes_when_too_many_wait_is_told(inferencer) -> None:
    service = HeldService(inferencer, Limits(queue_size=1))
    with TestClient(build_app(service, {}), "http://localhost") as client:
        keys = [letter * 20 for letter in "abc"]
        for key in keys:
            post(client, "open_sample", key, index=1)
        assert [post(client, "ask", key, **ASKED).status_code for key in keys] == [200, 200, 503]
        busy = post(client, "ask", keys[0], **ASKED)
        assert busy.status_code == 503 and "wait a moment" in busy.text
        service.let_go.set()
        for key in keys[:2]:
            assert read_answer(client, key)["turns"]["items"]
        assert post(client, "ask", keys[2], **ASKED).status_code == 200
        assert read_answer(client, keys[2])["turns"]["items"]


def test_what_nobody_thought_of_is_no_traceback(client: TestClient, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("at 0x7f")

    monkeypatch.setattr(server, "read_request", fail)
    answer = post(client, "undo")
    assert answer.status_code == 500 and "0x7f" not in answer.text
