# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet.data.augmentation.affine import affine_matrix
from fastdet.data.augmentation.box_geometry import (
    candidates,
    clip_boxes,
    clip_polygon,
    in_front,
    pixel_matrix,
    polygon_hull,
    polygon_mask,
    shared_area,
    stretch_matrix,
    translation,
    warp_boxes,
    warp_points,
)

REACH = st.floats(-1, 1)


@st.composite
def matrices(draw):
    """Maps of recipes and beyond, perspective among them, for pictures of about 100 pixels."""
    tilt = (0.001 * draw(REACH), 0.001 * draw(REACH))
    scale = draw(st.floats(0.2, 3))
    shear = (20 * draw(REACH), 20 * draw(REACH))
    shift = (0.5 * draw(REACH), 0.5 * draw(REACH))
    return affine_matrix(tilt, 180 * draw(REACH), scale, shear, shift, (100, 120), (64, 90))


@st.composite
def box_lists(draw):
    corner = st.tuples(st.floats(-50, 150), st.floats(-50, 150), st.floats(0, 100), st.floats(0, 100))
    rows = draw(st.lists(corner, max_size=5))
    boxes = np.array(rows, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


@given(box_lists(), matrices())
@settings(max_examples=60)
def test_hull_is_the_smallest_that_contains_the_corners(boxes, matrix):
    hulls = warp_boxes(boxes, matrix)
    for (x1, y1, x2, y2), hull in zip(boxes, hulls, strict=True):
        points = [matrix @ [x, y, 1] for x in (x1, x2) for y in (y1, y2)]
        xs, ys = [p[0] / p[2] for p in points], [p[1] / p[2] for p in points]
        np.testing.assert_allclose(hull, [min(xs), min(ys), max(xs), max(ys)], atol=1e-6)
    assert hulls.shape == boxes.shape and in_front(boxes, matrix).all()


@given(box_lists(), matrices())
@settings(max_examples=60)
def test_what_lies_in_the_box_lands_in_the_hull(boxes, matrix):
    hulls = warp_boxes(boxes, matrix)
    for along in (0.1, 0.5, 0.9):
        inner = boxes[:, :2] + along * (boxes[:, 2:] - boxes[:, :2])
        moved = warp_points(inner, matrix)
        assert ((moved >= hulls[:, :2] - 1e-6) & (moved <= hulls[:, 2:] + 1e-6)).all()


def test_boxes_across_the_horizon_are_known():
    matrix = affine_matrix((0.02, 0.0), 0, 1, (0, 0), (0, 0), (100, 100), (100, 100))
    boxes = np.array([[40.0, 40, 60, 60], [-40, 40, 60, 60], [-80, 0, -60, 10]])
    assert in_front(boxes, matrix).tolist() == [True, False, False]


def test_pixel_indices_are_half_a_pixel_off():
    matrix = stretch_matrix((10, 20), (30, 40))
    np.testing.assert_allclose(pixel_matrix(matrix) @ [0, 0, 1], [0.5, 1.0, 1])  # point (0.5, 0.5) -> (1, 1.5)
    np.testing.assert_array_equal(pixel_matrix(np.eye(3)), np.eye(3))
    assert tuple(pixel_matrix(translation(3, 4) @ matrix)[2]) == (0, 0, 1)  # stays affine, exactly


def test_clipping():
    boxes = np.array([[-10, -10, 10, 10], [60, 0, 70, 10], [70, 40, 80, 50]])
    np.testing.assert_array_equal(clip_boxes(boxes, (32, 64)), [[0, 0, 10, 10], [60, 0, 64, 10], [64, 32, 64, 32]])


def test_shared_area():
    boxes, others = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 5, 20, 7], [10, 0, 20, 10], [2, 2, 3, 3]])
    np.testing.assert_array_equal(shared_area(boxes, others), [[10, 0, 1]])


