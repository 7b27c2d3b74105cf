# SPDX-License-Identifier: Apache-2.0
"""fastdet's own augmentation, which the embedded detector was trained with: every step of the geometry is one matrix.

Pictures are warped once, from the full resolution straight to the network input, so nothing is blurred twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fastdet.data.augmentation.blending import blended
from fastdet.data.augmentation.box_geometry import areas, clip_boxes, warp_boxes
from fastdet.data.augmentation.colour_tables import hsv_tables
from fastdet.data.augmentation.random_stream import Stream
from fastdet.data.augmentation.scene import (
    Objects,
    Sample,
    SampleSource,
    Tile,
    View,
    flat,
    flip,
    join,
    lay,
    look,
    objects_of,
    pixels,
    resized,
)


@dataclass(frozen=True)
class Augmentation:
    """Ranges and probabilities; the defaults suit pictures with a clear up and down, such as photographs."""

    mosaic: float = field(default=0.5, metadata={"help": "probability of a mosaic of four pictures"})
    mixup: float = field(default=0.0, metadata={"help": "probability of blending in a second picture"})
    scale: tuple[float, float] = field(default=(0.6, 1.4), metadata={"help": "range of the random scale"})
    mosaic_scale: tuple[float, float] = field(default=(0.5, 1.1), metadata={"help": "range of a mosaic tile's scale"})
    stretch: float = field(default=0.1, metadata={"help": "random change of the aspect ratio, as a fraction"})
    translate: float = field(default=0.1, metadata={"help": "random shift, as a fraction of the input size"})
    rotate: float = field(default=0.0, metadata={"help": "random rotation, degrees to either side"})
    shear: float = field(default=0.0, metadata={"help": "random shear, degrees to either side"})
    flip_horizontal: float = field(default=0.5, metadata={"help": "probability of a left-right flip"})
    flip_vertical: float = field(default=0.0, metadata={"help": "probability of an up-down flip"})
    rotate_quarter: float = field(default=0.0, metadata={"help": "probability of a turn by 90 degrees"})
    hue: float = field(default=0.015, metadata={"help": "random hue shift, fraction of the colour circle"})
    saturation: float = field(default=0.5, metadata={"help": "random change of saturation, as a fraction"})
    brightness: float = field(default=0.3, metadata={"help": "random change of brightness, as a fraction"})
    min_visible: float = field(default=0.25, metadata={"help": "boxes with less of their area in view are dropped"})
    min_side: float = field(default=2.0, metadata={"help": "boxes with a shorter side in view are dropped, pixels"})

    def __post_init__(self) -> None:
        chances = ("mosaic", "mixup", "flip_horizontal", "flip_vertical", "rotate_quarter", "min_visible")
        for name in (*chances, "hue", "saturation", "brightness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{type(self).__name__}: {name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("scale", "mosaic_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{type(self).__name__}: {name} must be 0 < low <= high, got {(low, high)}")
        for name, high in (("stretch", 4), ("translate", 1), ("rotate", 180), ("shear", 45), ("min_side", math.inf)):
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{type(self).__name__}: {name} must be in [0, {high}], got {getattr(self, name)}")

    @property
    def largest_zoom(self) -> float:
        """The largest size at which a whole picture may be seen, in sizes of the input."""
        return max(1.0, self.scale[1], self.mosaic_scale[1]) * math.sqrt(1 + self.stretch)


def own_view(
    index: int, pictures: SampleSource, stream: Stream, options: Augmentation, size: tuple[int, int], *, calm: bool
) -> View:
    """Sample ``index`` of ``pictures`` at ``size`` (height, width), random only through ``stream``.

    Args:
        calm: the last epochs: the geometry of inference with flips and colour only.
    """
    if calm:
        sample = resized(pictures(index), size)
        canvas = lay(size, [(sample, 0, 0)])
        view = flat(canvas.tiles, size, visible(canvas.objects, size, options))
        horizontal, vertical = stream.chance(options.flip_horizontal), stream.chance(options.flip_vertical)
        view = flip(view, horizontal, vertical)
    else:
        view = _busy(index, pictures, stream, options, size)
        if stream.chance(options.mixup):
            other = _busy(stream.integer(len(pictures)), pictures, stream, options, size)
            view = blended(view, other, stream.beta(8, 8))
    view.hsv = hsv_tables(stream, (options.hue, options.saturation, options.brightness), additive_hue=True)
    return view


def random_matrix(
    stream: Stream, options: Augmentation, source: tuple[int, int], size: tuple[int, int], scale: tuple[float, float]
) -> np.ndarray:
    """Draw flips, quarter turn, scale, aspect, rotation, shear and shift as one matrix; always ten draws.

    Flips and the quarter turn act on the source picture, before the stretch to ``size``, so that round things keep the
    proportions they have at inference.

    Args:
        source: (height, width) of the picture. size: (height, width) of the network input.
        scale: range from which the scale is drawn, logarithmically uniform.
    """
    flip_x, flip_y = stream.chance(options.flip_horizontal), stream.chance(options.flip_vertical)
    turn = stream.chance(options.rotate_quarter)
    zoom = math.exp(stream.uniform(*np.log(scale).tolist()))
    aspect = math.exp(0.5 * stream.around_zero(1.0) * math.log1p(options.stretch))
    angle = math.radians(stream.around_zero(options.rotate))
    shear_x = math.tan(math.radians(stream.around_zero(options.shear)))
    shear_y = math.tan(math.radians(stream.around_zero(options.shear)))
    shift_x, shift_y = stream.around_zero(options.translate), stream.around_zero(options.translate)
    dihedral = np.diag([-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0])
    if turn:
        dihedral = np.array([[0.0, -1.0], [1.0, 0.0]]) @ dihedral
    to_input = np.diag([size[1] / source[1], size[0] / source[0]])
    free = np.diag([zoom * aspect, zoom / aspect])
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = np.array([[1.0, shear_x], [shear_y, 1.0]])
    linear = shear @ rotation @ free @ to_input @ dihedral
    target = np.array([size[1] * (0.5 + shift_x), size[0] * (0.5 + shift_y)])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = target - linear @ np.array([source[1] / 2, source[0] / 2])
    return matrix


def visible(objects: Objects, size: tuple[int, int], options: Augmentation) -> Objects:
    """The objects cut at ``size`` (height, width), without those of which too little is left."""
    clipped = clip_boxes(objects.boxes, size)
    sides = clipped[:, 2:] - clipped[:, :2]
    keep = sides.min(axis=1, initial=np.inf) >= options.min_side
    keep &= areas(clipped) >= options.min_visible * areas(objects.boxes)
    return objects._replace(boxes=clipped).keep(keep)


def place(sample: Sample, matrix: np.ndarray, size: tuple[int, int], options: Augmentation) -> View:
    """A whole picture through ``matrix`` at ``size`` (height, width), with the boxes that remain visible."""
    objects = Objects(warp_boxes(objects_of(sample).boxes, matrix), sample.labels, None)
    canvas = lay(sample.size, [(sample, 0, 0)])
    return look(canvas, matrix, size, visible(objects, size, options))


def mosaic(samples: list[Sample], stream: Stream, options: Augmentation, size: tuple[int, int]) -> View:
    """Four pictures around a random centre, each warped by its own matrix and cut to its quadrant.

    A quadrant shows the part of its picture around a random point, at ``mosaic_scale`` times the scale of inference.
    """
    height, width = size
    cut_y = round(height * stream.uniform(0.3, 0.7))
    cut_x = round(width * stream.uniform(0.3, 0.7))
    quadrants = (
        (0, 0, cut_x, cut_y),
        (cut_x, 0, width, cut_y),
        (0, cut_y, cut_x, height),
        (cut_x, cut_y, width, height),
    )
    tiles, parts = [], []
    for sample, (left, top, right, bottom) in zip(samples, quadrants, strict=True):
        tile = (bottom - top, right - left)
        source = sample.size
        matrix = random_matrix(stream, options, source, size, options.mosaic_scale)
        focus_x, focus_y = source[1] * stream.uniform(0.25, 0.75), source[0] * stream.uniform(0.25, 0.75)
        focus = matrix @ np.array([focus_x, focus_y, 1.0])
        matrix[0, 2] += tile[1] / 2 - focus[0]
        matrix[1, 2] += tile[0] / 2 - focus[1]
        part = place(sample, matrix, tile, options)
        tiles.append(Tile(pixels(part), left, top))
        parts.append(part.objects.shifted(left, top))
    return flat(tiles, size, join(parts))


def _busy(index: int, pictures: SampleSource, stream: Stream, options: Augmentation, size: tuple[int, int]) -> View:
    if stream.chance(options.mosaic):
        others = stream.integers(len(pictures), 3)
        return mosaic([pictures(each) for each in (index, *others)], stream, options, size)
    sample = pictures(index)
    return place(sample, random_matrix(stream, options, sample.size, size, options.scale), size, options)
