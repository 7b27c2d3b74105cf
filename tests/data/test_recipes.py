# SPDX-License-Identifier: Apache-2.0
"""Every recipe: boxes follow the pixels, and nothing but (seed, epoch, index) decides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marked_pictures import Marked, extent, red

from fastdet.data.augmentation import RECIPES, Augmentation, Recipe, Sample, augmented_sample, recipe_named
from fastdet.data.augmentation.scene import FILL

# Recipes of the table, and what no recipe of the table uses.
ALL = {
    **RECIPES,
    "perspective": Recipe(mosaic=0.5, perspective=0.001, degrees=15.0, shear=5.0, flip_vertical=0.5),
    "nine": Recipe(mosaic9=1.0, shuffle_tiles=False, scale=(0.3, 0.8)),
    "cutmix": Recipe(mosaic=0.3, cutmix=1.0, mixup_with="any"),
    "own, all": Augmentation(
        mixup=0.3, rotate=20, shear=5, flip_vertical=0.5, rotate_quarter=0.5, translate=0.2, min_visible=0.0
    ),
}
SIZE = (64, 96)


def turns(recipe: Augmentation | Recipe) -> bool:
    """Whether upright rectangles may become others."""
    if isinstance(recipe, Augmentation):
        return bool(recipe.rotate or recipe.shear)
    return bool(recipe.degrees or recipe.shear or recipe.perspective)


@pytest.mark.parametrize("polygons", [False, True], ids=["boxes", "polygons"])
@pytest.mark.parametrize("name", ALL)
def test_boxes_follow_the_pixels(name, polygons):
    """The box that is returned is where the red rectangle is found, to 1.5 pixels.

    With rotation, the hull of four corners is loose where the border cuts them; with polygons it is not.
    """
    recipe = ALL[name]
    exact = not turns(recipe) or (polygons and isinstance(recipe, Recipe))
    compared = 0
    for seed in range(12):
        for calm in (False, True):
            pictures = Marked(seed, polygons=polygons)
            sample = augmented_sample(pictures, 0, recipe=recipe, size=SIZE, seed=seed, calm=calm)
            assert sample.boxes.dtype == np.float32 and len(sample.boxes) == len(sample.labels)
            shown = red(sample.image)
            # The picture was drawn twice, or its rectangle lies behind a pasted one: more than one to find.
            if pictures.asked.count(0) > 1 or not len(sample.boxes) or not shown.any():
                continue
            box, found = sample.boxes[0], np.array(extent(shown))
            assert len(sample.boxes) == 1 and sample.labels.tolist() == [7]
            assert (box[:2] <= found[:2] + 1.5).all() and (box[2:] >= found[2:] - 1.5).all()
            inner = (box[:2] > 1.5).all() and (box[2:] < np.array(SIZE[::-1]) - 1.5).all()
            if exact or inner:
                np.testing.assert_allclose(box, found, atol=1.5)
                compared += 1
    assert compared >= 8


@pytest.mark.parametrize("name", ALL)
def test_a_dropped_box_leaves_little_to_see(name):
    recipe = ALL[name]
    for seed in range(12):
        pictures = Marked(seed)
        sample = augmented_sample(pictures, 0, recipe=recipe, size=SIZE, seed=seed, epoch=1)
        shown = red(sample.image)
        if len(sample.boxes) or pictures.asked.count(0) > 1 or not shown.any():
            continue
        x1, y1, x2, y2 = extent(shown)
        # Below 2 pixels a side (and what rounding adds), or a small share of an object at most 3 times as big.
        assert min(x2 - x1, y2 - y1) <= 4 or (x2 - x1) * (y2 - y1) <= 0.25 * 9 * 26 * 26


@pytest.mark.parametrize("name", ALL)
def test_samples_depend_on_seed_epoch_and_index_alone(name):
    def run(seed: int, epoch: int, index: int) -> bytes:
        sample = augmented_sample(Marked(0, 6), index, recipe=ALL[name], size=(32, 48), seed=seed, epoch=epoch)
        assert sample.image.shape == (32, 48, 3) and sample.image.dtype == np.uint8
        return sample.image.tobytes() + sample.boxes.tobytes()

    first = run(1, 2, 0)
    assert run(1, 2, 3) and run(1, 2, 0) == first  # whatever was made in between
    assert len({run(1, 2, 0), run(2, 2, 0), run(1, 3, 0)}) == 3


def test_pictures_are_not_written():
    kept = Marked(0, 6)
    samples = [kept(index) for index in range(6)]
    before = [sample.image.copy() for sample in samples]

    class Kept(Marked):
        def __call__(self, index: int) -> Sample:
            return samples[index]

    for recipe in ALL.values():
        for index in range(6):
            augmented_sample(Kept(0, 6), index, recipe=recipe, size=(40, 40))
    assert all((sample.image == each).all() for sample, each in zip(samples, before, strict=True))


NOTHING = Recipe(mosaic=0.0, translate=0.0, scale=(1.0, 1.0), hsv=(0.0, 0.0, 0.0), flip_horizontal=0.0)


class Noise:
    """One picture of noise with two boxes."""

    def __init__(self, seed: int, height: int, width: int) -> None:
        rng = np.random.default_rng(seed)
        corners = np.sort(rng.uniform(0, 1, (2, 2, 2)), axis=1).reshape(2, 4)
        boxes = (corners * [width, height, width, height]).astype(np.float32)
        self.sample = Sample(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), boxes, np.array([3, 1]))

    def __len__(self) -> int:
        return 1

    def __call__(self, index: int) -> Sample:
        return self.sample


@given(st.integers(0, 99), st.integers(5, 40), st.integers(5, 40))
@settings(max_examples=25)
def test_the_recipe_of_nothing_returns_the_picture(seed, height, width):
    source = Noise(seed, height, width)
    loose = dataclasses.replace(NOTHING, min_side=0.0, min_area=0.0, max_aspect=1e9)
    for recipe, calm in ((loose, False), (loose, True), (dataclasses.replace(loose, last_epochs="stretch"), True)):
        sample = augmented_sample(source, 0, recipe=recipe, size=(height, width), seed=seed, calm=calm)
        np.testing.assert_array_equal(sample.image, source.sample.image)
        np.testing.assert_allclose(sample.boxes, source.sample.boxes, atol=1e-4)
        np.testing.assert_array_equal(sample.labels, source.sample.labels)


@given(st.integers(0, 99), st.sampled_from(sorted(RECIPES)))
@settings(max_examples=25)
def test_flips_are_involutions(seed, name):
    """Turned over on purpose, a sample is the mirror image of itself; twice is none at all."""
    base = RECIPES[name]
    if isinstance(base, Augmentation):
        name, base = "yolov5", RECIPES["yolov5"]
    height, width = 40, 56

    def run(horizontal: float, vertical: float) -> Sample:
        recipe = dataclasses.replace(base, flip_horizontal=horizontal, flip_vertical=vertical)
        return augmented_sample(Marked(seed, 9), 0, recipe=recipe, size=(height, width), seed=seed)

    plain, left, up, both = run(0, 0), run(1, 0), run(0, 1), run(1, 1)
    np.testing.assert_array_equal(left.image[:, ::-1], plain.image)
    np.testing.assert_array_equal(up.image[::-1], plain.image)
    np.testing.assert_array_equal(both.image[::-1, ::-1], plain.image)
    mirrored = plain.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
    np.testing.assert_allclose(left.boxes, mirrored, atol=1e-4)
    np.testing.assert_allclose(
        up.boxes, plain.boxes[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, height, 0, height], atol=1e-4
    )
    np.testing.assert_allclose(both.boxes[:, ::2], left.boxes[:, ::2], atol=1e-4)


PASTING = {
    "copy_paste": 1.0,
    "copy_paste_boxes": True,
    "cutmix": 0.7,
    "mixup": 0.5,
    "perspective": 0.001,
    "degrees": 180.0,
    "flip_vertical": 0.5,
}
WILD = {
    "pasting": Recipe(copy_paste_mode="mixup", copy_paste_rule="ranked", mixup_with="any", **PASTING),
    "pasting, nine": Recipe(mosaic9=0.5, mixup_with="picture", shear=30.0, last_epochs="stretch", **PASTING),
}


class Wild:
    """A few pictures from one pixel on, of noise, with up to five boxes, some of them with polygons."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.samples = [self._sample(rng) for _ in range(rng.integers(1, 6))]

    def _sample(self, rng: np.random.Generator) -> Sample:
        height, width = rng.integers(1, 60 if rng.random() < 0.8 else 3, 2)
        count = int(rng.integers(0, 6))
        boxes = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1).reshape(count, 4) * [width, height, width, height]
        polygons = tuple(rng.uniform(box[:2], box[2:], (rng.integers(3, 9), 2)) for box in boxes)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Sample(image, boxes.astype(np.float32), np.arange(count), polygons if rng.random() < 0.5 else None)

    def __len__(self) -> int:
        return len(self.samples)

    def __call__(self, index: int) -> Sample:
        return self.samples[index]


