"""The page in a real headless Chromium: a visit, a phone, two browsers, bad uploads.

The pictures of README and docs are the first test's own:

    FLMM_SCREENSHOTS=docs/images python -m pytest -n 0 tests/web/test_browser.py -k visit
"""

from __future__ import annotations

import io
import os
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from flmm.web.pictures import clean_name
from tests.web.bad_uploads import LIMIT_BYTES, list_bad_uploads
from tests.web.conftest import ROOT, PageServer
from tests.web.page_requests import ask, send

SCENE = ROOT / "docs/images/scene.png"
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 780}


class Visit:
    """A browser of its own on the page, and what went wrong in it."""

    def __init__(self, browser: Any, server: PageServer, viewport: dict, **options: Any) -> None:
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.hosts: set[str] = set()
        self.faults: list[str] = []
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        self.page.on("console", self._listen)
        self.page.goto(server.url)
        self.page.wait_for_selector(".flmm .thumb")

    def _note(self, url: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob"):
            self.hosts.add(urlsplit(url).netloc)

    def _listen(self, message: Any) -> None:
        # What the page's policy refuses was not asked for: older Gradio names a script elsewhere.
        if message.type == "error" and "Content Security Policy" not in message.text:
            self.faults.append(message.text)

    def ask(self, question: str = "") -> str:
        """Send a question (without one, that which stands there); gives the answer."""
        if question:
            self.page.fill("textarea", question)
        before = self.page.locator(".turn:not(.draft)").count()
        self.page.press("textarea", "Enter")
        self.page.wait_for_selector(f".turn:not(.draft) >> nth={before}")
        return self.page.inner_text(f".turn >> nth={before} >> .answer")

    def wait_until_seen(self, layer: str) -> None:
        """Until a layer of the picture has faded in."""
        self.page.wait_for_function(
            "name => { const style = getComputedStyle(document.querySelector(name));"
            " return style.opacity === '1' }",
            arg=layer,
        )

    def see(self) -> np.ndarray:
        """The picture with what lies on it, as the visitor sees it: float ``[H, W, 3]``."""
        shot = self.page.locator(".canvas").screenshot(animations="disabled")
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(float)

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Draw a box with the mouse; shares of the picture's width and height."""
        frame = self.page.locator(".canvas").bounding_box()
        places = [
            (frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])
            for x, y in ((x0, y0), (x1, y1))
        ]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        self.page.mouse.move(*places[1], steps=4)
        self.page.mouse.up()

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def visits(browser: Any, page_server: PageServer) -> Iterator[Any]:
    """Opens visits; at the end none may have met a fault or asked another host for anything."""
    opened: list[Visit] = []

    def open_visit(viewport: dict = LAPTOP, **options: Any) -> Visit:
        opened.append(Visit(browser, page_server, viewport, **options))
        return opened[-1]

    yield open_visit
    for visit in opened:
        visit.close()
        assert visit.faults == []
        assert visit.hosts == {urlsplit(page_server.url).netloc}
    assert "Traceback" not in page_server.log.read_text()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    return Path(os.environ.get("FLMM_SCREENSHOTS", tmp_path))


def test_a_visit(visits: Any, screenshots: Path, tmp_path: Path) -> None:
    visit = visits()
    page = visit.page
    page.set_input_files(".upload input", SCENE)
    page.wait_for_selector(".canvas:visible")
    assert page.get_attribute(".photo", "alt") == "scene.png"
    answer = visit.ask()
    assert "blue square" in answer
    phrases = page.locator(".chip").count()
    assert phrases == answer.count(",") + 1
    visit.wait_until_seen(".tints")
    plain = visit.see()

    # A phrase under the pointer: its mask in the spotlight, the rest dimmed.
    page.hover(".answer .phrase >> text=red")
    visit.wait_until_seen(".spot")
    assert page.inner_text(".chip.lit span") in answer
    lit = visit.see()
    dimmed = lit.sum(2) < 0.7 * plain.sum(2)
    assert 0.5 < dimmed.mean() < 0.99
    page.screenshot(path=tmp_path / "laptop.png")

    # A word that is clicked: its heat map, of all heads and of the best.
    page.click(".answer .token >> text=triangle")
    visit.wait_until_seen(".heat")
    assert "Where “triangle” looks" in page.inner_text(".finding")
    page.mouse.move(2, 2)
    heat = visit.see()
    assert np.abs(heat - lit).mean() > 5 and page.locator(".spot.on").count() == 0
    page.click(".segments button >> text=best heads")
    assert np.abs(visit.see() - heat).mean() > 1

    # A box: the words that look there, strongest first, and marked in the text.
    visit.drag(0.02, 0.02, 0.55, 0.6)
    page.wait_for_selector(".words li")
    points = [int(text) for text in page.locator(".words b").all_inner_texts()]
    assert points == sorted(points, reverse=True) and points[0] > 0
    assert page.is_visible(".box") and page.locator(".turns.ranked").count() == 1
    page.keyboard.press("Escape")

    for kind, ending in (("png", ".zip"), ("coco", ".json")):
        with page.expect_download() as download:
            page.click(f".save[data-kind={kind}]")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.name == f"scene_masks{ending}" and path.stat().st_size > 300
    names = zipfile.ZipFile(tmp_path / "scene_masks.zip").namelist()
    assert len([name for name in names if name.endswith(".png")]) == phrases

    visit.ask("is the [red triangle] above the square?")
    assert page.locator(".question .phrase").first.is_visible()
    page.click(".undo")
    page.wait_for_function("document.querySelectorAll('.turn').length === 1")

    phone = visit_on_a_phone(visits, tmp_path)
    save_screenshot(tmp_path / "laptop.png", phone, screenshots / "web.jpg")
    assert (screenshots / "web.jpg").stat().st_size < 200_000


