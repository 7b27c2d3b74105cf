# SPDX-License-Identifier: Apache-2.0
"""A tiny synthetic data set: dark discs and squares on a light ground, 96 x 128 pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest.importorskip("torch")


def write_dataset(root: Path, name: str, count: int, seed: int, first_id: int = 1) -> Path:
    """Write ``count`` pictures and ``annotations/<name>.json``; category ids 3 (disc) and 7 (square)."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        picture = Image.new("RGB", (128, 96), tuple(int(v) for v in rng.integers(190, 230, 3)))
        draw = ImageDraw.Draw(picture)
        for slot in range(int(rng.integers(1, 4))):
            side = int(rng.integers(18, 34))
            x, y = int(rng.integers(0, 8)) + 42 * slot, int(rng.integers(0, 96 - side))
            kind = int(rng.integers(2))
            shape = (draw.ellipse, draw.rectangle)[kind]
            shape((x, y, x + side - 1, y + side - 1), fill=((150, 30, 40), (40, 40, 160))[kind])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": first_id + number,
                    "category_id": (3, 7)[kind],
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
        file_name = f"{name}-{number}.png"
        picture.save(root / "images" / file_name)
        images.append({"id": first_id + number, "file_name": file_name, "height": 96, "width": 128})
    categories = [{"id": 7, "name": "square"}, {"id": 3, "name": "disc"}]
    path = root / "annotations" / f"{name}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a data set with ``train`` (8 pictures) and ``val`` (4)."""
    root = tmp_path_factory.mktemp("shapes")
    write_dataset(root, "train", 8, seed=1)
    write_dataset(root, "val", 4, seed=2, first_id=100)
    return root
