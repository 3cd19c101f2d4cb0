"""The HTML page in a real headless Chromium, without a network."""

import shutil

import numpy as np
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.process

# Of a heat map's canvas the opacity of the pixel at the centre of each cell, read from a copy:
# Chromium complains of a canvas that is read again and again.
READ_CELLS = """(canvas, [rows, columns]) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  return Array.from({length: rows * columns}, (_, cell) => {
    const x = Math.floor((cell % columns + 0.5) * canvas.width / columns);
    const y = Math.floor((Math.floor(cell / columns) + 0.5) * canvas.height / rows);
    return pixels[4 * (y * canvas.width + x) + 3];
  });
}"""

SIZES = {"laptop": (1280, 800), "phone": (390, 844)}
on_both = pytest.mark.parametrize(
    "page",
    [
        pytest.param(SIZES["laptop"], id="laptop"),
        pytest.param(SIZES["phone"], id="phone", marks=pytest.mark.heavy),
    ],
    indirect=True,
)


@pytest.fixture(scope="module")
def page_file(explanation, tmp_path_factory):
    circle = explanation.ground("red circle", image=1)
    return explanation.save_html(tmp_path_factory.mktemp("page") / "page.html", [circle])


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium to open the page with")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, page_file, request):
    """The opened page; at its end it must have complained of nothing and asked for nothing."""
    width, height = getattr(request, "param", SIZES["laptop"])
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(120_000)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]


def read_cells(page, explanation, image):
    """``[h, w]`` opacities of the heat over a picture."""
    grid = explanation.maps[image].shape[1:]
    values = page.locator("canvas.heat").nth(image).evaluate(READ_CELLS, list(grid))
    return np.array(values).reshape(grid)


def drag_box(page, image, box, size):
    """Draw a box, given in pixels of the picture, with the mouse; return what was really drawn."""
    area = page.locator(".frame").nth(image).bounding_box()
    scale = area["width"] / size[1]
    corners = [round(area["xy"[at % 2]] + edge * scale) for at, edge in enumerate(box)]
    page.mouse.move(*corners[:2])
    page.mouse.down()
    page.mouse.move(*corners[2:], steps=4)
    page.mouse.up()
    return [(corner - area["xy"[at % 2]]) / scale for at, corner in enumerate(corners)]


@on_both
def test_a_click_on_a_token_shows_its_maps(page, explanation):
    assert not read_cells(page, explanation, 0).any()
    index = explanation.find("red circle")[0][0]
    page.locator(".answer .token", has_text="red").last.click()
    page.mouse.move(1, 1)
    for image in (0, 1):
        shown, grid = read_cells(page, explanation, image), explanation.token_maps(index)[image]
        # Opacity grows with the weight, from the weakest cell to the strongest.
        strength = (grid - grid.min()) / np.ptp(grid)
        np.testing.assert_allclose(shown, 50 + 165 * strength, atol=0.12 * 165)
        assert shown.argmax() == grid.argmax()
    share = explanation.token_maps(index)[1].sum()
    assert f"{100 * share:.0f} % on picture 1" in page.locator("#panel").inner_text()
    page.keyboard.press("Escape")
    assert not read_cells(page, explanation, 0).any()


def test_hovering_shows_a_token_for_as_long_as_it_lasts(page, explanation):
    start = explanation.find("red circle")[0][0]
    page.locator(".answer .token", has_text="red").last.hover()
    assert read_cells(page, explanation, 1).argmax() == explanation.token_maps(start)[1].argmax()
    page.mouse.move(1, 1)
    assert not read_cells(page, explanation, 1).any()


def test_a_token_of_the_first_turn_shows_nothing_on_the_later_picture(page, explanation):
    page.locator(".question .token", has_text="Please").click()
    assert read_cells(page, explanation, 0).any() and not read_cells(page, explanation, 1).any()


def test_shift_and_arrows_choose_more_tokens(page, explanation):
    start, end = explanation.find("red circle")[0]
    page.locator(".answer .token", has_text="red").last.click()
    page.locator(".answer .token", has_text="circle").last.click(modifiers=["Shift"])
    page.mouse.move(1, 1)
    assert "".join(page.locator(".token.chosen").all_inner_texts()) == "redcircle"
    merged = explanation.token_maps((start, end))[1]
    assert read_cells(page, explanation, 1).argmax() == merged.argmax()
    page.locator(".answer .token", has_text="red").last.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".token.chosen").all_inner_texts() == ["circle"]


