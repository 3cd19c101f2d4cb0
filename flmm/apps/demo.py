"""What ``tools/demo.py`` does: ground samples, print a table, save the panels.

In: an inferencer and samples (a user's picture, or drawn scenes whose truth is known). Out: text
on the screen and PNG files. It computes no mask.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flmm.images import load_any_image, name_image
from flmm.inferencer import GroundingInferencer
from flmm.results import GroundingResult
from flmm.tables import format_text, tabulate
from flmm.toy.shape_sentences import render_samples
from flmm.visualization import draw_panels


@dataclass(frozen=True, eq=False)
class DemoSample:
    """A named picture with phrases and, where the truth is known, their masks.

    Attributes:
        name: stem of the files that are saved.
        image: RGB picture.
        phrases: what to ground.
        gt_masks: bool ``[P, H, W]``, or None.
    """

    name: str
    image: Image.Image
    phrases: list[str]
    gt_masks: np.ndarray | None = None


def load_user_sample(path: str, phrases: list[str]) -> DemoSample:
    """A user's picture, upright.

    Args:
        path: of a file, or an address.
        phrases: what to ground.

    Raises:
        OSError, ValueError: as :func:`flmm.images.load_any_image`.
    """
    return DemoSample(name_image(path), load_any_image(path), phrases)


def load_sample_scenes(count: int, seed: int) -> list[DemoSample]:
    """Drawn scenes; the embedded model was trained on other seeds."""
    return [
        DemoSample(f"sample_{index}", Image.fromarray(sample.image), sample.phrases, sample.masks)
        for index, sample in enumerate(render_samples(count, seed), start=1)
    ]


def demonstrate(inferencer: GroundingInferencer, samples: list[DemoSample], out: Path) -> None:
    """Ground every sample, print one table per sample and save ``<name>.png`` under ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        began = time.perf_counter()
        result = inferencer(sample.image, sample.phrases, return_maps=True)
        seconds = time.perf_counter() - began
        ious = compute_ious(result.masks, sample.gt_masks)
        draw_panels(sample.image, result, ious).save(out / f"{sample.name}.png")
        print(f"\n{sample.name}: {sample.image.width} x {sample.image.height} px, {seconds:.2f} s")
        print(format_text(tabulate(build_rows(result, ious))))
        print(f"saved {out / sample.name}.png")
    if inferencer.model.vlm.notice:
        print(f"\nnote: {inferencer.model.vlm.notice}")


def compute_ious(masks: np.ndarray, gt_masks: np.ndarray | None) -> list[float] | None:
    """IoU in [0, 1] of bool ``[P, H, W]`` masks; None without truth."""
    if gt_masks is None:
        return None
    intersections = (masks & gt_masks).sum((1, 2))
    unions = np.maximum((masks | gt_masks).sum((1, 2)), 1)
    return (intersections / unions).tolist()


def build_rows(result: GroundingResult, ious: list[float] | None) -> list[dict[str, object]]:
    """The table's rows: phrase, score, box (xyxy, px), area (px) and, where known, IoU."""
    rows: list[dict[str, object]] = []
    for index, phrase in enumerate(result.phrases):
        box = result.boxes_xyxy[index]
        text = "-" if np.isnan(box).any() else " ".join(str(round(edge)) for edge in box.tolist())
        row: dict[str, object] = {
            "phrase": phrase,
            "score": float(result.scores[index]),
            "box (x0 y0 x1 y1)": text,
            "area": int(result.masks[index].sum()),
        }
        if ious is not None:
            row["IoU"] = ious[index]
        rows.append(row)
    return rows
