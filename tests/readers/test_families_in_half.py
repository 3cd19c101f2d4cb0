"""Half precision: every family errs no more than transformers' own eager pass in it."""

import copy

import torch

from flmm.readers import FrozenVLM
from flmm.readers.base import DEFAULT_PROMPT
from tests.readers.conftest import EagerReference, ask
from tests.readers.test_reader_contract import PHRASES, relative_difference
from tests.small_models import build_small_model, load_processor


def read(model, processor, image, phrase, prefix):
    """Per grid the maps of a phrase from one eager pass of a model."""
    model.set_attn_implementation("eager")
    eager = EagerReference(model, processor)
    inputs = {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in eager.prepare([ask(DEFAULT_PROMPT)], [image], phrase).items()
    }
    _, attentions, _ = eager.see(inputs)
    rows = attentions[:, len(prefix) :].float().mean(1)
    return [rows[:, grid.columns] for grid in prefix.grids]


def test_bfloat16_is_within_the_rounding_of_an_eager_pass(data_dir, family, noise):
    processor, image = load_processor(data_dir, family), noise(120, 150)
    model = build_small_model(data_dir, family).bfloat16()
    same, exact = copy.deepcopy(model), copy.deepcopy(model).float()
    vlm = FrozenVLM.from_model(model, processor)
    prefix = vlm.prefill(image)
    seen = vlm.attend(prefix, PHRASES[:2])
    for number, phrase in enumerate(PHRASES[:2]):
        wanted = read(exact, processor, image, phrase, prefix)
        rounded = read(same, processor, image, phrase, prefix)
        for own, other, true in zip(seen.grid_maps, rounded, wanted, strict=True):
            error = relative_difference(own[number], true)
            assert own.dtype == torch.float32
            assert error < 2 * relative_difference(other, true) < 1
