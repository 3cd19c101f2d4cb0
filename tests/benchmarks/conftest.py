"""A layout that takes a tenth of a second, of the real classes."""

from collections.abc import Callable, Iterator

import pytest
import torch

from flmm.benchmarks.reading_ways import ReadingCase
from flmm.readers.layouts import LAYOUTS, build_layout_config

# Heads of width 128, as in every published model: the sections of M-RoPE fill just these.
SMALL = ("qwen2_5_vl", (256, 512, 2, 2, 1, 2048), (2, 128, 256))


@pytest.fixture(scope="package")
def layout() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYOUTS, "small", SMALL)
        assert build_layout_config("small").image_token_id < SMALL[1][-1]
        yield "small"


@pytest.fixture(scope="package")
def make_case(layout: str) -> Callable[..., ReadingCase]:
    """Cases with few tokens and one timed run."""

    def make(way: str, image_tokens: int = 48, expressions: int = 3, **fields) -> ReadingCase:
        return ReadingCase(way, layout, None, image_tokens, expressions, repeats=1, **fields)

    return make


@pytest.fixture(scope="package")
def cpu() -> torch.device:
    return torch.device("cpu")
