# SPDX-License-Identifier: Apache-2.0
"""A whole augmented sample against OpenCV and NumPy: random numbers, boxes and pixels of YOLOv5's and YOLOv8's recipes.

Pictures are decoded already. The peer draws the numbers of ``Stream`` in the recipe's order, so that both make the
same sample and can be compared; drawing them costs it 0.01 ms of 5. For the rest it is OpenCV and NumPy as well as we
know to write it: one canvas kept for each thread, all boxes of a mosaic in one array, the three tables of colours
applied at once, everything written where it belongs. Eight samples are timed; the peer is given its threads inside each
call, or, faster, a sample a thread with OpenCV's own threads off. Ours has both ways, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from fastdet import _core
from fastdet.data.augmentation import RECIPES, Recipe, Sample, Stream, augmented_sample
from fastdet.testing import shared_dir
from harness import compare

SIZE, COUNT, PICTURES = 640, 8, 64


class Cells:
    """Pictures of BCCD (480 x 640) where they are at hand, else smooth random ones of that size; random boxes."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        shared = shared_dir()
        files = sorted((shared / "data" / "bccd").rglob("*.jpg"))[:PICTURES] if shared is not None else []
        if len(files) == PICTURES:
            images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        else:
            coarse = rng.integers(0, 256, (PICTURES, 30, 40, 3), dtype=np.uint8)
            images = [cv2.resize(image, (640, 480), interpolation=cv2.INTER_CUBIC) for image in coarse]
        self.samples = []
        for image in images:
            limit, count = image.shape[1::-1], int(rng.integers(1, 21))
            corners = rng.uniform(0, 0.8, (count, 2)) * limit
            boxes = np.concatenate([corners, np.minimum(corners + rng.uniform(20, 120, (count, 2)), limit)], 1)
            self.samples.append(Sample(image, boxes.astype(np.float32), rng.integers(0, 3, count)))

    def __len__(self) -> int:
        return len(self.samples)

    def __call__(self, index: int) -> Sample:
        return self.samples[index]


class Result(NamedTuple):
    """Pixels [B, 640, 640, 3]; boxes and labels of each sample."""

    images: np.ndarray
    boxes: list[np.ndarray]
    labels: list[np.ndarray]


_kept = threading.local()
LEVELS = np.arange(256, dtype=np.float64)
LIMIT = np.array([SIZE] * 4, np.float64)


