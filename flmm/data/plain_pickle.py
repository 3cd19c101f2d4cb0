"""A reader for pickles from the internet that knows data and nothing else.

Python's own unpickler runs what a file tells it to: even with a short list of allowed names a file
can change the attributes of what it is given (BUILD), and ten bytes of it take 4 GB (the place of
LONG_BINPUT). Here every instruction is one of the few that plain containers, strings and numbers
are written with, in all protocols; no name is ever looked up, nothing is called, and no length is
believed beyond the end of the file. Memory is at most in proportion to the file.

Data in: bytes. Data out: the value. What it should hold is not known here.
"""

from __future__ import annotations

import codecs
import pickletools
import reprlib
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

_HIGHEST_PROTOCOL = 5
_CUT_OFF = "it is cut off, or a length in it is wrong"
_SCALARS = (str, bytes, int, float, bool, type(None))
_OLD_MODULES = {"__builtin__": "builtins"}  # Python 2's name


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
    """Follows the instructions of one pickle; items are on a stack, which marks divide.

    Args:
        content: of the file.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}
        self.has_names = False

    def read(self) -> Any:
        """Follow all instructions; those that nine of ten are stand here, the others in a table."""
        content, memo, unpack = self.content, self.memo, _UINT4.unpack_from
        at, stack = self.at, self.stack
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
                self.at, self.stack = at, stack
                self.follow(code)
                at, stack = self.at, self.stack

    def follow(self, code: int) -> None:
        instruction = _INSTRUCTIONS.get(code)
        if instruction is None:
            raise RefusedPickleError(
                f"it holds the instruction {bytes([code])!r}, which no plain data is written "
                "with; it may be harmful, get it from another source"
            )
        instruction(self)

    def take(self, count: int) -> bytes:
        at, self.at = self.at, self.at + count
        if not at <= self.at <= len(self.content):
            raise RefusedPickleError(_CUT_OFF)
        return self.content[at : self.at]

    def take_number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def take_line(self) -> bytes:
        line = self.content[self.at : self.content.index(b"\n", self.at)]
        self.at += len(line) + 1
        return line

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    # Strings and numbers.

    def add_unicode(self, width: int) -> None:
        self.stack.append(str(self.take(self.take_number(width)), "utf-8", "surrogatepass"))

    def add_old_string(self, raw: bytes) -> None:
        try:
            self.stack.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            self.stack.append(raw.decode("latin1"))

    def add_quoted_string(self) -> None:
        line = self.take_line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise RefusedPickleError("a string in it has no quotes")
        self.add_old_string(codecs.escape_decode(line[1:-1])[0])  # type: ignore[attr-defined]

    def add_int_line(self) -> None:
        line = self.take_line()
        self.stack.append(line == b"01" if line in (b"00", b"01") else int(line, 0))

    def add_long(self) -> None:
        raw = self.take(self.take_number(1))
        self.stack.append(int.from_bytes(raw, "little", signed=True))

    # Containers.

    def add_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise RefusedPickleError("a tuple in it has too few items")
        self.stack[len(self.stack) - count :] = [tuple(self.stack[len(self.stack) - count :])]

    def add_marked(self, build: Callable[[list[Any]], Any]) -> None:
        items = self.pop_to_mark()
        self.stack.append(build(items))

    def append(self) -> None:
        item = self.stack.pop()
        _expect(self.stack[-1], list).append(item)

    def append_all(self) -> None:
        items = self.pop_to_mark()
        _expect(self.stack[-1], list).extend(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _expect(self.stack[-1], dict).update(_pair_up([key, value]))

    def set_all(self) -> None:
        items = self.pop_to_mark()
        _expect(self.stack[-1], dict).update(_pair_up(items))

    def add_to_set(self) -> None:
        items = self.pop_to_mark()
        _expect(self.stack[-1], set).update(_check_hashable(items))

    # The memo, names and the few calls that stand for data.

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def add_name(self, module: Any, name: Any) -> None:
        found = _Name(_OLD_MODULES.get(module, module), name)
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


def _check_names(value: Any) -> None:
    """No name stands where data should: every one was called."""
    rest, seen = [value], set[int]()
    while rest:
        item = rest.pop()
        if type(item) is _Name:
            raise RefusedPickleError(f"{item.module}.{item.name} stands in it as if it were data")
        if type(item) in _SCALARS or id(item) in seen:
            continue
        seen.add(id(item))
        rest += item.values() if isinstance(item, dict) else item


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise RefusedPickleError(f"it fills a {type(value).__name__} as if it were another kind")
    return value


def _check_hashable(items: Iterable[Any]) -> Iterable[Any]:
    """Items that are found at once; a nest of tuples may take for ever."""
    for item in items:
        if type(item) not in _SCALARS:
            raise RefusedPickleError(f"it has a {type(item).__name__} as a key")
    return items


def _pair_up(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    if len(items) % 2:
        raise RefusedPickleError("a dict in it has a key without a value")
    _check_hashable(items[::2])
    return zip(items[::2], items[1::2])


def _make_set(items: Any = ()) -> set[Any]:
    return set(_check_hashable(items))


def _make_frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_check_hashable(items))


def _make_dict(pairs: Any = ()) -> dict[Any, Any]:
    return dict(_pair_up([item for key, value in pairs for item in (key, value)]))


def _make_empty_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as protocols 0 to 2 write them: a call of ``_codecs.encode``."""
    if encoding.replace("-", "").lower() != "latin1":
        raise RefusedPickleError(f"refused: _codecs.encode to {reprlib.repr(encoding)}")
    return text.encode("latin1")


