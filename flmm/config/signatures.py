"""Which settings a class takes, read from its source: no package is imported for it."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path

# Where a type without a dotted path is looked for: the registries of flmm and those it inherits.
_FOLDERS = {
    "flmm": ("",),
    "mmengine": ("",),
    "torch": ("optim", "utils/data"),
    "mmdet": ("models/losses", "datasets"),
}
_CLASS = re.compile(r"^(?P<marks>(?:@.*\n)*)class (?P<name>\w+)\b", re.MULTILINE)
_REGISTERED = re.compile(r"register_module\(\s*(?:name=)?[\"'](\w+)[\"']")
_BELIEVED = ("flmm", "torch")  # whose annotations are true
_EMPTY_BASES = {"object", "ABC", "Module", "Generic", "Protocol"}
_READER_ARGUMENTS = ("name_or_path", "processor")
# Annotations whose values a config can hold, and their types; others say nothing here.
_KINDS: dict[str, tuple[type, ...]] = {
    "None": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Path": (str,),
    "dict": (dict,),
    "Mapping": (dict,),
    "list": (list, tuple),
    "tuple": (list, tuple),
    "Sequence": (list, tuple),
}
Place = tuple[Path, str]  # of a class: its file, and its name there


@dataclass
class Signature:
    """The settings of a class: ``names``, and per parameter the types of its values where known.

    ``kinds`` has only what is read from a source to be believed; ``is_open``: it takes other
    keywords, too.
    """

    names: set[str] = field(default_factory=set)
    kinds: dict[str, tuple[type, ...]] = field(default_factory=dict)
    is_open: bool = False


def find_signature(
    type_name: str, modules: tuple[str, ...] = (), is_base: bool = False
) -> Signature | None:
    """The settings of the class that a config's ``type`` names; ``None`` where it is not found.

    Args:
        type_name: a registered name, with or without a scope (``mmdet.DiceLoss``).
        modules: dotted names of the user's own modules (``custom_imports``), which come first.
        is_base: it is a class's own name, not one that it is registered under.
    """
    scope, _, name = type_name.rpartition(".")
    if scope and scope not in _FOLDERS:
        return None
    packages = [scope] if scope else [*_FOLDERS]
    for files in (_list_module_files(modules), *map(_list_files, packages)):
        places = _index(files).get(name, [])
        found = [
            _read_class(*place, modules, is_base)
            for place in places
            if not is_base or place[1] == name
        ]
        if len(found) == 1:
            return found[0]
        if found:  # classes of one name: what either takes is no mistake
            names = set().union(*(item.names for item in found))
            return Signature(names, {}, any(item.is_open for item in found))
    return None


def find_reader_argument(type_name: str) -> str | None:
    """The argument that names the frozen reader, of a reader or an image processor of flmm's."""
    for path, name in _index(_list_files("flmm")).get(type_name.rpartition(".")[2], []):
        if "readers" in path.parts:
            names = _read_class(path, name, (), False).names
            return next((item for item in _READER_ARGUMENTS if item in names), None)
    return None


@functools.cache
def _list_files(package: str) -> tuple[Path, ...]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return ()
    root = Path(spec.origin).parent
    return tuple(sorted(path for part in _FOLDERS[package] for path in (root / part).rglob("*.py")))


@functools.cache
def _list_module_files(modules: tuple[str, ...]) -> tuple[Path, ...]:
    specs = [importlib.util.find_spec(module) for module in modules]
    return tuple(Path(spec.origin) for spec in specs if spec is not None and spec.origin)


@functools.cache
def _index(files: tuple[Path, ...]) -> dict[str, list[Place]]:
    """Registered or own name -> where every class of it is."""
    index: dict[str, list[Place]] = {}
    for path in files:
        for match in _CLASS.finditer(path.read_text(encoding="utf-8")):
            for name in {match["name"], *_REGISTERED.findall(match["marks"])}:
                index.setdefault(name, []).append((path, match["name"]))
    return index


@functools.cache
def _parse(path: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _read_class(path: Path, name: str, modules: tuple[str, ...], is_base: bool) -> Signature:
    """The settings of a class of a file; with those of its bases where it hands them on."""
    node = _parse(path).get(name)
    if node is None:  # a class within an if
        return Signature(is_open=True)
    functions = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    constructor = next((item for item in functions if item.name == "__init__"), None)
    own = Signature()
    if constructor is not None:
        is_believed = any(path in _list_files(package) for package in _BELIEVED)
        own = _read_parameters(constructor.args, is_believed)
        if constructor.args.kwarg is None:
            return own
        # Those of a base without bases go to the next base of the class that was asked for.
        is_last = not node.bases and not is_base
        own.is_open = is_last or not _hands_keywords_on(constructor)
    elif any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
        fields = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
        own.names |= {ast.unparse(item) for item in fields}
    for base in [] if own.is_open else node.bases:
        base_name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        if base_name in _EMPTY_BASES:
            continue
        inherited = None if base_name == name else find_signature(base_name, modules, is_base=True)
        inherited = inherited or Signature(is_open=True)
        own = Signature(
            own.names | inherited.names,
            {**inherited.kinds, **own.kinds},
            own.is_open or inherited.is_open,
        )
    return own


def _hands_keywords_on(constructor: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Call)
        and getattr(node.func, "attr", None) == "__init__"
        and any(keyword.arg is None for keyword in node.keywords)
        for node in ast.walk(constructor)
    )


def _read_parameters(arguments: ast.arguments, is_believed: bool) -> Signature:
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    signature = Signature({item.arg for item in parameters} - {"self"})
    for item in parameters if is_believed else []:
        kinds = read_kinds(item.annotation)
        if kinds is not None:
            signature.kinds[item.arg] = kinds
    return signature


def read_kinds(annotation: ast.expr | None) -> tuple[type, ...] | None:
    """The types of values that an annotation allows; ``None``: it does not say."""
    if isinstance(annotation, ast.BinOp):
        return _join_kinds([annotation.left, annotation.right])
    if isinstance(annotation, ast.Subscript):
        name = ast.unparse(annotation.value).rpartition(".")[2]
        if name == "Optional":
            return _join_kinds([annotation.slice, ast.Constant(None)])
        if name == "Union":
            inner = annotation.slice
            return _join_kinds(inner.elts if isinstance(inner, ast.Tuple) else [inner])
        return read_kinds(annotation.value)
    name = getattr(annotation, "id", None) or str(getattr(annotation, "value", ""))
    return _KINDS.get(name)


def _join_kinds(annotations: list[ast.expr]) -> tuple[type, ...] | None:
    kinds = [read_kinds(item) for item in annotations]
    return None if None in kinds else sum(filter(None, kinds), ())
