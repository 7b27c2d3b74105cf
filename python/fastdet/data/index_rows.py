# SPDX-License-Identifier: Apache-2.0
"""Pictures and annotations as sequences over an ``Index``: a row becomes an object when it is asked for."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np

from fastdet.data.file_names import FileNames
from fastdet.data.index import Index, make_index

__all__ = ["Annotation", "Annotations", "IndexBuilder", "Picture", "Pictures"]

CHUNK = 4096  # rows that iteration takes from the columns at a time


@dataclass(frozen=True)
class Annotation:
    """One object as published: nothing clipped, crowds included."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # x, y, width, height in pixels
    area: float
    iscrowd: int


@dataclass(frozen=True)
class Picture:
    """One picture with the boxes it is trained on: crowds removed, clipped to the picture, degenerate ones dropped.

    ``polygons`` has for each box a tuple of polygons [n, 2] float32 in pixels, as published: none, one, or one for
    each visible part. It is None where polygons were not read.
    """

    id: int
    path: Path
    height: int
    width: int
    boxes: np.ndarray  # [M, 4] float32, x1 y1 x2 y2 in pixels
    labels: np.ndarray  # [M] int64, contiguous
    polygons: tuple[tuple[np.ndarray, ...], ...] | None = None


Row = TypeVar("Row")
Own = TypeVar("Own", bound="_Rows")  # type: ignore[type-arg]


class _Rows(Sequence[Row], Generic[Row]):
    """Rows of an index, all of a kind or a choice of them."""

    def __init__(self, index: Index, rows: range | np.ndarray) -> None:
        self.columns = index
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self: Own, key: slice) -> Own: ...
    def __getitem__(self: Own, key: int | slice) -> Own | Row:
        if isinstance(key, slice):
            return type(self)(self.columns, self.rows[key])
        return self._make(np.asarray(self.rows[key]).reshape(1))[0]  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Row]:
        for first in range(0, len(self), CHUNK):
            yield from self._make(np.asarray(self.rows[first : first + CHUNK], np.int64))

    def where(self: Own, keep: np.ndarray) -> Own:
        """Those for which ``keep`` [len] bool holds."""
        return type(self)(self.columns, np.asarray(self.rows, np.int64)[keep])

    def _make(self, rows: np.ndarray) -> list[Row]:
        raise NotImplementedError(f"{type(self).__name__}: what a row becomes is the kind's")


class Pictures(_Rows[Picture]):
    """The pictures of an index, in the order of the data set; slices are such sequences too."""

    def __init__(self, index: Index, rows: range | np.ndarray | None = None) -> None:
        super().__init__(index, range(len(index.picture_id)) if rows is None else rows)

    @property
    def ids(self) -> np.ndarray:
        """[len] int64."""
        return self.columns.picture_id[np.asarray(self.rows, np.int64)]

    def _make(self, rows: np.ndarray) -> list[Picture]:
        return [self._picture(row) for row in rows.tolist()]

    def _picture(self, row: int) -> Picture:
        index = self.columns
        height, width = int(index.height[row]), int(index.width[row])
        own = index.order[index.starts[row] : index.starts[row + 1]]
        own = own[index.crowd[own] == 0]
        corners = index.box[own]
        corners[:, 2:] += corners[:, :2]
        corners[:, 0::2] = corners[:, 0::2].clip(0, width)
        corners[:, 1::2] = corners[:, 1::2].clip(0, height)
        solid = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
        boxes, labels = corners[solid].astype(np.float32), index.label[own][solid].astype(np.int64)
        polygons = tuple(map(index.rings, own[solid].tolist())) if index.has_polygons else None
        return Picture(int(index.picture_id[row]), index.path(row), height, width, boxes, labels, polygons)


class Annotations(_Rows[Annotation]):
    """The annotations of an index, as published and in that order; slices are such sequences too."""

    def __init__(self, index: Index, rows: range | np.ndarray | None = None) -> None:
        super().__init__(index, range(len(index.annotation_id)) if rows is None else rows)

    def _make(self, rows: np.ndarray) -> list[Annotation]:
        index, categories = self.columns, self.columns.category_ids
        columns = (
            index.annotation_id[rows].tolist(),
            index.picture_id[index.picture[rows]].tolist(),
            index.label[rows].tolist(),
            index.box[rows].tolist(),
            index.area[rows].tolist(),
            index.crowd[rows].tolist(),
        )
        return [
            Annotation(identity, picture, categories[label], tuple(box), area, crowd)
            for identity, picture, label, box, area, crowd in zip(*columns, strict=True)
        ]


class IndexBuilder:
    """Collects pictures and annotations one by one; what readers in Python fill."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._pictures = {name: array("q") for name in ("picture_id", "height", "width")}
        self._rows = {name: array("q") for name in ("annotation_id", "picture", "label", "crowd")}
        self._numbers = {name: array("d") for name in ("box", "area")}
        self._points, self._ring_starts, self._polygon_starts = array("f"), array("q", [0]), array("q", [0])

    def picture(self, identity: int, path: str | os.PathLike[str], size: tuple[int, int]) -> int:
        """Add a picture of (height, width); returns its row."""
        self._paths.append(os.fspath(path))
        for name, value in zip(("picture_id", "height", "width"), (identity, *size), strict=True):
            self._pictures[name].append(value)
        return len(self._paths) - 1

    def annotation(
        self,
        identity: int,
        picture: int,
        label: int,
        box: tuple[float, ...],
        area: float,
        crowd: int,
        polygons: Sequence[Sequence[float]] = (),
    ) -> None:
        """Add an object of the picture in row ``picture``, which may come later; ``box`` x, y, width, height.

        Args:
            polygons: x1, y1, x2, y2, ... of each.
        """
        values = {"annotation_id": identity, "picture": picture, "label": label, "crowd": crowd}
        for name, value in values.items():
            self._rows[name].append(value)
        self._numbers["box"].extend(box)
        self._numbers["area"].append(area)
        for polygon in polygons:
            self._points.extend(polygon)
            self._ring_starts.append(len(self._points) // 2)
        self._polygon_starts.append(len(self._ring_starts) - 1)

    @property
    def annotations(self) -> int:
        """How many were added."""
        return len(self._rows["picture"])

    def index(self, names: tuple[str, ...], category_ids: tuple[int, ...]) -> Index:
        """What was collected."""
        paths = FileNames.of(self._paths)
        columns = {**self._pictures, **self._rows, **self._numbers}
        if self._points:
            columns |= {"point": self._points, "ring_starts": self._ring_starts, "polygon_starts": self._polygon_starts}
        return make_index(
            names,
            category_ids,
            prefix=os.fsencode(paths.prefix),
            notes=None,
            paths=paths.letters,
            path_starts=paths.starts,
            **{name: np.array(column) for name, column in columns.items()},
        )
