"""Which heads of a reader point: a small JSON that travels beside frozen models.

Made by ``flmm.head_selection`` or by hand; read by mask heads that look at a few heads only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from flmm.files import replace_file
from flmm.tables import format_text

Head = tuple[int, int]
TINY = "tiny"
TINY_HEADS = Path(__file__).parent / "assets/tiny_heads.json"


class ReaderSizes(Protocol):
    """What a choice is compared with: a frozen reader's attention layers and heads."""

    @property
    def num_layers(self) -> int:
        """Attention layers."""

    @property
    def num_heads(self) -> int:
        """Heads of a layer."""


@dataclass(frozen=True)
class HeadChoice:
    """Heads of one reader, the most pointing first.

    Attributes:
        heads: (layer, head), both counted from 0.
        num_layers, num_heads: of the reader.
        reader: which one, in words.
        method: how they were chosen: "labels", "no labels" or "by hand".
        source: on what.
        figures: what was measured of them: by name, one per head.
        chance: of a figure, that of attention which is the same everywhere.

    Raises:
        ValueError: there is no head, one is named twice, or one lies outside the reader.
    """

    heads: tuple[Head, ...]
    num_layers: int
    num_heads: int
    reader: str = ""
    method: str = "by hand"
    source: str = ""
    figures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        heads = tuple((int(layer), int(head)) for layer, head in self.heads)
        object.__setattr__(self, "heads", heads)
        if not heads:
            raise ValueError("a choice of heads names none: give at least one (layer, head)")
        for place, (layer, head) in enumerate(heads):
            if not (0 <= layer < self.num_layers and 0 <= head < self.num_heads):
                raise ValueError(
                    f"head {head} of layer {layer} is outside of the reader, which has "
                    f"{self.num_layers} layers of {self.num_heads} heads, counted from 0: choose "
                    "heads of this reader"
                )
            if (layer, head) in heads[:place]:
                raise ValueError(f"head {head} of layer {layer} is chosen twice: name it once")
        short = [name for name, values in self.figures.items() if len(values) != len(heads)]
        if short:
            raise ValueError(f"the figures {short[0]} are not one for each of {len(heads)} heads")

    @property
    def layers(self) -> int:
        """How many of the reader's first layers hold all of the heads."""
        return 1 + max(layer for layer, _ in self.heads)

    def best(self, count: int) -> HeadChoice:
        """The first so many heads; all where there are fewer."""
        if count < 1:
            raise ValueError(f"{count} best heads are asked for: give 1 or more")
        figures = {name: values[:count] for name, values in self.figures.items()}
        return replace(self, heads=self.heads[:count], figures=figures)

    def list_channels(self) -> list[int]:
        """Their places among the channels ``l*A + a`` of attention maps of one grid."""
        return [layer * self.num_heads + head for layer, head in self.heads]

    def check(self, reader: ReaderSizes) -> None:
        """Raise ValueError where the choice is of a reader of another shape."""
        if (reader.num_layers, reader.num_heads) != (self.num_layers, self.num_heads):
            raise ValueError(
                f"the heads were chosen for a reader of {self.num_layers} layers x "
                f"{self.num_heads} heads ({self.reader or 'not named'}), and this one has "
                f"{reader.num_layers} x {reader.num_heads}: choose heads for it with "
                "tools/rank_heads.py"
            )

    def check_channels(self, count: int | None) -> None:
        """Raise ValueError where maps of so many channels do not hold the heads' layers."""
        least = self.layers * self.num_heads
        if count is not None and count < least:
            raise ValueError(
                f"the chosen heads need {least} channels, and the reader gives {count}: choose "
                "heads for this reader with tools/rank_heads.py"
            )

    def format_table(self, count: int = 20) -> str:
        """The best heads with their figures as a plain-text table, chance as the last row."""
        rows: list[list[Any]] = [["rank", "layer", "head", *self.figures]]
        for place, head in enumerate(self.heads[:count]):
            rows.append([place + 1, *head, *(f"{own[place]:.3f}" for own in self.figures.values())])
        if self.chance:
            chance = (self.chance.get(name) for name in self.figures)
            told = ("" if value is None else f"{value:.3f}" for value in chance)
            rows.append(["-", "chance", "", *told])
        return format_text(rows)

    def save_json(self, path: str | Path) -> Path:
        """Write everything; :func:`load_head_choice` reads it."""
        replace_file(path, f"{json.dumps(asdict(self), indent=1)}\n".encode())
        return Path(path)


def load_head_choice(given: str | Path | HeadChoice | Mapping[str, Any]) -> HeadChoice:
    """What :meth:`HeadChoice.save_json` wrote, its fields, or a choice as it is.

    ``"tiny"`` is the choice of the embedded reader's heads, made without labels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no choice of heads.
    """
    if isinstance(given, HeadChoice):
        return given
    given = TINY_HEADS if given == TINY else given
    try:
        if isinstance(given, (str, Path)):
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        return HeadChoice(**given)  # type: ignore[arg-type]  # TypeError: other fields
    except FileNotFoundError:
        raise FileNotFoundError(
            f"head choice {given} does not exist: make one with tools/rank_heads.py"
        ) from None
    except (TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{given} is no choice of heads ({error}): make one with tools/rank_heads.py"
        ) from error


def rank_choice(
    figures: Mapping[str, Sequence[float]],
    marks: Sequence[float],
    sizes: ReaderSizes,
    **fields: Any,
) -> HeadChoice:
    """All heads of a reader, those with the highest marks first.

    Args:
        figures: by name, one per channel ``l*A + a``.
        marks: one per channel.
        fields: the choice's others.
    """
    order = sorted(range(len(marks)), key=lambda channel: -marks[channel])
    return HeadChoice(
        heads=tuple((channel // sizes.num_heads, channel % sizes.num_heads) for channel in order),
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        figures={name: [values[channel] for channel in order] for name, values in figures.items()},
        **fields,
    )
