"""``RankedHead`` and ``SharedHead``: which channels they look at, and what is left alone."""

import pytest
import torch

from flmm.head_choice import HeadChoice
from flmm.masks import RankedHead, SharedHead

INNER = dict(base_channels=4, num_stages=2, strides=(1, 1), enc_num_convs=(1, 1))
INNER |= dict(dec_num_convs=(1,), downsamples=(True,), enc_dilations=(1, 1), dec_dilations=(1,))
INNER |= dict(upsample_input=None, normalize_input=True, log_input=True)
CHOICE = HeadChoice(heads=((2, 1), (0, 0), (1, 1)), num_layers=4, num_heads=2)


def draw_maps(channels, phrases=3):
    scores = torch.randn(phrases, channels, 7, 9, generator=torch.Generator().manual_seed(3))
    return (3 * scores).flatten(2).softmax(-1).view_as(scores)


@torch.no_grad()
@pytest.mark.parametrize(("ranks", "expected"), [(2, [5, 0]), (5, [5, 0, 3, 5, 0])])
def test_channels_are_the_chosen_heads_by_rank(ranks, expected):
    head, maps = RankedHead(CHOICE, INNER, ranks=ranks).eval(), draw_maps(8)
    torch.testing.assert_close(head(maps), head.head(maps[:, expected]), atol=0, rtol=0)
    torch.testing.assert_close(head(maps[:, : 3 * 2]), head(maps), atol=0, rtol=0)  # read short
    assert head.layers == 3


@torch.no_grad()
def test_another_reader_gives_the_same_masks_for_the_same_maps():
    """Layers, heads and scale of a reader's maps do not count, the rank does."""
    own = RankedHead(CHOICE, INNER, ranks=3).eval()
    other = RankedHead(
        HeadChoice(heads=((0, 2), (1, 0), (0, 1)), num_layers=2, num_heads=3), INNER, ranks=3
    ).eval()
    other.load_state_dict(own.state_dict())
    maps = draw_maps(8)
    theirs = torch.zeros(3, 6, 7, 9)
    theirs[:, [2, 3, 1]] = maps[:, CHOICE.list_channels()] * 0.01
    torch.testing.assert_close(other(theirs), own(maps), atol=1e-4, rtol=1e-4)


def test_training_draws_good_heads_alone_and_turns_back():
    head = RankedHead(CHOICE, INNER, ranks=2, gamma=0.0).train()
    head.head = torch.nn.Conv2d(2, 1, 1)  # cell by cell: a mask that is not turned back differs
    maps = draw_maps(8).requires_grad_()
    for _ in range(8):
        head(maps).square().mean().backward()
    seen = maps.grad.abs().sum((0, 2, 3)) > 0
    assert set(seen.nonzero().flatten().tolist()) == set(CHOICE.list_channels())
    still = RankedHead(CHOICE, INNER, ranks=2, gamma=0.0, stray=0.0, repeat=0.0)
    still.head = head.head
    expected = still.eval()(maps)
    for _ in range(8):
        torch.testing.assert_close(still.train()(maps), expected)


def test_a_choice_that_needs_more_layers_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"need 6 channels, and the reader gives 4: choose heads"):
        RankedHead(CHOICE, INNER, in_channels=4)


@torch.no_grad()
def test_the_shared_head_is_no_part_of_what_a_model_saves():
    head = SharedHead(CHOICE)
    assert head.state_dict() == {}
    assert list(head.parameters()) == []
    maps = draw_maps(8)
    logits = head.train()(maps)
    assert torch.equal(logits, head(maps))  # no drawing of heads: it is not trained
    assert logits.shape[:2] == (3, 1)


@torch.no_grad()
def test_the_shared_head_marks_the_one_thing_that_all_maps_are_bright_in():
    """Two bright blocks, the weaker one in a third of the heads alone: it is left out."""
    maps = torch.full((1, 8, 8, 8), 1e-3)
    maps[:, :, 1:3, 1:3] = 0.1
    maps[:, [5], 5:7, 5:7] = 0.05
    inside = SharedHead(CHOICE)(maps)[0, 0] > 0
    ys, xs = torch.nonzero(inside, as_tuple=True)
    assert 16 <= len(ys) <= 200  # of 32 x 32; the block has 64
    assert max(ys.max(), xs.max()) < 16
