"""The gate in front of the server: who may speak to it."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette", reason="the page needs Starlette (the extra 'web')")
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from flmm.apps.web.gate import Gate


def build_client(host: str, *names: str) -> TestClient:
    async def answer(_: object) -> PlainTextResponse:
        return PlainTextResponse("open")

    route = Route("/", answer, methods=["GET", "POST"])
    return TestClient(Gate(Starlette(routes=[route]), host, names))


@pytest.mark.parametrize(
    "served, named, is_open",
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "LOCALHOST.:7860", True),
        ("127.0.0.1", "[::1]:7860", True),
        ("127.0.0.1", "evil.example", False),  # its owner lets it point at this machine
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "localhost@evil.example", False),
        ("127.0.0.1", "192.168.0.7", False),
        ("127.0.0.1", "", False),
        ("192.168.0.7", "192.168.0.7:80", True),
        ("192.168.0.7", "192.168.0.8:80", False),
        ("0.0.0.0", "192.168.0.8:80", True),
        ("::", "[fe80::1]:80", True),
        ("0.0.0.0", "0.0.0.0:7860", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", "page.example", True),  # allowed by name
    ],
)
def test_requests_name_a_host_of_the_page(served: str, named: str, is_open: bool) -> None:
    client = build_client(served, "page.example")
    answer = client.get("/", headers={"host": named})
    assert (answer.status_code, answer.text == "open") == ((200, True) if is_open else (421, False))
    assert is_open or answer.text.startswith("this page is not served under that host name")


@pytest.mark.parametrize(
    "origin, is_open",
    [
        (None, True),  # no browser, or the page's own GET
        ("http://localhost:7860", True),
        ("https://page.example", True),  # behind a proxy that changes the Host header
        ("http://localhost:3000", False),  # another program on this machine
        ("http://evil.example", False),
        ("http://page.example.evil.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_what_a_browser_sends_comes_from_the_page(origin: str | None, is_open: bool) -> None:
    headers = {"host": "localhost:7860"} | ({} if origin is None else {"origin": origin})
    answer = build_client("127.0.0.1", "page.example").post("/", headers=headers)
    assert answer.status_code == (200 if is_open else 403)


def test_answers_forbid_other_hosts() -> None:
    for host in ("localhost", "evil.example"):  # a refusal, too
        headers = build_client("127.0.0.1").get("/", headers={"host": host}).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "http" not in policy
        assert "*" not in policy and "unsafe" not in policy
        assert headers["cache-control"] == "no-store"