def _mosaic(index: int, cells: Cells, stream: Stream, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The canvas of 1280 x 1280, its boxes and labels."""
    if not hasattr(_kept, "canvas"):
        _kept.canvas = np.empty((2 * SIZE, 2 * SIZE, 3), np.uint8)
    canvas: np.ndarray = _kept.canvas
    canvas[:] = 114
    y, x = (int(stream.uniform(0.5 * SIZE, 1.5 * SIZE)) for _ in range(2))
    order = [index, *stream.integers(len(cells), 3)]
    places = stream.choice(4, 4)
    samples = [cells(order[place] if recipe.shuffle_tiles else order[i]) for i, place in enumerate(places)]
    shifts = []
    for number, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        left, top = x if number % 2 else x - width, y if number >= 2 else y - height
        low_x, low_y = max(left, 0), max(top, 0)
        part = sample.image[low_y - top : 2 * SIZE - top, low_x - left : 2 * SIZE - left]
        canvas[low_y : low_y + part.shape[0], low_x : low_x + part.shape[1]] = part
        shifts.append((left, top, left, top))
    counts = [len(sample.boxes) for sample in samples]
    boxes = np.concatenate([sample.boxes for sample in samples]) + np.repeat(np.array(shifts, np.float64), counts, 0)
    return canvas, boxes.clip(0, 2 * SIZE), np.concatenate([sample.labels for sample in samples])


def _kept_boxes(before: np.ndarray, after: np.ndarray, scale: float, recipe: Recipe) -> np.ndarray:
    """Which boxes are large, visible and compact enough."""
    sides = (after[:, 2:] - after[:, :2]).T
    old = (before[:, 2:] - before[:, :2]).T
    share = sides[0] * sides[1] / (old[0] * old[1] * scale**2 + 1e-16)
    aspect = np.maximum(sides[0] / (sides[1] + 1e-16), sides[1] / (sides[0] + 1e-16))
    large = (sides[0] > recipe.min_side) & (sides[1] > recipe.min_side)
    return np.asarray(large & (share > recipe.min_area) & (aspect < recipe.max_aspect))


def _colours(changes: list[float], recipe: Recipe) -> np.ndarray:
    """Tables [1, 256, 3] for hue, saturation and value."""
    hue = LEVELS + 180 * changes[0] if recipe.additive_hue else LEVELS * (1 + changes[0])
    rest = (np.minimum(LEVELS * (1 + change), 255) for change in changes[1:])
    return np.stack([hue % 180 % 180, *rest], 1).astype(np.uint8)[None]


def opencv_sample(index: int, cells: Cells, recipe: Recipe, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels to ``out``; boxes and labels."""
    stream = Stream(0, 0, index)
    for chance in (recipe.mosaic, recipe.mosaic9):
        stream.chance(chance)
    canvas, boxes, labels = _mosaic(index, cells, stream, recipe)
    stream.uniform(), stream.uniform(), stream.uniform()  # perspective, angle: these recipes have none
    scale = stream.uniform(*recipe.scale)
    stream.uniform(), stream.uniform()  # shear
    x, y = (0.5 + stream.around_zero(recipe.translate) for _ in range(2))
    shift = np.array([x * SIZE - scale * SIZE, y * SIZE - scale * SIZE])
    stream.chance(recipe.mixup), stream.chance(recipe.cutmix)
    tables = _colours([stream.around_zero(gain) for gain in recipe.hsv], recipe)
    stream.chance(recipe.flip_vertical)
    mirror = stream.chance(recipe.flip_horizontal)

    matrix = np.array([[scale, 0, shift[0] + 0.5 * scale - 0.5], [0, scale, shift[1] + 0.5 * scale - 0.5]])
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (114, 114, 114)}
    image = cv2.warpAffine(canvas, matrix, (SIZE, SIZE), **border)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.LUT(hsv, tables, dst=hsv)
    if mirror:
        cv2.flip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=image), 1, dst=out)
    else:
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=out)
    moved = (boxes * scale + np.tile(shift, 2)).clip(0, LIMIT)
    kept = _kept_boxes(boxes, moved, scale, recipe)
    moved = moved[kept]
    if mirror:
        moved[:, ::2] = SIZE - moved[:, 2::-2]
    return moved.astype(np.float32), labels[kept]


def agree(ours: Result, theirs: Result) -> bool:
    """Boxes to the last bits; pixels but for a few in the last columns of the warp, mirrored or not."""
    different = (ours.images != theirs.images).any(-1)
    return bool(
        different[:, :, 16:-16].sum() == 0
        and different.mean() < 1e-3
        and all(np.allclose(a, b, rtol=0, atol=1e-3) for a, b in zip(ours.boxes, theirs.boxes, strict=True))
        and all(np.array_equal(a, b) for a, b in zip(ours.labels, theirs.labels, strict=True))
    )


@pytest.mark.parametrize("name", ["yolov5", "yolov8"])
def bench_sample(benchmark: Any, name: str) -> None:
    recipe, cells, threads = RECIPES[name], Cells(), _core.num_threads()
    assert isinstance(recipe, Recipe)

    def ours(index: int, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sample = augmented_sample(cells, index, recipe=recipe, size=(SIZE, SIZE), out=out)
        return sample.boxes, sample.labels

    def theirs(index: int, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return opencv_sample(index, cells, recipe, out)

    def batches(sample: Callable[..., Any], order: Callable[..., Any], opencv_threads: int) -> Callable[[], Result]:
        images = np.empty((COUNT, SIZE, SIZE, 3), np.uint8)

        def run() -> Result:
            cv2.setNumThreads(opencv_threads)
            boxes, labels = zip(*order(sample, range(COUNT), images))
            return Result(images, list(boxes), list(labels))

        return run

    with ThreadPoolExecutor(threads) as pool:
        contenders = {
            "fastdet": batches(ours, pool.map, 1),
            "fastdet, threads inside": batches(ours, map, 1),
            "opencv + numpy, threads inside": batches(theirs, map, threads),
            "opencv + numpy, a sample a thread": batches(theirs, pool.map, 1),
        }
        try:
            setting = f"{COUNT} samples of {name}, 640: random numbers, boxes, pixels"
            compare(benchmark, "augmentation", setting, contenders, same=agree, rounds=20, extra={"threads": threads})
        finally:
            cv2.setNumThreads(-1)
