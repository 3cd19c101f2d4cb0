"""The one picture door: whatever a person or a record calls a picture, as 8-bit RGB.

``load_any_image`` takes web addresses beside and is for people's own words alone. Nobody else in
flmm opens, turns or converts a picture.
"""

from flmm.images.addresses import FetchLimits, describe_address, load_any_image, name_image
from flmm.images.loading import Orientation, TooManyPixelsError, is_address, load_image, open_image

__all__ = [
    "FetchLimits",
    "Orientation",
    "TooManyPixelsError",
    "describe_address",
    "is_address",
    "load_any_image",
    "load_image",
    "name_image",
    "open_image",
]
