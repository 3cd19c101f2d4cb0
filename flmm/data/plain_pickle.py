"""A reader for pickles from the internet that takes data and nothing else.

Python's own unpickler runs what a file tells it to: even with a short list of allowed names a file
can change the attributes of what it is given (BUILD), ten bytes of it take 4 GB (the place of
LONG_BINPUT), and a nest of tuples as a key takes for ever. So every instruction is looked at first:
it is one of the few that plain containers, strings and numbers are written with, in all protocols,
and no length or place is believed beyond the size of the file. Only then is the file unpickled; no
name is ever looked up. Memory is at most in proportion to the file.
"""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

_SCALARS = (str, bytes, int, float, bool, type(None))
_CUT_OFF = "it is cut off, or a length in it is wrong"
# Instructions as pickletools calls them: their names, and bytes of what stands behind them.
_PLAIN = (
    *("PROTO", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_SET", "ADDITEMS", "FROZENSET", "EMPTY_TUPLE", "BINPUT", "MEMOIZE", "BINGET"),
    *("LONG_BINGET", "STACK_GLOBAL", "REDUCE"),
)
_SIZED = {
    **dict.fromkeys(("LONG1", "SHORT_BINSTRING", "SHORT_BINUNICODE", "SHORT_BINBYTES"), 1),
    **dict.fromkeys(("BINSTRING", "BINUNICODE", "BINBYTES"), 4),
    **dict.fromkeys(("BINUNICODE8", "BINBYTES8"), 8),
}
_LINES = {**dict.fromkeys(("INT", "LONG", "FLOAT", "STRING", "UNICODE", "GET"), 1), "GLOBAL": 2}
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_CODES = {item.name: ord(item.code) for item in pickletools.opcodes}
_STEPS = {
    ord(item.code): item.arg.n if item.arg else 0
    for item in pickletools.opcodes
    if item.name in _PLAIN
}
_WIDTHS = {_CODES[name]: width for name, width in _SIZED.items()}
_LINE_COUNTS = {_CODES[name]: count for name, count in _LINES.items()}
_TUPLE_CODES = {_CODES[name] for name in _TUPLES}
_LONG_BINPUT, _PUT, _FRAME, _STOP = (
    _CODES[name] for name in ("LONG_BINPUT", "PUT", "FRAME", "STOP")
)
_CONTAINERS = [
    *(pickletools.pylist, pickletools.pydict, pickletools.pyset, pickletools.pytuple),
    pickletools.pyfrozenset,
]
_FILLS_SETS = ("ADDITEMS", "FROZENSET")


class RefusedPickleError(ValueError):
    """A pickle is broken, or holds more than plain containers, strings and numbers."""


class _Call(NamedTuple):
    """Stands for one of the few names that data is written with."""

    name: str
    make: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)


def read_plain_pickle(content: bytes) -> Any:
    """The value of a pickle of plain containers, strings and numbers (Python 2 or 3).

    Python 2 strings are read as UTF-8, and what is none in them as latin-1. An ``OrderedDict``
    becomes a dict. Anything else raises a :class:`RefusedPickleError`.
    """
    try:
        if _find_tuples(content):
            _check_keys(content)
        reader = _Unpickler(io.BytesIO(content), encoding="utf-8", errors=_LATIN1)
        value = reader.load()
        if reader.has_names:
            _check_names(value)
        return value
    except RefusedPickleError:
        raise
    except Exception as error:  # broken instructions cause almost anything
        raise RefusedPickleError(f"it is no pickle, cut off or broken ({error!r:.80})") from error


