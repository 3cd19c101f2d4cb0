"""What a small random model of a family consists of, and what families share.

Layers and widths are small, classes are the real ones, weights are wide enough for attention to be
far from uniform.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor, PreTrainedModel

from flmm.readers.loading import build_random_model
from flmm.readers.published_sizes import PUBLISHED_SIZES
from flmm.readers.stand_ins import find_stand_in
from flmm.readers.stand_ins.base import SMALL_TEXT as TEXT

# What mixes the heads of an attention layer, by whatever name.
_LAST_OF_ATTENTION = ("out_proj", "o_proj", "proj", "projection_layer", "dense")


class SmallFamily(ABC):
    """A small model of a family, named in ``ALL_FAMILIES`` as an instance's ``name``.

    Attributes:
        name: of the tests' parameters.
        folder: with the real processor's files below ``processors/`` of the test data; empty: its
            real classes stand around a byte-level tokenizer.
        smear: how far, in cells, the vision tower mixes tokens when its attention is silenced.
    """

    name: str
    folder: str = ""
    smear: float = 0.15

    @abstractmethod
    def load_processor(self, data_dir: Path) -> Any:
        """The unified processor."""

    @abstractmethod
    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """The config; ``changes`` are further keys of the language model's."""

    def build_model(self, config: Any) -> PreTrainedModel:
        """A float32 model in eval mode; always the same random weights."""
        return build_random_model(config, torch.float32, "sdpa", seed=0).eval()

    def finish(self, data_dir: Path, model: PreTrainedModel) -> None:
        """Give a model its generation config."""
        model.generation_config.eos_token_id = model.config.get_text_config().eos_token_id

    def silence(self, model: PreTrainedModel) -> None:
        """Switch the tower's attention off: what forms a token then sees its own patches alone."""
        for name, module in model.model.named_modules():
            in_tower = "attn" in name or "attention" in name
            is_last = name.rpartition(".")[2] in _LAST_OF_ATTENTION
            if in_tower and is_last and not name.startswith("language_model"):
                module = getattr(module, "linear", module)  # one that clips what it is given
                module.weight.zero_()
                if module.bias is not None:
                    module.bias.zero_()


class StandInFamily(SmallFamily):
    """A family whose processor's files are not at hand: its stand-in, shrunk.

    ``published`` is a key of ``PUBLISHED_SIZES``.
    """

    def __init__(self, name: str, published: str, **attributes: Any) -> None:
        self.name = name
        vars(self).update(attributes)
        values = PUBLISHED_SIZES[published]
        self.stand_in = find_stand_in(values)
        self.values = self.stand_in.shrink(values)

    def load_processor(self, data_dir: Path) -> Any:
        """The real class around a byte-level tokenizer."""
        return self.stand_in.make_processor(self.values)

    def build_config(self, data_dir: Path, processor: Any, changes: dict[str, Any]) -> Any:
        """The published one, shrunk."""
        text = self.values["text_config"] | {"vocab_size": len(processor.tokenizer)} | changes
        return self.stand_in.build_config(self.values | {"text_config": text}, processor)


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
    sizes = {"vocab_size": len(tokenizer), **ids}
    return {"model_type": model_type, **TEXT, **sizes, "sliding_window": None} | changes


def build_config(
    model_type: str, processor: Any, text: dict[str, Any], vision: dict[str, Any], **more: Any
) -> Any:
    """A model's config of those of its parts, with the processor's image token."""
    ids = {"image_token_id": processor.image_token_id}
    return AutoConfig.for_model(model_type, text_config=text, vision_config=vision, **(ids | more))
