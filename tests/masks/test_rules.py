"""The rule against its definition in plain loops, what it hangs on, and what it refuses."""

import numpy as np
import pytest
import torch

from flmm.head_choice import HeadChoice
from flmm.masks import RuleHead

CHOICE = HeadChoice(((1, 2), (0, 1), (1, 0)), num_layers=2, num_heads=3)


def compute_plain_rule(maps, channels, threshold, upsampling, sharpness, keep):
    """Of one phrase ``[C, h, w]``; bicubic steps are torch's own (tested there)."""
    merged = np.mean([maps[channel] / maps[channel].max() for channel in channels], axis=0)
    merged = torch.from_numpy(merged / merged.max())[None, None]
    fine = torch.nn.functional.interpolate(merged, scale_factor=upsampling, mode="bicubic")
    fine = np.maximum(fine[0, 0].numpy(), 0)
    height, width = fine.shape
    for _ in range(2):
        padded, smooth = np.pad(fine, 1, mode="edge"), np.zeros_like(fine)
        for row in range(height):
            for column in range(width):
                window = padded[row : row + 3, column : column + 3]
                smooth[row, column] = (window * np.outer([1, 2, 1], [1, 2, 1])).sum() / 16
        fine = smooth
    fine = fine / fine.max()
    if keep == "peak":
        todo, region = [np.unravel_index(fine.argmax(), fine.shape)], set()
        while todo:
            row, column = todo.pop()
            inside = 0 <= row < height and 0 <= column < width
            if inside and (row, column) not in region and fine[row, column] > threshold:
                region.add((row, column))
                todo += [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        for cell in np.ndindex(*fine.shape):
            if fine[cell] > threshold and cell not in region:
                fine[cell] = 0
    return (fine - threshold) * sharpness


@pytest.mark.parametrize("keep", ["peak", "all"])
def test_logits_are_those_of_the_definition(keep):
    maps = torch.rand(5, 6, 6, 9, generator=torch.Generator().manual_seed(1)).double() ** 4
    settings = dict(threshold=0.5, upsampling=3, sharpness=4.0, keep=keep)
    logits = RuleHead(CHOICE, in_channels=6, **settings)(maps.float())
    assert logits.shape == (5, 1, 18, 27)
    for own, found in zip(maps.numpy(), logits[:, 0].numpy()):
        expected = compute_plain_rule(own, [5, 1, 3], **settings)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    regions = RuleHead(CHOICE, threshold=0.5, keep="all")(maps.float()) > 0
    assert regions.sum() > (RuleHead(CHOICE, threshold=0.5)(maps.float()) > 0).sum()  # not in vain


def test_a_phrase_does_not_depend_on_its_sisters_nor_on_other_channels():
    maps = torch.rand(4, 6, 5, 7)
    head = RuleHead(CHOICE)
    together = head(maps)
    assert torch.allclose(together[2:3], head(maps[2:3]), atol=1e-6)
    assert torch.equal(head(torch.cat([maps, torch.rand(4, 6, 5, 7)], 1)), together)  # two grids
    assert head(maps[:0]).shape == (0, 1, 20, 28)
    assert (head.layers, RuleHead(CHOICE.best(1)).layers) == (2, 2)
    assert head(torch.zeros(1, 6, 5, 7)).max() < 0  # nobody looks at the picture: no mask


def test_logits_stay_within_what_a_mask_prompt_may_be():
    logits = RuleHead(CHOICE)(torch.rand(8, 6, 5, 7))
    assert logits.min() >= -10 and logits.max() <= 10


def test_settings_that_fit_no_reader_are_refused():
    with pytest.raises(ValueError, match="need 6 channels, and the reader gives 5: choose heads"):
        RuleHead(CHOICE, in_channels=5)
    with pytest.raises(ValueError, match="keep is 'some': use 'peak'"):
        RuleHead(CHOICE, keep="some")
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist: make one with"):
        RuleHead("none.json")
