"""The trainable selector: which words of an answer are names, from what was thought at them.

In: the reader's hidden states of an answer. Out: the runs of words that are keywords. How it learns
is :mod:`flmm.selectors.keyword_training`'s part.
Source: F-LMM (arXiv 2406.05821): a linear layer on the hidden states, trained with the noun
segments of Panoptic Narrative Grounding. Deviation: words, not tokens, are chosen, so that no
phrase begins or ends within a word.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from flmm.records import Span
from flmm.registry import MODELS
from flmm.selectors.base import CJK, Answer, drop_unpointable

_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+(?:['’-][^\W{CJK}]+)*")


@MODELS.register_module()
class KeywordSelector(nn.Module):
    """One linear layer on hidden states; neighbouring keywords make a phrase.

    Its weights are zero until it is trained.

    Args:
        hidden_size: D of the reader; the grounder knows it.
        threshold: a word is a keyword where the mean probability of its tokens is greater.
        frozen: keep the weights as a checkpoint brings them, in a training without captions.
    """

    def __init__(self, hidden_size: int, threshold: float = 0.5, frozen: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.linear.requires_grad_(not frozen)
        self.threshold = threshold

    @property
    def is_frozen(self) -> bool:
        """Whether a training leaves it as it is."""
        return not self.linear.weight.requires_grad

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Float32 logits ``[R]`` of hidden states ``[R, D]`` of any dtype and device."""
        return self.linear(hidden_states.to(self.linear.weight))[:, 0].float()

    @torch.no_grad()
    def select(self, answer: Answer) -> list[Span]:
        """See ``PhraseSelector``; ValueError: it was never trained."""
        self.check_trained()
        probabilities = self(answer.read_hidden_states()).sigmoid().tolist()
        spans = join_keywords(answer.text, answer.tokens, probabilities, self.threshold)
        return drop_unpointable(answer.text, spans)

    def check_trained(self) -> None:
        """Refuse to choose at random.

        Raises:
            ValueError: it was never trained.
        """
        if not self.linear.weight.any():
            raise ValueError(
                "this model's keyword selector was never trained: train it on captions "
                "(docs/conversation.md), load weights that have it, or choose the selector 'reader'"
            )


def join_keywords(
    text: str, tokens: list[Span], probabilities: list[float], threshold: float
) -> list[Span]:
    """Character ranges of the runs of keywords, with nothing but blanks between their words.

    Args:
        text: the answer.
        tokens: per token the half-open range of its characters.
        probabilities: per token, in [0, 1]; a word's is the mean of those of its tokens.
        threshold: of a keyword.
    """
    spans: list[Span] = []
    for match in _WORD.finditer(text):
        start, end = match.span()
        own = [p for (a, b), p in zip(tokens, probabilities) if a < end and b > start]
        if not own or sum(own) / len(own) <= threshold:
            continue
        if spans and not text[spans[-1][1] : start].strip():
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


__all__ = ["KeywordSelector", "join_keywords"]
