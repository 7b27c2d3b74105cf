# SPDX-License-Identifier: Apache-2.0
"""What is augmented: pictures with objects, canvases of tiles, and views of them that ``compose`` makes pixels of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastdet.data.augmentation.box_geometry import areas, clip_boxes, clip_polygon, pixel_matrix
from fastdet.ops import letterbox
from fastdet.ops.compose import Layer, Tile, compose

FILL = 114


@dataclass
class Sample:
    """A picture with its boxes.

    ``image`` uint8 RGB [H, W, 3] (or [3, H, W] where that was asked for), ``boxes`` [M, 4] float32 corners in its
    pixels, ``labels`` [M] int64, ``polygons`` [K, 2] float64 for each box, or None where not every box has one.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    polygons: tuple[np.ndarray, ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of an image [H, W, 3]."""
        return self.image.shape[0], self.image.shape[1]


class SampleSource(Protocol):
    """Where samples come from: whole pictures with boxes in their own pixels, as ``PictureCache`` gives them."""

    def __len__(self) -> int: ...

    def __call__(self, index: int) -> Sample: ...  # said above


class Objects(NamedTuple):
    """Boxes [M, 4] float64, labels [M] int64, polygons ([K, 2] for each box, or None where some have none)."""

    boxes: np.ndarray
    labels: np.ndarray
    polygons: tuple[np.ndarray, ...] | None

    def keep(self, chosen: np.ndarray) -> Objects:
        """Those for which ``chosen`` [M] (bool) holds, or of which it has the numbers."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        polygons = None if self.polygons is None else tuple(self.polygons[i] for i in numbers.tolist())
        return Objects(self.boxes[numbers], self.labels[numbers], polygons)

    def shifted(self, x: float, y: float) -> Objects:
        """All moved by (x, y)."""
        polygons = None if self.polygons is None else tuple(each + np.array([x, y]) for each in self.polygons)
        return Objects(self.boxes + np.array([x, y, x, y]), self.labels, polygons)

    def mirrored(self, width: float) -> Objects:
        """Left and right exchanged on a picture of ``width``."""
        polygons = self.polygons and tuple(each * (-1, 1) + (width, 0) for each in self.polygons)
        boxes = self.boxes.astype(np.float64)
        boxes[:, ::2] = width - boxes[:, 2::-2]
        return Objects(boxes, self.labels, polygons)

    def flipped(self, height: float) -> Objects:
        """Top and bottom exchanged on a picture of ``height``."""
        polygons = self.polygons and tuple(each * (1, -1) + (0, height) for each in self.polygons)
        boxes = self.boxes.astype(np.float64)
        boxes[:, 1::2] = height - boxes[:, 3::-2]
        return Objects(boxes, self.labels, polygons)


def objects_of(sample: Sample) -> Objects:
    """The objects of a sample, in its pixels."""
    return Objects(np.asarray(sample.boxes, np.float64), sample.labels, sample.polygons)


def join(parts: Sequence[Objects]) -> Objects:
    """All objects; with polygons where every part that has objects has them."""
    polygons: tuple[np.ndarray, ...] | None = ()
    for part in parts:
        if len(part.boxes):
            polygons = None if polygons is None or part.polygons is None else polygons + part.polygons
    boxes = np.concatenate([np.zeros((0, 4)), *(part.boxes for part in parts)])
    return Objects(boxes, np.concatenate([np.zeros(0, np.int64), *(part.labels for part in parts)]), polygons)


def resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample at ``size`` (height, width), bilinear, bit-equal to ``cv2.resize``."""
    height, width = sample.size
    if size == (height, width):
        return sample
    factor = np.array([size[1] / width, size[0] / height])
    batch, _ = letterbox([sample.image], size, keep_ratio=False, scale=False, dtype="uint8", layout="nhwc")
    polygons = sample.polygons and tuple(each * factor for each in sample.polygons)
    return Sample(batch[0], sample.boxes * np.tile(factor, 2), sample.labels, polygons)


@dataclass
class Canvas:
    """Tiles on a canvas of ``size`` (height, width), the objects on it, and for each object the number of its tile."""

    size: tuple[int, int]
    tiles: list[Tile]
    objects: Objects
    owners: np.ndarray  # [M] int64


def lay(size: tuple[int, int], placed: Sequence[tuple[Sample, int, int]]) -> Canvas:
    """Canvas of ``size`` (height, width) with samples at (left, top); objects are cut at it, empty ones dropped."""
    tiles = [Tile(sample.image, left, top) for sample, left, top in placed]
    parts = [sample for sample, _, _ in placed]
    owners = np.arange(len(parts)).repeat([len(part.boxes) for part in parts])
    shifts = np.array([(left, top, left, top) for _, left, top in placed], np.float64)
    boxes = np.concatenate([part.boxes for part in parts], dtype=np.float64)
    labels = np.concatenate([part.labels for part in parts], dtype=np.int64)
    polygons: tuple[np.ndarray, ...] | None = None
    if all(part.polygons is not None for part in parts if len(part.boxes)):
        shapes = (each + shifts[number, :2] for number, part in enumerate(parts) for each in part.polygons or ())
        polygons = tuple(clip_polygon(each, size) for each in shapes)
    boxes = clip_boxes(boxes + shifts[owners], size)
    kept = np.flatnonzero(areas(boxes) > 0)
    return Canvas(size, tiles, Objects(boxes, labels, polygons).keep(kept), owners[kept])


@dataclass
class View:
    """Layers that make one picture of ``size`` (height, width), and the objects on it."""

    size: tuple[int, int]
    layers: list[Layer]
    objects: Objects
    blend: float = 1.0
    flips: tuple[bool, bool] = (False, False)  # horizontal, vertical: the last step
    hsv: Any = field(default=None, repr=False)  # uint8 [3, 256]


def look(canvas: Canvas, matrix: np.ndarray, size: tuple[int, int], objects: Objects) -> View:
    """A canvas through ``matrix`` (continuous coordinates), with the ``objects`` as they are in the view."""
    return View(size, [Layer(canvas.tiles, canvas.size, pixel_matrix(matrix))], objects)


def flat(tiles: Sequence[Tile], size: tuple[int, int], objects: Objects) -> View:
    """Tiles that need no map any more."""
    return View(size, [Layer(list(tiles), size, np.eye(3))], objects)


def pixels(view: View, *, layout: str = "nhwc", out: Any = None) -> np.ndarray:
    """The picture of a view, uint8 [H, W, 3] or (layout "nchw") [3, H, W]; written to ``out`` where that is given."""
    picture: np.ndarray = compose(
        view.layers,
        view.size,
        blend=view.blend,
        fill=FILL,
        hsv=view.hsv,
        flip_horizontal=view.flips[0],
        flip_vertical=view.flips[1],
        layout=layout,
        out=out,
    )
    return picture


def flip(view: View, horizontal: bool, vertical: bool) -> View:
    """The view turned over, once for all: flips are the last step."""
    objects = view.objects
    if horizontal:
        objects = objects.mirrored(view.size[1])
    if vertical:
        objects = objects.flipped(view.size[0])
    return View(view.size, view.layers, objects, view.blend, (horizontal, vertical), view.hsv)
