"""The compiled mask head computes, learns and is saved as the plain one.

The blocks are traced, with dynamic shapes, and their gradients too; "aot_eager" then runs torch's
own kernels. Writing new ones (the default, "inductor") takes minutes on a CPU: not run here.
"""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from flmm.config import load_config
from flmm.masks import UNetHead
from flmm.training.acceleration import compile_mask_head
from flmm.training.runner import run_training
from tests.training.toy_training import ToyGrounder

SETTINGS = {"backend": "aot_eager"}
CHANNELS = 8


class HeadAlone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = {"strides": (1, 1), "enc_num_convs": (1, 1), "enc_dilations": (1, 1)}
        steps = {"dec_num_convs": (1,), "downsamples": (True,), "dec_dilations": (1,)}
        self.mask_head = UNetHead(
            CHANNELS, base_channels=4, num_stages=2, upsample_input=16, **sizes, **steps
        )


def draw_maps(phrases: int, height: int, width: int) -> torch.Tensor:
    weights = torch.randn(phrases, CHANNELS, height * width).softmax(-1)
    return weights.view(phrases, CHANNELS, height, width)


@pytest.fixture(scope="module")
def pair() -> tuple[HeadAlone, HeadAlone]:
    """A plain head and its compiled twin."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    plain = HeadAlone()
    compiled = copy.deepcopy(plain)
    compile_mask_head(compiled, SETTINGS)
    return plain, compiled


def test_masks_and_gradients_are_the_same_for_every_size(pair: tuple[HeadAlone, HeadAlone]) -> None:
    plain, compiled = pair
    for size in ((3, 6, 8), (5, 8, 6), (2, 9, 5)):
        maps = draw_maps(*size)
        logits, expected = compiled.mask_head(maps), plain.mask_head(maps)
        torch.testing.assert_close(logits, expected)
        logits.square().mean().backward()
        expected.square().mean().backward()
    for own, other in zip(compiled.parameters(), plain.parameters()):
        torch.testing.assert_close(own.grad, other.grad)
    counters = torch._dynamo.utils.counters
    # One graph for each of the three blocks serves all sizes.
    assert counters["stats"]["unique_graphs"] == 3 and not counters["graph_break"]


def test_the_head_is_saved_and_copied_as_if_it_were_plain(
    pair: tuple[HeadAlone, HeadAlone],
) -> None:
    plain, compiled = pair
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.load_state_dict(plain.state_dict())
    average = copy.deepcopy(compiled)
    maps = draw_maps(2, 6, 8)
    torch.testing.assert_close(average.mask_head(maps), plain.mask_head(maps))
    assert all(module._compiled_call_impl is None for module in average.modules())


@pytest.mark.heavy
def test_in_half_precision_too(pair: tuple[HeadAlone, HeadAlone]) -> None:
    plain, compiled = pair
    maps = draw_maps(2, 6, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, expected = compiled.mask_head(maps), plain.mask_head(maps)
    assert logits.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(logits, expected)


def test_without_the_key_nothing_is_compiled() -> None:
    model = HeadAlone()
    compile_mask_head(model, False)
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_what_cannot_be_compiled_is_told() -> None:
    with pytest.raises(TypeError, match="compiles a UNetHead, ToyGrounder has no mask head: leave"):
        compile_mask_head(ToyGrounder(), True)
    model = HeadAlone()
    model.mask_head = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="HeadAlone has Linear: leave the key out"):
        compile_mask_head(model, {})
    with pytest.raises(TypeError, match="compile_mask_head is 'yes': give True, False, or a dict"):
        compile_mask_head(model, "yes")


def test_a_training_hands_the_key_on(toy_config: Path) -> None:
    with pytest.raises(TypeError, match="ToyGrounder has no mask head"):
        run_training(load_config(toy_config, {"compile_mask_head": True}))
    base = Path(__file__).parents[2] / "configs/_base_/default_runtime.py"
    assert Config.fromfile(base).compile_mask_head is False
