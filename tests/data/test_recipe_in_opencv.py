# SPDX-License-Identifier: Apache-2.0
"""The recipe of YOLOv5 step by step in OpenCV, on the same random numbers."""

from __future__ import annotations

import numpy as np
import pytest

from fastdet.data.augmentation import RECIPES, Sample, Stream, augmented_sample

cv2 = pytest.importorskip("cv2")
needs_opencv_5 = pytest.mark.skipif(int(cv2.__version__.partition(".")[0]) < 5, reason="OpenCV 4 warps otherwise")
SIDE = 128


class Blurred:
    """Pictures with structure and no sharp edges, some of which must be scaled to fit, with two boxes each."""

    sizes = ((128, 96), (60, 128), (200, 150), (90, 70), (128, 128))

    def __len__(self) -> int:
        return len(self.sizes)

    def __call__(self, index: int) -> Sample:
        height, width = self.sizes[index]
        rng = np.random.default_rng(index)
        image = cv2.resize(
            rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
        )
        boxes = np.array([[2, 3, width / 2, height / 2], [width / 3, height / 4, width - 1, height - 2]], np.float32)
        return Sample(image, boxes, np.array([index, index + 10]))


def by_opencv(index: int, seed: int, epoch: int) -> tuple[np.ndarray, list[list[float]], list[int]]:
    """Mosaic, random affine, HSV and flip as the fact sheet of YOLOv5 tells them."""
    stream, pictures, recipe = Stream(seed, epoch, index), Blurred(), RECIPES["yolov5"]
    assert stream.chance(1.0) and not stream.chance(0.0)  # mosaic, nine
    yc, xc = int(stream.uniform(SIDE / 2, 3 * SIDE / 2)), int(stream.uniform(SIDE / 2, 3 * SIDE / 2))
    order = [index, *stream.integers(5, 3)]
    order = [order[place] for place in stream.choice(4, 4)]
    canvas = np.full((2 * SIDE, 2 * SIDE, 3), 114, np.uint8)
    boxes, labels = [], []
    for place, each in enumerate(order):
        sample = pictures(each)
        h0, w0 = sample.image.shape[:2]
        r = SIDE / max(h0, w0)
        h, w = (int(h0 * r), int(w0 * r)) if r != 1 else (h0, w0)
        image = cv2.resize(sample.image, (w, h)) if r != 1 else sample.image
        x, y = xc - w * (place % 2 == 0), yc - h * (place < 2)
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, 2 * SIDE), min(y + h, 2 * SIDE)
        canvas[y1:y2, x1:x2] = image[y1 - y : y2 - y, x1 - x : x2 - x]
        for box, label in zip(sample.boxes, sample.labels, strict=True):
            boxes.append(box * np.array([w / w0, h / h0] * 2) + [x, y, x, y])
            labels.append(int(label))
    tilt = [stream.around_zero(0) for _ in range(2)]
    angle, s = stream.around_zero(0), stream.uniform(0.5, 1.5)
    shear = [stream.around_zero(0) for _ in range(2)]
    tx, ty = (0.5 + stream.around_zero(0.1)) * SIDE, (0.5 + stream.around_zero(0.1)) * SIDE
    assert not any([*tilt, angle, *shear])
    matrix = np.array([[s, 0, tx - s * SIDE], [0, s, ty - s * SIDE]])  # centre of the canvas to that of the output
    indices = matrix + np.array([[0, 0, 0.5 * (s - 1)]] * 2)  # from points to pixel indices
    image = cv2.warpAffine(canvas, indices, (SIDE, SIDE), borderValue=(114, 114, 114))
    stream.chance(0.0), stream.chance(0.0)  # mixup, cutmix
    gains = [1 + stream.around_zero(gain) for gain in recipe.hsv]
    x = np.arange(256)
    tables = [(x * gains[0]) % 180, np.clip(x * gains[1], 0, 255), np.clip(x * gains[2], 0, 255)]
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    planes = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
    image = cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2RGB)
    stream.chance(0.0)  # upside down
    mirror = stream.chance(0.5)
    kept, kept_labels = [], []
    for box, label in zip(boxes, labels, strict=True):
        before = np.clip(box, 0, 2 * SIDE)
        after = np.clip(before * s + np.tile(matrix[:, 2], 2), 0, SIDE)
        w, h = after[2] - after[0], after[3] - after[1]
        area = (before[2] - before[0]) * (before[3] - before[1])
        if w > 2 and h > 2 and w * h > 0.1 * area * s * s and max(w / h, h / w) < 100:
            kept.append([SIDE - after[2], after[1], SIDE - after[0], after[3]] if mirror else after.tolist())
            kept_labels.append(label)
    return image[:, ::-1] if mirror else image, kept, kept_labels


@needs_opencv_5
@pytest.mark.parametrize("seed", range(6))
def test_yolov5_in_opencv(seed):
    """Boxes to the last bits; pixels but for rounding, which the table of the hue may turn into a few levels."""
    for index in range(5):
        image, boxes, labels = by_opencv(index, seed, 3)
        sample = augmented_sample(Blurred(), index, recipe=RECIPES["yolov5"], size=(SIDE, SIDE), seed=seed, epoch=3)
        np.testing.assert_allclose(sample.boxes, np.array(boxes).reshape(-1, 4), atol=1e-4)
        assert sample.labels.tolist() == labels
        difference = np.abs(sample.image.astype(int) - image)
        assert difference.mean() < 0.05 and (difference > 4).mean() < 1e-3
