"""Requests of a visitor, without a browser."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from flmm.apps.web.service import PageService

QUESTION = "Please give me a description of the image."


def send(service: PageService, key: str, action: str, **request: Any) -> dict[str, Any]:
    """The page's properties after a request, later updates over earlier ones."""
    merged: dict[str, Any] = {}
    for update in service.answer(key, action, request):
        merged |= update
    return merged


def ask(service: PageService, key: str, question: str = QUESTION, **request: Any) -> dict[str, Any]:
    asked = {"question": question, "begin": "a", "select": "config"} | request
    return send(service, key, "ask", **asked)


def upload(service: PageService, key: str, name: str, data: bytes) -> dict[str, Any]:
    text = base64.b64encode(data).decode("ascii")
    return send(service, key, "open_upload", name=name, data=text)


def decode_image(url: str) -> Image.Image:
    """The picture in a data URI."""
    head, _, text = url.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(text)))


def decode_alpha(url: str) -> np.ndarray:
    """uint8 ``[H, W]`` of a data URI's picture."""
    return np.asarray(decode_image(url).convert("RGBA"))[..., 3]
