# SPDX-License-Identifier: Apache-2.0
"""Files of torch before 1.6: a magic number, a version, facts of the machine, the content, its storages."""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO

import numpy as np

from fastdet.formats.errors import FileFormatError, shown
from fastdet.formats.pickle_calls import call
from fastdet.formats.tensors import PLAIN, TensorReader, itemsize_of
from fastdet.formats.unpickle import Global, PickleError, Unpickler

MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC_BYTES = MAGIC.to_bytes(10, "little")
_VERSION = 1001
_CUT = "breaks off; the file is incomplete, download it again"


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is of this form: a pickle (of any protocol) of the magic number."""
    return head[:1] == b"\x80" and _MAGIC_BYTES in head[2:32]


def read_legacy(path: str | os.PathLike[str], file: BinaryIO) -> Any:
    """The content of ``file``, opened at any place; see ``read_torch``.

    The storages stand behind the content that refers to them, so it is gone through twice: first for where it ends.
    They are little-endian whatever the machine.

    Raises:
        PickleError, FileFormatError: the file is damaged or asks for what no checkpoint needs.
    """
    file.seek(0)
    magic, version, machine = (_plain(file) for _ in range(3))
    if magic != MAGIC or version != _VERSION or not isinstance(machine, dict):
        raise FileFormatError(path, "begins like a file of torch before 1.6, but is none")
    start = file.tell()
    itemsizes: dict[str, int] = {}
    Unpickler(lambda kind, args: call(kind, args, PLAIN), lambda pid: _note(pid, itemsizes)).load(file)
    storages = _Storages(path, file, itemsizes)
    reader = TensorReader(path, storages.file_size, storages.stored, storages.read)
    file.seek(start)
    return reader.unpickler(lambda pid: _meaning(pid, reader)).load(file)


class _Storages:
    """Where the storages lie: a pickled list of keys, then for each its number of elements and its bytes."""

    def __init__(self, path: str | os.PathLike[str], file: BinaryIO, itemsizes: dict[str, int]):
        self._path, self._file = path, file
        keys = _plain(file)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(itemsizes):
            raise FileFormatError(path, "lists other storages than its tensors use; download it again")
        if len(set(keys)) != len(keys):
            raise FileFormatError(path, "lists a storage twice")
        position = file.tell()
        self.file_size = file.seek(0, os.SEEK_END)
        self._places: dict[str, tuple[int, int]] = {}
        for key in keys:
            file.seek(position)
            count = file.read(8)
            length = struct.unpack("<q", count)[0] * itemsizes[key] if len(count) == 8 else -1
            if not 0 <= length <= self.file_size - position - 8:
                raise FileFormatError(path, f"{_CUT} (storage {shown(key)!r})")
            self._places[key] = position + 8, length
            position += 8 + length
        if position != self.file_size:
            raise FileFormatError(path, f"holds {self.file_size - position} bytes more than its storages")

    def stored(self, key: str) -> int | None:
        return self._places[key][1] if key in self._places else None

    def read(self, key: str) -> np.ndarray:
        start, length = self._places[key]
        data = np.empty(length, np.uint8)
        place = self._file.tell()
        self._file.seek(start)
        got = self._file.readinto(memoryview(data))  # type: ignore[attr-defined,arg-type]
        self._file.seek(place)
        if got != length:
            raise FileFormatError(self._path, _CUT)
        return data


def _plain(file: BinaryIO) -> Any:
    def refuse(*_: Any) -> Any:
        raise PickleError("has objects where a plain value should be")

    return Unpickler(refuse, refuse).load(file)


def _note(pid: Any, itemsizes: dict[str, int]) -> Any:
    """First reading: note the kind of each storage; the class of a module stands for itself."""
    if not isinstance(pid, tuple) or not pid:
        raise PickleError("has a persistent id that is no storage")
    if not _is_storage(pid):
        return _class_of_module(pid)
    if itemsizes.setdefault(pid[2], itemsize_of(pid[1])) != itemsize_of(pid[1]):
        raise PickleError(f"has storage {shown(pid[2])!r} in two types")
    return None


def _is_storage(pid: tuple) -> bool:
    named = isinstance(pid[0], str) and pid[0] == "storage" and len(pid) in (5, 6)
    return named and isinstance(pid[1], Global) and isinstance(pid[2], str)


def _class_of_module(pid: tuple) -> Global:
    """``('module', class, file name, source)``: how the source of a module's class was kept; only the name matters."""
    if len(pid) == 4 and isinstance(pid[0], str) and pid[0] == "module" and isinstance(pid[1], Global):
        return pid[1]
    raise PickleError("has a persistent id that is no storage")


def _meaning(pid: Any, reader: TensorReader) -> Any:
    """Second reading: ``('storage', type, key, location, elements[, None])`` or the class of a module."""
    if not _is_storage(pid):
        return _class_of_module(pid)
    if len(pid) == 6 and pid[5] is not None:
        raise PickleError("has a storage that is a part of another; torch has not written such since 0.4")
    return reader.storage(pid[:5])
