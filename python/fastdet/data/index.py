# SPDX-License-Identifier: Apache-2.0
"""A data set as columns of numbers: in memory, or mapped from one file that is verified before anything in it is used.

The file is little-endian: magic, version, number of sections, size of the file, SHA-256 of the whole file (with zeros
in the place of the digest); then offset and length in bytes of each section; then the sections, in the order of
``SECTIONS``, each at a multiple of 64.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.files import write_atomic

__all__ = ["Index", "IndexFileError", "make_index", "open_index", "write_index"]

MAGIC, VERSION = b"FDINDEX\n", 2
HEADER = struct.Struct("<8sIIQ32s")
PLACE = struct.Struct("<QQ")
ALIGNMENT = 64
BLOCK = 1 << 20  # bytes that are hashed, and rows that are checked, at a time
MAX_SIDE = 65_535
MAX_COORDINATE = 1e6  # of a polygon's point, in pixels to either side
# name -> dtype, numbers a row. N pictures, M annotations, K classes, R polygons of P points together;
# without polygons their columns have no rows.
SECTIONS = {
    "about": ("u1", 1),  # JSON: names, category ids, prefix of the paths, notes
    "paths": ("u1", 1),  # all paths, one behind the other, without the prefix
    "path_starts": ("<i8", 1),  # [N + 1]
    "picture_id": ("<i8", 1),
    "height": ("<i4", 1),
    "width": ("<i4", 1),
    "starts": ("<i8", 1),  # [N + 1] into order
    "order": ("<i8", 1),  # annotations by picture, those of one as published
    "annotation_id": ("<i8", 1),
    "picture": ("<i8", 1),  # row of the picture
    "label": ("<i4", 1),
    "box": ("<f8", 4),  # x, y, width, height in pixels, as published
    "area": ("<f8", 1),
    "crowd": ("u1", 1),
    "point": ("<f4", 2),  # x, y in pixels, as published
    "ring_starts": ("<i8", 1),  # [R + 1] into point
    "polygon_starts": ("<i8", 1),  # [M + 1] into rings: an object may have several, or none
}
POLYGONS = ("point", "ring_starts", "polygon_starts")


class IndexFileError(ValueError):
    """An index file that is no index, of another version, or not as it was written."""


@dataclass(frozen=True, eq=False)
class Index:
    """All pictures and annotations of a split, read-only: columns as in ``SECTIONS``.

    ``names`` and ``category_ids`` by label; ``prefix`` begins every path; ``notes`` are its maker's. ``file`` is path
    and digest of the index file it is mapped from: such an index is pickled as these two.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    prefix: bytes
    paths: np.ndarray
    path_starts: np.ndarray
    picture_id: np.ndarray
    height: np.ndarray
    width: np.ndarray
    starts: np.ndarray
    order: np.ndarray
    annotation_id: np.ndarray
    picture: np.ndarray
    label: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    point: np.ndarray
    ring_starts: np.ndarray
    polygon_starts: np.ndarray
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    file: tuple[str, str] | None = None

    def path(self, row: int) -> Path:
        """Where picture ``row`` lies."""
        first, last = self.path_starts[row : row + 2].tolist()
        return Path(os.fsdecode(self.prefix + self.paths[first:last].tobytes()))

    @property
    def has_polygons(self) -> bool:
        """Whether polygons were read, and there are some."""
        return len(self.polygon_starts) > 0

    def rings(self, row: int) -> tuple[np.ndarray, ...]:
        """The polygons [n, 2] of annotation ``row``; views."""
        first, last = self.polygon_starts[row : row + 2].tolist()
        cuts = self.ring_starts[first : last + 1].tolist()
        return tuple(self.point[start:end] for start, end in itertools.pairwise(cuts))

    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(getattr(self, name).nbytes for name in SECTIONS if name != "about")

    def __reduce__(self) -> tuple[Any, ...]:
        if self.file is not None:
            return open_index, self.file
        return Index, tuple(getattr(self, field.name) for field in dataclasses.fields(self))


