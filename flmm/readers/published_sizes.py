"""Published sizes of models without their weights: what speed and memory depend on.

A reader takes such a folder with ``random_init=True``; its masks mean nothing. Where no processor
is given, one is made without a download, around the embedded tokenizer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from flmm.readers.loading import TINY_FOLDER, load_processor
from flmm.readers.stand_ins import find_stand_in


@dataclass(frozen=True)
class Publication:
    """What is said of a size on the hub.

    Attributes:
        hub_ids: of the models that have it, which differ in weights alone; the first is meant where
            one is.
        parameters: as many as the hub counts, which rounds to three digits.
        paper: its number on arXiv; empty: none is known.
        counted_here: the number of parameters is that of the model as built here: no published
            count was at hand, or it counts what is not loaded (an audio tower, layers that predict
            further tokens).
    """

    hub_ids: Sequence[str]
    parameters: int
    paper: str = ""
    counted_here: bool = False


# Source: config.json of each model where it could be had, else its paper, its page or the defaults
# and converters of transformers; the number of parameters backs them. "width-1024" is no published
# model, but one that fits a small machine; its vision tower takes the same share of the work as
# that of a 7B model.
PUBLISHED_SIZES: dict[str, dict[str, Any]] = {
    name: values
    for path in sorted((TINY_FOLDER.parent / "published_sizes").glob("*.json"))
    for name, values in json.loads(path.read_text(encoding="utf-8")).items()
}
_SAID = [field.name for field in fields(Publication)]
PUBLICATIONS = {
    name: Publication(**{key: values.pop(key) for key in _SAID if key in values})
    for name, values in PUBLISHED_SIZES.items()
    if "hub_ids" in values
}
HUB_IDS = {hub_id: name for name, about in PUBLICATIONS.items() for hub_id in about.hub_ids}
REHEARSED, LARGE = "Qwen2.5-VL-3B", "Qwen2.5-VL-7B"


def find_size(name: str) -> str:
    """The key of ``PUBLISHED_SIZES`` that a name is, or a hub id has.

    Raises:
        ValueError: there is none.
    """
    size = HUB_IDS.get(name, name)
    if size not in PUBLISHED_SIZES:
        raise ValueError(f"no published size {name!r}: choose of {', '.join(PUBLISHED_SIZES)}")
    return size


def write_published_model(
    name: str,
    folder: str | Path,
    layers: int | None = None,
    processor: str | Path | None = None,
    context: int | None = None,
    is_small: bool = False,
) -> Path:
    """Write config and processor of a published model; gives the folder.

    Args:
        name: a key of ``PUBLISHED_SIZES``, or a hub id.
        folder: made if missing.
        layers: of the language model, and at most so many of the vision tower; ``None``: all.
        processor: folder or hub id of the model's own; ``None``: one with the embedded tokenizer,
            which keeps the size of any picture up to 16 megapixels where its kind can.
        context: tokens that the model says it reads; ``None``: as published.
        is_small: few, narrow layers and small tiles instead, see ``StandIn.shrink``.
    """
    values = copy.deepcopy(PUBLISHED_SIZES[find_size(name)])
    if is_small:
        values = find_stand_in(values).shrink(values)
    if layers is not None:
        _cut_layers(values["text_config"], values.get("vision_config"), layers)
    if context is not None:
        values["text_config"]["max_position_embeddings"] = context
    stand_in = find_stand_in(values)
    made = stand_in.make_processor(values) if processor is None else load_processor(processor)
    stand_in.build_config(values, made).save_pretrained(folder)
    made.save_pretrained(folder)
    return Path(folder)


def _cut_layers(text: dict[str, Any], vision: dict[str, Any] | None, layers: int) -> None:
    if "layer_types" in text:
        text["layer_types"] = text["layer_types"][:layers]
    if "num_kv_shared_layers" in text:  # the last ones
        cut = text["num_hidden_layers"] - layers
        text["num_kv_shared_layers"] = max(0, text["num_kv_shared_layers"] - cut)
    text["num_hidden_layers"] = layers
    if vision is None:
        return
    key = "depth" if "depth" in vision else "num_hidden_layers"
    vision[key] = depth = min(vision[key], layers)
    for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if name in vision:
            vision[name] = [index for index in vision[name] if index < depth] or [depth - 1]
    if "layer_types" in text:
        text["layer_types"] = text["layer_types"][:layers]
