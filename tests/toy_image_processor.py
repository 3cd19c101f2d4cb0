"""An image processor that changes nothing, for tests that are not about pictures."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from flmm.records import Grid, ImageInput


class ToyImageProcessor:
    """Encodes a picture as itself, scaled to [0, 1]."""

    @staticmethod
    def recognises(_processor: Any) -> bool:
        return False

    def preprocess(self, images: Any) -> dict[str, Any]:
        raise NotImplementedError

    def encode(self, image: Image.Image) -> ImageInput:
        array = np.asarray(image)
        pixels = torch.from_numpy(array.transpose(2, 0, 1) / 255).float()
        height, width = array.shape[:2]
        grid = Grid(torch.zeros(1, 1, dtype=torch.int64), (0.0, 0.0, float(width), float(height)))
        return ImageInput(pixels, {}, torch.zeros(1, dtype=torch.int64), [grid], array)
