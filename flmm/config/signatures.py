"""Which settings a class takes, read from its source: no package is imported for it.

In: the name that a config's ``type`` gives. Out: its parameters and, where they can be told, the
kinds of values they take. What cannot be found is ``None``; what takes any keyword says so.
Not its duty: what a config may hold besides.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator
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


@dataclass
class Signature:
    """The settings of a class.

    Attributes:
        names: of its parameters.
        kinds: parameter -> types of the values it takes; only where its source is to be believed.
        is_open: it takes other keywords, too.
    """

    names: set[str] = field(default_factory=set)
    kinds: dict[str, tuple[type, ...]] = field(default_factory=dict)
    is_open: bool = False


def find_signature(type_name: str, modules: tuple[str, ...] = ()) -> Signature | None:
    """The settings of the class that a config's ``type`` names.

    Args:
        type_name: a registered name, with or without a scope (``mmdet.DiceLoss``).
        modules: dotted names of the user's own modules (``custom_imports``), which come first.

    Returns:
        ``None`` where the class is not found.
    """
    scope, _, name = type_name.rpartition(".")
    if scope and scope not in _FOLDERS:
        return None
    for places in _list_places(scope, modules, name):
        # Two classes of one name: what either takes is no mistake.
        return functools.reduce(_join, [_read_class(*place, modules) for place in places])
    return None


def _find_base(name: str, modules: tuple[str, ...]) -> Signature | None:
    """The settings of a class by its own name, not by one that it is registered under."""
    for places in _list_places("", modules, name):
        own = [place for place in places if place[1] == name]
        if own:
            return functools.reduce(
                _join, [_read_class(*place, modules, is_base=True) for place in own]
            )
    return None


def _list_places(
    scope: str, modules: tuple[str, ...], name: str
) -> Iterator[list[tuple[Path, str]]]:
    """(file, name in the file) of the classes of a name; the user's own, then by package."""
    for files in (_list_module_files(modules), *map(_list_files, [scope] if scope else _FOLDERS)):
        if name in _index(files):
            yield _index(files)[name]


def _join(one: Signature, other: Signature) -> Signature:
    return Signature(one.names | other.names, {}, one.is_open or other.is_open)


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
def _index(files: tuple[Path, ...]) -> dict[str, list[tuple[Path, str]]]:
    """Registered or own name -> (file, name in the file) of every class."""
    index: dict[str, list[tuple[Path, str]]] = {}
    for path in files:
        for match in _CLASS.finditer(path.read_text(encoding="utf-8")):
            for name in {match["name"], *_REGISTERED.findall(match["marks"])}:
                index.setdefault(name, []).append((path, match["name"]))
    return index


@functools.cache
def _parse(path: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _read_class(
    path: Path, name: str, modules: tuple[str, ...], is_base: bool = False
) -> Signature:
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
        own.is_open = not _hands_keywords_on(constructor)
        # Those of a base without bases go to the next base of the class that was asked for.
        own.is_open |= not node.bases and not is_base
    elif any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
        own.names |= {
            ast.unparse(item.target) for item in node.body if isinstance(item, ast.AnnAssign)
        }
    for base in [] if own.is_open else node.bases:
        base_name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        if base_name not in _EMPTY_BASES:
            inherited = None if base_name == name else _find_base(base_name, modules)
            inherited = inherited or Signature(is_open=True)
            kinds = {**inherited.kinds, **own.kinds}
            own = Signature(own.names | inherited.names, kinds, own.is_open or inherited.is_open)
    return own


def _hands_keywords_on(constructor: ast.FunctionDef) -> bool:
    """Whether ``**kwargs`` goes to the constructor of a base."""
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
    if annotation is None:
        return None
    if isinstance(annotation, ast.BinOp):
        left, right = read_kinds(annotation.left), read_kinds(annotation.right)
        return None if left is None or right is None else (*left, *right)
    if isinstance(annotation, ast.Subscript):
        name = ast.unparse(annotation.value).rpartition(".")[2]
        if name in ("Optional", "Union"):
            inner = annotation.slice
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            kinds = [read_kinds(part) for part in parts]
            extra = (type(None),) if name == "Optional" else ()
            return None if None in kinds else sum(filter(None, kinds), extra)
        return read_kinds(annotation.value)
    name = getattr(annotation, "id", None) or str(getattr(annotation, "value", ""))
    return _KINDS.get(name)


__all__ = ["Signature", "find_signature", "read_kinds"]
