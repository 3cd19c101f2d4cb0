"""FrozenQwen: Qwen2-VL, Qwen2.5-VL and Qwen3-VL (dense and mixture of experts).

In: an image and a prompt. Out: a prefix, read with the model's fastest attention and without
its language head; after it, tokens whose rows are read. Owns the image_pad span, the grid and
the M-RoPE positions. Qwen3-VL's DeepStack features enter in the prefill alone.
Not its duty: resizing (see qwen_image_processor), packing of phrases (see base).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from flmm.readers.attention import ROW_ATTENTION, RowReader
from flmm.readers.base import FrozenVLM
from flmm.readers.frozen_model import frozen_call
from flmm.readers.loading import (
    build_random_model,
    check_family,
    load_config,
    load_model,
    load_processor,
)
from flmm.readers.positions import check_positions, compute_positions
from flmm.readers.prefixes import PrefixBatch, PrefixInput
from flmm.readers.qwen_image_processor import QwenImageProcessorWrapper
from flmm.records import ImageInput, Span
from flmm.registry import MODELS

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
_PROMPT_SLOT = "FLMM PROMPT SLOT"
_ANSWER_SLOT = "FLMM ANSWER SLOT"


@MODELS.register_module()
class FrozenQwen(FrozenVLM):
    """A frozen Qwen-VL model behind ``prefill``, ``attend``, ``generate`` and ``answer``.

    Args:
        name_or_path: folder or hub id; ``"tiny"``: the model embedded in flmm; or a ready
            transformers model (then ``processor`` is needed).
        dtype: ``"auto"``, a torch dtype or its name.
        attn_implementation: of the prefill: ``"sdpa"``, ``"flash_attention_2"``, ``"eager"``.
        token_merge: ``"mean"`` or ``"max"`` over the tokens of a phrase.
        prompt: the default prompt; ``None``: F-LMM's.
        processor: unified processor, or a folder or hub id; ``None``: from ``name_or_path``.
        min_pixels: least H'*W' of the input; ``None``: the processor's.
        max_pixels: greatest H'*W' of the input; ``None``: the processor's.
        device_map: as in transformers, to spread a large model over devices.
        random_init: take the config only, with random weights: the untrained control.
        seed: of these random weights.

    Raises:
        OSError: there is no model at ``name_or_path``.
        ValueError: not one of the families, or model and processor do not belong together.
    """

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
        if isinstance(name_or_path, PreTrainedModel):
            model = name_or_path
            check_family(model.config, FAMILIES)
        else:
            config = load_config(name_or_path, FAMILIES)
            if random_init:
                model = build_random_model(config, dtype, attn_implementation, seed)
            else:
                model = load_model(name_or_path, config, dtype, attn_implementation, device_map)
        processor = _load_processor(name_or_path if processor is None else processor)
        super().__init__(
            model,
            tokenizer=processor.tokenizer,
            image_processor=QwenImageProcessorWrapper(processor, min_pixels, max_pixels),
            token_merge=token_merge,
            prompt=prompt,
        )
        self.processor = processor
        self._check_processor()

    @classmethod
    def from_model(cls, model: PreTrainedModel, processor: Any, **kwargs: Any) -> FrozenQwen:
        """Wrap a ready model and its unified processor; ``kwargs`` as in the constructor."""
        return cls(model, processor=processor, **kwargs)

    def _check_processor(self) -> None:
        """Model and processor must agree on the patches and on the image placeholder.

        Raises:
            ValueError: they do not.
        """
        vision, inner = self.model.config.vision_config, self.image_processor
        pairs = {
            "patch size": (vision.patch_size, inner.patch_size),
            "merge size": (vision.spatial_merge_size, inner.merge_size),
            "temporal patch size": (vision.temporal_patch_size, inner.temporal_patch_size),
            "image token id": (self.model.config.image_token_id, self.processor.image_token_id),
        }
        for name, (of_model, of_processor) in pairs.items():
            if of_model != of_processor:
                raise ValueError(
                    f"the model has {name} {of_model}, the processor {of_processor}: load both "
                    "from the same folder"
                )

    def render_prompt(self, prompt: str | None = None) -> str:
        """The text the model reads, as the chat template renders it, placeholder not expanded."""
        before, after = self._render_turn(1, is_first=True)
        return before + (self.default_prompt if prompt is None else prompt) + after

    def _encode_prompt(self, prompt: str, image: ImageInput) -> tuple[list[int], slice]:
        """Token ids of the rendered prompt, image expanded, and where the image tokens are."""
        config = self.model.config
        before, after = self._render_turn(1, is_first=True)
        ids, _ = self._plain_text.encode_template(before, prompt, after)
        if ids.count(config.image_token_id) != 1:
            raise ValueError(
                f"the rendered prompt holds {ids.count(config.image_token_id)} image placeholders "
                f"(token {config.image_token_id}): the chat template must write exactly one"
            )
        start, tokens = ids.index(config.image_token_id), len(image.token_ids)
        ids[start : start + 1] = [config.image_token_id] * tokens
        columns = slice(start, start + tokens)
        check_image_span(ids, image.grids[0].size, config)
        return ids, columns

    def _encode_question(self, question: str, image: ImageInput) -> list[int]:
        ids, columns = self._encode_prompt(question, image)
        return ids[columns.stop :]

    def _encode_turn(
        self, question: str, images: Sequence[ImageInput], is_first: bool
    ) -> tuple[list[int], list[slice], list[tuple[int, Span]]]:
        before, after = self._render_turn(len(images), is_first)
        ids, tokens = self._plain_text.encode_template(before, question, after, is_first)
        grids = [image.grids[0].size for image in images]
        return expand_images(ids, tokens, grids, self.model.config)

    def _render_turn(self, images: int, is_first: bool) -> tuple[str, str]:
        """The chat template's text before and after the question of a user turn."""
        content: list[dict[str, str]] = [{"type": "image"}] * images
        content = [*content, {"type": "text", "text": _PROMPT_SLOT}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if not is_first:
            said = [{"type": "text", "text": _ANSWER_SLOT}]
            earlier = [{"type": "text", "text": "question"}]
            messages.insert(0, {"role": "assistant", "content": said})
            messages.insert(0, {"role": "user", "content": earlier})
        rendered = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        parts = rendered.rpartition(_ANSWER_SLOT)[2].split(_PROMPT_SLOT)
        if len(parts) != 2:
            raise ValueError(
                f"the chat template writes the prompt {len(parts) - 1} times: it must once"
            )
        return parts[0], parts[1]

    def _locate(self, input_ids: Sequence[int], images: Sequence[ImageInput]) -> Tensor:
        ids = torch.tensor([list(input_ids)])
        image_token_id = self.model.config.image_token_id
        positions, _ = self.model.model.get_rope_index(
            ids,
            mm_token_type_ids=(ids == image_token_id).int(),
            image_grid_thw=torch.cat([item.inputs["image_grid_thw"] for item in images]),
        )
        grids = [item.grids[0].size for item in images]
        check_positions(positions[:, 0], compute_positions(input_ids, image_token_id, grids))
        return positions[:, 0]

    def _encode_image(self, image_input: ImageInput, prompt: str) -> PrefixInput:
        ids, columns = self._encode_prompt(prompt, image_input)
        return PrefixInput(ids, self._locate(ids, [image_input]), columns, image_input)

    def _prefill(
        self,
        inputs: Sequence[PrefixInput],
        batch: PrefixBatch,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        patches = [self._patchify(item.image_input) for item in inputs]
        grids = torch.cat([item.image_input.inputs["image_grid_thw"] for item in inputs])
        output = self._run(
            self.model.model,
            input_ids=batch.input_ids,
            pixel_values=patches[0] if len(patches) == 1 else torch.cat(patches),
            image_grid_thw=grids.to(self.device, non_blocking=True),
            attention_mask=attention_mask,
            position_ids=batch.positions,
            past_key_values=batch.cache,
            use_cache=True,
        )
        return output.last_hidden_state

    @frozen_call
    def _read_turn(
        self,
        cache: Any,
        input_ids: Sequence[int],
        positions: Tensor,
        images: Sequence[ImageInput],
    ) -> Tensor:
        grids = torch.cat([item.inputs["image_grid_thw"] for item in images])
        output = self._run(
            self.model.model,
            input_ids=torch.tensor([input_ids], device=self.device),
            pixel_values=torch.cat([self._patchify(item) for item in images]),
            image_grid_thw=grids.to(self.device),
            position_ids=positions[:, None].to(self.device),
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[0, -1]

    def _patchify(self, image_input: ImageInput) -> Tensor:
        """``[n_patches, C*T*p*p]`` on the device, checked against the grid."""
        # Converted there: a cast on the way would go through memory that is not pinned.
        pixel_values = image_input.pixel_values.to(self.device, non_blocking=True).to(self.dtype)
        frames, grid_height, grid_width = image_input.inputs["image_grid_thw"][0].tolist()
        patch = self.image_processor.patch_size
        if tuple(pixel_values.shape[-2:]) != (grid_height * patch, grid_width * patch):
            raise ValueError(
                f"pixel_values of {list(pixel_values.shape)} do not fit the grid "
                f"{frames, grid_height, grid_width} of {patch} px patches: encode the image with "
                "this model's own processor"
            )
        return self.image_processor.patchify(pixel_values)

    def _decode(
        self,
        cache: Any,
        input_ids: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None = None,
        row_reader: RowReader | None = None,
    ) -> Sequence[Tensor]:
        decoder = self.model.model.language_model
        extra: dict[str, Any] = {}
        if row_reader is not None:
            extra = {"row_reader": row_reader, "output_hidden_states": True}
        output = self._run(
            decoder,
            # FlashAttention cannot take such a mask.
            attention=None if attention_mask is None else ROW_ATTENTION,
            inputs_embeds=self.model.get_input_embeddings()(input_ids),
            attention_mask=attention_mask,
            position_ids=positions.expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
            **extra,
        )
        if row_reader is None:
            return [output.last_hidden_state]
        return output.hidden_states[-self.num_layers :]


def expand_images(
    ids: Sequence[int],
    tokens: Sequence[tuple[int, Span]],
    grids: Sequence[tuple[int, int]],
    config: Any,
) -> tuple[list[int], list[slice], list[tuple[int, Span]]]:
    """Every image placeholder as often as its grid has cells.

    Args:
        ids: token ids with one placeholder per picture.
        tokens: places within ``ids``, each with something of its own.
        grids: (h, w) of each picture.
        config: of the model, with the id of the placeholder.

    Returns:
        the longer ids, where the image tokens of each picture are, and ``tokens`` moved.

    Raises:
        ValueError: there are not as many placeholders as pictures.
    """
    places = [place for place, index in enumerate(ids) if index == config.image_token_id]
    if len(places) != len(grids):
        raise ValueError(
            f"the rendered turn holds {len(places)} image placeholders for {len(grids)} pictures: "
            "the chat template must write exactly one for each"
        )
    expanded: list[int] = []
    columns: list[slice] = []
    moved: dict[int, int] = {}
    for place, index in enumerate(ids):
        moved[place] = len(expanded)
        if index == config.image_token_id:
            height, width = grids[len(columns)]
            columns.append(slice(len(expanded), len(expanded) + height * width))
            expanded += [index] * (height * width)
        else:
            expanded.append(index)
    return expanded, columns, [(moved[place], span) for place, span in tokens]


def check_image_span(ids: Sequence[int], grid_hw: tuple[int, int], config: Any) -> None:
    """Image tokens must fill the place between the vision tokens, as many as the grid has cells.

    Args:
        ids: token ids of the whole prefix.
        grid_hw: (h, w) of the attention grid.
        config: of the model, with the ids of its vision tokens.

    Raises:
        ValueError: they do not.
    """
    tokens = grid_hw[0] * grid_hw[1]
    found = [position for position, index in enumerate(ids) if index == config.image_token_id]
    if len(found) != tokens or found[-1] - found[0] + 1 != tokens:
        raise ValueError(
            f"the prompt holds {len(found)} image tokens, the grid {grid_hw[0]} x {grid_hw[1]} "
            f"(h x w) needs {tokens} in one run: check the chat template and the processor"
        )
    borders = list(ids[found[0] - 1 : found[0]]), list(ids[found[-1] + 1 : found[-1] + 2])
    if borders != ([config.vision_start_token_id], [config.vision_end_token_id]):
        raise ValueError(
            f"the image tokens stand between {borders[0]} and {borders[1]}, not between "
            f"<|vision_start|> ({config.vision_start_token_id}) and <|vision_end|> "
            f"({config.vision_end_token_id}): check the chat template"
        )


def _load_processor(source: Any) -> Any:
    """A unified processor, loaded where ``source`` is a name.

    Raises:
        TypeError: ``source`` is a ready model, or has no tokenizer and image processor.
    """
    if isinstance(source, (str, Path)):
        source = load_processor(source)
    if not (hasattr(source, "tokenizer") and hasattr(source, "image_processor")):
        raise TypeError(
            f"{type(source).__name__} is no unified processor: give processor= what "
            "AutoProcessor.from_pretrained gives for the model's folder"
        )
    return source
