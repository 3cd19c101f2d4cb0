"""What ``tools/demo.py`` does: ground samples, print a table, save what was seen step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from flmm import visualization
from flmm.images import load_image
from flmm.inferencer import GroundingInferencer
from flmm.results import GroundedPhrase, GroundingResult
from flmm.tables import format_text, tabulate
from flmm.toy.shape_sentences import render_samples


@dataclass(frozen=True, eq=False)
class DemoSample:
    """A named picture with phrases and, where the truth is known, their masks."""

    name: str  # stem of the files that are saved
    image: Image.Image
    phrases: list[str]
    gt_masks: np.ndarray | None = None  # bool [P, H, W]


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
    for index, item in enumerate(result):
        box = "-" if item.is_empty else " ".join(str(round(edge)) for edge in item.box_xyxy)
        row = {"phrase": item.text, "score": item.score, "box (x0 y0 x1 y1)": box}
        rows.append(row | {"area": item.area} | ({} if ious is None else {"IoU": ious[index]}))
    return rows


def draw_panels(
    image: np.ndarray | Image.Image, result: GroundingResult, ious: Sequence[float] | None = None
) -> Image.Image:
    """One row per phrase: picture (as given) and box, attention, coarse mask, refined mask."""
    maps, coarse = result.attention_maps, result.coarse_mask_logits
    if maps is None or coarse is None:
        raise ValueError(
            "the result holds no maps to draw: ground with return_maps=True, for example "
            "grounder(image, phrases, return_maps=True)"
        )
    if not result.phrases:
        raise ValueError("the result holds no phrase to draw: ground at least one")
    if ious is not None and len(ious) != len(result):
        raise ValueError(f"got {len(ious)} IoUs for {len(result)} phrases: give one per phrase")
    picture = load_image(image)
    height, width = visualization.compute_panel_size((picture.height, picture.width))
    scaled = np.array(picture.resize((width, height)))
    rows = []
    for index, item in enumerate(result):
        color = visualization.get_color(index)
        note = f"score {item.score:.2f}" + ("" if ious is None else f"   IoU {ious[index]:.2f}")
        panels = _draw_panels(scaled, item, maps[index], coarse[index], color)
        rows.append(visualization.compose_row(panels, item.text, note, color))
    return visualization.stack_rows(rows)


def _draw_panels(
    scaled: np.ndarray,
    phrase: GroundedPhrase,
    maps: np.ndarray,
    coarse_logits: np.ndarray,
    color: visualization.Color,
) -> dict[str, Any]:
    """Caption -> panel, of one phrase."""
    size, mask = (scaled.shape[0], scaled.shape[1]), phrase.mask
    coarse = visualization.resize_map(coarse_logits, size) > 0
    heat = visualization.merge_channels(maps, coarse if phrase.is_empty else mask)
    best = min(visualization.BEST_CHANNELS, len(maps))
    return {
        "image and box": _draw_box(scaled, phrase, color),
        f"attention ({best} best of {len(maps)})": visualization.overlay_heat(scaled, heat),
        "coarse mask": visualization.overlay_mask(scaled, coarse, color),
        "refined mask": visualization.overlay_mask(
            scaled, visualization.resize_mask(mask, size), color
        ),
    }


def _draw_box(scaled: np.ndarray, phrase: GroundedPhrase, color: visualization.Color) -> np.ndarray:
    """The picture with the phrase's box; none where its mask is empty."""
    drawn = Image.fromarray(scaled)
    if not phrase.is_empty:
        scale = np.array([drawn.width / phrase.size[1], drawn.height / phrase.size[0]] * 2)
        x0, y0, x1, y1 = phrase.box_xyxy * scale
        corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        ImageDraw.Draw(drawn).rectangle(corners, outline=color, width=3)
    return np.array(drawn)