def make_index(
    names: tuple[str, ...],
    category_ids: tuple[int, ...],
    *,
    prefix: bytes,
    notes: dict[str, Any] | None = None,
    **columns: Any,
) -> Index:
    """The index of ``columns``: those of ``SECTIONS`` but ``starts`` and ``order``, which are made here.

    The columns of polygons may be left out.

    Raises:
        IndexFileError: the columns do not belong together.
    """
    picture = np.asarray(columns["picture"], np.int64)
    count = len(columns["picture_id"])
    if len(picture) and not 0 <= picture.min() <= picture.max() < count:
        raise IndexFileError("index: picture must be rows of pictures")
    rising = bool((picture[1:] >= picture[:-1]).all())
    columns["order"] = np.arange(len(picture)) if rising else np.argsort(picture, kind="stable")
    columns["starts"] = np.concatenate([[0], np.bincount(picture, minlength=count).cumsum()])
    columns = {**dict.fromkeys(POLYGONS, ()), **columns}
    made: dict[str, Any] = {}
    for name, (dtype, width) in SECTIONS.items():
        if name != "about":
            column = np.ascontiguousarray(columns[name], np.dtype(dtype)).reshape((-1, width) if width > 1 else -1)
            column.flags.writeable = False
            made[name] = column
    index = Index(names, category_ids, prefix, **made, notes=dict(notes or {}))
    _check(index)
    return index


def write_index(path: str | os.PathLike[str], index: Index) -> Path:
    """Write ``index`` to ``path``, whole or not at all. Raises OSError as ``open`` does."""
    # JSON in ASCII keeps what is no valid text, too: names of files need not be
    about = {
        "names": index.names,
        "category_ids": index.category_ids,
        "prefix": os.fsdecode(index.prefix),
        "notes": index.notes,
    }
    data: dict[str, Any] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    data |= {name: getattr(index, name) for name in SECTIONS if name != "about"}
    places, at = [], HEADER.size + PLACE.size * len(SECTIONS)
    for name in SECTIONS:
        at += -at % ALIGNMENT
        places.append((at, data[name].nbytes))
        at += data[name].nbytes

    def pieces(digest: bytes) -> Iterator[Any]:
        written = HEADER.size + PLACE.size * len(SECTIONS)
        yield HEADER.pack(MAGIC, VERSION, len(SECTIONS), at, digest) + b"".join(PLACE.pack(*each) for each in places)
        for name, (start, size) in zip(SECTIONS, places, strict=True):
            yield bytes(start - written)
            yield memoryview(data[name].reshape(-1).view(np.uint8))
            written = start + size

    digest = hashlib.sha256()
    for piece in pieces(bytes(32)):
        digest.update(piece)
    return write_atomic(path, pieces(digest.digest()))


def open_index(path: str | os.PathLike[str], digest: str | None = None) -> Index:
    """Map an index file, after all of it was compared with its checksum and every offset and row was checked.

    Args:
        digest: the checksum it must have, in hexadecimal digits.

    Raises:
        IndexFileError: it is not an index of this version, or was changed. OSError as ``open`` does.
    """
    path = os.path.realpath(path)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        least = HEADER.size + PLACE.size * len(SECTIONS)
        if not stat.S_ISREG(status.st_mode) or status.st_size < least:
            _fail(path, "is no index")
        found = _verified(handle, path, status.st_size)
        if digest is not None and found != digest:
            _fail(path, "is another index than the one that was opened first")
        mapped = mmap.mmap(handle, status.st_size, access=mmap.ACCESS_READ)
    finally:
        os.close(handle)
    try:
        index = _parse(mapped, status.st_size, (path, found))
        _check(index)
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # JSON that is none, or says something else
        raise IndexFileError(f"{path}: {error}") from None
    if hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)  # what was read to check it need not stay in memory
    return index


def _fail(path: object, reason: str) -> None:
    raise IndexFileError(f"{path}: {reason}")


def _verified(handle: int, path: str, size: int) -> str:
    """The digest of the file, which is the one it states."""
    head = os.pread(handle, HEADER.size, 0)
    magic, version, sections, stated, digest = HEADER.unpack(head)
    if magic != MAGIC or version != VERSION or sections != len(SECTIONS):
        _fail(path, "is no index of this version")
    if stated != size:
        _fail(path, f"has {size} bytes, {stated} were written")
    computed = hashlib.sha256(head[:-32] + bytes(32))
    at = HEADER.size
    while block := os.pread(handle, BLOCK, at):
        computed.update(block)
        at += len(block)
    if computed.digest() != digest or at != size:
        _fail(path, "is damaged: its checksum is another")
    return str(computed.hexdigest())


