"""Text to token ids, where only the chat template may give orders.

In: a rendered chat template, a prompt, continuations with character spans. Out: token ids and
token spans. What a person wrote is always read as plain text, also when it spells a control
token: transformers' ``split_special_tokens`` covers the special ones only (``<tool_call>`` and
``<|fim_prefix|>`` are still obeyed), so plain text goes through a tokenizer that has the same
model and pre-tokenizer but no added tokens at all.
Not its duty: images, positions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from flmm.records import Continuation, Span


@dataclass(frozen=True)
class EncodedContinuation:
    """A continuation as the model is fed it.

    Attributes:
        input_ids: its R token ids.
        token_spans: half-open token range of each phrase, within [0, R].
    """

    input_ids: list[int]
    token_spans: list[Span]


class PlainTextTokenizer:
    """Tokenises a person's text as text, and a template's control tokens as control tokens.

    Args:
        tokenizer: a fast transformers tokenizer.

    Raises:
        TypeError: the tokenizer has no fast (``tokenizers``) backend.
        ValueError: a control token cannot be kept out of plain text.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TypeError(f"{type(tokenizer).__name__} has no offsets: give a fast tokenizer")
        self._plain = Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._plain.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._plain.pre_tokenizer = backend.pre_tokenizer
        self.control_ids = {
            token.content: index for index, token in tokenizer.added_tokens_decoder.items()
        }
        longest_first = sorted(self.control_ids, key=len, reverse=True)
        self._control_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        for text, index in self.control_ids.items():
            if index in self.encode_plain(text)[0]:
                raise ValueError(
                    f"the tokenizer reads the text {text!r} as its control token {index}: keep "
                    "control tokens out of the vocabulary of its model"
                )

    def encode_plain(self, text: str) -> tuple[list[int], list[Span]]:
        """Token ids of plain text and the character range of each token."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_template(self, before: str, prompt: str, after: str) -> list[int]:
        """Token ids of a rendered template around a prompt.

        Args:
            before: the template's text up to the prompt, control tokens obeyed.
            prompt: plain text.
            after: the template's text behind the prompt, control tokens obeyed.
        """
        return self.encode_around(before, prompt, after)[0]

    def encode_around(
        self, before: str, prompt: str, after: str
    ) -> tuple[list[int], list[tuple[int, Span]]]:
        """As :meth:`encode_template`, and where the prompt's tokens are.

        Returns:
            the ids; of each token that holds characters of the prompt its place among them and
            the half-open range of these characters.
        """
        head, tail = self._split(before), self._split(after)
        # Template text that touches the prompt is tokenised with it: merges cross the border.
        left, right = head.pop() if head else "", tail.pop(0) if tail else ""
        ids = [index for piece in head for index in self._encode_piece(piece)]
        middle, offsets = self.encode_plain(left + prompt + right)
        tokens = []
        for place, (first, last) in enumerate(offsets, start=len(ids)):
            first, last = max(first - len(left), 0), min(last - len(left), len(prompt))
            if first < last:
                tokens.append((place, (first, last)))
        ids += middle
        return ids + [index for piece in tail for index in self._encode_piece(piece)], tokens

    def _split(self, template: str) -> list[str]:
        """Plain text and control tokens in turn, plain text (maybe empty) first and last."""
        return self._control_pattern.split(template) if self.control_ids else [template]

    def _encode_piece(self, piece: str) -> list[int]:
        if piece in self.control_ids:
            return [self.control_ids[piece]]
        return self.encode_plain(piece)[0]

    def encode_continuation(self, continuation: Continuation) -> EncodedContinuation:
        """Token ids of a continuation and the token range of each of its phrases.

        A token belongs to a phrase if its characters overlap the phrase's visible ones: merges
        across word borders and characters split over several tokens are counted in.

        Raises:
            ValueError: the tokenizer gives a phrase no token.
        """
        input_ids, offsets = self.encode_plain(continuation.text)
        spans = [find_token_span(continuation, span, offsets) for span in continuation.spans or ()]
        return EncodedContinuation(input_ids, spans)


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
