"""Qwen-VL's processor: the picture squashed to a square, 256 ``<imgpad>`` between its tags.

The published code writes the bytes of a path between ``<img>`` and ``</img>``, pads them with
``<imgpad>`` to 256, and lays the picture over all of them: 256 ``<imgpad>`` are the same to the
model. Source: arXiv 2308.12966; tokenization_qwen.py and qwen_generation_utils.py beside the
published weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerFast

from flmm.readers.own_models.base import FindFile
from flmm.readers.own_models.tiktoken_files import build_tokenizer
from flmm.readers.own_models.vision_language import SquareProcessor, build_image_processor

IMAGE_TOKEN = "<imgpad>"
END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|im_end|>"
CONTROL_TOKENS = [
    *(END_OF_TEXT, "<|im_start|>", END_OF_TURN),
    *(f"<|extra_{number}|>" for number in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", IMAGE_TOKEN),
]
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTENT = (
    "{% set count = namespace(n=0) %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set count.n = count.n + 1 %}"
    "Picture {{ count.n }}: <img>" + IMAGE_TOKEN + "</img>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)
# ChatML; pictures are counted anew in every turn, as the published from_list_format does.
CHAT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    + _CONTENT
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The model that was not tuned to chat goes on with the text.
RAW_TEMPLATE = "{% for message in messages %}" + _CONTENT + "{% endfor %}"


def build_processor(values: Mapping[str, Any], find_file: FindFile) -> SquareProcessor:
    """The processor of a published folder.

    Raises:
        OSError: it holds no ``qwen.tiktoken``.
    """
    ranks = find_file("qwen.tiktoken")
    if ranks is None:
        raise OSError("there is no qwen.tiktoken beside the config: download it again")
    generation = find_file("generation_config.json")
    is_chat = generation is None or (
        json.loads(generation.read_text(encoding="utf-8")).get("chat_format") == "chatml"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(ranks, _WORDS, CONTROL_TOKENS),
        eos_token=END_OF_TURN if is_chat else END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=values["seq_length"],
    )
    return SquareProcessor(
        build_image_processor(values["visual"]["image_size"]),
        tokenizer,
        chat_template=CHAT_TEMPLATE if is_chat else RAW_TEMPLATE,
        image_token=IMAGE_TOKEN,
        image_seq_length=values["visual"].get("n_queries", 256),
    )
