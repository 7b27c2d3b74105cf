# SPDX-License-Identifier: Apache-2.0
"""A pickle interpreter without imports and without calls: unknown classes become inert records."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from fastdet.formats.errors import shown

MAX_OPCODES = 2_000_000  # real checkpoints need under a million; bounds the time
MAX_OBJECTS = 40 << 20  # bytes of Python objects, estimated; real checkpoints need a few MB
MAX_LITERAL = 4 << 20  # bytes of one text or byte string
MAX_INTEGER = 1 << 10  # bytes of one integer
MAX_NAME = 1 << 10
MAX_PROTOCOL = 5

Scalar = (str, int, float, bytes, type(None))


class PickleError(ValueError):
    """A pickle that is damaged, or that asks for something no checkpoint needs."""


class Global:
    """A name that the pickle refers to, ``module.name``; never resolved."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __repr__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """What an object of an unknown class was made of; without behaviour.

    Attributes:
        kind: the Global that was to be called. args: the arguments. state: what was to be restored into it, or None.
        items: what was appended to it. entries: what was set in it by key.
    """

    __slots__ = ("args", "entries", "items", "kind", "state")

    def __init__(self, kind: Global, args: tuple):
        self.kind, self.args = kind, args
        self.state: Any = None
        self.items: list[Any] = []
        self.entries: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{shown(repr(self.kind))}>"


class Unpickler:
    """Interprets one pickle after another.

    Args:
        call: makes the value of a call of a Global with a tuple of arguments; a Record, if it knows nothing better.
        persistent: turns a persistent id into a value.
    """

    def __init__(self, call: Callable[[Global, tuple], Any], persistent: Callable[[Any], Any]):
        self._make, self._persistent = call, persistent
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._left = MAX_OBJECTS

    def load(self, data: bytes | BinaryIO) -> Any:
        """The value that ``data`` describes; a stream is left behind the pickle's end.

        Raises:
            PickleError: for anything malformed, out of bounds or not supported.
        """
        self._stack, self._marks, self._memo = [], [], {}
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        try:
            return self._run(stream)
        except (PickleError, OSError):
            raise
        except (ValueError, LookupError, TypeError, ArithmeticError, MemoryError, struct.error) as error:
            raise PickleError(f"is damaged ({type(error).__name__})") from error

    def _run(self, stream: BinaryIO) -> Any:
        for _ in range(MAX_OPCODES):
            code = stream.read(1)
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                if code == b".":
                    if len(self._stack) != 1 or self._marks:
                        raise PickleError("leaves more or less than one value")
                    return self._stack.pop()
                if not code:
                    raise PickleError("has no end; the file is incomplete, download it again")
                raise PickleError(f"uses the instruction {code!r}, which no checkpoint needs")
            action, read_argument, cost = instruction
            action(self, read_argument(stream))
            self._charge(cost)
        raise PickleError(f"has more than {MAX_OPCODES} instructions")

    def _charge(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise PickleError(f"describes more than {MAX_OBJECTS >> 20} MB of objects besides its tensors")

    # Every method below carries out one instruction or a few alike; ``arg`` is what stands behind its opcode.

    def _push(self, arg: Any) -> None:
        self._stack.append(arg)

    def _literal(self, arg: Any) -> None:
        self._charge(sys.getsizeof(arg))
        self._stack.append(arg)

    def _protocol(self, arg: int) -> None:
        if arg > MAX_PROTOCOL:
            raise PickleError(f"has protocol {arg}; up to {MAX_PROTOCOL} is read")

    def _ignore(self, arg: Any) -> None:
        pass

    def _mark(self, arg: None) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _pop(self, arg: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _tuple(self, length: int | None) -> None:
        if length is None:
            items = self._pop_mark()
        elif length > len(self._stack):
            raise PickleError("takes more values than there are")
        else:
            items = self._stack[len(self._stack) - length :]
            del self._stack[len(self._stack) - length :]
        self._charge(8 * len(items))
        self._stack.append(tuple(items))

    def _put(self, arg: int) -> None:
        self._memo[arg] = self._stack[-1]

    def _memoize(self, arg: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, arg: int) -> None:
        self._stack.append(self._memo[arg])

    def _global(self, arg: tuple[str, str]) -> None:
        self._stack.append(Global(*arg))

    def _stack_global(self, arg: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str) or len(name) + len(module) > MAX_NAME:
            raise PickleError("names a class by something that is no name")
        self._stack.append(Global(module, name))

    def _call(self, kind: Any, args: Any) -> None:
        if isinstance(kind, Record):
            raise PickleError(f"calls what a call of {shown(repr(kind.kind))} returned, which no checkpoint needs")
        if not isinstance(kind, Global) or not isinstance(args, tuple):
            raise PickleError("calls something that is not a class or function")
        if args and isinstance(args[0], (list, tuple)):
            self._charge(130 * len(args[0]))  # what a container made of it takes
        elif args and isinstance(args[0], str):
            self._charge(len(args[0]))
        self._stack.append(self._make(kind, args))

    def _reduce(self, arg: None) -> None:
        args, kind = self._stack.pop(), self._stack.pop()
        self._call(kind, args)

    def _new_with_keywords(self, arg: None) -> None:
        keywords, args, kind = self._stack.pop(), self._stack.pop(), self._stack.pop()
        if not isinstance(keywords, dict) or not isinstance(args, tuple):
            raise PickleError("makes an object from arguments that are none")
        self._call(kind, (*args, keywords) if keywords else args)

    def _build(self, arg: None) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Record):
            self._stack[-1].state = state
        elif not isinstance(self._stack[-1], dict):  # an OrderedDict's attributes, such as _metadata, are not kept
            raise PickleError("sets attributes of a plain value")

    def _extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Record):
            target = target.items
        if not isinstance(target, list):
            raise PickleError("appends to something that is not a list")
        self._charge(10 * len(items))
        target.extend(items)

    def _append(self, arg: None) -> None:
        item = self._stack.pop()
        self._extend(self._stack[-1], [item])

    def _appends(self, arg: None) -> None:
        items = self._pop_mark()
        self._extend(self._stack[-1], items)

    def _update(self, target: Any, flat: list[Any]) -> None:
        if isinstance(target, Record):
            target = target.entries
        if not isinstance(target, dict) or len(flat) % 2:
            raise PickleError("sets items of something that is not a dict")
        self._charge(50 * len(flat))
        for key, value in zip(flat[::2], flat[1::2]):
            target[hashable(key)] = value

    def _set_item(self, arg: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update(self._stack[-1], [key, value])

    def _set_items(self, arg: None) -> None:
        flat = self._pop_mark()
        self._update(self._stack[-1], flat)

    def _dict(self, arg: None) -> None:
        flat = self._pop_mark()
        target: dict[Any, Any] = {}
        self._update(target, flat)
        self._stack.append(target)

    def _add_items(self, arg: None) -> None:
        items = self._pop_mark()
        if not isinstance(self._stack[-1], set):
            raise PickleError("adds to something that is not a set")
        self._charge(130 * len(items))
        self._stack[-1].update(map(hashable, items))

    def _list(self, arg: None) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def _frozenset(self, arg: None) -> None:
        items = self._pop_mark()
        self._charge(130 * len(items))
        self._stack.append(frozenset(map(hashable, items)))

    def _persistent_id(self, arg: None) -> None:
        self._stack.append(self._persistent(self._stack.pop()))


def hashable(value: Any) -> Any:
    """``value``, if it may be a key: a scalar or a tuple of scalars. Deeper tuples could take forever to hash."""
    if isinstance(value, Scalar) or (isinstance(value, tuple) and all(isinstance(item, Scalar) for item in value)):
        return value
    raise PickleError(f"uses a {type(value).__name__} as a key")


# ---- arguments behind an opcode ------------------------------------------------------------------------------------


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise PickleError("ends inside a value; the file is incomplete, download it again")
    return data


def _nothing(stream: BinaryIO) -> None:
    return None


def _number(layout: str) -> Callable[[BinaryIO], Any]:
    packed = struct.Struct(layout)

    def read(stream: BinaryIO) -> Any:
        return packed.unpack(_exactly(stream, packed.size))[0]

    return read


def _counted(layout: str, convert: Callable[[bytes], Any], limit: int = MAX_LITERAL) -> Callable[[BinaryIO], Any]:
    """A reader of a length and as many bytes."""
    length_of = _number(layout)

    def read(stream: BinaryIO) -> Any:
        length = length_of(stream)
        if not 0 <= length <= limit:
            raise PickleError(f"has a value of {length} bytes; at most {limit} are read")
        return convert(_exactly(stream, length))

    return read


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _python2_text(data: bytes) -> str:
    return data.decode("latin1")


def _two_lines(stream: BinaryIO) -> tuple[str, str]:
    """Module and name of a GLOBAL."""
    module, name = stream.readline(MAX_NAME), stream.readline(MAX_NAME)
    if not module.endswith(b"\n") or not name.endswith(b"\n"):
        raise PickleError("ends inside a name, or has an endless one")
    return module[:-1].decode(), name[:-1].decode()


def _value(make: Callable[[], Any]) -> Callable[[Unpickler, Any], None]:
    return lambda machine, _: machine._stack.append(make())


def _tuple_of(length: int | None) -> Callable[[Unpickler, Any], None]:
    return lambda machine, _: machine._tuple(length)


# Opcode -> what to do, how to read the argument behind it, bytes that the result takes at most (a stack entry included;
# what depends on a length is charged where it is known). What is not here, such as the textual instructions of protocol
# 0 and the extension registry, is refused before its argument is looked at.
_INSTRUCTIONS: Mapping[bytes, tuple[Callable[[Unpickler, Any], Any], Callable[[BinaryIO], Any], int]] = {
    b"\x80": (Unpickler._protocol, _number("<B"), 0),
    b"\x95": (Unpickler._ignore, _number("<Q"), 0),  # FRAME
    b"N": (_value(lambda: None), _nothing, 10),
    b"\x88": (_value(lambda: True), _nothing, 10),
    b"\x89": (_value(lambda: False), _nothing, 10),
    b"J": (Unpickler._push, _number("<i"), 42),
    b"K": (Unpickler._push, _number("<B"), 10),
    b"M": (Unpickler._push, _number("<H"), 42),
    b"\x8a": (Unpickler._literal, _counted("<B", _long), 10),
    b"\x8b": (Unpickler._literal, _counted("<i", _long, MAX_INTEGER), 10),
    b"G": (Unpickler._push, _number(">d"), 34),
    b"U": (Unpickler._literal, _counted("<B", _python2_text), 10),
    b"T": (Unpickler._literal, _counted("<i", _python2_text), 10),
    b"\x8c": (Unpickler._literal, _counted("<B", _text), 10),
    b"X": (Unpickler._literal, _counted("<I", _text), 10),
    b"\x8d": (Unpickler._literal, _counted("<Q", _text), 10),
    b"C": (Unpickler._literal, _counted("<B", bytes), 10),
    b"B": (Unpickler._literal, _counted("<I", bytes), 10),
    b"\x8e": (Unpickler._literal, _counted("<Q", bytes), 10),
    b"\x96": (Unpickler._literal, _counted("<Q", bytearray), 10),
    b"}": (_value(dict), _nothing, 100),
    b"]": (_value(list), _nothing, 90),
    b"\x8f": (_value(set), _nothing, 250),
    b")": (_tuple_of(0), _nothing, 10),
    b"\x85": (_tuple_of(1), _nothing, 70),
    b"\x86": (_tuple_of(2), _nothing, 70),
    b"\x87": (_tuple_of(3), _nothing, 70),
    b"t": (_tuple_of(None), _nothing, 70),
    b"l": (Unpickler._list, _nothing, 10),
    b"d": (Unpickler._dict, _nothing, 100),
    b"\x91": (Unpickler._frozenset, _nothing, 250),
    b"(": (Unpickler._mark, _nothing, 120),
    b"0": (Unpickler._pop, _nothing, 0),
    b"1": (lambda machine, _: machine._pop_mark(), _nothing, 0),
    b"2": (lambda machine, _: machine._stack.append(machine._stack[-1]), _nothing, 10),
    b"q": (Unpickler._put, _number("<B"), 10),
    b"r": (Unpickler._put, _number("<I"), 140),
    b"\x94": (Unpickler._memoize, _nothing, 140),
    b"h": (Unpickler._get, _number("<B"), 10),
    b"j": (Unpickler._get, _number("<I"), 10),
    b"a": (Unpickler._append, _nothing, 0),
    b"e": (Unpickler._appends, _nothing, 0),
    b"s": (Unpickler._set_item, _nothing, 0),
    b"u": (Unpickler._set_items, _nothing, 0),
    b"\x90": (Unpickler._add_items, _nothing, 0),
    b"c": (Unpickler._global, _two_lines, 300),
    b"\x93": (Unpickler._stack_global, _nothing, 80),
    b"R": (Unpickler._reduce, _nothing, 450),  # a Record, or an array and its place in the table of arrays
    b"\x81": (Unpickler._reduce, _nothing, 450),
    b"\x92": (Unpickler._new_with_keywords, _nothing, 450),
    b"b": (Unpickler._build, _nothing, 0),
    b"Q": (Unpickler._persistent_id, _nothing, 450),
}
