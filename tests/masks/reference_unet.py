"""The mask head once more, built from mmcv's own ConvModule: what ``UNetHead`` must equal.

Written after the description of mmseg's U-Net; it shares no line with ``flmm.masks.unet``.
"""

import math

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn

NORM = {"type": "GN", "num_groups": 1}


class Block(nn.Module):
    def __init__(self, fan_in, fan_out, num_convs, stride=1, dilation=1):
        super().__init__()
        layers = []
        for index in range(num_convs):
            first = index == 0
            layers.append(
                ConvModule(
                    fan_in if first else fan_out,
                    fan_out,
                    3,
                    stride=stride if first else 1,
                    padding=1 if first else dilation,
                    dilation=1 if first else dilation,
                    norm_cfg=NORM,
                )
            )
        self.convs = nn.Sequential(*layers)

    def forward(self, features):
        return self.convs(features)


class Up(nn.Module):
    def __init__(self, deep, skip):
        super().__init__()
        self.interp_upsample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            ConvModule(deep, skip, 1, norm_cfg=NORM),
        )

    def forward(self, features):
        return self.interp_upsample(features)


class Step(nn.Module):
    def __init__(self, deep, skip, num_convs, dilation, doubles):
        super().__init__()
        self.conv_block = Block(2 * skip, skip, num_convs, 1, dilation)
        self.upsample = Up(deep, skip) if doubles else ConvModule(deep, skip, 1, norm_cfg=NORM)

    def forward(self, skip, deep):
        return self.conv_block(torch.cat((skip, self.upsample(deep)), 1))


class ReferenceHead(nn.Module):
    """F-LMM's head for the settings that ``UNetHead`` takes, square maps or not."""

    def __init__(
        self,
        in_channels,
        base_channels=64,
        strides=(1, 1, 1, 1),
        enc_num_convs=(2, 2, 2, 2),
        dec_num_convs=(2, 2, 2),
        downsamples=(True, True, True),
        enc_dilations=(1, 1, 1, 1),
        dec_dilations=(1, 1, 1),
        normalize_input=True,
        upsample_input=64,
    ):
        super().__init__()
        self.normalize_input, self.upsample_input = normalize_input, upsample_input
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for i, stride in enumerate(strides):
            width = base_channels * 2**i
            layers = []
            if i and stride == 1 and downsamples[i - 1]:
                layers.append(nn.MaxPool2d(2))
            layers.append(Block(in_channels, width, enc_num_convs[i], stride, enc_dilations[i]))
            self.encoder.append(nn.Sequential(*layers))
            if i:
                doubles = stride != 1 or downsamples[i - 1]
                step = Step(width, width // 2, dec_num_convs[i - 1], dec_dilations[i - 1], doubles)
                self.decoder.append(step)
            in_channels = width
        self.conv_seg = nn.Conv2d(base_channels, 1, 1)

    def forward(self, x):
        if self.normalize_input:
            x = x / x.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
        if self.upsample_input is not None:
            factor = max(1.0, self.upsample_input / max(x.shape[-2:]))
            x = F.interpolate(x, scale_factor=factor, mode="bilinear")
        height, width = x.shape[-2:]
        unit = 2 ** (len(self.encoder) - 1)
        canvas = torch.zeros(
            *x.shape[:2], math.ceil(height / unit) * unit, math.ceil(width / unit) * unit
        )
        canvas[..., :height, :width] = x
        outputs, features = [], canvas
        for stage in self.encoder:
            features = stage(features)
            outputs.append(features)
        for index in range(len(self.decoder) - 1, -1, -1):
            features = self.decoder[index](outputs[index], features)
        return self.conv_seg(features[..., :height, :width])
