"""Is a phrase's thing in the picture at all? A calibrated rule over what was read of the phrase.

In: where a phrase looked and what was thought at its last token. Out: a probability. The rule is
logistic, one weight per named feature in a JSON, made by ``tools/calibrate_presence.py`` from
phrases of which it is known whether they are there; it serves the reader of its making alone,
whatever mask head stands behind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flmm.files import replace_file
from flmm.records import Continuation, GroundingOutput, PhraseAttention
from flmm.registry import MODELS

if TYPE_CHECKING:
    from flmm.readers import FrozenVLM, Prefix

TINY_RULE = Path(__file__).parent / "assets" / "tiny_presence.json"
_LEAST = 1e-9
_WAY_OUT = "make one with tools/calibrate_presence.py"


def _measure_share(maps: Tensor) -> Tensor:
    """Log of the attention that goes to the picture at all."""
    return maps.sum(2).clamp(min=_LEAST).log()


def _measure_entropy(maps: Tensor) -> Tensor:
    """Spatial entropy, 1 where a map is the same everywhere."""
    inside = _normalise(maps)
    return -(inside * (inside + _LEAST).log()).sum(2) / math.log(max(2, maps.shape[2]))


def _measure_agreement(maps: Tensor) -> Tensor:
    """Cosine of each map with the mean of all."""
    inside = _normalise(maps)
    return F.cosine_similarity(inside, inside.mean(1, keepdim=True), dim=2)


def _measure_peak(maps: Tensor) -> Tensor:
    """Log of the greatest weight."""
    return maps.amax(2).clamp(min=_LEAST).log()


def _normalise(maps: Tensor) -> Tensor:
    """Each map over its sum."""
    return maps / maps.sum(2, keepdim=True).clamp(min=_LEAST)


# Of maps [P, C, h*w] one value per map, [P, C].
MAP_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "share": _measure_share,
    "entropy": _measure_entropy,
    "agreement": _measure_agreement,
    "peak": _measure_peak,
}
WORDS = "words"  # what was thought at the last token, in the last layer that is read: [P, D]
YES = "yes"  # the reader's own word, where it is asked: [P, 1]
FEATURES = (*MAP_FEATURES, WORDS, YES)
QUESTION = "Is there {} in the picture? Answer yes or no:"


def compute_features(seen: PhraseAttention, layers: int, num_heads: int) -> dict[str, Tensor]:
    """Float32 ``[P, n]`` by name, of the first so many layers' maps of the finest grid.

    ``YES`` is among them where the reader was asked.
    """
    maps = seen.maps[:, : layers * num_heads].float().flatten(2)
    found = {name: measure(maps) for name, measure in MAP_FEATURES.items()}
    words = [own[layers - 1, -1].float() for own in seen.text_features]
    found[WORDS] = torch.stack(words) if words else maps.new_zeros(0, 0)
    return found if seen.yes_odds is None else {**found, YES: seen.yes_odds[:, None]}


def attend_and_ask(
    vlm: FrozenVLM, prefixes: Sequence[Prefix], continuations: Sequence[list[Continuation]]
) -> list[PhraseAttention]:
    """As ``vlm.attend``, and in the same pass ``QUESTION`` about every phrase, for ``yes_odds``.

    It costs the question's tokens, and the language head for one token per phrase.
    """
    phrases = [[phrase for item in own for phrase in item.phrases] for own in continuations]
    asked = [[Continuation(QUESTION.format(text.strip())) for text in own] for own in phrases]
    both = [[*own, *questions] for own, questions in zip(continuations, asked)]
    yes, no = (_list_first_tokens(vlm.tokenizer, word) for word in ("yes", "no"))
    found = []
    for seen, own, questions in zip(vlm.attend(prefixes, both), continuations, asked):
        states = [item[-1] for item in seen.hidden_states[len(own) :] if item is not None]
        scores = vlm.score(torch.stack(states))
        odds = scores[:, sorted(yes - no)].logsumexp(1) - scores[:, sorted(no - yes)].logsumexp(1)
        part = seen.select(slice(len(questions)))
        ids, kept = seen.input_ids[: len(own)], seen.hidden_states[: len(own)]
        found.append(replace(part, input_ids=ids, hidden_states=kept, yes_odds=odds))
    return found


def _list_first_tokens(tokenizer: Any, word: str) -> set[int]:
    forms = (word, word.title(), f" {word}", f" {word.title()}")
    return {tokenizer.encode(form, add_special_tokens=False)[0] for form in forms}


@dataclass(frozen=True)
class PresenceWeights:
    """A logistic rule for one reader.

    Attributes:
        bias: log odds where every feature is zero.
        weights: by name of ``FEATURES`` one number per value.
        layers: how many of the reader's first layers it looks at.
        num_heads, token_merge: of the reader.
        threshold: in [0, 1]; below it lay a tenth of the phrases that were there, of those that it
            was made from.
        reader: which one, in words.
        source: what it was made from.
    """

    bias: float
    weights: dict[str, list[float]]
    layers: int
    num_heads: int
    token_merge: str
    threshold: float = 0.5
    reader: str = ""
    source: str = ""

    def save_json(self, path: str | Path) -> Path:
        """Write everything; :func:`load_presence_weights` reads it."""
        replace_file(path, f"{json.dumps(asdict(self))}\n".encode())
        return Path(path)


def load_presence_weights(given: str | Path | Mapping[str, Any]) -> PresenceWeights:
    """What :meth:`PresenceWeights.save_json` wrote ("tiny": the embedded toy's), or its fields.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no presence rule.
    """
    fields: Any = given
    try:
        if isinstance(given, (str, Path)):
            path = TINY_RULE if str(given) == "tiny" else Path(given)
            fields = json.loads(path.read_text(encoding="utf-8"))
        found = PresenceWeights(**fields)
        unknown = sorted(set(found.weights) - set(FEATURES))
        if unknown or not found.weights:
            raise ValueError(f"features {unknown}, known are {', '.join(FEATURES)}")
        numbers = [value for own in found.weights.values() for value in own]
        if not all(map(math.isfinite, [found.bias, *numbers])):
            raise ValueError("a weight is no finite number")
    except FileNotFoundError:
        raise FileNotFoundError(f"presence rule {given} does not exist: {_WAY_OUT}") from None
    except (AttributeError, TypeError, ValueError) as error:
        name = given if isinstance(given, (str, Path)) else "model.presence.rule"
        raise ValueError(f"{name} is no presence rule ({error}): {_WAY_OUT}") from error
    return found


@MODELS.register_module()
class PresenceRule(nn.Module):
    """How probable it is that a picture shows what a phrase names; nothing in it is trained.

    Args:
        rule: path of a JSON, ``"tiny"`` or the fields of :class:`PresenceWeights`.

    Attributes:
        layers: how many of the reader's first layers it needs.
        asks: whether the reader is asked in words; words of a conversation, and what a feature
            cache holds, are not, and have no presence then.
    """

    def __init__(self, rule: str | Path | Mapping[str, Any]) -> None:
        super().__init__()
        self.rule = load_presence_weights(rule)
        self.layers = self.rule.layers
        self.asks = YES in self.rule.weights

    def check(self, reader: FrozenVLM) -> None:
        """Raise ValueError where the rule was made with another reader, or other rows of it."""
        rule = self.rule
        wanted = {name: rule.layers * rule.num_heads for name in MAP_FEATURES}
        wanted |= {WORDS: reader.hidden_size, YES: 1}
        fits = rule.num_heads == reader.num_heads and rule.layers <= reader.num_layers
        fits &= all(len(own) == wanted[name] for name, own in rule.weights.items())
        if not fits or rule.token_merge != reader.token_merge:
            raise ValueError(
                f"the presence rule was made with {rule.reader or 'another reader'} and "
                f"token_merge {rule.token_merge!r}, this reader has {reader.num_layers} layers x "
                f"{reader.num_heads} heads of width {reader.hidden_size} and token_merge "
                f"{reader.token_merge!r}: {_WAY_OUT}, or give presence=None"
            )

    def forward(self, seen: PhraseAttention) -> Tensor:
        """Float32 ``[P]`` in [0, 1]."""
        features = compute_features(seen, self.rule.layers, self.rule.num_heads)
        logits = features["share"].new_full((len(seen.maps),), self.rule.bias)
        if len(logits):
            for name, weights in self.rule.weights.items():
                logits = logits + (features[name] @ logits.new_tensor(weights)).to(logits.device)
        return logits.sigmoid()

    def judge(
        self, seen: PhraseAttention, output: GroundingOutput, threshold: float | None
    ) -> GroundingOutput:
        """The output with its presence; below the threshold no pixel is foreground."""
        if self.asks and seen.yes_odds is None:
            return output
        presence = self(seen)
        logits = output.refined_mask_logits
        if threshold is not None:
            absent = (presence < threshold).to(logits.device)
            logits = logits.masked_fill(absent[:, None, None], float("-inf"))
        return replace(output, refined_mask_logits=logits, presence=presence)


def check_presence(rule: PresenceRule | None, threshold: float | None, reader: FrozenVLM) -> None:
    """Raise ValueError for a rule of another reader, or a threshold that nothing can be below."""
    if threshold is not None and (rule is None or not 0 <= threshold <= 1):
        raise ValueError(
            f"presence_threshold is {threshold!r}: give a number in [0, 1], and a presence rule "
            "(presence=dict(type='PresenceRule', rule='FILE.json')) that it applies to"
        )
    if rule is not None:
        rule.check(reader)
