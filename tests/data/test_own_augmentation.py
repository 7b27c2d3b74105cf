# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastdet.data.augmentation import Augmentation, Sample, Stream, augmented_sample
from fastdet.data.augmentation.box_geometry import stretch_matrix
from fastdet.data.augmentation.own import mosaic, own_view, place, random_matrix, visible
from fastdet.data.augmentation.scene import FILL, Objects, pixels
from fastdet.ops import letterbox

ALL = Augmentation(
    mosaic=0.5, mixup=0.3, rotate=20, shear=5, flip_vertical=0.5, rotate_quarter=0.5, translate=0.2, min_visible=0.2
)
UPRIGHT = Augmentation(flip_vertical=0.5, rotate_quarter=0.5)


def marked(seed: int, height: int = 60, width: int = 80) -> Sample:
    """A picture of ground 200 with one black rectangle, and its box."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 200, np.uint8)
    x, y = int(rng.integers(10, 40)), int(rng.integers(10, 30))
    w, h = int(rng.integers(12, 25)), int(rng.integers(12, 25))
    image[y : y + h, x : x + w] = 0
    return Sample(image, np.array([[x, y, x + w, y + h]], np.float32), np.array([1]))


class Several:
    """Five marked pictures."""

    def __len__(self) -> int:
        return 5

    def __call__(self, index: int) -> Sample:
        return marked(index)


def slow_warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear sampling pixel by pixel in float64, in a picture that is surrounded by the fill colour."""
    inverse = np.linalg.inv(matrix)
    height, width = image.shape[:2]
    out = np.zeros((*size, 3))
    for row, column in itertools.product(range(size[0]), range(size[1])):
        x, y, _ = inverse @ [column + 0.5, row + 0.5, 1.0]
        x, y = x - 0.5, y - 0.5
        left, top = int(np.floor(x)), int(np.floor(y))
        for dy, dx in itertools.product((0, 1), (0, 1)):
            weight = (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
            inside = 0 <= top + dy < height and 0 <= left + dx < width
            out[row, column] += weight * (image[top + dy, left + dx] if inside else np.full(3, float(FILL)))
    return out


@pytest.mark.parametrize("seed", range(6))
def test_warp_equals_slow_sampling(seed):
    image = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    matrix = random_matrix(Stream(seed, 0, 0), ALL, (30, 40), (32, 64), (0.6, 1.5))
    sample = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    got = pixels(place(sample, matrix, (32, 64), ALL)).astype(float)
    assert np.abs(got - slow_warp(image, matrix, (32, 64))).max() <= 0.51


@pytest.mark.parametrize("seed", range(20))
def test_box_stays_on_the_thing(seed):
    """Flips, quarter turns, scale and shift: the dark pixels fill the box and nothing else is dark."""
    sample = marked(seed)
    size = (64, 96)
    matrix = random_matrix(Stream(seed, 0, 0), UPRIGHT, (60, 80), size, (0.7, 1.5))
    placed = place(sample, matrix, size, Augmentation(min_visible=0.0, min_side=0.25))
    dark = pixels(placed)[..., 0] < 57  # less than half of the way to the fill
    if not len(placed.objects.boxes):
        assert not dark.any()
        return
    rows, columns = np.nonzero(dark.any(1))[0], np.nonzero(dark.any(0))[0]
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(placed.objects.boxes[0], found, atol=1.01)


def test_turns_and_flips_keep_the_stretch_of_inference():
    """A round thing keeps its proportions: the dihedral part acts before the stretch."""
    stream = Stream(0, 0, 0)
    still = Augmentation(stretch=0.0, translate=0.0, flip_horizontal=0.5, flip_vertical=0.5, rotate_quarter=0.5)
    stretch = stretch_matrix((480, 640), (416, 416))[:2, :2]
    seen = set()
    for _ in range(100):
        linear = random_matrix(stream, still, (480, 640), (416, 416), (1.0, 1.0))[:2, :2]
        dihedral = np.linalg.inv(stretch) @ linear
        np.testing.assert_allclose(np.abs(dihedral).sum(0), 1, atol=1e-12)
        seen.add(tuple(np.round(dihedral).astype(int).ravel()))
    assert len(seen) == 8


def test_last_epochs_are_the_resize_of_inference_with_flips():
    """Bit for bit what the network gets at inference, in the four ways of turning it over."""
    grey = Augmentation(flip_vertical=0.5, hue=0, saturation=0, brightness=0)
    sample = marked(1)
    batch, mapping = letterbox([sample.image], (50, 100), keep_ratio=False, scale=False, dtype="uint8", layout="nhwc")
    box = np.asarray(mapping.to_input(sample.boxes, index=0))[0]
    seen = set()
    for seed in range(30):
        view = own_view(1, Several(), Stream(seed, 0, 0), grey, (50, 100), calm=True)
        seen.add(view.flips)
        step = tuple(-1 if flipped else 1 for flipped in view.flips)
        np.testing.assert_array_equal(pixels(view)[:: step[1], :: step[0]], batch[0])
        x1, x2 = (100 - box[2], 100 - box[0]) if view.flips[0] else (box[0], box[2])
        y1, y2 = (50 - box[3], 50 - box[1]) if view.flips[1] else (box[1], box[3])
        np.testing.assert_allclose(view.objects.boxes[0], [x1, y1, x2, y2], atol=1e-4)
    assert len(seen) == 4


def test_visible_clips_and_filters():
    boxes = np.array([[-10, -10, 10, 10], [-10, 0, 10, 10], [60, 0, 70, 10], [5, 5, 6, 30], [0, 0, 64, 32]], np.float64)
    kept = visible(Objects(boxes, np.arange(5), None), (32, 64), Augmentation(min_visible=0.3, min_side=2))
    assert kept.labels.tolist() == [1, 2, 4]
    np.testing.assert_array_equal(kept.boxes[:2], [[0, 0, 10, 10], [60, 0, 64, 10]])


@pytest.mark.parametrize("seed", range(10))
def test_mosaic_boxes_surround_dark_parts(seed):
    options = Augmentation(min_visible=0.0, min_side=0.25, flip_vertical=0.5, rotate_quarter=0.5)
    view = mosaic([marked(4 * seed + k) for k in range(4)], Stream(seed, 0, 0), options, (96, 128))
    assert len(view.objects.boxes) == len(view.objects.labels) <= 4
    dark = pixels(view)[..., 0] < 57
    assert dark.shape == (96, 128)
    covered = np.zeros_like(dark)
    for x1, y1, x2, y2 in view.objects.boxes:
        assert 0 <= x1 <= x2 <= 128 and 0 <= y1 <= y2 <= 96
        covered[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = True
        top, bottom, left, right = int(np.ceil(y1)) + 1, int(y2) - 1, int(np.ceil(x1)) + 1, int(x2) - 1
        inside = dark[top : max(top, bottom), left : max(left, right)]
        assert inside.all()
    assert not (dark & ~covered).any()


def test_no_colour_change_when_off():
    off = Augmentation(hue=0, saturation=0, brightness=0)
    assert own_view(0, Several(), Stream(0, 0, 0), off, (32, 32), calm=False).hsv is None
    assert own_view(0, Several(), Stream(0, 0, 0), ALL, (32, 32), calm=False).hsv.shape == (3, 256)


def test_samples_depend_on_seed_epoch_and_index_alone():
    def run(seed: int, calm: bool = False) -> Sample:
        return augmented_sample(Several(), 2, recipe=ALL, size=(64, 64), seed=seed, calm=calm)

    for seed in range(10):
        one, two = run(seed), run(seed)
        assert one.image.tobytes() == two.image.tobytes()
        np.testing.assert_array_equal(one.boxes, two.boxes)
        assert len(one.boxes) == len(one.labels) and one.boxes.dtype == np.float32
    assert run(0).image.tobytes() != run(1).image.tobytes()
    assert run(3, calm=True).boxes.shape == (1, 4)
