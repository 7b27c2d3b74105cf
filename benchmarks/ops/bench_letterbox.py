# SPDX-License-Identifier: Apache-2.0
"""Letterbox against OpenCV's chain, and its Pillow mode against Pillow.

What the work costs, from 1080p to 640 x 640:

- chain: resize to 640 x 360 (0.7 MB), border and transposed copy (1.2 MB each), quotient (4.9 MB): four passes,
  the first over two threads, and three arrays on the way that are allocated anew.
- here: 360 of the 1080 source rows are read (2.1 MB; at a reduction by 3 the taps of the others have weight 0), and the
  result is written once: 4.9 MB as float32, 1.2 MB as uint8. Between them 0.7 M values, some 25 cycles per 16 of them:
  0.3 ms on one thread. At 10 GB/s a core the writes alone take 0.25 ms on two.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from fastdet import ops
from harness import compare

SIZE = 640


def picture(height: int, width: int) -> np.ndarray:
    """A smooth random picture: neither flat nor noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def opencv_letterbox(image: np.ndarray) -> np.ndarray:
    """Resize and border, still (height, width, channel) and uint8."""
    height, width = image.shape[:2]
    ratio = min(SIZE / height, SIZE / width)
    new_height, new_width = round(height * ratio), round(width * ratio)
    if (new_height, new_width) != (height, width):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    bottom, right = SIZE - new_height, SIZE - new_width
    top, left = bottom // 2, right // 2
    grey = (114, 114, 114)
    return cv2.copyMakeBorder(image, top, bottom - top, left, right - left, cv2.BORDER_CONSTANT, value=grey)


def opencv_chain(image: np.ndarray, dtype: str) -> np.ndarray:
    """The usual preprocessing: then channels first, and divide."""
    planar = np.ascontiguousarray(opencv_letterbox(image).transpose(2, 0, 1))[None]
    return planar if dtype == "uint8" else planar.astype(np.float32) / np.float32(255)


def opencv_split(image: np.ndarray, dtype: str) -> np.ndarray:
    """The same at its best: channels split by OpenCV, the quotient taken in place."""
    planar = np.empty((1, 3, SIZE, SIZE), np.uint8)
    cv2.split(opencv_letterbox(image), list(planar[0]))
    if dtype == "uint8":
        return planar
    values = planar.astype(np.float32)
    values /= np.float32(255)
    return values


def against_opencv(benchmark, setting: str, height: int, width: int, dtype: str) -> None:
    image = picture(height, width)
    contenders = {
        "fastdet": lambda: ops.letterbox(image, SIZE, dtype=dtype)[0],
        "opencv": lambda: opencv_chain(image, dtype),
        "opencv, split": lambda: opencv_split(image, dtype),
    }
    compare(benchmark, "letterbox", setting, contenders, same=np.array_equal, rounds=30)


def bench_1080p_float32(benchmark):
    against_opencv(benchmark, "1080p to 640, float32", 1080, 1920, "float32")


def bench_1080p_uint8(benchmark):
    against_opencv(benchmark, "1080p to 640, uint8", 1080, 1920, "uint8")


def bench_720p_float32(benchmark):
    against_opencv(benchmark, "720p to 640, float32", 720, 1280, "float32")


def bench_coco_float32(benchmark):
    against_opencv(benchmark, "375 x 500 to 640, float32", 375, 500, "float32")


def bench_batch_float32(benchmark):
    sizes = [(480, 640), (427, 640), (640, 480), (375, 500), (333, 500), (612, 612), (1080, 1920), (720, 1280)]
    images = [picture(*size) for size in sizes]
    contenders = {
        "fastdet": lambda: ops.letterbox(images, SIZE)[0],
        "opencv": lambda: np.concatenate([opencv_chain(image, "float32") for image in images]),
    }
    compare(benchmark, "letterbox", "8 pictures of mixed sizes, float32", contenders, same=np.array_equal)


def against_pillow(benchmark, setting: str, height: int, width: int) -> None:
    image = picture(height, width)
    as_pillow = Image.fromarray(image)

    def pillow() -> np.ndarray:
        resized = np.asarray(as_pillow.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(resized.transpose(2, 0, 1))[None].astype(np.float32) / np.float32(255)

    contenders = {
        "fastdet": lambda: ops.letterbox(image, SIZE, mode="pillow", keep_ratio=False)[0],
        "pillow": pillow,
    }
    compare(benchmark, "letterbox", setting, contenders, same=np.array_equal)


def bench_pillow_vga(benchmark):
    against_pillow(benchmark, "480 x 640 stretched to 640, mode pillow, float32", 480, 640)


def bench_pillow_1080p(benchmark):
    against_pillow(benchmark, "1080p stretched to 640, mode pillow, float32", 1080, 1920)
