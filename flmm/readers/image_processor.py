"""A picture as the reader of any family takes it, made by the model's own unified processor.

Runs in a data loader's worker, without the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flmm.images import load_image
from flmm.readers.families import Family, Seen, find_family
from flmm.readers.loading import check_processor, load_config, load_processor
from flmm.records import ImageInput
from flmm.registry import IMAGE_PROCESSORS

# What the processor says of the text, which is no part of the picture.
_OF_THE_TEXT = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"}


@IMAGE_PROCESSORS.register_module()
class ImageProcessorWrapper:
    """Pictures as a unified processor of transformers makes them, or what is quicker and the same.

    Args:
        name_or_path: folder or hub id of the model; or its family.
        options: further arguments of the processor, in place of the family's own.

    Raises:
        OSError: there is no model, or no processor, of this name.
        ValueError: flmm does not read such a model.
    """

    def __init__(self, name_or_path: str | Path | Family, **options: Any) -> None:
        if not isinstance(name_or_path, Family):
            config = load_config(name_or_path)
            processor = check_processor(load_processor(name_or_path))
            name_or_path = find_family(config)(config, processor)
        quicker = name_or_path.image_processor
        self.family = name_or_path.change_images({} if quicker else options)
        given = {name: options[name] for name in options if name not in self.family.own_options}
        self.options = {**self.family.image_options, **given}
        self._quicker = None if quicker is None else quicker(self.family.processor, **options)

    @staticmethod
    def recognises(_: Any) -> bool:
        """A processor alone does not say which model it belongs to."""
        return False

    def preprocess(self, images: Any) -> dict[str, list[Any]]:
        """One picture or several, see :meth:`encode`: per name of the processor's a list."""
        pictures = images if isinstance(images, (list, tuple)) else [images]
        encoded = [self.encode(picture) for picture in pictures]
        return {
            "pixel_values": [item.pixel_values.numpy() for item in encoded],
            **{name: [item.inputs[name] for item in encoded] for name in encoded[0].inputs},
        }

    def encode(self, image: Any) -> ImageInput:
        """One picture, ready for the reader; an ``ImageInput`` passes unchanged."""
        if isinstance(image, ImageInput):
            return image
        if self._quicker is not None:
            return self._quicker.encode(image)
        picture, family = load_image(image), self.family
        made = family.processor(
            images=[picture], text=[family.picture_text], return_tensors="pt", **self.options
        )
        if "pixel_values" not in made:
            raise ValueError(
                f"{type(family.processor).__name__} gives {', '.join(made)} and no pixel_values: "
                "the model would see no picture, leave image_options as the family has them"
            )
        ids = made["input_ids"][0]
        columns = (ids == family.config.image_token_id).nonzero()[:, 0]
        if not len(columns):
            raise ValueError(
                f"{type(family.processor).__name__} writes no image token for a picture of "
                f"{picture.width} x {picture.height} px: load model and processor from the same "
                "folder"
            )
        first = int(columns[0])
        seen = Seen(columns, (picture.height, picture.width), made)
        return ImageInput(
            pixel_values=made["pixel_values"],
            inputs={
                name: value
                for name, value in made.items()
                if name != "pixel_values" and name not in _OF_THE_TEXT
            },
            token_ids=family.cut_picture(ids),
            grids=[grid.shift(-first) for grid in family.layout(seen)],
            image=np.array(picture),
            over_patches=family.over_patches,
        )
