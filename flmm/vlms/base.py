"""The contract of a frozen reader, and what all families share.

In: an image and a prompt (``prefill``, once), then phrases (``attend``) or nothing
(``generate``). Out: where each phrase looked, what was thought, what is said. A family provides
``_prefill_one`` and ``_decode``; see docs/adding_a_vlm_family.md.
Not its duty: masks, training.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from flmm.structures import Continuation, ImageInput, PhraseAttention, as_continuations
from flmm.vlms.attention import TOKEN_MERGES, RowReader, borrow_cache, build_continuation_mask
from flmm.vlms.prompts import EncodedContinuation, PlainTextTokenizer

DEFAULT_PROMPT = "Please give me a description of the image."  # F-LMM's


@dataclass
class Prefix:
    """One image and prompt, read.

    Attributes:
        input_ids: ``[S]`` int64, image placeholders expanded.
        grid_hw: (h, w) of the attention grid: image tokens, row by row.
        image_columns: the h*w positions of the image tokens within [0, S).
        cache: keys and values of the S tokens; every pass leaves it as it was.
        next_position: where each continuation starts (M-RoPE, the same on its three axes).
        last_hidden_state: ``[D]``, of the last token, after the final norm.
        image_input: the picture that was read.
    """

    input_ids: Tensor
    grid_hw: tuple[int, int]
    image_columns: slice
    cache: Any = field(repr=False)
    next_position: int
    last_hidden_state: Tensor = field(repr=False)
    image_input: ImageInput = field(repr=False)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def image_token_mask(self) -> Tensor:
        """``[S]`` bool, true on the image tokens."""
        mask = torch.zeros(len(self), dtype=torch.bool, device=self.input_ids.device)
        mask[self.image_columns] = True
        return mask

    @property
    def meta_data(self) -> dict[str, Any]:
        """Sizes and padding of the picture, see ``geometry.build_meta_data``."""
        return self.image_input.meta_data


class _Held:
    """Keeps a frozen model out of its owner's modules; copies of the owner share it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self


