"""What a web server sends for an http(s) address, within limits.

In: an address. Out: bytes. Redirects stay in http(s); no other scheme is known here.
"""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from typing import Any

_CHUNK_BYTES = 2**16
_REDIRECTS = (301, 302, 303, 307, 308)
# Servers that do not know what they serve say one of these.
_UNKNOWN_TYPES = ("application/octet-stream", "binary/octet-stream")


@dataclass(frozen=True)
class FetchLimits:
    """What fetching a picture may cost.

    Attributes:
        max_bytes: of the encoded picture.
        timeout_s: from the first to the last byte, redirects included.
        max_redirects: how often a server may point elsewhere.
    """

    max_bytes: int = 64 * 2**20
    timeout_s: float = 30.0
    max_redirects: int = 5


def fetch(address: str, limits: FetchLimits) -> bytes:
    """What a web server sends, wherever it points; never anything but http(s).

    Raises:
        TimeoutError: it takes too long.
        OSError: it cannot be reached, answers with an error, or sends less than it promised.
        ValueError: another scheme, here or behind a redirect, too many redirects, too many bytes,
            or a media type that is not a picture's.
    """
    here = address
    with _Deadline(limits.timeout_s) as deadline:
        opener = _build_opener(deadline)
        for _ in range(limits.max_redirects + 1):
            try:
                return _receive(_open(opener, here, limits), here, limits, deadline)
            except urllib.error.HTTPError as error:
                error.close()
                target = error.headers.get("Location")
                if error.code not in _REDIRECTS or not target:
                    told = f"{describe_address(here)} answers {error.code} {error.reason}"
                    raise OSError(told) from error
                here = urllib.parse.urljoin(here, target)
            except (OSError, http.client.HTTPException) as error:
                raise _explain(error, here, limits, deadline) from error
    raise ValueError(
        f"{describe_address(address)} points elsewhere more than {limits.max_redirects} times: "
        "give the address where the picture lies"
    )


def _build_opener(deadline: _Deadline) -> urllib.request.OpenerDirector:
    """Knows http(s) and the proxies of the environment; no file:, no ftp:, and no redirects."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Handler(deadline),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _open(opener: urllib.request.OpenerDirector, address: str, limits: FetchLimits) -> Any:
    scheme = urllib.parse.urlsplit(address).scheme.lower()
    if scheme not in ("http", "https"):
        raise ValueError(
            f"{describe_address(address)}: only http: and https: are fetched, not {scheme}:"
        )
    # Blanks and letters outside ASCII are escaped; what is escaped already stays.
    url = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(url, headers={"User-Agent": "flmm"})
    return opener.open(request, timeout=limits.timeout_s)


def _receive(response: Any, address: str, limits: FetchLimits, deadline: _Deadline) -> bytes:
    """The body of an answer, whole and of bounded size."""
    with response:
        headers: Message = response.headers
        check_type(headers.get_content_type() if "Content-Type" in headers else "", address)
        if (response.length or 0) > limits.max_bytes:
            raise build_size_error(address, limits)
        content = bytearray()
        while part := response.read1(_CHUNK_BYTES):
            content += part
            if len(content) > limits.max_bytes:
                raise build_size_error(address, limits)
        if response.length or deadline.is_over:  # the connection ended before the body
            raise http.client.IncompleteRead(bytes(content), response.length)
    return bytes(content)


def _explain(error: Exception, address: str, limits: FetchLimits, deadline: _Deadline) -> OSError:
    """One sentence for a connection that failed."""
    reason = getattr(error, "reason", error)
    if deadline.is_over or isinstance(reason, TimeoutError):
        return TimeoutError(
            f"{describe_address(address)} takes more than {limits.timeout_s:g} s: try again, or "
            "download it first"
        )
    what = str(reason) or type(reason).__name__
    return OSError(f"{describe_address(address)} cannot be fetched: {what}")


class _Deadline:
    """Ends the connections that are still open when the time is over.

    A socket's own timeout begins anew with every byte; a server that sends one now and then would
    hold a caller for ever.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, connection: socket.socket) -> None:
        self._sockets.append(connection)
        if self.is_over:
            self._end()

    def _end(self) -> None:
        self.is_over = True
        for connection in self._sockets:
            with suppress(OSError):  # closed already
                # TLS would say goodbye first, and wait for an answer.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Handler(urllib.request.HTTPSHandler):
    """http and https, whose connections end when the time is over."""

    http_request = urllib.request.HTTPHandler.http_request

    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._watch(http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._watch(http.client.HTTPSConnection), req)

    def _watch(self, kind: type[http.client.HTTPConnection]) -> Any:
        deadline = self._deadline

        class Watched(kind):  # type: ignore[valid-type, misc]
            def connect(self) -> None:
                super().connect()
                deadline.watch(self.sock)

        return Watched


def check_type(kind: str, address: str) -> None:
    """Refuse what says of itself that it is no picture; who says nothing is looked at."""
    if kind and not kind.startswith("image/") and kind not in _UNKNOWN_TYPES:
        raise ValueError(
            f"{describe_address(address)} is {kind}, no picture: give the address of the picture "
            "itself"
        )


def is_data(address: str) -> bool:
    """Whether the address holds the picture itself."""
    return address[:5].lower() == "data:"


def build_size_error(address: str, limits: FetchLimits) -> ValueError:
    """What is told about an address that holds too much."""
    return ValueError(
        f"{describe_address(address)} has more than {limits.max_bytes / 2**20:g} MiB: shrink the "
        "picture, or give limits=FetchLimits(max_bytes=...)"
    )


def describe_address(address: str) -> str:
    """An address without what is long or secret in it: data, passwords, signatures."""
    if is_data(address):
        return f"{address[:30]}..." if len(address) > 30 else address
    parts = urllib.parse.urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:100]


__all__ = ["FetchLimits", "build_size_error", "check_type", "describe_address", "fetch", "is_data"]
