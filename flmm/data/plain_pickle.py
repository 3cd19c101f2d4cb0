"""A reader for pickles from the internet that knows data and nothing else.

Python's own unpickler runs what a file tells it to: even with a short list of allowed names a file
can change the attributes of what it is given (BUILD), ten bytes of it take 4 GB (the place of
LONG_BINPUT), and a nest of tuples as a key takes for ever. Here every instruction is one of the few
that plain containers, strings and numbers are written with, in all protocols; no name is looked up,
and no length is believed beyond the end of the file. Memory is at most in proportion to the file.
Arguments of rare instructions are read by Python's ``pickletools``, which executes nothing.
"""

from __future__ import annotations

import codecs
import io
import pickletools
import reprlib
import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

_SCALARS = (str, bytes, int, float, bool, type(None))
_CUT_OFF = "it is cut off, or a length in it is wrong"


class RefusedPickleError(ValueError):
    """A pickle is broken, or holds more than plain containers, strings and numbers."""


class _Name(NamedTuple):
    """Stands where a pickle names a class or function; nothing is looked up."""

    module: str
    name: str


def read_plain_pickle(content: bytes) -> Any:
    """The value of a pickle of plain containers, strings and numbers (Python 2 or 3).

    Python 2 strings are read as UTF-8, and as latin-1 where they are not. An ``OrderedDict``
    becomes a dict.

    Raises:
        RefusedPickleError: the pickle is broken or cut off, or holds anything else.
    """
    try:
        reader = _Reader(content)
        value = reader.read()
        if reader.has_names:
            _check_names(value)
        return value
    except RefusedPickleError:
        raise
    # What broken instructions cause: no such item, wrong kind, no number, no text.
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise RefusedPickleError(f"it is no pickle, cut off or broken ({error!r:.80})") from error


