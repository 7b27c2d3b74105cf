# SPDX-License-Identifier: Apache-2.0
"""Compose against OpenCV and NumPy: mosaic of four, map, HSV tables and flip of blood cells at 640 pixels.

What a sample costs:

- chain: the canvas is filled and pasted (4.9 MB written), warped (up to 4.9 MB read, 1.2 MB written), converted, looked
  up, converted back and mirrored: four more passes over 1.2 MB read and written. OpenCV's warp takes some 20 cycles a
  pixel, since it sorts the bytes of neighbours one by one.
- here: 12 bytes in 2 loads for each pixel of the result, 1.2 MB written once. With AVX-512 VBMI some 5 cycles a pixel
  to interpolate (75 instructions for 8 of them), 2 to find positions and runs, 3 for both conversions and the tables:
  10 cycles or 4 M for a picture, 1.2 ms at 3.5 GHz against OpenCV's 5 to 9 ms. Maps that neither turn nor shear, as
  those of ``data/bench_augmentation.py``, take 3 cycles to interpolate and none for positions; here all are turned.

A batch of 8 is timed. The peer is OpenCV at its best: with two threads inside each call, or, faster, two threads that
make a picture each with OpenCV's own threads off; the canvas is kept between pictures, tables are applied to three
channels at once. Ours has as many threads as FASTDET_NUM_THREADS says, which should be two as well.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from fastdet import _core, ops
from fastdet.testing import shared_dir
from harness import compare

SIZE, BATCH = 640, 8


def pictures(count: int) -> list[np.ndarray]:
    """Pictures of BCCD (480 x 640) where they are at hand, else smooth random ones of that size."""
    shared = shared_dir()
    files = sorted((shared / "data" / "bccd").rglob("*.jpg"))[:count] if shared is not None else []
    if len(files) == count:
        return [np.asarray(Image.open(file).convert("RGB")) for file in files]
    coarse = np.random.default_rng(0).integers(0, 256, (count, 30, 40, 3), dtype=np.uint8)
    return [cv2.resize(image, (640, 480), interpolation=cv2.INTER_CUBIC) for image in coarse]


def samples(mixup: bool, projective: bool) -> list[ops.Composition]:
    """Centre, scale, shift and gains in the ranges of the YOLO recipes; a small rotation so that rows are slanted."""
    rng = np.random.default_rng(1)
    images = pictures(4 * BATCH)
    ramp = np.arange(256)
    compositions = []
    for i in range(BATCH):
        layers = []
        for k in range(1 + mixup):
            chosen = [images[j % len(images)] for j in range(4 * (i + k), 4 * (i + k) + 4)]
            x, y = (int(n) for n in rng.uniform(SIZE / 2, 3 * SIZE / 2, 2))
            corners = [(x - 640, y - 480), (x, y - 480), (x - 640, y), (x, y)]
            tiles = [ops.Tile(image, *corner) for image, corner in zip(chosen, corners)]
            centred = np.eye(3)
            centred[:2, 2] = -SIZE
            tilt = np.eye(3)
            if projective:
                tilt[2, :2] = rng.uniform(-3e-4, 3e-4, 2)
            turn = np.eye(3)
            turn[:2] = cv2.getRotationMatrix2D((0, 0), rng.uniform(-5, 5), rng.uniform(0.5, 1.5))
            back = np.eye(3)
            back[:2, 2] = rng.uniform(0.4, 0.6, 2) * SIZE
            layers.append(ops.Layer(tiles, (2 * SIZE, 2 * SIZE), back @ turn @ tilt @ centred))
        gains = rng.uniform(-1, 1, 3) * (0.015, 0.7, 0.4) + 1
        tables = np.stack([ramp * gains[0] % 180, *(np.clip(ramp * gain, 0, 255) for gain in gains[1:])])
        compositions.append(ops.Composition(layers, 0.45, hsv=tables.astype(np.uint8), flip_horizontal=i % 2 == 0))
    return compositions


_canvases = threading.local()


def opencv_layer(layer: ops.Layer) -> np.ndarray:
    if not hasattr(_canvases, "kept"):
        _canvases.kept = np.empty((2 * SIZE, 2 * SIZE, 3), np.uint8)
    canvas: np.ndarray = _canvases.kept
    canvas[:] = 114
    for image, left, top, *_ in layer.tiles:
        x, y = max(left, 0), max(top, 0)
        cut = image[y - top : 2 * SIZE - top, x - left : 2 * SIZE - left]
        canvas[y : y + cut.shape[0], x : x + cut.shape[1]] = cut
    border: dict[str, Any] = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (114, 114, 114)}
    if tuple(layer.matrix[2]) == (0, 0, 1):
        return cv2.warpAffine(canvas, layer.matrix[:2], (SIZE, SIZE), **border)
    return cv2.warpPerspective(canvas, layer.matrix, (SIZE, SIZE), **border)


def opencv_sample(composition: ops.Composition, out: np.ndarray) -> None:
    image = opencv_layer(composition.layers[0])
    if len(composition.layers) == 2:
        other = opencv_layer(composition.layers[1])
        image = (image * composition.blend + other * (1 - composition.blend)).astype(np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.LUT(hsv, np.ascontiguousarray(composition.hsv.T[None]), dst=hsv)
    if composition.flip_horizontal:
        cv2.flip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv), 1, dst=out)
    else:
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=out)


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal but for a few pixels in the last columns of the warp, at either side of a mirrored picture."""
    different = (ours != theirs).any(-1)
    return bool(different[:, :, 16:-16].sum() == 0 and different.mean() < 1e-3)


@pytest.mark.parametrize("kind", ["affine", "perspective", "mixup"])
def bench_mosaic(benchmark, kind):
    compositions = samples(kind == "mixup", kind == "perspective")
    results = [np.empty((BATCH, SIZE, SIZE, 3), np.uint8) for _ in range(3)]
    threads = _core.num_threads()
    pool = ThreadPoolExecutor(threads)

    def inside() -> np.ndarray:
        cv2.setNumThreads(threads)
        for composition, out in zip(compositions, results[1]):
            opencv_sample(composition, out)
        return results[1]

    def beside() -> np.ndarray:
        cv2.setNumThreads(1)
        list(pool.map(opencv_sample, compositions, results[2]))
        return results[2]

    contenders = {
        "fastdet": lambda: ops.compose_batch(compositions, SIZE, out=results[0]),
        "opencv, threads inside": inside,
        "opencv, a picture a thread": beside,
    }
    try:
        setting = f"{BATCH} mosaics of 4, {kind}, HSV, flip, 640"
        compare(benchmark, "compose", setting, contenders, same=close, rounds=20, extra={"threads": threads})
    finally:
        pool.shutdown()
        cv2.setNumThreads(-1)
