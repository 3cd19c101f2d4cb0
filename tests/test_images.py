"""Pictures of any kind come out 8-bit RGB and without tags: upright, or as their file has them."""

import ast
import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps

from flmm.images import TooManyPixelsError, load_image, open_image

RED, WHITE = (255, 0, 0), (255, 255, 255)
FLMM = Path(__file__).parents[1] / "flmm"
RAMP = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def first_pixel(source):
    image = load_image(source)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def encode(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tag(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


# -- modes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBa", "P", "CMYK", "YCbCr", "RGBX", "HSV"])
def test_colour_modes_keep_their_colour(mode):
    image = Image.new("RGB", (3, 2), RED)
    image = image.convert("RGBA").convert(mode) if mode == "RGBa" else image.convert(mode)
    assert np.abs(np.array(first_pixel(image)) - RED).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "La", "1", "I", "F", "I;16"])
def test_grey_modes_become_grey(mode):
    image = Image.new("L", (3, 2), 255)
    image = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
    assert first_pixel(image) == WHITE


def test_colours_as_the_eye_measures_them():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    red = Image.new("RGB", (3, 2), RED)
    lab = ImageCms.profileToProfile(red, *profiles, outputMode="LAB")
    for source in (lab, encode(lab, "TIFF")):
        assert np.abs(np.array(first_pixel(source)) - RED).max() <= 6


def test_transparency_lies_over_white():
    assert first_pixel(Image.new("RGBA", (2, 2), (0, 0, 0, 0))) == WHITE
    assert first_pixel(np.zeros((2, 2, 4), np.uint8)) == WHITE
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0] * 256)
    palette.info["transparency"] = 0
    assert first_pixel(palette) == WHITE
    assert first_pixel(encode(palette, "PNG")) == first_pixel(encode(palette, "GIF")) == WHITE


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_read(kind):
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    moving = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(np.array(first_pixel(moving)) - RED).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_in_files_of_either_byte_order(kind):
    pixels = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert np.asarray(load_image(encode(Image.fromarray(pixels), kind)))[0, :, 0].tolist() == [
        *(0, 100, 255)
    ]
    big = Image.frombytes("I;16B", (3, 1), pixels.astype(">u2").tobytes())
    assert np.asarray(load_image(big))[0, :, 0].tolist() == [0, 100, 255]


def test_a_tiff_of_light_without_bounds_is_refused():
    light = np.geomspace(0.01, 40, 12, dtype=np.float32).reshape(3, 4)
    with pytest.raises(ValueError, match=r"values reach from 0.01 to 40: the range is not clear"):
        load_image(encode(Image.fromarray(light), "TIFF"))


# -- orientation -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_as_wanted_and_never_comes_twice(orientation, kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    raw = Image.fromarray(np.kron(RAMP[:3, :4], np.ones((16, 16, 1), np.uint8)))
    data = encode(raw, kind, exif=tag(orientation), **options)
    stored, upright = load_image(data, "stored"), load_image(data)
    assert stored.size == raw.size
    close = 6 if kind == "JPEG" else 0
    assert np.abs(np.asarray(stored, int) - np.asarray(raw)).max() <= close
    raw.getexif()[ExifTags.Base.Orientation] = orientation
    oracle = ImageOps.exif_transpose(raw)
    assert np.abs(np.asarray(upright, int) - np.asarray(oracle)).max() <= close
    for image in (stored, upright):
        assert not image.getexif() and not image.info
        again = load_image(image)
        assert again is not image and np.array_equal(again, image)
        assert np.array_equal(load_image(encode(image)), image)


def test_an_opened_picture_is_turned_as_its_file_is(tmp_path):
    path = tmp_path / "turned.tif"
    Image.fromarray(RAMP).save(path, exif=tag(6))
    with Image.open(path) as image:
        assert np.array_equal(load_image(image, "stored"), RAMP)
    with Image.open(path) as image:
        image.load()
        assert np.array_equal(load_image(image), np.rot90(RAMP, -1))
    converted = Image.open(io.BytesIO(encode(Image.fromarray(RAMP), exif=tag(8)))).convert("RGB")
    assert np.array_equal(load_image(converted), np.rot90(RAMP))
    assert np.array_equal(converted, RAMP), "the source is as it was"


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"Exif\0\0" + bytes(9), b"junk", b"Exif\0\0"])
def test_broken_tags_say_nothing(exif):
    data = encode(Image.fromarray(RAMP), "PNG", exif=exif)
    assert np.array_equal(load_image(data), RAMP)


