"""Half precision: every family errs about as much as transformers' own eager pass in it."""

import torch

from flmm.readers import FrozenVLM
from tests.readers.conftest import EagerReference
from tests.readers.test_reader_contract import PHRASES, relative_difference
from tests.small_models import build_small_model, load_processor

# One of each kind: full attention, tiles, states, both directions, a decoder of our own.
LIGHT = ("qwen2_5_vl", "llava_next", "qwen3_5", "gemma3", "paligemma", "cogvlm")


def read(model, processor, image, prefix, prompt):
    """The maps of every phrase on every grid, each phrase from one eager pass of a model."""
    eager, maps = EagerReference(model, processor), []
    for phrase in PHRASES:
        _, attentions, _ = eager.read(image, prompt, phrase)
        rows = attentions[:, len(prefix) :].float().mean(1)
        maps += [rows[:, grid.columns].flatten() for grid in prefix.grids]
    return torch.cat(maps)


def test_bfloat16_is_within_the_rounding_of_an_eager_pass(data_dir, family, noise):
    """Both against the same weights in float32: 0.3 to 1.4 times. In a mixture a token that rounds
    to other experts is a jump, in either pass: up to 3.2 times."""
    processor, image = load_processor(data_dir, family), noise(120, 150)
    model = build_small_model(data_dir, family).bfloat16()
    vlm = FrozenVLM.from_model(model, processor)
    prefix = vlm.prefill(image)
    grid_maps = vlm.attend(prefix, PHRASES).grid_maps
    assert all(maps.dtype == torch.float32 for maps in grid_maps)
    own = torch.cat([maps.flatten() for phrase in zip(*grid_maps) for maps in phrase])
    model.set_attn_implementation("eager")
    rounded = read(model, processor, image, prefix, vlm.default_prompt)
    exact = read(model.float(), processor, image, prefix, vlm.default_prompt)
    times = 6 if getattr(model.config.get_text_config(), "num_experts", None) else 3
    assert relative_difference(own, exact) < times * relative_difference(rounded, exact)
    assert relative_difference(rounded, exact) < 0.3
