"""The page's server: a dozen routes, everything else is 404, and nothing is stored.

``page.html``, ``page.css`` and the scripts are what the browser loads; it then sends requests as
JSON and gets changed properties of the page back. An answer is written whether or not somebody
listens: the browser asks again and again what is new, so that a connection which breaks loses
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flmm.apps.explanation.page import BOX_SCRIPT
from flmm.apps.web.gate import Gate
from flmm.apps.web.requests import FIELDS, RequestError, read_key, read_request
from flmm.apps.web.selecting import CHOICES, find_selectors
from flmm.apps.web.service import PageService, Update
from flmm.apps.web.views import build_picture_view

_FOLDER = Path(__file__).parent
_SCRIPTS = ("bridge.js", "stage.js", "talk.js", "page.js")
_SMALL_BODY_BYTES = 2**17  # of every request but an upload
_PATIENCE_S, _PAUSE_S = 10.0, 0.05  # of who asks what is new
_SWEEP_S = 5.0
_MAX_CONNECTIONS = 256


def build_app(
    service: PageService, start: Update, host: str = "127.0.0.1", names: Collection[str] = ()
) -> Starlette:
    """The server's application.

    Args:
        service: who answers.
        start: of :func:`build_start`.
        host: address that it is served at.
        names: further host names that it is reached by.
    """
    desk = _Desk(service)
    scripts = [BOX_SCRIPT, *((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)]
    static = {
        "/": ("text/html", (_FOLDER / "page.html").read_text(encoding="utf-8")),
        "/page.css": ("text/css", (_FOLDER / "page.css").read_text(encoding="utf-8")),
        "/page.js": ("text/javascript", '"use strict";\n' + "\n".join(scripts)),
    }
    routes = [
        Route(path, _serve(Response(text, 200, None, kind)))
        for path, (kind, text) in static.items()
    ]
    routes.append(Route("/start", _serve(JSONResponse(start))))
    own = {"read": desk.read, "ask": desk.ask, "stop": desk.stop, "leave": desk.leave}
    for action in FIELDS:
        routes.append(Route(f"/{action}", own.get(action, desk.act), methods=["POST"]))
    return Starlette(
        routes=routes,
        middleware=[Middleware(Gate, host=host, names=names)],
        exception_handlers={RequestError: _tell_fault},
        lifespan=desk.live,
    )


def build_start(
    service: PageService, question: str = "", begin: str = "", select: str = "config"
) -> Update:
    """What the page shows at first.

    Args:
        service: who answers.
        question: that stands in the field at first.
        begin: words that answers begin with at first.
        select: name of the choice of phrases at first, see ``flmm.apps.web.selecting``.

    Raises:
        ValueError: there is no such choice.
    """
    find_selectors(select)
    limits, config = service.limits, service.inferencer.config
    return {
        "samples": [build_picture_view(item, 0) for item in service.samples],
        "model": "" if config is None else Path(str(config.filename)).stem,
        "notice": service.inferencer.model.vlm.notice,
        "start": {"question": question, "begin": begin, "select": select},
        "choices": [[name, label] for name, (label, _) in CHOICES.items()],
        "bounds": {
            "upload_bytes": limits.max_upload_bytes,
            "question_characters": limits.max_question_characters,
        },
    }


def serve(app: Starlette, host: str, port: int) -> None:
    """Show the page until the process is interrupted.

    Args:
        app: of :func:`build_app`.
        host: address to listen on; ``"127.0.0.1"``: this machine alone.
        port: to listen on; 0: any that is free.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            f"the page cannot listen to port {port} of {host}, which may be taken: choose another "
            "one, or 0 for any"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    print(
        f"flmm's page is at http://{shown}:{listener.getsockname()[1]} (Ctrl+C ends it)", flush=True
    )
    config = uvicorn.Config(
        app,
        log_level="error",  # a stranger's odd request is no news
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )
    with contextlib.suppress(KeyboardInterrupt):  # raised again once everything has ended
        uvicorn.Server(config).run([listener])


