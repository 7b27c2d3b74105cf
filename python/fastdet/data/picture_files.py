# SPDX-License-Identifier: Apache-2.0
"""Which picture files a folder or a list names, links followed and held inside the data set."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fastdet import _core
from fastdet.data.dataset import MAX_NAME, DataError, Problem, Report, read_text, real_inside, refusal, resolve_inside
from fastdet.data.file_names import FileNames, texts_of
from fastdet.image_files import PICTURE_SUFFIXES

LIST_LIMIT = 64 << 20  # bytes of a list file
MAX_DEPTH = 32  # folders in folders
SUFFIXES = sorted(map(os.fsencode, PICTURE_SUFFIXES))


def in_folder(folder: Path, root: Path, *, allow_outside: bool, report: Report) -> FileNames:
    """Pictures in ``folder`` and in folders in it, by path; links that lead out of ``root`` are reported."""
    prefix = str(folder / "x")[:-1]
    found: list[FileNames] = []
    waiting, seen = [(folder, 0)], set()
    while waiting:
        here, depth = waiting.pop()
        real = os.path.realpath(here)
        if real in seen or depth > MAX_DEPTH:  # a link to a folder above
            continue
        seen.add(real)
        try:
            begin = str(here / "x")[len(prefix) : -1]
            names, others = _core.dataset_list_folder(os.fsencode(here), os.fsencode(begin), SUFFIXES)
        except OSError as error:
            raise DataError(f"{here}: cannot be read: {error.strerror}") from None
        found.append(FileNames(prefix, *names))
        linked = []
        for name in map(os.fsdecode, others):
            entry = here / name
            picture = os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES
            if os.path.islink(entry) and not (allow_outside or real_inside(root, entry)):
                if picture or os.path.isdir(entry):
                    text = f"is a link that {refusal(root, '')}"
                    report(Problem("error", "path-outside", entry, "", text))
            elif picture:  # a folder of such a name is listed too: reading it says what is wrong
                linked.append(begin + name)
            elif os.path.isdir(entry):
                waiting.append((entry, depth + 1))
        found.append(FileNames(prefix, *texts_of(linked)))
    return FileNames.join(found).in_order()


def in_list(path: Path, root: Path, *, allow_outside: bool, report: Report) -> FileNames:
    """Pictures that a list names: a path a line, relative to the list or to ``root``; ``#`` begins a comment."""
    found = []
    there = _Existing(path, root, allow_outside)
    for number, text in enumerate(read_text(path, LIST_LIMIT).splitlines(), start=1):
        name = text.strip()
        if not name or name.startswith("#"):
            continue
        target = there.find(name) or _listed(path, root, name, allow_outside)
        if target is None:
            message = f"{name[:200]!r} {refusal(root, name)}"
            report(Problem("error", "path-outside", path, str(number), message))
        else:
            found.append(str(target))
    if not found:
        report(Problem("error", "empty", path, "", "the list names no picture"))
    return FileNames.of(found)


class _Existing:
    """Finds files that are there and are no links as ``_listed`` does, but follows the links to each folder once."""

    def __init__(self, path: Path, root: Path, allow_outside: bool) -> None:
        self._root, self._allow_outside = root, allow_outside
        self._bases = [path.parent, root]
        if not allow_outside:
            real = Path(os.path.realpath(path.parent))
            self._bases = [real, root] if real.is_relative_to(root) else [root]
            if not _is_plain(str(real)):
                self._bases = []
        self._real: dict[str, list[str]] = {}  # folder as it is named -> where it may lie, without links

    def find(self, name: str) -> str | None:
        """Where it lies; None where links, or what is not there, leave that to ``_listed``."""
        at = name.rfind("/") + 1
        folder, file = name[:at], name[at:]
        if file in ("", ".", "..") or not _is_plain(name) or (name[0] == "/" and not self._allow_outside):
            return None
        if folder not in self._real:
            self._real[folder] = self._folders(folder)
        for real in self._real[folder]:
            target = os.path.join(real, file)
            try:
                return None if stat.S_ISLNK(os.lstat(target).st_mode) else target
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError):
                return None
        return None

    def _folders(self, folder: str) -> list[str]:
        tried = [os.path.realpath(os.path.join(base, folder)) for base in self._bases]
        return [real for real in tried if self._allow_outside or Path(real).is_relative_to(self._root)]


def _is_plain(name: str) -> bool:
    return not ("\\" in name or ":" in name or "\0" in name or len(name) > MAX_NAME)


def _listed(path: Path, root: Path, name: str, allow_outside: bool) -> Path | None:
    if "\x00" in name or len(name) > MAX_NAME:
        return None
    tried = [Path(os.path.realpath(folder / name)) for folder in (path.parent, root)]
    if not allow_outside:
        if os.path.isabs(name) or name[1:2] == ":":
            return None
        real = Path(os.path.realpath(path.parent))
        own = [real.relative_to(root) / name] if real.is_relative_to(root) else []
        tried = [inside for each in (*own, name) if (inside := resolve_inside(root, str(each))) is not None]
    return next((each for each in tried if os.path.exists(each)), tried[0] if tried else None)
