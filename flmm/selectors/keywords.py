"""The trainable selector: which words of an answer are names, from what was thought at them.

It learns from captions whose names are known; a text that is nothing but phrases (a RefCOCO
sentence, or several joined) tells nothing of words that are no names, and is left out.
Source: F-LMM (arXiv 2406.05821): a linear layer on the hidden states, trained with the noun
segments of Panoptic Narrative Grounding. Deviation: words, not tokens, are chosen, so that no
phrase begins or ends within a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from flmm.records import Continuation, PhraseAttention, Span
from flmm.registry import MODELS
from flmm.selectors.base import CJK, Answer, drop_unpointable

_LETTER = re.compile(r"\w")
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
        """Refuse (ValueError) to choose at random."""
        if not self.linear.weight.any():
            raise ValueError(
                "this model's keyword selector was never trained: train it on captions "
                "(docs/conversation.md), load weights that have it, or choose the selector 'reader'"
            )


def join_keywords(
    text: str, tokens: list[Span], probabilities: list[float], threshold: float
) -> list[Span]:
    """Character ranges of the runs of keywords, with nothing but blanks between their words.

    ``tokens`` and ``probabilities`` are per token, a half-open character range and a value in
    [0, 1]; a word's is the mean of those of its tokens.
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


def find_keywords(continuation: Continuation) -> tuple[Span, ...] | None:
    """Character ranges of all names in a caption; ``None`` where the text is no caption."""
    keywords = continuation.keyword_spans
    if keywords is None:
        keywords = continuation.spans or ()
    words = list(continuation.text)
    for start, end in keywords:
        words[start:end] = " " * (end - start)
    return keywords if _LETTER.search("".join(words)) else None


def keep_hidden_states(
    selector: KeywordSelector | None, seen: PhraseAttention, continuations: Sequence[Continuation]
) -> PhraseAttention:
    """What was read of one picture, with the hidden states that a selector learns from alone."""
    learns = selector is not None and not selector.is_frozen
    wanted = [learns and find_keywords(item) is not None for item in continuations]
    states = [own if keep else None for own, keep in zip(seen.hidden_states, wanted)]
    return replace(seen, hidden_states=states)


def compute_keyword_figures(
    selector: KeywordSelector | None,
    seen: Sequence[PhraseAttention],
    continuations: Sequence[Sequence[Continuation]],
    locate: Callable[[str, tuple[Span, ...]], list[Span]],
) -> dict[str, Tensor]:
    """Loss of the selector, and what it finds, over all tokens of all captions of a batch.

    With several processes the batch is that of all of them, and every one must call this.

    Args:
        selector: what is trained; without one, or with a frozen one, there is no figure.
        seen: per picture what was read of its ``continuations``, with hidden states.
        locate: gives the half-open token ranges of character ranges of a text.

    Returns:
        ``loss_keyword``, binary cross-entropy per token, 0 without a caption; with one also
        ``keyword_recall`` and ``keyword_precision`` of tokens, in [0, 1].

    Raises:
        ValueError: the hidden states of a caption were not kept.
    """
    if selector is None or selector.is_frozen:
        return {}
    weight = selector.linear.weight
    states, labels = [weight.new_zeros(0, weight.shape[1])], [weight.new_zeros(0)]
    for attention, items in zip(seen, continuations):
        for item, own in zip(items, attention.hidden_states or [None] * len(items)):
            keywords = find_keywords(item)
            if keywords is None:
                continue
            if own is None:
                raise ValueError(
                    f"what was thought at the caption {item.text[:40]!r} is not in the feature "
                    "cache, which was filled without a keyword selector: give another "
                    "feature_cache.dir, or train without one (model.keyword_selector.frozen=True)"
                )
            marks = weight.new_zeros(len(own))
            for start, end in locate(item.text, keywords):
                marks[start:end] = 1
            states.append(own.to(weight))
            labels.append(marks)
    return _average(_sum_errors(selector, torch.cat(states), torch.cat(labels)))


def _sum_errors(selector: KeywordSelector, states: Tensor, labels: Tensor) -> Tensor:
    """``[5]``: cross-entropy (with gradient), tokens, keywords, chosen tokens, right ones."""
    logits = selector(states)
    loss = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    with torch.no_grad():
        chosen = logits.sigmoid() > selector.threshold
        counts = [torch.ones_like(labels), labels, chosen, labels * chosen]
        sums = [item.sum().to(loss) for item in counts]
    return torch.stack([loss, *sums])


def _average(sums: Tensor) -> dict[str, Tensor]:
    """Figures of the sums of all processes, whose gradients DDP averages."""
    totals = sums.detach().clone()
    all_reduce(totals)
    loss, tokens, keywords, chosen, right = totals
    share = sums[0] * get_world_size() / tokens.clamp(min=1)
    figures = {"loss_keyword": share + (loss / tokens.clamp(min=1) - share).detach()}
    if keywords > 0:
        figures["keyword_recall"] = right / keywords
        figures["keyword_precision"] = right / chosen.clamp(min=1)
    return figures
