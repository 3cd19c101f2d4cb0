"""Greedy answers, any number side by side, after one reading of an image.

In: a prefix and, per answer, the tokens that go on from it. Out: the token ids of each answer.
As with phrases (see base), each text sees the prefix and itself, and starts at the position right
after the prefix; one token of every text is fed per pass. A text that is alone runs without a
mask, through the model's own attention. Not its duty: templates, text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from flmm.readers.attention import build_continuation_mask
from flmm.readers.prefixes import Prefix, view_cache

if TYPE_CHECKING:
    from flmm.readers.base import FrozenVLM
    from flmm.readers.prompts import EncodedContinuation


@dataclass
class Turn:
    """What was said up to an answer, and the answer as far as it is written.

    Attributes:
        input_ids: ``[T]``, all tokens so far, the prefix's and the answer's included.
        next_position: where the next token stands.
        last_hidden_state: ``[D]``, of the last token that was fed.
        answer: token ids written so far, without the end of the turn.
    """

    input_ids: Tensor
    next_position: int
    last_hidden_state: Tensor
    answer: list[int] = field(default_factory=list)


class PackedTurns:
    """Feeds tokens of several turns behind one prefix, none of which sees the others.

    Args:
        vlm: the frozen reader.
        prefix: what was read; it stays as it is.
        prefix_length: S, its first columns, which every turn sees.
    """

    def __init__(self, vlm: FrozenVLM, prefix: Prefix, prefix_length: int) -> None:
        self.vlm = vlm
        self.cache = view_cache(prefix.cache, 0, slice(0, prefix_length))
        # Which turn each token behind the prefix belongs to.
        self.owners: list[int] = []
        self.prefix_mask = torch.ones(1, prefix_length, dtype=torch.bool, device=vlm.device)

    def feed(
        self, owners: Sequence[int], chunks: Sequence[Tensor], positions: Sequence[int]
    ) -> list[Tensor]:
        """Feed one run of tokens for each of some turns.

        Args:
            owners: the turns' numbers.
            chunks: per turn ``[R_i]`` token ids.
            positions: per turn, of the first of its tokens.

        Returns:
            per turn ``[D]``, the output of the last of its tokens.
        """
        lengths = [len(chunk) for chunk in chunks]
        for owner, length in zip(owners, lengths):
            self.owners += [owner] * length
        places = [torch.arange(first, first + size) for first, size in zip(positions, lengths)]
        device = self.vlm.device
        mask = None
        if len(set(self.owners)) > 1:
            index = torch.tensor([self.owners], device=device)
            mask = build_continuation_mask(
                index, self.prefix_mask, self.vlm.dtype, rows=sum(lengths)
            )
        ids, where = torch.cat(list(chunks)).to(device), torch.cat(places).to(device)
        output = self.vlm._decode(self.cache, ids[None], where[None], mask)[-1][0]
        ends = torch.tensor(lengths).cumsum(0) - 1
        return list(output[ends.to(output.device)])


def continue_prefix(vlm: FrozenVLM, prefix: Prefix, max_new_tokens: int) -> list[int]:
    """The answer to the prefix's own prompt, as token ids."""
    turn = Turn(prefix.input_ids, prefix.next_position, prefix.last_hidden_state)
    write_answers(PackedTurns(vlm, prefix, len(prefix)), [turn], max_new_tokens)
    return turn.answer


def answer_pack(
    vlm: FrozenVLM, prefix: Prefix, pack: Sequence[EncodedContinuation], max_new_tokens: int
) -> list[list[int]]:
    """The answers to questions that take the place of the prefix's prompt, as token ids.

    Args:
        vlm: the frozen reader.
        prefix: what was read; only the part that ends with the image is used.
        pack: all tokens behind the image, up to where the answer begins, of each question.
        max_new_tokens: the longest answer.
    """
    image_end = prefix.image_columns.stop
    behind_image = len(prefix) - image_end  # the prompt's tokens, one position each
    position = prefix.next_position - behind_image
    questions = [torch.tensor(item.input_ids, device=vlm.device) for item in pack]
    packed = PackedTurns(vlm, prefix, image_end)
    outputs = packed.feed(range(len(pack)), questions, [position] * len(pack))
    turns = [
        Turn(torch.cat([prefix.input_ids[:image_end], ids]), position + len(ids), output)
        for ids, output in zip(questions, outputs)
    ]
    write_answers(packed, turns, max_new_tokens)
    return [turn.answer for turn in turns]


def write_answers(packed: PackedTurns, turns: Sequence[Turn], max_new_tokens: int) -> None:
    """Write the answer of every turn, greedily, up to its end of turn.

    The repetition penalty of the model's generation config is applied, as in transformers.

    Args:
        packed: has been fed what the turns hold behind the prefix, turn ``i`` as owner ``i``.
        turns: written into.
        max_new_tokens: the longest answer; one that fills the model's context ends there.
    """
    vlm = packed.vlm
    stop_ids, processors = find_stop_ids(vlm), build_logits_processors(vlm)
    head = vlm.model.get_output_embeddings()
    unfinished = list(range(len(turns)))
    for step in range(max_new_tokens):
        speakers = [turns[index] for index in unfinished]
        if step:
            chunks = [turn.input_ids[-1:] for turn in speakers]
            positions = [turn.next_position for turn in speakers]
            hidden_states = packed.feed(unfinished, chunks, positions)
            for turn, hidden_state in zip(speakers, hidden_states):
                turn.last_hidden_state = hidden_state
                turn.next_position += 1
        hidden = torch.stack([turn.last_hidden_state for turn in speakers])
        logits = head(hidden).float().to(vlm.device)
        still = []
        for row, (index, turn) in enumerate(zip(unfinished, speakers)):
            context: Any = turn.input_ids[None]
            token = processors(context, logits[row : row + 1]).argmax(-1)
            if int(token) not in stop_ids:
                turn.answer.append(int(token))
                turn.input_ids = torch.cat([turn.input_ids, token])
                if len(turn.input_ids) < vlm.max_tokens:
                    still.append(index)
        unfinished = still
        if not unfinished:
            break


def find_stop_ids(vlm: FrozenVLM) -> set[int]:
    """Tokens that end an answer."""
    stop = getattr(vlm.model.generation_config, "eos_token_id", None)
    stop = set(stop if isinstance(stop, (list, tuple)) else [stop])
    return {index for index in stop | {vlm.tokenizer.eos_token_id} if index is not None}


def build_logits_processors(vlm: FrozenVLM) -> LogitsProcessorList:
    """What changes greedy scores: the repetition penalty of the generation config."""
    penalty = getattr(vlm.model.generation_config, "repetition_penalty", None) or 1.0
    return LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(penalty)] if penalty != 1.0 else []
    )
