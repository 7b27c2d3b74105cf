# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fastdet.data.augmentation import Recipe, Sample, Stream
from fastdet.data.augmentation.blending import blended, cutmix, partner
from fastdet.data.augmentation.box_geometry import shared_area
from fastdet.data.augmentation.colour_tables import hsv_tables
from fastdet.data.augmentation.copy_paste import paste_from, paste_mirrored
from fastdet.data.augmentation.mosaic import fitted, mosaic4, mosaic9, single
from fastdet.data.augmentation.scene import Canvas, Objects, View, flat, join, lay, pixels

SIZE = (40, 60)
BOXES = Recipe(copy_paste=1.0, copy_paste_boxes=True)


class Plain:
    """Pictures of one grey each (number + 1), of different proportions, with one box that fills them."""

    shapes = ((40, 30), (20, 60), (40, 60), (13, 17), (80, 50), (31, 90), (40, 41), (7, 60), (55, 33), (40, 12))

    def __len__(self) -> int:
        return len(self.shapes)

    def __call__(self, index: int) -> Sample:
        height, width = self.shapes[index]
        box = np.array([[0, 0, width, height]], np.float32)
        return Sample(np.full((height, width, 3), index + 1, np.uint8), box, np.array([index]))


def whole(canvas: Canvas) -> np.ndarray:
    """Pixels of a canvas."""
    return pixels(flat(canvas.tiles, canvas.size, canvas.objects))


def boxes_are_tiles(canvas: Canvas) -> None:
    """Each box is exactly where the grey of its picture lies."""
    image = whole(canvas)[..., 0]
    covered = np.zeros(image.shape, bool)
    for (x1, y1, x2, y2), label in zip(canvas.objects.boxes, canvas.objects.labels, strict=True):
        part = np.s_[round(y1) : round(y2), round(x1) : round(x2)]
        assert (image[part] == label + 1).all() and not covered[part].any()
        covered[part] = True
    assert (image[~covered] == 114).all()


@pytest.mark.parametrize(("rounding", "expected"), [("down", (40, 52)), ("up", (40, 53))])
def test_pictures_are_fitted(rounding, expected):
    assert fitted(Plain()(3), SIZE, Recipe(fit_rounding=rounding)).size == expected  # 17 * 40 / 13 = 52.3


@pytest.mark.parametrize("seed", range(8))
def test_mosaic_of_four(seed):
    recipe = Recipe(shuffle_tiles=False)
    canvas = mosaic4(2, Plain(), Stream(seed, 0, 2), recipe, SIZE)
    assert canvas.size == (80, 120) and len(canvas.tiles) == 4
    centre_y, centre_x = canvas.tiles[3].top, canvas.tiles[3].left
    assert 20 <= centre_y < 60 and 30 <= centre_x < 90
    for number, tile in enumerate(canvas.tiles):
        height, width = tile.image.shape[:2]
        assert height == 40 or width == 60
        assert (tile.left if number % 2 else tile.left + width) == centre_x
        assert (tile.top if number >= 2 else tile.top + height) == centre_y
    assert (canvas.tiles[0].image == 3).all()
    boxes_are_tiles(canvas)


def test_shuffled_tiles_are_the_same_pictures():
    first = {tuple(mosaic4(2, Plain(), Stream(s, 0, 0), Recipe(), SIZE).objects.labels.tolist()) for s in range(40)}
    assert len({labels.index(2) for labels in first if 2 in labels}) == 4
    for seed in range(5):
        shuffled = mosaic4(2, Plain(), Stream(seed, 0, 0), Recipe(), SIZE)
        plain = mosaic4(2, Plain(), Stream(seed, 0, 0), Recipe(shuffle_tiles=False), SIZE)
        greys = [sorted(int(tile.image[0, 0, 0]) for tile in canvas.tiles) for canvas in (shuffled, plain)]
        assert greys[0] == greys[1]


def test_stretched_tiles_fill_the_input():
    canvas = mosaic4(0, Plain(), Stream(0, 0, 0), Recipe(stretch_tiles=True), SIZE)
    assert all(tile.image.shape == (*SIZE, 3) for tile in canvas.tiles)
    boxes_are_tiles(canvas)


@pytest.mark.parametrize("seed", range(8))
def test_mosaic_of_nine(seed):
    canvas = mosaic9(4, Plain(), Stream(seed, 0, 4), Recipe(), SIZE)
    assert canvas.size == (80, 120) and len(canvas.tiles) == 9
    spans = np.array([[t.left, t.top, t.left + t.image.shape[1], t.top + t.image.shape[0]] for t in canvas.tiles])
    assert (shared_area(spans, spans)[~np.eye(9, dtype=bool)] == 0).all()
    centre, *ring = spans.tolist()
    assert 0 <= centre[0] <= 60 and 0 <= centre[1] <= 40
    top, top_right, right, bottom_right, bottom, bottom_left, left, top_left = ring
    assert top[3] == centre[1] and top[0] == centre[0] and right[0] == centre[2] and right[1] == centre[1]
    assert bottom[1] == centre[3] and bottom[2] == centre[2] and left[2] == centre[0] and left[3] == centre[3]
    assert top_right[0] == top[2] and top_right[3] == centre[1]
    assert bottom_right[1] == right[3] and bottom_right[0] == centre[2]
    assert bottom_left[2] == bottom[0] and bottom_left[1] == centre[3]
    assert top_left[3] == left[1] and top_left[2] == centre[0]
    boxes_are_tiles(canvas)