@pytest.mark.parametrize("name", [*ALL, *WILD])
def test_any_size_and_any_boxes(name):
    recipe = {**ALL, **WILD}[name]
    for seed in range(25):
        rng = np.random.default_rng(seed)
        pictures, size, calm = Wild(rng), tuple(rng.integers(1, 50, 2).tolist()), bool(rng.random() < 0.2)
        sample = augmented_sample(pictures, len(pictures) - 1, recipe=recipe, size=size, seed=seed, calm=calm)
        assert sample.image.shape == (*size, 3) and sample.labels.dtype == np.int64
        assert len(sample.boxes) == len(sample.labels) and sample.boxes.dtype == np.float32
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all() and (sample.boxes >= 0).all()
        assert (sample.boxes[:, 2:] <= size[::-1]).all()


def test_layouts_and_out():
    plain = augmented_sample(Marked(0, 9), 0, recipe=RECIPES["yolov7"], size=SIZE)
    batch = np.zeros((2, 3, *SIZE), np.uint8)
    written = augmented_sample(Marked(0, 9), 0, recipe=RECIPES["yolov7"], size=SIZE, layout="nchw", out=batch[1])
    np.testing.assert_array_equal(batch[1].transpose(1, 2, 0), plain.image)
    assert written.image.shape == (3, *SIZE) and not batch[0].any()


