"""Addresses: fetched for a person within limits, or refused with a sentence; never files."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import quote

import numpy as np
import pytest
from PIL import ExifTags, Image

from flmm.images import FetchLimits, load_any_image, name_image

PIXELS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def encode(kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Every kind of server, by the path that is asked for."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["User-Agent"]))
        name = self.path.split("?")[0].strip("/").split("/")[0]
        with suppress(OSError):  # the reader has had enough
            getattr(self, f"serve_{name}", self.serve_missing)()

    def log_message(self, *_: object) -> None: ...

    def answer(self, body: bytes = b"", code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def serve_picture(self) -> None:
        self.answer(encode(), Content_Type="image/png")

    def serve_bytes(self) -> None:
        self.answer(encode(), Content_Type="application/octet-stream")

    def serve_untold(self) -> None:
        self.answer(encode())

    def serve_chunked(self) -> None:
        self.answer(Content_Length="", Transfer_Encoding="chunked", Content_Type="image/png")
        body = encode()
        for part in (body[:50], body[50:]):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def serve_missing(self) -> None:
        self.answer(b"nothing here", 404)

    def serve_broken(self) -> None:
        self.answer(b"", 500)

    def serve_page(self) -> None:
        self.answer(b"<html></html>", Content_Type="text/html; charset=utf-8")

    def serve_liar(self) -> None:
        self.answer(b"<html></html>", Content_Type="image/png")

    def serve_large(self) -> None:
        self.answer(bytes(5000), Content_Type="image/png")

    def serve_claims(self) -> None:
        self.answer(b"", Content_Length=str(10**12), Content_Type="image/png")

    def serve_endless(self) -> None:
        self.answer(Content_Length="", Connection="close", Content_Type="image/png")
        self.close_connection = True
        while True:
            self.wfile.write(bytes(1000))

    def serve_cut(self) -> None:
        self.answer(encode()[:-9], Content_Length=str(len(encode())), Content_Type="image/png")
        self.close_connection = True

    def serve_asleep(self) -> None:
        self.server.over.wait(20)

    def serve_drip(self) -> None:
        self.answer(Content_Length="1000", Content_Type="image/png")
        while not self.server.over.wait(0.02):
            self.wfile.write(b"\x89")

    def serve_lines(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.over.wait(0.02):
            self.wfile.write(b"A")

    def serve_nonsense(self) -> None:
        self.wfile.write(b"\x00\x01 hello\r\n\r\n")
        self.close_connection = True

    def serve_moved(self) -> None:
        self.answer(code=302, Location="/picture")

    def serve_loop(self) -> None:
        self.answer(code=301, Location="/loop")

    def serve_nowhere(self) -> None:
        self.answer(code=302)

    def serve_to(self) -> None:
        target = {"file": "file:///etc/passwd", "ftp": "ftp://127.0.0.1/x", "data": "data:,x"}
        self.answer(code=307, Location=target[self.path.rpartition("/")[2]])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        service.daemon_threads, service.over = True, threading.Event()
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.over.set()
        service.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize(
    "name", ["picture", "bytes", "untold", "chunked", "moved", "picture?a=ö b"]
)
def test_a_picture_is_fetched(server, name) -> None:
    image = load_any_image(f"{server}/{name}")
    assert np.array_equal(image, PIXELS) and image.mode == "RGB"
    assert Handler.asked[-1][1] == "flmm", "some servers refuse who does not say a name"


def test_a_picture_from_an_address_stands_upright(server, monkeypatch) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    monkeypatch.setattr(Handler, "serve_turned", lambda self: self.answer(encode(exif=exif)), False)
    assert np.array_equal(load_any_image(f"{server}/turned"), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("missing", OSError, "/missing answers 404 Not Found"),
        ("broken", OSError, "/broken answers 500"),
        ("page", ValueError, "/page is text/html, no picture: give the address of the picture"),
        ("liar", ValueError, r"/liar: image \(13 bytes\) cannot be read: it is no picture"),
        ("large", ValueError, "/large has more than 0.00190735 MiB: shrink the picture, or give"),
        ("claims", ValueError, "/claims has more than"),
        ("endless", ValueError, "/endless has more than"),
        ("cut", OSError, "/cut cannot be fetched: IncompleteRead"),
        ("nonsense", OSError, "/nonsense cannot be fetched"),
        ("loop", ValueError, "/loop points elsewhere more than 3 times: give the address where"),
        ("nowhere", OSError, "/nowhere answers 302"),
        ("to/file", ValueError, "only http: and https: are fetched, not file:"),
        ("to/ftp", ValueError, "only http: and https: are fetched, not ftp:"),
        ("to/data", ValueError, "only http: and https: are fetched, not data:"),
    ],
)
def test_what_is_no_picture_is_told(server, name, kind, message) -> None:
    with pytest.raises(kind, match=message):
        load_any_image(f"{server}/{name}", FetchLimits(max_bytes=2000, max_redirects=3))


@pytest.mark.parametrize("name", ["asleep", "drip", "lines"])
def test_a_slow_server_is_left(server, name) -> None:
    """A socket's own timeout would begin anew with every byte of the last two."""
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=rf"/{name} takes more than 0\.3 s: try again, or"):
        load_any_image(f"{server}/{name}", FetchLimits(timeout_s=0.3))
    assert time.monotonic() - began < 10


