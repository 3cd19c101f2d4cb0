"""GLM-4.1V, GLM-4.5V and GLM-4.6V: as Qwen-VL, one run of tokens, row by row, with M-RoPE.

Source: arXiv 2507.01006, section 2 (3D-RoPE, any aspect ratio).
"""

from __future__ import annotations

from flmm.readers.boxes import BoxFormat
from flmm.readers.families.qwen import Qwen


class Glm4v(Qwen):
    """GLM-4.xV, dense and mixture of experts."""

    model_types = ("glm4v", "glm4v_moe", "glm46v")
    special = "M-RoPE, compared with the published rule; thinks before it answers"
    image_processor = None
    fences = ("image_start_token_id", "image_end_token_id")

    @property
    def box_format(self) -> BoxFormat:
        """Thousandths of the sides, between marks.

        Source: github.com/zai-org/GLM-V, README.md, "Grounding".
        """
        return BoxFormat(
            "Help me to locate {phrase} in the image and give me its bounding boxes.",
            marks=("<|begin_of_box|>", "<|end_of_box|>"),
        )


__all__ = ["Glm4v"]
