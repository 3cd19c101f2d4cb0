"""The embedded tiny model on a few scenes, and a listener for log messages."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from flmm.grounder import Grounder
from flmm.records import GroundingSample, ImageInput, as_continuations
from flmm.registry import MODELS
from flmm.toy.shape_sentences import render_samples

TINY = "configs/tiny/tiny_unet_sam_shapes.py"


@pytest.fixture
def grounder() -> Grounder:
    torch.manual_seed(0)
    return MODELS.build(Config.fromfile(TINY).model)


@pytest.fixture(scope="session")
def batch() -> tuple[list[ImageInput], list[GroundingSample]]:
    """Pictures and samples with true masks."""
    reader = MODELS.build(Config.fromfile(TINY).model.model)
    scenes = render_samples(2, seed=4)
    samples = [
        GroundingSample(
            continuations=as_continuations(scene.phrases), gt_masks=torch.from_numpy(scene.masks)
        )
        for scene in scenes
    ]
    return [reader.image_processor.encode(scene.image) for scene in scenes], samples


@contextmanager
def listening() -> Iterator[list[str]]:
    """The messages that are logged with level WARNING or above, as they come."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    listener, logger = Listener(logging.WARNING), MMLogger.get_current_instance()
    logger.addHandler(listener)
    try:
        yield found
    finally:
        logger.removeHandler(listener)


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """See :func:`listening`."""
    with listening() as found:
        yield found
