"""What a model of our own consists of, and how transformers comes to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

FindFile = Callable[[str], Path | None]


@dataclass(frozen=True)
class OwnModel:
    """A model that transformers does not have.

    Attributes:
        config_class: with a ``model_type`` of its own, which a folder that we saved names.
        model_class: with a language head; its decoder is one of transformers' or dispatches
            attention as those do.
        processor_class: a unified processor.
        weights: from the published key names to ours, while weights are read, and back while they
            are written: a saved folder has the published key names.
        recognises: whether these are the values of a published ``config.json``.
        read_config: our config of such values.
        build_processor: the processor of such values; asks for further published files by name.
    """

    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    processor_class: type[ProcessorMixin]
    weights: list[WeightConverter | WeightRenaming]
    recognises: Callable[[Mapping[str, Any]], bool]
    read_config: Callable[[Mapping[str, Any]], PreTrainedConfig]
    build_processor: Callable[[Mapping[str, Any], FindFile], ProcessorMixin]

    def register(self) -> None:
        """Let transformers' own doors (``AutoConfig`` and the like) build, load and save it."""
        model_type: str = self.config_class.model_type
        AutoConfig.register(model_type, self.config_class)
        AutoModelForImageTextToText.register(self.config_class, self.model_class)
        AutoProcessor.register(self.config_class, self.processor_class)
        register_checkpoint_conversion_mapping(self.model_class.__name__, self.weights)
