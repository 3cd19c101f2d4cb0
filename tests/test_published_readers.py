"""The reader of every leaf at its published size, on the meta device, and docs/readers.md."""

from pathlib import Path

import pytest

from flmm.masks import UNetHead
from flmm.readers.families import FAMILIES
from flmm.readers.overview import (
    FAMILY_TITLES,
    SIZE_TITLES,
    build_published,
    describe_size,
    find_kind_of,
    list_families,
    list_kinds,
    measure,
    round_up,
)
from flmm.readers.published_sizes import PUBLICATIONS
from flmm.tables import format_markdown

PAGE = (Path(__file__).parents[1] / "docs" / "readers.md").read_text(encoding="utf-8")


def list_lines(*rows: list) -> list[str]:
    """Of a Markdown table, without the line below its header."""
    lines = format_markdown(rows).splitlines()
    return [lines[0], *lines[2:]]


def count_rows(title: str) -> int:
    """Of the page's table under a heading."""
    lines = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0].splitlines()
    return sum(line.startswith("|") for line in lines) - 2


# The first of each type; further sizes are more of the same.
FIRST = {find_kind_of(name): name for name in reversed(list(PUBLICATIONS))}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.heavy] * (name not in FIRST.values()))
        for name in PUBLICATIONS
    ],
)
def test_a_published_size_builds_with_its_mask_head_and_is_on_the_page(name: str) -> None:
    """As many parameters as the hub counts, or (``counted_here``) as at the last time."""
    vlm = build_published(name)
    count = sum(weight.numel() for weight in vlm.model.parameters())
    assert count == pytest.approx(PUBLICATIONS[name].parameters, rel=0.02)
    assert vlm.num_channels == vlm.num_layers * vlm.num_heads * vlm.num_grids
    head = UNetHead(in_channels=vlm.num_channels, normalize_input=True, upsample_input=64)
    assert head.encoder[0][0].convs[0].conv.in_channels == vlm.num_channels
    assert list_lines(SIZE_TITLES, describe_size(name, vlm))[1] in PAGE


def test_the_page_has_every_family_and_nothing_else() -> None:
    assert {FAMILIES[kind] for kind in list_kinds()} == set(FAMILIES.values())
    families = list_families()
    for line in list_lines(FAMILY_TITLES, *families):
        assert line in PAGE
    assert all(row[FAMILY_TITLES.index("special")] for row in families)
    assert count_rows("Families") == len(families)
    assert count_rows("Published sizes") == len(PUBLICATIONS)
    assert count_rows("Measured") == len(list_kinds())


@pytest.mark.heavy
@pytest.mark.parametrize("kind", list_kinds())
def test_each_is_as_exact_as_the_page_says(kind: str) -> None:
    _, measured, _ = measure(kind)
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {kind} |"))
    assert max(float(measured), float(line.split(" | ")[1])) <= 1e-5


def test_differences_are_rounded_up_to_a_power_of_ten() -> None:
    assert [round_up(value) for value in (2e-7, 1.2e-6, 0.0)] == ["1e-06", "1e-05", "1e-12"]
