"""The comparison of maps over queries and over patches runs from its command."""

import pytest
import torch

from flmm.toy.reader_families import FAMILIES
from flmm.toy.resampler_maps import spread_maps
from tests.forks import run_fork


def test_a_tokens_share_goes_where_it_looked():
    weights = torch.eye(4).repeat_interleave(4, 1)[:, torch.randperm(16)] / 4
    maps = torch.rand(3, 5, 2, 2)
    spread = spread_maps(maps, weights)
    assert spread.shape == (3, 5, 4, 4)
    torch.testing.assert_close(spread.sum((-1, -2)), maps.sum((-1, -2)))
    place = weights.argmax(0)
    torch.testing.assert_close(spread.flatten(2), maps.flatten(2)[..., place] / 4)


def test_a_tower_says_where_its_tokens_looked():
    model, _ = FAMILIES["qwen_vl"].build()
    tower, pixels = model.eval().model.visual, torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        weights = []
        tokens = tower(pixels, weights)
        torch.testing.assert_close(tokens, tower(pixels), rtol=0, atol=1e-4)
    assert tokens.shape[:2] == (2, 64) and [item.shape for item in weights] == [(64, 256)] * 2
    torch.testing.assert_close(torch.stack(weights).sum(-1), torch.ones(2, 64))


@pytest.mark.heavy
def test_the_command_prints_a_table(tmp_path):
    short = ("--steps", 2, "--workers", 1, "--scenes", 60)
    stage = ("tools/make_tiny_model.py", "vision", tmp_path / "vision", "--family", "qwen_vl")
    done = run_fork(*stage, *short)
    assert done.returncode == 0, done.stderr
    done = run_fork("tools/compare_resampler_maps.py", tmp_path / "vision", "--scenes", 8)
    assert done.returncode == 0, done.stderr
    *_, probe, truth = done.stdout.strip().splitlines()
    assert probe.startswith("linear layer") and truth.startswith("covered share")
    assert float(truth.split()[2]) > 30
