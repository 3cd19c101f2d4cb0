"""How a presence rule is made and judged: from phrases of which it is known if they are there.

In: a frozen reader and a labelled set; a phrase whose true mask is empty is absent, and so, where
asked for, are phrases of other pictures. Out: the weights of a :class:`PresenceRule`, and how far
to trust them. No mask head and no refiner is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flmm.evaluation.presence_figures import draw_reliability, measure_presence
from flmm.files import replace_file
from flmm.presence import MAP_FEATURES, PresenceWeights, attend_and_ask, compute_features
from flmm.records import Continuation
from flmm.tables import format_text

if TYPE_CHECKING:
    from flmm.readers import FrozenVLM

KEPT_SHARE = 0.9  # of the phrases that are there, above the threshold
_STRENGTHS = (1e-4, 1e-3, 1e-2)  # of the penalty on squared weights
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class PresenceExamples:
    """N phrases, in the order in which they were read.

    Attributes:
        features: float32 ``[N, n]`` by name.
        labels: bool ``[N]``, whether the picture shows what the phrase names.
        kinds: what the data set calls each; ``""``: nothing.
    """

    features: dict[str, Tensor]
    labels: Tensor
    kinds: list[str]


@torch.inference_mode()
def collect_examples(
    vlm: FrozenVLM, samples: Iterable[dict[str, Any]], strangers: int = 0, ask: bool = False
) -> PresenceExamples:
    """Read a labelled set, one picture after the other.

    Args:
        samples: items of a data set: ``dict(inputs=ImageInput | None, data_samples=
            GroundingSample)`` with ``gt_masks``.
        strangers: how many phrases of the pictures before are asked of each picture, as absent
            ones; those that it has itself are left out, what else is true of it by chance is not.
        ask: ask the reader in words, too, for the feature ``yes``.

    Raises:
        ValueError: there is no phrase of one of the two sorts.
    """
    rows: list[dict[str, Tensor]] = []
    labels: list[bool] = []
    kinds: list[str] = []
    before: list[str] = []
    for sample in samples:
        image, truth = sample["inputs"], sample["data_samples"]
        if image is None:
            continue
        own = truth.phrases
        others = [text for text in dict.fromkeys(before) if text not in own][-strangers:]
        others = others if strangers else []
        asked = [*truth.continuations, *map(Continuation, others)]
        prefix = vlm.prefill(image)
        seen = attend_and_ask(vlm, [prefix], [asked])[0] if ask else vlm.attend(prefix, asked)
        rows.append(compute_features(seen, vlm.num_layers, vlm.num_heads))
        labels += [*truth.gt_masks.flatten(1).any(1).tolist(), *[False] * len(others)]
        kinds += [*(truth.get("expression_kinds") or [""] * len(own)), *["stranger"] * len(others)]
        before = [*others, *own][-4 * strangers :]
    absent = labels.count(False)
    if not absent or absent == len(labels):
        raise ValueError(
            f"of {len(labels)} phrases {absent} are absent: a presence rule is made from both "
            "sorts; give a set with absent phrases, or --strangers to ask those of other pictures"
        )
    features = {name: torch.cat([row[name] for row in rows]).cpu() for name in rows[0]}
    return PresenceExamples(features, torch.tensor(labels), kinds)


def _fit_rule(
    examples: PresenceExamples, names: Sequence[str]
) -> tuple[dict[str, list[float]], float, Tensor]:
    """A logistic rule over some features, by penalised likelihood.

    The penalty is the one of ``_STRENGTHS`` that serves best phrases which were left out, a fifth
    at a time (neighbours together, so that a picture is on one side).

    Returns:
        weights by feature, bias, and ``[N]`` probabilities that these fifths were given.
    """
    values = torch.cat([examples.features[name] for name in names], 1)
    labels = examples.labels.float()
    folds = torch.arange(len(labels)) * _FOLDS // len(labels)
    best, chosen, kept = float("inf"), _STRENGTHS[-1], torch.zeros_like(labels)
    for strength in _STRENGTHS:
        logits = torch.zeros_like(labels)
        for fold in range(_FOLDS):
            own = folds == fold
            weights, bias = _fit(values[~own], labels[~own], strength)
            logits[own] = values[own] @ weights + bias
        loss = float(F.binary_cross_entropy_with_logits(logits, labels))
        if loss < best:
            best, chosen, kept = loss, strength, logits.sigmoid()
    weights, bias = _fit(values, labels, chosen)
    sizes = [examples.features[name].shape[1] for name in names]
    parts = (part.float().tolist() for part in weights.split(sizes))
    return dict(zip(names, parts)), float(bias), kept


def _fit(values: Tensor, labels: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Weights ``[n]`` and bias for values as they are; the penalty is on standardised ones."""
    mean, deviation = values.mean(0), values.std(0).clamp(min=1e-6)
    scaled = (values - mean) / deviation
    weights = torch.zeros(values.shape[1], dtype=values.dtype, requires_grad=True)
    bias = torch.zeros((), dtype=values.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=60, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(scaled @ weights + bias, labels)
        loss = loss + strength * weights.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(compute_loss)
    raw = weights.detach() / deviation
    return raw, bias.detach() - raw @ mean


def _apply(examples: PresenceExamples, weights: dict[str, list[float]], bias: float) -> Tensor:
    """Float64 ``[N]`` in [0, 1]."""
    logits = torch.full((len(examples.labels),), bias, dtype=torch.float64)
    for name, own in weights.items():
        logits += examples.features[name].double() @ torch.tensor(own, dtype=torch.float64)
    return logits.sigmoid()


def find_threshold(probs: Tensor, labels: Tensor) -> float:
    """The highest threshold that keeps ``KEPT_SHARE`` of the phrases that are there."""
    return float(torch.quantile(probs[labels].double(), 1 - KEPT_SHARE))


@dataclass(frozen=True, eq=False)
class Calibration:
    """A presence rule that was made, and what it is worth.

    Attributes:
        rows: a row per feature set of figures in [0, 1], see :func:`measure_presence`; the last
            one is of the rule.
        probs, labels: ``[N]``, of the phrases that it was measured on.
        kinds: what the data set calls them.
    """

    weights: PresenceWeights
    rows: dict[str, dict[str, float]]
    probs: Tensor
    labels: Tensor
    kinds: list[str]

    def format_table(self) -> str:
        """Feature sets, then kinds of absent phrases, in percent."""
        names = list(next(iter(self.rows.values())))
        table: list[list[Any]] = [["features", *(f"{name} %" for name in names)]]
        table += [[label, *(100 * row[name] for name in names)] for label, row in self.rows.items()]
        below = self.probs < self.weights.threshold
        kinds: list[list[Any]] = [["absent phrases", "N-acc %", "phrases"]]
        for kind in sorted({kind for kind, there in zip(self.kinds, self.labels) if not there}):
            own = torch.tensor([item == kind for item in self.kinds]) & ~self.labels
            kinds.append([kind or "all", 100 * float(below[own].double().mean()), int(own.sum())])
        there, count = int(self.labels.sum()), len(self.labels)
        summary = f"{there} phrases that are there, {count - there} absent; threshold "
        summary += f"{self.weights.threshold:.3f}"
        return "\n\n".join([format_text(table), format_text(kinds), summary])

    def save_plot(self, path: str | Path) -> Path:
        """A reliability diagram."""
        stream = io.BytesIO()
        figure = draw_reliability(self.probs, self.labels, "presence rule")
        figure.savefig(stream, format=Path(path).suffix[1:] or "png", dpi=100)
        replace_file(path, stream.getvalue())
        return Path(path)


def calibrate(
    vlm: FrozenVLM,
    examples: PresenceExamples,
    measured: PresenceExamples | None = None,
    names: Sequence[str] | None = None,
    source: str = "",
) -> Calibration:
    """Make a rule of the features in ``names`` (``None``: all) and measure it, and lesser ones.

    Args:
        measured: other pictures' phrases; ``None``: those of ``examples``, each by a rule that did
            not see it.

    Raises:
        ValueError: a feature is not known.
    """
    known = tuple(examples.features)
    names = tuple(names or known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"there is no feature {unknown[0]!r}: choose of {', '.join(known)}")
    sets: dict[str, tuple[str, ...]] = {name: (name,) for name in known}
    sets["all of the maps"] = tuple(name for name in MAP_FEATURES if name in known)
    judged = examples if measured is None else measured
    rows = {}
    for label, own in {**sets, "the rule: " + " + ".join(names): names}.items():
        weights, bias, left_out = _fit_rule(examples, own)
        threshold = find_threshold(left_out, examples.labels)
        probs = left_out if measured is None else _apply(measured, weights, bias)
        rows[label] = measure_presence(probs, judged.labels, threshold)
    made = PresenceWeights(
        *(bias, weights, vlm.num_layers, vlm.num_heads, vlm.token_merge, threshold),
        reader=vlm.extra_repr(),
        source=source,
    )
    return Calibration(made, rows, probs, judged.labels, judged.kinds)