def test_another_orientation_is_named():
    with pytest.raises(ValueError, match="orientation is 'raw': give 'upright' or 'stored'"):
        load_image(RAMP, "raw")


# -- values of arrays and tensors --------------------------------------------------------------


def test_arrays_without_colour_are_grey():
    for array in (np.full((2, 3), 7, np.uint8), np.full((2, 3, 1), 7), np.full((2, 3), 7 / 255)):
        assert first_pixel(array) == (7, 7, 7)
    assert first_pixel(np.ones((2, 3), bool)) == WHITE


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "g", "i2", "i4", "i8", "u2", ">u2", "u4", "u8"]
)
def test_eight_bits_in_any_type_keep_their_values(dtype):
    assert np.array_equal(load_image(RAMP.astype(dtype)), RAMP)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "i4", "u4", "i8", "f4", "f8"])
def test_sixteen_bits_are_scaled_not_clipped(dtype):
    pixels = np.array([[0, 257 * 100, 128, 129, 65535]], dtype)
    assert np.asarray(load_image(pixels))[0, :, 0].tolist() == [0, 100, 0, 1, 255]


def test_a_dim_sixteen_bit_picture_stays_dim():
    assert first_pixel(np.full((2, 2), 257, np.uint16)) == (1, 1, 1)
    assert first_pixel(np.full((2, 2), 255, np.uint16)) == WHITE, "8 bits in a wider type"


@pytest.mark.parametrize("mode", ["bicubic", "lanczos"])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_what_resizing_makes_overshoot_is_clipped(mode, scale):
    """An edge, enlarged: Pillow clips the bytes itself, in floats the overshoot stays."""
    edge = np.zeros((8, 8), np.float32)
    edge[:, 5:] = 1
    way = Image.Resampling[mode.upper()]
    overshooting = np.asarray(Image.fromarray(edge).resize((33, 33), way)) * scale
    assert overshooting.min() < -0.02 * scale and overshooting.max() > 1.03 * scale
    oracle = Image.fromarray((edge * 255).astype(np.uint8)).resize((33, 33), way)
    got = np.asarray(load_image(overshooting))[..., 0].astype(int)
    assert np.abs(got - np.asarray(oracle)).max() <= 1


