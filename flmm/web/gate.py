"""What stands before the page's server: bounds on what comes in, a policy on what the page loads.

An ASGI middleware. Requests with a body above the limit are refused before they are read whole,
routes that the page does not use are closed, and every answer tells the browser to load nothing
from another host, so that the page works offline and tells nobody who visits it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Files are sent with the request that uses them: nothing has to be stored on the disk.
CLOSED_ROUTES = (
    "/gradio_api/upload",
    "/gradio_api/file",
    "/gradio_api/proxy=",
    "/gradio_api/stream",
    "/gradio_api/component_server",
    "/gradio_api/process_recording",
)
# Gradio compiles templates and writes inline styles.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode("ascii")),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class _TooLargeError(Exception):
    """The body of a request is above the limit."""


class Gate:
    """Refuses large bodies and closed routes, adds headers.

    Args:
        app: what stands behind it.
        max_body_bytes: greatest body of a request.
    """

    def __init__(self, app: App, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith(CLOSED_ROUTES):
            await _refuse(send, 404, "this page does not use that route")
            return
        text = f"a request may hold up to {self.max_body_bytes / 2**20:.0f} MiB"
        if _read_length(scope) > self.max_body_bytes:
            await _refuse(send, 413, text)
            return
        received, started = 0, False

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:  # a body that did not tell its length
                raise _TooLargeError
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if received > self.max_body_bytes:
                return  # what the application makes of the broken body
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            await self.app(scope, receive_bounded, send_with_headers)
        except Exception:
            if received <= self.max_body_bytes:
                raise
        if received > self.max_body_bytes and not started:
            await _refuse(send, 413, text)


def _read_length(scope: MutableMapping[str, Any]) -> int:
    """The body's length as the request tells it; 0: it does not."""
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


__all__ = ["CLOSED_ROUTES", "POLICY", "Gate"]
