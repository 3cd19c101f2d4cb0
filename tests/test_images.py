"""Pictures of any kind come out upright, 8-bit, RGB, as a person sees them."""

import io

import numpy as np
import pytest
from PIL import Image

from flmm.images import load_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def first_pixel(source):
    image = load_image(source)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "RGBX"])
def test_colour_modes_keep_their_colour(mode):
    got = first_pixel(Image.new("RGB", (3, 2), RED).convert(mode))
    assert np.abs(np.array(got) - RED).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I", "F"])
def test_grey_modes_become_grey(mode):
    assert first_pixel(Image.new("L", (3, 2), 255).convert(mode)) == WHITE


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled_not_clipped(dtype):
    pixels = np.array([[0, 257 * 100, 65535]], dtype=dtype)
    got = np.asarray(load_image(Image.fromarray(pixels.astype("<u2"))))[0, :, 0]
    assert got.tolist() == [0, 100, 255]
    assert np.asarray(load_image(pixels))[0, :, 0].tolist() == [0, 100, 255]


def test_a_dim_sixteen_bit_picture_stays_dim():
    assert first_pixel(np.full((2, 2), 257, np.uint16)) == (1, 1, 1)


def test_transparency_lies_over_white():
    assert first_pixel(Image.new("RGBA", (2, 2), (0, 0, 0, 0))) == WHITE
    assert first_pixel(np.zeros((2, 2, 4), np.uint8)) == WHITE
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0] * 256)
    palette.info["transparency"] = 0
    assert first_pixel(palette) == WHITE


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 2), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (2, 6)


def test_paths_bytes_and_arrays_are_the_same_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 4, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    for source in (path, str(path), path.read_bytes(), pixels, pixels / 255.0, pixels[::-1][::-1]):
        assert (np.asarray(load_image(source)) == pixels).all()


def test_arrays_without_colour_are_grey():
    for array in (np.full((2, 3), 7, np.uint8), np.full((2, 3, 1), 7), np.full((2, 3), 7 / 255)):
        assert first_pixel(array) == (7, 7, 7)
    assert first_pixel(np.ones((2, 3), bool)) == WHITE


def test_what_is_no_image_is_named(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.txt' cannot be read as an image"):
        load_image(text)
    with pytest.raises(FileNotFoundError, match=r"no image file at '.*missing\.png'"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="7 bytes cannot be read as an image"):
        load_image(b"1234567")
    with pytest.raises(TypeError, match="int is not an image: give a PIL image"):
        load_image(3)
    with pytest.raises(ValueError, match=r"an array of shape \[3, 5, 7\] is not an image"):
        load_image(np.zeros((3, 5, 7)))
    with pytest.raises(ValueError, match=r"reach from -1 to 0: give \[0, 255\]"):
        load_image(np.array([[-1.0, 0.0]]))


def test_a_truncated_file_is_named(tmp_path):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    path = tmp_path / "cut.png"
    path.write_bytes(buffer.getvalue()[:2000])
    with pytest.raises(ValueError, match=r"cut\.png' cannot be read"):
        load_image(path)


@pytest.mark.parametrize(
    "empty", [np.zeros((0, 5, 3)), Image.new("RGB", (0, 4))], ids=["array", "picture"]
)
def test_a_picture_without_pixels_is_refused(empty):
    with pytest.raises(ValueError, match="has no pixels"):
        load_image(empty)
