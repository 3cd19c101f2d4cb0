"""The one picture door: whatever a person or a record calls a picture, as 8-bit RGB."""

from flmm.images.loading import load_image

__all__ = ["load_image"]
