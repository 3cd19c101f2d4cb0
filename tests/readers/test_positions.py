"""Positions by the published rule, against transformers' own and against one that was wrong."""

import pytest
import torch

from flmm.readers.families.qwen import compute_positions
from tests.small_models import FAMILY_FOLDERS

FAMILIES = (*FAMILY_FOLDERS, "qwen3_5")
IMAGE = 7


def test_the_rule_by_hand():
    ids = [1, 2, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, 3, IMAGE, IMAGE, 4, 5]
    assert compute_positions(ids, IMAGE, [(2, 3), (2, 1)]).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 6, 8, 9],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8, 9],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 6, 8, 9],
    ]


def test_transformers_own_are_the_published_ones(vlm, noise):
    images = [vlm.image_processor.encode(noise(*size)) for size in ((90, 430), (430, 90))]
    prefix = vlm.prefill(images[0])
    dialogue = vlm.converse(prefix)
    dialogue.ask("And here?", [images[1]])
    grids = [item.grids[0].size for item in images]
    ids = dialogue.input_ids
    expected = compute_positions(ids, vlm.model.config.image_token_id, grids)
    got, _ = vlm.model.model.get_rope_index(
        torch.tensor([ids]),
        mm_token_type_ids=(torch.tensor([ids]) == vlm.model.config.image_token_id).int(),
        image_grid_thw=torch.cat([item.inputs["image_grid_thw"] for item in images]),
    )
    assert got[:, 0].equal(expected)
    assert dialogue._positions.equal(expected)


def test_wrong_positions_are_refused_before_a_map_is_made_of_them(vlm, noise, monkeypatch):
    """As transformers 5.3.0 to 5.5.3: a picture's time is multiplied by tokens per second."""
    inner = vlm.model.model
    real = inner.get_rope_index

    def scale_time(input_ids, mm_token_type_ids, **kwargs):
        positions, deltas = real(input_ids, mm_token_type_ids=mm_token_type_ids, **kwargs)
        positions[0][mm_token_type_ids == 1] *= 2
        return positions, deltas

    monkeypatch.setattr(inner, "get_rope_index", scale_time)
    with pytest.raises(RuntimeError, match=r"transformers \d.* places \d+ of \d+ tokens elsewhere"):
        vlm.prefill(noise(60, 90))
