# SPDX-License-Identifier: Apache-2.0
"""Storages and tensors of torch files as NumPy arrays: every size and stride checked, nothing copied without need."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastdet.formats.errors import shown
from fastdet.formats.pickle_calls import Calls, call, encode, make_set, ordered_dict, parameter
from fastdet.formats.unpickle import Global, PickleError, Unpickler

_MAX_DIMS = 32
_MAX_ELEMENTS = 1 << 62

# torch dtype -> what its bytes are; "bits" are widened to float32, since NumPy has no such number.
_DTYPES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2 bits", "int64": "i8", "int32": "i4", "int16":
    "i2", "int8": "i1", "uint64": "u8", "uint32": "u4", "uint16": "u2", "uint8": "u1", "bool": "?", "complex64": "c8",
    "complex128": "c16", "float8_e4m3fn": "u1 bits", "float8_e5m2": "u1 bits", "float8_e4m3fnuz": "u1 bits",
    "float8_e5m2fnuz": "u1 bits",
}  # fmt: skip
_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int":
    "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}  # fmt: skip
_UNTYPED = ("torch.storage.UntypedStorage", "torch.storage._UntypedStorage", "torch.UntypedStorage")


class Storage(NamedTuple):
    """A stretch of numbers that tensors are views of. dtype: torch's name of it, None for bytes without one."""

    key: str
    data: np.ndarray
    dtype: str | None


