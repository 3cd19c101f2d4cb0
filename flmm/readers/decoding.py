"""Greedy answers: the one loop that writes them, and texts side by side behind one reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from flmm.readers.attention import build_continuation_mask
from flmm.readers.caches import view_cache
from flmm.readers.frozen_model import FrozenModel
from flmm.readers.prefixes import Prefix

END, MAX_NEW_TOKENS, CONTEXT = "end", "max_new_tokens", "context"  # why an answer ends


def write_tokens(
    model: FrozenModel,
    texts: Sequence[list[int]],
    read_last: Callable[[Sequence[int]], Tensor],
    max_new_tokens: int,
) -> Iterator[dict[int, int | str]]:
    """One more token of every text that has not ended, greedily, step by step.

    The repetition penalty of the model's generation config is applied, as in transformers.

    Args:
        model: that speaks.
        texts: all token ids of each so far; the caller appends what it is given before it asks on.
        read_last: gives of some texts the hidden states ``[N, D]`` of their last tokens, after the
            final norm.
        max_new_tokens: the longest answer; one that fills the model's context ends there.

    Yields:
        per text that goes on its next token, or the reason why it ends.
    """
    stop_ids, processors = _find_stop_ids(model), _build_processors(model)
    going = list(range(len(texts)))
    for _ in range(max_new_tokens):
        step: dict[int, int | str] = {
            index: CONTEXT for index in going if len(texts[index]) >= model.max_tokens
        }
        going = [index for index in going if index not in step]
        if going:
            scores = model.score(read_last(going))
            if processors:
                ids: list[Any] = [torch.tensor([texts[i]], device=scores.device) for i in going]
                rows = [processors(*pair) for pair in zip(ids, scores.split(1))]
                scores = torch.cat(rows)
            tokens = zip(going, scores.argmax(-1).tolist())
            step |= {index: END if token in stop_ids else token for index, token in tokens}
        if step:
            yield step
        going = [index for index in going if step[index] != END]
        if not going:
            return
    yield dict.fromkeys(going, MAX_NEW_TOKENS)


def _find_stop_ids(model: FrozenModel) -> set[int]:
    """Tokens that end an answer."""
    stop = getattr(model.model.generation_config, "eos_token_id", None)
    stop = set(stop if isinstance(stop, (list, tuple)) else [stop])
    return {index for index in stop | {model.tokenizer.eos_token_id} if index is not None}


def _build_processors(model: FrozenModel) -> LogitsProcessorList:
    """What changes greedy scores: the repetition penalty of the generation config."""
    penalty = getattr(model.model.generation_config, "repetition_penalty", None) or 1.0
    return LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(penalty)] if penalty != 1.0 else []
    )


class PackedTexts:
    """Texts behind the first ``length`` tokens of one prefix, none of which sees the others.

    As with phrases, each starts at the position right behind the prefix; one pass feeds what is new
    in all of them. A text that is alone runs without a mask, through the model's own attention.
    """

    def __init__(
        self, model: FrozenModel, prefix: Prefix, length: int, texts: Sequence[list[int]]
    ) -> None:
        self._model = model
        self._cache = view_cache(prefix.cache, 0, slice(0, length))
        self._prefix_mask = torch.ones(1, length, dtype=torch.bool, device=model.device)
        self._axes = len(prefix.positions)
        self._shift = prefix.next_position - len(prefix)  # from a token's place to its position
        self._owners: list[int] = []  # which text each token behind the prefix belongs to
        beginning = prefix.input_ids[:length].tolist()
        self.texts = [beginning + text for text in texts]
        self._fed = [length] * len(texts)
        self._states: dict[int, Tensor] = {}
        if length == len(prefix):
            self._states = dict.fromkeys(range(len(texts)), prefix.last_hidden_state)

    def write(self, max_new_tokens: int) -> list[list[int]]:
        """The answer to each text, without the end of the turn."""
        starts = list(map(len, self.texts))
        for step in write_tokens(self._model, self.texts, self._read_last, max_new_tokens):
            for index, token in step.items():
                if isinstance(token, int):
                    self.texts[index].append(token)
        return [text[start:] for text, start in zip(self.texts, starts)]

    def _read_last(self, texts: Sequence[int]) -> Tensor:
        """``[N, D]`` of the last tokens of some texts; feeds what is not fed yet."""
        pending = [index for index in texts if self._fed[index] < len(self.texts[index])]
        if pending:
            self._feed(pending)
        return torch.stack([self._states[index] for index in texts])

    def _feed(self, texts: Sequence[int]) -> None:
        device = self._model.device
        places = [range(self._fed[index], len(self.texts[index])) for index in texts]
        ids = [
            token for index, own in zip(texts, places) for token in self.texts[index][own.start :]
        ]
        positions = torch.tensor([place + self._shift for own in places for place in own])
        for index, own in zip(texts, places):
            self._owners += [index] * len(own)
        mask = None
        if len(self.texts) > 1:
            owners = torch.tensor([self._owners], device=device)
            mask = build_continuation_mask(owners, self._prefix_mask, self._model.dtype, len(ids))
        (output,) = self._model.decode(
            self._cache,
            torch.tensor([ids], device=device),
            positions.to(device).expand(self._axes, 1, -1),
            mask,
        )
        end = 0
        for index, own in zip(texts, places):
            end += len(own)
            self._states[index] = output[0, end - 1]
            self._fed[index] = own.stop
