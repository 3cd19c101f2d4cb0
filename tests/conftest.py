"""Shared fixtures: real data (found through ``FLMM_TEST_DATA``); one thread per test process."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine.config  # in pytest's first process: see below
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share the cores
# yapf, which mmengine's configs import, writes a grammar file into the user's cache when there is
# none and shows it to other processes before it is whole ("EOFError: Ran out of input"): the import
# above makes it before pytest's workers, and the tests' own processes, start.
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


def pytest_collection_finish() -> None:
    """What was imported up to here stays: no collection need walk through it again.

    mmengine collects for every data set that serializes its records, and what torch, transformers
    and the tests have made is half a second of each such walk.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """All is cleared away at the end; extensions call what is not a leak."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def lay_configs_out_once() -> Iterator[None]:
    """yapf lays the same config's text out six times in a run: half of a toy training's time."""
    layouts: dict[str, Any] = {}
    lay_out = mmengine.config.config.FormatCode

    def lay_out_once(text: str, **kwargs: Any) -> Any:
        if text not in layouts:
            layouts[text] = lay_out(text, **kwargs)
        return layouts[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.config, "FormatCode", lay_out_once)
        yield


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
