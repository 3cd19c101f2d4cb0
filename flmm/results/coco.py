"""COCO data sets of phrases, as ``pycocotools.coco.COCO`` loads them.

Every phrase is an annotation of the one category "phrase"; the words stand in ``phrase``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flmm.geometry import Size

if TYPE_CHECKING:
    from flmm.results.result import GroundingResult

CATEGORY = {"id": 1, "name": "phrase"}


def build_coco_image(image_id: int | str, name: str, size: Size) -> dict[str, Any]:
    """The entry of a picture.

    Args:
        image_id: its id.
        name: of its file.
        size: (H, W) px.
    """
    return {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}


def join_coco(
    images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A data set of entries that are ready.

    Args:
        images: of :func:`build_coco_image`.
        annotations: of ``to_coco(image_id=...)``, their ids unique.

    Returns:
        dict with ``images``, ``categories`` and ``annotations``, JSON ready.
    """
    return {
        "images": list(images),
        "categories": [dict(CATEGORY)],
        "annotations": list(annotations),
    }


def build_coco_dataset(results: Sequence[GroundingResult]) -> dict[str, Any]:
    """A data set of results: their pictures are numbered from 1, and so are all their phrases."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results, start=1):
        name = "picture" if result.picture is None else result.picture.name
        images.append(build_coco_image(image_id, name, result.size))
        annotations += result.to_coco(image_id, first_id=len(annotations) + 1)
    return join_coco(images, annotations)


__all__ = ["build_coco_dataset", "build_coco_image", "join_coco"]
