"""DeepSeek-VL, plain and hybrid: one square of image tokens over the padded picture.

The hybrid joins a token of SigLIP's and one of SAM's; SAM's neck and the convolutions behind it mix
neighbours up to 1.5 cells away. Source: arXiv 2403.05525, section 3.1.
"""

from __future__ import annotations

from flmm.geometry import Size, place_region
from flmm.readers.families.base import Family, Seen
from flmm.records import Grid


class DeepseekVL(Family):
    """DeepSeek-VL."""

    model_types = ("deepseek_vl", "deepseek_vl_hybrid")
    special = "the picture padded to a square; the hybrid's second tower mixes neighbouring cells"

    def check(self) -> None:
        """Also refuse squares of other sizes than the processor's."""
        super().check()
        for part, of_model, of_processor in self._list_sides():
            if of_model != of_processor:
                raise ValueError(
                    f"the model takes squares of {of_model} px ({part}), the processor makes "
                    f"{of_processor} px: load both from the same folder"
                )
        if self._side**2 != self.processor.num_image_tokens:
            raise ValueError(
                f"the model makes {self._side} x {self._side} tokens of a picture, the processor "
                f"writes {self.processor.num_image_tokens}: load both from the same folder"
            )

    def _list_sides(self) -> list[tuple[str, int, int]]:
        """(part, px of the model, px of the processor) of each tower; the first made last."""
        inner = self.processor.image_processor
        sides = [("vision_config", self.config.vision_config.image_size, inner.size["height"])]
        if self.config.model_type == "deepseek_vl_hybrid":
            part = "high_res_vision_config"
            side = self.config.high_res_vision_config.image_size
            sides.append((part, side, inner.high_res_size["height"]))
        return sides

    @property
    def _side(self) -> int:
        """Of the square in tokens."""
        vision = self.config.vision_config
        return vision.image_size // vision.patch_size

    def layout(self, seen: Seen) -> list[Grid]:
        """The tokens are a grid over the square that the picture was padded to."""
        _, side, _ = self._list_sides()[-1]  # the hybrid's smaller square is made of the larger
        resized = self._resize(seen.size, side)
        square = max(resized)
        top, left = ((square - own) // 2 for own in resized)
        region = (-left, -top, square - left, square - top)
        (tokens,) = seen.split(self._side**2)
        box = place_region(region, resized, seen.size)
        return [Grid(tokens.view(self._side, self._side), box)]

    def _resize(self, size: Size, side: int) -> Size:
        """(h, w) as the image processor resizes to a longest side."""
        least, scale = self.processor.image_processor.min_size, side / max(size)
        return max(round(size[0] * scale), least), max(round(size[1] * scale), least)


__all__ = ["DeepseekVL"]
