"""``UNetHead``: the numbers and the key names of F-LMM's head."""

import pytest
import torch
from reference_unet import ReferenceHead
from torch import nn

from flmm.masks import UNetHead
from flmm.registry import MODELS

ODD_SIZES = [(24, 24), (13, 29), (7, 5), (1, 9), (65, 33), (49, 37)]
SETTINGS = {
    "default": {},
    "strided": {"strides": (1, 2, 1, 1), "enc_num_convs": (1, 2, 3, 1)},
    "flat": {"downsamples": (True, False, True), "enc_dilations": (1, 2, 1, 2)},
    "raw": {"normalize_input": False, "upsample_input": None, "dec_dilations": (2, 1, 1)},
}


def draw_maps(size, channels=6, phrases=2, seed=0):
    """Attention-like maps: a softmax over the grid."""
    logits = torch.randn(phrases, channels, *size, generator=torch.Generator().manual_seed(seed))
    return (3 * logits).flatten(2).softmax(-1).view_as(logits)


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_equals_an_independent_build(name, size):
    torch.manual_seed(0)
    head = UNetHead(in_channels=6, base_channels=8, **SETTINGS[name]).eval()
    reference = ReferenceHead(in_channels=6, base_channels=8, **SETTINGS[name]).eval()
    reference.load_state_dict(head.state_dict(), strict=True)
    maps = draw_maps(size)
    logits, expected = head(maps), reference(maps)
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() < 1e-5


@torch.no_grad()
def test_takes_the_weights_of_the_independent_build():
    torch.manual_seed(1)
    reference = ReferenceHead(in_channels=6, base_channels=8).eval()
    for parameter in reference.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    head = UNetHead(in_channels=6, base_channels=8).eval()
    head.load_state_dict(reference.state_dict(), strict=True)
    maps = draw_maps((17, 23))
    assert (head(maps) - reference(maps)).abs().max() < 1e-5


def test_keeps_mmseg_key_names_and_shapes():
    state = UNetHead(in_channels=10).state_dict()
    expected = {
        "encoder.0.0.convs.0.conv.weight": (64, 10, 3, 3),
        "encoder.0.0.convs.0.gn.weight": (64,),
        "encoder.0.0.convs.1.gn.bias": (64,),
        "encoder.3.1.convs.1.conv.weight": (512, 512, 3, 3),
        "decoder.0.conv_block.convs.0.conv.weight": (64, 128, 3, 3),
        "decoder.0.upsample.interp_upsample.1.conv.weight": (64, 128, 1, 1),
        "decoder.2.upsample.interp_upsample.1.gn.bias": (256,),
        "conv_seg.weight": (1, 64, 1, 1),
        "conv_seg.bias": (1,),
    }
    assert {key: tuple(state[key].shape) for key in expected} == expected
    # 17 convolutions, each with a norm of two parameters, and the last one with its bias
    assert len(state) == 17 * 3 + 2


def test_initialises_as_mmengine_does():
    head = UNetHead(in_channels=64)
    conv = head.encoder[1][1].convs[0].conv
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)
    assert head.conv_seg.bias.item() == 0
    assert all(
        (norm.weight == 1).all() for norm in head.modules() if isinstance(norm, nn.GroupNorm)
    )


@pytest.mark.parametrize("kind", ["GN", "GroupNorm", "torch.nn.GroupNorm", nn.GroupNorm], ids=str)
def test_builds_from_f_lmm_config(kind):
    head = MODELS.module_dict["UNetHead"](
        normalize_input=True,
        upsample_input=64,
        in_channels=4,
        base_channels=8,
        num_stages=4,
        strides=(1, 1, 1, 1),
        enc_num_convs=(2, 2, 2, 2),
        dec_num_convs=(2, 2, 2),
        downsamples=(True, True, True),
        enc_dilations=(1, 1, 1, 1),
        dec_dilations=(1, 1, 1),
        norm_cfg={"type": kind, "num_groups": 1},
        upsample_cfg={"type": "InterpConv"},
    )
    assert head(draw_maps((24, 24), channels=4)).shape == (2, 1, 64, 64)


def test_log_input_sees_one_for_uniform_attention():
    head = UNetHead(in_channels=2, base_channels=8, upsample_input=None, log_input=True)
    uniform = torch.full((1, 2, 5, 7), 0.01)
    prepared = head._prepare_maps(uniform)
    assert torch.allclose(prepared, torch.full_like(prepared, 2.0).log())


@torch.no_grad()
def test_low_precision_stays_close():
    torch.manual_seed(0)
    head = UNetHead(in_channels=6, base_channels=8).eval()
    maps = draw_maps((11, 14))
    expected = head(maps)
    logits = head.bfloat16()(maps)
    assert head.dtype == logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_phrases_are_independent_and_may_be_none():
    head = UNetHead(in_channels=6, base_channels=8).eval()
    maps = draw_maps((9, 13), phrases=3)
    together, alone = head(maps), head(maps[1:2])
    assert (together[1:2] - alone).abs().max() < 1e-5 * alone.abs().max()
    assert head(maps[:0]).shape == (0, 1, *together.shape[-2:])


def test_gradient_reaches_every_weight():
    head = UNetHead(in_channels=6, base_channels=8)
    head(draw_maps((9, 13))).square().mean().backward()
    assert all(weight.grad is not None for weight in head.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_stages": 3}, "strides=.* has 4 entries, expected 3"),
        ({"dec_num_convs": (2, 2)}, "dec_num_convs=.* has 2 entries, expected 3"),
        ({"strides": (2, 1, 1, 1)}, "the first must be 1"),
        ({"norm_cfg": None}, "norm_cfg=None is not supported: give"),
        ({"upsample_cfg": None}, "upsample_cfg=None is not supported: give"),
        ({"norm_cfg": {"type": "BN"}}, "norm_cfg=.* is not supported"),
        ({"norm_cfg": {"type": "GN", "num_groups": 1, "eps": 1e-3}}, "norm_cfg=.* not supported"),
        ({"upsample_cfg": {"type": "DeconvModule"}}, "upsample_cfg=.* is not supported"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refuses_settings_it_cannot_honour(settings, message):
    with pytest.raises(ValueError, match=message):
        UNetHead(in_channels=6, base_channels=8, **settings)


def test_refuses_maps_that_are_no_attention():
    head = UNetHead(in_channels=6, base_channels=8)
    with pytest.raises(ValueError, match=r"expected \[N, 6, h, w\]: set in_channels"):
        head(torch.rand(2, 5, 8, 8))
    with pytest.raises(ValueError, match=r"maps in \[.*, 2.*expected attention weights"):
        head(torch.full((2, 6, 8, 8), 2.0))
    with pytest.raises(ValueError, match="expected attention weights"):
        head(torch.full((2, 6, 8, 8), float("nan")))
