"""The gate in front of the server, driven by starlette's own client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="comes with Gradio (the extra 'web')")
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from flmm.web.gate import CLOSED_ROUTES, Gate


async def count_bytes(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def client() -> TestClient:
    routes = [Route("/{path:path}", count_bytes, methods=["GET", "POST"])]
    return TestClient(Gate(Starlette(routes=routes), max_body_bytes=1000))


def test_bodies_up_to_the_limit_pass(client: TestClient) -> None:
    answer = client.post("/queue", content=b"x" * 1000)
    assert answer.status_code == 200 and answer.text == "1000"


def test_larger_bodies_are_refused(client: TestClient) -> None:
    assert client.post("/queue", content=b"x" * 1001).status_code == 413


def test_bodies_that_hide_their_length_are_refused(client: TestClient) -> None:
    def drip() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    assert client.post("/queue", content=drip()).status_code == 413


def test_a_length_that_is_no_number_is_not_believed(client: TestClient) -> None:
    answer = client.post("/queue", content=b"x" * 2000, headers={"content-length": "few"})
    assert answer.status_code == 413


@pytest.mark.parametrize("route", CLOSED_ROUTES)
def test_routes_that_the_page_does_not_use_are_closed(client: TestClient, route: str) -> None:
    assert client.post(route, content=b"x").status_code == 404


def test_answers_forbid_other_hosts(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy and "*" not in policy
