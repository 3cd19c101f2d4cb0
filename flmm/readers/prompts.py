"""Text to token ids, where only the chat template may give orders; and what fits.

What a person wrote is always read as plain text, also when it spells a control token:
transformers' ``split_special_tokens`` covers the special ones only (``<tool_call>`` and
``<|fim_prefix|>`` are still obeyed), so plain text goes through a tokenizer that has the same
model and pre-tokenizer but no added tokens, except those of the model's own vocabulary.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.pre_tokenizers import Metaspace

from flmm.records import Continuation, Span

_WORD_MARKS = ("▁", "Ġ")  # of tokenizers that begin every text with a word


@dataclass(frozen=True)
class EncodedContinuation:
    """A continuation as it is fed: R token ids, and within [0, R] each phrase's half-open range."""

    input_ids: list[int]
    token_spans: list[Span]


class PlainTextTokenizer:
    """Tokenises a person's text as text, and a template's control tokens as control tokens.

    Args:
        tokenizer: of the model.
        gap: white space before an answer, see ``Family.answer_gap``.

    Raises:
        TypeError: the tokenizer has no fast (``tokenizers``) backend.
        ValueError: a control token cannot be kept out of plain text, or the tokenizer writes
            something behind every text.
    """

    def __init__(self, tokenizer: Any, gap: str = "") -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TypeError(f"{type(tokenizer).__name__} has no offsets: give a fast tokenizer")
        self._begin_ids = _find_begin(tokenizer)
        added = tokenizer.added_tokens_decoder
        # SentencePiece adds pieces of its own vocabulary that are text, such as runs of newlines.
        kept = {
            index: token
            for index, token in added.items()
            if not token.special and backend.model.token_to_id(token.content) == index
        }
        self._backend = backend
        text_tokens = list(kept.values())
        self._plain = _keep_text(backend, backend.pre_tokenizer, text_tokens)
        self._inside = _keep_text(backend, _keep_first_word(backend.pre_tokenizer), text_tokens)
        first = self._plain.encode("a", add_special_tokens=False).tokens[0]
        self._gap = "" if first.startswith(_WORD_MARKS) else gap
        self.control_ids = {
            token.content: index for index, token in added.items() if index not in kept
        }
        longest_first = sorted(self.control_ids, key=len, reverse=True)
        self._control_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        for text, index in self.control_ids.items():
            if index in self.encode_plain(text)[0]:
                raise ValueError(
                    f"the tokenizer reads the text {text!r} as its control token {index}: keep "
                    "control tokens out of the vocabulary of its model"
                )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, control tokens among them written out."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def encode_plain(self, text: str) -> tuple[list[int], list[Span]]:
        """Token ids of plain text that stands where an answer does, and each token's characters.

        SentencePiece marks the beginning of a word (``▁dog``) where others leave the space to the
        text: a phrase or an answer has that mark, or the template's gap, as behind the space in
        ``ASSISTANT: dog``. White space of its own, as models write it, stands for the gap.
        """
        gap = self._gap if text[:1].strip() else ""
        encoding, added = self._plain.encode(gap + text, add_special_tokens=False), len(gap)
        # A gap that is a token of its own counts to the first character.
        least = min(added, 1)
        spans = [
            (max(start - added, 0), max(end - added, least)) for start, end in encoding.offsets
        ]
        return encoding.ids, spans

    def encode_template(
        self, before: str, prompt: str, after: str, is_first: bool = True
    ) -> tuple[list[int], list[tuple[int, Span]]]:
        """Token ids of a plain prompt between a template's texts, whose control tokens are obeyed.

        With ``is_first`` the sequence begins here, with the beginning token where the tokenizer
        writes one; otherwise it goes on.

        Returns:
            the ids; of each token that holds characters of the prompt its place among them and
            the half-open range of these characters.
        """
        head, tail = self._split(before), self._split(after)
        # Template text that touches the prompt is tokenised with it: merges cross the border.
        pieces = [*head[:-1], head[-1] + prompt + tail[0], *tail[1:]]
        start = len(head[-1])
        ids: list[int] = []
        tokens = []
        for number, piece in enumerate(pieces):
            if number % 2:
                ids.append(self.control_ids[piece])
                continue
            tokenizer = self._plain if is_first and not number else self._inside
            encoding = tokenizer.encode(piece, add_special_tokens=False)
            if number == len(head) - 1:
                for place, (first, last) in enumerate(encoding.offsets, start=len(ids)):
                    first, last = max(first - start, 0), min(last - start, len(prompt))
                    if first < last:
                        tokens.append((place, (first, last)))
            ids += encoding.ids
        begin = self._begin_ids if is_first else []
        if ids[: len(begin)] == begin:  # the template wrote it
            return ids, tokens
        return begin + ids, [(len(begin) + place, span) for place, span in tokens]

    def _split(self, template: str) -> list[str]:
        """Plain text and control tokens in turn, plain text (maybe empty) first and last."""
        return self._control_pattern.split(template) if self.control_ids else [template]

    def encode_continuation(self, continuation: Continuation) -> EncodedContinuation:
        """Token ids of a continuation and the token range of each of its phrases.

        A token belongs to a phrase if its characters overlap the phrase's visible ones: merges
        across word borders and characters split over several tokens are counted in.
        """
        input_ids, offsets = self.encode_plain(continuation.text)
        spans = [find_token_span(continuation, span, offsets) for span in continuation.spans or ()]
        return EncodedContinuation(input_ids, spans)


