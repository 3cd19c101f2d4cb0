"""An image processor that changes nothing, for tests that are not about pictures."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from flmm.geometry import build_meta_data
from flmm.records import ImageInput


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
        size = array.shape[:2]
        return ImageInput(pixels, (1, *size), build_meta_data(size, size), array)