@on_both
def test_a_drawn_box_lists_the_tokens_that_look_there(page, explanation):
    size = explanation.images[1].shape[:2]
    box = drag_box(page, 1, [0.2 * size[1], 0.3 * size[0], 0.7 * size[1], 0.8 * size[0]], size)
    ranked = explanation.rank_tokens(1, box=box)
    shown = page.locator("#panel .rank .figure").all_inner_texts()
    wanted = [item for item in ranked if item.token.text.strip()][:5]
    figures = [float(text.removesuffix(" %")) for text in shown]
    assert figures == sorted(figures, reverse=True) and len(figures) == 12
    listed = list(zip(page.locator("#panel .rank b").all_inner_texts(), figures))
    for item in wanted:
        near = [text for text, figure in listed if abs(figure - 100 * item.excess) < 0.2]
        assert item.token.text.strip() in [text.strip() for text in near]
    page.locator("#panel .rank").first.click()
    assert page.locator(".token.chosen").count() == 1


def test_keys_draw_a_box(page, explanation):
    height, width = explanation.images[1].shape[:2]
    page.locator(".frame").nth(1).focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowRight"):
        page.keyboard.press(key)
    step_x, step_y = width / 40, height / 40
    box = [width / 3, height / 3 - step_y, 2 * width / 3 + step_x, 2 * height / 3 - step_y]
    ranked = explanation.rank_tokens(1, box=box)
    shown = page.locator("#panel .rank .figure").first.inner_text()
    assert float(shown.removesuffix(" %")) == pytest.approx(100 * ranked[0].excess, abs=0.1)
    assert page.locator(".frame .box").nth(1).evaluate("box => box.style.visibility") == "visible"
    page.keyboard.press("Escape")
    assert page.locator("#panel .rank").count() == 0


@on_both
def test_no_rule_of_accessibility_is_broken(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="of the extra 'dev'")
    page.locator(".answer .token").first.click()
    assert axe.Axe().run(page).generate_snapshot() == ""
    page.emulate_media(forced_colors="active")
    page.locator(".chip").first.click()
    assert axe.Axe().run(page).generate_snapshot() == ""


def test_a_phone_on_its_side_shows_picture_and_words(page):
    page.set_viewport_size({"width": 667, "height": 375})
    page.locator(".answer .token").first.click()
    talk, picture = (page.locator(part).first.bounding_box() for part in ("#talk", ".frame"))
    assert picture["height"] > 80 and picture["x"] + picture["width"] <= talk["x"]  # side by side
    assert talk["y"] < 60


@on_both
def test_a_click_on_a_picture_chooses_the_cell(page, explanation):
    area = page.locator(".frame").first.bounding_box()
    rows, columns = explanation.maps[0].shape[1:]
    page.mouse.click(
        area["x"] + 1.5 * area["width"] / columns, area["y"] + 2.5 * area["height"] / rows
    )
    mask = page.locator("#panel p").inner_text()
    assert f"{100 / (rows * columns):.1f} %" in mask


def test_a_phrase_is_a_region(page, explanation):
    circle = explanation.ground("red circle", image=1)
    page.locator(".chip", has_text="red circle").click()
    page.mouse.move(1, 1)
    first = explanation.rank_tokens(1, mask=circle.mask)[0]
    shown = page.locator("#panel .rank .figure").first.inner_text()
    assert float(shown.removesuffix(" %")) == pytest.approx(100 * first.excess, abs=0.1)
    assert page.locator(".mask").nth(1).evaluate("mask => mask.naturalWidth") > 1


@on_both
def test_text_is_text_and_nothing_sticks_out(page, explanation):
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 2 and page.locator("#talk img, #talk b").count() == 0
    for role, texts in (
        ("question", [turn.question for turn in explanation.turns]),
        ("answer", [turn.text for turn in explanation.turns]),
    ):
        assert page.locator(f".said.{role}").all_text_contents() == texts
    page.locator(".answer .token").first.click()
    assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")


def test_it_opens_on_the_word_that_was_asked_for(browser, explanation, tmp_path):
    span = explanation.find("red circle")[0]
    path = explanation.save_html(tmp_path / "page.html", words=span)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(path.as_uri())
    assert "".join(page.locator(".token.chosen").all_inner_texts()) == "redcircle"
    merged = explanation.token_maps(span)[1]
    assert read_cells(page, explanation, 1).argmax() == merged.argmax()
    assert "red circle" in page.inner_text("#panel")
    for _ in range(4):  # grid cells, two pictures, the words
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "red"  # the keys go on from there
    page.close()


def test_the_toy_is_said_beside_every_answer(page, explanation):
    notices = page.locator(".turn .notice").all_inner_texts()
    assert notices == [explanation.notice] * len(explanation.turns) and "toy" in notices[0]


def test_the_file_needs_nothing_else(page_file):
    text = page_file.read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "{{" not in text
    assert text.count("<script") == 2 and "window.hacked" not in text.split('id="data">')[0]
