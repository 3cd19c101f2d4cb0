"""Results in other libraries' forms; each is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from flmm.results.result import GroundingResult


def build_data_frame(result: GroundingResult) -> Any:
    """See :meth:`GroundingResult.to_pandas`."""
    pandas = _import("pandas", "to_pandas")
    boxes = {name: result.boxes_xyxy[:, side] for side, name in enumerate(("x0", "y0", "x1", "y1"))}
    areas = [found.area for found in result]
    columns = {"phrase": result.phrases, "score": result.scores, **boxes, "area": areas}
    return pandas.DataFrame(columns)


def build_detections(result: GroundingResult) -> Any:
    """See :meth:`GroundingResult.to_supervision`."""
    supervision = _import("supervision", "to_supervision")
    kept = [index for index, found in enumerate(result) if not found.is_empty]
    masks = np.zeros((len(kept), *result.size), dtype=bool)
    for row, index in enumerate(kept):
        masks[row] = result[index].mask
    places = [result.phrases.index(result.phrases[index]) for index in kept]
    return supervision.Detections(
        xyxy=result.boxes_xyxy[kept].reshape(-1, 4),
        mask=masks,
        confidence=result.scores[kept],
        class_id=np.array(places, dtype=np.int64),
        data={"class_name": np.array([result.phrases[index] for index in kept], dtype=np.str_)},
    )


def _import(name: str, method: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{method}() needs {name}: pip install 'flmm[results]', or pip install {name}"
        ) from error


__all__ = ["build_data_frame", "build_detections"]
