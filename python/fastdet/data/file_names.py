# SPDX-License-Identifier: Apache-2.0
"""Paths of millions of files: letters and numbers in arrays instead of an object for each."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from fastdet import _core

__all__ = ["FileNames", "shared_folder", "texts_of"]

CHUNK = 4096  # paths that iteration makes at a time


def texts_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Names of files, none with a NUL, as the native readers take them: all letters, and where each name starts."""
    joined = np.frombuffer(os.fsencode("\0".join(texts)), np.uint8)
    ends = np.flatnonzero(joined == 0) - np.arange(max(len(texts) - 1, 0))
    return joined[joined != 0], np.concatenate([[0], ends, [np.count_nonzero(joined)]] if texts else [[0]])


def shared_folder(paths: Sequence[str]) -> str:
    """The folder that all ``paths`` begin with, its separator included."""
    if not paths:
        return ""
    first, last = min(paths), max(paths)
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first[:same].rfind("/") + 1]


class FileNames(Sequence[str]):
    """A sequence of paths. Each begins with ``prefix``; path i goes on with letters [starts[i], starts[i + 1])."""

    def __init__(self, prefix: str, letters: np.ndarray, starts: np.ndarray) -> None:
        """``prefix`` is empty or ends with a separator; ``letters`` uint8, ``starts`` int64 [N + 1], from 0."""
        self.prefix, self.letters, self.starts = prefix, letters, starts

    @classmethod
    def of(cls, paths: Sequence[str]) -> FileNames:
        """These paths."""
        if isinstance(paths, FileNames):
            return paths
        prefix = shared_folder(paths)
        return cls(prefix, *texts_of([path[len(prefix) :] for path in paths]))

    @classmethod
    def join(cls, parts: Sequence[FileNames]) -> FileNames:
        """All paths of the parts."""
        parts = [part for part in parts if len(part)]
        if len({part.prefix for part in parts}) > 1:
            return cls.of([path for part in parts for path in part])
        lengths = [np.diff(part.starts) for part in parts]
        starts = np.concatenate([[0], *lengths]).cumsum()
        letters = np.concatenate([np.zeros(0, np.uint8), *(part.letters for part in parts)])
        return cls(parts[0].prefix if parts else "", letters, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> FileNames: ...
    def __getitem__(self, key: int | slice) -> str | FileNames:
        """A path, or a part of them that begins and ends somewhere and leaves out nothing between."""
        if isinstance(key, slice):
            first, last, _ = key.indices(len(self))
            starts = self.starts[first : max(first, last) + 1]
            return FileNames(self.prefix, self.letters[starts[0] : starts[-1]], starts - starts[0])
        row = range(len(self))[key]
        return self.prefix + os.fsdecode(self.letters[self.starts[row] : self.starts[row + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), CHUNK):
            part = self[first : first + CHUNK]
            text = part.letters.tobytes()
            for start, end in itertools.pairwise(part.starts.tolist()):
                yield self.prefix + os.fsdecode(text[start:end])

    def keep(self, chosen: np.ndarray) -> FileNames:
        """Those for which ``chosen`` [N] bool holds."""
        if chosen.all():
            return self
        lengths = np.diff(self.starts)
        starts = np.concatenate([[0], lengths[chosen]]).cumsum()
        return FileNames(self.prefix, self.letters[np.repeat(chosen, lengths)], starts)

    def replaced(self, rows: np.ndarray, texts: Sequence[bytes]) -> FileNames:
        """The same with ``texts`` (without the prefix) in the place of ``rows``, which rise."""
        pieces, at = [], 0
        lengths = np.diff(self.starts)
        for row, text in zip(rows.tolist(), texts, strict=True):
            pieces += [self.letters[at : self.starts[row]], np.frombuffer(text, np.uint8)]
            lengths[row], at = len(text), self.starts[row + 1]
        if not pieces:
            return self
        letters = np.concatenate([*pieces, self.letters[at:]])
        return FileNames(self.prefix, letters, np.concatenate([[0], lengths.cumsum()]))

    def folders(self) -> tuple[np.ndarray, list[str]]:
        """([N] int32, texts): of each path the number of its folder, and the folders, separators included."""
        numbers, rows = _core.dataset_folders(self.letters, self.starts)
        paths = [self[row] for row in rows.tolist()]
        return numbers, [path[: path.rfind("/") + 1] for path in paths]

    def in_order(self) -> FileNames:
        """Sorted as paths are compared: folder by folder."""
        if not len(self):
            return self
        if not self._bytes_are_in_order():
            return FileNames.of(sorted(self, key=lambda path: path.replace("/", "\0")))
        return FileNames(self.prefix, *_core.dataset_sorted(self.letters, self.starts))

    def _bytes_are_in_order(self) -> bool:
        """Whether names compare as their bytes do: ASCII and valid UTF-8 do, names that are no text do not."""
        if self.letters.size == 0 or self.letters.max() < 0x80:
            return True
        begins = self.letters[self.starts[:-1][np.diff(self.starts) > 0]]
        if os.fsencode("\u00e9") != b"\xc3\xa9" or ((begins & 0xC0) == 0x80).any():
            return False
        try:
            self.letters.tobytes().decode()
        except UnicodeDecodeError:
            return False
        return True