def scene_with(boxes: list[tuple[int, int, int, int]], *, triangles: bool = False) -> Canvas:
    """Noise of 40 x 60 with objects."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    polygons = tuple(np.array([[x1, y1], [x2, y1], [x1, y2]], float) for x1, y1, x2, y2 in boxes)
    sample = Sample(image, np.array(boxes, np.float32), np.arange(len(boxes)), polygons if triangles else None)
    return lay(SIZE, [(sample, 0, 0)])


def test_mirrored_objects_are_pasted_as_their_polygons():
    canvas = scene_with([(2, 5, 12, 25)], triangles=True)
    pasted = paste_mirrored(canvas, Stream(0, 0, 0), Recipe(copy_paste=1.0))
    np.testing.assert_array_equal(pasted.objects.boxes, [[2, 5, 12, 25], [48, 5, 58, 25]])
    assert pasted.objects.labels.tolist() == [0, 0] and pasted.owners.tolist() == [0, 1]
    np.testing.assert_array_equal(pasted.objects.polygons[1], [[58, 5], [48, 5], [58, 25]])
    before, after = whole(canvas), whole(pasted)
    inside = [[x + 0.5 < 2 + 10 * (25 - (y + 0.5)) / 20 and x >= 2 and y >= 5 for x in range(60)] for y in range(40)]
    expected = np.where(np.array(inside)[:, ::-1, None], before[:, ::-1], before)
    np.testing.assert_array_equal(after, expected)


def test_rectangles_only_where_they_are_allowed():
    canvas = scene_with([(2, 5, 12, 25)])
    assert paste_mirrored(canvas, Stream(0, 0, 0), Recipe(copy_paste=1.0)) is canvas
    before, after = whole(canvas), whole(paste_mirrored(canvas, Stream(0, 0, 0), BOXES))
    expected = before.copy()
    expected[5:25, 48:58] = before[:, ::-1][5:25, 48:58]
    np.testing.assert_array_equal(after, expected)


def test_pasted_objects_cover_little():
    """The second lies across the middle, over its own mirror image; the fourth over the mirror image of the third."""
    canvas = scene_with([(0, 0, 6, 6), (20, 10, 44, 20), (2, 30, 12, 40), (45, 30, 55, 40)])
    for rule in ("drawn", "filtered", "ranked"):
        recipe = dataclasses.replace(BOXES, copy_paste_rule=rule)
        labels = paste_mirrored(canvas, Stream(1, 0, 0), recipe).objects.labels[4:].tolist()
        assert labels == [0]


@pytest.mark.parametrize(("rule", "counts"), [("drawn", {0, 1, 2}), ("filtered", {1}), ("ranked", {1})])
def test_how_many_are_pasted(rule, counts):
    """Half of four objects, two of which may be pasted: of two drawn ones none to two, of two allowed ones one."""
    canvas = scene_with([(0, 0, 6, 6), (0, 8, 6, 14), (20, 20, 44, 29), (20, 30, 44, 40)])
    recipe = dataclasses.replace(BOXES, copy_paste=0.5, copy_paste_rule=rule)
    seen = {len(paste_mirrored(canvas, Stream(seed, 0, 0), recipe).owners) - 4 for seed in range(40)}
    assert seen == counts


def test_ranked_pastes_what_covers_least_first():
    canvas = scene_with([(20, 0, 31, 6), (0, 8, 6, 14)])  # the first overlaps its mirror image a little
    recipe = dataclasses.replace(BOXES, copy_paste=0.5, copy_paste_rule="ranked")
    assert paste_mirrored(canvas, Stream(0, 0, 0), recipe).objects.labels[2:].tolist() == [1]


def noise_view(seed: int, boxes: list[tuple[int, int, int, int]]) -> View:
    image = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    sample = Sample(image, np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes)))
    canvas = lay(SIZE, [(sample, 0, 0)])
    return flat(canvas.tiles, SIZE, canvas.objects)


def test_objects_of_another_view_are_pasted_in_place():
    first, second = noise_view(0, [(0, 0, 10, 10)]), noise_view(1, [(20, 5, 40, 15), (0, 0, 8, 8)])
    pasted = paste_from(first, second, Stream(0, 0, 0), BOXES)
    np.testing.assert_array_equal(pasted.objects.boxes, [[0, 0, 10, 10], [20, 5, 40, 15]])
    expected = pixels(first).copy()
    expected[5:15, 20:40] = pixels(second)[5:15, 20:40]
    np.testing.assert_array_equal(pixels(pasted), expected)


def test_mixup_truncates_the_mean_and_joins():
    first, second = noise_view(0, [(0, 0, 10, 10)]), noise_view(1, [(20, 5, 40, 15)])
    mixed = blended(first, second, 0.375)
    expected = (0.375 * pixels(first) + 0.625 * pixels(second)).astype(np.uint8)
    np.testing.assert_array_equal(pixels(mixed), expected)
    np.testing.assert_array_equal(mixed.objects.boxes, [[0, 0, 10, 10], [20, 5, 40, 15]])


@pytest.mark.parametrize("seed", range(12))
def test_partner_of_a_mixup(seed):
    """Grey where the fitted picture leaves room, black where the scaled canvas ends."""
    view = partner(Plain()(4), Stream(seed, 0, 0), SIZE)  # 80 x 50, fitted to 40 x 25 of 40 x 60
    zoom = Stream(seed, 0, 0).uniform(0.5, 1.5)
    image = pixels(view)[..., 0]
    assert set(np.unique(image)) <= {0, 5, 114}
    if zoom < 1:
        height, width = int(40 * zoom), int(60 * zoom)
        assert (image[height:] == 0).all() and (image[:, width:] == 0).all() and (image[:height, :width] > 0).all()
    else:
        assert (image > 0).all()
    for x1, y1, x2, y2 in view.objects.boxes:
        assert (image[round(y1) : round(y2), round(x1) : round(x2)] == 5).all()
        assert (image == 5).sum() == round(y2 - y1) * round(x2 - x1)


@pytest.mark.parametrize("seed", range(20))
def test_cutmix(seed):
    first, second = noise_view(0, [(4, 4, 12, 20)]), noise_view(1, [(20, 5, 40, 15), (0, 0, 5, 5), (30, 20, 60, 40)])
    mixed = cutmix(first, second, Stream(seed, 0, 0), Recipe())
    changed = (pixels(mixed) != pixels(first)).any(axis=2)
    if mixed is first:
        return
    window = mixed.layers[0].tiles[1].window
    assert shared_area(np.array([window], float), first.objects.boxes).sum() == 0
    shown = np.zeros(SIZE, bool)
    shown[window[1] : window[3], window[0] : window[2]] = True
    assert not changed[~shown].any()
    np.testing.assert_array_equal(pixels(mixed)[shown], pixels(second)[shown])
    arrived = {}
    for label, (x1, y1, x2, y2) in enumerate(second.objects.boxes.tolist()):
        cut = [max(x1, window[0]), max(y1, window[1]), min(x2, window[2]), min(y2, window[3])]
        part = max(cut[2] - cut[0], 0) * max(cut[3] - cut[1], 0)
        if part and part >= 0.1 * (x2 - x1) * (y2 - y1):
            arrived[label] = cut
    assert mixed.objects.labels.tolist() == [0, *arrived]
    np.testing.assert_array_equal(mixed.objects.boxes[1:], np.array(list(arrived.values())).reshape(-1, 4))


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_colour_tables(additive, seed):
    gains = (0.1, 0.7, 0.4)
    u = [2 * each - 1 for each in Stream(seed, 0, 0).uniforms(3)]
    hue, saturation, value = hsv_tables(Stream(seed, 0, 0), gains, additive_hue=additive).tolist()
    for level in range(180):
        turned = level + 180 * u[0] * 0.1 if additive else level * (1 + u[0] * 0.1)
        assert hue[level] == int(turned % 180) < 180
    for level in range(256):
        assert saturation[level] == int(min(level * (1 + u[1] * 0.7), 255))
        assert value[level] == int(min(level * (1 + u[2] * 0.4), 255))
    assert saturation[0] == 0


def test_no_gain_is_no_table_but_as_many_draws():
    stream, other = Stream(0, 0, 0), Stream(0, 0, 0)
    assert hsv_tables(stream, (0.0, 0.0, 0.0), additive_hue=False) is None
    hsv_tables(other, (0.1, 0.1, 0.1), additive_hue=False)
    assert stream.uniform() == other.uniform()


def test_letterboxed_picture_is_in_the_middle():
    canvas = single(Plain()(0), SIZE, Recipe())  # 40 x 30
    np.testing.assert_array_equal(canvas.objects.boxes, [[15, 0, 45, 40]])
    boxes_are_tiles(canvas)


def test_parts_without_polygons_leave_none():
    """A sample without objects says nothing about polygons."""
    triangle, plain = scene_with([(2, 5, 12, 25)], triangles=True).objects, scene_with([(2, 5, 12, 25)]).objects
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, np.int64), None)
    assert join([triangle, plain]).polygons is None
    assert len(join([triangle, nothing]).polygons) == 1 and join([]).polygons == ()
