# SPDX-License-Identifier: Apache-2.0
"""Pictures of an evaluation, by matplotlib (extra ``plots``)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.drawing import class_colour
from fastdet.evaluation.curves import Curve
from fastdet.evaluation.errors import ErrorSplit
from fastdet.evaluation.evaluator import Evaluator
from fastdet.files import write_atomic

NAMED = 12  # classes that a legend can name
WRITTEN = 30  # classes whose numbers fit into the cells of a matrix


def save_plots(evaluator: Evaluator, folder: str | Path) -> list[Path]:
    """Write ``precision_recall.png``, ``f1_score.png``, ``confusion_matrix.png`` and ``errors.png`` into ``folder``.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    curves = evaluator.curves()
    matrix, names = evaluator.confusion_matrix(), (*evaluator.ground_truth.names, "nothing")
    figures = {
        "precision_recall": precision_recall(curves),
        "f1_score": f1_over_score(curves),
        "confusion_matrix": matrix_figure(matrix, names),
        "errors": error_figure(evaluator.error_split()),
    }
    paths = []
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        paths.append(Path(folder) / f"{name}.png")
        write_atomic(paths[-1], buffer.getvalue())
    return paths


def precision_recall(curves: Mapping[str, Curve]) -> Any:
    """Precision over recall at IoU 0.50, a line per class."""
    figure, axes = _figure((6.4, 5.2))
    for name, curve, style in _lines(curves):
        best = np.maximum.accumulate(curve.precision[::-1])[::-1]
        axes.plot(np.append(0, curve.recall), np.append(best[:1], best), label=name, **style)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Precision and recall, IoU 0.50")
    _legend(axes)
    return figure


def f1_over_score(curves: Mapping[str, Curve]) -> Any:
    """F1 over the score threshold at IoU 0.50, a line per class, and where the one of all is highest."""
    figure, axes = _figure((6.4, 5.2))
    for name, curve, style in _lines(curves):
        axes.plot(curve.scores, curve.f1, label=name, **style)
    best = curves["all"]
    axes.axvline(best.best_score, color="0.5", linewidth=0.8, linestyle=":")
    title = f"F1, IoU 0.50; all: {best.best_f1:.3f} from score {best.best_score:.3f}"
    axes.set(xlabel="score threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1.02), title=title)
    _legend(axes)
    return figure


def matrix_figure(matrix: np.ndarray, names: tuple[str, ...]) -> Any:
    """The confusion matrix; colour is the share of a row, numbers are counts."""
    size = min(4 + 0.35 * len(names), 16)
    figure, axes = _figure((size + 0.8, size))
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the row")
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="found", ylabel="truth", title="Confusion, score from 0.25, IoU from 0.50")
    if len(names) <= WRITTEN:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                ink = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=8)
    return figure


def error_figure(split: ErrorSplit) -> Any:
    """What AP50 would gain without each kind of error, and how many there are."""
    figure, axes = _figure((6.4, 3.4))
    names = list(split.gain)[::-1]
    bars = axes.barh(names, [100 * split.gain[name] for name in names], color="#0072b2")
    axes.bar_label(bars, [f" {split.count[name]}" for name in names], fontsize=8, color="0.3")
    axes.margins(x=0.12)
    title = f"AP50 {100 * split.ap50:.1f}; gain without each kind of error"
    axes.set(xlabel="points of AP50 (numbers: how many errors)", title=title)
    return figure


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _lines(curves: Mapping[str, Curve]) -> list[tuple[str | None, Curve, dict[str, Any]]]:
    """Classes in their colours, named while a legend can name them, then all together as a thick line."""
    classes = [(name, curve) for name, curve in curves.items() if name != "all" and curve.truths]
    few = len(classes) <= NAMED
    lines: list[tuple[str | None, Curve, dict[str, Any]]] = []
    for k, (name, curve) in enumerate(classes):
        colour = tuple(value / 255 for value in class_colour(k))
        lines.append((name if few else None, curve, {"color": colour if few else "0.75", "linewidth": 1}))
    return [*lines, ("all", curves["all"], {"color": "black", "linewidth": 2})]


def _legend(axes: Any) -> None:
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend(fontsize=8, frameon=False, loc="best")
