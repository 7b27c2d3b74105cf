# SPDX-License-Identifier: Apache-2.0
"""A pickle interpreter without imports and without calls: unknown classes become inert records."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

MAX_OPCODES = 5_000_000  # real checkpoints need under a million; bounds time and memory
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
        kind: the Global (or Record) that was to be called. args: the arguments. state: what was to be restored into
            it, or None. items: what was appended to it. entries: what was set in it by key.
    """

    __slots__ = ("args", "entries", "items", "kind", "state")

    def __init__(self, kind: Global | Record, args: Any):
        self.kind, self.args = kind, args
        self.state: Any = None
        self.items: list[Any] = []
        self.entries: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{self.kind!r}>" if isinstance(self.kind, Global) else "<record>"


class Unpickler:
    """Interprets one pickle.

    Args:
        calls: what may be done for a Global that is called, by ``"module.name"``: a function of the argument tuple.
            Every other call makes a Record.
        persistent: turns a persistent id into a value.
    """

    def __init__(self, calls: Mapping[str, Callable[[tuple], Any]], persistent: Callable[[Any], Any]):
        self._calls, self._persistent = calls, persistent
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self, data: bytes) -> Any:
        """The value that ``data`` describes. PickleError for anything malformed, out of bounds or not supported."""
        self._stack, self._marks, self._memo = [], [], {}
        try:
            stream = io.BytesIO(data)
            for _ in range(MAX_OPCODES):
                code = stream.read(1)
                if code == b".":
                    if len(self._stack) != 1 or self._marks:
                        raise PickleError("leaves more or less than one value")
                    return self._stack[0]
                if code not in _INSTRUCTIONS:
                    raise PickleError(
                        f"uses the instruction {code!r}, which no checkpoint needs" if code else "has no end"
                    )
                action, read_argument = _INSTRUCTIONS[code]
                action(self, read_argument(stream))
        except PickleError:
            raise
        except (ValueError, LookupError, TypeError, ArithmeticError, AssertionError, MemoryError) as error:
            raise PickleError(f"is damaged ({type(error).__name__})") from error
        raise PickleError(f"has more than {MAX_OPCODES} instructions")

    # Every method below carries out one instruction or a few alike; ``arg`` is what stands behind its opcode.

    def _push(self, arg: Any) -> None:
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
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("names a class by something that is not text")
        self._stack.append(Global(module, name))

    def _call(self, kind: Any, args: Any) -> None:
        if not isinstance(kind, (Global, Record)) or not isinstance(args, tuple):
            raise PickleError("calls something that is not a class or function")
        known = self._calls.get(repr(kind)) if isinstance(kind, Global) else None
        self._stack.append(Record(kind, args) if known is None else known(args))

    def _reduce(self, arg: None) -> None:
        args, kind = self._stack.pop(), self._stack.pop()
        self._call(kind, args)

    def _new_with_keywords(self, arg: None) -> None:
        keywords, args, kind = self._stack.pop(), self._stack.pop(), self._stack.pop()
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
        self._stack[-1].update(map(hashable, items))

    def _persistent_id(self, arg: None) -> None:
        self._stack.append(self._persistent(self._stack.pop()))


def hashable(value: Any) -> Any:
    """``value``, if it may be a key: a scalar or a tuple of scalars. Deeper tuples could take forever to hash."""
    if isinstance(value, Scalar) or (isinstance(value, tuple) and all(isinstance(item, Scalar) for item in value)):
        return value
    raise PickleError(f"uses a {type(value).__name__} as a key")


def _fixed(make: Callable[[], Any]) -> Callable[[Unpickler, Any], None]:
    return lambda machine, _: machine._stack.append(make())


# Instructions whose argument is the value itself.
_LITERALS = [
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
]  # fmt: skip
_ACTIONS: dict[str, Callable[[Unpickler, Any], Any]] = {
    **dict.fromkeys(_LITERALS, Unpickler._push),
    **dict.fromkeys(["BINPUT", "LONG_BINPUT"], Unpickler._put),
    **dict.fromkeys(["BINGET", "LONG_BINGET"], Unpickler._get),
    "PROTO": Unpickler._protocol,
    "FRAME": Unpickler._ignore,
    "MEMOIZE": Unpickler._memoize,
    "NONE": _fixed(lambda: None),
    "NEWTRUE": _fixed(lambda: True),
    "NEWFALSE": _fixed(lambda: False),
    "EMPTY_DICT": _fixed(dict),
    "EMPTY_LIST": _fixed(list),
    "EMPTY_SET": _fixed(set),
    "EMPTY_TUPLE": lambda machine, _: machine._tuple(0),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "TUPLE": lambda machine, _: machine._tuple(None),
    "LIST": lambda machine, _: machine._stack.append(machine._pop_mark()),
    "DICT": Unpickler._dict,
    "FROZENSET": lambda machine, _: machine._stack.append(frozenset(map(hashable, machine._pop_mark()))),
    "MARK": Unpickler._mark,
    "POP": Unpickler._pop,
    "POP_MARK": lambda machine, _: machine._pop_mark(),
    "DUP": lambda machine, _: machine._stack.append(machine._stack[-1]),
    "APPEND": Unpickler._append,
    "APPENDS": Unpickler._appends,
    "SETITEM": Unpickler._set_item,
    "SETITEMS": Unpickler._set_items,
    "ADDITEMS": Unpickler._add_items,
    "STACK_GLOBAL": Unpickler._stack_global,
    "REDUCE": Unpickler._reduce,
    "NEWOBJ": Unpickler._reduce,
    "NEWOBJ_EX": Unpickler._new_with_keywords,
    "BUILD": Unpickler._build,
    "BINPERSID": Unpickler._persistent_id,
}


def _no_argument(stream: io.BytesIO) -> None:
    return None


def _two_lines(stream: io.BytesIO) -> tuple[str, str]:
    """Module and name of a GLOBAL. pickletools' own reader would resolve escapes, which pickle does not."""
    module, name = stream.readline(), stream.readline()
    if not name.endswith(b"\n"):
        raise PickleError("ends inside a name")
    return module[:-1].decode(), name[:-1].decode()


# One byte -> what to do and how to read the argument behind it. What is not here, such as the textual instructions of
# protocol 0 and the extension registry, is refused before its argument is looked at.
_INSTRUCTIONS: dict[bytes, tuple[Callable[[Unpickler, Any], Any], Callable[[Any], Any]]] = {
    info.code.encode("latin1"): (_ACTIONS[info.name], info.arg.reader if info.arg else _no_argument)
    for info in pickletools.opcodes
    if info.name in _ACTIONS
} | {b"c": (Unpickler._global, _two_lines)}
