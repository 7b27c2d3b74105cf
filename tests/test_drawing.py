# SPDX-License-Identifier: Apache-2.0
"""The drawn picture: only boxes and labels change, labels stay inside and off each other, colours differ."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from broken_pictures import pattern
from fastdet.drawing import class_colour, draw, encode, place_labels

NAMES = ["RBC", "WBC", "Platelets"]


def near(boxes: np.ndarray, image_size: tuple[int, int], margin: int) -> np.ndarray:
    mask = np.zeros(image_size, bool)
    for x1, y1, x2, y2 in np.rint(boxes).astype(int):
        mask[max(y1 - margin, 0) : max(y2 + margin, 0), max(x1 - margin, 0) : max(x2 + margin, 0)] = True
    return mask


def random_boxes(count: int, image_size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    height, width = image_size
    centre = rng.uniform(0, 1, (count, 2)) * [width, height]
    half = rng.uniform(0.02, 0.12, (count, 2)) * width
    return np.concatenate([centre - half, centre + half], 1).astype(np.float32)


def test_only_outlines_change_without_labels():
    image = pattern(240, 320)
    boxes = np.float32([[20, 30, 120, 90], [100.4, 50.6, 300, 200], [310, 220, 400, 300]])
    out = draw(image, boxes, np.array([0, 1, 2]))
    changed = (out != image).any(-1)
    assert out.shape == image.shape and changed.any() and not np.shares_memory(out, image)
    assert not changed[~near(boxes, (240, 320), 1)].any()
    inner = np.zeros_like(changed)  # three pixels of line at most
    for x1, y1, x2, y2 in np.rint(boxes).astype(int):
        inner[y1 + 3 : max(y2 - 3, 0), x1 + 3 : max(x2 - 3, 0)] = True
    for x1, y1, x2, y2 in np.rint(boxes).astype(int):
        x2, y2 = min(x2, 320), min(y2, 240)
        assert tuple(out[y1 + 5, x1]) == tuple(out[y1, x1 + 5])  # the line starts at the box's own first pixel
    lone = draw(image, boxes[:1], np.array([1]))
    assert tuple(lone[30, 70]) == tuple(lone[89, 70]) == tuple(lone[60, 20]) == tuple(lone[60, 119]) == class_colour(1)
    assert np.array_equal(lone[35:85, 25:115], image[35:85, 25:115])


def test_labels_change_only_their_rectangle():
    image = pattern(240, 320)
    box = np.float32([[100, 100, 200, 180]])
    plain = draw(image, box, np.array([0]))
    out = draw(image, box, np.array([0]), np.float32([0.87]), NAMES)
    rows, columns = np.nonzero((out != plain).any(-1))
    assert rows.min() >= 100 - 30 and rows.max() <= 102 and columns.min() >= 99 and columns.max() < 100 + 80
    label = out[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].reshape(-1, 3)
    assert (label == class_colour(0)).all(1).mean() > 0.5 and (label.min(1) > 240).any()  # ground and white ink


@pytest.mark.parametrize("image_size", [(480, 640), (64, 64), (30, 400), (2000, 120), (16, 16), (1, 1), (3, 50)])
def test_any_size_of_picture(image_size):
    image = pattern(*image_size)
    boxes = np.concatenate([random_boxes(12, image_size), np.float32([[-1e6, -1e6, 1e6, 1e6], [5, 5, 5, 5]])])
    labels = np.arange(14) % 3
    out = draw(image, boxes, labels, np.linspace(0.1, 1, 14), NAMES)
    assert out.shape == image.shape and out.dtype == np.uint8


def test_labels_lie_inside_and_rarely_hide_each_other():
    for seed in range(20):
        boxes = random_boxes(20, (480, 640), seed)
        sizes = np.tile([[17, 62]], (20, 1))
        placed = place_labels(boxes, sizes, (480, 640))
        assert (placed[:, :2] >= 0).all() and (placed[:, 2] <= 640).all() and (placed[:, 3] <= 480).all()
        assert np.array_equal(placed[:, 2:] - placed[:, :2], sizes[:, ::-1])
        hidden = sum(
            max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            for a, b in itertools.combinations(placed.tolist(), 2)
        )
        assert hidden < 0.05 * 20 * 17 * 62


def test_long_names_are_cut_to_the_picture():
    image = np.full((60, 60, 3), 255, np.uint8)
    out = draw(image, np.float32([[10, 30, 50, 50]]), np.array([0]), np.float32([0.5]), ["a name that is far too long"])
    blue = (out == class_colour(0)).all(-1)
    assert blue[:29].any() and out.shape == image.shape


def test_texts_of_any_script_do_not_fail():
    image = np.zeros((80, 200, 3), np.uint8)
    draw(image, np.float32([[10, 30, 150, 70]]), np.array([0]), None, ["\u767d\u8840\u7403 \U0001f600 \x00 caf\u00e9"])


def colour_seen(colour, matrix):
    linear = (np.array(colour) / 255) ** 2.2
    return np.clip(matrix @ linear, 0, 1) ** (1 / 2.2) * 255


# Brettel-type simulation, linear RGB, as in Vienot, Brettel and Mollon 1999.
PROTAN = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
DEUTAN = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])


def test_first_classes_differ_for_every_eye():
    colours = [class_colour(label) for label in range(7)]
    for matrix in (np.eye(3), PROTAN, DEUTAN):
        seen = [colour_seen(colour, matrix) for colour in colours]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 25
    assert len({class_colour(label) for label in range(21)}) == 21 and class_colour(21) == class_colour(0)


def test_encode_keeps_thin_colours():
    image = np.full((40, 40, 3), 200, np.uint8)
    image[20, :] = (0, 114, 178)
    for suffix, error in ((".png", 0), (".jpg", 45), (".JPEG", 45), (".webp", 60), (".bmp", 0), (".tif", 0)):
        with Image.open(io.BytesIO(encode(image, suffix))) as back:
            assert np.abs(np.asarray(back)[20].astype(int) - image[20]).max() <= error
