"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5 (and mixtures of experts): one run of tokens, row by row.

Their positions are compared with the published rule whenever a picture is read: some releases of
transformers computed others, and a wrong position gives a wrong map in silence. DeepStack features
of Qwen3-VL enter in the prefill alone. Source of the rule: arXiv 2409.12191, section 2.1 (M-RoPE),
and the code released with the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor

from flmm.readers.boxes import REGION_QUESTION, BoxFormat
from flmm.readers.families.base import Family, Seen
from flmm.readers.qwen_image_processor import QwenImageProcessorWrapper, patchify
from flmm.records import Grid

_LOCATE = "Locate {phrase} in this image and output the bbox coordinates in JSON format."
_LOCATE_EVERY = (
    'Locate every object that matches the description "{phrase}" in the image. Report bbox '
    "coordinates in JSON format."
)


class Qwen(Family):
    """The Qwen-VL models since the second generation.

    Attributes:
        fences: what a config calls the tokens before and behind a picture.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
    special = "any aspect ratio; M-RoPE, compared with the published rule"
    image_processor: ClassVar[Any] = QwenImageProcessorWrapper
    fences: ClassVar[tuple[str, str]] = ("vision_start_token_id", "vision_end_token_id")

    def check(self) -> None:
        """Also refuse a processor that cuts other patches."""
        super().check()
        vision, inner = self.config.vision_config, self.processor.image_processor
        for name, key, own in (
            ("patch size", "patch_size", "patch_size"),
            ("merge size", "spatial_merge_size", "merge_size"),
            ("temporal patch size", "temporal_patch_size", "temporal_patch_size"),
        ):
            of_model, of_processor = getattr(vision, key), getattr(inner, own)
            if of_model != of_processor:
                raise ValueError(
                    f"the model has {name} {of_model}, the processor {of_processor}: load both "
                    "from the same folder"
                )

    @property
    def box_format(self) -> BoxFormat:
        """Thousandths of the sides, or (Qwen2.5-VL) pixels of the picture as it was resized.

        Source: what the Qwen team says of its own RefCOCO evaluation. Qwen2-VL: arXiv 2409.12191,
        "Visual Grounding", the question in plain words from github.com/QwenLM/Qwen3-VL/issues/536
        (a user's; the team has published none). Qwen2.5-VL: issues 991 (question), 733 (JSON, no
        box tokens), 782 (pixels). Qwen3-VL: issues 1721 (question), 1427 (0-1000); Qwen3.5 is asked
        likewise, and counts to 1000 too: QwenLM/Qwen3.8-Flash-Next issue 4.
        """
        kind, vision = self.config.model_type, self.config.vision_config
        if kind == "qwen2_5_vl":
            return BoxFormat(_LOCATE, token_px=vision.patch_size * vision.spatial_merge_size)
        return BoxFormat(REGION_QUESTION if kind == "qwen2_vl" else _LOCATE_EVERY)

    def layout(self, seen: Seen) -> list[Grid]:
        """The picture as it was resized, each side by its own factor."""
        return [Grid(seen.columns.view(self._read_grid(seen.inputs)), seen.whole)]

    def render(self, images: int, is_first: bool) -> tuple[str, str]:
        """As the chat template does; every picture must stand between its vision tokens."""
        before, after = super().render(images, is_first)
        ids = [getattr(self.config, name) for name in self.fences]
        start, end = self.processor.tokenizer.convert_ids_to_tokens(ids)
        if before.count(f"{start}{self.placeholder}{end}") != before.count(self.placeholder):
            raise ValueError(
                f"the chat template writes {self.placeholder} not between {start} and {end}: the "
                "model takes pictures there alone"
            )
        return before, after

    def locate(
        self, model: Any, input_ids: Sequence[int], images: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """On the axes time, height and width, as transformers computes them.

        Raises:
            RuntimeError: it does otherwise than the models were trained with.
        """
        ids = torch.tensor([list(input_ids)])
        placeholder = self.config.image_token_id
        positions, _ = model.model.get_rope_index(
            ids,
            mm_token_type_ids=(ids == placeholder).int(),
            image_grid_thw=torch.cat([item["image_grid_thw"] for item in images]),
        )
        grids = [self._read_grid(item) for item in images]
        check_positions(positions[:, 0], compute_positions(input_ids, placeholder, grids))
        return positions[:, 0]

    def collate(self, images: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Patches are cut here: ``[C, H', W']`` is half of what they take on the way."""
        patches = [self._cut(item) for item in images]
        return {
            "pixel_values": patches[0] if len(patches) == 1 else torch.cat(patches),
            "image_grid_thw": torch.cat([item["image_grid_thw"] for item in images]),
        }

    def _cut(self, image: Mapping[str, Any]) -> Tensor:
        """``[n_patches, C*T*p*p]``; what the unified processor cut itself stays as it is."""
        pixels, vision = image["pixel_values"], self.config.vision_config
        if pixels.ndim == 2:
            return pixels
        rows, columns = self._read_grid(image)
        side = vision.patch_size * vision.spatial_merge_size
        if pixels.shape[-2:] != (rows * side, columns * side):
            raise ValueError(
                f"pixel_values of {list(pixels.shape)} do not fit the grid of {rows} x {columns} "
                f"(h x w) image tokens of {side} px: encode the image with this model's own "
                "processor"
            )
        return patchify(
            pixels, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        )

    def _read_grid(self, image: Mapping[str, Any]) -> tuple[int, int]:
        """(h, w) of a picture in image tokens."""
        merge = self.config.vision_config.spatial_merge_size
        _, height, width = image["image_grid_thw"][0].tolist()
        return height // merge, width // merge


class Qwen3_5(Qwen):
    """Qwen3.5, which sees as Qwen3-VL does; three of four of its layers keep a state."""

    model_types = ("qwen3_5", "qwen3_5_moe")
    special = "maps of every fourth layer, the others keep a state; answers without a thought"
    # A phrase would stand within a thought that was begun, and an answer behind it.
    template_options: ClassVar[Mapping[str, Any]] = {"enable_thinking": False}


def compute_positions(
    input_ids: Sequence[int], image_token_id: int, grids: Sequence[tuple[int, int]]
) -> Tensor:
    """The published rule: int64 ``[3, S]`` of S tokens that hold pictures of ``grids`` (h, w).

    Text counts up by one on all axes, and starts right behind the greatest position before it; a
    picture's tokens stand at the start in time, at start + row, at start + column.
    """
    parts: list[Tensor] = []
    place = start = 0
    for height, width in grids:
        first = input_ids.index(image_token_id, place)
        parts.append(torch.arange(start, start + first - place).expand(3, -1))
        start += first - place
        cells = torch.zeros(3, height, width, dtype=torch.int64)
        cells[1], cells[2] = torch.arange(height)[:, None], torch.arange(width)
        parts.append(start + cells.flatten(1))
        start += max(height, width)
        place = first + height * width
    parts.append(torch.arange(start, start + len(input_ids) - place).expand(3, -1))
    return torch.cat(parts, dim=1)


def check_positions(positions: Tensor, expected: Tensor) -> None:
    """Refuse positions ``[3, S]`` of transformers that the models were not trained with.

    Raises:
        RuntimeError: they differ from what is expected.
    """
    if not torch.equal(positions, expected):
        differ = (positions != expected).any(0)
        raise RuntimeError(
            f"transformers {transformers.__version__} places {int(differ.sum())} of "
            f"{len(differ)} tokens elsewhere than the published rule, so that every map would be "
            "wrong: install another release (5.3.0 to 5.5.3 are known to be wrong)"
        )
