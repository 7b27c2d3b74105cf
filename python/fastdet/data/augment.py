# SPDX-License-Identifier: Apache-2.0
"""Augmentation of pictures and their boxes, every geometric step as one matrix.

A matrix is 3 x 3 float64 and maps source to output in continuous pixel coordinates (pixel i covers [i, i + 1)).
Pictures are warped once, from the full resolution straight to the network input, so nothing is blurred twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

FILL = 114


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


@dataclass
class Sample:
    """A picture with its boxes: ``image`` RGB, ``boxes`` [M, 4] float32 corners in its pixels, ``labels`` [M] int64."""

    image: Image.Image
    boxes: np.ndarray
    labels: np.ndarray


def stretch_matrix(source: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Matrix that stretches a picture of ``source`` (height, width) to ``size`` (height, width)."""
    return np.diag([size[1] / source[1], size[0] / source[0], 1.0])


def random_matrix(
    rng: np.random.Generator,
    options: Augmentation,
    source: tuple[int, int],
    size: tuple[int, int],
    scale: tuple[float, float],
) -> np.ndarray:
    """Draw flips, quarter turn, scale, aspect, rotation, shear and shift as one matrix.

    Flips and the quarter turn act on the source picture, before the stretch to ``size``, so that round things keep the
    proportions they have at inference. The number of draws does not depend on the options.

    Args:
        source: (height, width) of the picture. size: (height, width) of the network input.
        scale: range from which the scale is drawn, logarithmically uniform.
    """
    flip_x, flip_y, turn = rng.random(3) < (options.flip_horizontal, options.flip_vertical, options.rotate_quarter)
    low, high = np.log(scale)
    zoom = math.exp(rng.uniform(low, high))
    aspect = math.exp(0.5 * rng.uniform(-1, 1) * math.log1p(options.stretch))
    angle = math.radians(options.rotate) * rng.uniform(-1, 1)
    shear_x, shear_y = np.tan(math.radians(options.shear) * rng.uniform(-1, 1, 2))
    shift_x, shift_y = options.translate * rng.uniform(-1, 1, 2)
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


