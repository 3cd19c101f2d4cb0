"""FrozenQwen: the reader under the name its users know, for the Qwen-VL families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from flmm.images import load_any_image
from flmm.readers.base import FrozenVLM
from flmm.readers.families.qwen import Qwen, Qwen3_5
from flmm.readers.qwen_image_processor import find_picture
from flmm.records import ImageInput
from flmm.registry import MODELS


@MODELS.register_module()
class FrozenQwen(FrozenVLM):
    """A Qwen-VL model since the second generation, or Qwen3.5; see :class:`FrozenVLM`.

    ``min_pixels`` and ``max_pixels`` limit H'*W' of the input; ``None``: the processor's.
    """

    model_types = Qwen.model_types + Qwen3_5.model_types

    def __init__(
        self,
        name_or_path: str | Path | PreTrainedModel,
        dtype: str | torch.dtype = "bfloat16",
        attn_implementation: str = "sdpa",
        token_merge: str = "mean",
        prompt: str | None = None,
        processor: Any = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        device_map: Any = None,
        random_init: bool = False,
        seed: int = 0,
    ) -> None:
        limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        super().__init__(
            *(name_or_path, dtype, attn_implementation, token_merge, prompt, processor, limits),
            *(device_map, random_init, seed),
        )

    def prefill(self, image: Any, prompt: str | None = None, layers: int | None = None) -> Any:
        """As :meth:`FrozenVLM.prefill`; takes a user message of qwen-vl-utils beside.

        ``image`` may be an element ``{"type": "image", "image": ..., "max_pixels": ...}``, or
        messages: one of the user's with such an element and the prompt as its text.
        """
        if _holds_messages(image):
            image, prompt = read_messages(image)
        return super().prefill(image, prompt, layers)

    def encode(self, image: Any) -> ImageInput:
        """A picture, an element or messages, ready to be read."""
        if _holds_messages(image):
            image, _ = read_messages(image)
        if isinstance(image, Mapping):  # a person's own words may hold addresses
            image = {**image, "image": load_any_image(find_picture(image))}
        return super().encode(image)


def _holds_messages(image: Any) -> bool:
    """Whether this is a list of messages, and no picture or list of pictures."""
    is_list = isinstance(image, list) and bool(image)
    return is_list and isinstance(image[0], Mapping) and "role" in image[0]


def read_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], str | None]:
    """The picture's element and the text of one user turn; no text: ``None``."""
    content: Any = messages[0].get("content") if len(messages) == 1 else None
    kinds = [item.get("type") for item in content] if isinstance(content, list) else []
    if messages[0]["role"] != "user" or kinds not in (["image"], ["image", "text"]):
        raise ValueError(
            "the messages are not one of the user's with one picture and then one text: hand over "
            "[{'role': 'user', 'content': [{'type': 'image', ...}, {'type': 'text', ...}]}], and "
            "go on with converse() where there are more"
        )
    element, *texts = content
    return element, texts[0]["text"] if texts else None
