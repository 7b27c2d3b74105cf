# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import small_sets
from marked_pictures import Marked
from PIL import Image

from fastdet.cli import main
from fastdet.data.augmentation import RECIPES, augmented_sample
from fastdet.data.augmentation.contact_sheet import GAP, contact_sheet
from fastdet.drawing import draw


def test_a_sheet_shows_the_samples():
    recipe = RECIPES["yolov5"]
    sheet = contact_sheet(Marked(0, 5), recipe, names=["a"] * 8, size=(48, 64), count=9, columns=3, seed=4, epoch=2)
    assert sheet.shape == (2 * 48 + GAP, 3 * 64 + 2 * GAP, 3)  # five pictures, of nine that were asked for
    for number in range(5):
        sample = augmented_sample(Marked(0, 5), number, recipe=recipe, size=(48, 64), seed=4, epoch=2)
        top, left = number // 3 * (48 + GAP), number % 3 * (64 + GAP)
        expected = draw(sample.image, sample.boxes, sample.labels, names=["a"] * 8)
        np.testing.assert_array_equal(sheet[top : top + 48, left : left + 64], expected)
    assert (sheet[48 : 48 + GAP] == 255).all() and (sheet[-48:, -64:] == 255).all()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="there are no pictures"):
        contact_sheet([], RECIPES["yolov5"])
    with pytest.raises(ValueError, match="count and columns"):
        contact_sheet(Marked(0, 3), RECIPES["yolov5"], columns=0)


def test_check_writes_a_sheet_of_what_can_be_read(tmp_path, capfd):
    root = small_sets.write_yolo(tmp_path / "set")
    (root / "images/train/b.png").write_bytes(b"no picture")
    assert main(["check", str(root), "--sheet", str(tmp_path / "s.png"), "--recipe", "yolov7"]) == 1
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (2 * 640 + GAP, 640)
    assert "picture-no-picture: 1" in capfd.readouterr().out
    assert main(["check", str(root), "--recipe", "yolov4"]) == 1
    assert "must be one of fastdet, yolov5" in capfd.readouterr().err
    assert main(["check", str(root), "--sheet", "s.gif"]) == 2
    assert "--sheet must end in one of" in capfd.readouterr().err
