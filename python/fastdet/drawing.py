# SPDX-License-Identifier: Apache-2.0
"""Boxes and labels on a picture, by Pillow. ``draw`` is the whole of it; ``place_labels`` decides where texts go."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["class_colour", "draw", "encode", "place_labels"]

# Okabe and Ito's palette for all kinds of colour vision (jfly.uni-koeln.de/color), strongest contrasts first;
# black is left out because it says nothing about a class, yellow comes last because it is weak on pale pictures.
HUES = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (230, 159, 0),
    (240, 228, 66),
)
SHADES = (0.0, -0.45, 0.5)  # of the first, second, third seven classes: towards black (< 0) or white (> 0)


def class_colour(label: int) -> tuple[int, int, int]:
    """RGB of a class: 21 colours that stay apart for all kinds of colour vision, then the same again."""
    hue = HUES[label % len(HUES)]
    shade = SHADES[label // len(HUES) % len(SHADES)]
    goal = 255 if shade > 0 else 0
    return tuple(round(value + (goal - value) * abs(shade)) for value in hue)  # type: ignore[return-value]


def _luminance(colour: Sequence[int]) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2.1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _ink(colour: Sequence[int]) -> tuple[int, int, int]:
    """Black or white, whichever is easier to read on ``colour``; the contrasts meet at luminance 0.179."""
    # White is favoured a little: on mid tones it looks clearer than the formula says.
    return (255, 255, 255) if _luminance(colour) < 0.26 else (16, 16, 16)


def place_labels(boxes: np.ndarray, sizes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Where to write the label of each box: inside the picture, off each other and off small boxes where that is easy.

    Labels are placed in the order given (best first). Each tries twelve places at its own box (above, inside, below,
    beside) and takes the one that covers the least; the first of equal ones.

    Args:
        boxes: [D, 4] corners in pixels.
        sizes: [D, 2] (height, width) of each label in pixels, none larger than the picture.
        image_size: (height, width).

    Returns:
        [D, 4] int64 corners of the labels, all inside the picture.
    """
    height, width = image_size
    placed = np.zeros((len(boxes), 4), np.int64)
    corners = np.rint(boxes).astype(np.int64)
    areas = np.maximum((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), 1)
    for i, ((x1, y1, x2, y2), (h, w)) in enumerate(zip(corners.tolist(), sizes.tolist())):
        left, right = (x1, x2 - w) if x2 - w > x1 else (x1, x1)
        wanted = [
            (left, y1 - h),
            (left, y1),
            (right, y1 - h),
            (left, y2),
            (left, y2 - h),
            (right, y1),
            (right, y2),
            (right, y2 - h),
            (x2, y1),
            (x1 - w, y1),
            (x2, y2 - h),
            (x1 - w, y2 - h),
        ]
        best = None
        for rank, (x, y) in enumerate(wanted):
            spot = (min(max(x, 0), width - w), min(max(y, 0), height - h))
            moved = abs(spot[0] - x) + abs(spot[1] - y)
            rectangle = np.array([*spot, spot[0] + w, spot[1] + h])
            hidden = _overlap(rectangle, placed[:i]).sum() / (h * w)
            covered = _overlap(rectangle, corners) / areas
            covered[i] *= 0.5
            cost = 10 * hidden + 2 * max(covered.max() - 0.15, 0) + moved / h + 0.02 * rank
            if best is None or cost < best[0]:
                best = (cost, rectangle)
        placed[i] = best[1]  # type: ignore[index]
    return placed


