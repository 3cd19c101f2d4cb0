"""``tools/demo.py`` as a user calls it."""

import numpy as np
import pytest
from PIL import Image

from flmm.toy.shape_sentences import render_samples
from tests.forks import run_fork

pytestmark = pytest.mark.process


def run_demo(*arguments):
    return run_fork("tools/demo.py", "--device", "cpu", *arguments)


def test_samples_are_tabled_and_saved(tmp_path):
    done = run_demo("--out", tmp_path, "--samples", 2)
    assert done.returncode == 0, done.stderr
    for word in (
        "phrase",
        "score",
        "box (x0 y0 x1 y1)",
        "area",
        "IoU",
        "sample_1.png",
        "note: This is the toy",
    ):
        assert word in done.stdout
    for index in (1, 2):
        assert Image.open(tmp_path / f"sample_{index}.png").width > 4 * 180


def test_a_picture_of_ones_own(tmp_path):
    sample = render_samples(1, seed=3)[0]
    Image.fromarray(sample.image).save(tmp_path / "mine.png")
    done = run_demo(
        tmp_path / "mine.png", "--phrase", "red star", "--phrase", "左边", "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert "red star" in done.stdout and "左边" in done.stdout and "IoU" not in done.stdout
    panels = np.asarray(Image.open(tmp_path / "out" / "mine.png"))
    assert panels.std() > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.png", "--phrase", "star"), "no image file at 'missing.png'"),
        (("setup.py", "--phrase", "star"), "image setup.py cannot be read"),
        (("README.md",), "give both, or neither"),
        (("--config", "missing.py"), "missing.py"),
        (("--checkpoint", "missing.pth"), "checkpoint missing.pth does not exist"),
    ],
)
def test_mistakes_end_with_one_line(arguments, message, tmp_path):
    done = run_demo(*arguments, "--out", tmp_path)
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr
