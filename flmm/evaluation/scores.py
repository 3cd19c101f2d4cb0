"""What an evaluation keeps of a prediction: counted pixels per expression, and their summary.

Small records of integers travel between processes and files as plain lists; formulas are in
:mod:`flmm.evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from flmm.evaluation.metrics import compute_intersections_unions
from flmm.records import SkippedExpression

COARSE_PREFIX = "coarse/"
# Reasons of skipped expressions that are named in a log; all of them are in the JSON file.
NAMED_REASONS = 5
# From (intersections, unions, true pixels), each [P] in px, to named figures in percent.
Measure = Callable[[Sequence[int], Sequence[int], Sequence[int]], dict[str, float]]


class ExpressionScore(NamedTuple):
    """Counted pixels of one expression; in JSON a list, which :meth:`from_json` reads."""

    expression_id: int | str  # unique in the data set
    groups: tuple[str, ...]  # that it belongs to: kinds, things or stuff, ...
    refined: tuple[int, int]  # intersection and union of the refined mask with the true one, px
    coarse: tuple[int, int] | None  # the same before the refiner; None: there is no such stage
    gt_pixels: int  # of the true mask

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> ExpressionScore:
        """A score as it was, or as JSON gives it back."""
        expression_id, groups, (both, either), coarse, gt_pixels = values
        pair = None if coarse is None else (coarse[0], coarse[1])
        return cls(expression_id, tuple(groups), (both, either), pair, gt_pixels)


Outcome = ExpressionScore | SkippedExpression


@dataclass(frozen=True)
class Report:
    """The figures of an evaluation."""

    metrics: dict[str, float]  # percent, of all that were scored; of coarse masks with ``coarse/``
    groups: dict[str, dict[str, float]]  # the same per group of expressions
    counts: dict[str, int]  # scored expressions under "all" and under each group's name
    skipped: tuple[SkippedExpression, ...]  # that could not be used; in no figure
    empty_truths: int  # scored expressions whose true mask has no pixel

    def to_json(self) -> dict[str, Any]:
        """As a dict of plain values."""
        return {
            "metrics": self.metrics,
            "kinds": self.groups,
            "expressions": self.counts,
            "empty_truths": self.empty_truths,
            "skipped": len(self.skipped),
            "skipped_expressions": [asdict(item) for item in self.skipped],
        }

    def list_rows(self) -> list[dict[str, Any]]:
        """A record per group of expressions and stage of the mask, figures in percent."""
        rows = []
        for group, figures in ({"all": self.metrics} | self.groups).items():
            names = [name for name in figures if not name.startswith(COARSE_PREFIX)]
            for mask, prefix in (("refined", ""), ("coarse", COARSE_PREFIX)):
                if prefix + names[0] in figures:
                    own = {name: figures[prefix + name] for name in names}
                    count = self.counts[group]
                    rows.append({"group": group, "mask": mask, **own, "expressions": count})
        return rows

    def format_remarks(self) -> str:
        """What the figures leave out, a remark a line: skipped expressions and empty truths."""
        lines = [f"skipped expressions (in no figure): {len(self.skipped)}"]
        for item in self.skipped[:NAMED_REASONS]:
            lines.append(f"  {item.expression_id} (image {item.image_id}): {item.reason}")
        if len(self.skipped) > NAMED_REASONS:
            lines.append(f"  and {len(self.skipped) - NAMED_REASONS} more")
        if self.empty_truths:
            lines.append(f"expressions whose true mask is empty: {self.empty_truths}")
        return "\n".join(lines)


def name_columns(names: Iterable[str]) -> dict[str, str]:
    """Titles of the columns of a table of figures."""
    return {name: name.replace("precision@", "P@").replace("_", " ") for name in names}


def score_sample(sample: Mapping[str, Any]) -> list[Outcome]:
    """Scores of a predicted sample, or, where its record was skipped, the reason per expression.

    ``sample`` is as :func:`score_expressions` wants it, or has ``skipped``, the reason.
    """
    if not sample.get("skipped"):
        return list(score_expressions(sample))
    image_id, reason = sample.get("image_id", "unknown"), str(sample["skipped"])
    return [SkippedExpression(item, image_id, reason) for item in sample["expression_ids"]]


def score_expressions(sample: Mapping[str, Any]) -> list[ExpressionScore]:
    """Scores of a predicted sample.

    Args:
        sample: ``expression_ids``, ``pred_masks`` and ``gt_masks``, bool ``[P, H, W]``; optionally
            ``coarse_masks``; per expression a kind (``expression_kinds``) and groups
            (``expression_groups``); ``ignored``, bool ``[H, W]``: pixels that are not counted.

    Raises:
        ValueError: counts or shapes differ.
    """
    ids: Sequence[int | str] = sample["expression_ids"]
    truths, ignored = sample["gt_masks"].bool(), sample.get("ignored")
    if ignored is not None:
        truths = truths & ~ignored
    kinds = sample.get("expression_kinds") or [None] * len(ids)
    groups = sample.get("expression_groups") or [()] * len(ids)
    named: dict[str, Any] = {"true masks": truths}
    named |= {"expression_kinds": kinds, "expression_groups": groups}
    for name, entries in named.items():
        if len(entries) != len(ids):
            raise ValueError(
                f"{len(ids)} expression_ids for {len(entries)} {name}, first id "
                f"{next(iter(ids), None)!r}: give one each per expression"
            )
    refined = zip(*compute_intersections_unions(sample["pred_masks"], truths, ignored))
    coarse: Iterable[Any] = [None] * len(ids)
    if sample.get("coarse_masks") is not None:
        coarse = zip(*compute_intersections_unions(sample["coarse_masks"], truths, ignored))
    members = [(*([kind] if kind else ()), *own) for kind, own in zip(kinds, groups)]
    pixels = truths.flatten(1).sum(1).tolist()
    return [ExpressionScore(*row) for row in zip(ids, members, refined, coarse, pixels)]


def build_report(
    results: Iterable[Outcome], measure: Measure, group_order: Sequence[str] = ()
) -> Report:
    """Figures of all results, in whatever order they come.

    An id that occurs several times (a sampler repeats images to fill a batch) counts once; one
    that was scored and skipped counts as scored.

    Args:
        group_order: groups that come first; others follow by name.

    Raises:
        ValueError: there is no result.
    """
    results = list(results)
    if not results:
        raise ValueError("the evaluation saw no prediction: is the data set empty?")
    scored = {item.expression_id: item for item in results if isinstance(item, ExpressionScore)}
    skipped = {
        item.expression_id: item
        for item in results
        if isinstance(item, SkippedExpression) and item.expression_id not in scored
    }
    members: dict[str, list[ExpressionScore]] = {}
    for score in scored.values():
        for name in score.groups:
            members.setdefault(name, []).append(score)
    names = [name for name in group_order if name in members]
    names += sorted(set(members) - set(names))
    return Report(
        metrics=_summarise(list(scored.values()), measure),
        groups={name: _summarise(members[name], measure) for name in names},
        counts={"all": len(scored)} | {name: len(members[name]) for name in names},
        skipped=tuple(sorted(skipped.values(), key=lambda item: str(item.expression_id))),
        empty_truths=sum(score.gt_pixels == 0 for score in scored.values()),
    )


def _summarise(scores: Sequence[ExpressionScore], measure: Measure) -> dict[str, float]:
    """Figures in percent of the refined masks and, with ``coarse/``, of the coarse ones."""
    truths = [score.gt_pixels for score in scores]
    metrics = measure([s.refined[0] for s in scores], [s.refined[1] for s in scores], truths)
    coarse = [score.coarse for score in scores if score.coarse is not None]
    if coarse and len(coarse) == len(scores):
        figures = measure([pair[0] for pair in coarse], [pair[1] for pair in coarse], truths)
        metrics |= {COARSE_PREFIX + name: value for name, value in figures.items()}
    return metrics
