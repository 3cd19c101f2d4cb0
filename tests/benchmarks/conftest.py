"""A size that takes a tenth of a second, of the real classes."""

from collections.abc import Iterator

import pytest
import torch

from flmm.benchmarks.harness import _CHOICES
from flmm.readers.published_sizes import PUBLISHED_SIZES

# Heads of width 128, as in every published model: the sections of M-RoPE fill just these.
SMALL = {
    **PUBLISHED_SIZES["width-1024"],
    "text_config": {
        **PUBLISHED_SIZES["width-1024"]["text_config"],
        **{"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 2048},
    },
    "vision_config": {
        **PUBLISHED_SIZES["width-1024"]["vision_config"],
        **{"depth": 2, "hidden_size": 128, "intermediate_size": 256, "out_hidden_size": 256},
        "fullatt_block_indexes": [1],
    },
}

# One resolution, padded or cropped pictures, a processor of another kind.
SQUARE = {
    **PUBLISHED_SIZES["LLaVA-1.5-7B"],
    "image_seq_length": 16,
    "text_config": {
        **PUBLISHED_SIZES["LLaVA-1.5-7B"]["text_config"],
        **{"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 2048},
    },
    "vision_config": {
        **PUBLISHED_SIZES["LLaVA-1.5-7B"]["vision_config"],
        **{"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "image_size": 56},
    },
}


@pytest.fixture(scope="package")
def size() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PUBLISHED_SIZES, "small", SMALL)
        patch.setitem(PUBLISHED_SIZES, "square", SQUARE)
        patch.setitem(_CHOICES, "model", (*_CHOICES["model"], "small", "square"))
        yield "small"


@pytest.fixture(scope="package")
def cpu() -> torch.device:
    return torch.device("cpu")
