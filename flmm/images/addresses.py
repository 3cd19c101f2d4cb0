"""Pictures behind ``data:`` and http(s) addresses, for a person's own words alone.

Whatever reads records, annotations or a visitor's upload calls ``load_image`` instead: a data file
must not make this machine ask others. Redirects stay in http(s).
"""

from __future__ import annotations

import base64
import binascii
import http.client
import threading
import urllib.error
import urllib.parse
import urllib.request
from concurrent import futures
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from flmm.images.loading import is_address, load_image

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
    """

    max_bytes: int = 64 * 2**20
    timeout_s: float = 30.0
    max_redirects: int = 5


def load_any_image(source: Any, limits: FetchLimits | None = None) -> Image.Image:
    """As ``load_image``, upright; takes ``data:``, ``http:`` and ``https:`` addresses beside.

    Raises:
        TimeoutError: the server took too long.
        OSError: it could not be reached, refused, or sent less than it promised.
        TypeError, FileNotFoundError, ValueError: as ``load_image``; or another scheme, here or
            behind a redirect, too many bytes or redirects, or something else than a picture.
    """
    if not is_address(source):
        return load_image(source)
    limits = limits or FetchLimits()
    content = _decode_data(source, limits) if _is_data(source) else _fetch(source, limits)
    try:
        return load_image(content)
    except ValueError as error:
        raise ValueError(f"{describe_address(source)}: {error}") from error


def name_image(source: str) -> str:
    """What a picture's own files are called: the stem of its path or address, or "picture"."""
    if not is_address(source):
        return Path(source).stem
    path = "" if _is_data(source) else urllib.parse.urlsplit(source).path
    return PurePosixPath(urllib.parse.unquote(path)).stem or "picture"


def _decode_data(address: str, limits: FetchLimits) -> bytes:
    head, comma, body = address[5:].partition(",")
    if not comma:
        raise ValueError(f"{describe_address(address)} has no comma between its type and its data")
    kind, *options = head.split(";")
    _check_type(kind.strip().lower(), address)
    if len(body) > 3 * limits.max_bytes:  # a byte takes three characters at most
        raise _build_size_error(address, limits)
    content = urllib.parse.unquote_to_bytes(body)
    if any(option.strip().lower() == "base64" for option in options):
        content = b"".join(content.split()).rstrip(b"=")
        try:
            content = base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
        except binascii.Error as error:
            raise ValueError(f"{describe_address(address)} is not base64: {error}") from error
    if len(content) > limits.max_bytes:
        raise _build_size_error(address, limits)
    return content


def _fetch(address: str, limits: FetchLimits) -> bytes:
    # A socket's own timeout begins anew with every byte; a server that sends one now and then
    # would hold a caller for ever. It holds a thread, until the next byte of a picture.
    outcome: futures.Future[bytes] = futures.Future()
    is_over = threading.Event()

    def work() -> None:
        try:
            outcome.set_result(_follow(address, limits, is_over))
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.result(limits.timeout_s)
    except (TimeoutError, futures.TimeoutError) as error:
        is_over.set()
        raise TimeoutError(
            f"{describe_address(address)} takes more than {limits.timeout_s:g} s: try again, or "
            "download it first"
        ) from error


def _follow(address: str, limits: FetchLimits, is_over: threading.Event) -> bytes:
    here = address
    for _ in range(limits.max_redirects + 1):
        try:
            return _receive(_open(here, limits), here, limits, is_over)
        except urllib.error.HTTPError as error:
            error.close()
            target = error.headers.get("Location")
            if error.code not in _REDIRECTS or not target:
                told = f"{describe_address(here)} answers {error.code} {error.reason}"
                raise OSError(told) from error
            here = urllib.parse.urljoin(here, target)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise reason from error
            what = str(reason) or type(reason).__name__
            raise OSError(f"{describe_address(here)} cannot be fetched: {what}") from error
    raise ValueError(
        f"{describe_address(address)} points elsewhere more than {limits.max_redirects} times: "
        "give the address where the picture lies"
    )


def _open(address: str, limits: FetchLimits) -> Any:
    scheme = urllib.parse.urlsplit(address).scheme.lower()
    if scheme not in ("http", "https"):
        raise ValueError(
            f"{describe_address(address)}: only http: and https: are fetched, not {scheme}:"
        )
    # http(s) and the proxies of the environment; no file:, no ftp:, and no redirects.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    # Blanks and letters outside ASCII are escaped; what is escaped already stays.
    url = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(url, headers={"User-Agent": "flmm"})
    return opener.open(request, timeout=limits.timeout_s)


def _receive(response: Any, address: str, limits: FetchLimits, is_over: threading.Event) -> bytes:
    with response:
        headers: Message = response.headers
        _check_type(headers.get_content_type() if "Content-Type" in headers else "", address)
        if (response.length or 0) > limits.max_bytes:
            raise _build_size_error(address, limits)
        content = bytearray()
        while not is_over.is_set() and (part := response.read1(_CHUNK_BYTES)):
            content += part
            if len(content) > limits.max_bytes:
                raise _build_size_error(address, limits)
        if response.length:  # the connection ended before the body
            raise http.client.IncompleteRead(bytes(content), response.length)
    return bytes(content)


def _check_type(kind: str, address: str) -> None:
    """Refuse what says of itself that it is no picture; who says nothing is looked at."""
    if kind and not kind.startswith("image/") and kind not in _UNKNOWN_TYPES:
        raise ValueError(
            f"{describe_address(address)} is {kind}, no picture: give the address of the picture "
            "itself"
        )


def _is_data(address: str) -> bool:
    return address[:5].lower() == "data:"


def _build_size_error(address: str, limits: FetchLimits) -> ValueError:
    return ValueError(
        f"{describe_address(address)} has more than {limits.max_bytes / 2**20:g} MiB: shrink the "
        "picture, or give limits=FetchLimits(max_bytes=...)"
    )


def describe_address(address: str) -> str:
    """An address without what is long or secret in it: data, passwords, signatures."""
    if _is_data(address):
        return f"{address[:30]}..." if len(address) > 30 else address
    parts = urllib.parse.urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:100]
