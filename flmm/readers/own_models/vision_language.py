"""What models of our own share: a config of two parts, a language head, a processor of squares."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel, ProcessorMixin


class VisionLanguageConfig(PreTrainedConfig):
    """A decoder's config and a tower's, of the kinds that ``sub_configs`` names."""

    text_config: Any = None
    vision_config: Any = None
    image_token_id: int = 0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, kind in self.sub_configs.items():
            given = getattr(self, name)
            if given is None or isinstance(given, dict):
                setattr(self, name, kind(**(given or {})))
        super().__post_init__(**kwargs)


class WithLanguageHead(PreTrainedModel, GenerationMixin):
    """A model with the head that transformers' doors and ``generate`` look for."""

    base_model_prefix = "model"
    _supports_sdpa = _supports_flash_attn = True
    model_class: type[PreTrainedModel]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        text = config.text_config
        self.model: Any = self.model_class(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_decoder(self) -> Any:
        """The language model."""
        return self.model.language_model

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
        **inputs: Any,
    ) -> Any:
        """As the model's, with ``logits`` ``[B, R or logits_to_keep, V]``."""
        inputs |= {"attention_mask": attention_mask, "position_ids": position_ids}
        output = self.model(input_ids, pixel_values, **inputs)
        output["logits"] = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        return output

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """Pictures belong to the first pass alone."""
        parent: Any = super()
        prepared = parent.prepare_inputs_for_generation(*args, **kwargs)
        if not kwargs.get("is_first_iteration"):
            prepared["pixel_values"] = None
        return prepared


class SquareProcessor(ProcessorMixin):
    """Pictures squashed to a square; ``image_seq_length`` times ``image_token`` stand for one."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        image_seq_length: int = 1,
        **kwargs: Any,
    ) -> None:
        self.image_token, self.image_seq_length = image_token, image_seq_length
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """What a placeholder becomes."""
        return self.image_token * self.image_seq_length


def build_image_processor(side: int) -> Any:
    """Squashes a picture to ``side`` x ``side`` px."""
    from transformers import CLIPImageProcessor  # half a second, which other readers need not wait

    size = {"height": side, "width": side}
    return CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