class _Lane:
    """Requests of one kind: one is served at a time, so many others wait."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._count = 0
        self._turn = asyncio.Lock()

    def check(self) -> None:
        """Raises ``HTTPException`` where too many wait."""
        if self._count > self._size:
            raise HTTPException(503, "The page is too busy: wait a moment and try again.")

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for one's turn."""
        self._count += 1
        try:
            async with self._turn:
                yield
        finally:
            self._count -= 1


class _Desk:
    """Brings requests to the service and its updates back."""

    def __init__(self, service: PageService) -> None:
        self.service = service
        # An answer is long and a look is short: each kind waits for its own.
        self._answers, self._moments = (_Lane(service.limits.queue_size) for _ in range(2))
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def live(self, _: Starlette) -> AsyncIterator[None]:
        """While the server runs, forget idle visitors also while nobody asks for anything."""

        async def sweep() -> None:
            while True:
                await asyncio.sleep(_SWEEP_S)
                self.service.visitors.drop_idle()

        sweeper = asyncio.create_task(sweep())
        yield
        sweeper.cancel()
        self.service.visitors.stop_all()

    async def act(self, request: Request) -> Response:
        """Any request that is served in a moment: its updates, the later over the earlier."""
        key, action, fields = await self._open(request)
        self._moments.check()
        async with self._moments.enter():
            updates = self.service.answer(key, action, fields)
            return JSONResponse(await run_in_threadpool(_merge, updates))

    async def ask(self, request: Request) -> Response:
        """Begin an answer; what becomes of it is told to who asks what is new."""
        key, action, fields = await self._open(request)
        self._answers.check()
        updates = self.service.answer(key, action, fields)
        first = await run_in_threadpool(next, updates)
        if first.get("draft"):
            task = asyncio.create_task(self._write(updates))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return JSONResponse(first)

    async def _write(self, updates: Iterator[Update]) -> None:
        async with self._answers.enter():
            await run_in_threadpool(_merge, updates)

    async def read(self, request: Request) -> Response:
        """What is new; while an answer is written, as soon as there is something."""
        key, _, fields = await self._open(request)
        visitor, since = self.service.visitors.find(key), fields["since"]
        if visitor is None:
            return JSONResponse({"version": 0, "writing": False, "gone": True})
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE_S
        while (news := visitor.read(since))["writing"] and news["version"] <= since:
            if loop.time() > end or await request.is_disconnected():
                break
            await asyncio.sleep(_PAUSE_S)
        return JSONResponse(news)

    async def stop(self, request: Request) -> Response:
        """End the answer that is being written."""
        key, _, _ = await self._open(request)
        self.service.stop(key)
        return JSONResponse({})

    async def leave(self, request: Request) -> Response:
        """The tab was closed, or is loaded again."""
        key, _, _ = await self._open(request)
        self.service.visitors.leave(key)
        return JSONResponse({})

    async def _open(self, request: Request) -> tuple[str, str, Update]:
        """Key, action and fields of a request."""
        action = request.url.path.lstrip("/")
        is_upload = action == "open_upload"
        # A file travels as base64 within JSON.
        upload_bytes = self.service.limits.max_upload_bytes * 4 // 3 + _SMALL_BODY_BYTES
        body = await _read_body(request, upload_bytes if is_upload else _SMALL_BODY_BYTES)
        return read_key(request.headers.get("x-flmm-visitor")), action, read_request(action, body)


async def _read_body(request: Request, limit: int) -> bytes:
    """The body of a request; one above the limit is refused before it is read whole."""
    length = request.headers.get("content-length", "")
    body = bytearray()
    if not length.isdigit() or int(length) <= limit:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    headers = {"connection": "close"}
    raise HTTPException(413, f"this request may hold up to {limit / 2**20:.3g} MiB", headers)


def _merge(updates: Iterator[Update]) -> Update:
    merged: Update = {}
    for update in updates:
        merged |= update
    return merged


def _serve(response: Response) -> Any:
    async def serve_static(_: Request) -> Response:
        return response

    return serve_static


async def _tell_fault(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)


__all__ = ["build_app", "build_start", "serve"]
