"""The picture door: a picture that an oracle gives too, or a sentence; never another ending."""

from __future__ import annotations

import io
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from flmm.images import load_image
from tests.fuzz.harness import Fuzz

pytestmark = pytest.mark.fuzz

PROMISED = (ValueError, TypeError, OSError)
KINDS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "ICO", "PCX")
MODES = ("RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I", "F", "I;16", "YCbCr", "LAB", "HSV")
DTYPES = [
    *("?", "u1", "i1", "u2", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f4", "f8", "g"),
    *("c8", "S3", "U3", "O", "M8[s]", "m8[s]", "u1,u1"),
]
TENSOR_DTYPES = [torch.uint8, torch.bool, torch.int16, torch.int64, torch.float16, torch.bfloat16]
TENSOR_DTYPES += [torch.float32, torch.float64, torch.complex64]


def draw_pixels(rng: random.Random) -> np.ndarray:
    height, width = rng.randint(1, 24), rng.randint(1, 24)
    return np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (height, width, 3), "u1")


def make_file(rng: random.Random) -> tuple[bytes, bool]:
    """The bytes of a picture file, and whether they were changed behind its back."""
    image, kind = Image.fromarray(draw_pixels(rng)), rng.choice(KINDS)
    options: dict[str, Any] = {}
    if rng.random() < 0.5:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = rng.choice([*range(-1, 11), 65535, "6", b"6"])
        options["exif"] = exif
    if rng.random() < 0.2:
        options["exif"] = rng.randbytes(rng.randint(0, 60))
    stream = io.BytesIO()
    try:
        converted = image.convert(rng.choice(MODES))
        converted.save(stream, kind, **options)
    except Exception:  # most kinds take a few modes only
        stream = io.BytesIO()
        image.save(stream, "PNG")
    data = bytearray(stream.getvalue())
    is_changed = rng.random() < 0.7
    if is_changed:
        for _ in range(rng.choice([1, 1, 2, 8, 40])):
            mutate(rng, data)
    return bytes(data), is_changed


def mutate(rng: random.Random, data: bytearray) -> None:
    """One change: most meet the header, where sizes and offsets are."""
    place = rng.randrange(min(len(data), rng.choice([40, 200, 10**6])) or 1)
    way = rng.randrange(6)
    if way == 0 and data:
        data[place] ^= 1 << rng.randrange(8)
    elif way == 1 and data:
        data[place] = rng.choice([0, 1, 127, 128, 255])
    elif way == 2:
        data[place : place + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
    elif way == 3:
        del data[place:]
    elif way == 4:
        data[place:place] = rng.randbytes(rng.randint(1, 20))
    else:
        del data[place : place + rng.randint(1, 20)]


def judge_file(value: tuple[bytes, bool]) -> None:
    data, _ = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, about what it reads
        for orientation in ("upright", "stored"):
            try:
                image = load_image(data, orientation)
            except PROMISED as error:
                assert "0x" not in str(error) and "\n" not in str(error)
                assert str(error).strip() and not isinstance(error, UnicodeError)
                continue
            check_picture(image)
            compare_with_pillow(image, data, orientation)


def check_picture(image: Image.Image) -> None:
    assert image.mode == "RGB" and min(image.size) > 0
    assert not image.info and not image.getexif()


def compare_with_pillow(image: Image.Image, data: bytes, orientation: str) -> None:
    """Pillow's own reading of 8-bit pictures, where nothing is decided about values."""
    opened = Image.open(io.BytesIO(data))
    if opened.width * opened.height > 2**20:
        return  # a GIF's canvas beyond its frame is whatever lay in memory, twice not the same
    is_tiff = opened.format == "TIFF"  # its tags are applied by Pillow while it loads
    opened.load()
    if opened.mode not in ("RGB", "L", "CMYK", "YCbCr", "1") or "transparency" in opened.info:
        return
    if orientation == "upright":
        try:
            opened = ImageOps.exif_transpose(opened)
        except Exception:  # tags that cannot be read
            return
    elif is_tiff:
        assert sorted(image.size) == sorted(opened.size)
        return
    assert np.array_equal(image, opened.convert("RGB"))


def test_fuzz_picture_files(fuzz: Fuzz) -> None:
    fuzz.check_in_children(make_file, judge_file, max_megabytes=2048)


def make_array(rng: random.Random) -> Any:
    """An array or a tensor of any type, shape and range."""
    sides, dimensions = [0, 1, 2, 3, 3, 4, 4, 5, 9], rng.choice([0, 1, 2, 3, 3, 3, 4])
    shape = [rng.choice(sides) for _ in range(dimensions)]
    chance = np.random.default_rng(rng.randrange(2**32))
    ranges = [(0, 1), (0, 255), (0, 65535), (-1, 1), (-0.1, 1.1), (-20, 280), (0, 9e9)]
    low, high = rng.choice(ranges)
    values = np.asarray(chance.uniform(low, high, shape))
    if rng.random() < 0.5:
        values = np.floor(values, out=values)
    if rng.random() < 0.1 and values.size:
        values.flat[rng.randrange(values.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if rng.random() < 0.4:
            return torch.from_numpy(values).to(rng.choice(TENSOR_DTYPES))
        dtype = np.dtype(rng.choice(DTYPES))
        array = np.zeros(shape, dtype) if dtype.kind in "VMm" else values.astype(dtype)
    if array.ndim and rng.random() < 0.3:
        array = array[::-1]
    return array


def judge_array(value: Any) -> None:
    before = to_numpy(value).copy()
    try:
        image = load_image(value)
    except PROMISED as error:
        assert str(error).strip() and "\n" not in str(error)
        return
    check_picture(image)
    array = to_numpy(value)
    assert np.array_equal(array, before), "the source is as it was"
    if isinstance(value, torch.Tensor) and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    assert image.size == (array.shape[1], array.shape[0])
    compare_with_scaling(np.asarray(image), array)


def to_numpy(value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        return value
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def compare_with_scaling(pixels: np.ndarray, array: np.ndarray) -> None:
    """The documented rules in slow words, for colour and grey."""
    values = array.astype(np.float64).reshape(*array.shape[:2], -1)
    if values.shape[2] == 4:
        return
    top = values.max()
    is_whole = array.dtype.kind != "f" or (top > 1 and bool((values == np.floor(values)).all()))
    if array.dtype == bool or (not is_whole and top <= 1.45):
        wanted = np.clip(values, 0, 1) * 255
    elif top > 255 and is_whole:
        wanted = values / 257
    else:
        wanted = np.clip(values, 0, 255)
    assert np.abs(pixels - wanted).max() <= 0.51


def test_fuzz_picture_arrays(fuzz: Fuzz) -> None:
    fuzz.check(make_array, judge_array)