@pytest.mark.parametrize(
    ("before", "after", "limits", "kept"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), {}, True),
        ((0, 0, 10, 10), (0, 0, 2, 10), {}, False),  # a side must be longer than 2
        ((0, 0, 10, 10), (0, 0, 2.01, 10), {}, True),
        ((0, 0, 40, 40), (0, 0, 16, 10), {}, False),  # a tenth of the area must be exceeded
        ((0, 0, 40, 40), (0, 0, 16.1, 10), {}, True),
        ((0, 0, 40, 40), (0, 0, 4.1, 4), {"min_area": 0.01}, True),
        ((0, 0, 40, 40), (0, 0, 16.1, 10), {"scale": 2.0}, False),  # of the area as the scale makes it
        ((0, 0, 40, 40), (0, 0, 3, 15), {"scale": 0.5}, True),
        ((0, 0, 63, 3), (0, 0, 63, 3), {"max_aspect": 20.0}, False),
        ((0, 0, 3, 63), (0, 0, 3, 63), {}, True),
        ((0, 0, 300, 3), (0, 0, 300, 3), {}, False),
        ((0, 0, 10, 10), (0, 0, 0, 0), {}, False),
        ((0, 0, 0, 0), (0, 0, 0, 0), {}, False),
    ],
)
def test_candidates(before, after, limits, kept):
    rule = {"scale": 1.0, **limits}
    assert candidates(np.array([before], float), np.array([after], float), **rule).tolist() == [kept]


def slow_inside(points: np.ndarray, x: float, y: float) -> bool:
    """Even-odd rule, edge by edge."""
    inside = False
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (ay <= y) != (by <= y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
            inside = not inside
    return inside


POLYGONS = st.lists(st.tuples(st.integers(-8, 24), st.integers(-8, 24)), min_size=3, max_size=8).map(
    lambda rows: np.array(rows) + np.array([0.23717, 0.11131])  # no edge passes through the centre of a pixel
)


@given(POLYGONS)
@settings(max_examples=40)
def test_mask_is_the_even_odd_rule_at_pixel_centres(points):
    mask = polygon_mask(points, (2, 3), (11, 13))
    expected = [[slow_inside(points, x + 2.5, y + 3.5) for x in range(13)] for y in range(11)]
    np.testing.assert_array_equal(mask, np.array(expected, np.uint8))


@given(POLYGONS)
@settings(max_examples=40)
def test_hull_of_a_polygon_is_that_of_its_part_in_view(points):
    """Against many points of the window: none of the polygon outside the hull, some of it near each side."""
    window = (0.0, 0.0, 16.0, 12.0)
    hull = polygon_hull(points, window)
    fine = 4
    mask = polygon_mask(points * fine, (0, 0), (12 * fine, 16 * fine))
    if hull is None:
        assert not mask.any()
        return
    assert (hull[:2] >= 0).all() and hull[2] <= 16 and hull[3] <= 12
    rows, columns = np.nonzero(mask)
    if len(rows):
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / fine
        assert (hull[:2] <= seen[:2] + 1 / fine).all() and (hull[2:] >= seen[2:] - 1 / fine).all()


@given(POLYGONS)
@settings(max_examples=40)
def test_clipped_polygons_cover_the_same_pixels(points):
    clipped = clip_polygon(points, (12, 16))
    np.testing.assert_array_equal(polygon_mask(clipped, (0, 0), (12, 16)), polygon_mask(points, (0, 0), (12, 16)))
    assert ((clipped >= -1e-9) & (clipped <= [16 + 1e-9, 12 + 1e-9])).all()


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[2, 2], [6, 2], [6, 5]], (2, 2, 6, 5)),
        ([[-4, 5], [4, 1], [4, 9]], (0, 1, 4, 9)),
        ([[-50, -50], [90, -50], [20, 90]], (0, 0, 16, 12)),  # the window lies inside
        ([[20, 20], [30, 20], [25, 30]], None),
        ([[-10, 4], [4, -10], [-10, -10]], None),  # its box meets the window, it does not
        ([[-2, 6], [8, -4], [30, 30], [-2, 30]], (0, 0, 16, 12)),
        ([[12, 2], [20, 2], [20, 4], [12, 4]], (12, 2, 16, 4)),
    ],
)
def test_hull_of_polygons(points, expected):
    hull = polygon_hull(np.array(points, float), (0.0, 0.0, 16.0, 12.0))
    assert (hull is None) if expected is None else np.allclose(hull, expected)