class _Reader:
    """Follows the instructions of one pickle; items are on a stack, which marks divide."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.rest = io.BytesIO(content)
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}
        self.has_names = False

    def read(self) -> Any:
        """Follow all instructions; those that nine of ten are stand here, the others in a table."""
        content, memo, unpack = self.content, self.memo, struct.Struct("<I").unpack_from
        at, stack = 0, self.stack
        while True:
            code = content[at]
            at += 1
            if code == _LONG_BINPUT:
                memo[unpack(content, at)[0]] = stack[-1]
                at += 4
            elif code == _BINGET:
                stack.append(memo[content[at]])
                at += 1
            elif code == _BINUNICODE:
                start = at + 4
                at = start + unpack(content, at)[0]
                if at > len(content):
                    raise RefusedPickleError(_CUT_OFF)
                stack.append(str(content[start:at], "utf-8", "surrogatepass"))
            elif code == _MARK:
                self.outer.append(stack)
                stack = []
            elif code == _EMPTY_LIST:
                stack.append([])
            elif code == _LONG_BINGET:
                stack.append(memo[unpack(content, at)[0]])
                at += 4
            elif code == _STOP:
                return stack.pop()
            else:
                self.stack = stack
                at, stack = self.follow(code, at), self.stack

    def follow(self, code: int, at: int) -> int:
        """Follow an instruction whose argument begins at ``at``; where the next one stands."""
        if code not in _INSTRUCTIONS:
            raise RefusedPickleError(
                f"it holds the instruction {bytes([code])!r}, which no plain data is written "
                "with; it may be harmful, get it from another source"
            )
        read_argument, instruction = _INSTRUCTIONS[code]
        if read_argument is None:
            instruction(self, None)
            return at
        self.rest.seek(at)
        instruction(self, read_argument(self.rest))
        return self.rest.tell()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_old_string(self, raw: bytes) -> None:
        try:
            self.stack.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            self.stack.append(raw.decode("latin1"))

    def push_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise RefusedPickleError("a tuple in it has too few items")
        self.stack[len(self.stack) - count :] = [tuple(self.stack[len(self.stack) - count :])]

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def push_marked(self, build: Callable[[list[Any]], Any]) -> None:
        items = self.pop_to_mark()
        self.stack.append(build(items))

    def extend(self, items: list[Any]) -> None:
        _expect(self.stack[-1], list).extend(items)

    def update(self, items: list[Any]) -> None:
        _expect(self.stack[-1], dict).update(_pair_up(items))

    def add_to_set(self, items: list[Any]) -> None:
        _expect(self.stack[-1], set).update(_check_keys(items))

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def push_name(self, module: str, name: str) -> None:
        found = _Name("builtins" if module == "__builtin__" else module, name)
        if found not in _CALLS:
            raise RefusedPickleError(
                f"refused to load {found.module}.{found.name}: a refs file holds only plain "
                "containers, strings and numbers; this one may be harmful, get it from another "
                "source"
            )
        self.has_names = True
        self.stack.append(found)

    def call(self) -> None:
        arguments, name = _expect(self.stack.pop(), tuple), _expect(self.stack.pop(), _Name)
        self.stack.append(_CALLS[name](*arguments))

    def check_frame(self, length: int) -> None:
        if length > len(self.content) - self.rest.tell():
            raise RefusedPickleError(_CUT_OFF)


def _check_names(value: Any) -> None:
    """No name stands where data should: every one was called."""
    rest, seen = [value], set[int]()
    while rest:
        item = rest.pop()
        if type(item) is _Name:
            raise RefusedPickleError(f"{item.module}.{item.name} stands in it as if it were data")
        if type(item) not in _SCALARS and id(item) not in seen:
            seen.add(id(item))
            rest += item.values() if isinstance(item, dict) else item


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise RefusedPickleError(f"it fills a {type(value).__name__} as if it were another kind")
    return value


def _check_keys(items: Iterable[Any]) -> Iterable[Any]:
    """Items that are hashed at once; a nest of tuples may take for ever."""
    for item in items:
        if type(item) not in _SCALARS:
            raise RefusedPickleError(f"it has a {type(item).__name__} as a key")
    return items


def _pair_up(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    if len(items) % 2:
        raise RefusedPickleError("a dict in it has a key without a value")
    return zip(_check_keys(items[::2]), items[1::2])


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as protocols 0 to 2 write them: a call of ``_codecs.encode``."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedPickleError(f"refused: _codecs.encode to {reprlib.repr(encoding)}")
    return text.encode("latin1")


# The few calls that stand for data.
_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name("builtins", "bytes"): lambda: b"",
    _Name("builtins", "set"): lambda items=(): set(_check_keys(items)),
    _Name("builtins", "frozenset"): lambda items=(): frozenset(_check_keys(items)),
    _Name("collections", "OrderedDict"): lambda pairs=(): dict(
        _pair_up([item for key, value in pairs for item in (key, value)])
    ),
    _Name("_codecs", "encode"): _encode,
}
# What pickletools calls each instruction -> how it is followed, given its argument.
_FOLLOW: dict[str, Callable[[_Reader, Any], Any]] = {
    **dict.fromkeys(("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2"), _Reader.push),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE"), _Reader.push),
    **dict.fromkeys(("BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), _Reader.push),
    "STRING": lambda r, raw: r.push_old_string(codecs.escape_decode(raw)[0]),
    "SHORT_BINSTRING": lambda r, text: r.push_old_string(text.encode("latin1")),
    "BINSTRING": lambda r, text: r.push_old_string(text.encode("latin1")),
    "NONE": lambda r, _: r.push(None),
    "NEWTRUE": lambda r, _: r.push(True),
    "NEWFALSE": lambda r, _: r.push(False),
    "EMPTY_DICT": lambda r, _: r.push({}),
    "EMPTY_SET": lambda r, _: r.push(set()),
    "EMPTY_TUPLE": lambda r, _: r.push(()),
    "TUPLE1": lambda r, _: r.push_tuple(1),
    "TUPLE2": lambda r, _: r.push_tuple(2),
    "TUPLE3": lambda r, _: r.push_tuple(3),
    "TUPLE": lambda r, _: r.push_marked(tuple),
    "LIST": lambda r, _: r.push_marked(list),
    "DICT": lambda r, _: r.push_marked(lambda items: dict(_pair_up(items))),
    "FROZENSET": lambda r, _: r.push_marked(lambda items: frozenset(_check_keys(items))),
    "APPEND": lambda r, _: r.extend([r.stack.pop()]),
    "APPENDS": lambda r, _: r.extend(r.pop_to_mark()),
    "SETITEM": lambda r, _: r.update([r.stack.pop(), r.stack.pop()][::-1]),
    "SETITEMS": lambda r, _: r.update(r.pop_to_mark()),
    "ADDITEMS": lambda r, _: r.add_to_set(r.pop_to_mark()),
    "PUT": _Reader.put,
    "BINPUT": _Reader.put,
    "MEMOIZE": lambda r, _: r.put(len(r.memo)),
    "GET": lambda r, place: r.push(r.memo[place]),
    "GLOBAL": lambda r, names: r.push_name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda r, _: r.push_name(*[r.stack.pop(), r.stack.pop()][::-1]),
    "REDUCE": lambda r, _: r.call(),
    "FRAME": _Reader.check_frame,
    "PROTO": lambda r, protocol: None,
}
_OPCODES = {item.name: item for item in pickletools.opcodes}


def _choose_reader(name: str) -> Callable[[io.BytesIO], Any] | None:
    if name == "STRING":  # pickletools' own knows ASCII only
        return partial(pickletools.read_stringnl, decode=False)
    argument = _OPCODES[name].arg
    return None if argument is None else argument.reader


_INSTRUCTIONS = {
    ord(_OPCODES[name].code): (_choose_reader(name), follow) for name, follow in _FOLLOW.items()
}
_MARK, _STOP, _EMPTY_LIST, _BINUNICODE, _LONG_BINPUT, _BINGET, _LONG_BINGET = (
    ord(_OPCODES[name].code)
    for name in (
        *("MARK", "STOP", "EMPTY_LIST", "BINUNICODE", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    )
)
