# SPDX-License-Identifier: Apache-2.0
"""Files to pixels, and pictures to batches: decoders, reduced decoding, and who builds the batches.

Pictures are made here: smooth shapes with the noise of a camera, as JPEGs of quality 90.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from fastdet import fast_jpeg
from fastdet.data.augmentation import Augmentation
from fastdet.data.coco import read_coco
from fastdet.data.loader import Loader
from fastdet.image_files import read_image, read_reduced
from harness import compare, take_turns


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Shapes of all sizes and grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 215, (height // 60 + 2, width // 60 + 2, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(40):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(image, centre, int(rng.integers(4, height // 5)), rng.uniform(0, 255, 3).tolist(), -1)
    return Image.fromarray((image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8))


def by_pillow(path: Path) -> np.ndarray:
    """Pillow as one would call it."""
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))


def by_opencv(path: Path) -> np.ndarray:
    """OpenCV as one would call it."""
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (1080, 1920)])
def bench_decode(benchmark: Any, tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "a.jpg"
    picture(height, width, 0).save(path, quality=90)
    contenders = {"fastdet": lambda: read_image(path), "Pillow": lambda: by_pillow(path)}
    contenders["opencv"] = lambda: by_opencv(path)
    decoder = "simplejpeg" if fast_jpeg.available() else "Pillow"
    setting = f"read_image, JPEG of {height} x {width}, decoded by {decoder}"
    compare(benchmark, "loader", setting, contenders, same=np.array_equal, rounds=20)


def bench_reduced(benchmark: Any, tmp_path: Path) -> None:
    height, width = (3000, 4000) if benchmark.enabled else (300, 400)
    path = tmp_path / "a.jpg"
    picture(height, width, 0).save(path, quality=90)
    drafts = {"whole": None, "1/2": (height // 2, width // 2), "1/4": (height // 4, width // 4)}
    contenders = {
        f"read_reduced, JPEG of {height} x {width}, {name}": partial(read_reduced, path, draft)
        for name, draft in drafts.items()
    }
    take_turns(benchmark, "loader", contenders, rounds=10)


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Any]:
    """32 pictures of 480 x 640, ten boxes each."""
    rng = np.random.default_rng(0)
    images, rows = [], []
    for number in range(32):
        picture(480, 640, number).save(tmp_path / f"{number}.jpg", quality=90)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 480, "width": 640})
        for x, y in rng.uniform(0, 400, (10, 2)).tolist():
            row = {"id": len(rows), "image_id": number, "category_id": 1, "bbox": [x, y, 60, 50], "area": 3000}
            rows.append({**row, "iscrowd": 0})
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "disc"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    yield read_coco(tmp_path / "train.json", tmp_path)


def bench_workers(benchmark: Any, dataset: Any) -> None:
    """An epoch at 640 x 640, every picture decoded anew; the processes run already."""
    loaders = {
        name: Loader(dataset, Augmentation(), size=(640, 640), batch_size=8, cache_mb=0, **options)
        for name, options in {
            "no workers": {},
            "2 threads": {"workers": 2},
            "2 processes": {"workers": 2, "worker_kind": "process"},
        }.items()
    }

    def epoch(loader: Loader) -> int:
        loader.seek(0)
        return sum(len(batch.indices) for batch in loader)

    try:
        contenders = {
            f"an epoch of 32 pictures, 640 x 640, mosaic and colour, {name}": partial(epoch, loader)
            for name, loader in loaders.items()
        }
        take_turns(benchmark, "loader", contenders, rounds=10)
    finally:
        for loader in loaders.values():
            loader.close()