class TensorReader:
    """Reads one pickle of a torch file, with its tensors.

    Args:
        path: for messages. size: bytes of the file; its tensors together are no larger.
        stored: bytes of the storage of a key, None where there is none. read: those bytes as a fresh uint8 array.
        big_endian: order of the bytes in storages.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int,
        stored: Callable[[str], int | None],
        read: Callable[[str], np.ndarray],
        *,
        big_endian: bool = False,
    ):
        self.path = path
        self._stored, self._read_bytes, self._order = stored, read, ">" if big_endian else "<"
        self._budget = size
        self._storages: dict[str, Storage] = {}
        self._tensors: dict[tuple, np.ndarray] = {}
        self._known: Calls = {
            **PLAIN,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._typed_tensor,
            "torch._utils._rebuild_parameter": parameter,
            "torch._utils._rebuild_parameter_with_state": parameter,
            "torch._tensor._rebuild_from_type_v2": self._subclass,
            "torch._utils._rebuild_qtensor": _quantised,
            "torch._utils._rebuild_sparse_tensor": _sparse,
        }

    def unpickler(self, persistent: Callable[[Any], Any] | None = None) -> Unpickler:
        """An interpreter whose tensors come from here; ``persistent`` in place of ``storage`` for persistent ids."""
        return Unpickler(self._call, persistent or self.storage)

    def _call(self, kind: Global, args: tuple) -> Any:
        return call(kind, args, self._known)

    def storage(self, pid: Any) -> Any:
        """The storage that ``('storage', type, key, location, elements)`` means; the location does not matter."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and isinstance(pid[0], str) and pid[0] == "storage"):
            raise PickleError("has a persistent id that is no storage")
        _, kind, key, _, elements = pid
        if not (isinstance(kind, Global) and isinstance(key, str) and type(elements) is int):
            raise PickleError("has a persistent id that is no storage")
        dtype = _storage_dtype(kind)
        itemsize = itemsize_of(kind)
        size = self._stored(key)
        if size is None or elements < 0 or elements * itemsize != size:
            count = elements if 0 <= elements < _MAX_ELEMENTS else "an impossible number of"
            raise PickleError(f"has storage {shown(key)!r} of {count} elements, but the file holds {size} bytes of it")
        if key not in self._storages:
            self._storages[key] = Storage(key, self._numbers(self._read_bytes(key), dtype), dtype)
        found = self._storages[key]
        if found.dtype != dtype:
            raise PickleError(f"has storage {shown(key)!r} as {found.dtype} and as {dtype}")
        return found

    def _numbers(self, data: np.ndarray, dtype: str | None) -> np.ndarray:
        """``data`` (uint8) as numbers of this machine, in place."""
        if dtype is None:
            return data
        kind = _DTYPES[dtype].split()[0]
        if kind == "?":
            return np.minimum(data, 1, out=data).view("?")  # other bytes than 0 and 1 would be no bool
        stored = np.dtype(self._order + kind)
        array = data.view(stored)
        return array if stored.isnative else array.byteswap(inplace=True).view(stored.newbyteorder("="))

    def _tensor(self, args: tuple) -> np.ndarray:
        """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])``; v1 has four."""
        if len(args) not in (4, 6, 7) or not isinstance(args[0], Storage) or args[0].dtype is None:
            raise PickleError("rebuilds a tensor from something else than a storage")
        return self._view(args[0], args[0].dtype, *args[1:4])

    def _typed_tensor(self, args: tuple) -> np.ndarray:
        """``_rebuild_tensor_v3(bytes, offset, size, stride, requires_grad, hooks, dtype[, metadata])``."""
        if len(args) not in (7, 8) or not isinstance(args[0], Storage) or not isinstance(args[6], Global):
            raise PickleError("rebuilds a tensor from something else than a storage")
        dtype = args[6].name
        if args[6].module != "torch" or dtype not in _DTYPES:
            raise PickleError(f"has a tensor of {shown(repr(args[6]))}, which is not read")
        return self._view(args[0], dtype, *args[1:4])

    def _subclass(self, args: tuple) -> Any:
        """``_rebuild_from_type_v2(function, class, arguments, state)``: a tensor; its attributes are not kept."""
        if len(args) != 4 or not isinstance(args[0], Global) or not isinstance(args[2], tuple):
            raise PickleError("rebuilds a tensor from something else than a storage")
        return self._call(args[0], args[2])

    def _view(self, storage: Storage, dtype: str, offset: Any, size: Any, stride: Any) -> np.ndarray:
        if not (_is_size(size) and _is_size(stride) and len(size) == len(stride) <= _MAX_DIMS and _is_size((offset,))):
            raise PickleError("has a tensor whose shape is no shape")
        key = (storage.key, dtype, offset, size, stride)
        if key in self._tensors:
            return self._tensors[key]
        data = storage.data
        if storage.dtype is None:
            itemsize = np.dtype(_DTYPES[dtype].split()[0]).itemsize
            data = self._numbers(data[: len(data) // itemsize * itemsize].copy(), dtype)
        elif storage.dtype != dtype:
            raise PickleError(f"has a tensor of {dtype} in a storage of {storage.dtype}")
        if not _inside(offset, size, stride, len(data)):
            raise PickleError(f"has a tensor of shape {size} and stride {stride} that does not lie within its storage")
        if _overlaps(size, stride):
            raise PickleError(f"has a tensor of shape {size} and stride {stride} whose elements overlap")
        step = data.itemsize
        view = np.ndarray(size, data.dtype, data, offset * step, [item * step for item in stride])
        self._budget -= view.nbytes
        if self._budget < 0:
            raise PickleError("has tensors that are larger together than the file")
        self._tensors[key] = _widened(view, dtype) if "bits" in _DTYPES[dtype] else view
        return self._tensors[key]


def itemsize_of(kind: Global) -> int:
    """Bytes of an element of a storage class; PickleError for one that is not read."""
    dtype = _storage_dtype(kind)
    return np.dtype(_DTYPES[dtype].split()[0]).itemsize if dtype else 1


def _storage_dtype(kind: Global) -> str | None:
    """torch's name of the numbers in a storage of this class, None for bytes without a type."""
    name = repr(kind)
    if name in _UNTYPED:
        return None
    found = _STORAGES.get(kind.name.removesuffix("Storage")) if kind.module in ("torch", "torch.cuda") else None
    if found is None or not kind.name.endswith("Storage"):
        if kind.name.startswith(("QInt", "QUInt")):
            _quantised(())
        raise PickleError(f"has a storage of type {shown(name)}, which is not read")
    return found


def _quantised(args: tuple) -> Any:
    raise PickleError("has quantised tensors, which are not read; load the checkpoint it was quantised from")


def _sparse(args: tuple) -> Any:
    raise PickleError("has sparse tensors, which are not read; make them dense where the file was written")


def _widened(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers that NumPy has not, as float32, exactly."""
    if dtype == "bfloat16":
        wide = bits.astype(np.uint32)
        np.left_shift(wide, np.uint32(16), out=wide)  # NumPy 1 makes int64 of a single number and a plain 16
        return wide.view(np.float32)
    return _float8_values(dtype)[bits]


def _float8_values(dtype: str) -> np.ndarray:
    """The 256 numbers of an 8-bit float (OCP 8-bit floating point specification, and its ``fnuz`` variants)."""
    mantissa_bits, bias = (3, 7) if "e4m3" in dtype else (2, 15)
    finite = "fnuz" in dtype  # no infinities, no minus zero, and the bias is one more
    bias += finite
    codes = np.arange(256)
    exponent = (codes & 0x7F) >> mantissa_bits
    fraction = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = np.where(exponent > 0, (1 + fraction) * 2.0 ** (exponent - bias), fraction * 2.0 ** (1 - bias))
    if finite:
        values[0x80] = np.nan
    elif "e4m3" in dtype:
        values[[0x7F, 0xFF]] = np.nan
    else:
        values[codes & 0x7F > 0x7C] = np.nan
        values[codes & 0x7F == 0x7C] = np.inf
    return np.where(codes >= 0x80, -values, values).astype(np.float32)


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


def _size(args: tuple) -> tuple[int, ...]:
    if len(args) != 1 or not _is_size(args[0]):
        raise PickleError("has a torch.Size that is no shape")
    size: tuple[int, ...] = args[0]
    return size


PLAIN: Calls = {
    "collections.OrderedDict": ordered_dict,
    "builtins.set": make_set,
    "_codecs.encode": encode,
    "torch.Size": _size,
}
