# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from fastdet.data.augment import Augmentation
from fastdet.data.coco import read_coco
from fastdet.data.dataset import DataError, Picture
from fastdet.data.loader import PictureCache, read_picture, train_batches

OPTIONS = Augmentation(mosaic=0.5, mixup=0.2, rotate_quarter=0.5)


def batches(shapes, *, batch_size=2, workers=0, epoch=3, seed=5, limit_mb=100, calm=False):
    data = read_coco(shapes / "annotations/train.json", shapes / "images")
    cache = PictureCache(data.pictures, limit_mb)
    return list(
        train_batches(
            data,
            cache,
            OPTIONS,
            size=(64, 96),
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            workers=workers,
            calm=calm,
        )
    )


def flat(given):
    """index -> (pixels, boxes, labels)"""
    return {
        index: (batch.images[row].tobytes(), batch.boxes[row].tobytes(), batch.labels[row].tobytes())
        for batch in given
        for row, index in enumerate(batch.indices)
    }


def test_shapes_and_order(shapes):
    given = batches(shapes, batch_size=3)
    assert len(given) == 2  # of 8 pictures, the last incomplete batch is left out
    assert given[0].images.shape == (3, 3, 64, 96) and given[0].images.dtype == np.uint8
    assert len({index for batch in given for index in batch.indices}) == 6


def test_sample_depends_on_seed_epoch_and_index_only(shapes):
    reference = flat(batches(shapes))
    assert sorted(reference) == list(range(8))
    for options in (
        {"workers": 1},
        {"workers": 3},
        {"batch_size": 4},
        {"batch_size": 8, "workers": 2},
        {"limit_mb": 0},
    ):
        assert flat(batches(shapes, **options)) == reference, options
    order = [batch.indices for batch in batches(shapes)]
    assert [batch.indices for batch in batches(shapes, workers=2)] == order
    for options in ({"epoch": 4}, {"seed": 6}):
        other = flat(batches(shapes, **options))
        assert all(other[index] != reference[index] for index in range(8))


def test_calm_samples_keep_every_box(shapes):
    data = read_coco(shapes / "annotations/train.json", shapes / "images")
    for batch in batches(shapes, calm=True):
        for row, index in enumerate(batch.indices):
            np.testing.assert_array_equal(batch.labels[row], data.pictures[index].labels)


def picture(path, height=6, width=10):
    return Picture(1, path, height, width, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def test_picture_is_turned_as_its_exif_says(tmp_path):
    pixels = np.zeros((10, 6, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # show turned clockwise by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    shown = np.asarray(read_picture(picture(tmp_path / "a.png")))
    assert shown.shape == (6, 10, 3) and (shown[:, -1] == 255).all() and not shown[:, :-1].any()


def test_bad_pictures_are_named(tmp_path):
    Image.new("RGB", (10, 6)).save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("cut.jpg", "page.jpg", "empty.jpg", "folder.jpg", "missing.jpg"):
        with pytest.raises(DataError, match=f"{name}: cannot be decoded"):
            read_picture(picture(tmp_path / name))
    with pytest.raises(DataError, match=r"good.jpg: is 10 x 6 pixels, the annotations say 10 x 7"):
        read_picture(picture(tmp_path / "good.jpg", height=7))


def test_an_error_in_a_worker_reaches_the_caller(shapes):
    data = read_coco(shapes / "annotations/train.json", shapes / "images")
    broken = tuple(dataclasses.replace(each, path=each.path.with_name("none.png")) for each in data.pictures)
    data = dataclasses.replace(data, pictures=broken)
    with pytest.raises(DataError, match=r"none.png"):
        list(
            train_batches(data, PictureCache(broken), OPTIONS, size=(64, 64), batch_size=2, seed=0, epoch=0, workers=2)
        )
