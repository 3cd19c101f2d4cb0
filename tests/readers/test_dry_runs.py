"""Published sizes without anybody's files: found by hub id, and checked as small stand-ins."""

import pytest

from flmm.readers.check import run_check
from flmm.readers.overview import find_kind_of
from flmm.readers.published_sizes import HUB_IDS, PUBLISHED_SIZES, find_size
from tests.readers.conftest import mark_heavy

LIGHT = ("qwen2_5_vl", "llava", "gemma3", "cogvlm")
# Kind of family -> its first published size.
FIRST: dict[str, str] = {}
for name in PUBLISHED_SIZES:
    FIRST.setdefault(find_kind_of(name), name)


def test_a_size_is_found_by_its_hub_id() -> None:
    assert find_size("Qwen/Qwen2.5-VL-3B-Instruct") == find_size("Qwen2.5-VL-3B") == "Qwen2.5-VL-3B"
    assert set(HUB_IDS.values()) <= set(PUBLISHED_SIZES)
    with pytest.raises(ValueError, match=r"no published size 'Huge': choose of .*Qwen2-VL-2B"):
        find_size("Huge")


# The models of all types are those of test_family_contract.
@pytest.mark.parametrize(
    "name", [mark_heavy(name, kind not in LIGHT) for kind, name in FIRST.items()]
)
def test_a_dry_run_is_ready(name: str) -> None:
    lines: list[str] = []
    code = run_check(name, device="cpu", is_small=True, say=lines.append)
    assert lines[-1] == "ready" and code == 0


def test_a_dry_run_of_an_unknown_name_says_which_there_are() -> None:
    lines: list[str] = []
    assert run_check("Huge", device="cpu", is_small=True, say=lines.append) == 1
    assert lines[-1].startswith("not ready: ValueError: no published size 'Huge': choose of ")
