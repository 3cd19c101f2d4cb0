"""What a small random model of a family consists of, and what families share.

Layers and widths are small, classes are the real ones, weights are wide enough for attention to be
far from uniform.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

TILE_PX = 56
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "initializer_range": 0.15,
}


class SmallFamily(ABC):
    """A small model of a family, named in ``ALL_FAMILIES`` as an instance's ``name``.

    Attributes:
        name: of the tests' parameters.
        folder: with the real processor's files below ``processors/`` of the test data; empty: its
            real classes stand around a byte-level tokenizer.
        attn_implementation: with which the model is built.
        smear: how far, in cells, the vision tower mixes tokens when its attention is silenced.
        phrase_types: per per-token input of the model its value on text behind the prefix.
    """

    name: str
    folder: ClassVar[str] = ""
    attn_implementation: ClassVar[Any] = "sdpa"
    smear: ClassVar[float] = 0.15
    phrase_types: ClassVar[Mapping[str, int]] = {}

    @abstractmethod
    def load_processor(self, data_dir: Path) -> Any:
        """The unified processor."""

    @abstractmethod
    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """The config; ``changes`` are further keys of the language model's."""

    def build_model(self, config: Any) -> PreTrainedModel:
        """A float32 model in eval mode; always the same random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForImageTextToText.from_config(
                config, dtype=torch.float32, attn_implementation=self.attn_implementation
            )
        return model.eval()

    def finish(self, data_dir: Path, model: PreTrainedModel) -> None:
        """Give a model its generation config."""
        model.generation_config.eos_token_id = model.config.get_text_config().eos_token_id


class FolderFamily(SmallFamily):
    """A family with the real tokenizer, chat template and processor of a folder."""

    def load_processor(self, data_dir: Path) -> Any:
        """As published, see :meth:`shrink`."""
        processor = AutoProcessor.from_pretrained(data_dir / "processors" / self.folder)
        self.shrink(processor)
        return processor

    @abstractmethod
    def shrink(self, processor: Any) -> None:
        """Give the processor an image processor of the real class that makes small tiles."""


def build_text_values(model_type: str, tokenizer: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """A language model's config, with the tokenizer's ids and vocabulary."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id")}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 8192, **ids}
    return {"model_type": model_type, **TEXT, **sizes, "sliding_window": None} | changes


def build_config(
    model_type: str, processor: Any, text: dict[str, Any], vision: dict[str, Any], **more: Any
) -> Any:
    """A model's config of those of its parts, with the processor's image token."""
    ids = {"image_token_id": processor.image_token_id}
    return AutoConfig.for_model(model_type, text_config=text, vision_config=vision, **(ids | more))


def build_byte_tokenizer(*control: str, **named: str) -> Any:
    """A fast tokenizer whose tokens are bytes, for families whose own is not at hand.

    ``control`` are further control tokens; ``named`` too, and attributes (``image_token="<image>"``
    gives ``tokenizer.image_token`` and ``image_token_id``).
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={item: i for i, item in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    names = dict.fromkeys([*special.values(), *named.values(), *control])
    inner.add_special_tokens([AddedToken(name, special=True) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, **special, extra_special_tokens=named or None
    )
