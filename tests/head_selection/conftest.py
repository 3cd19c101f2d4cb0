"""The embedded reader, whose heads are chosen, and drawn scenes as items of a data set."""

import pytest
import torch

from flmm import load_reader
from flmm.records import GroundingSample, as_continuations
from flmm.toy.shape_sentences import render_samples


def build_item(vlm, sample):
    return {
        "inputs": vlm.image_processor.encode(sample.image),
        "data_samples": GroundingSample(
            continuations=as_continuations(sample.phrases), gt_masks=torch.from_numpy(sample.masks)
        ),
    }


@pytest.fixture(scope="package")
def vlm():
    return load_reader("tiny", dtype="float32", token_merge="last")


@pytest.fixture(scope="package")
def samples():
    return render_samples(6, seed=21)
