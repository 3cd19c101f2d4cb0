"""What the page never sends is refused with a sentence."""

from __future__ import annotations

import json

import pytest

from flmm.apps.web.requests import RequestError, read_key, read_request


@pytest.mark.parametrize(
    "action, request_",
    [
        ("ask", {"question": "😀 [x]?", "begin": "", "select": "list"}),
        ("look_from", {"turn": 0, "token": 3}),
        ("look_at", {"box": [0, 1.5, -3, 10000]}),
        ("undo", {}),
    ],
)
def test_what_the_page_sends_is_read(action: str, request_: dict) -> None:
    assert read_request(action, json.dumps(request_).encode()) == request_


@pytest.mark.parametrize(
    "action, body, part",
    [
        ("undo", b"", "is no JSON"),
        ("undo", b"\xff\xfe", "is no JSON"),
        ("undo", b"{} {}", "is no JSON"),
        ("undo", b"[" * 100_000, "is no JSON"),
        ("read", b'{"since": ' + b"9" * 5000 + b"}", "is no JSON"),
        ("undo", b"[]", "must hold nothing"),
        ("undo", b"null", "must hold nothing"),
        ("undo", b'{"more": 1}', "must hold nothing"),
        ("look_from", b'{"turn": 1}', "must hold turn, token"),
        ("look_from", b'{"turn": true, "token": 0}', "'turn' of the request"),
        ("look_from", b'{"turn": 1.0, "token": 0}', "not a whole number"),
        ("look_from", b'{"turn": -1, "token": 0}', "not a whole number"),
        ("look_from", b'{"turn": 1, "token": 90071992547409930}', "not a whole number"),
        ("open_sample", b'{"index": "0"}', "not a whole number"),
        ("open_upload", b'{"name": "a.png", "data": null}', "not text"),
        ("open_upload", b'{"name": "\\ud800.png", "data": ""}', "not text"),
        ("look_at", b'{"box": [1, 2]}', "four numbers"),
        ("look_at", b'{"box": [1, 2, 3, NaN]}', "four numbers"),
        ("look_at", b'{"box": [1, 2, 3, 1e999]}', "four numbers"),
        ("look_at", b'{"box": [1, 2, 3, "4"]}', "four numbers"),
        ("look_at", b'{"box": [1, 2, 3, true]}', "four numbers"),
        ("look_at", b'{"box": [[[1]], {}, 3, 4]}', "four numbers"),
    ],
)
def test_everything_else_is_refused(action: str, body: bytes, part: str) -> None:
    with pytest.raises(RequestError, match="load the page again") as caught:
        read_request(action, body)
    assert part in str(caught.value)


@pytest.mark.parametrize("key", [None, "", "short", "a" * 65, "with a space, sixteen", "ü" * 20])
def test_a_visitor_has_a_key(key: str | None) -> None:
    with pytest.raises(RequestError, match="does not name its visitor"):
        read_key(key)
