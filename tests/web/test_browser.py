"""The page in a real headless Chromium: a visit, a phone, two browsers, bad uploads.

The pictures of README and docs are the first test's own:

    FLMM_SCREENSHOTS=docs/images python -m pytest -n 0 tests/web/test_browser.py -k visit
"""

from __future__ import annotations

import io
import itertools
import json
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

from flmm.apps.web.pictures import clean_name
from tests.web.bad_uploads import list_bad_uploads
from tests.web.conftest import ROOT, PageServer
from tests.web.page_requests import ask, send

pytestmark = pytest.mark.process

SCENE = ROOT / "docs/images/scene.png"
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 780}


class Visit:
    """A browser of its own on the page, and what went wrong in it."""

    def __init__(self, browser: Any, server: PageServer, viewport: dict, **options: Any) -> None:
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
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
        if message.type == "error":
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
        expect = pytest.importorskip("playwright.sync_api").expect
        expect(self.page.locator(layer)).to_have_css("opacity", "1")

    def see(self) -> np.ndarray:
        """The picture with what lies on it, as the visitor sees it: float ``[H, W, 3]``."""
        return see(self.page.locator(".canvas"))

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


def see(locator: Any) -> np.ndarray:
    """A part of the page as it is painted: float ``[H, W, 3]``."""
    shot = locator.screenshot(animations="disabled")
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(float)


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
    assert "Traceback" not in page_server.process.text


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
    page.wait_for_selector(".turn >> nth=1", state="detached")

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


