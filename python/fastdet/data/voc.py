# SPDX-License-Identifier: Apache-2.0
"""Annotations of Pascal VOC: an XML file a picture. Document types and entities are refused where they begin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

from fastdet.data.dataset import (
    MAX_BOXES_PER_PICTURE,
    MAX_PICTURE_SIDE,
    DataError,
    Problem,
    Report,
    box_problem,
    problem_of,
    read_file,
    strict,
)
from fastdet.data.index import Index
from fastdet.data.index_rows import IndexBuilder
from fastdet.image_files import ImageError, read_size

XML_LIMIT = 16 << 20  # bytes
MAX_DEPTH = 16
MAX_TEXT = 4096  # letters of one value
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """One object as written: corners in pixels that count from 1, the last one inside the box."""

    line: int
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocFile:
    """What one XML file says; ``size`` is (height, width), None where the file does not tell it."""

    filename: str | None
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_voc_file(path: str | Path, *, report: Report = strict) -> VocFile:
    """Read one annotation file; parts of objects (head, hand, foot) are left out.

    Raises:
        DataError: no XML, a document type or an entity in it, or (by default) a wrong object; names file and line.
    """
    path = Path(path)
    document = _Document(path)
    document.parse(read_file(path, XML_LIMIT))
    objects = []
    for line, values in document.objects:
        try:
            objects.append(_object(line, values))
        except _Fault as fault:
            report(Problem("error", fault.args[0], path, str(line), fault.args[1]))
    size = _size(document)
    return VocFile(document.values.get(("annotation", "filename")), size, tuple(objects))


class _Fault(Exception):
    """An object that is left out: (kind, message)."""


class _Document:
    """Collects ``annotation/filename``, ``annotation/size/*`` and the direct values of each ``annotation/object``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[tuple[str, ...], str] = {}
        self.objects: list[tuple[int, dict[str, str]]] = []
        self.stack: list[str] = []
        self.text: list[str] = []
        self.letters = 0

    def parse(self, data: bytes) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._refuse("a document type (<!DOCTYPE>)")
        self.parser.EntityDeclHandler = self._refuse("an entity (<!ENTITY>)")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._letters
        try:
            self.parser.Parse(data, True)
        except expat.ExpatError as error:
            raise DataError(f"{self.path}:{error.lineno}: is not valid XML: {error}") from None
        except DataError:
            raise
        except (LookupError, ValueError) as error:  # an encoding that the parser does not know
            raise DataError(f"{self.path}: cannot be read in the encoding that it names: {error}; use UTF-8") from None

    def _refuse(self, what: str) -> Callable[..., None]:
        def handler(*_: Any) -> None:
            self._fail(f"has {what}, which is refused")

        return handler

    def _fail(self, reason: str) -> None:
        raise DataError(f"{self.path}:{self.parser.CurrentLineNumber}: {reason}")

    def _start(self, name: str, _: Any) -> None:
        self.stack.append(name)
        self.text, self.letters = [], 0
        if len(self.stack) > MAX_DEPTH:
            self._fail(f"is nested deeper than {MAX_DEPTH}")
        if len(self.stack) == 1 and name != "annotation":
            self._fail(f"must hold <annotation>, got <{name:.40}>")
        if self.stack == ["annotation", "object"]:
            self.objects.append((self.parser.CurrentLineNumber, {}))
            if len(self.objects) > MAX_BOXES_PER_PICTURE:
                self._fail(f"has more than {MAX_BOXES_PER_PICTURE} objects")

    def _letters(self, text: str) -> None:
        self.text.append(text)
        self.letters += len(text)
        if self.letters > MAX_TEXT:
            self._fail(f"holds a value of more than {MAX_TEXT} letters")

    def _end(self, _: str) -> None:
        value = "".join(self.text).strip()
        self.text, self.letters = [], 0
        if self.stack[:2] == ["annotation", "object"]:
            inner = self.stack[2:]
            if len(inner) == 1 or (len(inner) == 2 and inner[0] == "bndbox"):
                self.objects[-1][1].setdefault(inner[-1], value)
        elif len(self.stack) in (2, 3):
            self.values.setdefault(tuple(self.stack), value)
        self.stack.pop()


def _size(document: _Document) -> tuple[int, int] | None:
    try:
        height, width = (int(document.values.get(("annotation", "size", key), "0")) for key in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if 0 < height <= MAX_PICTURE_SIDE and 0 < width <= MAX_PICTURE_SIDE else None


def _object(line: int, values: dict[str, str]) -> VocObject:
    name = values.get("name", "")
    if not name:
        raise _Fault("class-unknown", "the object has no <name>")
    missing = [side for side in SIDES if side not in values]
    if missing:
        raise _Fault("label-columns", f"the object has no <{missing[0]}>")
    try:
        x1, y1, x2, y2 = (float(values[side]) for side in SIDES)
    except ValueError:
        written = " ".join(f"{values[side]:.20}" for side in SIDES)
        raise _Fault("label-number", f"the box must be four numbers, got {written!r}") from None
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise _Fault("box-not-finite", f"the box must be finite, got {x1:g} {y1:g} {x2:g} {y2:g}")
    if x2 < x1 or y2 < y1:
        raise _Fault("box-inverted", f"the box is inverted, got {x1:g} {y1:g} {x2:g} {y2:g}")
    return VocObject(line, name, (x1, y1, x2, y2), values.get("difficult", "0") == "1")


def voc_index(pairs: Sequence[tuple[Path, Path | None]], names: tuple[str, ...], report: Report) -> Index:
    """Sizes and objects of ``pairs`` (picture file, annotation file or None for background), classes by ``names``.

    A box [xmin, xmax] of pixels counted from 1 becomes [xmin - 1, xmax]. Objects marked difficult become crowds: not
    trained on, and finding them is neither right nor wrong.
    """
    label_of = {name: label for label, name in enumerate(names)}
    builder = IndexBuilder()
    pictures = 0
    for file, xml in pairs:
        try:
            said = VocFile(None, None, ()) if xml is None else read_voc_file(xml, report=report)
            size = said.size or read_size(file)
        except DataError as error:
            report(problem_of(error, Path(xml or file), "label-file"))
            continue
        except ImageError as error:
            report(Problem("error", "picture", file, "", f"cannot be decoded: {error.reason}"))
            continue
        for each in said.objects:
            if each.name not in label_of:
                message = f"the class {each.name:.60} is not one of {', '.join(names):.200}"
                report(Problem("error", "class-unknown", Path(xml or file), str(each.line), message))
                continue
            x1, y1, x2, y2 = each.corners
            box = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)
            # one pixel in VOC's counting; a width of zero in everyone else's
            written = (x1 - 1, y1 - 1, x2 - x1, y2 - y1)
            bad = box_problem(written, size)
            if bad is not None:
                report(Problem("warning", bad[0], Path(xml or file), str(each.line), bad[1]))
            crowd = int(each.difficult)
            builder.annotation(builder.annotations, pictures, label_of[each.name], box, box[2] * box[3], crowd)
        builder.picture(pictures, file, size)
        pictures += 1
    return builder.index(names, tuple(range(len(names))))
