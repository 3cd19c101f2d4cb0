"""The meters against tensors of known sizes."""

import os
import sys

import pytest
import torch

from flmm.meters import LargestTensor, PeakMemory, read_available_bytes

MEGABYTE = 2**20
CPU = torch.device("cpu")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a CPU's peak")


def fill(megabytes: int) -> torch.Tensor:
    """Every page is touched."""
    return torch.ones(megabytes * MEGABYTE // 4)


@needs_linux
def test_the_peak_is_what_was_added_and_given_back_or_not():
    held = fill(150)
    with PeakMemory(CPU) as memory:
        big = fill(200)
        del big
        small = fill(20)
    assert memory.extra_bytes / MEGABYTE == pytest.approx(200, rel=0.05)
    with PeakMemory(CPU) as memory:
        held += 1
    assert memory.extra_bytes < 5 * MEGABYTE
    assert len(held) > len(small)


@needs_linux
def test_two_that_live_together_count_together():
    with PeakMemory(CPU) as memory:
        both = [fill(60), fill(80)]
    assert memory.extra_bytes / MEGABYTE == pytest.approx(140, rel=0.05)
    assert len(both) == 2


@needs_linux
def test_what_is_free_is_a_part_of_what_there_is():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 10 * MEGABYTE < read_available_bytes(CPU) < total


def test_the_largest_tensor_that_an_operation_makes():
    a, b = torch.ones(300, 40), torch.ones(40, 500, dtype=torch.float64)
    with LargestTensor() as largest:
        product = a.double() @ b
        product.half().sum()
    assert (largest.shape, largest.bytes) == ((300, 500), 300 * 500 * 8)


def test_neither_weights_nor_views_nor_what_was_before():
    layer = torch.nn.Linear(400, 400)
    with torch.no_grad(), LargestTensor() as largest:
        layer(torch.ones(2, 400))
        layer.weight.T[:100].expand(7, -1, -1).flatten(1, 1)
    assert (largest.shape, largest.bytes) == ((2, 400), 2 * 400 * 4)


def test_several_tensors_of_one_operation():
    with LargestTensor() as largest:
        torch.ones(6, 50).topk(20)
        torch.ones(3, 90).max(0)
    assert (largest.shape, largest.bytes) == ((6, 50), 6 * 50 * 4)
    with LargestTensor() as largest:
        torch.ones(6, 50).topk(50)  # values and, twice as large, indices
    assert (largest.shape, largest.bytes) == ((6, 50), 6 * 50 * 8)
