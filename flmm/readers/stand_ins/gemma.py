"""Gemma 3, Gemma 4 and PaliGemma around a small tokenizer of Gemma's own class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import AddedToken
from transformers import (
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    GemmaTokenizer,
    PaliGemmaProcessor,
    SiglipImageProcessor,
)

from flmm.readers.stand_ins.base import SMALL_TEXT, SMALL_VISION, StandIn

_PLAIN = ("<pad>", "<eos>", "<bos>", "<unk>")
_LONGEST_RUN = 8
# As published, but for tools, system messages and thinking.
_TEMPLATE = """{{ bos_token }}{% for message in messages -%}
{{ turn[0] + ('model' if message['role'] == 'assistant' else message['role']) + '\n' -}}
{% for item in message['content'] -%}
{{ picture if item['type'] == 'image' else item['text'] | trim -}}
{% endfor -%}
{{ turn[1] + '\n' -}}
{% endfor -%}
{% if add_generation_prompt -%}{{ turn[0] + 'model\n' -}}{% endif -%}"""
_WINDOWS = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 72,  # less than a picture and its prompt
    "query_pre_attn_scalar": 16,
}


class Gemma3StandIn(StandIn):
    """Squares of 8 x 8 patches, pooled to 4 x 4 tokens, when shrunk."""

    small_text: ClassVar[Mapping[str, Any]] = SMALL_TEXT | _WINDOWS
    small_vision: ClassVar[Mapping[str, Any]] = SMALL_VISION | {"image_size": 112}

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Fewer tokens too."""
        return super().shrink(values) | {"mm_tokens_per_image": 16}

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Squares of the vision tower's size."""
        side = values["vision_config"]["image_size"]
        names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>"}
        turn = "<start_of_turn>", "<end_of_turn>"
        tokenizer = build_newline_tokenizer(*turn, **names, eoi_token="<end_of_image>")
        return Gemma3Processor(
            Gemma3ImageProcessor(size={"height": side, "width": side}),
            tokenizer,
            chat_template=_write_template(turn, names["boi_token"]),
            image_seq_length=values["mm_tokens_per_image"],
        )

    def find_token_ids(self, processor: Any) -> dict[str, int]:
        """Also those of the tokens around a picture."""
        kinds = ("image", "boi", "eoi")
        return {
            f"{kind}_token_id": getattr(processor.tokenizer, f"{kind}_token_id") for kind in kinds
        }


class Gemma4StandIn(StandIn):
    """Pictures of at most 70 tokens of 3 x 3 patches, when shrunk."""

    small_text: ClassVar[Mapping[str, Any]] = SMALL_TEXT | _WINDOWS | {"global_head_dim": 32}
    small_vision: ClassVar[Mapping[str, Any]] = SMALL_VISION | {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 4,
        "position_embedding_size": 256,
    }

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What is shared between layers, looked up in each or routed stays so."""
        small = super().shrink(values) | {"vision_soft_tokens_per_image": 70}
        text = small["text_config"]
        text["num_kv_shared_layers"] = min(2, text["num_kv_shared_layers"])
        text["hidden_size_per_layer_input"] = min(8, text["hidden_size_per_layer_input"])
        if text.get("enable_moe_block"):
            text |= {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
        return small

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """With the patches of these values."""
        vision, turn = values["vision_config"], ("<|turn>", "<turn|>")
        names = {
            **{"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"},
            **{"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"},
        }
        pictures = Gemma4ImageProcessor(
            patch_size=vision["patch_size"],
            pooling_kernel_size=vision["pooling_kernel_size"],
            max_soft_tokens=values["vision_soft_tokens_per_image"],
        )
        return Gemma4Processor(
            Gemma4AudioFeatureExtractor(),
            pictures,
            build_newline_tokenizer(*turn, **names),
            Gemma4VideoProcessor(),
            chat_template=_write_template(turn, "\n\n<|image|>\n\n"),
        )

    def find_token_ids(self, processor: Any) -> dict[str, int]:
        """Also those of videos and sounds."""
        kinds = ("image", "video", "audio")
        return {f"{kind}_token_id": getattr(processor, f"{kind}_token_id") for kind in kinds}

    def build_config(self, values: Mapping[str, Any], processor: Any) -> Any:
        """Every layer looks up as many tokens as the first."""
        text = values["text_config"]
        tokens = max(text.get("vocab_size", 0), len(processor.tokenizer))
        text = text | {"vocab_size": tokens, "vocab_size_per_layer_input": tokens}
        return super().build_config({**values, "text_config": text}, processor)


class PaliGemmaStandIn(StandIn):
    """Over Gemma or Gemma 2."""

    small_text: ClassVar[Mapping[str, Any]] = SMALL_TEXT
    small_vision: ClassVar[Mapping[str, Any]] = SMALL_VISION | {"image_size": 56}

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A soft cap low enough to be felt."""
        small = super().shrink(values)
        width = small["text_config"]["hidden_size"]
        if small["text_config"]["model_type"] == "gemma2":
            small["text_config"] |= _WINDOWS | {"attn_logit_softcapping": 3.0}
        return small | {"projection_dim": width, "hidden_size": width}

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Squares of the vision tower's size; there is no chat template."""
        vision = values["vision_config"]
        side = vision["image_size"]
        pictures: Any = SiglipImageProcessor(size={"height": side, "width": side})
        pictures.image_seq_length = (side // vision["patch_size"]) ** 2
        return PaliGemmaProcessor(pictures, build_newline_tokenizer(image_token="<image>"))


def build_newline_tokenizer(*control: str, **named: str) -> Any:
    """Gemma's real class, every character but a space as its bytes.

    As in the published ones, runs of newlines are tokens of the vocabulary and added ones besides.
    ``control`` and ``named`` are as in ``build_byte_tokenizer``.
    """
    runs = ["\n" * length for length in range(1, _LONGEST_RUN + 1)]
    pieces = [*_PLAIN, "▁", *(f"<0x{byte:02X}>" for byte in range(256)), *runs]
    merges: Any = [
        (first, second) for first in runs for second in runs if len(first + second) <= _LONGEST_RUN
    ]
    tokenizer = GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        extra_special_tokens=named,
    )
    tokenizer.add_tokens([AddedToken(run, normalized=False, special=False) for run in runs])
    tokenizer.add_tokens([AddedToken(name, special=True) for name in control], special_tokens=True)
    return tokenizer


def _write_template(turn: tuple[str, str], picture: str) -> str:
    return f"{{% set turn = {turn!r} %}}{{% set picture = {picture!r} %}}{_TEMPLATE}"
