"""What people are handed: phrases with their masks, and everything one does with them.

In: a grounder's outputs, or masks of one's own. Out: records, arrays, pictures, files, and the
field's formats (COCO, supervision, pandas). Computes no attention and loads no model. Masks are
kept as COCO's run lengths: two thousand of a 12-megapixel picture would be 24 GB as arrays.
"""

from flmm.results.coco import build_coco_dataset, build_coco_image, join_coco
from flmm.results.collecting import collect_result
from flmm.results.drawing import draw_phrases
from flmm.results.files import build_mask_name, encode_mask_file
from flmm.results.phrase import GroundedPhrase
from flmm.results.picture import ResultPicture
from flmm.results.result import GroundingResult

__all__ = [
    "GroundedPhrase",
    "GroundingResult",
    "ResultPicture",
    "build_coco_dataset",
    "build_coco_image",
    "build_mask_name",
    "collect_result",
    "draw_phrases",
    "encode_mask_file",
    "join_coco",
]
