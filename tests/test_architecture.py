"""The import table of docs/architecture.md, enforced: imports run one way."""

import ast
import re
import statistics
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
    {"head_choice"},
    {"readers", "masks", "data", "provenance", "selectors", "visualization"},
    {"checkpoints", "features", "data_checks", "results", "presence", "head_selection"},
    {"grounder", "batches"},
    {"ways"},
    {"evaluation", "conversation"},
    {"training", "sharing"},
    {"without_training"},
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


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
    if path.is_relative_to(ROOT / "flmm")
}
# What other libraries offer under such names only, or what users of theirs are told to use.
FOREIGN_PRIVATE = {
    "_attn_implementation": "how transformers names the attention of a config",
    "_base": "whose memory a tensor of torch shares",
    "_iterator": "torch's loaders stop their persistent workers by no other way",
    "_replace": "how a named tuple is copied with a change",
}
FAMILIES = re.compile(
    r"qwen|llava|internvl|deepseek|fuyu|cogvlm|gemma|pixtral|mistral|glm|idefics|smolvlm", re.I
)
# Rooms and files that may name a family: what users write, and how the embedded model was made.
FAMILY_DOORS = {"readers", "toy", "__init__", "moved"}
FAMILY_NAMES = {"FrozenQwen", "FrozenQwenSAM", "QwenImageProcessorWrapper"}  # public for ever


def find_circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other."""
    reach: dict[str, set[str]] = {}
    for start in arrows:
        seen, todo = set(), [start]
        while todo:
            new = arrows.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        reach[start] = seen
    circles = []
    for name in sorted(arrows):
        group = {other for other in reach[name] if name in reach.get(other, ())}
        if len(group) > 1 and group not in circles:
            circles.append(group)
    return circles


def list_arrows() -> dict[str, set[str]]:
    """Module -> the modules it imports, also those for type checkers and those within functions."""
    arrows = {}
    for name, path in MODULES.items():
        package = path.relative_to(ROOT).parent.parts
        names = list_imports(path.read_text(encoding="utf-8"), package) & set(MODULES)
        # "from flmm.readers import qwen" is an arrow to the module, not to its package.
        packages = {other for other in names if any(n.startswith(other + ".") for n in names)}
        arrows[name] = names - packages - {name}
    return arrows


def test_no_module_imports_itself_in_a_circle() -> None:
    assert find_circles(list_arrows()) == []


def test_the_check_sees_a_circle() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert find_circles(arrows) == [{"a", "b", "c"}]


def list_private(tree: ast.AST) -> set[str]:
    """Private names that a module reaches on something that is not itself, or imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            owner = node.value
            is_own = isinstance(owner, ast.Name) and owner.id in ("self", "cls")
            is_parents = isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "super"
            if not (is_own or is_parents):
                names.add(node.attr)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def list_defined(tree: ast.AST) -> set[str]:
    """Private names that a module defines."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            owner = node.value
            names |= {node.attr} if isinstance(owner, ast.Name) and owner.id == "self" else set()
    return names


def test_private_names_stay_within_their_room() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    defined: dict[str, set[str]] = {}
    for path, tree in trees.items():
        defined.setdefault(get_room(path), set()).update(list_defined(tree))
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, tree in trees.items()
        for name in sorted(list_private(tree) - defined[get_room(path)] - set(FOREIGN_PRIVATE))
    ]
    assert not wrong, "\n".join(wrong)


def list_families(tree: ast.AST) -> set[str]:
    """Names and texts of code that name a family; docstrings may."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= set() if id(node) in docstrings else {node.value}
        words |= {
            str(getattr(node, field))
            for field in ("id", "attr", "arg", "name", "module")
            if isinstance(getattr(node, field, None), str)
        }
    return {word for word in words if FAMILIES.search(word)} - FAMILY_NAMES


def test_families_are_named_in_the_readers_room_alone() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {word[:60]!r}"
        for path in MODULES.values()
        if get_room(path) not in FAMILY_DOORS
        for word in sorted(list_families(ast.parse(path.read_text(encoding="utf-8"))))
    ]
    assert not wrong, "\n".join(wrong)


def test_files_stay_small() -> None:
    lengths = sorted(
        len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()
    )
    assert statistics.median(lengths) <= 140
    assert lengths[int(0.9 * (len(lengths) - 1))] <= 300
    assert lengths[-1] <= 400
