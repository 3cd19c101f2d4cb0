"""What stands before the page's server: who may speak to it, and a policy for who listens.

An ASGI middleware. A web site that a visitor has open elsewhere can send requests here, also under
a name of its own that it lets point at this machine (DNS rebinding). Requests must name a host
that the page is served at, and those that a browser sends for a page must come from this one.
Every answer tells the browser to load nothing from another host, so that the page works offline
and tells nobody who visits it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode("ascii")),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_LOCAL = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("", "0.0.0.0", "::")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")


class Gate:
    """Refuses strange hosts and origins, adds headers.

    Args:
        app: what stands behind it.
        host: address that the server listens on. Where it is every one of the machine, requests may
            name any address: only a name can be made to point here.
        names: further host names that the page is reached by.
    """

    def __init__(self, app: App, host: str, names: Collection[str] = ()) -> None:
        self.app = app
        self.proxied = {name.lower() for name in names}
        self.names = {*_LOCAL, host.lower(), *self.proxied} - set(_EVERYWHERE)
        self.any_address = host in _EVERYWHERE

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        hosts, origins = (_list_values(scope, name) for name in (b"host", b"origin"))
        if len(hosts) != 1 or not self._is_known(hosts[0]):
            text = "this page is not served under that host name (--allow-host NAME allows it)"
            await _refuse(send_with_headers, 421, text)
        elif any(not self._is_own(origin, hosts[0]) for origin in origins):
            await _refuse(send_with_headers, 403, "this request comes from another page")
        else:
            await self.app(scope, receive, send_with_headers)

    def _is_known(self, host: str) -> bool:
        """Whether a Host header, with or without a port, is of this page."""
        match = _HOST.fullmatch(host)
        name = match[1].strip("[]").lower().removesuffix(".") if match else ""
        return name in self.names or (self.any_address and _is_address(name))

    def _is_own(self, origin: str, host: str) -> bool:
        """Whether an Origin header is of this page; a proxy may have changed the Host header."""
        place = origin.partition("://")[2].lower()
        return place == host.lower() or place.partition(":")[0] in self.proxied


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _list_values(scope: MutableMapping[str, Any], wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


__all__ = ["POLICY", "Gate"]
