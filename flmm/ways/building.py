"""The ways by name, as configs of a model."""

from __future__ import annotations

from typing import Any

from flmm.grounder import Grounder
from flmm.ways.box_grounder import PROMPTS

WAYS = ("attention", "box", "both")
TRAINED = "trained"  # what tables call a way that is none of these


def configure_way(way: str, model: Any, sam: Any, heads: Any = None) -> dict[str, Any]:
    """The config of a grounder that points without training; for ``MODELS.build``.

    Args:
        way: ``"attention"``: where the words of a phrase look, by a rule; ``"box"``: the boxes that
            the reader names, each an object of the phrase; ``"both"``: the box bounds the map, the
            map chooses among boxes and masks.
        model: the frozen reader, or its config.
        sam: the refiner, or its config, with its original weights; ``None`` for coarse masks, by
            attention alone.
        heads: which heads point: what ``RuleHead`` takes as ``choice``; for ``"box"`` ignored.

    Raises:
        ValueError: there is no such way, or it needs heads.
    """
    if way not in WAYS:
        raise ValueError(f"way is {way!r}: give one of {', '.join(map(repr, WAYS))}")
    if way == "box":
        return {"type": "BoxGrounder", "model": model, "sam": sam}
    if heads is None:
        raise ValueError(
            f"pointing by {way!r} needs to know which heads point: choose them with "
            "tools/rank_heads.py and give --heads its JSON file (in Python: heads=)"
        )
    rule = {"type": "RuleHead", "choice": heads}
    if way == "both":  # the boxes say how many there are
        rule["keep"] = "all"
        return {"type": "BoxGrounder", "model": model, "sam": sam, "mask_head": rule}
    if isinstance(sam, dict):
        sam = {**sam, **PROMPTS}
    return {"type": "Grounder", "model": model, "sam": sam, "mask_head": rule}


def name_way(grounder: Grounder) -> str:
    """One of :data:`WAYS`, or :data:`TRAINED` where the mask head has weights."""
    if grounder.uses_boxes:
        return "both" if grounder.uses_maps else "box"
    return TRAINED if any(True for _ in grounder.mask_head.parameters()) else "attention"
