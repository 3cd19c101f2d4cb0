"""Shared fixtures: real data (found through ``FLMM_TEST_DATA``); one thread per test process."""

import gc
import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import tests.config_layouts  # noqa: F401

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share the cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

FUZZ_COUNT = 40  # in the ordinary suite: seconds in all
QWEN_FOLDERS = {"qwen2_vl": "Qwen2_VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3_VL"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which inputs the tests in tests/fuzz judge; see its conftest."""
    group = parser.getgroup("fuzz", "random inputs (pytest -m fuzz)")
    group.addoption("--fuzz-seed", type=int, default=0, help="of the random inputs (default: 0)")
    group.addoption("--fuzz-first", type=int, default=0, help="number of the first input")
    group.addoption("--fuzz-count", type=int, default=FUZZ_COUNT, help="inputs of each test")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first: they are longest, and one worker has their fixtures.

    Each worker begins with its half of the list; who has nothing left takes of the end of the
    other's (pytest-xdist's ``worksteal``).
    """
    first = {item.path for item in items if item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in first)


def pytest_collection_finish() -> None:
    """What was imported up to here stays: no collection need walk through it again.

    mmengine collects for every data set that serializes its records: Python's own collector does.
    """
    base_dataset = importlib.import_module("mmengine.dataset.base_dataset")
    base_dataset.gc = SimpleNamespace(collect=int)
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """All is cleared away at the end; extensions call what is not a leak."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Root of the real test data; the test is skipped, saying so, without it."""
    folder = os.environ.get("FLMM_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FLMM_TEST_DATA does not name a folder with the real test data")
    return Path(folder)


@pytest.fixture(params=sorted(QWEN_FOLDERS))
def qwen_folder(request: pytest.FixtureRequest, data_dir: Path) -> Path:
    """Folder with the real processor files and config of each Qwen-VL family in turn."""
    return data_dir / "qwen" / QWEN_FOLDERS[request.param]
