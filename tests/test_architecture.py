"""The import table of docs/architecture.md, enforced: imports run one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = [
    {"records"},
    {
        *("rle", "registry", "geometry", "images", "files", "mmcv_ops"),
        *("weights", "config", "command_line", "lazy_exports", "moved"),
        *("distributed", "fingerprints", "tables", "meters"),
    },
    {"readers", "masks", "data", "provenance", "selectors", "visualization"},
    {"checkpoints", "features", "data_checks", "results"},
    {"grounder", "box_baseline", "batches"},
    {"evaluation", "conversation"},
    {"training", "sharing"},
    {"inferencer"},
    {"toy"},
    {"apps", "benchmarks"},
    {"tools"},
]
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Package -> the rooms that may import it.
DOORS = {
    "transformers": {"readers", "masks", "toy"},
    "qwen_vl_utils": {"readers", "toy"},
    "segment_anything": {"masks", "toy"},
    "mmdet": {"data", "evaluation", "mmcv_ops"},
    "mmcv": {"data", "evaluation", "mmcv_ops"},
    "spacy": {"selectors"},
    "starlette": {"apps"},
    "uvicorn": {"apps"},
    "prompt_toolkit": {"apps"},
}
FILES = sorted([*ROOT.glob("flmm/**/*.py"), *ROOT.glob("tools/*.py")])


def get_room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "tools" if parts[0] == "tools" else parts[1]


def list_imports(source: str, package: tuple[str, ...]) -> set[str]:
    """Dotted names that a module of ``package`` imports, wherever in it; relative ones absolute."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def list_rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("flmm.")} & set(LEVEL_OF)


def is_wrong(room: str, other: str) -> bool:
    return other != room and LEVEL_OF[other] >= LEVEL_OF[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    if path == ROOT / "flmm/__init__.py":  # the front door shows the inferencer
        return
    package = path.relative_to(ROOT).parent.parts
    room, names = get_room(path), list_imports(path.read_text(encoding="utf-8"), package)
    assert room in LEVEL_OF, f"flmm/{room} is in no row of the import table"
    wrong = sorted(other for other in list_rooms(names) if is_wrong(room, other))
    assert not wrong, f"{room} must not import {wrong}"
    packages = {name.partition(".")[0] for name in names}
    closed = sorted(package for package in packages if room not in DOORS.get(package, {room}))
    assert not closed, f"{room} must not import {closed}"


def test_the_check_sees_a_wrong_arrow() -> None:
    source = (
        "from ..readers import base\nimport flmm.training\ndef late():\n    import mmdet.models\n"
    )
    names = list_imports(source, ("flmm", "masks"))
    assert {room for room in list_rooms(names) if is_wrong("masks", room)} == {
        "readers",
        "training",
    }
    assert "mmdet.models" in names