def test_torch_overshoots_less_than_what_is_clipped():
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 3:5, 3:] = edge[..., 5:] = 1
    enlarged = torch.nn.functional.interpolate(edge, scale_factor=4, mode="bicubic")[0]
    assert enlarged.max() > 1.1
    assert np.array_equal(load_image(enlarged), load_image(enlarged.clamp(0, 1)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[-1.0, 0.0]]), r"reach from -1 to 0: the range is not clear, give whole numb"),
        (np.array([[-2.1, 2.64]]), "reach from -2.1 to 2.64: the range is not clear"),
        (np.array([[0.5, 20.0]]), "reach from 0.5 to 20: the range is not clear"),
        (np.array([[0.5, 3000.0]]), "reach from 0.5 to 3000: the range is not clear"),
        (np.array([[-3, 200]]), r"reach from -3 to 200: give whole numbers in \[0, 255\] or fract"),
        (np.array([[0, 70000]]), "reach from 0 to 70000: give"),
        (np.array([[np.nan, 0.5]]), "infinite or no numbers"),
        (np.array([[np.inf, 0.5]], np.float16), "infinite or no numbers"),
        (np.array([[-np.inf, 0.5]]), "infinite or no numbers"),
        (np.zeros((3, 5, 7)), r"shape \[3, 5, 7\] has its channels first: give array.transpose"),
        (np.zeros((2, 5, 7, 3)), r"\[2, 5, 7, 3\] is several images: give them as a list"),
        (np.zeros((5, 7, 2)), r"shape \[5, 7, 2\] is not an image: give \[H, W\], \[H, W, 3\]"),
        (np.zeros(5), r"shape \[5\] is not an image"),
        (np.zeros((0, 5, 3)), "has no pixels"),
    ],
)
def test_arrays_that_may_mean_anything_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        load_image(array)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5), complex),
        np.zeros((4, 5), [("r", "u1"), ("g", "u1")]),
        np.full((4, 5), "a"),
        np.full((4, 5), b"a"),
        np.full((4, 5), None),
        np.zeros((4, 5), "M8[s]"),
        np.zeros((4, 5), "m8[s]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_types_that_hold_no_picture_are_named(array):
    with pytest.raises(TypeError, match=r"an array of dtype .* is not an image: give whole"):
        load_image(array)


def test_masked_values_are_no_pixels():
    with pytest.raises(TypeError, match="some values of the array are masked: fill them"):
        load_image(np.ma.masked_less(RAMP, 9))
    assert np.array_equal(load_image(np.ma.masked_less(RAMP, 0)), RAMP)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.from_numpy(RAMP).permute(2, 0, 1),
        torch.from_numpy(RAMP).permute(2, 0, 1) / 255,
        (torch.from_numpy(RAMP).permute(2, 0, 1) / 255).double().requires_grad_(),
        (torch.from_numpy(RAMP).permute(2, 0, 1) / 255).bfloat16(),
        (torch.from_numpy(RAMP).permute(2, 0, 1) / 255).half(),
        torch.from_numpy(RAMP).permute(2, 0, 1).int(),
    ],
    ids=lambda tensor: str(tensor.dtype),
)
def test_tensors_have_their_channels_first(tensor):
    close = 1 if tensor.dtype == torch.bfloat16 else 0
    assert np.abs(np.asarray(load_image(tensor), int) - RAMP).max() <= close


def test_shapes_that_could_be_both_are_settled_by_the_type():
    cube = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert np.array_equal(load_image(cube), cube)
    assert np.array_equal(load_image(torch.from_numpy(cube)), cube.transpose(1, 2, 0))
    wide = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    assert load_image(wide).size == (5, 3)
    assert load_image(torch.from_numpy(wide)).size == (3, 5)
    grey = torch.full((2, 3), 7, dtype=torch.uint8)
    assert first_pixel(grey) == first_pixel(grey[None]) == (7, 7, 7)
    assert first_pixel(torch.zeros(4, 2, 2)) == WHITE  # RGBA


