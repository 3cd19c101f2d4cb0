"""Random and mutated requests to the page: served, or refused with a sentence.

Never an error of the server, and whoever asks rightly beside them is answered rightly.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("starlette", reason="the page needs Starlette (the extra 'web')")
from starlette.testclient import TestClient

from flmm import GroundingInferencer
from flmm.apps.web.pointing import CHOICES
from flmm.apps.web.requests import FIELDS, Limits
from flmm.apps.web.server import build_app
from flmm.apps.web.service import PageService
from tests.fuzz.harness import Fuzz
from tests.web.bad_uploads import draw, list_bad_uploads, save
from tests.web.page_requests import ask, send

pytestmark = pytest.mark.fuzz

CONFIG = Path(__file__).parents[2] / "configs/tiny/tiny_unet_sam_shapes.py"
HONEST, STRANGE = "h" * 20, "s" * 20
ODD_NUMBERS = (-1, True, 1.5, 2**70, 10**400, float("nan"), float("inf"), -(2**63))
ODD_VALUES = (*ODD_NUMBERS, None, [], {}, [[1]], {"a": [1]}, [1, 2, 3, "4"], [1, 2, 3, None])
ODD_TEXTS = ("\ud800", "a\udfffb")
TEXTS = (
    "",
    " ",
    "a",
    "[",
    "is [it] [there]?",
    "😀 漢 é",
    "\x00",
    "<b>x</b>",
    "a " * 1000,
    "]" * 50,
)
REFUSALS = {400, 403, 404, 405, 413, 421}
HEADERS = (
    ("host", "evil.example"),
    ("host", "localhost\tx"),
    ("origin", "http://evil.example"),
    ("origin", "null"),
    ("x-flmm-visitor", ""),
    ("x-flmm-visitor", "../../etc/passwd/and/more"),
    ("content-length", "99999999999"),
)


class Event(NamedTuple):
    """A request, and what it must be answered with; ``None``: either."""

    path: str
    body: bytes
    is_sound: bool | None
    method: str = "POST"
    header: tuple[str, str] = ("x-flmm-visitor", STRANGE)


def make_request(rng: random.Random, action: str) -> dict[str, Any]:
    """What the page could send."""
    number = rng.choice((0, 0, 1, 2, 9, 10**6))
    uploads = [item.data for item in list_bad_uploads() if len(item.data) < 50_000]
    data = rng.choice([*uploads, save(draw(), "PNG"), bytes(rng.randrange(99))])
    values: dict[str, Any] = {
        **dict.fromkeys(("index", "turn", "token", "since"), number),
        **dict.fromkeys(("name", "question", "begin"), rng.choice(TEXTS)),
        "data": base64.b64encode(data).decode()[: rng.choice((None, None, -3))],
        "select": rng.choice([*CHOICES, "magic"]),
        "box": [rng.choice((0, -5, 1e9, rng.uniform(-10, 300))) for _ in range(4)],
        "kind": rng.choice(("png", "coco", "gif")),
    }
    return {name: values[name] for name in FIELDS[action]}


def make_event(rng: random.Random) -> Event:
    action = rng.choice([*FIELDS])
    request = make_request(rng, action)
    body = json.dumps(request).encode()
    kind = rng.random()
    if kind < 0.3:
        return Event(action, body, True)
    if kind < 0.6:
        name = rng.choice([*FIELDS[action], "more"])
        if rng.random() < 0.2 and name in request:
            del request[name]
        else:
            is_text = isinstance(request.get(name), str)
            request[name] = rng.choice((*ODD_VALUES, *(ODD_TEXTS if is_text else ("4", ""))))
        return Event(action, json.dumps(request).encode(), False)
    if kind < 0.8:
        at = rng.randrange(len(body) + 1)
        piece = rng.choice((b"", b"\xff", b"\x00", b"{", b"[" * 50_000, b"9" * 5000, b'"\\ud800"'))
        return Event(action, body[:at] + piece + body[at + rng.randrange(3) :], None)
    path = rng.choice((action, "", "config", "deep_link", "page.css/x", "%2e%2e/ask"))
    method = rng.choice(("POST", "GET", "PUT", "HEAD", "OPTIONS", "DELETE"))
    return Event(path, body, None, method, rng.choice(HEADERS))


@pytest.fixture(scope="module")
def service() -> PageService:
    limits = Limits(max_new_tokens=2, max_upload_bytes=2**16, max_pixels=10**6)
    return PageService(GroundingInferencer(CONFIG, device="cpu"), limits)


@pytest.fixture(scope="module")
def client(service: PageService) -> Iterator[TestClient]:
    with TestClient(build_app(service, {}), "http://localhost") as client:
        yield client


def post(client: TestClient, key: str, action: str, **request: Any) -> dict[str, Any]:
    return client.post(f"/{action}", json=request, headers={"x-flmm-visitor": key}).json()


def wait(client: TestClient, key: str) -> dict[str, Any]:
    while (shown := post(client, key, "read", since=0))["writing"]:
        pass
    return shown


def test_whatever_is_sent(fuzz: Fuzz, service: PageService, client: TestClient) -> None:
    for key in (HONEST, STRANGE):
        send(service, key, "open_sample", index=1)
    expected = ask(service, HONEST)["turns"]
    ask(service, STRANGE)

    def judge(event: Event) -> None:
        answer = client.request(  # an exception of the server's own would be raised here
            event.method,
            f"/{event.path}",
            content=event.body,
            headers=dict([("x-flmm-visitor", STRANGE), event.header]),
        )
        assert answer.status_code in REFUSALS | {200} and "Traceback" not in answer.text
        if event.is_sound is not None:
            assert answer.status_code == (200 if event.is_sound else 400), answer.text
        if answer.status_code != 200 and event.method != "HEAD":
            assert 0 < len(answer.text) < 300
        shown = wait(client, STRANGE)
        for told in (answer.text, json.dumps(shown.get("message"))):
            assert "Something went wrong" not in told, told
        assert post(client, HONEST, "read", since=0)["turns"] == expected

    fuzz.check(make_event, judge)
    send(service, HONEST, "open_sample", index=1)
    assert ask(service, HONEST)["turns"]["items"] == expected["items"]
