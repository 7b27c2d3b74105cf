# SPDX-License-Identifier: Apache-2.0
"""The picture of ``fastdet check --png``: bars and cells are as long and as dark as what they count."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_sets import write_yolo

from broken_pictures import pattern
from fastdet.cli import main
from fastdet.data.charts import BAR, HEAT, Area, Chart, Tick, bars, heat_map, histogram, shortened
from fastdet.data.check import check_dataset
from fastdet.data.dataset import Dataset, Picture
from fastdet.data.label_sheet import label_sheet


def sheet_of(draw):
    sheet = Image.new("RGB", (500, 400), (255, 255, 255))
    draw(Chart(sheet, Area(0, 0, 500, 400), "Title"))
    return np.asarray(sheet)


def lengths(image, colour, axis):
    """How far each row or column is filled with a colour, where it is at all."""
    counts = (image == colour).all(-1).sum(axis)
    return counts[counts > 0]


def test_bars_are_as_long_as_their_counts():
    colours = [(200, 0, 0), (0, 150, 0), (0, 0, 200)]
    rows = [(name, count, colour) for name, count, colour in zip("abc", (100, 50, 0), colours)]
    image = sheet_of(lambda chart: bars(chart, rows))
    first, second = (lengths(image, colour, 1) for colour in colours[:2])
    assert len(set(first)) == len(set(second)) == 1 and abs(first[0] - 2 * second[0]) <= 2 and first[0] > 150
    assert not (image == colours[2]).all(-1).any()


def test_columns_are_as_high_as_their_counts():
    ticks = [Tick(0, "0"), Tick(1, "4")]
    image = sheet_of(lambda chart: histogram(chart, np.array([2, 0, 8, 4]), ticks, "x", "y"))
    high = lengths(image, BAR, 0)
    assert sorted({round(8 * value / high.max()) for value in high}) == [2, 4, 8]
    assert not (sheet_of(lambda chart: histogram(chart, np.zeros(4, int), [], "x", "y")) == BAR).all(-1).any()


def test_cells_are_as_dark_as_their_counts():
    grid = np.array([[0, 1], [4, 16]])  # row 0 lies at the bottom
    found = []
    image = sheet_of(lambda chart: found.append(heat_map(chart, grid, [], [], "x", "y")))
    left, top, right, bottom = found[0]
    wide, high = (right - left) // 2, (bottom - top) // 2
    cells = [
        image[top + high // 2 + row * high, left + wide // 2 + column * wide] for row in (0, 1) for column in (0, 1)
    ]
    assert [tuple(cell.tolist()) for cell in cells] == [HEAT[2], HEAT[4], HEAT[0], HEAT[1]]


def test_texts_are_shortened_to_their_room():
    assert shortened("platelets", 14, 500) == "platelets"
    assert shortened("platelets", 14, 40).endswith("…") and shortened("platelets", 14, 1) == ""


def synthetic(pictures, classes, seed=0, folder=None):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(pictures):
        height, width = (int(side) for side in rng.integers(40, 900, 2))
        count = int(rng.integers(0, 9)) if classes else 0
        corners = rng.uniform(0, 1, (count, 2, 2)) * (width, height)
        boxes = np.concatenate([corners.min(1), corners.max(1) + 0.1], 1).astype(np.float32)
        labels = rng.integers(0, max(classes, 1), count) ** 2 // max(classes, 1)
        path = folder / f"{number}.png"
        Image.fromarray(pattern(height, width, number)).save(path)
        made.append(Picture(number, path, height, width, boxes, labels))
    names = tuple(f"class number {k}" for k in range(classes))
    return Dataset(folder, tuple(made), (), names, tuple(range(classes)))


@pytest.mark.parametrize(("pictures", "classes"), [(20, 30), (3, 1), (2, 0), (0, 2)])
def test_sheets_of_any_data_set(tmp_path, pictures, classes):
    dataset = synthetic(pictures, classes, folder=tmp_path)
    sheet = label_sheet({"train": dataset, "val": synthetic(0, classes, folder=tmp_path)}, "a title " * 60)
    assert sheet.dtype == np.uint8 and sheet.shape[1:] == (1600, 3) and sheet.shape[0] > 900
    assert (sheet[:, -20:] == 255).all() and (sheet[-20:] == 255).all()  # nothing runs over the edge
    shown = min(12, sum(len(each.boxes) > 0 for each in dataset.pictures) or pictures)
    assert (sheet.shape[0] > 1000) == (shown > 0)
    assert np.array_equal(
        sheet, label_sheet({"train": dataset, "val": synthetic(0, classes, folder=tmp_path)}, "a title " * 60)
    )


def test_the_command_writes_it_whatever_is_broken(tmp_path, capfd):
    root = write_yolo(tmp_path / "set")
    (root / "images" / "train" / "b.png").write_bytes((root / "images" / "train" / "b.png").read_bytes()[:200])
    assert main(["check", str(root), "--png", str(tmp_path / "out" / "labels.png")]) == 1
    assert "picture-truncated: 1" in capfd.readouterr().out
    with Image.open(tmp_path / "out" / "labels.png") as picture:
        image = np.asarray(picture)
    report = check_dataset(root)
    assert list(report.sets) == ["train", "val"] and "sets" not in report.to_dict()
    assert np.array_equal(image, label_sheet(report.sets, f"{report.path}, {report.kind}"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["labels.png"]
