"""Weights on disk: safe to read, strict to load, and every difference named."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from flmm.checkpoints.checkpoint import (
    EMBEDDED_WEIGHTS,
    load_checkpoint,
    load_weights,
    resolve_weights,
    save_trainable,
)


@pytest.mark.parametrize("name", ["new/head.safetensors", "head.pth"])
def test_saved_weights_come_back(tmp_path: Path, toy_model: nn.Module, name: str) -> None:
    save_trainable(toy_model, tmp_path / name)
    other = type(toy_model)()
    load_weights(other, tmp_path / name)
    for key, value in toy_model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_bare_and_wrapped_state_dicts(tmp_path: Path, toy_model: nn.Module, prefix: str) -> None:
    weights = {prefix + key: value for key, value in toy_model.state_dict().items()}
    torch.save(weights, tmp_path / "bare.pth")
    torch.save({"state_dict": weights, "meta": {"iter": 3}}, tmp_path / "wrapped.pth")
    for name in ("bare.pth", "wrapped.pth"):
        load_weights(type(toy_model)(), tmp_path / name)
    assert load_checkpoint(tmp_path / "wrapped.pth")["meta"] == {"iter": 3}


def test_every_difference_is_named_in_one_error(tmp_path: Path, toy_model: nn.Module) -> None:
    weights = {
        "head.weight": torch.zeros(1, 5, 1, 1),
        "tail.a": torch.zeros(2),
        "tail.b": torch.ones(1),
    }
    path = tmp_path / "x.pth"
    torch.save(weights, path)
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        load_weights(toy_model, path)
    assert str(caught.value).splitlines() == [
        f"checkpoint {path} does not fit the model:",
        "  missing: head.bias [1]",
        "  unexpected: tail.a",
        "  unexpected: tail.b",
        "  wrong shape: head.weight is [1, 5, 1, 1], the model's [1, 3, 1, 1]",
    ]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (torch.zeros(1, dtype=torch.int32), "wrong dtype: head.bias is torch.int32, the model's "),
        (torch.zeros(1, dtype=torch.bool), "wrong dtype: head.bias is torch.bool, the model's "),
        (torch.zeros(1, dtype=torch.complex64), "wrong dtype: head.bias is torch.complex64, the "),
        (torch.tensor([float("nan")]), "not finite: head.bias holds NaN or infinite values"),
        (torch.tensor([float("-inf")]), "not finite: head.bias holds NaN or infinite values"),
        (torch.tensor([1e300], dtype=torch.float64), "not finite: head.bias holds NaN or infinite"),
        ([1.0], "no tensor: head.bias is a list"),
    ],
)
def test_weights_that_mean_nothing_are_refused(
    tmp_path: Path, toy_model: nn.Module, value: Any, line: str
) -> None:
    before = {key: tensor.clone() for key, tensor in toy_model.state_dict().items()}
    path = tmp_path / "x.pth"
    torch.save({**before, "head.bias": value}, path)
    with pytest.raises(ValueError, match=r"x\.pth does not fit the model:\n  " + line):
        load_weights(toy_model, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in toy_model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_are_weights(
    tmp_path: Path, toy_model: nn.Module, dtype: torch.dtype
) -> None:
    weights = {key: value.to(dtype) for key, value in toy_model.state_dict().items()}
    torch.save(weights, tmp_path / "x.pth")
    load_weights(toy_model, tmp_path / "x.pth")
    for key, value in toy_model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, weights[key].float())


def test_a_state_dict_that_is_none(tmp_path: Path) -> None:
    for content in ({"state_dict": [1]}, {"state_dict": {1: torch.zeros(1)}}):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"x\.pth: its state_dict is no dict of named tensors"):
            load_checkpoint(tmp_path / "x.pth")


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    "content",
    [Attack(), {"state_dict": {}, "x": Attack()}, {"x": HistoryBuffer.update}],
)
def test_code_in_a_checkpoint_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth", pickle_protocol=2)
    with pytest.raises(ValueError, match=r"x\.pth cannot be read"):
        load_checkpoint(tmp_path / "x.pth")


def test_the_log_of_mmengine_is_read(tmp_path: Path) -> None:
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {"state_dict": {}, "log": log, "number": np.float64(3), "array": np.arange(3)}
    torch.save(content, tmp_path / "x.pth")
    read = load_checkpoint(tmp_path / "x.pth")
    assert read["log"].mean() == 1.5
    assert read["number"] == 3
    assert read["array"].tolist() == [0, 1, 2]


def test_a_file_that_is_missing_or_broken_is_told(tmp_path: Path, toy_model: nn.Module) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.pth does not exist: .* weights \['tiny'\]"):
        load_checkpoint(tmp_path / "no.pth")
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"cut{suffix}"
        save_trainable(toy_model, path)
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(ValueError, match=rf"cut\{suffix} cannot be read: \S"):
            load_checkpoint(path)
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, not weights"):
        load_checkpoint(tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "plain.pth")
    with pytest.raises(ValueError, match="does not fit the model"):
        load_weights(toy_model, tmp_path / "plain.pth")


def test_embedded_weights_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        path = Path(resolve_weights("tiny"))
    except FileNotFoundError as error:
        assert EMBEDDED_WEIGHTS["tiny"] in str(error)  # not made yet
    else:
        assert path.is_absolute()
