"""What people are handed: phrases with their masks, and everything one does with them.

Every answer of flmm, in a call, a conversation or an evaluation, is made here, of a grounder's
logits or masks of one's own. Masks are kept as COCO's run lengths: two thousand of a 12-megapixel
picture would be 24 GB as arrays.
"""

from flmm.results.drawing import draw_phrases, encode_areas
from flmm.results.formats import (
    build_mask_name,
    encode_data_uri,
    encode_mask_file,
    encode_page_picture,
    join_coco,
)
from flmm.results.making import collect_result, compute_scores, make_result
from flmm.results.phrase import GroundedObject, GroundedPhrase, ResultPicture
from flmm.results.result import GroundingResult, build_coco_dataset, join_results

__all__ = [
    "GroundedObject",
    "GroundedPhrase",
    "GroundingResult",
    "ResultPicture",
    "build_coco_dataset",
    "build_mask_name",
    "collect_result",
    "compute_scores",
    "draw_phrases",
    "encode_areas",
    "encode_data_uri",
    "encode_mask_file",
    "encode_page_picture",
    "join_coco",
    "join_results",
    "make_result",
]
