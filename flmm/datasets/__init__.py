"""Data sets: records in RefCOCO's file layout become grounding samples."""

from flmm.datasets.refcoco import RefCocoGroundingDataset, build_continuations
from flmm.datasets.sampler import EpochSampler
from flmm.datasets.transforms import (
    DecodeMasks,
    EncodeImage,
    LoadRGBImage,
    PackGroundingInputs,
    build_pipeline,
)

__all__ = [
    "DecodeMasks",
    "EncodeImage",
    "EpochSampler",
    "LoadRGBImage",
    "PackGroundingInputs",
    "RefCocoGroundingDataset",
    "build_continuations",
    "build_pipeline",
]
