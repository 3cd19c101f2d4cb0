"""Figures that others have published under our protocols, to stand beside a table of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class PublishedFigure(NamedTuple):
    """One line of somebody's table, in percent, and where it is printed."""

    dataset: str
    split: str
    protocol: str
    method: str
    training: str  # "trained" for the task, or "none": all its parts are frozen
    figures: dict[str, float]
    source: str


_GRES, _GSVA, _X2SAM = "arXiv 2306.00968", "arXiv 2312.10103", "arXiv 2605.00891"
_LISA, _SAM3, _EVOL_SAM3 = "arXiv 2308.00692", "arXiv 2511.16719", "arXiv 2512.24702"
_GENERALISED = (
    ("ReLA", {"gIoU": 63.6, "cIoU": 62.4}, _GRES),
    ("GSVA-7B", {"gIoU": 66.4, "cIoU": 63.2, "N-acc": 62.6}, _GSVA),
    ("X2SAM", {"gIoU": 68.1, "cIoU": 63.1}, _X2SAM),
)
# 7B and 72B: frozen readers of these sizes, Qwen2.5-VL.
_REASONING = (
    ("LISA-7B", "trained", 52.9, _LISA),
    ("X2SAM", "trained", 71.1, _X2SAM),
    ("SAM 3 Agent, 72B", "none", 74.6, _SAM3),
    ("Evol-SAM3, 7B", "none", 70.7, _EVOL_SAM3),
)
# cIoU of RefCOCO, RefCOCO+ and RefCOCOg.
_REFERRING = (
    ("SAM 3 Agent, 7B", (59.4, 51.4, 57.2), _SAM3),
    ("Evol-SAM3, 7B", (68.7, 64.4, 64.7), _EVOL_SAM3),
)
PUBLISHED = (
    *(
        PublishedFigure(dataset, "val", "standard", method, "none", {"cIoU": ciou}, source)
        for method, cious, source in _REFERRING
        for dataset, ciou in zip(("refcoco", "refcoco+", "refcocog"), cious)
    ),
    *(
        PublishedFigure("grefcoco", "val", "grefcoco", method, "trained", figures, source)
        for method, figures, source in _GENERALISED
    ),
    *(
        PublishedFigure("reasonseg", "val", "reasonseg", method, training, {"gIoU": giou}, source)
        for method, training, giou, source in _REASONING
    ),
)


def list_published(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What stands beside rows of a table: of the same data sets, splits and protocols."""
    asked = {(row["dataset"], row["split"], row["protocol"]) for row in rows}
    found = [item for item in PUBLISHED if item[:3] in asked]
    names = dict.fromkeys(name for item in found for name in item.figures)
    return [
        {
            **{key: getattr(item, key) for key in ("dataset", "split", "protocol", "method")},
            "training": item.training,
            **{name: item.figures.get(name) for name in names},
            "source": item.source,
        }
        for item in found
    ]
