"""Published sizes of models without their weights: what speed and memory depend on.

A reader takes such a folder with ``random_init=True``; its masks mean nothing. Where no processor
is given, one is made without a download, around the embedded tokenizer.
"""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, CLIPImageProcessor, LlavaProcessor

from flmm.readers.families import find_family
from flmm.readers.image_processor import ImageProcessorWrapper
from flmm.readers.loading import TINY_FOLDER, load_config, load_processor

# Source: config.json of each model on the hub. "width-1024" is no published model, but one that
# fits a small machine; its vision tower takes the same share of the work as that of a 7B model.
PUBLISHED_SIZES: dict[str, dict[str, Any]] = json.loads(
    (TINY_FOLDER.parent / "published_sizes.json").read_text(encoding="utf-8")
)
REHEARSED, LARGE = "Qwen2.5-VL-3B", "Qwen2.5-VL-7B"
LARGEST_PIXELS = 16384 * 32 * 32
_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def write_published_model(
    name: str,
    folder: str | Path,
    layers: int | None = None,
    processor: str | Path | None = None,
    context: int | None = None,
) -> Path:
    """Write config and processor of a published model; gives the folder.

    Args:
        name: a key of ``PUBLISHED_SIZES``.
        folder: made if missing.
        layers: of the language model, and at most so many of the vision tower; ``None``: all.
        processor: folder or hub id of the model's own; ``None``: one with the embedded tokenizer,
            which keeps the size of any picture up to 16 megapixels where its kind can.
        context: tokens that the model says it reads; ``None``: as published.
    """
    if name not in PUBLISHED_SIZES:
        raise ValueError(f"no published size {name!r}: choose of {', '.join(PUBLISHED_SIZES)}")
    values = copy.deepcopy(PUBLISHED_SIZES[name])
    if layers is not None:
        _cut_layers(values["text_config"], values["vision_config"], layers)
    if context is not None:
        values["text_config"]["max_position_embeddings"] = context
    made = _make_processor(values) if processor is None else load_processor(processor)
    values |= _find_token_ids(values["model_type"], made)
    AutoConfig.for_model(values.pop("model_type"), **values).save_pretrained(folder)
    made.save_pretrained(folder)
    return Path(folder)


def find_image_processor(folder: str | Path) -> dict[str, Any]:
    """What a data set's ``image_processor`` is for the model of a folder."""
    kind = find_family(load_config(folder)).image_processor or ImageProcessorWrapper
    given, *_ = inspect.signature(kind).parameters
    return {"type": kind.__name__, given: str(folder)}


def _cut_layers(text: dict[str, Any], vision: dict[str, Any], layers: int) -> None:
    text["num_hidden_layers"] = layers
    key = "depth" if "depth" in vision else "num_hidden_layers"
    vision[key] = depth = min(vision[key], layers)
    for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if name in vision:
            vision[name] = [index for index in vision[name] if index < depth] or [depth - 1]


def _make_processor(values: dict[str, Any]) -> Any:
    """A processor of the model's kind around the embedded tokenizer."""
    tiny = load_processor("tiny")
    vision = values["vision_config"]
    if values["model_type"] == "llava":
        side = vision["image_size"]
        pictures = CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
        return LlavaProcessor(
            pictures,
            tiny.tokenizer,
            patch_size=vision["patch_size"],
            vision_feature_select_strategy=values["vision_feature_select_strategy"],
            chat_template=tiny.chat_template.replace("<|vision_start|>", "").replace(
                "<|vision_end|>", ""
            ),
            image_token=_TOKENS["image_token_id"],
            num_additional_image_tokens=1,  # the vision tower's class token
        )
    tiny.image_processor.patch_size = vision["patch_size"]
    tiny.image_processor.size = {"shortest_edge": 32 * 32, "longest_edge": LARGEST_PIXELS}
    return tiny


def _find_token_ids(model_type: str, processor: Any) -> dict[str, int]:
    if model_type == "llava":
        return {"image_token_id": processor.image_token_id}
    ids = processor.tokenizer.convert_tokens_to_ids(list(_TOKENS.values()))
    return dict(zip(_TOKENS, ids))
