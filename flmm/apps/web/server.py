"""The page's server: a dozen routes, everything else is 404, and nothing is stored.

The browser sends requests as JSON and gets changed properties of the page back. An answer is
written whether or not somebody listens: the browser asks again and again what is new, so that a
connection which breaks loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

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
from flmm.apps.web.pointing import CHOICES, find_selectors
from flmm.apps.web.requests import FIELDS, RequestError, read_key, read_request
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
    """The application, served at ``host`` and reached by further ``names``, too."""
    desk = _Desk(service)
    html, css, *scripts = (
        (_FOLDER / name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", *_SCRIPTS)
    )
    script = "\n".join(['"use strict";', BOX_SCRIPT, *scripts])
    static = {
        "/": Response(html, media_type="text/html"),
        "/page.css": Response(css, media_type="text/css"),
        "/page.js": Response(script, media_type="text/javascript"),
        "/start": JSONResponse(start),
    }
    own = {"read": desk.read, "ask": desk.ask}
    return Starlette(
        routes=[
            *(Route(path, response, methods=["GET"]) for path, response in static.items()),
            *(Route(f"/{name}", own.get(name, desk.act), methods=["POST"]) for name in FIELDS),
        ],
        middleware=[Middleware(Gate, host=host, names=names)],
        exception_handlers={RequestError: _tell_fault},
        lifespan=desk.live,
    )


def build_start(
    service: PageService, question: str = "", begin: str = "", select: str = "config"
) -> Update:
    """What the page shows at first; ``select`` is a name of ``flmm.apps.web.pointing.CHOICES``."""
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
    """Show the page until the process is interrupted; port 0: any that is free."""
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

    async def run(self, updates: Iterator[Update]) -> Update:
        """All updates, the later over the earlier, once it is their turn."""
        self._count += 1
        try:
            async with self._turn:
                return await run_in_threadpool(
                    lambda: {name: value for update in updates for name, value in update.items()}
                )
        finally:
            self._count -= 1


class _Desk:
    """Brings requests to the service and its updates back."""

    def __init__(self, service: PageService) -> None:
        self.service = service
        # An answer is long and a look is short: each kind waits for its own.
        self._answers, self._moments = (_Lane(service.limits.queue_size) for _ in range(2))
        self._tasks: set[asyncio.Task[Update]] = set()

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
        """Any request that is served in a moment."""
        key, action, fields = await self._open(request)
        if action == "stop":  # at once, as who leaves
            self.service.stop(key)
            return JSONResponse({})
        if action == "leave":
            self.service.visitors.leave(key)
            return JSONResponse({})
        self._moments.check()
        return JSONResponse(await self._moments.run(self.service.answer(key, action, fields)))

    async def ask(self, request: Request) -> Response:
        """Begin an answer; what becomes of it is told to who asks what is new."""
        key, action, fields = await self._open(request)
        self._answers.check()
        updates = self.service.answer(key, action, fields)
        first = await run_in_threadpool(next, updates)
        if first.get("draft"):
            task = asyncio.create_task(self._answers.run(updates))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return JSONResponse(first)

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

    async def _open(self, request: Request) -> tuple[str, str, Update]:
        """Key, action and fields of a request."""
        action, limit = request.url.path.lstrip("/"), _SMALL_BODY_BYTES
        if action == "open_upload":  # a file travels as base64 within JSON
            limit += self.service.limits.max_upload_bytes * 4 // 3
        body = await _read_body(request, limit)
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


async def _tell_fault(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)
