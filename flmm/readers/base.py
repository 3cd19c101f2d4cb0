"""The contract of a frozen reader, and what all families share.

In: an image and a prompt (``prefill``, once), then phrases (``attend``), nothing (``generate``)
or other questions (``answer``). Out: where each phrase looked, what was thought, what is said. A
family provides ``_encode_image``, ``_encode_question``, ``_prefill`` and ``_decode``; see
docs/adding_a_vlm_family.md.
Not its duty: masks, training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from flmm.readers.attention import TOKEN_MERGES, RowReader, build_continuation_mask
from flmm.readers.context import Context, ContextFullError
from flmm.readers.dialogue import Dialogue
from flmm.readers.frozen_model import FrozenModel, frozen_call
from flmm.readers.generation import answer_pack, build_logits_processors, continue_prefix
from flmm.readers.packing import attend_prefixes, split_into_packs
from flmm.readers.prefixes import (
    PADDING_SIDES,
    Prefix,
    PrefixBatch,
    PrefixInput,
    pad_inputs,
    plan_batches,
)
from flmm.readers.prompts import EncodedContinuation, PlainTextTokenizer
from flmm.records import Continuation, ImageInput, PhraseAttention, Span, as_continuations

_PREFIX = "the picture with its prompt"
DEFAULT_PROMPT = "Please give me a description of the image."  # F-LMM's


class FrozenVLM(FrozenModel, ABC):
    """A vision-language model that is read and never trained.

    See :class:`flmm.readers.frozen_model.FrozenModel` for how it is held.

    Args:
        model: transformers model with a language head.
        tokenizer: its fast tokenizer.
        image_processor: anything with ``encode(image) -> ImageInput``.
        token_merge: ``"mean"`` or ``"max"`` over the tokens of a phrase.
        prompt: the default prompt; ``None``: F-LMM's.

    Attributes (they change speed and memory, never results):
        max_rows: continuations of an image are packed into passes of at most so many tokens (a
            longer continuation has a pass of its own).
        max_batch_tokens: images are read together up to so many tokens, padding included.
        max_batch_padding: greatest share of padding, in [0, 1], in such a batch.
        padding_side: ``"right"`` or ``"left"``. On the right, causal attention never sees the
            padding and needs no mask: the fastest kernels serve.

    Raises:
        ValueError: ``token_merge`` is not known.
    """

    max_rows = 512
    max_batch_tokens = 8192
    max_batch_padding = 0.25
    padding_side = "right"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        token_merge: str = "mean",
        prompt: str | None = None,
    ) -> None:
        super().__init__(model)
        if token_merge not in TOKEN_MERGES:
            raise ValueError(f"token_merge {token_merge!r} is not known: give 'mean' or 'max'")
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.token_merge = token_merge
        self.default_prompt = DEFAULT_PROMPT if prompt is None else prompt
        self._plain_text = PlainTextTokenizer(tokenizer)

    def extra_repr(self) -> str:
        """Family and sizes; the model itself is no submodule."""
        sizes = f"{self.num_layers} layers x {self.num_heads} heads"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.model.config.model_type}, {sizes}, {dtype}, {self.token_merge}"

    @abstractmethod
    def _encode_image(self, image_input: ImageInput, prompt: str) -> PrefixInput:
        """Token ids and positions of one image and prompt."""

    @abstractmethod
    def _prefill(
        self,
        inputs: Sequence[PrefixInput],
        batch: PrefixBatch,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Read images in one pass; ``batch.cache`` fills.

        Args:
            inputs: the images.
            batch: the same, padded to ``[B, S]``.
            attention_mask: bool ``[B, S]``, false on padding; ``None``: causal.

        Returns:
            ``[B, S, D]``, after the final norm.
        """

    @abstractmethod
    def _encode_question(self, question: str, image: ImageInput) -> list[int]:
        """Token ids of the user turn behind the image tokens, up to where the answer begins.

        Args:
            question: plain text.
            image: the picture before it.
        """

    @abstractmethod
    def _encode_turn(
        self, question: str, images: Sequence[ImageInput], is_first: bool
    ) -> tuple[list[int], list[slice], list[tuple[int, Span]]]:
        """Token ids of a user turn of a conversation, up to where the answer begins.

        Args:
            question: plain text.
            images: the pictures of the turn, in order.
            is_first: nothing stands before; otherwise the turn begins behind the last token of
                an answer, and closes it.

        Returns:
            the ids, pictures expanded; per picture where its image tokens are; and of each token
            of the question its place in the ids and its characters.
        """

    @abstractmethod
    def _locate(self, input_ids: Sequence[int], images: Sequence[ImageInput]) -> Tensor:
        """Int64 ``[axes, S]`` on the CPU: positions of tokens that hold all of ``images``."""

    @abstractmethod
    def _read_turn(
        self,
        cache: Any,
        input_ids: Sequence[int],
        positions: Tensor,
        images: Sequence[ImageInput],
    ) -> Tensor:
        """Feed R tokens that hold pictures after what the cache holds.

        Args:
            cache: keys and values of what stands before; grows.
            input_ids: R tokens, pictures expanded.
            positions: ``[axes, R]``.
            images: the pictures of these tokens, in order.

        Returns:
            ``[D]``, of the last token, after the final norm.
        """

    @abstractmethod
    def _decode(
        self,
        cache: Any,
        input_ids: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None = None,
        row_reader: RowReader | None = None,
    ) -> Sequence[Tensor]:
        """Feed tokens after what the cache holds.

        Args:
            cache: keys and values of S tokens, of B rows.
            input_ids: ``[B, R]``.
            positions: ``[B, R]``, the same on every axis of the position encoding.
            attention_mask: additive ``[B, 1, R, S + R]``; ``None``: causal, through the model's
                fastest attention.
            row_reader: where every layer's weights go; ``None``: no weights are computed.

        Returns:
            with a reader L tensors ``[B, R, D]``, the outputs of the layers, the last one after
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
                them, of any sizes and any length: images of similar sizes are read in one pass,
                with the results of one by one.
            prompt: plain text of the user turn, behind the image; ``None``: the default prompt.

        Raises:
            TypeError, FileNotFoundError, ValueError: as the image processor; or the image
                tokens of the rendered prompt do not fit the grid.
            ContextFullError: picture and prompt do not fit into the model's context.
        """
        if isinstance(image, (list, tuple)):
            return self._read(image, prompt)
        return self._read([image], prompt)[0]

    @frozen_call
    def _read(self, images: Sequence[Any], prompt: str | None) -> list[Prefix]:
        prompt = self.default_prompt if prompt is None else prompt
        if not isinstance(prompt, str):
            raise TypeError(f"the prompt is a {type(prompt).__name__}: give a str or None")
        if self.padding_side not in PADDING_SIDES:
            raise ValueError(f"padding_side is {self.padding_side!r}: set 'right' or 'left'")
        encoded = [self.image_processor.encode(image) for image in images]
        inputs = [self._encode_image(item, prompt) for item in encoded]
        for item in inputs:
            columns = item.image_columns.stop - item.image_columns.start
            way_out = "shorten the prompt, or lower max_pixels"
            context = Context(self.max_tokens, columns, "the picture", way_out)
            context.check("the prompt", prompt, len(item) - columns)
        prefixes: dict[int, Prefix] = {}
        lengths = list(map(len, inputs))
        for places in plan_batches(lengths, self.max_batch_tokens, self.max_batch_padding):
            own = [inputs[place] for place in places]
            prefixes.update(zip(places, self._read_batch(own)))
        return [prefixes[place] for place in range(len(inputs))]

    def _read_batch(self, inputs: list[PrefixInput]) -> list[Prefix]:
        padding_id = self.tokenizer.pad_token_id or 0
        batch = pad_inputs(inputs, self.padding_side, padding_id, self.device)
        masked = batch.is_padded and self.padding_side == "left"
        hidden_states = self._prefill(inputs, batch, batch.token_mask if masked else None)
        return batch.split(inputs, hidden_states)

    @overload
    def attend(self, prefix: Prefix, phrases: Any) -> PhraseAttention: ...

    @overload
    def attend(self, prefix: Sequence[Prefix], phrases: Any) -> list[PhraseAttention]: ...

    def attend(
        self, prefix: Prefix | Sequence[Prefix], phrases: Any
    ) -> PhraseAttention | list[PhraseAttention]:
        """Where phrases look.

        Args:
            prefix: what ``prefill`` gave; a list of them with a list of phrase lists: those that
                were read together are asked together, with the results of one by one.
            phrases: list of ``str`` (each sees the prefix and itself only) or
                :class:`Continuation` (its phrases also see its earlier text).

        Raises:
            TypeError, ValueError: as ``as_continuations``; or a phrase has no token; or the two
                lists differ in length.
            ContextFullError: a phrase does not fit into the model's context behind the prefix;
                nothing was computed.
        """
        if isinstance(prefix, Prefix):
            return self._attend([prefix], [as_continuations(phrases)])[0]
        if len(prefix) != len(phrases):
            raise ValueError(
                f"{len(prefix)} prefixes but {len(phrases)} lists of phrases: give one list for "
                "each prefix"
            )
        return self._attend(prefix, [as_continuations(item) for item in phrases])

    @frozen_call
    def _attend(
        self, prefixes: Sequence[Prefix], continuations: Sequence[list[Continuation]]
    ) -> list[PhraseAttention]:
        packs = []
        for prefix, own in zip(prefixes, continuations):
            encoded = [self._plain_text.encode_continuation(item) for item in own]
            context = Context(self.max_tokens, len(prefix), _PREFIX, "shorten the phrase")
            for text, item in zip(own, encoded):
                context.check("the phrase", text.text, len(item.input_ids))
            packs.append(list(split_into_packs(encoded, self.max_rows)))
        return attend_prefixes(self, prefixes, packs)

    @frozen_call
    def generate(self, prefix: Prefix, max_new_tokens: int = 256) -> str:
        """The frozen model's own answer, greedy, up to its end of turn.

        The repetition penalty of the model's generation config is applied, as in transformers.

        Args:
            prefix: what ``prefill`` gave; it serves again afterwards.
            max_new_tokens: the longest answer; one that fills the model's context ends there.

        Raises:
            ContextFullError: the prefix leaves no room for an answer.
        """
        if len(prefix) >= self.max_tokens:
            raise ContextFullError(
                f"{_PREFIX} holds {len(prefix)} tokens, and the model reads {self.max_tokens} "
                "(max_position_embeddings): shorten the prompt to leave room for an answer"
            )
        ids = continue_prefix(self, prefix, max_new_tokens)
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    @frozen_call
    def answer(
        self,
        image: Any,
        questions: Sequence[str],
        max_new_tokens: int = 256,
        skip_special_tokens: bool = True,
    ) -> list[str]:
        """Answers to questions about one image, which is read once.

        Each is what ``generate(prefill(image, question))`` gives: every question goes on from
        the image as if it had been the prompt, all of them side by side, none seeing another.

        Args:
            image: a picture, an ``ImageInput``, or what ``prefill`` gave (its prompt is ignored;
                it serves again afterwards).
            questions: plain text, each the whole text of a user turn.
            max_new_tokens: the longest answer; one that fills the model's context ends there.
            skip_special_tokens: leave control tokens out of the answers' text.

        Raises:
            TypeError: ``questions`` is no list of ``str``, or the image as in ``prefill``.
            ContextFullError: a question does not fit into the model's context; nothing was
                answered.
        """
        if isinstance(questions, str) or not all(isinstance(item, str) for item in questions):
            raise TypeError("questions is no list of str: give a list, also of a single one")
        prefix = image if isinstance(image, Prefix) else self.prefill(image)
        encoded = [
            EncodedContinuation(self._encode_question(question, prefix.image_input), [])
            for question in questions
        ]
        end = prefix.image_columns.stop
        context = Context(self.max_tokens, end, "the picture", "shorten the question")
        for question, item in zip(questions, encoded):
            context.check("the question", question, len(item.input_ids), room=1)
        answers = [
            ids
            for pack in split_into_packs(encoded, self.max_rows)
            for ids in answer_pack(self, prefix, pack, max_new_tokens)
        ]
        return [
            self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens) for ids in answers
        ]

    def converse(self, image: Any) -> Dialogue:
        """A conversation about a picture, which is read once.

        Args:
            image: a picture, an ``ImageInput``, or what ``prefill`` gave (its prompt is ignored;
                it serves again afterwards).
        """
        return Dialogue(self, image if isinstance(image, Prefix) else self.prefill(image))

    @frozen_call
    def _decode_rows(
        self,
        cache: Any,
        input_ids: Sequence[int],
        positions: Tensor,
        row_reader: RowReader | None,
    ) -> Sequence[Tensor]:
        """:meth:`_decode` of one run of text.

        Args:
            cache: of one row.
            input_ids: R tokens.
            positions: ``[axes, R]``, the same on every axis.
            row_reader: as there.
        """
        mask = None
        if row_reader is not None:
            owners = torch.zeros(1, len(input_ids), dtype=torch.int64, device=self.device)
            seen = torch.ones(1, cache.get_seq_length(), dtype=torch.bool, device=self.device)
            mask = build_continuation_mask(owners, seen, self.dtype)
        ids = torch.tensor([input_ids], device=self.device)
        return self._decode(cache, ids, positions[:1].to(self.device), mask, row_reader)

    @frozen_call
    def _score_next(self, hidden_state: Tensor, input_ids: Sequence[int]) -> int:
        """The next token, greedily.

        Args:
            hidden_state: ``[D]``, of the last token.
            input_ids: all tokens so far, which the repetition penalty counts.
        """
        logits = self.model.get_output_embeddings()(hidden_state[None]).float()
        context: Any = torch.tensor([input_ids], device=logits.device)
        return int(build_logits_processors(self)(context, logits).argmax(-1))
