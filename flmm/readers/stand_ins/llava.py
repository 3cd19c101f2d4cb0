"""LLaVA-1.5 around the embedded tokenizer; LLaVA-NeXT and LLaVA-OneVision around bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers import (
    CLIPImageProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
)

from flmm.readers.loading import load_processor
from flmm.readers.stand_ins.base import (
    SMALL_TILE_PX,
    SMALL_VISION,
    StandIn,
    build_byte_tokenizer,
)

# As in transformers' convert_llava_next_weights_to_hf.py (Mistral's prompt).
_NEXT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '[INST] ' if message['role'] == 'user' else ' ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}"
    "{{ ' [/INST]' if message['role'] == 'user' else eos_token + ' ' }}"
    "{% endfor %}"
)
# As in convert_llava_onevision_weights_to_hf.py.
_ONEVISION_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + (' ' if message['role'] == 'user' else '\n') }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ ('\n' if message['role'] == 'user' else '') + part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class LlavaStandIn(StandIn):
    """With the published processor, which crops the centre."""

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Squares of the vision tower's size."""
        vision = values["vision_config"]
        tiny, side = load_processor("tiny"), vision["image_size"]
        pictures = CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
        template = tiny.chat_template.replace("<|vision_start|>", "").replace("<|vision_end|>", "")
        return LlavaProcessor(
            pictures,
            tiny.tokenizer,
            patch_size=vision["patch_size"],
            vision_feature_select_strategy=values["vision_feature_select_strategy"],
            chat_template=template,
            image_token="<|image_pad|>",
            num_additional_image_tokens=1,  # the vision tower's class token
        )


class LlavaNextStandIn(StandIn):
    """LLaVA-NeXT, with Mistral's prompt."""

    small_vision = SMALL_VISION | {"image_size": SMALL_TILE_PX}
    _canvases: ClassVar[Sequence[tuple[int, int]]] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Also with fewer choices of tiles."""
        small = super().shrink(values)
        side = self.small_vision["image_size"]
        sizes = [[rows * side, columns * side] for rows, columns in self._canvases]
        return small | {"image_grid_pinpoints": sizes}

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Tiles of the vision tower's size."""
        vision = values["vision_config"]
        side = vision["image_size"]
        pictures = LlavaNextImageProcessor(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=values["image_grid_pinpoints"],
        )
        return LlavaNextProcessor(
            pictures,
            build_byte_tokenizer(image_token="<image>"),
            patch_size=vision["patch_size"],
            vision_feature_select_strategy=values["vision_feature_select_strategy"],
            chat_template=_NEXT_TEMPLATE,
            num_additional_image_tokens=1,  # the vision tower's class token
        )


class LlavaOnevisionStandIn(LlavaNextStandIn):
    """LLaVA-OneVision; small ones too leave a part of each tile unseen."""

    small_vision = SMALL_VISION | {"image_size": SMALL_TILE_PX + 4}
    _canvases = tuple((rows, columns) for rows in range(1, 4) for columns in range(1, 5))

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Tiles of the vision tower's size."""
        vision = values["vision_config"]
        side, canvases = vision["image_size"], "image_grid_pinpoints"
        # The published ones are those of the class.
        choice = {canvases: values[canvases]} if canvases in values else {}
        pictures = LlavaOnevisionImageProcessor(size={"height": side, "width": side}, **choice)
        controls = ("<|im_start|>", "<|im_end|>")
        return LlavaOnevisionProcessor(
            pictures,
            build_byte_tokenizer(*controls, image_token="<image>", video_token="<video>"),
            LlavaOnevisionVideoProcessor(),
            num_image_tokens=(side // vision["patch_size"]) ** 2,
            vision_feature_select_strategy=values["vision_feature_select_strategy"],
            chat_template=_ONEVISION_TEMPLATE,
            vision_aspect_ratio=values["vision_aspect_ratio"],
        )

    def find_token_ids(self, processor: Any) -> dict[str, int]:
        """Also that of videos."""
        return super().find_token_ids(processor) | {"video_token_id": processor.video_token_id}
