# SPDX-License-Identifier: Apache-2.0
"""``label_sheet``: what the labels of a data set are like, as one picture to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fastdet.data.charts import BAR, MUTED, Area, Chart, Tick, bars, heat_map, histogram, shortened
from fastdet.data.dataset import DataError, Dataset
from fastdet.data.pictures import read_picture
from fastdet.drawing import class_colour, draw

__all__ = ["label_sheet"]

WIDTH, MARGIN, GAP, HEAD = 1600, 28, 36, 84
PANEL = 390  # height of a chart
CELLS = 48  # of heat maps and histograms, along an axis
ROWS = 12  # of a chart with bars
COLUMNS, SAMPLE_HEIGHT = 4, 280


@dataclass
class _Labels:
    """All boxes and pictures of a data set as columns."""

    names: tuple[str, ...]
    sizes: np.ndarray  # [P, 2] height, width of the pictures
    per_picture: np.ndarray  # [P] boxes
    boxes: np.ndarray  # [N, 4] corners in pixels
    labels: np.ndarray  # [N]
    of_box: np.ndarray  # [N, 2] size of the box's picture


def label_sheet(sets: Mapping[str, Dataset], title: str, *, samples: int = 12) -> np.ndarray:
    """Label statistics of all splits together, and pictures with their boxes.

    Charts: objects per class, boxes per picture, picture sizes; where box centres lie, box sizes in pixels (both axes
    logarithmic, with COCO's bounds between small, medium and large), width / height. Then pictures evenly spaced over
    each split; of a split with labels those that have some.

    Args:
        sets: split -> data set, as ``check_dataset`` keeps them. title: written above.
        samples: pictures to show; those that cannot be read are left out.

    Returns:
        [H, 1600, 3] uint8 RGB.
    """
    labels = _columns(sets)
    shown = [each for split, picture in _chosen(sets, samples) if (each := _sample(split, picture, sets)) is not None]
    rows = -(-len(shown) // COLUMNS)
    height = HEAD + 2 * (PANEL + GAP) + (rows * (SAMPLE_HEIGHT + GAP) + 32 if rows else 0) + MARGIN
    sheet = Image.new("RGB", (WIDTH, height), (255, 255, 255))
    across = (WIDTH - 2 * MARGIN - 2 * GAP) // 3
    areas = []
    for row in range(2):
        top = HEAD + row * (PANEL + GAP)
        lefts = [MARGIN + column * (across + GAP) for column in range(3)]
        areas += [Area(left, top, left + across, top + PANEL) for left in lefts]
    splits = ", ".join(f"{split or 'all'} {len(dataset)}" for split, dataset in sets.items())
    head = Chart(sheet, Area(MARGIN, 18, WIDTH - MARGIN, HEAD), shortened(title, 16, WIDTH - 2 * MARGIN))
    text = f"{len(labels.sizes):,} pictures ({splits}), {len(labels.boxes):,} boxes of {len(labels.names)} classes"
    head.write((MARGIN, 42), shortened(text, 14, WIDTH - 2 * MARGIN), fill=MUTED)
    _classes(sheet, areas[0], labels)
    _per_picture(sheet, areas[1], labels)
    _picture_sizes(sheet, areas[2], labels)
    _centres(sheet, areas[3], labels)
    _box_sizes(sheet, areas[4], labels)
    _aspects(sheet, areas[5], labels)
    if shown:
        top = HEAD + 2 * (PANEL + GAP)
        Chart(sheet, Area(MARGIN, top, WIDTH - MARGIN, top + 30), "Samples", "evenly spaced over each split")
        _place(sheet, top + 32, shown)
    return np.asarray(sheet)


def _columns(sets: Mapping[str, Dataset]) -> _Labels:
    pictures = [picture for dataset in sets.values() for picture in dataset.pictures]
    names = max((dataset.names for dataset in sets.values()), key=len, default=())
    sizes = np.array([(each.height, each.width) for each in pictures], np.int64).reshape(-1, 2)
    counts = np.array([len(each.boxes) for each in pictures], np.int64)
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(each.boxes for each in pictures)])
    labels = np.concatenate([np.zeros(0, np.int64), *(each.labels for each in pictures)])
    return _Labels(names, sizes, counts, boxes.astype(np.float64), labels, np.repeat(sizes, counts, axis=0))


def _classes(sheet: Image.Image, area: Area, labels: _Labels) -> None:
    counts = np.bincount(labels.labels, minlength=len(labels.names))
    order = np.argsort(-counts, kind="stable").tolist()
    few = order if len(order) <= ROWS else order[: ROWS - 1]
    rest = order[len(few) :]
    empty = int((counts == 0).sum())
    note = f"{empty} without an object" if empty else ""
    chart = Chart(sheet, area, "Objects per class", note)
    rows = [(labels.names[k], int(counts[k]), class_colour(k)) for k in few]
    if rest:
        rows.append((f"{len(rest)} other classes", int(counts[rest].sum()), MUTED))
    bars(chart, rows)


def _per_picture(sheet: Image.Image, area: Area, labels: _Labels) -> None:
    counts = labels.per_picture
    background = int((counts == 0).sum())
    note = f"{background:,} without, at most {int(counts.max(initial=0)):,}"
    chart = Chart(sheet, area, "Boxes per picture", note)
    if not counts.any():
        chart.nothing("no boxes")
        return
    step = max(1, math.ceil((int(counts.max()) + 1) / CELLS))
    columns = np.bincount(counts // step)
    every = max(1, len(columns) // 8)
    ticks = [Tick((k + 0.5) / len(columns), f"{k * step}") for k in range(0, len(columns), every)]
    histogram(chart, columns, ticks, "boxes" if step == 1 else f"boxes, {step} a column", "pictures")


def _picture_sizes(sheet: Image.Image, area: Area, labels: _Labels) -> None:
    different, counts = np.unique(labels.sizes, axis=0, return_counts=True)
    chart = Chart(sheet, area, "Picture sizes", f"width x height, {len(different):,} different")
    order = np.argsort(-counts, kind="stable")
    if len(different) <= ROWS:
        bars(chart, [(f"{w} x {h}", int(n), BAR) for (h, w), n in zip(different[order].tolist(), counts[order])])
        return
    _log_heat(chart, labels.sizes[:, 1], labels.sizes[:, 0], "width, pixels", "height, pixels")


def _centres(sheet: Image.Image, area: Area, labels: _Labels) -> None:
    chart = Chart(sheet, area, "Centres of boxes", "share of the picture's width and height")
    centres = (labels.boxes[:, :2] + labels.boxes[:, 2:]) / 2 / labels.of_box[:, ::-1]
    cells = int(np.clip(math.sqrt(len(centres)) / 2, 8, CELLS))  # else few boxes are but noise
    grid = np.histogram2d(1 - centres[:, 1], centres[:, 0], bins=cells, range=((0, 1), (0, 1)))[0]
    across = [Tick(0, "0"), Tick(0.5, "0.5"), Tick(1, "1")]
    down = [Tick(1 - tick.place, tick.text) for tick in across]
    heat_map(chart, grid, across, down, "x", "y", "no boxes")


def _box_sizes(sheet: Image.Image, area: Area, labels: _Labels) -> None:
    sides = labels.boxes[:, 2:] - labels.boxes[:, :2]
    areas = sides.prod(axis=1)
    parts = ((areas < 32**2).sum(), ((areas >= 32**2) & (areas <= 96**2)).sum(), (areas > 96**2).sum())
    shares = (
        f"{name} {100 * part / max(len(areas), 1):.0f} %" for name, part in zip(("small", "medium", "large"), parts)
    )
    chart = Chart(sheet, area, "Box sizes", ", ".join(shares))
    if not len(sides):
        chart.nothing("no boxes")
        return
    inner, top = _log_heat(chart, sides[:, 0], sides[:, 1], "width, pixels", "height, pixels")
    for side in (32, 96):  # COCO's areas
        total = 2 * math.log2(side) / top  # of the line x + y = total, in shares of the axes
        low, high = max(0.0, total - 1), min(1.0, total)
        if low < high:
            wide, tall = inner.right - inner.left, inner.bottom - inner.top
            start = (inner.left + low * wide, inner.bottom - high * tall)
            chart.pen.line((*start, inner.left + high * wide, inner.bottom - low * tall), fill=(213, 94, 0))


def _log_heat(chart: Chart, x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> tuple[Area, float]:
    """Heat map over log2 of two lengths in pixels, from 1; where it lies, and the end of its axes."""
    top = max(2.0, math.ceil(2 * math.log2(max(x.max(), y.max()))) / 2)
    logs = [np.log2(np.maximum(each, 1)) for each in (y, x)]
    grid = np.histogram2d(logs[0], logs[1], bins=CELLS, range=((0, top), (0, top)))[0]
    ticks = [Tick(power / top, str(2**power)) for power in range(0, int(top) + 1, 2 if top > 5 else 1)]
    return heat_map(chart, grid, ticks, ticks, x_name, y_name), top


def _aspects(sheet: Image.Image, area: Area, labels: _Labels) -> None:
    chart = Chart(sheet, area, "Width / height of boxes")
    sides = labels.boxes[:, 2:] - labels.boxes[:, :2]
    ratios = np.clip(np.log2(sides[:, 0] / np.maximum(sides[:, 1], 1e-9)), -3.999, 3.999)
    counts = np.histogram(ratios, bins=CELLS, range=(-4, 4))[0]
    words = {-4: "1:16", -2: "1:4", -1: "1:2", 0: "1:1", 1: "2:1", 2: "4:1", 4: "16:1"}
    histogram(chart, counts, [Tick((power + 4) / 8, text) for power, text in words.items()], "width : height", "boxes")


def _chosen(sets: Mapping[str, Dataset], samples: int) -> list[tuple[str, int]]:
    """(split, picture) evenly spaced; splits get room by their share, each at least one."""
    chosen: list[tuple[str, int]] = []
    total = sum(len(dataset) for dataset in sets.values())
    for number, (split, dataset) in enumerate(sets.items()):
        left = samples - len(chosen) - (len(sets) - number - 1)
        wanted = max(1, min(left, round(samples * len(dataset) / max(total, 1))))
        with_boxes = [i for i, picture in enumerate(dataset.pictures) if len(picture.boxes)] or range(len(dataset))
        wanted = min(wanted, len(with_boxes))
        places = np.linspace(0, max(len(with_boxes) - 1, 0), wanted).astype(int).tolist()
        chosen += [(split, with_boxes[place]) for place in places]
    return chosen[:samples]


def _sample(split: str, index: int, sets: Mapping[str, Dataset]) -> tuple[str, Image.Image] | None:
    """A picture with its boxes as large as its place on the sheet, and what is written below it."""
    dataset = sets[split]
    picture = dataset.pictures[index]
    across = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP // 2) // COLUMNS
    try:
        image = Image.fromarray(read_picture(picture, (SAMPLE_HEIGHT, across)))
    except DataError:
        return None
    scale = min(across / picture.width, SAMPLE_HEIGHT / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    boxes = picture.boxes * np.array([size[0] / picture.width, size[1] / picture.height] * 2)
    small = np.asarray(image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST))
    drawn = draw(small, boxes, picture.labels, names=dataset.names, line_width=2, font_size=11)
    return f"{split}: {picture.path.name}" if split else picture.path.name, Image.fromarray(drawn)


def _place(sheet: Image.Image, top: int, shown: list[tuple[str, Image.Image]]) -> None:
    pitch = (WIDTH - 2 * MARGIN + GAP // 2) // COLUMNS
    for number, (text, image) in enumerate(shown):
        left = MARGIN + number % COLUMNS * pitch
        y = top + number // COLUMNS * (SAMPLE_HEIGHT + GAP)
        sheet.paste(image, (left, y))
        chart = Chart(sheet, Area(left, y, left + pitch, y), "")
        chart.write((left, y + image.height + 5), shortened(text, 12, pitch - GAP), size=12, fill=MUTED)