def calm_matrix(
    rng: np.random.Generator, options: Augmentation, source: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Matrix of the last epochs: the stretch of inference, with the flips only."""
    flip_x, flip_y = rng.random(2) < (options.flip_horizontal, options.flip_vertical)
    matrix = stretch_matrix(source, size)
    if flip_x:
        matrix = np.array([[-1.0, 0.0, size[1]], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ matrix
    if flip_y:
        matrix = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, size[0]], [0.0, 0.0, 1.0]]) @ matrix
    return matrix


def warp(image: Image.Image, matrix: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Picture seen through ``matrix``, of ``size`` (height, width); bilinear, grey 114 where nothing lands."""
    inverse = np.linalg.inv(matrix)
    return image.transform(
        (size[1], size[0]),
        Image.Transform.AFFINE,
        tuple(inverse[:2].ravel()),
        resample=Image.Resampling.BILINEAR,
        fillcolor=(FILL,) * 3,
    )


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Smallest upright boxes around the transformed corners of ``boxes`` [M, 4]; not clipped; float64."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].astype(np.float64).reshape(-1, 4, 2)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)


def visible(boxes: np.ndarray, size: tuple[int, int], options: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Clip ``boxes`` [M, 4] to ``size`` (height, width); returns them as float32 and which are still worth learning."""
    clipped = boxes.copy()
    clipped[:, 0::2] = clipped[:, 0::2].clip(0, size[1])
    clipped[:, 1::2] = clipped[:, 1::2].clip(0, size[0])
    before = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    sides = clipped[:, 2:] - clipped[:, :2]
    keep = (sides.min(axis=1, initial=np.inf) >= options.min_side) & (
        sides.prod(axis=1) >= options.min_visible * before
    )
    return clipped.astype(np.float32), keep


def place(sample: Sample, matrix: np.ndarray, size: tuple[int, int], options: Augmentation) -> Sample:
    """Warp a sample to ``size`` (height, width) and keep the boxes that remain visible."""
    boxes, keep = visible(warp_boxes(sample.boxes, matrix), size, options)
    return Sample(warp(sample.image, matrix, size), boxes[keep], sample.labels[keep])


def mosaic(samples: list[Sample], rng: np.random.Generator, options: Augmentation, size: tuple[int, int]) -> Sample:
    """Four pictures around a random centre, each warped by its own matrix and cut to its quadrant.

    A quadrant shows the part of its picture around a random point, at ``mosaic_scale`` times the scale of inference.
    Costs as much as one warp, because each output pixel is computed once.
    """
    height, width = size
    cut_y = round(height * rng.uniform(0.3, 0.7))
    cut_x = round(width * rng.uniform(0.3, 0.7))
    canvas = Image.new("RGB", (width, height), (FILL,) * 3)
    all_boxes, all_labels = [], []
    quadrants = (
        (0, 0, cut_x, cut_y),
        (cut_x, 0, width, cut_y),
        (0, cut_y, cut_x, height),
        (cut_x, cut_y, width, height),
    )
    for sample, (left, top, right, bottom) in zip(samples, quadrants, strict=True):
        tile = (bottom - top, right - left)
        source = (sample.image.height, sample.image.width)
        matrix = random_matrix(rng, options, source, size, options.mosaic_scale)
        focus = matrix @ np.array([source[1] * rng.uniform(0.25, 0.75), source[0] * rng.uniform(0.25, 0.75), 1.0])
        matrix[0, 2] += tile[1] / 2 - focus[0]
        matrix[1, 2] += tile[0] / 2 - focus[1]
        part = place(sample, matrix, tile, options)
        canvas.paste(part.image, (left, top))
        all_boxes.append(part.boxes + np.array([left, top, left, top], dtype=np.float32))
        all_labels.append(part.labels)
    return Sample(canvas, np.concatenate(all_boxes), np.concatenate(all_labels))


def mixup(first: Sample, second: Sample, ratio: float) -> Sample:
    """Blend two pictures of one size, ``ratio`` of the first, and join their boxes."""
    image = Image.blend(second.image, first.image, ratio)
    return Sample(image, np.concatenate([first.boxes, second.boxes]), np.concatenate([first.labels, second.labels]))


def jitter_colour(image: Image.Image, rng: np.random.Generator, options: Augmentation) -> Image.Image:
    """Shift the hue and scale saturation and brightness of an RGB picture, through tables on 8-bit HSV."""
    hue, saturation, brightness = rng.uniform(-1, 1, 3) * (options.hue, options.saturation, options.brightness)
    if not (options.hue or options.saturation or options.brightness):
        return image
    levels = np.arange(256)
    tables = [
        (levels + round(hue * 256)) % 256,
        np.clip(levels * (1 + saturation), 0, 255),
        np.clip(levels * (1 + brightness), 0, 255),
    ]
    return image.convert("HSV").point(np.concatenate(tables).astype(np.uint8).tolist()).convert("RGB")


def augment(
    index: int,
    count: int,
    load: Callable[[int], Sample],
    rng: np.random.Generator,
    options: Augmentation,
    size: tuple[int, int],
    *,
    calm: bool = False,
) -> Sample:
    """Training sample number ``index`` of ``count`` at ``size`` (height, width), random only through ``rng``.

    Args:
        load: gives the whole picture of an index, with its boxes in its own pixels.
        calm: the last epochs: the geometry of inference with flips and colour only.
    """
    if calm:
        sample = load(index)
        source = (sample.image.height, sample.image.width)
        result = place(sample, calm_matrix(rng, options, source, size), size, options)
    else:
        result = _busy(index, count, load, rng, options, size)
        if rng.random() < options.mixup:
            other = _busy(int(rng.integers(count)), count, load, rng, options, size)
            result = mixup(result, other, float(rng.beta(8.0, 8.0)))
    result.image = jitter_colour(result.image, rng, options)
    return result


def _busy(
    index: int,
    count: int,
    load: Callable[[int], Sample],
    rng: np.random.Generator,
    options: Augmentation,
    size: tuple[int, int],
) -> Sample:
    if rng.random() < options.mosaic:
        others = [int(other) for other in rng.integers(count, size=3)]
        return mosaic([load(each) for each in (index, *others)], rng, options, size)
    sample = load(index)
    source = (sample.image.height, sample.image.width)
    return place(sample, random_matrix(rng, options, source, size, options.scale), size, options)
