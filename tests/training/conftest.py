"""A toy grounder on synthetic scenes: small enough for real runs of mmengine's loops."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.runner import runner

from flmm.toy.shape_files import write_dataset
from tests.training.toy_training import CONFIG, ToyGrounder


@pytest.fixture(scope="session", autouse=True)
def ask_the_machine_once() -> Iterator[None]:
    """Each run's log names the machine's compilers and libraries: the same all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "collect_env", functools.cache(runner.collect_env))
        yield


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_dataset(folder, num_images=12, seed=0)
    return folder


@pytest.fixture
def toy_config(tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a config that trains the toy grounder for six iterations; cwd is its folder."""
    monkeypatch.setenv("FLMM_DATA_ROOT", str(scenes))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def toy_model() -> ToyGrounder:
    torch.manual_seed(0)
    return ToyGrounder()
