"""Expressions of drawn scenes without any file: of one object, of several, of none."""

from __future__ import annotations

import random
from typing import Any

from flmm.records import Continuation
from flmm.registry import DATASETS
from flmm.toy.shape_captions import ShapeListDataset
from flmm.toy.shape_layouts import draw_expressions
from flmm.toy.shapes import Scene

_GROUPS = ("none", "one", "several")  # as gRefCOCO's metric orders them


@DATASETS.register_module()
class ShapeExpressionDataset(ShapeListDataset):
    """One item per drawn scene: each expression alone, with the mask of all its objects together.

    Args:
        absent: also ask for what is not there, whose mask is empty.
        most_single: how many expressions of one object are asked of a scene at most; ``None``: all.
        bad_records: as of other data sets; no record is bad here.
        *args, **kwargs: of :class:`ShapeListDataset`.
    """

    origin = "flmm shape expressions"

    def __init__(
        self,
        *args: Any,
        absent: bool = True,
        most_single: int | None = None,
        bad_records: str = "stop",
        **kwargs: Any,
    ) -> None:
        self.absent = absent
        self.most_single = most_single
        super().__init__(*args, **kwargs)

    def draw(self, rng: random.Random, scene: Scene) -> dict[str, Any]:
        """See :meth:`ShapeListDataset.draw`."""
        drawn = [item for item in draw_expressions(rng, scene) if item.objects or self.absent]
        single = [item for item in drawn if len(item.objects) == 1]
        left_out = [] if self.most_single is None else single[self.most_single :]
        drawn = [item for item in drawn if item not in left_out]
        return {
            "continuations": [Continuation(item.text) for item in drawn],
            "objects": [item.objects for item in drawn],
            "expression_kinds": [item.kind for item in drawn],
            "expression_groups": [(_GROUPS[min(2, len(item.objects))],) for item in drawn],
            "object_counts": [len(item.objects) for item in drawn],
        }
