"""Tables of an evaluation's figures, as aligned text and as Markdown.

Data in: a :class:`flmm.evaluation.scores.Report`, or any rows of cells. Data out: strings.
"""

from __future__ import annotations

from flmm.evaluation.scores import COARSE_PREFIX, Report

# Reasons of skipped expressions that are named in a log; all of them are in the JSON file.
NAMED_REASONS = 5


def build_rows(report: Report) -> list[list[str]]:
    """A header and one row per group of expressions and stage of the mask, percent."""
    names = [name for name in report.metrics if not name.startswith(COARSE_PREFIX)]
    titles = [name.replace("precision@", "P@").replace("_", " ") for name in names]
    rows = [["expressions", "count", "mask", *titles]]
    for group, figures in ({"all": report.metrics} | report.groups).items():
        for stage, prefix in (("refined", ""), ("coarse", COARSE_PREFIX)):
            if prefix + names[0] in figures:
                cells = [f"{figures[prefix + name]:.2f}" for name in names]
                rows.append([group, str(report.counts[group]), stage, *cells])
    return rows


def format_remarks(report: Report) -> str:
    """What the figures leave out: skipped expressions, with the first reasons, and empty truths.

    Returns:
        one line per remark; the number of skipped expressions is always told.
    """
    lines = [f"skipped expressions (in no figure): {len(report.skipped)}"]
    for item in report.skipped[:NAMED_REASONS]:
        lines.append(f"  {item.expression_id} (image {item.image_id}): {item.reason}")
    if len(report.skipped) > NAMED_REASONS:
        lines.append(f"  and {len(report.skipped) - NAMED_REASONS} more")
    if report.empty_truths:
        lines.append(
            f"expressions whose true mask is empty (their IoU is 0): {report.empty_truths}"
        )
    return "\n".join(lines)


__all__ = ["NAMED_REASONS", "build_rows", "format_remarks"]
