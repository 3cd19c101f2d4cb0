"""The frozen reader: one for every family of vision-language models.

In: an image and a prompt (``prefill``, once), then phrases (``attend``), nothing (``generate``)
or other questions (``answer``, ``converse``). What families differ in is said in ``families``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

import torch
from mmengine.logging import print_log
from transformers import PreTrainedModel

from flmm.readers.decoding import PackedTexts
from flmm.readers.dialogue import Dialogue
from flmm.readers.families import find_family
from flmm.readers.frozen_model import FrozenModel, frozen_call
from flmm.readers.image_processor import ImageProcessorWrapper
from flmm.readers.loading import (
    build_random_model,
    check_processor,
    load_config,
    load_model,
    load_processor,
)
from flmm.readers.packing import attend_prefixes, split_into_packs
from flmm.readers.prefixes import PADDING_SIDES, Prefix, PrefixInput, pad_inputs, plan_batches
from flmm.readers.prompts import (
    Context,
    ContextFullError,
    EncodedContinuation,
    PlainTextTokenizer,
)
from flmm.readers.turns import TurnEncoder
from flmm.records import Continuation, ImageInput, PhraseAttention, as_continuations
from flmm.registry import MODELS

_PREFIX = "the picture with its prompt"
Reader = TypeVar("Reader", bound="FrozenVLM")


@MODELS.register_module()
class FrozenVLM(FrozenModel):
    """A frozen vision-language model behind ``prefill``, ``attend``, ``generate`` and ``answer``.

    Args:
        name_or_path: folder or hub id; ``"tiny"``: the model embedded in flmm; or a ready
            transformers model (then ``processor`` is needed).
        dtype: ``"auto"``, a torch dtype or its name.
        attn_implementation: of the prefill: ``"sdpa"``, ``"flash_attention_2"``, ``"eager"``. SDPA
            applies no soft cap: a language model that has one then runs in chunks of rows.
        token_merge: ``"mean"`` or ``"max"`` over the tokens of a phrase, or ``"last"``: the mean
            over those of its last word (``words.find_last_word``), which has seen the others and
            is most often what the phrase names.
        prompt: the default prompt; ``None``: the family's, which is F-LMM's where it names none.
        processor: unified processor, or a folder or hub id; ``None``: from ``name_or_path``.
        image_options: further arguments of the image processor.
        device_map: as in transformers, to spread a large model over devices.
        random_init: take the config only, with random weights: the untrained control.
        seed: of these random weights.

    Attributes (the first four change speed and memory, never results):
        max_rows: continuations of an image are packed into passes of at most so many tokens (a
            longer continuation has a pass of its own).
        max_batch_tokens: images are read together up to so many tokens, padding included.
        max_batch_padding: greatest share of padding, in [0, 1], in such a batch.
        padding_side: ``"right"`` or ``"left"``. On the right, causal attention never sees the
            padding and needs no mask: the fastest kernels serve. Layers that keep a state take it
            on the left alone, and are given it there.
        image_processor: anything with ``encode(image) -> ImageInput``.
        plain_text: reads what people write.
        turns: encodes what they ask.

    Raises:
        OSError: there is no model at ``name_or_path``.
        TypeError: there is no unified processor.
        ValueError: flmm reads no such model, or model and processor do not belong together.
    """

    model_types: ClassVar[tuple[str, ...] | None] = None  # that it reads; None: all of flmm's
    max_rows = 512
    max_batch_tokens = 8192
    max_batch_padding = 0.25
    padding_side = "right"

    def __init__(
        self,
        name_or_path: str | Path | PreTrainedModel,
        dtype: str | torch.dtype = "bfloat16",
        attn_implementation: str = "sdpa",
        token_merge: str = "mean",
        prompt: str | None = None,
        processor: Any = None,
        image_options: dict[str, Any] | None = None,
        device_map: Any = None,
        random_init: bool = False,
        seed: int = 0,
    ) -> None:
        model: Any = None
        if isinstance(name_or_path, PreTrainedModel):
            model, config = name_or_path, name_or_path.config
        else:
            config = load_config(name_or_path)
        kind = find_family(config, self.model_types)
        source: Any = name_or_path if processor is None else processor
        if isinstance(source, (str, Path)):
            source = load_processor(source)
        family, options = kind(config, check_processor(source)), image_options or {}
        if family.image_processor is None:
            family = family.change_images(options)
        if model is None and random_init:
            model = build_random_model(config, dtype, attn_implementation, seed)
        elif not isinstance(name_or_path, PreTrainedModel):
            model = load_model(name_or_path, config, dtype, attn_implementation, device_map)
        super().__init__(model, family, token_merge)
        self.processor = family.processor
        build = family.image_processor
        self.image_processor: Any = (
            ImageProcessorWrapper(family, **options)
            if build is None
            else build(family.processor, **options)
        )
        self.default_prompt = family.prompt if prompt is None else prompt
        self.plain_text = PlainTextTokenizer(self.tokenizer, family.answer_gap)
        self.turns = TurnEncoder(family, self.plain_text)

    @classmethod
    def from_model(cls: type[Reader], model: Any, processor: Any, **kwargs: Any) -> Reader:
        """Wrap a ready model and its unified processor; ``kwargs`` as in the constructor."""
        return cls(model, processor=processor, **kwargs)

    def extra_repr(self) -> str:
        """Family and sizes; the model itself is no submodule."""
        sizes = f"{self.num_layers} layers x {self.num_heads} heads"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.model.config.model_type}, {sizes}, {dtype}, {self.token_merge}"

    def render_prompt(self, prompt: str | None = None) -> str:
        """The text the model reads, as the chat template renders it, placeholder not expanded."""
        before, after = self.family.render(1, is_first=True)
        return before + (self.default_prompt if prompt is None else prompt) + after

    @overload
    def prefill(
        self, image: list[Any] | tuple[Any, ...], prompt: str | None = ..., layers: int | None = ...
    ) -> list[Prefix]: ...

    @overload
    def prefill(self, image: Any, prompt: str | None = ..., layers: int | None = ...) -> Prefix: ...

    def prefill(
        self, image: Any, prompt: str | None = None, layers: int | None = None
    ) -> Prefix | list[Prefix]:
        """Read an image and a prompt, once.

        Args:
            image: a picture (anything ``load_image`` reads), an ``ImageInput``, or a list of
                them, of any sizes: those of similar sizes are read in one pass, with the results of
                one by one.
            prompt: plain text of the user turn, behind the image; ``None``: the default prompt.
            layers: read with the first k layers alone, at the price of these: ``attend`` then gives
                the k*A maps and the k features of a phrase that a full reading begins with.
                ``None``: all.

        Raises:
            ContextFullError: picture and prompt do not fit into the model's context.
            ValueError: the model has not so many layers.
        """
        if isinstance(image, (list, tuple)):
            return self._read_all(image, prompt, layers)
        return self._read_all([image], prompt, layers)[0]

    @frozen_call
    def _read_all(
        self, images: Sequence[Any], prompt: str | None, layers: int | None
    ) -> list[Prefix]:
        layers = self.num_layers if layers is None else layers
        if not 1 <= layers <= self.num_layers:
            raise ValueError(
                f"layers is {layers}, and the reader has {self.num_layers}: give 1 to "
                f"{self.num_layers}, or None for all"
            )
        prompt = self.default_prompt if prompt is None else prompt
        if not isinstance(prompt, str):
            raise TypeError(f"the prompt is a {type(prompt).__name__}: give a str or None")
        if self.padding_side not in PADDING_SIDES:
            raise ValueError(f"padding_side is {self.padding_side!r}: set 'right' or 'left'")
        inputs = [self._encode_prefix(image, prompt) for image in images]
        prefixes: dict[int, Prefix] = {}
        lengths = list(map(len, inputs))
        for places in plan_batches(lengths, self.max_batch_tokens, self.max_batch_padding):
            own = [inputs[place] for place in places]
            prefixes.update(zip(places, self._read_batch(own, layers)))
        return [prefixes[place] for place in range(len(inputs))]

    def encode(self, image: Any) -> ImageInput:
        """A picture, ready to be read; ``image`` as in :meth:`prefill`."""
        return self.image_processor.encode(image)

    def _encode_prefix(self, picture: Any, prompt: str) -> PrefixInput:
        image = self.encode(picture)
        turn = self.turns.encode(prompt, [image])
        (columns,) = turn.image_columns
        size = columns.stop - columns.start
        way_out = "shorten the prompt, or lower max_pixels"
        context = Context(self.max_tokens, size, "the picture", way_out)
        context.check("the prompt", prompt, len(turn.input_ids) - size)
        positions = self.locate(turn.input_ids, [image])
        return PrefixInput(turn.input_ids, positions, columns, image)

    def _read_batch(self, inputs: list[PrefixInput], layers: int) -> list[Prefix]:
        padding_id = self.tokenizer.pad_token_id or 0
        # Behind its last token a state goes on changing, before its first one it is nothing yet.
        side = "left" if self.keeps_states else self.padding_side
        batch = pad_inputs(inputs, side, padding_id, self.build_cache(), self.device)
        masked = batch.is_padded and side == "left"
        images = [item.image_input for item in inputs]
        mask = batch.token_mask if masked else None
        states, seen = self.read(
            batch.cache, batch.input_ids, batch.positions, images, mask, layers
        )
        inputs = [replace(item, image_input=image) for item, image in zip(inputs, seen)]
        return batch.split(inputs, states, layers)

    def complete(self, prefix: Prefix) -> Prefix:
        """A reading as it is, or of all layers where it stopped early: it is read again, once."""
        return self._complete(prefix, len(prefix))

    def _complete(self, prefix: Prefix, length: int) -> Prefix:
        """The first tokens of a reading, with all layers: read again, once, unless they are it."""
        is_whole = prefix.layers == self.num_layers
        if is_whole and length == len(prefix):
            return prefix
        if length not in prefix.again:
            if not is_whole:
                print_log(
                    f"the picture was read with {prefix.layers} of {self.num_layers} layers, and "
                    "is read again with all of them for an answer",
                    logger="current",
                )
            ids, positions = prefix.input_ids.tolist(), prefix.positions.cpu()
            whole = PrefixInput(ids, positions, prefix.image_columns, prefix.image_input)
            (prefix.again[length],) = self._read_batch([whole.cut(length)], self.num_layers)
        return prefix.again[length]

    def _read_picture(self, image: Any) -> Prefix:
        """What other questions go on from: a reading of all layers as far as its picture.

        Or farther, where it can be cut there: without layers that keep a state.
        """
        if not isinstance(image, Prefix):
            item = self._encode_prefix(image, "")
            return self._read_batch([item.cut(item.image_columns.stop)], self.num_layers)[0]
        is_cut = self.keeps_states
        return self._complete(image, image.image_columns.stop if is_cut else len(image))

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
            ValueError: a phrase has no token, or the two lists differ in length.
            ContextFullError: a phrase does not fit behind the prefix; nothing was computed.
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
            encoded = [self.plain_text.encode_continuation(item) for item in own]
            context = Context(self.max_tokens, len(prefix), _PREFIX, "shorten the phrase")
            for text, item in zip(own, encoded):
                context.check("the phrase", text.text, len(item.input_ids))
            packs.append(list(split_into_packs(encoded, self._max_packed)))
        return attend_prefixes(self, prefixes, packs, self.max_batch_tokens)

    @property
    def _max_packed(self) -> int:
        """Tokens of texts that stand side by side in a row: where layers keep a state, one text."""
        return 1 if self.keeps_states else self.max_rows

    @frozen_call
    def generate(self, prefix: Prefix, max_new_tokens: int = 256) -> str:
        """The frozen model's own answer, greedy, up to its end of turn or the end of its context.

        The prefix serves again afterwards.

        Raises:
            ContextFullError: the prefix leaves no room for an answer.
        """
        if len(prefix) >= self.max_tokens:
            raise ContextFullError(
                f"{_PREFIX} holds {len(prefix)} tokens, and the model reads {self.max_tokens} "
                "(max_position_embeddings): shorten the prompt to leave room for an answer"
            )
        whole = self.complete(prefix)
        (ids,) = PackedTexts(self, whole, len(whole), [[]]).write(max_new_tokens)
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
            ContextFullError: a question does not fit; nothing was answered.
        """
        if isinstance(questions, str) or not all(isinstance(item, str) for item in questions):
            raise TypeError("questions is no list of str: give a list, also of a single one")
        if self.family.prompt_changes_image:
            picture = image.image_input if isinstance(image, Prefix) else self.encode(image)
            return [
                self.generate(self.prefill(picture, item), max_new_tokens) for item in questions
            ]
        prefix = self._read_picture(image)
        end = prefix.image_columns.stop
        context = Context(self.max_tokens, end, "the picture", "shorten the question")
        encoded = []
        for question in questions:
            ids = self.turns.encode(question, [prefix.image_input]).input_ids[end:]
            context.check("the question", question, len(ids), room=1)
            encoded.append(EncodedContinuation(ids, []))
        answers: list[list[int]] = []
        for pack in split_into_packs(encoded, self._max_packed):
            texts = PackedTexts(self, prefix, end, [item.input_ids for item in pack])
            answers += texts.write(max_new_tokens)
        return [
            self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens) for ids in answers
        ]

    def converse(self, image: Any) -> Dialogue:
        """A conversation about a picture, which is read once; ``image`` as in :meth:`answer`.

        Raises:
            ValueError: a model of this family answers single questions only.
        """
        if not self.family.converses:
            raise ValueError(
                f"a {self.model.config.model_type!r} model holds no conversation, each question is "
                "a reading of its own: ask with answer(), or use another reader"
            )
        return Dialogue(self, self.turns, self._read_picture(image))
