"""The trainable selector: which tokens of an answer belong to a name, from what was thought there.

Source: F-LMM (arXiv 2406.05821), section 3.3 and appendix: a linear layer over the hidden states,
trained with the noun segments of Panoptic Narrative Grounding.
"""

from __future__ import annotations

from torch import Tensor, nn

from flmm.registry import MODELS
from flmm.selectors.base import Answer
from flmm.selectors.clean import drop_unpointable
from flmm.structures import Span


@MODELS.register_module()
class KeywordSelector(nn.Module):
    """One linear layer on hidden states; neighbouring keyword tokens make a phrase.

    Args:
        hidden_size: D, of the reader.
        threshold: a token is a keyword where its probability is greater.
    """

    def __init__(self, hidden_size: int, threshold: float = 0.5) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        self.threshold = threshold

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Logits ``[R]`` of hidden states ``[R, D]``."""
        return self.linear(hidden_states.to(self.linear.weight))[:, 0]

    def select(self, answer: Answer) -> list[Span]:
        """See ``PhraseSelector``."""
        chosen = self(answer.read_hidden_states()).sigmoid() > self.threshold
        return drop_unpointable(answer.text, join_tokens(answer.tokens, chosen.tolist()))


def join_tokens(tokens: list[Span], chosen: list[bool]) -> list[Span]:
    """Character ranges of the runs of chosen tokens."""
    spans: list[Span] = []
    before = False
    for (start, end), is_chosen in zip(tokens, chosen):
        if is_chosen and before:
            spans[-1] = (spans[-1][0], end)
        elif is_chosen:
            spans.append((start, end))
        before = is_chosen
    return spans


__all__ = ["KeywordSelector", "join_tokens"]