def frozen_call(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method of a reader in eval mode, without gradient and in the reader's own dtype.

    A surrounding autocast is switched off: float16 would overflow a bfloat16 model.
    """

    @functools.wraps(method)
    def wrapper(self: FrozenVLM, *args: Any, **kwargs: Any) -> Any:
        if self.model.training:
            self.model.eval()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return wrapper


class FrozenVLM(nn.Module, ABC):
    """A vision-language model that is read and never trained.

    The model is held outside the module tree: ``parameters()``, ``state_dict()``, an optimiser,
    DDP and ``requires_grad_()`` of a parent do not see it; ``to()`` and ``cuda()`` move it, a
    deep copy shares it.

    Args:
        model: transformers model with a language head.
        tokenizer: its fast tokenizer.
        image_processor: anything with ``encode(image) -> ImageInput``.
        token_merge: ``"mean"`` or ``"max"`` over the tokens of a phrase.
        prompt: the default prompt; ``None``: F-LMM's.

    Attributes:
        max_rows: continuations are packed into passes of at most so many tokens (a longer
            continuation has a pass of its own), which bounds memory; results do not change.

    Raises:
        ValueError: ``token_merge`` is not known.
    """

    max_rows = 512

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        token_merge: str = "mean",
        prompt: str | None = None,
    ) -> None:
        super().__init__()
        if token_merge not in TOKEN_MERGES:
            raise ValueError(f"token_merge {token_merge!r} is not known: give 'mean' or 'max'")
        self._held = _Held(model.eval().requires_grad_(False))
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.token_merge = token_merge
        self.default_prompt = DEFAULT_PROMPT if prompt is None else prompt
        self._plain_text = PlainTextTokenizer(tokenizer)
        self.train(False)

    @property
    def model(self) -> Any:
        """The frozen transformers model."""
        return self._held.model

    @property
    def text_config(self) -> Any:
        """Config of the language model."""
        return self.model.config.get_text_config()

    @property
    def num_layers(self) -> int:
        """Attention layers L."""
        return self.text_config.num_hidden_layers

    @property
    def num_heads(self) -> int:
        """Attention heads A of a layer."""
        return self.text_config.num_attention_heads

    @property
    def num_maps(self) -> int:
        """Channels L*A of the attention maps."""
        return self.num_layers * self.num_heads

    @property
    def hidden_size(self) -> int:
        """Width D of the text features."""
        return self.text_config.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frozen weights."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the token embeddings."""
        return self.model.get_input_embeddings().weight.device

    def extra_repr(self) -> str:
        """Family and sizes; the model itself is no submodule."""
        sizes = f"{self.num_layers} layers x {self.num_heads} heads"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.model.config.model_type}, {sizes}, {dtype}, {self.token_merge}"

    def train(self, mode: bool = True) -> FrozenVLM:
        """Stay in eval mode, whatever ``mode``."""
        self.model.eval()
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenVLM:
        """What ``to()`` and ``cuda()`` call; a model spread over devices stays where it is."""
        if len(set((getattr(self.model, "hf_device_map", None) or {}).values())) < 2:
            self.model._apply(fn)
        return super()._apply(fn, recurse)

    @abstractmethod
    def _prefill_one(self, image_input: ImageInput, prompt: str) -> Prefix:
        """Read one image and prompt."""

    @abstractmethod
    def _decode(
        self,
        prefix: Prefix,
        input_ids: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None = None,
        row_reader: RowReader | None = None,
    ) -> Sequence[Tensor]:
        """Feed tokens after the prefix; the cache grows.

        Args:
            prefix: what was read.
            input_ids: ``[R]``.
            positions: ``[R]``, the same on every axis of the position encoding.
            attention_mask: additive ``[1, 1, R, S + R]``; ``None``: causal.
            row_reader: where every layer's weights go; ``None``: no weights are computed.

        Returns:
            with a reader L tensors ``[R, D]``, the outputs of the layers, the last one after
            the final norm; without one only that last one.
        """

    @overload
    def prefill(
        self, image: list[Any] | tuple[Any, ...], prompt: str | None = ...
    ) -> list[Prefix]: ...

    @overload
    def prefill(self, image: Any, prompt: str | None = ...) -> Prefix: ...

    def prefill(self, image: Any, prompt: str | None = None) -> Prefix | list[Prefix]:
        """Read an image and a prompt, once.

        Args:
            image: a picture (anything ``load_image`` reads), an ``ImageInput``, or a list of
                them: a batch, the same as one by one.
            prompt: plain text of the user turn, behind the image; ``None``: the default prompt.

        Raises:
            TypeError, FileNotFoundError, ValueError: as the image processor; or the image
                tokens of the rendered prompt do not fit the grid.
        """
        if isinstance(image, (list, tuple)):
            return [self._read(item, prompt) for item in image]
        return self._read(image, prompt)

    @frozen_call
    def _read(self, image: Any, prompt: str | None) -> Prefix:
        prompt = self.default_prompt if prompt is None else prompt
        if not isinstance(prompt, str):
            raise TypeError(f"the prompt is a {type(prompt).__name__}: give a str or None")
        return self._prefill_one(self.image_processor.encode(image), prompt)

    @overload
    def attend(self, prefix: Prefix, phrases: Any) -> PhraseAttention: ...

    @overload
    def attend(self, prefix: Sequence[Prefix], phrases: Any) -> list[PhraseAttention]: ...

    def attend(
        self, prefix: Prefix | Sequence[Prefix], phrases: Any
    ) -> PhraseAttention | list[PhraseAttention]:
        """Where phrases look.

        Args:
            prefix: what ``prefill`` gave; a list of them with a list of phrase lists: a batch.
            phrases: list of ``str`` (each sees the prefix and itself only) or
                :class:`Continuation` (its phrases also see its earlier text).

        Raises:
            TypeError, ValueError: as ``as_continuations``; or a phrase has no token; or the two
                lists differ in length.
        """
        if isinstance(prefix, Prefix):
            return self._attend_one(prefix, as_continuations(phrases))
        if len(prefix) != len(phrases):
            raise ValueError(
                f"{len(prefix)} prefixes but {len(phrases)} lists of phrases: give one list for "
                "each prefix"
            )
        return [self.attend(item, own) for item, own in zip(prefix, phrases)]

    @frozen_call
    def _attend_one(self, prefix: Prefix, continuations: list[Continuation]) -> PhraseAttention:
        encoded = [self._plain_text.encode_continuation(item) for item in continuations]
        packs = list(split_into_packs(encoded, self.max_rows))
        seen = [self._attend_pack(prefix, pack) for pack in packs]
        return PhraseAttention(
            maps=torch.cat([item.maps for item in seen]),
            text_features=[features for item in seen for features in item.text_features],
            input_ids=[ids for item in seen for ids in item.input_ids],
        )

    def _attend_pack(self, prefix: Prefix, pack: list[EncodedContinuation]) -> PhraseAttention:
        lengths = [len(item.input_ids) for item in pack]
        starts = [sum(lengths[:index]) for index in range(len(pack))]
        spans = [
            (start + first, start + last)
            for start, item in zip(starts, pack)
            for first, last in item.token_spans
        ]
        own_positions = torch.cat([torch.arange(length) for length in lengths])
        sequence_index = torch.arange(len(pack)).repeat_interleave(torch.tensor(lengths))
        input_ids = torch.tensor([index for item in pack for index in item.input_ids])
        reader = RowReader(
            *(spans, prefix.image_columns, self.num_layers, self.num_heads),
            *(self.token_merge, self.device),
        )
        mask = build_continuation_mask(sequence_index.to(self.device), len(prefix), self.dtype)
        with borrow_cache(prefix.cache):
            layers = self._decode(
                prefix,
                input_ids.to(self.device),
                (own_positions + prefix.next_position).to(self.device),
                attention_mask=mask,
                row_reader=reader,
            )
        features = torch.stack([layer.to(self.device) for layer in layers])
        return PhraseAttention(
            maps=reader.maps.unflatten(-1, prefix.grid_hw),
            text_features=[features[:, start:end] for start, end in spans],
            input_ids=list(input_ids.to(self.device).split(lengths)),
        )

    @frozen_call
    def generate(self, prefix: Prefix, max_new_tokens: int = 256) -> str:
        """The frozen model's own answer, greedy, up to its end of turn.

        The repetition penalty of the model's generation config is applied, as in transformers.

        Args:
            prefix: what ``prefill`` gave; it serves again afterwards.
            max_new_tokens: the longest answer.
        """
        stop_ids, processors = self._stop_ids(), self._logits_processors()
        head = self.model.get_output_embeddings()
        input_ids: Any = prefix.input_ids[None]
        hidden_state = prefix.last_hidden_state
        with borrow_cache(prefix.cache):
            for step in range(max_new_tokens):
                if step:
                    position = torch.tensor([prefix.next_position + step - 1], device=self.device)
                    hidden_state = self._decode(prefix, input_ids[0, -1:], position)[-1][-1]
                logits = head(hidden_state[None]).float().to(self.device)
                token = processors(input_ids, logits).argmax(-1)
                if int(token) in stop_ids:
                    break
                input_ids = torch.cat([input_ids, token[None]], dim=1)
        return self.tokenizer.decode(input_ids[0, len(prefix) :], skip_special_tokens=True)

    def _stop_ids(self) -> set[int]:
        stop = getattr(self.model.generation_config, "eos_token_id", None)
        stop = set(stop if isinstance(stop, (list, tuple)) else [stop])
        return {index for index in stop | {self.tokenizer.eos_token_id} if index is not None}

    def _logits_processors(self) -> LogitsProcessorList:
        penalty = getattr(self.model.generation_config, "repetition_penalty", None) or 1.0
        return LogitsProcessorList(
            [RepetitionPenaltyLogitsProcessor(penalty)] if penalty != 1.0 else []
        )


def split_into_packs(
    encoded: list[EncodedContinuation], max_rows: int
) -> Iterator[list[EncodedContinuation]]:
    """Continuations in order, in groups of at most ``max_rows`` tokens (but at least one)."""
    pack: list[EncodedContinuation] = []
    rows = 0
    for item in encoded:
        if pack and rows + len(item.input_ids) > max_rows:
            yield pack
            pack, rows = [], 0
        pack.append(item)
        rows += len(item.input_ids)
    if pack:
        yield pack
