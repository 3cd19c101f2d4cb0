"""Captions and their phrases: the real record's schema, and texts that differ from their parts."""

import json
from pathlib import Path

import pytest

from flmm.data.png import find_spans, parse_narrative


def cut(caption: str, utterances: list[str]) -> list[str | None]:
    spans = find_spans(caption, utterances)
    return [None if span is None else caption[slice(*span)] for span in spans]


def test_the_real_record(data_dir: Path) -> None:
    record = json.loads((data_dir / "png/png_coco_record.json").read_text())[0]
    narrative = parse_narrative(record, "record")
    assert narrative.image_id == 226461
    assert narrative.caption == record["caption"]
    phrases = [narrative.caption[slice(*phrase.span)] for phrase in narrative.phrases]
    assert phrases == ["black bear", "tree"]
    assert [phrase.segment_ids for phrase in narrative.phrases] == [(1648163,), (3165766,)]
    assert not any(phrase.plural for phrase in narrative.phrases)
    whole = cut(record["caption"], [item["utterance"] for item in record["segments"]])
    assert whole[0] == "In this" and whole[-1] == "."


def test_a_word_is_found_at_its_own_place() -> None:
    assert find_spans(
        "A tree, a street and a tree.", ["a", "tree", ", a street and a", "tree"]
    ) == [
        (0, 1),
        (2, 6),
        (6, 22),
        (23, 27),
    ]


@pytest.mark.parametrize(
    ("caption", "utterances", "expected"),
    [
        ("I don't see  TWO\ndogs .", ["i do n't see", "two dogs", "."], [1, "TWO\ndogs", 1]),
        ('A "stop" sign here', ["a", "`` stop '' sign", "here"], [1, 'stop" sign', 1]),
        ("There are two dogs.", ["there is", "two dogs", "."], [None, "two dogs", 1]),
        ("Two dogs, one cat", ["two dogs", "and", "one cat"], ["Two dogs", None, "one cat"]),
        (
            "狗 and a café, 50 % off",
            ["狗", "and a", "CAFÉ", ",", "50 %"],
            ["狗", 1, "café", 1, "50 %"],
        ),
        ("İstanbul has a bridge", ["i̇stanbul", "has a", "bridge"], ["İstanbul", 1, "bridge"]),
        ("A man in a colour shirt", ["a man in a", "color shirt"], [1, None]),
        ("A dog", ["a", "cat"], [1, None]),
        ("A dog & a cat", ["a dog", "&", "a cat", ""], [1, "&", "a cat", None]),
    ],
)
def test_case_spaces_and_small_differences(
    caption: str, utterances: list[str], expected: list[str | int | None]
) -> None:
    for found, wanted in zip(cut(caption, utterances), expected, strict=True):
        assert found is not None if wanted == 1 else found == wanted


def test_what_is_no_narrative_is_told() -> None:
    good = {"image_id": "7", "caption": "A dog", "segments": []}
    with pytest.raises(ValueError, match="narrative 3 has no field 'caption'"):
        parse_narrative({"image_id": "7"}, "png.json: narrative 3")
    with pytest.raises(ValueError, match="narrative 3 is a str, not a dict"):
        parse_narrative("text", "png.json: narrative 3")
    with pytest.raises(ValueError, match="narrative 3: image_id holds 'x7', which is no number"):
        parse_narrative(good | {"image_id": "x7"}, "png.json: narrative 3")
    segment = {"utterance": "dog", "segment_ids": ["1a"], "plural": False}
    with pytest.raises(ValueError, match="segment_ids holds '1a', which is no number"):
        parse_narrative(good | {"segments": [segment]}, "narrative 0")
    with pytest.raises(ValueError, match="narrative 0: a segment has no field 'plural'"):
        parse_narrative(
            good | {"segments": [{"utterance": "dog", "segment_ids": []}]}, "narrative 0"
        )
