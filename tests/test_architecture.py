"""The import table of docs/architecture.md, enforced: imports run one way."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = [
    {"structures", "registry", "geometry", "mmcv_ops"},
    {"vlms", "heads", "datasets", "evaluation"},
    {"grounder"},
    {"engine", "visualization"},
    {"inferencer"},
    {"tiny_model"},
    {"tools"},
]
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Package -> the rooms that may import it.
DOORS = {
    "transformers": {"vlms", "tiny_model"},
    "qwen_vl_utils": {"vlms", "tiny_model"},
    "segment_anything": {"heads", "tiny_model"},
    "mmdet": {"datasets", "evaluation", "mmcv_ops"},
    "mmcv": {"datasets", "evaluation", "mmcv_ops"},
}
FILES = sorted([*ROOT.glob("flmm/**/*.py"), *ROOT.glob("tools/*.py")])


def get_room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "tools" if parts[0] == "tools" else parts[1]


def list_imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in the file; relative ones made absolute."""
    names = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    room, names = get_room(path), list_imports(path)
    if path == ROOT / "flmm/__init__.py":  # the front door shows the inferencer
        return
    assert room in LEVEL_OF, f"flmm/{room} is in no row of the import table"
    wrong = sorted(other for other in list_rooms(names) if is_wrong(room, other))
    assert not wrong, f"{room} must not import {wrong}"
    packages = {name.partition(".")[0] for name in names}
    closed = sorted(package for package in packages if room not in DOORS.get(package, {room}))
    assert not closed, f"{room} must not import {closed}"


def test_the_check_sees_a_wrong_arrow(tmp_path: Path) -> None:
    source = (
        "from ..vlms import base\nimport flmm.engine\n\n\ndef late():\n    import mmdet.models\n"
    )
    path = ROOT / "flmm" / "heads" / "x.py"
    tree_file = tmp_path / "x.py"
    tree_file.write_text(source)

    class Stand(type(path)):  # type: ignore[misc]
        def read_text(self, *_args: object, **_kwargs: object) -> str:
            return source

    names = list_imports(Stand(path))
    assert {room for room in list_rooms(names) if is_wrong("heads", room)} == {"vlms", "engine"}
    assert "mmdet.models" in names


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["flmm.grounder", "flmm.inferencer", "flmm.engine"])
def test_the_demo_path_does_not_import_mmdet(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} does not exist")
    code = (
        f"import sys, {module}; print([name for name in ('mmdet', 'mmcv') if name in sys.modules])"
    )
    assert run_python(code).strip() == "[]"