def _find_tuples(content: bytes) -> bool:
    """Whether there are tuples; looks at all instructions, lengths and places of the memo."""
    size, at, found = len(content), 0, False
    while True:
        code = content[at]
        at += 1
        if code in _STEPS:
            at += _STEPS[code]
        elif code in _WIDTHS:
            start = at + _WIDTHS[code]
            at = start + int.from_bytes(content[at:start], "little")
            if at > size:
                raise RefusedPickleError(_CUT_OFF)
        elif code == _LONG_BINPUT:
            _check_place(int.from_bytes(content[at : at + 4], "little"), size)
            at += 4
        elif code in _LINE_COUNTS:
            for _ in range(_LINE_COUNTS[code]):
                at = content.index(b"\n", at) + 1
        elif code == _PUT:
            end = content.index(b"\n", at)
            _check_place(int(content[at:end]), size)
            at = end + 1
        elif code == _FRAME:
            if int.from_bytes(content[at : at + 8], "little") > size - at - 8:
                raise RefusedPickleError(_CUT_OFF)
            at += 8
        elif code in _TUPLE_CODES:
            found = True
        elif code == _STOP:
            return found
        else:
            raise RefusedPickleError(
                f"it holds the instruction {bytes([code])!r}, which no plain data is written "
                "with; it may be harmful, get it from another source"
            )


def _check_place(place: int, size: int) -> None:
    if place > size:
        raise RefusedPickleError("it remembers more than it holds: a place in it is wrong")


def _check_keys(content: bytes) -> None:
    """No container is a key: to hash a nest of tuples may take for ever.

    Follows the stack, where an item is known by whether it can be a key; a mark is ``None``.
    """
    stack: list[bool | None] = []
    memo: dict[Any, bool | None] = {}
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
            continue
        if opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
            continue
        before = list(opcode.stack_before)
        items: list[bool | None] = []
        if pickletools.markobject in before:
            mark = len(stack) - 1 - stack[::-1].index(None)
            items = stack[mark + 1 :]
            del stack[mark:]
            before = before[: before.index(pickletools.markobject)]
        count = len(before)
        if count > len(stack):
            raise RefusedPickleError("it takes more items than it holds")
        items = stack[len(stack) - count :] + items if opcode.name == "SETITEM" else items
        del stack[len(stack) - count :]
        keys = {"SETITEM": items[1:2], "SETITEMS": items[::2], "DICT": items[::2]}
        if not all(keys.get(opcode.name, items if opcode.name in _FILLS_SETS else [])):
            raise RefusedPickleError("it has a container as a key")
        for item in opcode.stack_after:
            is_mark = item is pickletools.markobject
            stack.append(None if is_mark else item not in _CONTAINERS)


class _Unpickler(pickle.Unpickler):
    """Python's own, which finds no name."""

    has_names = False

    def find_class(self, module: str, name: str) -> Any:
        self.has_names = True
        module = "builtins" if module == "__builtin__" else module  # Python 2's name
        if (module, name) not in _CALLS:
            raise RefusedPickleError(
                f"refused to load {module}.{name}: a refs file holds only plain containers, "
                "strings and numbers; this one may be harmful, get it from another source"
            )
        return _Call(f"{module}.{name}", _CALLS[module, name])


def _check_names(value: Any) -> None:
    """No name stands where data should: every one was called."""
    rest, seen = [value], set[int]()
    while rest:
        item = rest.pop()
        if type(item) is _Call:
            raise RefusedPickleError(f"{item.name} stands in it as if it were data")
        if type(item) not in _SCALARS and id(item) not in seen:
            seen.add(id(item))
            rest += [*item, *item.values()] if isinstance(item, dict) else item


def _check_scalars(items: Iterable[Any]) -> list[Any]:
    items = list(items)
    for item in items:
        if type(item) not in _SCALARS:
            raise RefusedPickleError(f"it has a {type(item).__name__} as a key")
    return items


def _make_dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    pairs = [(key, value) for key, value in pairs]
    _check_scalars(key for key, _ in pairs)
    return dict(pairs)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as protocols 0 to 2 write them: a call of ``_codecs.encode``."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedPickleError(f"refused: _codecs.encode to {reprlib.repr(encoding)}")
    return text.encode("latin1")


# The few calls that stand for data.
_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "bytes"): lambda: b"",
    ("builtins", "set"): lambda items=(): set(_check_scalars(items)),
    ("builtins", "frozenset"): lambda items=(): frozenset(_check_scalars(items)),
    ("collections", "OrderedDict"): _make_dict,
    ("_codecs", "encode"): _encode,
}


def _read_latin1(error: UnicodeError) -> tuple[str, int]:
    """What a Python 2 string holds that is no UTF-8."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin1"), error.end


_LATIN1 = "flmm.latin1"
codecs.register_error(_LATIN1, _read_latin1)
