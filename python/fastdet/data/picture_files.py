# SPDX-License-Identifier: Apache-2.0
"""Which picture files a folder or a list names, links followed and held inside the data set."""

from __future__ import annotations

import os
from pathlib import Path

from fastdet.data.dataset import DataError, Problem, Report, read_text, real_inside, resolve_inside
from fastdet.image_files import PICTURE_SUFFIXES

LIST_LIMIT = 64 << 20  # bytes of a list file
MAX_DEPTH = 32  # folders in folders


def in_folder(folder: Path, root: Path, *, allow_outside: bool, report: Report) -> list[str]:
    """Pictures in ``folder`` and in folders in it, by path; links that lead out of ``root`` are reported."""
    found: list[str] = []
    waiting, seen = [(folder, 0)], set()
    while waiting:
        here, depth = waiting.pop()
        real = os.path.realpath(here)
        if real in seen or depth > MAX_DEPTH:  # a link to a folder above
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            raise DataError(f"{here}: cannot be read: {error.strerror}") from None
        begin = str(here / "x")[:-1]
        for entry in entries:
            picture = os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES
            if entry.is_symlink() and not (allow_outside or real_inside(root, Path(entry.path))):
                if picture or os.path.isdir(entry.path):
                    text = f"is a link that leads out of {root}; allow_outside=True accepts that"
                    report(Problem("error", "path-outside", Path(entry.path), "", text))
            elif picture:  # a folder of such a name is listed too: reading it says what is wrong
                found.append(begin + entry.name)
            elif os.path.isdir(entry.path):
                waiting.append((Path(entry.path), depth + 1))
    return sorted(found, key=lambda path: path.replace("/", "\0"))  # as paths are compared: folder by folder


def in_list(path: Path, root: Path, *, allow_outside: bool, report: Report) -> list[str]:
    """Pictures that a list names: a path a line, relative to the list or to ``root``; ``#`` begins a comment."""
    found = []
    for number, text in enumerate(read_text(path, LIST_LIMIT).splitlines(), start=1):
        name = text.strip()
        if not name or name.startswith("#"):
            continue
        target = _listed(path, root, name, allow_outside)
        if target is None:
            message = f"{name[:200]!r} leads out of {root}; allow_outside=True accepts that"
            report(Problem("error", "path-outside", path, str(number), message))
        else:
            found.append(str(target))
    if not found:
        report(Problem("error", "empty", path, "", "the list names no picture"))
    return found


def _listed(path: Path, root: Path, name: str, allow_outside: bool) -> Path | None:
    if "\x00" in name:
        return None
    tried = [Path(os.path.realpath(folder / name)) for folder in (path.parent, root)]
    if not allow_outside:
        if os.path.isabs(name) or name[1:2] == ":":
            return None
        real = Path(os.path.realpath(path.parent))
        own = [real.relative_to(root) / name] if real.is_relative_to(root) else []
        tried = [inside for each in (*own, name) if (inside := resolve_inside(root, str(each))) is not None]
    return next((each for each in tried if each.exists()), tried[0] if tried else None)
