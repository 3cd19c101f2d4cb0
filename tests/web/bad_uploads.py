"""Files that people, and worse, hand to a page: what each of them is answered with.

``answer`` is a part of the message; ``None``: the file is a picture after all, and is read.
"""

from __future__ import annotations

import functools
import io
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

LIMIT_BYTES = 4 * 2**20  # of the service that is tried


class Upload(NamedTuple):
    """A file as a browser hands it over."""

    label: str
    name: str
    data: bytes
    answer: str | None


def draw(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8)).convert(mode)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def build_png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def build_png(width: int, height: int, *more: bytes) -> bytes:
    """A black 1-bit PNG of any size, written without its pixels ever being in memory."""
    row = bytes(1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *[(b"zTXt", text) for text in more], (b"IDAT", pixels)]
    body = b"".join(build_png_chunk(*chunk) for chunk in [*chunks, (b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + body


def build_animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (50, 40), color) for color in ("red", "green", "blue")]
    return save(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def build_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10**7))
    return stream.getvalue()


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@functools.cache
def list_bad_uploads() -> list[Upload]:
    jpeg, png = save(draw(300, 200), "JPEG"), save(draw(300, 200), "PNG")
    noise = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    size = jpeg.index(b"\xff\xc0") + 5  # of the frame header: (h, w)
    claims = jpeg[:size] + b"\xff\xdc\xff\xdc" + jpeg[size + 4 :]
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    no, damaged, large = "is no picture", "is damaged", "megapixels"
    return [
        Upload("empty", "empty.png", b"", "is empty"),
        Upload("text", "notes.png", b"hello, I am text\n" * 40, no),
        Upload("markup", "page.jpg", b"<html><script>alert(1)</script></html>", no),
        Upload("vector", "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", no),
        Upload("document", "paper.pdf", b"%PDF-1.7\n" + noise, no),
        Upload("postscript", "run.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", no),
        Upload("noise", "noise.jpg", noise, no),
        Upload("zip bomb", "album.jpg", build_zip(), no),
        Upload("program", "viewer.gif", b"\x7fELF" + noise, no),
        Upload("unused format", "pixels.ppm", b"P6 2 2 255\n" + bytes(12), no),
        Upload("truncated JPEG", "half.jpg", jpeg[: len(jpeg) // 2], damaged),
        Upload("truncated PNG", "half.png", png[: len(png) // 2], damaged),
        Upload("truncated GIF", "half.gif", save(draw(), "GIF")[:-700], damaged),
        Upload("truncated WebP", "half.webp", save(draw(), "WEBP")[:60], no),
        Upload("head of a PNG", "head.png", png[:33], no),
        Upload("mark of a JPEG", "mark.jpg", b"\xff\xd8\xff\xe0", no),
        Upload("wrong checksum", "flipped.png", flip(png, len(png) // 2), None),
        Upload("PNG bomb", "bomb.png", build_png(30000, 30000), large),
        Upload("half a PNG bomb", "half_bomb.png", build_png(9000, 9000), large),
        Upload("JPEG that claims", "claims.jpg", claims, large),
        Upload(
            "text bomb", "comment.png", build_png(8, 8, b"k\0\0" + zlib.compress(bytes(10**8))), no
        ),
        Upload("20,000 x 10", "strip.png", build_png(20000, 10), "as long as"),
        Upload("10 x 20,000", "ribbon.png", build_png(10, 20000), "as long as"),
        Upload("1 x 1", "dot.png", save(draw(1, 1), "PNG"), None),
        Upload("1 x 190", "line.png", save(draw(190, 1), "PNG"), None),
        Upload("large file", "large.bmp", save(draw(1500, 1000), "BMP"), "takes up to 4"),
        Upload("nearly too large", "nearly.bmp", save(draw(1200, 1100), "BMP"), None),
        Upload("wide screen", "wide.gif", b"GIF89a\xff\xff\xff\xff\x00\x00\x00;", no),
        Upload(
            "no width",
            "flat.bmp",
            b"BM" + struct.pack("<IIIIii", 54, 0, 54, 40, 0, 9) + bytes(28),
            no,
        ),
        Upload(
            "not a number",
            "nan.tif",
            save(Image.fromarray(np.full((9, 9), np.nan, "f4")), "TIFF"),
            damaged,
        ),
        Upload(
            "below zero",
            "minus.tif",
            save(Image.fromarray(np.full((9, 9), -5, "i4")), "TIFF"),
            damaged,
        ),
        Upload("moving GIF", "moving.gif", build_animation("GIF"), None),
        Upload("moving WebP", "moving.webp", build_animation("WEBP"), None),
        Upload("moving PNG", "moving.png", build_animation("PNG"), None),
        Upload("pages", "pages.tif", build_animation("TIFF"), None),
        Upload("CMYK", "print.jpg", save(draw(mode="CMYK"), "JPEG"), None),
        Upload(
            "16 bit", "deep.png", save(Image.fromarray(np.full((9, 9), 40000, "u2")), "PNG"), None
        ),
        Upload("palette", "palette.png", save(draw(mode="P"), "PNG", transparency=0), None),
        Upload("grey and clear", "clear.png", save(draw(mode="LA"), "PNG"), None),
        Upload("1 bit", "fax.tif", save(draw(mode="1"), "TIFF", compression="group4"), None),
        Upload("wrong ending", "photo.png", jpeg, None),
        Upload("no ending", "photo", png, None),
        Upload("turned", "turned.jpg", save(draw(60, 40), "JPEG", exif=exif), None),
        Upload("path", "../../etc/passwd.png", png, None),
        Upload("markup as name", "<img src=x onerror=alert(1)>.png", png, None),
        Upload("long name", "n" * 400 + ".png", png, None),
    ]
