"""One order of weights for every tool, and words that say which they are."""

import hashlib
import os
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

from flmm.checkpoints.chosen_weights import choose_weights, tell_weights


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("given", "named", "start"):
        Path(f"{name}.pth").write_bytes(name.encode())
    return tmp_path


def test_named_then_weights_then_load_from(files: Path) -> None:
    config = Config({"weights": "named.pth", "load_from": "start.pth"})
    given = choose_weights(config, "given.pth")
    assert (given.path, given.chosen_by, given.remarks) == ("given.pth", "the user", ())
    digest = hashlib.sha256(b"given").hexdigest()
    assert given.sha256 == digest
    assert given.describe() == f"weights: given.pth (sha256 {digest[:12]})"
    named = choose_weights(config)
    assert named.path == "named.pth" and named.describe().endswith(", the config's weights)")
    assert named.remarks == (
        "load_from=start.pth is where a training begins: give it as CHECKPOINT to take it",
    )
    assert choose_weights(Config({"load_from": "start.pth"})).path == "start.pth"
    with pytest.raises(ValueError, match="names no weights of its own: give CHECKPOINT"):
        choose_weights(Config({}))


def test_the_toy_is_called_one_and_trained_weights_are_pointed_at(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config({"weights": "tiny", "work_dir": "work"})
    assert choose_weights(config).remarks == ()
    Path("work").mkdir()
    for age, name in (
        (30, "best_cIoU_iter_1.pth"),
        (20, "best_cIoU_iter_2.pth"),
        (10, "iter_3.pth"),
    ):
        path = Path("work", name)
        path.write_bytes(b"")
        os.utime(path, (1e9 - age, 1e9 - age))
    tell_weights(choose_weights(config))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("weights: the embedded toy head 'tiny' (sha256 ")
    trained = Path("work/best_cIoU_iter_2.pth")
    assert second == f"a training has left {trained}: give it as CHECKPOINT to take it"
    assert choose_weights(config).to_json()["weights"] == first


def test_published_weights_alone_need_no_file(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = choose_weights(Config({"weights": "published", "load_from": "start.pth"}))
    tell_weights(weights)
    line = "weights: reader and refiner as published, nothing was trained"
    assert capsys.readouterr().out == f"{line}\n"
    assert weights.to_json() == {"checkpoint": "published", "sha256": None, "weights": line}
    model = nn.ModuleDict({"sam": nn.Linear(1, 1), "mask_head": nn.Identity()})
    weights.load(model)
    model["mask_head"] = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="nothing was trained, but the model's mask_head must be"):
        weights.load(model)
