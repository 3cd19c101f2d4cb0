"""The families of tiny readers: how each is built, and what its training must know of it.

``qwen2_5_vl`` is the reader embedded in the package; ``llava`` has LLaVA-1.5's classes (CLIP tower,
projector of two layers, LLaMA), other scenes and other numbers of layers and heads. It is made to
be met by what was trained with the first, and is not shipped. ``qwen_vl`` is of Qwen-VL's first
generation: its resampler is what ``resampler_maps`` looks at.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from flmm.readers.loading import TINY_FOLDER
from flmm.readers.own_models.qwen_vl import QwenVLConfig
from flmm.readers.own_models.qwen_vl_processor import IMAGE_TOKEN
from flmm.readers.own_models.vision_language import SquareProcessor, build_image_processor

TOKEN_SIDE_PX = 28
# 56 to 80 image tokens, whatever the picture's size: objects keep their size in tokens.
_MIN_PIXELS, _MAX_PIXELS = 56 * TOKEN_SIDE_PX**2, 80 * TOKEN_SIDE_PX**2
_SQUARE_TOKENS = 8
_SQUARE_PX = _SQUARE_TOKENS * TOKEN_SIDE_PX
_ATTENTION = "eager"  # on a CPU the backward pass of bfloat16 SDPA takes twice the time
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE\n"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


class ReaderFamily(ABC):
    """What the stages of the training must know of a family.

    Attributes:
        scenes: which drawings it learns from; another word, other drawings.
        tower: of which names the parameters of tower and projector are.
        picture_inputs: what the model is given of a picture.
    """

    scenes: ClassVar[str]
    tower: ClassVar[tuple[str, ...]]
    picture_inputs: ClassVar[tuple[str, ...]]

    @abstractmethod
    def build(self) -> tuple[Any, Any]:
        """Model of random weights (float32) and processor."""

    @abstractmethod
    def compute_token_grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) in image tokens, as the family's processor resizes a picture of (H, W) pixels."""

    @abstractmethod
    def locate(self, model: Any, prefix: Mapping[str, Tensor]) -> Tensor:
        """Positions of a batch of prefixes, ``[B, S]`` or, by axes, ``[3, B, S]``."""

    @abstractmethod
    def see(self, model: Any, pictures: Mapping[str, Tensor]) -> Tensor:
        """Image tokens ``[N, D]`` as the language model is given them."""


