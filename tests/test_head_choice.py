"""The record of chosen heads: what is refused, what comes back, how it is told."""

import json
from types import SimpleNamespace

import pytest

from flmm.head_choice import HeadChoice, load_head_choice, rank_choice

SIZES = SimpleNamespace(num_layers=2, num_heads=3)


@pytest.fixture
def choice():
    figures = {"inside_share": [0.1, 0.2, 0.6, 0.3, 0.5, 0.4], "hit_rate": [0, 1, 2, 3, 4, 5]}
    return rank_choice(
        figures, figures["inside_share"], SIZES, reader="toy", chance={"inside_share": 0.25}
    )


def test_heads_are_ranked_by_their_marks(choice):
    assert choice.heads == ((0, 2), (1, 1), (1, 2), (1, 0), (0, 1), (0, 0))
    assert choice.figures["hit_rate"] == [2, 4, 5, 3, 1, 0]
    best = choice.best(2)
    assert best.heads == ((0, 2), (1, 1)) and best.figures["inside_share"] == [0.6, 0.5]
    assert (best.layers, choice.best(1).layers, best.list_channels()) == (2, 1, [2, 4])
    with pytest.raises(ValueError, match="0 best heads are asked for"):
        choice.best(0)
    lines = choice.format_table(2).splitlines()
    assert lines[0].split() == ["rank", "layer", "head", "inside_share", "hit_rate"]
    assert len(lines) == 2 + 2 + 1 and "chance" in lines[-1] and "0.250" in lines[-1]


def test_json_comes_back(choice, tmp_path):
    path = choice.save_json(tmp_path / "new" / "heads.json")
    assert load_head_choice(path) == choice == load_head_choice(json.loads(path.read_text()))
    assert load_head_choice(choice) is choice


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(heads=()), "a choice of heads names none"),
        (dict(heads=[(2, 0)]), "head 0 of layer 2 is outside of the reader"),
        (dict(heads=[(0, 3)]), "head 3 of layer 0 is outside of the reader"),
        (dict(heads=[(0, 1), (0, 1)]), "head 1 of layer 0 is chosen twice"),
        (dict(heads=[(0, 1)], figures={"hit_rate": [1, 2]}), "figures hit_rate are not one for"),
    ],
)
def test_choices_of_no_reader_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HeadChoice(**fields, num_layers=2, num_heads=3)


def test_another_reader_and_other_files_are_refused(choice, tmp_path):
    choice.check(SIZES)
    with pytest.raises(ValueError, match=r"chosen for a reader of 2 layers x 3 heads \(toy\)"):
        choice.check(SimpleNamespace(num_layers=3, num_heads=3))
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        load_head_choice(tmp_path / "none.json")
    for text in ("[1]", "{", '{"heads": 3}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match="is no choice of heads"):
            load_head_choice(tmp_path / "other.json")
