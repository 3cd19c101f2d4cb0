"""What a stand-in consists of: config values, and a processor of the real class that fits them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

# Weights are wide enough for attention to be far from uniform.
SMALL_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    "initializer_range": 0.2,
}
SMALL_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "initializer_range": 0.15,
}
SMALL_TILE_PX = 56


class StandIn(ABC):
    """A family's models as values of a config, ``{"model_type": ..., "text_config": {...}, ...}``.

    Attributes:
        small_text, small_vision: what :meth:`shrink` puts in place of the published values.
    """

    small_text: ClassVar[Mapping[str, Any]] = SMALL_TEXT
    small_vision: ClassVar[Mapping[str, Any]] = SMALL_VISION

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The same with few, narrow layers and small tiles."""
        small = copy.deepcopy(dict(values))
        small["text_config"] |= self.small_text
        small["vision_config"] |= self.small_vision
        return small

    @abstractmethod
    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """A processor of the real class for models of these values, with a chat template.

        Its image processor's sizes are those that the values ask for, published or shrunk.
        """

    def find_token_ids(self, processor: Any) -> dict[str, int]:
        """What a config says of the tokenizer."""
        return {"image_token_id": processor.image_token_id}

    def build_config(self, values: Mapping[str, Any], processor: Any) -> Any:
        """The config; the embeddings have at least a row for each token of the processor's."""
        known = copy.deepcopy(dict(values)) | self.find_token_ids(processor)
        text = known["text_config"]
        text["vocab_size"] = max(text.get("vocab_size", 0), len(processor.tokenizer))
        ends = {name: getattr(processor.tokenizer, name) for name in _ENDS}
        text |= {name: index for name, index in ends.items() if index is not None}
        return AutoConfig.for_model(known.pop("model_type"), **known)


_ENDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def build_byte_tokenizer(*control: str, **named: str) -> Any:
    """A fast tokenizer whose tokens are bytes, for processors without a tokenizer of their own.

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