def _parse(mapped: mmap.mmap, size: int, file: tuple[str, str]) -> Index:
    columns = {}
    end = HEADER.size + PLACE.size * len(SECTIONS)
    for number, (name, (dtype, width)) in enumerate(SECTIONS.items()):
        start, length = PLACE.unpack_from(mapped, HEADER.size + PLACE.size * number)
        kind = np.dtype(dtype)
        if start != end + -end % ALIGNMENT or start + length > size or length % (kind.itemsize * width):
            raise IndexFileError(f"the place of {name} is wrong")
        column = np.frombuffer(mapped, kind, length // kind.itemsize, start)
        columns[name] = column.reshape(-1, width) if width > 1 else column
        end = start + length
    if end != size:
        raise IndexFileError("there is more behind the last section")
    about = json.loads(columns.pop("about").tobytes().decode())
    names, ids, notes = about["names"], about["category_ids"], about["notes"]
    if not (isinstance(names, list) and isinstance(ids, list) and isinstance(notes, dict)):
        raise IndexFileError("names, category_ids and notes have the wrong type")
    return Index(tuple(names), tuple(ids), os.fsencode(about["prefix"]), **columns, notes=notes, file=file)


def _check(index: Index) -> None:
    """Every column has its length, every offset and row its range: nothing is looked up with what was not checked."""
    pictures, annotations = len(index.picture_id), len(index.annotation_id)
    lengths = {"path_starts": pictures + 1, "height": pictures, "width": pictures, "starts": pictures + 1}
    lengths |= dict.fromkeys(("order", "picture", "label", "box", "area", "crowd"), annotations)
    for name, length in lengths.items():
        if len(getattr(index, name)) != length:
            raise IndexFileError(f"{name} must have {length} rows, got {len(getattr(index, name))}")
    if not all(isinstance(name, str) for name in index.names):
        raise IndexFileError("names must be texts")
    if len(index.category_ids) != len(index.names) or not all(type(each) is int for each in index.category_ids):
        raise IndexFileError("category_ids must be as many integers as there are names")
    _check_starts("path_starts", index.path_starts, len(index.paths))
    _check_starts("starts", index.starts, annotations)
    if len(index.polygon_starts) or len(index.ring_starts) or len(index.point):
        _check_polygons(index, annotations)
    ranges = {"height": (1, MAX_SIDE), "width": (1, MAX_SIDE), "crowd": (0, 1), "label": (0, len(index.names) - 1)}
    ranges |= {"order": (0, annotations - 1), "picture": (0, pictures - 1)}
    for name, (low, high) in ranges.items():
        column = getattr(index, name)
        for first in range(0, len(column), BLOCK):
            block = column[first : first + BLOCK]
            if block.min() < low or block.max() > high:
                raise IndexFileError(f"{name} must lie in {low}..{high}")


def _check_polygons(index: Index, annotations: int) -> None:
    if len(index.polygon_starts) != annotations + 1:
        raise IndexFileError(f"polygon_starts must have {annotations + 1} rows, got {len(index.polygon_starts)}")
    if not len(index.ring_starts):
        raise IndexFileError("ring_starts must not be empty")
    _check_starts("polygon_starts", index.polygon_starts, len(index.ring_starts) - 1)
    _check_starts("ring_starts", index.ring_starts, len(index.point), least=3)
    for first in range(0, len(index.point), BLOCK):
        if not (np.abs(index.point[first : first + BLOCK]) <= MAX_COORDINATE).all():
            raise IndexFileError(f"point must lie in {-MAX_COORDINATE:g}..{MAX_COORDINATE:g}")


def _check_starts(name: str, starts: np.ndarray, end: int, least: int = 0) -> None:
    rises = all(
        (np.diff(starts[first : first + BLOCK + 1]) >= least).all()
        for first in range(0, max(len(starts) - 1, 1), BLOCK)
    )
    if starts[0] != 0 or starts[-1] != end or not rises:
        raise IndexFileError(f"{name} must rise from 0 to {end}{f' by {least} or more' if least else ''}")