def list_violations(page: Any) -> str:
    """What axe-core complains about, a line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="of the extra 'dev'")
    return axe.Axe().run(page).generate_snapshot()


def test_keys_alone_and_colours_of_ones_own(visits: Any) -> None:
    visit = visits(forced_colors="active")
    page = visit.page
    page.focus(".thumb >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector(".canvas:visible")
    visit.ask()

    # There are no colours left to tell the phrases apart; their numbers do, in the text and below.
    assert np.ptp(see(page.locator(".answer")), axis=2).max() < 60
    style = "(node, name) => getComputedStyle(node, '::after')[name]"
    ends = page.locator(".answer [data-number]")
    numbers = [ends.nth(at).evaluate(style, "content") for at in range(ends.count())]
    chips = page.locator(".chip b").all_inner_texts()
    assert numbers == [f'"{text}"' for text in chips] and len({*chips}) == len(chips) > 2

    # One stop of the Tab key, then arrows; a word of a phrase lights its mask, Enter looks.
    page.focus("textarea")
    while page.evaluate("!document.activeElement.matches('.answer .token')"):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".spot.on")
    word = page.evaluate("document.activeElement.textContent")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector(".heat.on")
    assert f"Where “{word}” looks" in page.inner_text(".finding")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.keyboard.press("End")
    last = page.locator(".answer .token").last
    assert last.evaluate("node => node === document.activeElement")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.chip')")
    page.wait_for_selector(".chip.lit >> nth=0")

    # A box: arrows move it, with Shift they size it, Enter finds the words.
    page.focus(".canvas")
    boxes = []
    for key in ("ArrowRight", "ArrowLeft", "Shift+ArrowDown"):
        page.keyboard.press(key)
        boxes.append(page.evaluate("[...'xywh'].map((_, at) => state.drawn[at])"))
    width, height = page.evaluate("[state.picture.width, state.picture.height]")
    first = [width / 3, height / 3, 2 * width / 3, 2 * height / 3]
    assert boxes[0] == pytest.approx(first)
    step = width / 40
    assert boxes[1] == pytest.approx([first[0] - step, first[1], first[2] - step, first[3]])
    assert boxes[2] == pytest.approx([*boxes[1][:3], first[3] + height / 40])
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate("state.drawn[0]") == 0  # the picture's edge holds it
    assert "Enter finds the words" in page.inner_text(".finding")
    page.keyboard.press("Enter")
    page.wait_for_selector(".words li")
    assert page.is_visible(".box") and list_violations(page) == ""
    page.keyboard.press("Escape")
    assert page.is_hidden(".box")


def test_every_part_keeps_its_room(visits: Any) -> None:
    """Laptop, the same at 200 %, and a phone both ways: nothing is hidden or squeezed."""
    visit = visits()
    page = visit.page
    page.set_input_files(".upload input", SCENE)
    page.wait_for_selector(".canvas:visible")
    visit.ask()
    assert "toy" in page.inner_text(".turn .notice") and list_violations(page) == ""
    page.click(".options summary")
    for size in (LAPTOP, {"width": 640, "height": 400}, {"width": 667, "height": 375}):
        page.set_viewport_size(size)
        page.evaluate("tell('A message that says something about the picture.')")
        boxes = {
            part: page.locator(part).bounding_box()
            for part in (".shelf", ".frame", ".bar", ".finding", ".turns", ".composer", ".go")
        }
        for part, box in boxes.items():
            assert box["x"] >= 0 and box["x"] + box["width"] <= size["width"], (part, size)
            assert box["y"] >= 0 and box["y"] + box["height"] <= size["height"], (part, size)
        for column in ((".shelf", ".frame", ".bar", ".finding"), (".turns", ".composer")):
            for above, below in itertools.pairwise(column):
                end = boxes[above]["y"] + boxes[above]["height"]
                assert end <= boxes[below]["y"] + 1, (above, below, size)
        assert boxes[".turns"]["height"] >= 110 and boxes[".frame"]["height"] >= 110, size
        assert boxes[".finding"]["height"] >= 50 and boxes[".composer"]["height"] >= 45, size
    page.set_viewport_size(PHONE)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    stage, composer = (page.locator(part).bounding_box() for part in (".stage", ".composer"))
    assert composer["y"] - stage["y"] - stage["height"] >= 150  # of the conversation between them


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
    # A new tab of the same browser knows nothing; the others go on where they were.
    tab = anna.context.new_page()
    tab.goto(anna.page.url)
    tab.wait_for_selector(".flmm .thumb")
    ben.ask("what is left?")
    assert not tab.is_visible(".canvas") and tab.locator(".turn").count() == 0
    assert ben.page.locator(".turn").count() == 2 and anna.page.locator(".turn").count() == 1


def test_a_lost_connection_loses_nothing(visits: Any) -> None:
    """Cut off in the middle of an answer, and loaded anew in the middle of the next."""
    visit = visits()
    page = visit.page
    page.click(".thumb >> nth=1")
    page.wait_for_selector(".canvas:visible")
    page.route("**/read", lambda route: route.abort("connectionfailed"))  # once it is asked
    page.press("textarea", "Enter")
    page.wait_for_selector(".message.error:not([hidden]) >> text=connection is lost")
    assert page.locator(".draft").count() == 1 and page.is_visible(".stop")
    page.unroute("**/read")
    page.wait_for_selector(".turn:not(.draft)")
    page.wait_for_selector(".flmm:not(.busy)")
    assert page.is_hidden(".message") and page.locator(".chip").count() > 0
    answer = page.inner_text(".answer")

    page.fill("textarea", "what is left?")
    page.press("textarea", "Enter")
    page.wait_for_selector(".draft")
    page.reload()
    page.wait_for_selector(".turn:not(.draft) >> nth=1")
    assert page.inner_text(".answer >> nth=0") == answer and visit.ask("what is right?")
    visit.faults = [text for text in visit.faults if "ERR_CONNECTION_FAILED" not in text]


UPLOADS = ("empty", "markup", "truncated JPEG", "PNG bomb", "large file", "moving GIF", "turned")
NAMED = ("path", "markup as name", "long name")


@pytest.mark.heavy
def test_bad_uploads_are_answered_and_the_page_goes_on(visits: Any) -> None:
    """Some of each kind; tests/web/test_pictures.py has all."""
    visit = visits()
    page = visit.page
    items = [item for item in list_bad_uploads() if item.label in UPLOADS + NAMED]
    assert len(items) == len(UPLOADS + NAMED)
    for item in items:
        page.set_input_files(
            ".upload input",
            {"name": Path(item.name).name, "mimeType": "image/png", "buffer": item.data},
        )
        shown = f".photo[alt={json.dumps(clean_name(item.name), ensure_ascii=False)}]"
        fault = f".message.error:not([hidden]) >> text={item.answer}"
        page.wait_for_selector(shown if item.answer is None else fault)
        page.wait_for_selector(".flmm:not(.busy)")
        assert "Traceback" not in page.inner_text("body")
        page.evaluate("document.querySelector('.message').hidden = true")
    page.click(".thumb >> nth=0")
    page.wait_for_selector(".photo[alt='sample_1.png']")
    assert visit.ask()


def test_the_server_listens_to_this_machine_alone(page_server: PageServer) -> None:
    port = urlsplit(page_server.url).port
    assert port is not None
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    # Any other address of this machine stands for the network.
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=5).close()
