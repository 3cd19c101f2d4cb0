"""What stands before the page's server: who may speak to it, and a policy for who listens.

A web site that a visitor has open elsewhere can send requests here, also under a name of its own
that it lets point at this machine (DNS rebinding). Requests must name a host that the page is
served at, and a browser's come from this page. Every answer tells the browser to load nothing from
another host, so that the page works offline and tells nobody who visits it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_LOCAL = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("", "0.0.0.0", "::")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")


class Gate:
    """Refuses strange hosts and origins, adds headers.

    Where ``host``, which the server listens on, is every address of the machine, requests may name
    any address: only a name can be made to point here. ``names`` are further ones of the page.
    """

    def __init__(self, app: ASGIApp, host: str, names: Collection[str] = ()) -> None:
        self.app = app
        self.proxied = {name.lower() for name in names}
        self.names = {*_LOCAL, host.lower(), *self.proxied} - set(_EVERYWHERE)
        self.any_address = host in _EVERYWHERE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app = self.app
        if scope["type"] == "http":
            app = self._refuse(Headers(scope=scope)) or app
        await app(scope, receive, send_with_headers)

    def _refuse(self, headers: Headers) -> PlainTextResponse | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_known(hosts[0]):
            text = "this page is not served under that host name (--allow-host NAME allows it)"
            return PlainTextResponse(text, 421, {"connection": "close"})
        if not all(self._is_own(origin, hosts[0]) for origin in headers.getlist("origin")):
            text = "this request comes from another page"
            return PlainTextResponse(text, 403, {"connection": "close"})
        return None

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
