"""The phrases of one picture, as a person uses them.

    result = grounder("photo.jpg", ["the red circle", "a dog"])
    result["a dog"].mask  # one of them
    result.save("masks.png")

In: records. Out: arrays, pictures, files, other libraries' formats. What only some need (pandas,
supervision, matplotlib, OpenCV) is imported when it is asked for.
"""

from __future__ import annotations

import difflib
import functools
import operator
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from PIL import Image

from flmm.geometry import Size, compute_boxes_xyxy
from flmm.images import load_image
from flmm.results.conversions import build_data_frame, build_detections
from flmm.results.drawing import draw_result, open_viewer, plot_result
from flmm.results.files import encode_picture, save_masks, save_result
from flmm.results.phrase import GroundedPhrase, are_fields_equal
from flmm.results.picture import ResultPicture
from flmm.rle import encode_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(eq=False, repr=False)
class GroundingResult:
    """The phrases of one picture and their masks, as handed to people.

    ``len(result)`` is the number of phrases P; ``result[0]``, ``result["a dog"]`` and a loop give
    :class:`GroundedPhrase`, ``result[:3]`` a result. Two results are equal where all they hold is
    equal (pictures are not compared).

    Attributes:
        phrases: the P phrases.
        segmentations: P masks as COCO's compressed RLE, JSON ready.
        scores: float32 ``[P]`` in [0, 1]: mean foreground probability inside the mask; 0 where it
            is empty.
        boxes_xyxy: float32 ``[P, 4]``, pixels of the original image, right and bottom edge
            exclusive; NaN where a mask is empty.
        size: (H, W) pixels of the picture as given.
        picture: where its pixels are; ``None``: nobody kept them.
        probs: float32 ``[P, H, W]`` in [0, 1], foreground probability of every pixel, only with
            ``return_probs=True``, otherwise ``None``.
        coarse_mask_logits: ``[P, h', w']``, only with ``return_maps=True``.
        attention_maps: ``[P, L*A, h, w]``, only with ``return_maps=True``.
    """

    phrases: list[str]
    segmentations: list[dict[str, Any]]
    scores: np.ndarray
    boxes_xyxy: np.ndarray
    size: Size
    picture: ResultPicture | None = None
    probs: np.ndarray | None = None
    coarse_mask_logits: np.ndarray | None = None
    attention_maps: np.ndarray | None = None

    @classmethod
    def from_masks(
        cls,
        phrases: Sequence[str],
        masks: np.ndarray,
        scores: Sequence[float] | np.ndarray,
        image: Any = None,
    ) -> GroundingResult:
        """A result of masks that come from elsewhere, or were changed.

        Args:
            phrases: P of them.
            masks: bool ``[P, H, W]``.
            scores: P of them, in [0, 1].
            image: the picture: a path, a PIL image or uint8 RGB ``[H, W, 3]``.

        Raises:
            TypeError: the masks are not bool.
            ValueError: the counts differ, or the picture is of another size.
        """
        masks = np.asarray(masks)
        if masks.dtype != bool or masks.ndim != 3:
            raise TypeError(
                f"masks is {masks.dtype} of shape {list(masks.shape)}: give bool [P, H, W], for "
                "example probs > 0.5"
            )
        if not len(phrases) == len(masks) == len(scores):
            raise ValueError(
                f"got {len(phrases)} phrases, {len(masks)} masks and {len(scores)} scores: give "
                "one of each per phrase"
            )
        size = masks.shape[1], masks.shape[2]
        pixels = None if image is None else np.asarray(load_image(image))
        if pixels is not None and pixels.shape[:2] != size:
            raise ValueError(
                f"the picture is of size {pixels.shape[:2]}, the masks of size {size} (h, w): give "
                "the picture that they were made for"
            )
        return cls(
            phrases=list(phrases),
            segmentations=[encode_mask(mask) for mask in masks],
            scores=np.asarray(scores, dtype=np.float32),
            boxes_xyxy=compute_boxes_xyxy(torch.from_numpy(np.array(masks))).numpy(),
            size=size,
            picture=None if pixels is None else ResultPicture.keep(image, pixels),
        )

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """Bool ``[P, H, W]``, original pixels; read-only: make a copy to change one.

        Decoded at the first access and kept: P * H * W bytes (24 GB for 2,000 phrases in 12
        megapixels). A loop over the result has one mask at a time.
        """
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for index, found in enumerate(self):
            masks[index] = found.mask
        masks.flags.writeable = False
        return masks

    @property
    def image(self) -> np.ndarray:
        """Uint8 RGB ``[H, W, 3]``, the picture as given; a file is opened once more.

        Raises:
            ValueError: nobody kept the picture, or the file holds another one now.
            OSError: the file is gone.
        """
        if self.picture is None:
            raise ValueError(
                "this result does not know its picture: give it to GroundingResult.from_masks(..., "
                "image=PICTURE)"
            )
        return self.picture.load()

    def __len__(self) -> int:
        return len(self.phrases)

    def __iter__(self) -> Iterator[GroundedPhrase]:
        return (self[index] for index in range(len(self)))

    def __contains__(self, phrase: object) -> bool:
        return phrase in (list(self) if isinstance(phrase, GroundedPhrase) else self.phrases)

    @overload
    def __getitem__(self, key: slice) -> GroundingResult: ...

    @overload
    def __getitem__(self, key: int | str) -> GroundedPhrase: ...

    def __getitem__(self, key: int | str | slice) -> GroundedPhrase | GroundingResult:
        if isinstance(key, slice):
            return self._slice(key)
        index = self._find(key) if isinstance(key, str) else operator.index(key)
        return GroundedPhrase(
            self.phrases[index],
            self.segmentations[index],
            self.boxes_xyxy[index],
            float(self.scores[index]),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroundingResult) and are_fields_equal(self, other, ("picture",))

    __hash__ = None  # type: ignore[assignment]  # it can change

    def __repr__(self) -> str:
        named = ", ".join(f"{reprlib.repr(found.text)} {found.score:.2f}" for found in self[:6])
        more = f", and {len(self) - 6} more" if len(self) > 6 else ""
        height, width = self.size
        return f"GroundingResult({len(self)} phrases in {width} x {height} px: {named}{more})"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the masks on the picture; without a picture, only the text."""
        return None if self.picture is None else encode_picture(draw_result(self), ".png")

    def _find(self, phrase: str) -> int:
        """Where a phrase stands."""
        places = [index for index, text in enumerate(self.phrases) if text == phrase]
        if len(places) == 1:
            return places[0]
        if places:
            raise KeyError(
                f"{phrase!r} was asked {len(places)} times, at {places}: give one of these numbers"
            )
        close = difflib.get_close_matches(phrase, self.phrases, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {self.phrases[:8]}"
        raise KeyError(f"{phrase!r} is no phrase of this result: {hint}")

    def _slice(self, part: slice) -> GroundingResult:
        def cut(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[part]

        return GroundingResult(
            self.phrases[part],
            self.segmentations[part],
            self.scores[part],
            self.boxes_xyxy[part],
            self.size,
            self.picture,
            cut(self.probs),
            cut(self.coarse_mask_logits),
            cut(self.attention_maps),
        )

    def draw(self) -> Image.Image:
        """The picture with every mask, its phrase and its score, in the picture's own size.

        Raises:
            ValueError, OSError: see :attr:`image`.
        """
        return draw_result(self)

    def show(self) -> None:
        """Open :meth:`draw` in the system's picture viewer.

        Raises:
            RuntimeError: no viewer is installed here.
        """
        open_viewer(self.draw())

    def plot(self, axes: Axes | None = None) -> Figure:
        """The same as a matplotlib figure.

        Args:
            axes: to draw into; ``None``: a new figure, which pyplot does not keep.
        """
        return plot_result(self, axes)

    def save(self, path: str | Path) -> Path:
        """Write the result; the ending says as what.

        Args:
            path: ``.png``, ``.jpg``, ``.jpeg`` or ``.webp``: :meth:`draw`; ``.json``: a COCO data
                set of this picture, which ``pycocotools.coco.COCO`` loads. Folders are made.

        Raises:
            ValueError: another ending.
            OSError: it cannot be written.
        """
        return save_result(self, Path(path))

    def save_masks(self, folder: str | Path) -> list[Path]:
        """One 8-bit PNG per phrase (255 inside, 0 outside), such as ``001_the_red_circle.png``.

        Args:
            folder: made if need be. Whatever a phrase holds, no file lies outside it.

        Raises:
            OSError: it cannot be written.
        """
        return save_masks(self, Path(folder))

    def to_coco(self, image_id: int | str | None = None, first_id: int = 1) -> list[dict[str, Any]]:
        """One COCO-style record per phrase.

        Args:
            image_id: of the picture in a data set: ``COCO.loadRes`` takes the list, and it is the
                ``annotations`` of :func:`flmm.results.build_coco_dataset`; ``None``: records
                outside any data set.
            first_id: of the first phrase; they count up. Only with ``image_id``.

        Returns:
            list of ``{"phrase", "segmentation", "bbox", "score"}`` and, with an ``image_id``,
            ``id``, ``image_id``, ``category_id``, ``area`` and ``iscrowd``, see
            :meth:`GroundedPhrase.to_coco`.
        """
        if image_id is None:
            return [found.to_coco() for found in self]
        return [found.to_coco(image_id, number) for number, found in enumerate(self, first_id)]

    def to_polygons(self) -> list[list[np.ndarray]]:
        """Per phrase the outer rims of its mask, int32 ``[N, 2]`` px; holes are not kept.

        See :meth:`GroundedPhrase.to_polygons`.
        """
        return [found.to_polygons() for found in self]

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``, one row per phrase.

        Columns ``phrase``, ``score``, ``x0``, ``y0``, ``x1``, ``y1`` (px, NaN where the mask is
        empty) and ``area`` (px).

        Raises:
            ImportError: pandas is not installed.
        """
        return build_data_frame(self)

    def to_supervision(self) -> Any:
        """``supervision.Detections`` of the phrases whose mask is not empty.

        ``xyxy``, ``mask``, ``confidence``, ``class_id`` (the phrase's place in ``phrases``, equal
        phrases sharing the first one's) and ``data["class_name"]`` (the phrases).

        Raises:
            ImportError: supervision is not installed.
        """
        return build_detections(self)


__all__ = ["GroundingResult"]
