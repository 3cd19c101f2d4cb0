"""Changes by chance to what JSON and plain pickles hold."""

import copy
import random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**31,
    2**64,
    10**400,
    float("nan"),
    float("-inf"),
    "",
    " ",
    "12",
    "../../etc/passwd",
    "\ud800",
    "x" * 3000,
    [],
    {},
    [[]],
    [None],
    {"a": {"b": []}},
)


def mutate(value: Any, rng: random.Random, changes: int) -> Any:
    """A deep copy in which so many places hold something else, are gone, or stand there twice."""
    value = copy.deepcopy(value)
    for _ in range(changes):
        places = _list_places(value)
        if not places:
            break
        container, key = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif kind == 2:
            other, other_key = rng.choice(places)
            container[key] = copy.deepcopy(other[other_key])
        else:
            container[key] = rng.choice(ODD_VALUES)
    return value


def _list_places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in nested lists and dicts."""
    if isinstance(value, dict):
        own = [(value, key) for key in value]
    elif isinstance(value, list):
        own = [(value, index) for index in range(len(value))]
    else:
        return []
    return own + [place for container, key in own for place in _list_places(container[key])]
