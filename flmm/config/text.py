"""Configs as text, as mmengine writes them into checkpoints: read without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any


def read_literals(text: str) -> dict[str, Any]:
    """The variables of a config's text; what is no literal is left out, broken text is empty."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found = {}
    for node in body:
        if isinstance(node, ast.Assign):
            try:
                found[ast.unparse(node.targets[0])] = _evaluate(node.value)
            except (ValueError, RecursionError):
                continue
    return found


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
        return {str(item.arg): _evaluate(item.value) for item in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values)
        return {ast.literal_eval(key): _evaluate(value) for key, value in pairs if key is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluate(item) for item in node.elts]
    return ast.literal_eval(node)


def list_changes(before: str, now: str, keys: set[str]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ between two texts: dotted name -> (before, now), ``None`` where absent.

    Only ``keys`` of the top level are compared. A text that cannot be read differs in nothing.
    """
    texts = [read_literals(before), read_literals(now)]
    if not all(texts):
        return {}
    old, new = (
        {name: value for key in keys & text.keys() for name, value in flatten(text[key], key)}
        for text in texts
    )
    names = sorted(old.keys() | new.keys())
    pairs = {name: (old.get(name), new.get(name)) for name in names}
    return {name: (one, other) for name, (one, other) in pairs.items() if one != other}


def flatten(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Dotted names and values; of a list, the places of its dicts."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flatten(value, f"{place}.{key}")
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        for index, item in enumerate(node):
            yield from flatten(item, f"{place}.{index}")
    else:
        yield place, node
