"""Pictures behind ``data:`` and http(s) addresses, for a person's own words alone.

In: what somebody at a keyboard, or a script of theirs, calls a picture. Out: as ``load_image``.
Whatever reads records, annotations or a visitor's upload calls :func:`load_image` instead: a data
file must not make this machine ask others.
"""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from flmm.images.fetching import (
    FetchLimits,
    build_size_error,
    check_type,
    describe_address,
    fetch,
    is_data,
)
from flmm.images.loading import is_address, load_image


def load_any_image(source: Any, limits: FetchLimits | None = None) -> Image.Image:
    """As ``load_image``, upright; takes ``data:``, ``http:`` and ``https:`` addresses beside.

    Args:
        source: an address, or anything that ``load_image`` reads.
        limits: of addresses; ``None``: the defaults.

    Raises:
        TimeoutError: the server took too long.
        OSError: it could not be reached, refused, or sent less than it promised.
        TypeError, FileNotFoundError, ValueError: as ``load_image``; or another scheme, here or
            behind a redirect, too many bytes, too many redirects, or something else than a picture.
    """
    if not is_address(source):
        return load_image(source)
    limits = limits or FetchLimits()
    content = _decode_data(source, limits) if is_data(source) else fetch(source, limits)
    try:
        return load_image(content)
    except ValueError as error:
        raise ValueError(f"{describe_address(source)}: {error}") from error


def name_image(source: str) -> str:
    """What a picture's own files are called: the stem of its path or address, or "picture"."""
    if not is_address(source):
        return Path(source).stem
    path = "" if is_data(source) else urllib.parse.urlsplit(source).path
    return PurePosixPath(urllib.parse.unquote(path)).stem or "picture"


def _decode_data(address: str, limits: FetchLimits) -> bytes:
    """The bytes in a ``data:`` address."""
    head, comma, body = address[5:].partition(",")
    if not comma:
        raise ValueError(f"{describe_address(address)} has no comma between its type and its data")
    kind, *options = head.split(";")
    check_type(kind.strip().lower(), address)
    if len(body) > 3 * limits.max_bytes:  # a byte takes three characters at most
        raise build_size_error(address, limits)
    content = urllib.parse.unquote_to_bytes(body)
    if any(option.strip().lower() == "base64" for option in options):
        content = b"".join(content.split()).rstrip(b"=")
        try:
            content = base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
        except binascii.Error as error:
            raise ValueError(f"{describe_address(address)} is not base64: {error}") from error
    if len(content) > limits.max_bytes:
        raise build_size_error(address, limits)
    return content


__all__ = ["load_any_image", "name_image"]