def _overlap(rectangle: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area [K] that ``rectangle`` [4] shares with each of ``others`` [K, 4]."""
    width = np.minimum(rectangle[2], others[:, 2]) - np.maximum(rectangle[0], others[:, 0])
    height = np.minimum(rectangle[3], others[:, 3]) - np.maximum(rectangle[1], others[:, 1])
    return np.maximum(width, 0) * np.maximum(height, 0)


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    *,
    line_width: int | None = None,
    font_size: int | None = None,
) -> np.ndarray:
    """Draw boxes, and labels on a filled ground, on a copy of a picture.

    Lines lie inside their boxes, so nothing outside a box changes but its label and a hairline around both, which
    keeps any colour visible on any ground. Better scores are drawn over worse ones.

    Args:
        image: [H, W, 3] uint8 RGB.
        boxes: [D, 4] corners in pixels; parts outside the picture are not drawn, nor labels of boxes without area.
        labels: [D] class ids, they choose the colour.
        scores: [D], written behind the name; None writes none.
        names: class names; None writes no labels.
        line_width, font_size: pixels; None follows the size of the picture (2 and 12 at 640 x 480).

    Returns:
        [H, W, 3] uint8 RGB, a new array.
    """
    Image, ImageDraw, _ = _pillow()
    height, width = image.shape[:2]
    scale = (height * width) ** 0.5
    line = max(1, round(scale / 300)) if line_width is None else max(1, int(line_width))
    hair = max(1, line // 2)
    font = _font(max(10, round(scale * 0.022)) if font_size is None else max(4, int(font_size)))
    picture = Image.fromarray(np.ascontiguousarray(image))
    pen = ImageDraw.Draw(picture)

    order = np.arange(len(boxes)) if scores is None else np.argsort(-np.asarray(scores), kind="stable")
    clipped = np.clip(boxes, 0, [width, height, width, height])
    order = order[(clipped[order, 2:] > clipped[order, :2]).all(1)]
    for i in order[::-1]:
        colour = class_colour(int(labels[i]))
        x1, y1, x2, y2 = np.rint(clipped[i]).astype(int).tolist()
        if x2 <= x1 or y2 <= y1:
            continue
        pen.rectangle((x1 - hair, y1 - hair, x2 - 1 + hair, y2 - 1 + hair), outline=_ink(colour), width=hair)
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=line)
    if names is not None and len(order):
        texts = [names[int(label)] for label in labels]
        if scores is not None:
            texts = [f"{text} {score:.2f}" for text, score in zip(texts, np.asarray(scores).tolist())]
        _write(pen, font, [texts[i] for i in order], clipped[order], labels[order], (height, width))
    return np.array(picture)


def _write(pen: Any, font: Any, texts: list[str], boxes: np.ndarray, labels: np.ndarray, image_size: Any) -> None:
    """Write ``texts`` on filled grounds at ``boxes``; a text wider than the picture loses its end."""
    height, width = image_size
    ascent, descent = font.getmetrics()
    pad = max(2, round(0.25 * (ascent + descent)))
    tall = ascent + descent + 2
    if tall > height:
        return
    for i, text in enumerate(texts):
        while text and font.getlength(text) + 2 * pad > width:
            text = text.rstrip("…")[:-1] + "…" if len(text) > 1 else ""
        texts[i] = text
    lengths = [int(np.ceil(font.getlength(text))) + 2 * pad for text in texts]
    shown = [i for i, text in enumerate(texts) if text]
    sizes = np.array([(tall, lengths[i]) for i in shown], np.int64).reshape(-1, 2)
    for i, (x1, y1, x2, y2) in zip(shown, place_labels(boxes[shown], sizes, image_size).tolist()):
        colour = class_colour(int(labels[i]))
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colour)
        pen.text((x1 + pad, y1 + 1 + ascent), texts[i], fill=_ink(colour), font=font, anchor="ls")


def encode(image: np.ndarray, suffix: str) -> bytes:
    """``image`` [H, W, 3] (or [H, W]) uint8 RGB as a file of the format that ``suffix`` (".png") names."""
    Image = _pillow()[0]
    buffer = io.BytesIO()
    kind = Image.registered_extensions()[suffix.lower()]
    # 4:4:4, because chroma subsampling washes thin coloured lines out.
    options = {"JPEG": {"quality": 92, "subsampling": 0}, "WEBP": {"quality": 92}}.get(kind, {})
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def _font(size: int) -> Any:
    font = _pillow()[2]
    try:
        return font.load_default(size)
    except (TypeError, OSError, ImportError) as error:
        raise RuntimeError("draw: needs Pillow >= 10.1 with FreeType; pip install 'fastdet[images]'") from error


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise RuntimeError("draw: needs Pillow; pip install 'fastdet[images]'") from error
    return Image, ImageDraw, ImageFont
