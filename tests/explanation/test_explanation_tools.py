"""``tools/explain.py`` and ``tools/rank_heads.py`` as a user calls them."""

import io
import json
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from PIL import Image

from flmm.head_choice import load_head_choice
from flmm.toy.shape_files import write_dataset

ASK = "Please give me a description of the image."


@pytest.fixture(scope="module")
def run():
    """Run a tool in this process (to start another takes seconds): exit code and what it said."""

    def call(name, *arguments):
        said = io.StringIO()
        argv = [f"tools/{name}.py", "--device", "cpu", *map(str, arguments)]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
            patch.setattr(sys, "argv", argv)
            try:
                runpy.run_path(argv[0], run_name="__main__")
            except SystemExit as end:
                return 1, f"{said.getvalue()}{end.code}"
        return 0, said.getvalue()

    return call


@pytest.fixture(scope="module")
def heads(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    write_dataset(folder / "shapes", 16, seed=5, workers=1)
    data, out = ("--data", folder / "shapes"), ("--out", folder / "heads.json")
    code, text = run("rank_heads", *data, *out, "--top", 3)
    assert code == 0, text
    return text, folder / "heads.json"


def test_heads_are_tabled_and_saved(heads):
    text, path = heads
    assert "inside_share" in text and "chance" in text and str(path) in text
    choice = load_head_choice(path)
    assert len(choice.heads) == 30 and choice.source in text and ", 0 skipped" in text
    assert f"{choice.figures['inside_share'][0]:.3f}" in text


def test_heads_are_found_without_labels_and_named_by_hand(run, tmp_path):
    out = ("--out", tmp_path / "heads.json")
    own = ("--pictures", "docs/images/scene.png", "--phrases", "the red triangle", "a square")
    code, text = run("rank_heads", "--method", "none", *own, "--count", 5, *out)
    assert code == 0 and "no labels: 2 phrases of 1 pictures" in text
    assert len(load_head_choice(out[1]).heads) == 5
    code, text = run("rank_heads", "--method", "hand", "--heads", "3,1", "2,4", *out)
    assert code == 0 and load_head_choice(out[1]).heads == ((3, 1), (2, 4))


def test_a_conversation_is_explained(run, heads, tmp_path):
    code, said = run(
        *("explain", "docs/images/scene.png", "--ask", ASK, "--begin", "a", "--word", "triangle"),
        *("--box", 113, 9, 211, 110, "--heads", heads[1], "--top", 4, "--out", tmp_path),
    )
    assert code == 0, said
    for text in (
        ASK,
        "note:     This is the toy",
        "triangle",
        "score",
        "looking at the box 113 9 211 110",
        "excess %",
    ):
        assert text in said
    report = json.loads((tmp_path / "scene.json").read_text(encoding="utf-8"))
    assert len(report["heads"]) == 4 and report["turns"][0]["question"] == ASK
    for name in ("scene.png", "scene_words.png", "scene_box_1.png"):
        assert str(tmp_path / name) in said and Image.open(tmp_path / name).width > 600
    assert report["notice"].startswith("This is the toy")
    page = (tmp_path / "scene.html").read_text(encoding="utf-8")
    assert "<script" in page and '"opened":[' in page  # on the word


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("explain", ("none.png", "--ask", ASK), "none.png"),
        (
            "explain",
            ("docs/images/scene.png", "--ask", ASK, "--heads", "none.json"),
            "head choice none.json does not exist",
        ),
        ("rank_heads", ("--data", "none"), "none/refs(unc).p does not exist"),
        ("rank_heads", ("--method", "hand", "--heads", "5,0"), "head 0 of layer 5 is outside of"),
    ],
)
def test_mistakes_end_with_one_line(run, name, arguments, message, tmp_path):
    code, said = run(name, *arguments, "--out", tmp_path / "out")
    assert code == 1 and message in said and "Traceback" not in said
