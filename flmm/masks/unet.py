"""The mask head: a U-Net that turns a phrase's attention maps into coarse mask logits.

The network is mmseg's ``UNet`` as F-LMM configures it, in plain torch, with mmseg's state-dict
keys, so that F-LMM's published heads load. The attribute names ``convs``, ``conv_block``,
``interp_upsample``, ``conv``, ``gn`` and ``conv_seg`` are those keys: renaming one breaks them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import kaiming_init
from torch import Tensor, nn

from flmm.registry import MODELS

DEFAULT_NORM = {"type": "GN", "num_groups": 1}
DEFAULT_UPSAMPLING = {"type": "InterpConv"}
# Setting -> its types, its keys, and what a message advises.
_ONLY_CHOICES = {
    "norm_cfg": (
        {"GN", "GroupNorm"},
        {"type", "num_groups"},
        "dict(type='GN', num_groups=1), the norm",
    ),
    "upsample_cfg": ({"InterpConv"}, {"type"}, "dict(type='InterpConv'), the upsampling"),
}


@MODELS.register_module()
class UNetHead(nn.Module):
    """Coarse mask logits from attention maps.

    Args:
        in_channels: attention layers times heads, L*A.
        layers: look at so many of the reader's first layers alone, which then reads no others to
            point; ``None``: at all.
        base_channels: width of the first stage; stage ``i`` is ``2**i`` times as wide.
        num_stages: number of encoder stages.
        strides: per stage, 1 or 2; a stage with stride 2 has no max pooling. The first is 1.
        enc_num_convs: 3x3 convolutions per encoder stage.
        dec_num_convs: 3x3 convolutions per decoder stage (one stage less).
        downsamples: per stage after the first, whether max pooling halves the map.
        enc_dilations: per encoder stage, dilation of all its convolutions but the first.
        dec_dilations: the same per decoder stage.
        norm_cfg: the only choice; ``type`` may also be ``"GroupNorm"`` or the class.
        upsample_cfg: the only choice.
        normalize_input: divide each map by its sum.
        upsample_input: side to which the longer side of a smaller map is upsampled (bilinear);
            ``None`` keeps the size.
        log_input: feed ``log1p(map * h * w)``, in which 1 before the logarithm is uniform
            attention (after the division by the sum, if both are on).

    Source: F-LMM flmm/models/mask_head/mask_decoder.py and mmseg/models/backbones/unet.py at
    28b5733. Deviations: ``log_input`` is ours, for small models; normalising and upsampling
    are computed in float32 whatever the head's dtype; the range check of the input
    runs on the CPU only, where it does not make the device wait.
    """

    def __init__(
        self,
        in_channels: int,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 1, 1, 1),
        enc_num_convs: Sequence[int] = (2, 2, 2, 2),
        dec_num_convs: Sequence[int] = (2, 2, 2),
        downsamples: Sequence[bool] = (True, True, True),
        enc_dilations: Sequence[int] = (1, 1, 1, 1),
        dec_dilations: Sequence[int] = (1, 1, 1),
        norm_cfg: Mapping[str, Any] | None = DEFAULT_NORM,
        upsample_cfg: Mapping[str, Any] | None = DEFAULT_UPSAMPLING,
        normalize_input: bool = True,
        upsample_input: int | None = 64,
        log_input: bool = False,
        layers: int | None = None,
    ) -> None:
        super().__init__()
        per_stage = {"strides": strides, "enc_num_convs": enc_num_convs}
        _check_lengths(per_stage | {"enc_dilations": enc_dilations}, num_stages, "num_stages")
        per_step = {"dec_num_convs": dec_num_convs, "downsamples": downsamples}
        _check_lengths(per_step | {"dec_dilations": dec_dilations}, num_stages - 1, "num_stages-1")
        _check_strides(strides)
        _read_only_choice("upsample_cfg", upsample_cfg)
        num_groups = int(_read_only_choice("norm_cfg", norm_cfg).get("num_groups", 1))

        self.in_channels = in_channels
        self.layers = layers
        self.num_stages = num_stages
        self.normalize_input = normalize_input
        self.upsample_input = upsample_input
        self.log_input = log_input

        widths = [base_channels * 2**stage for stage in range(num_stages)]
        self.encoder = nn.ModuleList()
        for stage, channels in enumerate(zip([in_channels, *widths], widths)):
            block = ConvBlock(
                channels, enc_num_convs[stage], num_groups, strides[stage], enc_dilations[stage]
            )
            pools = stage > 0 and strides[stage] == 1 and downsamples[stage - 1]
            self.encoder.append(nn.Sequential(*([nn.MaxPool2d(2)] if pools else []), block))
        doubles = [stride == 2 or bool(pool) for stride, pool in zip(strides[1:], downsamples)]
        steps = zip(pairwise(widths), dec_num_convs, dec_dilations, doubles)
        self.decoder = nn.ModuleList(_build_step(*step, num_groups) for step in steps)
        self.conv_seg = nn.Conv2d(base_channels, 1, kernel_size=1)
        self.apply(_initialise)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.conv_seg.weight.dtype

    def forward(self, maps: Tensor) -> Tensor:
        """Coarse mask logits ``[N, 1, h', w']`` of maps ``[N, L*A, h, w]`` in [0, 1].

        With ``s = max(1, upsample_input / max(h, w))``, ``h'`` is ``floor(h * s)`` and ``w'`` is
        ``floor(w * s)``; the logits are in the head's dtype.

        Raises:
            ValueError: the number of channels is not ``in_channels``, or (on the CPU) a value
                lies outside [0, 1].
        """
        self._check_input(maps)
        maps = self._prepare_maps(maps).to(self.dtype)
        height, width = maps.shape[-2:]
        divisor = 2 ** (self.num_stages - 1)
        padded = F.pad(maps, (0, -width % divisor, 0, -height % divisor))
        return self.conv_seg(self.compute_features(padded)[..., :height, :width])

    def compute_features(self, maps: Tensor) -> Tensor:
        """Features ``[N, base_channels, h, w]`` of maps ``[N, L*A, h, w]``.

        Sides must be divisible by ``2**(num_stages - 1)``.
        """
        skips = []
        for stage in self.encoder:
            maps = stage(maps)
            skips.append(maps)
        features = skips.pop()
        for step in reversed(self.decoder):
            features = step(skips.pop(), features)
        return features

    def _check_input(self, maps: Tensor) -> None:
        if maps.ndim != 4 or maps.shape[1] != self.in_channels:
            raise ValueError(
                f"got maps of shape {tuple(maps.shape)}, expected [N, {self.in_channels}, h, w]: "
                "set in_channels to attention layers times heads of the VLM (vlm.num_maps)"
            )
        checked = self.normalize_input or self.log_input
        if not checked or maps.device.type != "cpu" or maps.numel() == 0:
            return
        low, high = (float(edge) for edge in maps.aminmax())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(
                f"got maps in [{low:.3g}, {high:.3g}], expected attention weights in [0, 1]: "
                "pass them after the softmax and before any scaling"
            )

    def _prepare_maps(self, maps: Tensor) -> Tensor:
        """Normalise, compress and upsample ``[N, L*A, h, w]``, in float32."""
        maps = maps.float()
        if self.normalize_input:
            maps = maps / maps.sum((-2, -1), keepdim=True).clamp(min=1e-12)
        if self.log_input:
            maps = torch.log1p(maps * (maps.shape[-2] * maps.shape[-1]))
        if self.upsample_input is None:
            return maps
        # A scale factor, not a size: with it F.interpolate samples at i / scale, as F-LMM does.
        scale = max(1.0, self.upsample_input / max(maps.shape[-2:]))
        size = [math.floor(side * scale) for side in maps.shape[-2:]]
        if maps.shape[0] == 0:
            return maps.new_zeros(*maps.shape[:2], *size)
        return F.interpolate(maps, scale_factor=scale, mode="bilinear", align_corners=False)


class ConvNormAct(nn.Module):
    """Convolution without bias, group norm, ReLU for (in, out) channels; mmcv's ``ConvModule``."""

    def __init__(
        self,
        channels: tuple[int, int],
        kernel_size: int,
        num_groups: int,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(*channels, kernel_size, stride, padding, dilation, bias=False)
        self.gn = nn.GroupNorm(num_groups, channels[1])
        self.activate = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """``[N, in, h, w]`` to ``[N, out, h / stride, w / stride]``."""
        return self.activate(self.gn(self.conv(features)))


class ConvBlock(nn.Module):
    """3x3 convolutions for (in, out) channels, the first with the stride; mmseg's."""

    def __init__(
        self,
        channels: tuple[int, int],
        num_convs: int,
        num_groups: int,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        width = channels[1]
        self.convs = nn.Sequential(
            ConvNormAct(channels, 3, num_groups, stride=stride),
            *(
                ConvNormAct((width, width), 3, num_groups, dilation=dilation)
                for _ in range(num_convs - 1)
            ),
        )

    def forward(self, features: Tensor) -> Tensor:
        """``[N, in, h, w]`` to ``[N, out, h / stride, w / stride]``."""
        return self.convs(features)


class UpConvBlock(nn.Module):
    """One decoder step: bring the deep features up, join the skip, convolve with ``block``.

    ``channels`` are (deep, skip); ``doubles``: the skip is twice as large as the deep features.
    """

    def __init__(
        self, block: ConvBlock, channels: tuple[int, int], num_groups: int, doubles: bool
    ) -> None:
        super().__init__()
        self.conv_block = block
        reduce: nn.Module = ConvNormAct(channels, 1, num_groups)
        if doubles:  # mmseg's InterpConv
            steps = nn.Sequential(BilinearDouble(), reduce)
            reduce = nn.Sequential(OrderedDict(interp_upsample=steps))
        self.upsample = reduce

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        """``skip [N, c, h, w]`` and ``deep`` (at half size) to ``[N, c, h, w]``."""
        return self.conv_block(torch.cat([skip, self.upsample(deep)], dim=1))


class BilinearDouble(nn.Module):
    """Double both sides, computed in float32."""

    def forward(self, features: Tensor) -> Tensor:
        """``[N, c, h, w]`` to ``[N, c, 2h, 2w]``, same dtype."""
        size = [2 * side for side in features.shape[-2:]]
        doubled = F.interpolate(features.float(), size, mode="bilinear", align_corners=False)
        return doubled.to(features.dtype)


def _build_step(
    channels: tuple[int, int], num_convs: int, dilation: int, doubles: bool, num_groups: int
) -> UpConvBlock:
    """One decoder step for (skip, deep) channels."""
    skip, deep = channels
    block = ConvBlock((2 * skip, skip), num_convs, num_groups, dilation=dilation)
    return UpConvBlock(block, (deep, skip), num_groups, doubles)


def _initialise(module: nn.Module) -> None:
    """Kaiming normal (fan out) for convolutions, as mmseg; norms begin as the identity anyway."""
    if isinstance(module, nn.Conv2d):
        kaiming_init(module)


def _check_lengths(settings: dict[str, Sequence[Any]], length: int, meaning: str) -> None:
    for name, values in settings.items():
        if len(values) != length:
            raise ValueError(
                f"{name}={tuple(values)} has {len(values)} entries, expected {length}: "
                f"give one per stage ({meaning})"
            )


def _check_strides(strides: Sequence[int]) -> None:
    if strides[0] != 1 or any(stride not in (1, 2) for stride in strides):
        raise ValueError(
            f"strides={tuple(strides)} is not supported: the first must be 1 (the logits cover "
            "the map at its own size), the others 1 or 2"
        )


def _read_only_choice(name: str, cfg: Mapping[str, Any] | None) -> dict[str, Any]:
    """A setting that has one value in F-LMM's heads; its ``type`` is a name, a path or a class."""
    kinds, keys, advice = _ONLY_CHOICES[name]
    cfg = dict(cfg or {})
    kind = str(getattr(cfg.get("type"), "__name__", cfg.get("type"))).rpartition(".")[2]
    if kind not in kinds or not keys.issuperset(cfg):
        raise ValueError(f"{name}={cfg or None} is not supported: give {advice} of F-LMM's heads")
    return cfg
