# SPDX-License-Identifier: Apache-2.0
"""Bars, histograms and heat maps on a Pillow canvas: what a sheet of label statistics needs, without matplotlib."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Area", "Chart", "Tick", "bars", "heat_map", "histogram", "shortened"]

INK, MUTED, RULE, GROUND, BAR = (32, 32, 36), (112, 112, 120), (218, 218, 224), (255, 255, 255), (0, 114, 178)
# Of heat maps, light to dark: the share of the fullest cell, square root, rises in lightness for all kinds of sight.
HEAT = ((255, 255, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
TEXT, SMALL, TITLE = 14, 12, 16
ROW = 24


class Area(NamedTuple):
    """Corners in pixels of the sheet."""

    left: int
    top: int
    right: int
    bottom: int


class Tick(NamedTuple):
    """``place`` in 0 to 1 along an axis, and what is written there."""

    place: float
    text: str


class Chart:
    """A part of a sheet with a title; ``plot`` is what is left below it."""

    def __init__(self, sheet: Image.Image, area: Area, title: str, note: str = "") -> None:
        self.sheet, self.pen = sheet, ImageDraw.Draw(sheet)
        self.write((area.left, area.top), title, size=TITLE)
        width = font(TITLE).getlength(title) + 12
        room = area.right - area.left - width
        self.write((area.left + width, area.top + TITLE - SMALL), shortened(note, SMALL, room), size=SMALL, fill=MUTED)
        self.plot = Area(area.left, area.top + 32, area.right, area.bottom)

    def write(self, place: tuple[float, float], text: str, **options: Any) -> None:
        """Text at (x, y); ``size``, ``fill`` and Pillow's ``anchor`` may be given."""
        options = {"fill": INK, "anchor": "la", **options}
        self.pen.text(place, text, font=font(options.pop("size", TEXT)), **options)

    def axes(self, x: Sequence[Tick], y: Sequence[Tick], x_name: str, y_name: str = "") -> Area:
        """Ticks and names of the axes; returns the area between them, y rising upwards."""
        inner = Area(
            self.plot.left + 44, self.plot.top + (18 if y_name else 4), self.plot.right - 8, self.plot.bottom - 40
        )
        for tick in x:
            at = inner.left + tick.place * (inner.right - inner.left)
            self.pen.line((at, inner.bottom, at, inner.bottom + 4), fill=MUTED)
            self.write((at, inner.bottom + 6), tick.text, size=SMALL, fill=MUTED, anchor="ma")
        for tick in y:
            at = inner.bottom - tick.place * (inner.bottom - inner.top)
            self.pen.line((inner.left - 4, at, inner.left, at), fill=MUTED)
            self.write((inner.left - 7, at), tick.text, size=SMALL, fill=MUTED, anchor="rm")
        self.write((inner.right, self.plot.bottom), x_name, size=SMALL, fill=MUTED, anchor="rd")
        self.write((self.plot.left, self.plot.top - 2), y_name, size=SMALL, fill=MUTED)
        return inner

    def nothing(self, text: str) -> None:
        """Instead of a plot."""
        plot = self.plot
        self.write(((plot.left + plot.right) / 2, (plot.top + plot.bottom) / 2), text, fill=MUTED, anchor="mm")


def bars(chart: Chart, rows: Sequence[tuple[str, int, tuple[int, int, int]]], rest: str = "") -> None:
    """A bar a row: name, count, colour, as many as there is room for; ``rest`` is written below them."""
    if not rows:
        chart.nothing("none")
        return
    plot = chart.plot
    most = max(count for _, count, _ in rows)
    total = sum(count for _, count, _ in rows)
    names = min(max(font(TEXT).getlength(name) for name, _, _ in rows) + 12, (plot.right - plot.left) * 0.4)
    left, right = plot.left + names, plot.right - 110
    for row, (name, count, colour) in enumerate(rows):
        top = plot.top + row * ROW
        chart.write((left - 8, top + ROW / 2), shortened(name, TEXT, names - 12), anchor="rm")
        end = left + (right - left) * count / max(most, 1)
        if count:
            chart.pen.rectangle((left, top + 4, max(end, left + 1), top + ROW - 4), fill=colour)
        share = f"{count:,}   {100 * count / max(total, 1):.1f} %"
        chart.write((end + 8, top + ROW / 2), share, size=SMALL, fill=MUTED, anchor="lm")
    chart.write((left, plot.top + len(rows) * ROW + 4), rest, size=SMALL, fill=MUTED)


def histogram(chart: Chart, counts: np.ndarray, x: Sequence[Tick], x_name: str, y_name: str) -> None:
    """Counts [N] as columns of one width."""
    most = int(counts.max(initial=0))
    if not most:
        chart.nothing("no boxes")
        return
    inner = chart.axes(x, [Tick(0, "0"), Tick(1, f"{most:,}")], x_name, y_name)
    edges = np.rint(np.linspace(inner.left, inner.right, len(counts) + 1)).astype(int).tolist()
    gap = 1 if inner.right - inner.left > 6 * len(counts) else 0
    for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        top = inner.bottom - (inner.bottom - inner.top) * count / most
        if count:
            chart.pen.rectangle((left, min(top, inner.bottom - 1), right - 1 - gap, inner.bottom - 1), fill=BAR)
    chart.pen.line((inner.left, inner.bottom, inner.right, inner.bottom), fill=MUTED)


def heat_map(
    chart: Chart, grid: np.ndarray, x: Sequence[Tick], y: Sequence[Tick], x_name: str, y_name: str, empty: str = "none"
) -> Area:
    """Counts [rows, columns] as colours, row 0 at the bottom. Returns where it lies."""
    most = int(grid.max(initial=0))
    if not most:
        chart.nothing(empty)
        return chart.plot
    inner = chart.axes(x, y, x_name, y_name)
    share = np.sqrt(grid[::-1] / most) * (len(HEAT) - 1)
    low = np.minimum(share.astype(int), len(HEAT) - 2)
    table = np.array(HEAT, float)
    colours = table[low] + (table[low + 1] - table[low]) * (share - low)[..., None]
    cells = Image.fromarray(np.rint(colours).astype(np.uint8))
    size = (inner.right - inner.left, inner.bottom - inner.top)
    chart.sheet.paste(cells.resize(size, Image.Resampling.NEAREST), inner[:2])
    chart.pen.rectangle((inner.left - 1, inner.top - 1, inner.right, inner.bottom), outline=RULE)
    return inner


def shortened(text: str, size: int, room: float) -> str:
    """``text``, its end left out where it is wider than ``room`` pixels."""
    if font(size).getlength(text) <= room:
        return text
    while text and font(size).getlength(text + "…") > room:
        text = text[:-1]
    return text + "…" if text else ""


@functools.cache
def font(size: int) -> Any:
    """Pillow's own font. Raises RuntimeError when this Pillow has no FreeType."""
    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError, ImportError) as error:
        raise RuntimeError("drawing needs Pillow >= 10.1 with FreeType; pip install 'fastdet[images]'") from error
