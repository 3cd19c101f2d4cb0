"""Which heads of a reader point: as its user says, as kept from before, or chosen without labels.

A choice is kept in the user's cache folder under the reader's name, sizes and weights. Choosing
itself is the duty of ``flmm.head_selection``.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from flmm.fingerprints import hash_json, hash_picture, sample_weights_hash
from flmm.head_choice import TINY, HeadChoice, load_head_choice
from flmm.head_selection import choose_heads
from flmm.images import load_any_image
from flmm.readers import FrozenVLM
from flmm.records import Continuation, ImageInput, as_continuations

ENOUGH_PICTURES = 8  # a choice from fewer is said to be a poor one
Item = tuple[ImageInput, list[Continuation]]


def find_heads(vlm: FrozenVLM, heads: Any, pictures: Sequence[Any] = ()) -> HeadChoice | None:
    """The heads of a reader, said in one line; ``None``: there are none yet.

    Args:
        heads: a choice, its JSON's path, or a list of (layer, head); ``None``: those kept or
            shipped for this reader, or chosen from ``pictures``.
        pictures: each a picture, which the reader describes itself, or a pair of a picture and its
            phrases. A choice that was kept from these very pictures is taken as it is.

    Raises:
        OSError: a file or a picture is not there.
        ValueError: the heads are none of this reader, or a file holds no choice.
    """
    if heads is None and not pictures and vlm.notice:
        heads = TINY  # the toy's come with the package
    if heads is not None:
        return _take(vlm, heads)
    path = find_kept_path(vlm)
    kept = _load_kept(path)
    name = describe_reader(vlm)
    if pictures:
        items = [_read_item(vlm, item) for item in pictures]
        if kept is None or not kept.source.endswith(_mark(items)):
            tell(f"no heads were chosen for {name} on these pictures yet: they are asked now")
            return choose_and_keep(vlm, items)
    if kept is None:
        tell(f"no heads were chosen for {name} yet: the first pictures that come choose them")
    else:
        tell(f"{describe_heads(kept)}, as kept in {path}")
    return kept


def choose_and_keep(vlm: FrozenVLM, items: Sequence[Item]) -> HeadChoice:
    """Heads chosen without labels from pictures and phrases; said, and kept for the next time."""
    choice = choose_heads(vlm, items)
    source = f"{choice.source} {_mark(items)}"
    choice = replace(choice, reader=describe_reader(vlm), source=source)
    path = find_kept_path(vlm)
    try:
        choice.save_json(path)
        kept = f"kept in {path}"
    except OSError as error:
        kept = f"not kept: {error}"
    tell(f"{describe_heads(choice)}, {kept}")
    if len(items) < ENOUGH_PICTURES:
        tell(
            f"few pictures to choose heads from ({len(items)}): name {ENOUGH_PICTURES} or more "
            "like yours (from_reader: pictures=, tools: --choose-from)",
            logging.WARNING,
        )
    return choice


def find_kept_path(vlm: FrozenVLM) -> Path:
    """Where a reader's choice is kept; ``XDG_CACHE_HOME`` moves the folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    model = vlm.model
    name = re.sub(r"[^\w.-]+", "_", Path(model.name_or_path).name) or model.config.model_type
    weights = sample_weights_hash(model)[:12]
    return cache / "flmm" / "heads" / f"{name}_{vlm.num_layers}x{vlm.num_heads}_{weights}.json"


def describe_heads(choice: HeadChoice) -> str:
    """A choice in words."""
    best = ", ".join(f"{layer}.{head}" for layer, head in choice.heads[:3])
    return (
        f"heads {best} (layer.head, the best) of {choice.reader}: {choice.method}, {choice.source}"
    )


def tell(text: str, level: int = logging.INFO) -> None:
    """Say it in the log, or in the terminal where there is none."""
    print_log(text, logger="current", level=level)


def describe_reader(vlm: FrozenVLM) -> str:
    """A reader's name, kind and sizes."""
    name = "the toy" if vlm.notice else Path(vlm.model.name_or_path).name
    return ", ".join(filter(None, [name, vlm.extra_repr()]))


def _take(vlm: FrozenVLM, heads: Any) -> HeadChoice:
    """The heads that a user names."""
    if isinstance(heads, (list, tuple)):
        sizes = vlm.num_layers, vlm.num_heads
        choice = HeadChoice(tuple(heads), *sizes, describe_reader(vlm), "by hand", "as given")
    else:
        choice = load_head_choice(heads)
    choice.check(vlm)
    tell(describe_heads(choice))
    if choice.reader and vlm.model.config.model_type not in choice.reader:
        tell(
            f"these heads were chosen for {choice.reader}, and the reader is "
            f"{describe_reader(vlm)}: masks may be poor",
            logging.WARNING,
        )
    return choice


def _load_kept(path: Path) -> HeadChoice | None:
    if not path.is_file():
        return None
    try:
        return load_head_choice(path)
    except ValueError as error:
        tell(f"{error}; it is passed over", logging.WARNING)
        return None


def _read_item(vlm: FrozenVLM, item: Any) -> Item:
    """A picture, or a pair of a picture and phrases, as the reader takes them."""
    picture, phrases = item if isinstance(item, tuple) else (item, [])
    image = vlm.image_processor.encode(load_any_image(picture))
    return image, as_continuations(phrases) if phrases else []


def _mark(items: Sequence[Item]) -> str:
    """A few digits that tell these pictures and phrases from others."""
    content = [(hash_picture(image.image), [vars(x) for x in texts]) for image, texts in items]
    return f"[{hash_json(content)[:8]}]"