class TinyQwen(ReaderFamily):
    """Of the embedded reader's shape."""

    scenes = "tiny reader"
    tower = ("model.visual.",)
    picture_inputs = ("pixel_values", "image_grid_thw")

    def build(self) -> tuple[Any, Any]:
        """The processor and the shape of the embedded reader."""
        config = AutoConfig.from_pretrained(TINY_FOLDER, trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(TINY_FOLDER, trust_remote_code=False)
        return _build_random(config), processor

    def compute_token_grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The picture's shape is kept."""
        height, width = smart_resize(*image_size, TOKEN_SIDE_PX, _MIN_PIXELS, _MAX_PIXELS)
        return height // TOKEN_SIDE_PX, width // TOKEN_SIDE_PX

    def locate(self, model: Any, prefix: Mapping[str, Tensor]) -> Tensor:
        """M-RoPE: time, row, column."""
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw")
        return model.model.get_rope_index(**{name: prefix[name] for name in names})[0]

    def see(self, model: Any, pictures: Mapping[str, Tensor]) -> Tensor:
        """Merged tokens."""
        grid = pictures["image_grid_thw"]
        return model.model.visual(pictures["pixel_values"], grid_thw=grid).pooler_output


class TinyLlava(ReaderFamily):
    """LLaVA-1.5's classes: 4 layers of 8 heads, pictures resized to a square of 8 x 8 tokens."""

    scenes = "llava reader"
    tower: ClassVar[tuple[str, ...]] = ("model.vision_tower.", "model.multi_modal_projector.")
    picture_inputs = ("pixel_values",)

    def build(self) -> tuple[Any, Any]:
        """Random weights; the embedded reader's vocabulary."""
        processor = _build_llava_processor()
        tokenizer, side = processor.tokenizer, _SQUARE_PX
        vision = CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=side,
            patch_size=TOKEN_SIDE_PX,
            hidden_act="gelu",
        )
        text = LlamaConfig(**_size_text(tokenizer), rms_norm_eps=1e-5)
        config = LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=processor.image_token_id,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=True,
        )
        return _build_random(config), processor

    def compute_token_grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Always the same square."""
        return _SQUARE_TOKENS, _SQUARE_TOKENS

    def locate(self, model: Any, prefix: Mapping[str, Tensor]) -> Tensor:
        """Counting up."""
        return torch.arange(prefix["input_ids"].shape[1]).expand_as(prefix["input_ids"])

    def see(self, model: Any, pictures: Mapping[str, Tensor]) -> Tensor:
        """Patches of the tower, projected."""
        seen = model.model.get_image_features(pictures["pixel_values"], return_dict=True)
        return torch.cat(list(seen.pooler_output))


class TinyQwenVL(TinyLlava):
    """The first generation's classes: 16 x 16 patches, a resampler of 8 x 8 queries."""

    scenes = "resampler reader"
    tower = ("model.visual.",)

    def build(self) -> tuple[Any, Any]:
        """Random weights; the embedded reader's vocabulary."""
        tokenizer = _build_tokenizer(IMAGE_TOKEN)
        processor = SquareProcessor(
            build_image_processor(_SQUARE_PX),
            tokenizer,
            chat_template=_TEMPLATE.replace("IMAGE", IMAGE_TOKEN),
            image_token=IMAGE_TOKEN,
            image_seq_length=_SQUARE_TOKENS**2,
        )
        text = _size_text(tokenizer)
        vision = {
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "mlp_ratio": 2.0,
            "image_size": _SQUARE_PX,
            "patch_size": TOKEN_SIDE_PX // 2,
            "num_queries": _SQUARE_TOKENS**2,
            "output_dim": text["hidden_size"],
        }
        config = QwenVLConfig(
            text_config=text, vision_config=vision, image_token_id=processor.image_token_id
        )
        model = _build_random(config)
        _draw_to_its_place(model.model.visual.attn_pool)
        return model, processor

    def see(self, model: Any, pictures: Mapping[str, Tensor]) -> Tensor:
        """What the resampler's queries saw."""
        return model.model.visual(pictures["pixel_values"]).flatten(0, 1)


FAMILIES: dict[str, ReaderFamily] = {
    "qwen2_5_vl": TinyQwen(),
    "llava": TinyLlava(),
    "qwen_vl": TinyQwenVL(),
}


def find_family(model: Any) -> ReaderFamily:
    """The family of a transformers model."""
    return FAMILIES[model.config.model_type]


def load_reader(folder: Path) -> tuple[Any, Any]:
    """Model in float32 and processor of a stage's folder."""
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=_ATTENTION, trust_remote_code=False
    )
    return model, processor


def _build_random(config: Any) -> Any:
    return AutoModelForImageTextToText.from_config(
        config, dtype=torch.float32, attn_implementation=_ATTENTION, trust_remote_code=False
    )


@torch.no_grad()
def _draw_to_its_place(resampler: Any) -> None:
    """Let a query begin where it stands: thousands of steps would teach it no more than that."""
    width = resampler.query.shape[1]
    resampler.attn.in_proj_weight[: 2 * width] = 4 * torch.eye(width).repeat(2, 1)
    resampler.ln_q.weight.fill_(0.1)
    resampler.ln_kv.weight.fill_(0.1)


def _size_text(tokenizer: Any) -> dict[str, Any]:
    """Four layers of eight heads."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }


def _build_tokenizer(image_token: str) -> Any:
    """The embedded tokenizer, its video token now the family's placeholder."""
    state = json.loads((TINY_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    state["added_tokens"][-1]["content"] = image_token
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[image_token],
    )


def _build_llava_processor() -> LlavaProcessor:
    """A square, nothing cropped."""
    size = {"height": _SQUARE_PX, "width": _SQUARE_PX}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False),
        tokenizer=_build_tokenizer("<image>"),
        patch_size=TOKEN_SIDE_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE.replace("IMAGE", "<image>"),
    )
