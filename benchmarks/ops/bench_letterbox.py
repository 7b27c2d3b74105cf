# SPDX-License-Identifier: Apache-2.0
"""Letterbox against OpenCV's chain, and its Pillow mode against Pillow; on CUDA against the usual chain of torch.

What the work costs, from 1080p to 640 x 640:

- chain: resize to 640 x 360 (0.7 MB), border and transposed copy (1.2 MB each), quotient (4.9 MB): four passes,
  the first over two threads, and three arrays on the way that are allocated anew.
- here: 360 of the 1080 source rows are read (2.1 MB; at a reduction by 3 the taps of the others have weight 0), and the
  result is written once: 4.9 MB as float32, 1.2 MB as uint8. Between them 0.7 M values, some 25 cycles per 16 of them:
  0.3 ms on one thread. At 10 GB/s a core the writes alone take 0.25 ms on two.
- NV12: OpenCV converts all 2.1 M pixels (3.1 MB read, 6.2 MB written and read again); here the rows that are read,
  0.7 M.
- area, 3 x 3 pixels a cell: all rows are read, 6.2 MB, as integers.

CUDA rows: 1 and 32 pictures of 1080p to float16. The peer is what torch offers: bilinear interpolation of floats, which
equals no library's pixels, so that it is compared loosely. Bytes: rows that a tap needs and the result, as if nothing
were read twice.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fastdet import ops
from harness import compare
from on_device import needs_cuda

SIZE = 640


def picture(height: int, width: int) -> np.ndarray:
    """A smooth random picture: neither flat nor noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def opencv_letterbox(image: np.ndarray, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize and border, still (height, width, channel) and uint8."""
    height, width = image.shape[:2]
    ratio = min(SIZE / height, SIZE / width)
    new_height, new_width = round(height * ratio), round(width * ratio)
    if (new_height, new_width) != (height, width):
        image = cv2.resize(image, (new_width, new_height), interpolation=interpolation)
    bottom, right = SIZE - new_height, SIZE - new_width
    top, left = bottom // 2, right // 2
    grey = (114, 114, 114)
    return cv2.copyMakeBorder(image, top, bottom - top, left, right - left, cv2.BORDER_CONSTANT, value=grey)


def opencv_chain(image: np.ndarray, dtype: str) -> np.ndarray:
    """The usual preprocessing: then channels first, and divide."""
    planar = np.ascontiguousarray(opencv_letterbox(image).transpose(2, 0, 1))[None]
    return planar if dtype == "uint8" else planar.astype(np.float32) / np.float32(255)


def opencv_split(image: np.ndarray, dtype: str, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """The same at its best: channels split by OpenCV, the quotient taken in place."""
    planar = np.empty((1, 3, SIZE, SIZE), np.uint8)
    cv2.split(opencv_letterbox(image, interpolation), list(planar[0]))
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


# ---- formats, area, padded channels: the chain at its best, all with the same threads ----

YUV = {"nv12": cv2.COLOR_YUV2RGB_NV12, "i420": cv2.COLOR_YUV2RGB_I420, "yuyv": cv2.COLOR_YUV2RGB_YUYV}


def yuv_picture(name: str) -> np.ndarray:
    return picture(1080, 1920)[..., :2].copy() if name == "yuyv" else picture(1620, 1920)[..., 0].copy()


@pytest.mark.parametrize("name", YUV)
def bench_yuv_1080p(benchmark, name):
    frame = yuv_picture(name)
    contenders = {
        "fastdet": lambda: ops.letterbox(frame, SIZE, format=name)[0],
        "opencv, split": lambda: opencv_split(cv2.cvtColor(frame, YUV[name]), "float32"),
    }
    setting = f"{name.upper()} 1080p to 640, float32"
    compare(benchmark, "letterbox", setting, contenders, same=np.array_equal, rounds=30)


def bench_nv12_1080p_area(benchmark):
    frame = yuv_picture("nv12")
    contenders = {
        "fastdet": lambda: ops.letterbox(frame, SIZE, format="nv12", mode="cv2_area")[0],
        "opencv, split": lambda: opencv_split(cv2.cvtColor(frame, YUV["nv12"]), "float32", cv2.INTER_AREA),
    }
    compare(benchmark, "letterbox", "NV12 1080p to 640, cv2_area, float32", contenders, same=np.array_equal, rounds=30)


@pytest.mark.parametrize("height,width", [(1080, 1920), (720, 1280), (1000, 1700)])
def bench_area(benchmark, height, width):
    """Cells of 3 x 3, of 2 x 2, and of parts of pixels."""
    image = picture(height, width)
    height, width = image.shape[:2]
    contenders = {
        "fastdet": lambda: ops.letterbox(image, SIZE, mode="cv2_area")[0],
        "opencv, split": lambda: opencv_split(image, "float32", cv2.INTER_AREA),
    }
    setting = f"{height} x {width} to 640, cv2_area, float32"
    compare(benchmark, "letterbox", setting, contenders, same=np.array_equal, rounds=30)


@pytest.mark.parametrize("channels", [4, 8])
def bench_padded_channels(benchmark, channels):
    image = picture(1080, 1920)

    def opencv() -> np.ndarray:
        values = np.zeros((1, SIZE, SIZE, channels), np.float32)
        np.divide(opencv_letterbox(image)[None], np.float32(255), out=values[..., :3])
        return values

    contenders = {
        "fastdet": lambda: ops.letterbox(image, SIZE, layout="nhwc", channels=channels)[0],
        "opencv": opencv,
    }
    compare(
        benchmark, "letterbox", f"1080p to 640, nhwc of {channels}, float32", contenders, same=np.array_equal, rounds=30
    )


# ---- CUDA ----


def torch_letterbox(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, 640, 640) float16 by torch's own operators."""
    values = images.permute(0, 3, 1, 2).half()
    height, width = round(values.shape[2] * SIZE / values.shape[3]), SIZE
    resized = torch.nn.functional.interpolate(values, (height, width), mode="bilinear", align_corners=False)
    top = (SIZE - height) // 2
    return torch.nn.functional.pad(resized, (0, 0, top, SIZE - height - top), value=114.0) / 255


@needs_cuda
@pytest.mark.parametrize("mode", ["cv2", "cv2_area"])
@pytest.mark.parametrize("name", ["rgb", "nv12", "yuyv"])
@pytest.mark.parametrize("batch", [1, 32])
def bench_cuda(benchmark, batch, name, mode):
    frame = picture(1080, 1920) if name == "rgb" else yuv_picture(name)
    frames = [torch.from_numpy(frame).cuda() for _ in range(batch)]
    options = {"format": name, "mode": mode, "dtype": "float16"}
    host = ops.letterbox(frame, SIZE, **options)[0]
    contenders = {"fastdet": lambda: ops.letterbox(frames, SIZE, **options)[0]}
    np.testing.assert_array_equal(contenders["fastdet"]()[-1].cpu().numpy(), host[0])
    if name == "rgb" and mode == "cv2":
        stacked = torch.stack(frames)
        contenders["torch"] = lambda: torch_letterbox(stacked)
    rows = 1 if mode == "cv2" else 3  # of three source rows, those that a tap needs
    moved = batch * (frame.size * rows // 3 + 2 * 3 * SIZE * SIZE)
    setting = f"{batch} of 1080p {name} to 640, {mode}, float16"
    compare(
        benchmark,
        "letterbox",
        setting,
        contenders,
        same=lambda a, b: torch.allclose(a.float(), b.float(), atol=0.02),
        device="cuda",
        moved=moved,
    )


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
