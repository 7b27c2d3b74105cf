# SPDX-License-Identifier: Apache-2.0
"""Compose: equality of its reference with OpenCV, step by step and as a whole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet.ops._compose_rules import hsv_to_rgb, inverse_map, rgb_to_hsv, warp
from fastdet.ops.compose import Layer, Tile, compose_reference

FILL = np.full(3, 114, np.uint8)
CV_AVX2, CV_FMA3 = 11, 12


def random_matrix(rng: np.random.Generator, projective: bool) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2] += rng.normal(0, 0.3, (2, 3))
    matrix[:2, 2] += rng.normal(0, 30, 2)
    if projective:
        matrix[2, :2] = rng.normal(0, 0.0007, 2)
    return matrix


def random_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def opencv_warp(picture: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: int = 114) -> np.ndarray:
    options = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_CONSTANT, "borderValue": (fill,) * 3}
    if tuple(matrix[2]) == (0, 0, 1):
        return cv2.warpAffine(picture, matrix[:2], size[::-1], **options)
    return cv2.warpPerspective(picture, matrix, size[::-1], **options)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    source=st.tuples(st.integers(2, 200), st.integers(2, 200)),
    size=st.tuples(st.integers(1, 120), st.integers(1, 200)),
    projective=st.booleans(),
)
def test_warp_is_that_of_opencv(seed, source, size, projective):
    # OpenCV takes the last 1 to 16 columns of a row one by one, with roundings of their own.
    rng = np.random.default_rng(seed)
    picture, matrix = random_picture(rng, *source), random_matrix(rng, projective)
    ours, theirs = warp(picture, inverse_map(matrix), size, FILL), opencv_warp(picture, matrix, size)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    if cv2.checkHardwareSupport(CV_AVX2) and cv2.checkHardwareSupport(CV_FMA3):
        vectors = (size[1] - 1) // 16 * 16
        np.testing.assert_array_equal(ours[:, :vectors], theirs[:, :vectors])


def test_hsv_is_that_of_opencv():
    # All colours, in rows of a multiple of 32: OpenCV rounds the pixels after the last 32 otherwise.
    steps = np.arange(0, 256, 5, dtype=np.uint8)
    triples = np.stack(np.meshgrid(np.arange(256, dtype=np.uint8), steps, steps, indexing="ij"), -1)
    colours = triples.reshape(-1, 52 * 32, 3)
    hsv = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)
    np.testing.assert_array_equal(rgb_to_hsv(colours), hsv)
    if cv2.checkHardwareSupport(CV_AVX2) and cv2.checkHardwareSupport(CV_FMA3):
        np.testing.assert_array_equal(hsv_to_rgb(hsv), cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
        np.testing.assert_array_equal(hsv_to_rgb(colours), cv2.cvtColor(colours, cv2.COLOR_HSV2RGB))


@pytest.mark.parametrize("projective", [False, True])
def test_reference_is_the_recipe_in_opencv(projective):
    rng = np.random.default_rng(5)
    s = 64
    tables = np.stack([np.arange(256) * 1.01 % 180, np.arange(256) * 0.7, np.minimum(np.arange(256) * 1.3, 255)])
    tables = tables.astype(np.uint8)
    layers, pictures = [], []
    for _ in range(2):
        canvas = np.full((2 * s, 2 * s, 3), 114, np.uint8)
        tiles = []
        for left, top, height, width in ((-10, -3, 60, 65), (55, 7, 50, 70), (5, 57, 71, 50), (55, 57, 40, 64)):
            picture = random_picture(rng, height, width)
            tiles.append(Tile(picture, left, top))
            cut = picture[max(-top, 0) :, max(-left, 0) :][: 2 * s - max(top, 0), : 2 * s - max(left, 0)]
            canvas[max(top, 0) :, max(left, 0) :][: cut.shape[0], : cut.shape[1]] = cut
        matrix = random_matrix(rng, projective)
        layers.append(Layer(tiles, (2 * s, 2 * s), matrix))
        pictures.append(opencv_warp(canvas, matrix, (s, s)))
    ratio = 0.3719
    mixed = (pictures[0] * ratio + pictures[1] * (1 - ratio)).astype(np.uint8)
    hsv = cv2.cvtColor(mixed, cv2.COLOR_BGR2HSV)
    moved = cv2.merge([cv2.LUT(plane, table) for plane, table in zip(cv2.split(hsv), tables)])
    expected = cv2.cvtColor(moved, cv2.COLOR_HSV2BGR)[:, ::-1]
    ours = compose_reference(
        layers, (s, s), blend=ratio, hsv=tables, channel_order="bgr", flip_horizontal=True, layout="nchw"
    )
    different = np.abs(ours.transpose(1, 2, 0).astype(int) - expected).max(-1)[:, ::-1]
    if cv2.checkHardwareSupport(CV_AVX2) and cv2.checkHardwareSupport(CV_FMA3):
        assert different[:, : s - 16].max() == 0
