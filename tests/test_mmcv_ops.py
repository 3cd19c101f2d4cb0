"""The stand-in for mmcv's operators, and mmdet's losses built through it."""

import importlib
import sys

import pytest
import torch

from flmm import mmcv_ops


def test_install_twice_is_install_once() -> None:
    mmcv_ops.install()
    module = sys.modules["mmcv._ext"]
    mmcv_ops.install()
    assert sys.modules["mmcv._ext"] is module


def test_a_called_operator_says_what_is_missing() -> None:
    mmcv_ops.install()
    operators = importlib.import_module("mmcv._ext")
    if not isinstance(operators, mmcv_ops.MissingOps):
        pytest.skip("mmcv is compiled here")
    with pytest.raises(ImportError, match=r"operator 'nms' was called.*full build of mmcv"):
        operators.nms(1)


@pytest.mark.parametrize("name", ["mmdet.DiceLoss", "DiceLoss"])
def test_losses_are_built_by_either_name(name: str) -> None:
    loss = mmcv_ops.build_loss(dict(type=name, naive_dice=True, eps=1.0))
    logits = torch.full((1, 2, 2), 40.0)
    assert loss(logits, torch.ones(1, 2, 2)).item() == pytest.approx(0.0, abs=1e-6)
    # naive dice with eps 1: 1 - (2 * 4 + 1) / (4 + 0 + 1) would be negative; 1 - 1 / 5 here
    assert loss(logits, torch.zeros(1, 2, 2)).item() == pytest.approx(0.8)


def test_a_class_or_a_ready_loss_is_taken_too() -> None:
    loss = mmcv_ops.build_loss(dict(type=torch.nn.BCEWithLogitsLoss))
    assert isinstance(loss, torch.nn.BCEWithLogitsLoss)
    assert mmcv_ops.build_loss(loss) is loss


def test_wrong_configs_are_told() -> None:
    with pytest.raises(ValueError, match="mmdet has no loss 'DicLoss'"):
        mmcv_ops.build_loss(dict(type="DicLoss"))
    with pytest.raises(TypeError, match="a dict with the key 'type'"):
        mmcv_ops.build_loss(dict(naive_dice=True))