def test_the_limit_counts_redirects_and_nothing_else(server) -> None:
    with pytest.raises(ValueError, match="more than 0 times"):
        load_any_image(f"{server}/moved", FetchLimits(max_redirects=0))
    assert load_any_image(f"{server}/moved", FetchLimits(max_redirects=1)).size == (7, 5)


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("file:///etc/passwd", ValueError, "only http: and https: are fetched, not file:"),
        ("ftp://127.0.0.1/a.png", ValueError, "not ftp:"),
        ("http://127.0.0.1:1/a.png", OSError, r"http://127\.0\.0\.1:1/a\.png cannot be fetched"),
        ("http:///a.png", OSError, "cannot be fetched: no host given"),
        ("http://me:secret@127.0.0.1:1/a?key=1", OSError, r"^http://127\.0\.0\.1:1/a cannot be"),
        ("http://[::1/a.png", ValueError, "IPv6"),
        ("http://127.0.0.1:port/a", OSError, "cannot be fetched: nonnumeric port"),
    ],
)
def test_addresses_that_lead_nowhere(address, kind, message) -> None:
    with pytest.raises(kind, match=message):
        load_any_image(address)


@pytest.mark.parametrize(
    "address",
    [
        "data:image/png;base64," + base64.b64encode(encode()).decode(),
        "data:image/png;base64," + base64.encodebytes(encode()).decode().rstrip("=\n"),
        "DATA:;Base64," + quote(base64.b64encode(encode()).decode()),
        "data:image/png;name=a.png;base64," + base64.b64encode(encode()).decode(),
        "data:image/png," + quote(encode()),
    ],
)
def test_a_picture_in_its_own_address(address) -> None:
    assert np.array_equal(load_any_image(address), PIXELS)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("data:image/png;base64", "has no comma between its type and its data"),
        ("data:text/html,<b>x</b>", "is text/html, no picture"),
        ("data:image/png;base64,???", r"data:image/png;base64,\?\?\? is not base64"),
        ("data:image/png;base64,AAAA", r"image \(3 bytes\) cannot be read"),
        ("data:image/png," + "A" * 9000, r"data:image/png,A{15}\.\.\. has more than"),
        ("data:image/png;base64," + "AAAA" * 900, "has more than"),
    ],
)
def test_data_addresses_that_hold_no_picture(address, message) -> None:
    with pytest.raises(ValueError, match=message):
        load_any_image(address, FetchLimits(max_bytes=2000))


def test_everything_else_is_read_as_by_the_other_door(tmp_path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), PIXELS, encode()):
        assert np.array_equal(load_any_image(source), PIXELS)
    with pytest.raises(FileNotFoundError, match="no image file"):
        load_any_image(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos/my cup.jpg", "my cup"),
        ("http://host/a/b%20c.png?size=/9.jpg#top", "b c"),
        ("https://host", "picture"),
        ("data:image/png;base64,iVBO/abc", "picture"),
    ],
)
def test_names_for_what_is_saved(source, name) -> None:
    assert name_image(source) == name
