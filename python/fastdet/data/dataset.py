# SPDX-License-Identifier: Apache-2.0
"""What every format is read into, and how what is wrong with its files is said."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdet.data.index import Index
from fastdet.data.index_rows import Annotation, Annotations, Picture, Pictures

__all__ = [
    "Annotation",
    "Annotations",
    "DataError",
    "Dataset",
    "Picture",
    "Pictures",
    "Problem",
    "Report",
    "resolve_inside",
    "strict",
]

MAX_BOXES_PER_PICTURE = 100_000
MAX_PICTURE_SIDE = 65_535
MAX_NAME = 4095  # letters of a path


class DataError(ValueError):
    """A data set file that cannot be used; the message starts with the file and says what is wrong and where."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set.

    ``level``: "error" (readers refuse it), "warning" (it is read, and harms training), "note" (it may be meant).
    ``kind``: a word for counting, "box-inverted". ``where``: a line number, or a place such as "annotations[3]".
    """

    level: str
    kind: str
    path: Path
    where: str
    message: str

    def __str__(self) -> str:
        place = f":{self.where}" if self.where.isdigit() else f": {self.where}" if self.where else ""
        return f"{self.path}{place}: {self.message}"


# Readers give each problem to such a function. When it returns, the faulty entry is left out and reading goes on.
Report = Callable[[Problem], None]


def strict(problem: Problem) -> None:
    """The ``Report`` of training and evaluation: the first error ends the reading. Raises DataError."""
    if problem.level == "error":
        raise DataError(str(problem))


@dataclass(frozen=True)
class Dataset:
    """One split of a data set. ``pictures`` is for training, ``annotations`` (as published) for evaluation.

    Both are sequences over one ``Index``: a ``Picture`` or ``Annotation`` is made when it is asked for.
    """

    path: Path
    pictures: Pictures
    annotations: Annotations
    names: tuple[str, ...]
    category_ids: tuple[int, ...]  # label -> category id

    def __len__(self) -> int:
        return len(self.pictures)

    @classmethod
    def of(cls, path: Path, index: Index) -> Dataset:
        """Everything in ``index``; ``path`` is what the data set is called in messages."""
        return cls(path, Pictures(index), Annotations(index), index.names, index.category_ids)


def problem_of(error: DataError, path: Path, kind: str) -> Problem:
    """The Problem that ``error`` tells of the file ``path``, which is left out."""
    place, _, message = str(error).removeprefix(str(path)).partition(": ")
    return Problem("error", kind, path, place.removeprefix(":"), message)


def box_problem(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[str, str] | None:
    """(kind, message) for a finite box x, y, width, height that a picture of (height, width) cannot hold whole.

    A box may reach a pixel, or 1 % of the side if that is more, beyond the border: rounding does that.
    """
    x, y, wide, high = box
    height, width = size
    slack_x, slack_y = max(1.0, 0.01 * width), max(1.0, 0.01 * height)
    text = f"x {x:g}, y {y:g}, {wide:g} x {high:g} on a picture of {width} x {height}"
    if wide <= 0 or high <= 0:
        return "box-zero", f"the box has no area: {text}"
    if x < -slack_x or y < -slack_y or x + wide > width + slack_x or y + high > height + slack_y:
        return "box-outside", f"the box reaches out of the picture: {text}"
    return None


def resolve_inside(root: Path, name: str) -> Path | None:
    """Path of ``name`` below ``root`` after following links, or None when it is absolute or leads outside."""
    drive = len(name) >= 2 and name[1] == ":"
    if not name or "\x00" in name or "\\" in name or drive or name.startswith("/") or len(name) > MAX_NAME:
        return None
    real_root = root.resolve()
    try:
        target = (real_root / name).resolve()
    except (OSError, RuntimeError):  # a loop of links
        return None
    return target if target != real_root and target.is_relative_to(real_root) else None


def refusal(root: Path, name: str) -> str:
    """Why ``resolve_inside`` refuses ``name``, for messages that begin with it."""
    if len(name) > MAX_NAME:
        return f"has more than {MAX_NAME} letters"
    if "\x00" in name:
        return "has a zero byte"
    accepted = "allow_outside=True (--allow-outside) accepts that"
    if os.path.isabs(name) or name[1:2] == ":":
        return f"is an absolute path; {accepted}"
    if "\\" in name:
        return "has backslashes; folders are separated by '/'"
    return f"leads out of {root}; {accepted}"


def distinct(names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """``names`` for a table whose rows they call: those that come again, or are ``taken``, get a number."""
    seen, found = set(taken), []
    for name in names:
        rows = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
        found.append(next(each for each in rows if each not in seen))
        seen.add(found[-1])
    return tuple(found)


def real_inside(root: Path, path: Path) -> bool:
    """Whether ``path``, links followed, lies in ``root`` (which has none) or is it."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(root)
    except (OSError, ValueError):
        return False


def read_text(path: Path, limit: int) -> str:
    """A text file of at most ``limit`` bytes, without its byte order mark. Raises DataError."""
    try:
        return read_file(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def read_file(path: Path, limit: int) -> bytes:
    """A regular file of at most ``limit`` bytes. Raises DataError."""
    try:
        if not os.path.isfile(path):
            reason = "is not a regular file" if os.path.exists(path) else "cannot be read: no such file"
            raise DataError(f"{path}: {reason}")
        if path.stat().st_size > limit:
            raise DataError(f"{path}: is larger than {limit >> 10} KB")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