def _keep_text(backend: Tokenizer, pre_tokenizer: Any, text: list[AddedToken]) -> Tokenizer:
    """The same model and normaliser without added tokens but those that are text."""
    plain = Tokenizer(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if pre_tokenizer is not None:
        plain.pre_tokenizer = pre_tokenizer
    plain.add_tokens(text)
    return plain


def _keep_first_word(pre_tokenizer: Any) -> Any:
    """A pre-tokenizer that marks no word at the beginning, for text behind a control token."""
    inside = copy.deepcopy(pre_tokenizer)
    if isinstance(inside, Metaspace) and inside.prepend_scheme == "first":
        inside.prepend_scheme = "never"
    return inside


def _find_begin(tokenizer: Any) -> list[int]:
    """What the tokenizer writes before every text."""
    text = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    begin = whole[: len(whole) - len(text)]
    if begin + text != whole:
        raise ValueError(
            f"the tokenizer reads 'a' as the tokens {whole}: what it writes behind a text would "
            "close it before the answer, give one with add_eos_token=False"
        )
    return begin


def find_token_span(continuation: Continuation, span: Span, offsets: list[Span]) -> Span:
    """Half-open range of the tokens that overlap the visible characters of ``span``."""
    phrase = continuation.text[slice(*span)]
    start = span[0] + len(phrase) - len(phrase.lstrip())
    end = span[0] + len(phrase.rstrip())
    inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    if not inside:
        raise ValueError(
            f"the tokenizer gives the phrase {phrase!r} no token: use words of its vocabulary"
        )
    return inside[0], inside[-1] + 1


class ContextFullError(ValueError):
    """The model's context has no room for a text; nothing was read, and nothing has changed."""


@dataclass(frozen=True)
class Context:
    """Room in a model's context that reads ``limit`` tokens, of which a ``holder`` has ``held``.

    ``way_out`` says what a person can do.
    """

    limit: int
    held: int
    holder: str
    way_out: str

    def check(self, what: str, text: str, tokens: int, room: int = 0) -> None:
        """Refuse a ``text`` of so many ``tokens`` that does not fit with ``room`` behind it."""
        if self.held + tokens + room > self.limit:
            raise ContextFullError(
                f"{what} {quote_text(text)} has {tokens} tokens, {self.holder} holds "
                f"{self.held}, and the model reads {self.limit} (max_position_embeddings): "
                f"{self.way_out}"
            )


def quote_text(text: str, characters: int = 40) -> str:
    """The beginning of a text, as one line in quotes."""
    start = " ".join(text[: 4 * characters].split())
    if len(start) > characters or len(text) > 4 * characters:
        start = start[:characters] + "…"
    return repr(start)
