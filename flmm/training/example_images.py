"""The worst and the best masks of a validation or a test, as rows of pictures.

What is kept meanwhile is small: as many scaled pictures as are shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor

from flmm.evaluation.metrics import compute_intersections_unions, compute_ious
from flmm.geometry import resize_masks
from flmm.records import GroundingSample
from flmm.registry import HOOKS
from flmm.visualization import compute_panel_size, draw_masks, get_color, stack_rows

BEST, WORST = "best", "worst"
MAX_NAME_LENGTH = 60
Rank = tuple[float, str]


@dataclass(frozen=True)
class Example:
    """An expression with its masks, at the size at which it is drawn."""

    value: float  # what examples are ranked by, such as an IoU in [0, 1]
    expression_id: int | str
    phrase: str
    note: str  # stands beside the phrase
    image: np.ndarray  # uint8 RGB ``[h, w, 3]``
    masks: dict[str, np.ndarray]  # caption -> bool ``[h, w]``

    def draw(self) -> Image.Image:
        """One row: the picture, then the picture under each mask."""
        return draw_masks(self.image, self.masks, self.phrase, self.note, get_color(0))


class ExtremeExamples:
    """The ``count`` expressions with the least and with the greatest value among all.

    Which they are does not depend on the order: of equal values the lesser id wins.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: dict[str, list[tuple[Rank, Example]]] = {WORST: [], BEST: []}

    def wants(self, value: float, expression_id: int | str) -> bool:
        """Whether an expression is among the extreme ones so far."""
        return any(
            len(kept) < self.count or _rank(kind, value, expression_id) < kept[-1][0]
            for kind, kept in self._kept.items()
            if self.count
        )

    def add(self, example: Example) -> None:
        """Keep an example if it is among the extreme ones; an id is kept once."""
        for kind, kept in self._kept.items():
            if all(other.expression_id != example.expression_id for _, other in kept):
                kept.append((_rank(kind, example.value, example.expression_id), example))
                kept.sort(key=itemgetter(0))
                del kept[self.count :]

    def list(self, kind: str) -> list[Example]:
        """The ``"worst"`` (least) or the ``"best"`` (greatest), the most extreme first."""
        return [example for _, example in self._kept[kind]]

    def gather(self) -> ExtremeExamples:
        """Those of all processes together."""
        merged = ExtremeExamples(self.count)
        for part in all_gather_object(self._kept):
            for _, example in (item for kept in part.values() for item in kept):
                merged.add(example)
        return merged


def _rank(kind: str, value: float, expression_id: int | str) -> Rank:
    return (value if kind == WORST else -value), f"{expression_id:>20}"


def add_sample(examples: ExtremeExamples, image: np.ndarray, sample: GroundingSample) -> None:
    """Rank a picture's (uint8 RGB ``[H, W, 3]``) expressions with a true pixel by their IoU."""
    ious = compute_ious(*compute_intersections_unions(sample.pred_masks, sample.gt_masks))
    masks = {"true mask": sample.gt_masks, "coarse mask": sample.get("coarse_masks")}
    masks["refined mask"] = sample.pred_masks
    for row, (key, iou) in enumerate(zip(sample.expression_ids, ious)):
        if sample.gt_masks[row].any() and examples.wants(iou, key):
            words = sample.phrases[row], f"IoU {iou:.2f}   image {sample.image_id}"
            own = [(name, found[row]) for name, found in masks.items() if found is not None]
            examples.add(Example(iou, key, *words, *scale_example(image, own)))


def scale_example(
    image: np.ndarray, masks: Iterable[tuple[str, Tensor]]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A picture (uint8 RGB ``[H, W, 3]``) and its masks (bool ``[H, W]``) as they are drawn."""
    size = compute_panel_size((image.shape[0], image.shape[1]))
    scaled = np.array(Image.fromarray(image).resize(size[::-1]))
    return scaled, {
        caption: resize_masks(mask[None].cpu(), size)[0].numpy() for caption, mask in masks
    }


def write_examples(folder: Path, kind: str, examples: Sequence[Example]) -> list[Path]:
    """A file each, ``worst_01_0.03_the_red_circle_17.png``; those of an earlier run go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{kind}_[0-9]*.png"):
        old.unlink()
    paths = []
    for rank, example in enumerate(examples, start=1):
        words = re.sub(r"\W+", "_", example.phrase[:MAX_NAME_LENGTH]).strip("_")
        key = re.sub(r"\W+", "_", str(example.expression_id)[-MAX_NAME_LENGTH:])
        paths.append(folder / f"{kind}_{rank:02d}_{example.value:.2f}_{words}_{key}.png")
        example.draw().save(paths[-1])
    return paths


@HOOKS.register_module()
class ExampleImagesHook(Hook):
    """Shows picture, true, coarse and refined mask of the worst and the best expressions.

    After each validation and each test the visualizer is given two pictures, ``val_worst`` and
    ``val_best`` (``test_``...): TensorBoard shows them over the iterations.

    Args:
        count: how many of the worst and how many of the best; 0: none.
        folder: where each of them is also written as a file of its own.
    """

    def __init__(self, count: int = 4, folder: str | Path | None = None) -> None:
        if count < 0:
            raise ValueError(f"count is {count}: give how many examples are shown, 0 for none")
        self.count = count
        self.folder = None if folder is None else Path(folder)
        self._examples = ExtremeExamples(count)

    def after_val_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Look at a batch of a validation or a test."""
        if self.count:
            for image, sample in zip(data_batch["inputs"], outputs or ()):
                if image is not None and isinstance(sample, GroundingSample):
                    add_sample(self._examples, image.image, sample)

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Show what a validation found."""
        self._show(runner, "val")

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Show what a test found."""
        self._show(runner, "test")

    def _show(self, runner: Any, stage: str) -> None:
        examples, self._examples = self._examples.gather(), ExtremeExamples(self.count)
        if not self.count or not is_main_process():
            return
        for kind in (WORST, BEST):
            found = examples.list(kind)
            if found:
                sheet = stack_rows([example.draw() for example in found])
                runner.visualizer.add_image(f"{stage}_{kind}", np.array(sheet), step=runner.iter)
                if self.folder is not None:
                    write_examples(self.folder, kind, found)
        if self.folder is not None:
            print_log(f"Worst and best expressions: {self.folder}", logger="current")