@pytest.mark.parametrize(
    ("tensor", "kind", "message"),
    [
        (torch.zeros(5, 7, 3), ValueError, r"channels last: give tensor.permute\(2, 0, 1\), or"),
        (torch.zeros(2, 3, 5, 7), ValueError, "is several images: give them as a list"),
        (torch.zeros(7), ValueError, r"shape \[7\] is not an image: give \[3, H, W\]"),
        (torch.zeros(3, 0, 7), ValueError, "has no pixels"),
        (torch.zeros(3, 2, 7, dtype=torch.complex64), TypeError, "one of real numbers"),
        (torch.zeros(3, 2, 7).to_sparse(), TypeError, "give a dense one"),
        (torch.zeros(3, 2, 7, device="meta"), TypeError, r"\(one without values\) is not an image"),
        (torch.full((3, 2, 7), float("nan")), ValueError, "infinite or no numbers"),
    ],
)
def test_tensors_that_hold_no_picture_are_named(tensor, kind, message):
    with pytest.raises(kind, match=message):
        load_image(tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tensor_on_a_gpu_is_read():
    tensor = torch.from_numpy(RAMP).permute(2, 0, 1).cuda()
    assert np.array_equal(load_image(tensor), RAMP)


# -- files and streams -------------------------------------------------------------------------


def test_the_same_picture_by_every_way(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(RAMP).save(path)
    data = path.read_bytes()
    ways = [path, str(path), os.fsencode(path) and path, data, bytearray(data), memoryview(data)]
    ways += [RAMP, RAMP / 255.0, RAMP[::-1][::-1], Image.fromarray(RAMP), io.BytesIO(data)]
    for source in ways:
        assert np.array_equal(load_image(source), RAMP)


def test_streams_are_read_from_their_beginning(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(RAMP).save(path)
    written = io.BytesIO()
    Image.fromarray(RAMP).save(written, "PNG")
    assert written.tell() > 0
    assert np.array_equal(load_image(written), RAMP) and not written.closed
    with path.open("rb") as stream:
        stream.read(20)
        assert np.array_equal(load_image(stream), RAMP) and not stream.closed
    reader, writer = os.pipe()  # cannot be rewound
    os.write(writer, path.read_bytes())
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        assert np.array_equal(load_image(stream), RAMP)
    with path.open("r", encoding="latin-1") as stream, pytest.raises(TypeError, match="mode 'rb'"):
        load_image(stream)


def test_what_is_no_image_is_named(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.txt cannot be read: it is no picture of a"):
        load_image(text)
    with pytest.raises(FileNotFoundError, match=r"no image file at '.*missing\.png'"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(FileNotFoundError, match="no image file at"):
        load_image(text / "below.png")
    with pytest.raises(ValueError, match=r"image \(7 bytes\) cannot be read: it is no picture"):
        load_image(b"1234567")
    with pytest.raises(ValueError, match=r"image \(0 bytes\) cannot be read"):
        load_image(b"")
    with pytest.raises(TypeError, match="int is not an image: give a path, bytes, a binary str"):
        load_image(3)
    video = tmp_path / "clip.MP4"
    video.write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(ValueError, match=r"clip\.MP4 is a video, and flmm reads still"):
        load_image(video)
    with pytest.raises(ValueError, match="is no name of a file"):
        load_image("a\0b.png")
    with pytest.raises(ValueError, match="has no pixels"):
        load_image(Image.new("RGB", (0, 4)))


def test_what_is_no_regular_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        for path in (tmp_path / "pipe.png", tmp_path / "socket.png", "/dev/zero"):
            for orientation in ("upright", "stored"):
                with pytest.raises(ValueError, match="is a pipe, socket or device: give a reg"):
                    load_image(path, orientation)
    with pytest.raises(ValueError, match="is a folder: give the picture files in it"):
        load_image(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_a_truncated_file_is_named(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / "cut.png"
    path.write_bytes(encode(Image.fromarray(noise), kind)[:2000])
    with pytest.raises(ValueError, match=r"image .*cut\.png cannot be read: "):
        load_image(path)


def test_a_picture_with_too_many_pixels_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encode(Image.new("1", (30, 30)))
    with pytest.raises(TooManyPixelsError, match="too many pixels: shrink it, or raise"):
        load_image(data)


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / "run.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match=r"run\.png is PostScript, which is a program"):
        load_image(path)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/a.png", "FILE:///a.png", "data:,x"])
def test_addresses_are_not_read_here(address):
    with pytest.raises(ValueError, match="is an address, and only files are read here"):
        load_image(address)
    with pytest.raises(ValueError, match="is an address"), open_image(address):
        pass


# -- the one door ------------------------------------------------------------------------------


def test_nobody_else_opens_turns_or_converts_pictures():
    """Written for Pillow's and OpenCV's own words; drawings are saved and resized elsewhere."""
    words = {"open", "exif_transpose", "getexif", "imread", "imdecode", "frombytes"}
    found = []
    for path in FLMM.rglob("*.py"):
        if path.parent.name == "images":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                if node.attr in words and node.value.id in ("Image", "ImageOps", "cv2"):
                    found.append(f"{path}: {name}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                first = node.args[0] if node.args else None
                if node.func.attr == "convert" and getattr(first, "value", None) == "RGB":
                    found.append(f"{path}: convert('RGB')")
    assert not found


def test_addresses_are_for_a_persons_own_words_alone():
    """A record, an annotation or a visitor must not make this machine ask others."""
    allowed = {"demo.py", "inferencer.py", "session.py", "check.py", "qwen.py", "heads.py"}
    users = {
        path
        for path in FLMM.rglob("*.py")
        if path.parent.name != "images" and "load_any_image" in path.read_text(encoding="utf-8")
    }
    assert {path.name for path in users} <= allowed
    assert not {path.parent.name for path in users} & {"datasets", "web", "visual_cot", "engine"}
