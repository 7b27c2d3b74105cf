# SPDX-License-Identifier: Apache-2.0
"""DLPack capsules made by hand, to offer what well-behaved packages never do, and to see who frees what."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

CPU, CUDA, METAL = 1, 2, 8
FLOAT, BFLOAT = 2, 4
READ_ONLY = 1


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", Deleter))


class ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype, _name.argtypes = ctypes.c_char_p, (ctypes.py_object,)


class Producer:
    """Exports an array through ``__dlpack__`` with whatever the arguments say, and counts calls of the deleter."""

    def __init__(
        self,
        array: np.ndarray,
        *,
        version: tuple[int, int] | None = (1, 0),
        strides: Sequence[int] | str | None = "own",
        flags: int = 0,
        free: bool = True,
        **fields: Any,
    ) -> None:
        self.array, self.version, self.deleted, self.capsules = array, version, 0, []
        size = ctypes.c_int64 * array.ndim
        own = [stride // array.itemsize for stride in array.strides]
        self._shape, chosen = size(*array.shape), own if strides == "own" else strides
        self._strides = None if chosen is None else size(*chosen)
        tensor = Tensor(array.ctypes.data, CPU, 0, array.ndim, FLOAT, 8 * array.itemsize, 1, self._shape)
        if self._strides is not None:
            tensor.strides = self._strides
        for name, value in fields.items():
            setattr(tensor, name, value)
        deleter = Deleter(self._delete) if free else Deleter()
        if version is None:
            self._managed = Managed(tensor, None, deleter)
        else:
            self._managed = ManagedVersioned(*version, None, deleter, flags, tensor)

    def _delete(self, _: int) -> None:
        self.deleted += 1

    def _capsule(self) -> Any:
        name = b"dltensor" if self.version is None else b"dltensor_versioned"
        self.capsules.append(_new(ctypes.addressof(self._managed), name, None))
        return self.capsules[-1]

    def names(self) -> list[str]:
        """What the capsules handed out are called now; consumers rename what they take."""
        return [_name(capsule).decode() for capsule in self.capsules]

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CPU, 0)


class Versioned(Producer):
    def __dlpack__(self, *, max_version: tuple[int, int] | None = None, stream: Any = None) -> Any:
        return self._capsule()


class Unversioned(Producer):
    """As before DLPack 1.0: knows no ``max_version``."""

    def __init__(self, array: np.ndarray, **more: Any) -> None:
        super().__init__(array, version=None, **more)

    def __dlpack__(self, stream: Any = None) -> Any:
        return self._capsule()


class HostMemoryAsCuda:
    """``__cuda_array_interface__`` over a NumPy array: device memory to the emulated library."""

    def __init__(self, array: np.ndarray, **changes: Any) -> None:
        self.array = array
        self._interface = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, not array.flags.writeable),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
            **changes,
        }

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._interface
