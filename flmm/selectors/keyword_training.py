"""What a keyword selector learns from: captions whose names are known.

In: what the reader thought at every token of continuations, and which of their characters are
names. Out: a loss and two figures for the log. A text that is nothing but phrases (a RefCOCO
sentence, or several joined: "the left dog. a cat.") tells nothing of words that are no names, and
is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from flmm.records import Continuation, PhraseAttention, Span
from flmm.selectors.keywords import KeywordSelector

_LETTER = re.compile(r"\w")


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
    selector: KeywordSelector | None,
    seen: PhraseAttention,
    continuations: Sequence[Continuation],
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


__all__ = ["compute_keyword_figures", "find_keywords", "keep_hidden_states"]
