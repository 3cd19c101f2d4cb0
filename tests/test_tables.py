"""Tables: aligned, in text and in Markdown, whatever the cells are."""

import numpy as np

from flmm.tables import format_markdown, format_text, tabulate

RECORDS = [
    {"phrase": "the red circle", "score": np.float32(0.987), "area": 1200, "iou": None},
    {"phrase": "红色的圆", "score": float("nan"), "area": 7, "iou": 0.5},
]


def test_text_is_aligned_and_wide_letters_count_twice():
    assert format_text(tabulate(RECORDS)).splitlines() == [
        "phrase          score  area   iou",
        "--------------  -----  ----  ----",
        "the red circle   0.99  1200     -",
        "红色的圆            -     7  0.50",
    ]


def test_columns_of_words_stay_left_and_formatted_numbers_go_right():
    rows = [("name", "mask", "x"), ("long name", "refined", "1,200"), ("b", "coarse", "~9%")]
    assert format_text(rows).splitlines() == [
        "name       mask         x",
        "---------  -------  -----",
        "long name  refined  1,200",
        "b          coarse     ~9%",
    ]


def test_titles_choose_columns():
    assert tabulate(RECORDS, {"area": "area px", "none": "?"}) == [
        ["area px", "?"],
        [1200, None],
        [7, None],
    ]


def test_markdown_has_a_ruler_escapes_bars_and_keeps_a_cell_on_one_line():
    assert format_markdown([["a|b", "c"], ["d\n e", 1]]) == (
        "| a\\|b | c |\n| --- | ---: |\n| d e | 1 |"
    )


def test_no_records_are_no_table():
    assert tabulate([]) == []
    assert format_text([]) == format_markdown([]) == ""
