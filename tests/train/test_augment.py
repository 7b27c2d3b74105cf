# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest
from PIL import Image

from fastdet.data.augment import (
    FILL,
    Augmentation,
    Sample,
    augment,
    calm_matrix,
    jitter_colour,
    mixup,
    mosaic,
    place,
    random_matrix,
    stretch_matrix,
    visible,
    warp,
    warp_boxes,
)

ALL = Augmentation(
    mosaic=0.5, mixup=0.3, rotate=20, shear=5, flip_vertical=0.5, rotate_quarter=0.5, translate=0.2, min_visible=0.2
)
UPRIGHT = Augmentation(flip_vertical=0.5, rotate_quarter=0.5)


def marked(seed: int, height: int = 60, width: int = 80) -> Sample:
    """A picture of ground 200 with one black rectangle, and its box."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 200, np.uint8)
    x, y = int(rng.integers(10, 40)), int(rng.integers(10, 30))
    w, h = int(rng.integers(12, 25)), int(rng.integers(12, 25))
    pixels[y : y + h, x : x + w] = 0
    return Sample(Image.fromarray(pixels), np.array([[x, y, x + w, y + h]], np.float32), np.array([1]))


def slow_warp(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear sampling pixel by pixel in float64; NaN where the sample point lies outside the picture."""
    inverse = np.linalg.inv(matrix)
    height, width = pixels.shape[:2]
    out = np.full((*size, 3), np.nan)
    for row, column in itertools.product(range(size[0]), range(size[1])):
        x, y, _ = inverse @ [column + 0.5, row + 0.5, 1.0]
        if not (0 <= x < width and 0 <= y < height):
            continue
        x, y = x - 0.5, y - 0.5
        left, top = int(np.floor(x)), int(np.floor(y))
        value = 0.0
        for dy, dx in itertools.product((0, 1), (0, 1)):
            weight = (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
            value = value + weight * pixels[min(max(top + dy, 0), height - 1), min(max(left + dx, 0), width - 1)]
        out[row, column] = value
    return out


@pytest.mark.parametrize("seed", range(6))
def test_warp_equals_slow_sampling(seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    matrix = random_matrix(rng, ALL, (30, 40), (32, 64), (0.6, 1.5))
    expected = slow_warp(pixels, matrix, (32, 64))
    got = np.asarray(warp(Image.fromarray(pixels), matrix, (32, 64))).astype(float)
    outside = np.isnan(expected[..., 0])
    assert np.abs(got - expected)[~outside].max() <= 1.0  # Pillow truncates
    assert (got[outside] == FILL).all()


def slow_box(box: np.ndarray, matrix: np.ndarray) -> list[float]:
    points = [matrix @ [x, y, 1.0] for x in (box[0], box[2]) for y in (box[1], box[3])]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return [min(xs), min(ys), max(xs), max(ys)]


def test_boxes_equal_slow_corners():
    rng = np.random.default_rng(0)
    for _ in range(50):
        matrix = random_matrix(rng, ALL, (480, 640), (320, 416), (0.5, 2.0))
        corners = np.sort(rng.uniform(0, 480, (7, 2, 2)), axis=1)
        boxes = np.concatenate([corners[:, 0], corners[:, 1]], axis=1).astype(np.float32)
        np.testing.assert_allclose(warp_boxes(boxes, matrix), [slow_box(box, matrix) for box in boxes], atol=1e-9)
    assert warp_boxes(np.zeros((0, 4), np.float32), matrix).shape == (0, 4)


@pytest.mark.parametrize("seed", range(20))
def test_box_stays_on_the_thing(seed):
    """Flips, quarter turns, scale and shift: the dark pixels fill the box and nothing else is dark."""
    rng = np.random.default_rng(seed)
    sample = marked(seed)
    size = (64, 96)
    matrix = random_matrix(rng, UPRIGHT, (60, 80), size, (0.7, 1.5))
    options = Augmentation(min_visible=0.0, min_side=0.25)
    placed = place(sample, matrix, size, options)
    dark = np.asarray(placed.image)[..., 0] < 57  # less than half of the way to the fill
    if not len(placed.boxes):
        assert not dark.any()
        return
    rows, columns = np.nonzero(dark.any(1))[0], np.nonzero(dark.any(0))[0]
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(placed.boxes[0], found, atol=1.01)


def test_turns_and_flips_keep_the_stretch_of_inference():
    """A round thing keeps its proportions: the dihedral part acts before the stretch."""
    rng = np.random.default_rng(0)
    still = Augmentation(stretch=0.0, translate=0.0, flip_horizontal=0.5, flip_vertical=0.5, rotate_quarter=0.5)
    stretch = stretch_matrix((480, 640), (416, 416))[:2, :2]
    seen = set()
    for _ in range(100):
        linear = random_matrix(rng, still, (480, 640), (416, 416), (1.0, 1.0))[:2, :2]
        dihedral = np.linalg.inv(stretch) @ linear
        np.testing.assert_allclose(np.abs(dihedral).sum(0), 1, atol=1e-12)
        seen.add(tuple(np.round(dihedral).astype(int).ravel()))
    assert len(seen) == 8


def test_calm_matrix_is_the_stretch_with_flips():
    rng = np.random.default_rng(0)
    box = np.array([[10, 20, 50, 60]], np.float32)
    results = {tuple(warp_boxes(box, calm_matrix(rng, UPRIGHT, (100, 200), (50, 400)))[0].round(9)) for _ in range(50)}
    assert results == {(20, 10, 100, 30), (300, 10, 380, 30), (20, 20, 100, 40), (300, 20, 380, 40)}


def test_visible_clips_and_filters():
    boxes = np.array([[-10, -10, 10, 10], [-10, 0, 10, 10], [60, 0, 70, 10], [5, 5, 6, 30], [0, 0, 64, 32]], np.float64)
    clipped, keep = visible(boxes, (32, 64), Augmentation(min_visible=0.3, min_side=2))
    np.testing.assert_array_equal(keep, [False, True, True, False, True])
    np.testing.assert_array_equal(clipped[1:3], [[0, 0, 10, 10], [60, 0, 64, 10]])


@pytest.mark.parametrize("seed", range(10))
def test_mosaic_boxes_surround_dark_parts(seed):
    options = Augmentation(min_visible=0.0, min_side=0.25, flip_vertical=0.5, rotate_quarter=0.5)
    result = mosaic([marked(4 * seed + k) for k in range(4)], np.random.default_rng(seed), options, (96, 128))
    assert result.image.size == (128, 96) and len(result.boxes) == len(result.labels) <= 4
    dark = np.asarray(result.image)[..., 0] < 57
    covered = np.zeros_like(dark)
    for x1, y1, x2, y2 in result.boxes:
        assert 0 <= x1 <= x2 <= 128 and 0 <= y1 <= y2 <= 96
        covered[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = True
        top, bottom, left, right = int(np.ceil(y1)) + 1, int(y2) - 1, int(np.ceil(x1)) + 1, int(x2) - 1
        inside = dark[top : max(top, bottom), left : max(left, right)]
        assert inside.all()
    assert not (dark & ~covered).any()


def test_mixup_blends_and_joins():
    first, second = marked(1), marked(2)
    mixed = mixup(first, second, 0.25)
    expected = 0.25 * np.asarray(first.image).astype(float) + 0.75 * np.asarray(second.image)
    assert np.abs(np.asarray(mixed.image) - expected).max() <= 1
    np.testing.assert_array_equal(mixed.boxes, np.concatenate([first.boxes, second.boxes]))


def test_colour_equals_colorsys():
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    options = Augmentation(hue=0.1, saturation=0.4, brightness=0.3)
    got = np.asarray(jitter_colour(Image.fromarray(pixels), np.random.default_rng(9), options)).astype(float)
    hue, saturation, brightness = np.random.default_rng(9).uniform(-1, 1, 3) * (0.1, 0.4, 0.3)
    for row, column in itertools.product(range(8), range(8)):
        h, s, v = colorsys.rgb_to_hsv(*(pixels[row, column] / 255))
        h, s, v = (h + round(hue * 256) / 256) % 1, min(s * (1 + saturation), 1), min(v * (1 + brightness), 1)
        expected = 255 * np.array(colorsys.hsv_to_rgb(h, s, v))
        assert np.abs(got[row, column] - expected).max() <= 8  # hue and saturation in 8 bits


def test_no_colour_change_when_off():
    image = marked(0).image
    assert jitter_colour(image, np.random.default_rng(0), Augmentation(hue=0, saturation=0, brightness=0)) is image


def test_augment_depends_on_the_generator_alone():
    samples = [marked(k) for k in range(5)]

    def run(seed: int, calm: bool = False) -> Sample:
        return augment(2, 5, samples.__getitem__, np.random.default_rng(seed), ALL, (64, 64), calm=calm)

    for seed in range(10):
        one, two = run(seed), run(seed)
        assert one.image.tobytes() == two.image.tobytes()
        np.testing.assert_array_equal(one.boxes, two.boxes)
        assert len(one.boxes) == len(one.labels) and one.boxes.dtype == np.float32
    assert run(0).image.tobytes() != run(1).image.tobytes()
    assert run(3, calm=True).boxes.shape == (1, 4)