_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name("builtins", "bytes"): _make_empty_bytes,
    _Name("builtins", "set"): _make_set,
    _Name("builtins", "frozenset"): _make_frozenset,
    _Name("collections", "OrderedDict"): _make_dict,
    _Name("_codecs", "encode"): _encode,
}


def _check_protocol(reader: _Reader) -> None:
    protocol = reader.take_number(1)
    if protocol > _HIGHEST_PROTOCOL:
        raise RefusedPickleError(f"its protocol is {protocol}, known are 0 to {_HIGHEST_PROTOCOL}")


def _check_frame(reader: _Reader) -> None:
    if reader.take_number(8) > len(reader.content) - reader.at:
        raise RefusedPickleError(_CUT_OFF)


# What pickletools calls each instruction -> how it is followed.
_FOLLOW: dict[str, Callable[[_Reader], Any]] = {
    "PROTO": _check_protocol,
    "FRAME": _check_frame,
    "NONE": lambda r: r.stack.append(None),
    "NEWTRUE": lambda r: r.stack.append(True),
    "NEWFALSE": lambda r: r.stack.append(False),
    "INT": _Reader.add_int_line,
    "LONG": lambda r: r.stack.append(int(r.take_line().removesuffix(b"L"), 0)),
    "BININT": lambda r: r.stack.append(int.from_bytes(r.take(4), "little", signed=True)),
    "BININT1": lambda r: r.stack.append(r.take_number(1)),
    "BININT2": lambda r: r.stack.append(r.take_number(2)),
    "LONG1": _Reader.add_long,
    "FLOAT": lambda r: r.stack.append(float(r.take_line())),
    "BINFLOAT": lambda r: r.stack.append(struct.unpack(">d", r.take(8))[0]),
    "UNICODE": lambda r: r.stack.append(str(r.take_line(), "raw-unicode-escape")),
    "SHORT_BINUNICODE": lambda r: r.add_unicode(1),
    "BINUNICODE8": lambda r: r.add_unicode(8),
    "STRING": _Reader.add_quoted_string,
    "SHORT_BINSTRING": lambda r: r.add_old_string(r.take(r.take_number(1))),
    "BINSTRING": lambda r: r.add_old_string(r.take(r.take_number(4))),
    "SHORT_BINBYTES": lambda r: r.stack.append(r.take(r.take_number(1))),
    "BINBYTES": lambda r: r.stack.append(r.take(r.take_number(4))),
    "BINBYTES8": lambda r: r.stack.append(r.take(r.take_number(8))),
    "EMPTY_DICT": lambda r: r.stack.append({}),
    "EMPTY_SET": lambda r: r.stack.append(set()),
    "EMPTY_TUPLE": lambda r: r.stack.append(()),
    "TUPLE1": lambda r: r.add_tuple(1),
    "TUPLE2": lambda r: r.add_tuple(2),
    "TUPLE3": lambda r: r.add_tuple(3),
    "TUPLE": lambda r: r.add_marked(tuple),
    "LIST": lambda r: r.add_marked(list),
    "DICT": lambda r: r.add_marked(lambda items: dict(_pair_up(items))),
    "FROZENSET": lambda r: r.add_marked(_make_frozenset),
    "APPEND": _Reader.append,
    "APPENDS": _Reader.append_all,
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_all,
    "ADDITEMS": _Reader.add_to_set,
    "PUT": lambda r: r.put(int(r.take_line())),
    "BINPUT": lambda r: r.put(r.take_number(1)),
    "MEMOIZE": lambda r: r.put(len(r.memo)),
    "GET": lambda r: r.stack.append(r.memo[int(r.take_line())]),
    "GLOBAL": lambda r: r.add_name(r.take_line().decode(), r.take_line().decode()),
    "STACK_GLOBAL": lambda r: r.add_name(*[r.stack.pop(), r.stack.pop()][::-1]),
    "REDUCE": _Reader.call,
}
_CODES = {item.name: ord(item.code) for item in pickletools.opcodes}
_INSTRUCTIONS = {_CODES[name]: instruction for name, instruction in _FOLLOW.items()}
_MARK, _STOP, _EMPTY_LIST = (_CODES[name] for name in ("MARK", "STOP", "EMPTY_LIST"))
_BINUNICODE, _LONG_BINPUT = _CODES["BINUNICODE"], _CODES["LONG_BINPUT"]
_BINGET, _LONG_BINGET = _CODES["BINGET"], _CODES["LONG_BINGET"]
_UINT4 = struct.Struct("<I")

__all__ = ["RefusedPickleError", "read_plain_pickle"]
