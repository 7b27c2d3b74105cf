# SPDX-License-Identifier: Apache-2.0
"""Every stage of a detection on disk, for the question where a wrong box comes from (``fastdet predict --trace``)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.drawing import draw, encode
from fastdet.files import write_atomic
from fastdet.sources import Picture

__all__ = ["STAGES", "Trace"]

STAGES = ("letterbox", "head", "decoded", "kept", "image")
MAX_DRAWN = 300  # boxes in the picture of a stage; more hide one another


class Trace:
    """Give it to ``Detector.predict(on_stage=...)``; it writes one folder per picture under ``folder``.

    Each folder holds ``trace.txt`` (a line per array: stage, name, shape, dtype, minimum, mean, maximum, how many are
    not finite), the arrays of every stage as ``<number>_<stage>.npz``, and a picture of every stage: the network's
    input, the best class score of each cell per level, candidates on the input, kept boxes on the input, the result.

    Args:
        folder: made if missing; what it holds is overwritten.
        spec: of the model; tells how the input was normalised and which strides the levels have.
        names: class names. score_threshold: candidates above it are drawn in the stage "decoded".
    """

    def __init__(self, folder: Any, spec: Any, names: Any, score_threshold: float) -> None:
        self.folder = Path(folder)
        self.spec, self.names, self.score_threshold = spec, names, score_threshold
        self.folders: list[Path] = []
        self.inputs: list[np.ndarray] = []
        self.lines: list[list[str]] = []
        self.number = 0

    def __call__(self, stage: str, pictures: list[Picture], arrays: Mapping[str, Any]) -> None:
        """Write one stage of one batch; ``arrays`` have one row per picture."""
        if stage == STAGES[0]:
            self._begin(pictures)
        for i, picture in enumerate(pictures):
            rows = {name: _host(value[i]) for name, value in arrays.items() if stage != "image"}
            if stage == "kept":
                n = int(rows.pop("count"))
                rows = {name: row[:n] for name, row in rows.items()}
            if stage == "image":
                found = arrays["detections"][i]
                rows = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
            self.lines[i] += [_describe(stage, name, row) for name, row in rows.items()]
            path = self.folders[i] / f"{STAGES.index(stage) + 1}_{stage}"
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **rows)  # type: ignore[arg-type]
            write_atomic(path.with_suffix(".npz"), buffer.getvalue())
            image = self._picture(stage, i, picture, rows)
            write_atomic(path.with_suffix(".png"), encode(image, ".png"))
            if stage == STAGES[-1]:
                write_atomic(self.folders[i] / "trace.txt", ("\n".join(self.lines[i]) + "\n").encode())

    def _begin(self, pictures: list[Picture]) -> None:
        self.folders, self.inputs, self.lines = [], [np.zeros(0)] * len(pictures), []
        for picture in pictures:
            self.number += 1
            name = picture.path.stem if picture.path else "array"
            self.folders.append(self.folder / f"{self.number:04d}_{name}")
            height, width = picture.size
            head = (
                f"{picture.path or 'array'}: {width} x {height}; model {self.spec.name}, input {self.spec.input_size}"
            )
            self.lines.append([head, _line("stage", "array", "shape", "dtype", "min", "mean", "max", "not finite")])

    def _picture(self, stage: str, i: int, picture: Picture, rows: dict[str, np.ndarray]) -> np.ndarray:
        if stage == "letterbox":
            self.inputs[i] = self._as_seen(rows["input"])
            return self.inputs[i]
        if stage == "head":
            return self._heat(rows)
        if stage == "decoded":
            scores, labels = rows["scores"].max(-1), rows["scores"].argmax(-1)
            best = np.argsort(-scores, kind="stable")[:MAX_DRAWN]
            best = best[scores[best] > self.score_threshold]
            return draw(self.inputs[i], rows["boxes"][best], labels[best], scores[best], None)
        if stage == "kept":
            return draw(self.inputs[i], rows["boxes"], rows["labels"], rows["scores"], self.names)
        return draw(picture.image, rows["boxes"], rows["labels"], rows["scores"], self.names)

    def _as_seen(self, batch: np.ndarray) -> np.ndarray:
        """The network's input [3, H, W] back as [H, W, 3] uint8 RGB: the inverse of the model's normalisation."""
        image = batch.astype(np.float32).transpose(1, 2, 0)
        if self.spec.std is not None:
            image = image * np.float32(self.spec.std)
        if self.spec.mean is not None:
            image = image + np.float32(self.spec.mean)
        image = image * 255 if self.spec.scale else image
        image = np.rint(np.nan_to_num(image)).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(image[..., ::-1] if self.spec.color == "BGR" else image)

    def _heat(self, rows: dict[str, np.ndarray]) -> np.ndarray:
        """Square root of the best class score or objectness of each cell, a map per level; black is 0, white is 1.

        Of a model that answers with queries instead of maps: its scores, a row per query and a column per class.
        """
        maps = [row for name, row in rows.items() if name.startswith(("cls_logits", "objectness"))]
        maps = maps or [rows["logits"][None]]
        tall = max(level.shape[1] for level in maps)
        scaled = []
        for level in maps:
            best = 255 / np.sqrt(1 + np.exp(-level.max(0).astype(np.float64)))
            repeat = max(1, tall // level.shape[1])
            scaled.append(np.kron(np.nan_to_num(best), np.ones((repeat, repeat))))
        rows_needed = max(level.shape[0] for level in scaled)
        padded = [np.pad(level, ((0, rows_needed - level.shape[0]), (0, 1)), constant_values=128) for level in scaled]
        grey = np.kron(np.hstack(padded), np.ones((4, 4))).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)


def _host(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def _line(*columns: str) -> str:
    return "{:<10}{:<18}{:<18}{:<9}{:>13}{:>13}{:>13}{:>12}".format(*columns)


def _describe(stage: str, name: str, row: np.ndarray) -> str:
    shape = "x".join(map(str, row.shape)) or "scalar"
    finite = row[np.isfinite(row)]
    numbers = [f"{value:.6g}" for value in (finite.min(), finite.mean(), finite.max())] if finite.size else ["-"] * 3
    return _line(stage, name, shape, str(row.dtype), *numbers, str(row.size - finite.size))
