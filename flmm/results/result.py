"""The phrases of one picture, as a person uses them.

    result = grounder("photo.jpg", ["the red circle", "a dog"])
    result["a dog"].mask  # one of them
    result.save("masks.png")

What only some need (pandas, supervision, matplotlib, OpenCV) is imported when it is asked for.
"""

from __future__ import annotations

import difflib
import functools
import json
import operator
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from PIL import Image, ImageShow

from flmm.files import replace_file
from flmm.geometry import Size, resize_maps
from flmm.images import load_image
from flmm.results import drawing, formats
from flmm.results.phrase import GroundedPhrase, ResultPicture
from flmm.visualization import get_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KEPT = ("probs", "coarse_mask_logits", "attention_maps")


@dataclass(eq=False, repr=False)
class GroundingResult:
    """The P phrases of one picture and their masks.

    ``result[0]``, ``result["a dog"]`` and a loop give :class:`GroundedPhrase`, ``result[:3]`` a
    result. Two are equal where all but the pictures is equal. Arrays are read-only: a change in
    one would be missing from every file and format.

    Attributes:
        size: (H, W) pixels of the picture as given.
        picture: ``None``: nobody kept it.
        probs: float32 ``[P, H, W]`` in [0, 1], foreground probability of every pixel, only with
            ``return_probs=True``.
        coarse_mask_logits: ``[P, h', w']``, only with ``return_maps=True``.
        attention_maps: ``[P, C, h, w]``, what the mask head was given, as above.
    """

    found: list[GroundedPhrase]
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
        """A result of masks, bool ``[P, H, W]``, that come from elsewhere or were changed.

        Args:
            scores: P of them, in [0, 1]; that of an empty mask becomes 0.
            image: the picture: a path, a PIL image or uint8 RGB ``[H, W, 3]``.
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
        found = [GroundedPhrase.from_mask(*row) for row in zip(phrases, masks, scores)]
        return cls(found, size, None if pixels is None else ResultPicture.keep(image, pixels))

    @property
    def phrases(self) -> list[str]:
        """The words, P of them."""
        return [item.text for item in self.found]

    @property
    def segmentations(self) -> list[dict[str, Any]]:
        """P masks as COCO's compressed RLE, JSON ready."""
        return [item.segmentation for item in self.found]

    @property
    def scores(self) -> np.ndarray:
        """Float32 ``[P]`` in [0, 1]: mean foreground probability inside the mask; 0 where empty."""
        return _freeze(np.array([item.score for item in self.found], np.float32))

    @property
    def presence(self) -> np.ndarray:
        """Float32 ``[P]`` in [0, 1]: is it there at all, see :class:`GroundedPhrase`."""
        return _freeze(np.array([item.presence for item in self.found], np.float32))

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """Float32 ``[P, 4]``, pixels, right and bottom edge exclusive; NaN where one is empty."""
        boxes = np.array([item.box_xyxy for item in self.found], np.float32)
        return _freeze(boxes.reshape(-1, 4))

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """Bool ``[P, H, W]``, pixels of the picture as given; decoded at first access and kept."""
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for index, item in enumerate(self.found):
            masks[index] = item.mask
        return _freeze(masks)

    @property
    def coarse_masks(self) -> np.ndarray | None:
        """As :attr:`masks`, before the refiner; ``None`` without ``coarse_mask_logits``."""
        if self.coarse_mask_logits is None:
            return None
        return (resize_maps(torch.from_numpy(self.coarse_mask_logits), self.size) > 0).numpy()

    @property
    def image(self) -> np.ndarray:
        """Uint8 RGB ``[H, W, 3]``, as given; a file is opened once more, and must still hold it."""
        if self.picture is None:
            raise ValueError(
                "this result does not know its picture: give it to GroundingResult.from_masks(..., "
                "image=PICTURE)"
            )
        return self.picture.load()

    @property
    def instances(self) -> GroundingResult:
        """The same phrases, each with an object for every connected part of its mask.

        See :meth:`GroundedPhrase.split_parts`; with ``probs`` each object has a score of its own.
        """
        probs = [None] * len(self) if self.probs is None else self.probs
        return replace(self, found=[item.split_parts(own) for item, own in zip(self, probs)])

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[GroundedPhrase]:
        return iter(self.found)

    def __contains__(self, phrase: object) -> bool:
        return phrase in (self.found if isinstance(phrase, GroundedPhrase) else self.phrases)

    @overload
    def __getitem__(self, key: slice) -> GroundingResult: ...

    @overload
    def __getitem__(self, key: int | str) -> GroundedPhrase: ...

    def __getitem__(self, key: int | str | slice) -> GroundedPhrase | GroundingResult:
        if isinstance(key, slice):
            return _combine([self], self.found[key], lambda parts: parts[0][key])
        return self.found[self._find(key) if isinstance(key, str) else operator.index(key)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GroundingResult):
            return False
        return (self.found, self.size) == (other.found, other.size) and all(
            _are_equal(getattr(self, name), getattr(other, name)) for name in _KEPT
        )

    __hash__ = None  # type: ignore[assignment]  # it can change

    def __repr__(self) -> str:
        named = ", ".join(f"{reprlib.repr(item.text)} {item.score:.2f}" for item in self.found[:6])
        more = f", and {len(self) - 6} more" if len(self) > 6 else ""
        height, width = self.size
        return f"GroundingResult({len(self)} phrases in {width} x {height} px: {named}{more})"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the masks on the picture; without a picture, only the text."""
        return None if self.picture is None else formats.encode_picture(self.draw(), ".png")

    def _find(self, phrase: str) -> int:
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

    def draw(self) -> Image.Image:
        """The picture with every mask, its phrase and its score, in the picture's own size."""
        labels = [f"{item.score:.2f} {item.text}" for item in self.found]
        colors = [get_color(index) for index in range(len(self))]
        return drawing.draw_phrases(self.image, self.found, labels, colors)

    def show(self) -> None:
        """Open :meth:`draw` in the system's picture viewer."""
        if not ImageShow.show(self.draw()):
            raise RuntimeError(
                "no program here can show a picture: write it with result.save('masks.png')"
            )

    def plot(self, axes: Axes | None = None) -> Figure:
        """The same as a matplotlib figure; without ``axes`` a new one that pyplot does not keep."""
        from matplotlib.figure import Figure

        drawn = self.draw()
        if axes is None:
            axes = Figure(figsize=(8, 8 * drawn.height / drawn.width), layout="tight").add_subplot()
        axes.imshow(np.asarray(drawn))
        axes.set_axis_off()
        return axes.get_figure()  # type: ignore[return-value]  # of a figure's own axes

    def save(self, path: str | Path) -> Path:
        """Write the result; folders are made.

        By its ending: ``.png``, ``.jpg``, ``.jpeg`` or ``.webp``: :meth:`draw`; ``.json``: a COCO
        data set of this picture, which ``pycocotools.coco.COCO`` loads; another: ``ValueError``.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending in formats.PICTURES:
            content = formats.encode_picture(self.draw(), ending)
        elif ending == ".json":
            dataset = build_coco_dataset([self])
            content = (json.dumps(dataset, ensure_ascii=False, indent=1) + "\n").encode()
        else:
            raise ValueError(
                f"{str(path)!r} ends with {ending!r}: save takes {', '.join(formats.PICTURES)} "
                "(the picture with its masks) or .json (a COCO data set); save_masks writes a PNG "
                "per mask"
            )
        replace_file(path, content)
        return path

    def save_masks(self, folder: str | Path) -> list[Path]:
        """One 8-bit PNG per phrase (255 inside, 0 outside), such as ``001_the_red_circle.png``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, item in enumerate(self.found, start=1):
            paths.append(folder / formats.build_mask_name(number, item.text))
            replace_file(paths[-1], formats.encode_mask_file(item.mask))
        return paths

    def to_coco(
        self, image_id: int | str | None = None, first_id: int = 1, per_object: bool = False
    ) -> list[dict[str, Any]]:
        """One record per phrase, or per object, see :meth:`GroundedPhrase.to_coco`.

        With an ``image_id`` they are a data set's (or ``COCO.loadRes``'s), from ``first_id`` on.
        """
        found = self._list_rows(per_object)
        if image_id is None:
            return [item.to_coco() for item in found]
        return [item.to_coco(image_id, number) for number, item in enumerate(found, first_id)]

    def to_polygons(self) -> list[list[np.ndarray]]:
        """Per phrase the outer rims of its mask, see :meth:`GroundedPhrase.to_polygons`."""
        return [item.to_polygons() for item in self.found]

    def to_pandas(self, per_object: bool = False) -> Any:
        """A ``pandas.DataFrame``, a row per phrase or per object.

        Columns: phrase, score, presence, x0, y0, x1, y1 (px; NaN where empty), area.
        """
        return formats.build_data_frame(self._list_rows(per_object))

    def to_supervision(self, per_object: bool = False) -> Any:
        """``supervision.Detections``, one per phrase or per object, without empty masks.

        ``class_id``: place in ``phrases``.
        """
        return formats.build_detections(self._list_rows(per_object), self.phrases, self.size)

    def _list_rows(self, per_object: bool) -> list[GroundedPhrase]:
        if not per_object:
            return self.found
        return [part for item in self.found for part in item.list_objects()]


def join_results(parts: Sequence[GroundingResult]) -> GroundingResult:
    """Results of phrases of one picture, at least one, as one result."""
    found = [item for part in parts for item in part.found]
    return _combine(parts, found, np.concatenate)


def build_coco_dataset(results: Sequence[GroundingResult]) -> dict[str, Any]:
    """A data set of results: their pictures are numbered from 1, and so are all their phrases."""
    pictures: list[tuple[int, str, Size]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results, start=1):
        name = "picture" if result.picture is None else result.picture.name
        pictures.append((image_id, name, result.size))
        annotations += result.to_coco(image_id, first_id=len(annotations) + 1)
    return formats.join_coco(pictures, annotations)


def _combine(
    results: Sequence[GroundingResult],
    found: list[GroundedPhrase],
    change: Callable[[list[np.ndarray]], np.ndarray],
) -> GroundingResult:
    """A result of ``found``, with what ``change`` makes of each array that was kept."""
    combined = replace(results[0], found=found)
    for name in _KEPT:
        arrays = [getattr(result, name) for result in results]
        setattr(combined, name, None if arrays[0] is None else change(arrays))
    return combined


def _are_equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=True)


def _freeze(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
