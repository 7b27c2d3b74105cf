# SPDX-License-Identifier: Apache-2.0
"""``Detections``: what a detector found on one picture. The one result type of the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastdet.boxes import xyxy_to_xywh
from fastdet.files import write_atomic

__all__ = ["Detection", "Detections"]

SAVE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Detection(NamedTuple):
    """One object: ``box`` [4] float32 corners in pixels, ``score`` in [0, 1], class id ``label`` and its ``name``."""

    box: np.ndarray
    score: float
    label: int
    name: str


def _array(name: str, value: Any, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """``value`` (NumPy, torch on any device, list) as a NumPy array of ``dtype``; a copy only where one is needed."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.size == 0 and array.ndim <= 1:
        array = array.reshape(0, *shape[1:])
    wanted = "(" + ", ".join("D" if side is None else str(side) for side in shape) + ("," * (len(shape) == 1)) + ")"
    if array.ndim != len(shape) or any(s is not None and s != a for s, a in zip(shape, array.shape)):
        raise ValueError(f"Detections: {name} must be {wanted}, got {array.shape}")
    if array.size and array.dtype.kind not in ("iuf" if dtype is np.float32 else "iu"):
        raise TypeError(f"Detections: {name} must be {np.dtype(dtype)}, got dtype {array.dtype}")
    return array.astype(dtype, copy=False)


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Objects found on one picture, best score first when they come from a detector.

    Built once and validated once; every array is NumPy on the host, whatever the device of the detector, so a loop
    over the objects never waits for a device.

    Attributes:
        boxes: [D, 4] float32 corners x1, y1, x2, y2 in pixels of the picture; a pixel covers [x, x + 1).
        scores: [D] float32 in [0, 1].
        labels: [D] int64 class ids, indices into ``names``.
        names: class names, a tuple.
        image_size: (height, width) of the picture after its EXIF rotation.
        path: the file the picture came from, or None.
        image: [H, W, 3] uint8 **RGB** pixels when the picture came from memory, else None: the pixels of a file are
            read again when they are needed, so a list of results stays small.

    Raises:
        ValueError: shapes do not agree, a label has no name, a coordinate or score is not finite.
        TypeError: an array is not of numbers (labels: of integers).

    Example:
        >>> found = fastdet.load("default")("cells.jpg")[0]
        >>> for box, score, label, name in found[found.scores > 0.5]: ...
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    image_size: tuple[int, int]
    path: Path | None = None
    image: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("boxes", _array("boxes", self.boxes, np.float32, (None, 4)))
        count = len(self.boxes)
        put("scores", _array("scores", self.scores, np.float32, (count,)))
        put("labels", _array("labels", self.labels, np.int64, (count,)))
        if isinstance(self.names, str):
            raise TypeError(f"Detections: names must be a list of class names, got {self.names!r:.80}")
        names = [self.names[i] for i in range(len(self.names))] if isinstance(self.names, dict) else self.names
        put("names", tuple(str(name) for name in names))
        if np.shape(self.image_size) != (2,):
            raise ValueError(f"Detections: image_size must be (height, width), got {self.image_size!r:.80}")
        height, width = (int(side) for side in self.image_size)
        if height <= 0 or width <= 0:
            raise ValueError(f"Detections: image_size must be (height, width), both > 0, got {tuple(self.image_size)}")
        put("image_size", (height, width))
        put("path", None if self.path is None else Path(self.path))
        if count and not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise ValueError("Detections: boxes and scores must be finite")
        if count and not (self.labels.min() >= 0 and self.labels.max() < len(self.names)):
            raise ValueError(
                f"Detections: labels must be in [0, {len(self.names)}), one name each, "
                f"got {self.labels.min()} to {self.labels.max()}"
            )
        if self.image is not None:
            _check_image("Detections", self.image, self.image_size)

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        for box, score, label in zip(self.boxes, self.scores.tolist(), self.labels.tolist()):
            yield Detection(box, score, label, self.names[label])

    def __getitem__(self, index: Any) -> Any:
        """An int gives one ``Detection``; a slice, a mask [D] or an array of indices gives ``Detections``."""
        if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
            if not -len(self) <= index < len(self):
                raise IndexError(f"Detections: index {index} is out of range for {len(self)} detections")
            label = int(self.labels[index])
            return Detection(self.boxes[index], float(self.scores[index]), label, self.names[label])
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0 and index.dtype != bool:
                index = index.astype(np.int64)
            if index.ndim != 1 or index.dtype.kind not in "biu":
                raise TypeError(
                    "Detections: index must be an int, a slice, a mask or a 1-d array of indices, "
                    f"got shape {index.shape} of {index.dtype}"
                )
            if index.dtype == bool and len(index) != len(self):
                raise IndexError(f"Detections: mask must be ({len(self)},), got {index.shape}")
        return Detections(
            self.boxes[index],
            self.scores[index],
            self.labels[index],
            self.names,
            self.image_size,
            path=self.path,
            image=self.image,
        )

    def __repr__(self) -> str:
        height, width = self.image_size
        where = f"{width}x{height}" + (f" {self.path.name!r}" if self.path else "")
        what = ", ".join(f"{count} {name}" for name, count in self.counts().items()) or "nothing"
        best = f"; best score {self.scores.max():.2f}" if len(self) else ""
        return f"Detections({len(self)} on {where}: {what}{best})"

    def counts(self) -> dict[str, int]:
        """Objects per class name, most frequent first; classes without an object are left out."""
        number = np.bincount(self.labels, minlength=len(self.names))
        order = np.argsort(-number, kind="stable")
        return {self.names[label]: int(number[label]) for label in order if number[label]}

    def plot(
        self,
        image: Any = None,
        *,
        line_width: int | None = None,
        font_size: int | None = None,
        show_labels: bool = True,
        show_scores: bool = True,
    ) -> np.ndarray:
        """The picture with its boxes and labels drawn on a copy.

        Args:
            image: [H, W, 3] uint8 RGB pixels to draw on; by default the picture itself, read again from ``path``.
            line_width, font_size: in pixels; by default they follow the size of the picture.
            show_labels, show_scores: write the class name on each box, and the score behind it.

        Returns:
            [H, W, 3] uint8 **RGB** (OpenCV wants ``[..., ::-1]``).

        Raises:
            ValueError: there is no picture, or it is not of ``image_size``. ImageError: the file cannot be read.
            RuntimeError: Pillow is not installed.
        """
        from fastdet.drawing import draw

        if image is None:
            image = self.image
        if image is None:
            if self.path is None:
                raise ValueError("Detections.plot: there is no picture; give image=[H, W, 3] uint8 RGB")
            from fastdet.sources import read_image

            image = read_image(self.path)
        image = _check_image("Detections.plot", image, self.image_size)
        scores = self.scores if show_scores else None
        names = self.names if show_labels else None
        return draw(image, self.boxes, self.labels, scores, names, line_width=line_width, font_size=font_size)

    def save(self, path: Any, image: Any = None, **options: Any) -> Path:
        """Write the picture with its boxes to ``path``; the suffix is the format. Folders are made, the file is atomic.

        ``image`` and ``options`` are those of ``plot``. Returns the path. Raises ValueError for an unknown suffix, or
        when ``path`` is the very file the picture came from.
        """
        from fastdet.drawing import encode

        target = Path(path)
        if target.suffix.lower() not in SAVE_SUFFIXES:
            raise ValueError(
                f"Detections.save: path must end in one of {', '.join(sorted(SAVE_SUFFIXES))}, got {str(path)!r}"
            )
        if self.path is not None and target.exists() and self.path.exists() and target.samefile(self.path):
            raise ValueError(f"Detections.save: {target} is the source picture itself and would be overwritten")
        return write_atomic(target, encode(self.plot(image, **options), target.suffix))

    def to_coco(self, image_id: int | str = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO results: a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``, unrounded.

        ``category_ids[label]`` is the data set's own id of a class; by default the label itself (counted from 0).
        """
        boxes = xyxy_to_xywh(self.boxes.astype(np.float64)).tolist()
        labels = self.labels.tolist()
        categories = labels if category_ids is None else [int(category_ids[label]) for label in labels]
        return [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for box, score, category in zip(boxes, self.scores.tolist(), categories)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for ``json.dumps``; boxes are corners in pixels, unrounded."""
        return {
            "path": None if self.path is None else str(self.path),
            "image_size": list(self.image_size),
            "detections": [
                {"box": box.tolist(), "score": score, "label": label, "name": name} for box, score, label, name in self
            ],
        }

    def to_supervision(self) -> Any:
        """``supervision.Detections`` of the same boxes. RuntimeError when the package supervision is not installed."""
        try:
            import supervision
        except ImportError as error:
            raise RuntimeError(
                "Detections.to_supervision: needs the package supervision; pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            data={"class_name": np.array([self.names[label] for label in self.labels], dtype=str)},
        )


def _check_image(function: str, image: Any, image_size: tuple[int, int]) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.shape != (*image_size, 3):
        raise ValueError(
            f"{function}: image must be ({image_size[0]}, {image_size[1]}, 3) uint8 RGB, "
            f"got {image.shape} {image.dtype}"
        )
    return image
