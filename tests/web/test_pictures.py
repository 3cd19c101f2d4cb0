"""Every file that a visitor may hand over is read, or answered with a sentence."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flmm.apps.web.pictures import clean_name, draw_samples, read_upload
from flmm.apps.web.requests import Limits
from flmm.apps.web.service import PageService
from tests.web.bad_uploads import LIMIT_BYTES, draw, list_bad_uploads, save
from tests.web.page_requests import ask, send, upload


def test_bad_uploads_are_answered(inferencer) -> None:
    uploads = list_bad_uploads()
    assert len(uploads) >= 30
    service = PageService(inferencer, Limits(max_upload_bytes=LIMIT_BYTES))
    for item in uploads:
        shown = upload(service, "visitor", item.name, item.data)
        message = shown["message"]
        assert "Traceback" not in message["text"]
        if item.answer is None:
            assert message["kind"] == "note" and shown["picture"]["name"], (item.label, message)
        else:
            assert message["kind"] == "error" and item.answer in message["text"], item.label
            assert "picture" not in shown, item.label
    send(service, "visitor", "open_sample", index=1)
    assert ask(service, "visitor")["turns"]["items"][0]["text"]


def test_a_bad_upload_leaves_the_conversation_as_it_was(service) -> None:
    send(service, "visitor", "open_sample", index=0)
    ask(service, "visitor")
    upload(service, "visitor", "notes.png", b"no picture")
    assert len(ask(service, "visitor")["turns"]["items"]) == 2


def test_uploads_keep_their_pixels(service) -> None:
    image = draw(50, 30)
    picture = read_upload(save(image, "PNG"), "ramp.png", Limits())
    assert np.array_equal(np.asarray(picture.image), np.asarray(image)) and picture.note == ""


def test_first_frames_and_shrunk_pictures_are_told() -> None:
    frames = [Image.new("RGB", (40, 20), color) for color in ("red", "blue")]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = read_upload(data, "two.gif", Limits(max_side_px=20))
    assert picture.image.size == (20, 10) and "first is used" in picture.note
    assert picture.image.getpixel((5, 5)) == (254, 0, 0) or picture.image.getpixel((5, 5))[0] > 250
    assert "shrunk to 20 × 10 pixels" in picture.note


def test_exif_turns_the_picture() -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture = read_upload(save(draw(60, 40), "JPEG", exif=exif), "turned.jpg", Limits())
    assert picture.image.size == (40, 60)


@pytest.mark.parametrize(
    "name, clean",
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\cat.jpg", "cat.jpg"),
        ("\x00\x1b[31mred.png", "[31mred.png"),
        ("", "picture"),
        ("x" * 90 + ".jpg", "x" * 50 + "…" + "xxxxx.jpg"),
    ],
)
def test_names_are_cleaned(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def test_samples_differ() -> None:
    samples = draw_samples()
    assert len({sample.image.tobytes() for sample in samples}) == len(samples) >= 4


def test_limits_are_above_zero() -> None:
    with pytest.raises(ValueError, match=r"max_pixels is 0: give a number above zero"):
        Limits(max_pixels=0)