def visit_on_a_phone(visits: Any, folder: Path) -> Path:
    """The same with fingers, 375 px wide; gives the path of a screenshot."""
    visit = visits(PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    page = visit.page
    page.set_input_files(".upload input", SCENE)
    page.wait_for_selector(".canvas:visible")
    assert "blue square" in visit.ask()
    page.tap(".chip >> nth=0")
    visit.wait_until_seen(".spot")
    page.tap(".answer .token >> text=triangle")
    visit.wait_until_seen(".heat")
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=folder / "phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for part in (".frame", ".finding", ".answer", ".composer"):
        frame = page.locator(part).first.bounding_box()
        assert frame["x"] >= 0 and frame["x"] + frame["width"] <= PHONE["width"], part
    page.locator(".canvas").scroll_into_view_if_needed()
    page.tap(".draw")
    swipe(visit, (0.1, 0.1), (0.6, 0.7))
    page.wait_for_selector(".words li")
    return folder / "phone.png"


def swipe(visit: Visit, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A finger drawn across the picture; shares of its width and height."""
    frame = visit.page.locator(".canvas").bounding_box()
    touch = visit.context.new_cdp_session(visit.page)
    for kind, place in (("touchStart", start), ("touchMove", end), ("touchEnd", None)):
        points = [] if place is None else [place]
        touch.send(
            "Input.dispatchTouchEvent",
            {
                "type": kind,
                "touchPoints": [
                    {
                        "x": frame["x"] + x * frame["width"],
                        "y": frame["y"] + y * frame["height"],
                    }
                    for x, y in points
                ],
            },
        )


def save_screenshot(laptop: Path, phone: Path, path: Path) -> None:
    """Both screens side by side."""
    left, right = Image.open(laptop).convert("RGB"), Image.open(phone).convert("RGB")
    right = right.resize((round(right.width * left.height / right.height), left.height))
    sheet = Image.new("RGB", (left.width + 24 + right.width, left.height), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + 24, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=88)


def test_two_browsers_are_kept_apart(visits: Any, service: Any) -> None:
    anna, ben = visits(), visits()
    for visit, sample in ((anna, 0), (ben, 4)):
        visit.page.click(f".thumb >> nth={sample}")
        visit.page.wait_for_selector(".canvas:visible")
    for visit in (anna, ben):  # both are answered at once
        visit.page.press("textarea", "Enter")
    for visit, sample in ((anna, 0), (ben, 4)):
        send(service, "alone", "open_sample", index=sample)
        expected = ask(service, "alone")["turns"]["items"][0]
        visit.page.wait_for_selector(".turn:not(.draft)")
        assert visit.page.inner_text(".answer") == expected["text"]
        assert visit.page.get_attribute(".photo", "alt") == f"sample_{sample + 1}.png"
        tints = visit.page.evaluate("[...document.querySelectorAll('.tints img')].map(i => i.src)")
        assert tints == [phrase["tint"] for phrase in expected["phrases"]]
    # A new page of the same browser knows nothing; the other goes on where it was.
    anna.page.reload()
    anna.page.wait_for_selector(".flmm .thumb")
    assert not anna.page.is_visible(".canvas") and anna.page.locator(".turn").count() == 0
    ben.ask("what is left?")
    assert ben.page.locator(".turn").count() == 2 and anna.page.locator(".turn").count() == 0


def test_bad_uploads_are_answered_and_the_page_goes_on(visits: Any) -> None:
    visit = visits()
    page = visit.page
    for item in list_bad_uploads():
        page.set_input_files(
            ".upload input",
            {"name": Path(item.name).name, "mimeType": "image/png", "buffer": item.data},
        )
        page.wait_for_function(
            "([name, part]) => part === null"
            " ? document.querySelector('.photo').alt === name"
            " : document.querySelector('.message.error:not([hidden])')"
            "?.textContent.includes(part)",
            arg=[clean_name(item.name), item.answer],
        )
        page.wait_for_selector(".flmm:not(.busy)")
        assert "Traceback" not in page.inner_text("body")
        page.evaluate("document.querySelector('.message').hidden = true")
    assert len(list_bad_uploads()) >= 30 and LIMIT_BYTES < 5 * 2**20
    page.click(".thumb >> nth=0")
    page.wait_for_function("document.querySelector('.photo').alt === 'sample_1.png'")
    assert visit.ask()


def test_the_server_listens_to_this_machine_alone(page_server: PageServer) -> None:
    port = urlsplit(page_server.url).port
    assert port is not None
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    # Any other address of this machine stands for the network.
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=5).close()
