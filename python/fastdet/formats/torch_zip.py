# SPDX-License-Identifier: Apache-2.0
"""Reads files of ``torch.save`` as plain data, without torch and without executing anything in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdet.formats.archive import Archive
from fastdet.formats.errors import FileFormatError
from fastdet.formats.unpickle import Global, PickleError, Unpickler, hashable

_DTYPES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": "<u2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
_MAX_PICKLE = 256 << 20
_MAX_DIMS = 32
_MAX_ELEMENTS = 1 << 62


class _Storage:
    """A stretch of numbers that tensors are views of."""

    def __init__(self, data: np.ndarray, bfloat16: bool):
        self.data, self.bfloat16 = data, bfloat16


def read_torch_zip(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote to ``path``, as plain data.

    Tensors and parameters become NumPy arrays (bfloat16 widened to float32), ``OrderedDict`` becomes dict,
    ``torch.Size`` a tuple; lists, tuples, sets, numbers and text stay. An object of any other class becomes a
    ``Record``: its class's name, arguments and state, without behaviour. Nothing is imported or called.

    Args:
        path: a file written by torch 1.6 or later (a zip archive).

    Raises:
        FileFormatError: the file is something else, is damaged, or lies about sizes; the message names it and says
            what to do.
    """
    with Archive(path) as archive:
        try:
            return _Reader(archive).read()
        except PickleError as error:
            raise FileFormatError(path, f"its pickle {error}") from error


class _Reader:
    def __init__(self, archive: Archive):
        self._archive = archive
        self._storages: dict[str, tuple[str, _Storage]] = {}
        self._budget = archive.size  # tensors together are not larger than the file that they came in
        self._root = self._find_root()

    def read(self) -> Any:
        name = f"{self._root}/data.pkl"
        if (self._archive.member_size(name) or 0) > _MAX_PICKLE:
            raise PickleError(f"is larger than {_MAX_PICKLE >> 20} MB")
        if self._archive.member_size(f"{self._root}/byteorder") is not None:
            order = self._archive.read(f"{self._root}/byteorder").tobytes()
            if order != b"little":
                raise FileFormatError(self._archive.path, f"has byte order {order[:16]!r}; only little-endian is read")
        calls: dict[str, Callable[[tuple], Any]] = {
            "collections.OrderedDict": _ordered_dict,
            "__builtin__.set": _set,
            "builtins.set": _set,
            "torch.Size": _size,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "_codecs.encode": _encode,
        }
        return Unpickler(calls, self._storage).load(self._archive.read(name).tobytes())

    def _find_root(self) -> str:
        names = self._archive.names()
        roots = [name[: -len("/data.pkl")] for name in names if name.endswith("/data.pkl")]
        if any(name.endswith("/constants.pkl") for name in names):
            raise FileFormatError(self._archive.path, "is a TorchScript program; a checkpoint with weights is needed")
        if len(roots) != 1:
            found = "no" if not roots else "more than one"
            raise FileFormatError(self._archive.path, f"is a zip archive with {found} data.pkl, so no torch checkpoint")
        return roots[0]

    def _storage(self, pid: Any) -> _Storage:
        """The storage that ``('storage', type, key, location, elements)`` means; the location does not matter."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise PickleError("has a persistent id that is no storage")
        _, kind, key, _, elements = pid
        if not (isinstance(kind, Global) and isinstance(key, str) and type(elements) is int):
            raise PickleError("has a persistent id that is no storage")
        name, dtype = repr(kind), _DTYPES.get(repr(kind))
        if dtype is None:
            raise PickleError(f"has a storage of type {name}, which is not read")
        member = f"{self._root}/data/{key}"
        size = self._archive.member_size(member)
        if size is None or elements < 0 or elements * np.dtype(dtype).itemsize != size:
            raise PickleError(f"has storage {key!r} of {elements} elements, but the archive holds {size} bytes of it")
        if member not in self._storages:
            data = self._archive.read(member)
            if dtype == "?":
                data = np.not_equal(data, 0)
            self._storages[member] = name, _Storage(data.view(dtype), dtype == "<u2")
        stored_name, storage = self._storages[member]
        if stored_name != name:
            raise PickleError(f"has storage {key!r} as {stored_name} and as {name}")
        return storage

    def _tensor(self, args: tuple) -> np.ndarray:
        """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])``."""
        if len(args) not in (6, 7) or not isinstance(args[0], _Storage):
            raise PickleError("rebuilds a tensor from something else than a storage")
        storage, offset, size, stride = args[:4]
        if not (_is_size(size) and _is_size(stride) and len(size) == len(stride) <= _MAX_DIMS and _is_size((offset,))):
            raise PickleError("has a tensor whose shape is no shape")
        if not _inside(offset, size, stride, len(storage.data)):
            raise PickleError(f"has a tensor of shape {size} and stride {stride} that does not lie within its storage")
        if _overlaps(size, stride):
            raise PickleError(f"has a tensor of shape {size} and stride {stride} whose elements overlap")
        itemsize = storage.data.itemsize
        view = np.ndarray(
            size, storage.data.dtype, storage.data, offset * itemsize, [step * itemsize for step in stride]
        )
        self._budget -= view.nbytes
        if self._budget < 0:
            raise PickleError("has tensors that are larger together than the file")
        if storage.bfloat16:
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(view).reshape(size)


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and 0 <= item < _MAX_ELEMENTS for item in value)


def _inside(offset: int, size: tuple[int, ...], stride: tuple[int, ...], elements: int) -> bool:
    count = 1
    for length in size:
        count *= max(length, 1)
        if count > _MAX_ELEMENTS:
            return False
    if 0 in size:
        return offset <= elements and count <= elements + 1
    return offset + sum((length - 1) * step for length, step in zip(size, stride)) < elements


def _overlaps(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether two indices could mean the same element: each stride has to step over all that lies inside it."""
    reach = 0
    for step, length in sorted((step, length) for step, length in zip(stride, size) if length > 1):
        if step <= reach:
            return True
        reach += step * (length - 1)
    return False


def _ordered_dict(args: tuple) -> dict[Any, Any]:
    """``OrderedDict()``, or ``OrderedDict([[key, value], ...])`` as Python 2 wrote it."""
    if not args:
        return {}
    if len(args) != 1 or not isinstance(args[0], list):
        raise PickleError("has an OrderedDict made from something else than a list")
    if any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in args[0]):
        raise PickleError("has an OrderedDict made from something else than pairs")
    return {hashable(key): value for key, value in args[0]}


def _set(args: tuple) -> set[Any]:
    if len(args) != 1 or not isinstance(args[0], (list, tuple)):
        raise PickleError("has a set made from something else than a list")
    return set(map(hashable, args[0]))


def _size(args: tuple) -> tuple[int, ...]:
    if len(args) != 1 or not _is_size(args[0]):
        raise PickleError("has a torch.Size that is no shape")
    return args[0]


def _parameter(args: tuple) -> np.ndarray:
    if len(args) not in (3, 4) or not isinstance(args[0], np.ndarray):
        raise PickleError("has a parameter made from something else than a tensor")
    return args[0]


def _encode(args: tuple) -> bytes:
    """``_codecs.encode(text, "latin1")``, how Python 3 writes bytes in protocol 2."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] != "latin1":
        raise PickleError("encodes text otherwise than in latin1")
    return args[0].encode("latin1")
