"""The reader of every leaf at its published size, on the meta device: nothing is allocated."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from flmm.masks import UNetHead
from flmm.readers import FrozenVLM
from flmm.readers.published_sizes import PUBLICATIONS, PUBLISHED_SIZES
from flmm.readers.stand_ins import find_stand_in

# The first of each type; further sizes are more of the same.
FIRST = {PUBLISHED_SIZES[name]["model_type"]: name for name in reversed(list(PUBLICATIONS))}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.heavy] * (name not in FIRST.values()))
        for name in PUBLICATIONS
    ],
)
def test_a_published_size_builds_with_its_mask_head(name: str) -> None:
    """As many parameters as the hub counts, to what it rounds to three digits."""
    values = PUBLISHED_SIZES[name]
    stand_in = find_stand_in(values)
    processor = stand_in.make_processor(values)
    config = stand_in.build_config(values, processor)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
        vlm = FrozenVLM(model, processor=processor)
        head = UNetHead(in_channels=vlm.num_channels, normalize_input=True, upsample_input=64)
    count = sum(weight.numel() for weight in model.parameters())
    assert count == pytest.approx(PUBLICATIONS[name].parameters, rel=0.02)
    assert head.encoder[0][0].convs[0].conv.in_channels == vlm.num_channels
    assert vlm.num_channels == vlm.num_layers * vlm.num_heads * vlm.num_grids