def test_letterbox_is_centred_and_grey():
    source = Noise(0, 20, 40)
    sample = augmented_sample(source, 0, recipe=NOTHING, size=(40, 40))
    np.testing.assert_array_equal(sample.image[10:30], source.sample.image)
    assert (sample.image[:10] == FILL).all() and (sample.image[30:] == FILL).all()


def test_recipes_have_the_published_numbers():
    """One line for what each sheet says and another recipe does not."""
    assert RECIPES["yolov5"].scale == (0.5, 1.5) and RECIPES["yolov5"].hsv == (0.015, 0.7, 0.4)
    assert RECIPES["yolov5-high"].mixup == 0.1 and RECIPES["yolov5-high"].mixup_beta == (32, 32)
    assert (RECIPES["yolov7"].mosaic9, RECIPES["yolov7"].max_aspect, RECIPES["yolov7"].translate) == (0.2, 20, 0.2)
    assert RECIPES["yolov7"].mixup_beta == (8, 8) and RECIPES["yolov7"].scale[1] == 2.0
    assert RECIPES["yolov8"].additive_hue and not RECIPES["yolov8"].mixup
    assert RECIPES["yolov9"].copy_paste == 0.3 and RECIPES["yolov9"].copy_paste_rule == "filtered"
    assert (RECIPES["damo-yolo"].degrees, RECIPES["damo-yolo"].shear, RECIPES["damo-yolo"].scale) == (10, 2, (0.1, 2))
    assert RECIPES["damo-yolo-ns"].scale == (0.75, 1.25) and RECIPES["damo-yolo-ns"].shear == 0.2
    assert RECIPES["fastdet"] == Augmentation()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"mosaic": 1.5}, r"mosaic must be in \[0, 1\], got 1.5"),
        ({"mixup": float("nan")}, "mixup must be in"),
        ({"perspective": 0.1}, r"perspective must be in \[0, 0.001\]"),
        ({"scale": (0.0, 1.0)}, "scale must be 0 < low <= high"),
        ({"scale": (2.0, 1.0)}, "scale must be 0 < low <= high"),
        ({"hsv": (0.1, 0.1)}, "hsv must be three gains"),
        ({"hsv": (0.1, 0.1, 2.0)}, "hsv must be three gains"),
        ({"mixup_beta": (0.5, 8)}, "mixup_beta must be two integers"),
        ({"copy_paste_rule": "all"}, "copy_paste_rule must be one of"),
        ({"last_epochs": "none"}, "last_epochs must be one of"),
    ],
)
def test_wrong_recipes(wrong, text):
    with pytest.raises(ValueError, match=text):
        Recipe(**wrong)


def test_wrong_calls():
    with pytest.raises(ValueError, match="must be one of fastdet, yolov5"):
        recipe_named("yolov4")
    with pytest.raises(ValueError, match=r"index must be in 0 \.\. 5, got 6"):
        augmented_sample(Marked(0, 6), 6, recipe=NOTHING, size=SIZE)
    with pytest.raises(ValueError, match="size must be"):
        augmented_sample(Marked(0, 6), 0, recipe=NOTHING, size=(0, 5))
