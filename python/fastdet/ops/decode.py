# SPDX-License-Identifier: Apache-2.0
"""Raw maps of a detection head to boxes and scores: all of them, those above a threshold, or suppressed detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import real, whole
from fastdet.ops._backend import Op
from fastdet.ops._multiclass import kept_numbers
from fastdet.ops._numeric import exp_exact, sigmoid_exact
from fastdet.ops.nms import Kept, multiclass_nms_reference

KINDS = ("dfl", "distance", "anchors", "cxcywh")


class Decoded(NamedTuple):
    """Result of ``decode_boxes``."""

    boxes: Any  # (B, A, 4) float32, x1 y1 x2 y2 in pixels of the network input, not clipped
    scores: Any  # (B, A, C) float32 in [0, 1]


@dataclass(frozen=True)
class HeadFormat:
    """How the raw maps of a head say a box. Everything is known before the first picture.

    Attributes:
        kind: ``"dfl"``: a distribution over R bins for each side (YOLOv8, 9, 11, DAMO-YOLO); ``"distance"``: the four
            distances themselves, in cells (YOLO26); ``"anchors"``: offsets from anchor boxes and an objectness
            (YOLOv5, 7); ``"cxcywh"``: rows of boxes as fractions of the picture (RT-DETR).
        strides: input pixels per cell, one for each level.
        offset: where in its cell the point lies that distances are measured from, in cells: 0.5 the centre, 0 the
            corner (DAMO-YOLO). Not for ``"anchors"``, ``"cxcywh"``.
        anchors: for ``"anchors"``: (width, height) in pixels of each anchor of each level.
        image_size: for ``"cxcywh"``: (height, width) of what the fractions are of.
        single_class_objectness: for ``split`` of ``"anchors"`` with one class: its score is the objectness alone
            (YOLOv7).

    Raises:
        ValueError: unknown kind; strides, anchors or image_size missing or of another number than levels; levels with
        different numbers of anchors. TypeError: no number. Values are looked at by the operators.
    """

    kind: str
    strides: tuple[float, ...] = (8, 16, 32)
    offset: float = 0.5
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    image_size: tuple[float, float] | None = None
    single_class_objectness: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"HeadFormat: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind == "cxcywh":
            if self.image_size is None:
                raise ValueError("HeadFormat: image_size must be (height, width) for kind 'cxcywh', got None")
            object.__setattr__(self, "strides", (1.0,))
        strides = _numbers("strides", self.strides)
        if self.kind == "anchors" and len(self.anchors) != len(strides):
            raise ValueError(
                f"HeadFormat: anchors must have one entry for each of the {len(strides)} strides, "
                f"got {len(self.anchors)}"
            )
        counts = {len(level) if hasattr(level, "__len__") else -1 for level in self.anchors}
        if len(counts) > 1 or -1 in counts or any(np.shape(a) != (2,) for level in self.anchors for a in level):
            raise ValueError(
                f"HeadFormat: anchors must be as many (width, height) on each level, got {self.anchors!r:.200}"
            )
        flat = _numbers("anchors", [v for level in self.anchors for anchor in level for v in anchor])
        size = [] if self.image_size is None else _numbers("image_size", self.image_size)
        if len(size) not in (0, 2):
            raise ValueError(f"HeadFormat: image_size must be (height, width), got {self.image_size!r}")
        offset = real("HeadFormat", "offset", self.offset)
        object.__setattr__(self, "_arguments", (self.kind, strides, flat, offset, size))

    def arguments(self) -> tuple[Any, ...]:
        """The description as the operators take it: kind, strides, anchors, offset, image size."""
        return self._arguments  # type: ignore[attr-defined, no-any-return]

    def split(self, maps: Sequence[Any], num_classes: int) -> tuple[list[Any], list[Any]]:
        """Logits and codes of all levels as channel views of maps that hold both; nothing is copied.

        Args:
            maps: one array for each level. ``"dfl"``, ``"distance"``: (B, K + C, H, W), box channels first, as the
                heads of YOLOv8 and its successors join them. ``"anchors"``: (B, P (5 + C), H, W), anchor-major, or
                (B, P, 5 + C, H, W). ``"cxcywh"``: not joined, nothing to split.
            num_classes: C.

        Raises:
            ValueError: the channels do not fit. TypeError: one array instead of a list of them.
        """
        logits, codes = [], []
        if hasattr(maps, "shape"):
            raise TypeError(f"split: maps must be a list of one array for each level, got one of {tuple(maps.shape)}")
        if self.kind == "anchors" and len(maps) != len(self.anchors):
            raise ValueError(f"split: maps must be one array for each of {len(self.anchors)} levels, got {len(maps)}")
        for i, level in enumerate(maps):
            if self.kind == "anchors":
                priors = len(self.anchors[i])
                if level.ndim == 4:
                    b, k, h, w = level.shape
                    level = level.reshape(b, priors, k // priors, h, w) if k == priors * (5 + num_classes) else level
                if level.ndim != 5 or level.shape[2] != 5 + num_classes:
                    expected = f"(B, {priors * (5 + num_classes)}, H, W)"
                    raise ValueError(f"split: maps[{i}] must be {expected}, got {tuple(level.shape)}")
                alone = self.single_class_objectness and num_classes == 1
                codes.append(level[:, :, :4] if alone else level[:, :, :5])
                logits.append(level[:, :, 4:5] if alone else level[:, :, 5:])
                continue
            if self.kind == "cxcywh" or level.ndim != 4 or level.shape[1] < 4 + num_classes:
                raise ValueError(f"split: maps[{i}] must be (B, K + {num_classes}, H, W), got {tuple(level.shape)}")
            box_channels = level.shape[1] - num_classes
            codes.append(level[:, :box_channels])
            logits.append(level[:, box_channels:])
        return logits, codes


def _numbers(name: str, values: Any) -> list[float]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"HeadFormat: {name} must be a list of numbers, got {values!r}")
    return [real("HeadFormat", name, value) for value in values]


def _arguments(op: str, head: Any) -> tuple[Any, ...]:
    if not isinstance(head, HeadFormat):
        raise TypeError(f"{op}: head must be a HeadFormat, got {type(head).__name__}")
    return head.arguments()


def decode_boxes(logits: Sequence[Any], codes: Sequence[Any], head: HeadFormat) -> Decoded:
    """All boxes and scores of a head, from its raw maps. Differentiable in every map.

    Anchors are numbered level, prior, row, column. With s the sigmoid, (x, y) the cell, t its stride, scores are
    s(logit), and boxes by ``head.kind``:

    - ``"dfl"``: d = sum over bins i of i softmax(codes)_i for left, top, right, bottom (side-major channels); corners
      (x + offset - d_left, ...) t, (... + d_right) t. Generalized focal loss, arXiv 2006.04388.
    - ``"distance"``: the same with d = codes.
    - ``"anchors"``: centre (2 s(code) - 0.5 + cell) t, size (2 s(code))^2 anchor; scores s(logit) s(objectness).
    - ``"cxcywh"``: corners of (cx, cy, w, h) times width and height of the picture.

    Args:
        logits: class maps, one for each level, before the sigmoid: (B, C, H, W); (B, P, C, H, W) with P anchors a cell
            for ``"anchors"``; one array (B, Q, C) for ``"cxcywh"``. float32, float16, bfloat16 or float64, one dtype
            for all maps; any strides, so channel views (``head.split``) and channels-last maps are read without a copy.
        codes: box maps: (B, 4 R, H, W), (B, 4, H, W), (B, P, 5, H, W) with x, y, w, h, objectness (or 4 without), or
            (B, Q, 4), after the sigmoid, for ``"cxcywh"``.
        head: HeadFormat.

    Returns:
        Decoded: boxes (B, A, 4) and scores (B, A, C), float32 (float64 for float64 maps), in the kind of the maps.
        Gradients need the scores as they are: torch refuses a backward after they were changed in place.

    Raises:
        ValueError: shapes, levels or the description do not agree. TypeError: dtype not listed or mixed.

    Example:
        >>> head = HeadFormat("dfl", strides=(8, 16, 32))
        >>> boxes, scores = decode_boxes(*head.split(maps, num_classes=80), head)

    Cost: every map is read once. Computed in float32 whatever the maps are; same bits on every backend.
    """
    return Decoded(*DECODE_BOXES(list(logits), list(codes), *_arguments("decode_boxes", head)))


def decode_candidates(
    logits: Sequence[Any],
    codes: Sequence[Any],
    head: HeadFormat,
    *,
    score_threshold: float = 0.25,
    max_candidates: int = 1000,
    multi_label: bool = False,
) -> Kept:
    """Boxes and scores of what passes a threshold, listed by anchor and class; codes are read only for those.

    A candidate is an anchor with its best class (the lowest one among equal scores), or with ``multi_label`` every
    (anchor, class) pair, whose score is greater than ``score_threshold`` and whose box is finite; NaN never is one. The
    decision is made on logits, before any exponential: they are compared with the least float whose sigmoid passes,
    which decides exactly as the float32 score does, because the sigmoid used never falls.

    Args:
        logits, codes, head: as for ``decode_boxes``, without float64.
        score_threshold: candidates have a greater score; any number, below 0 takes all.
        max_candidates: rows K of the result, fixed. If more pass, the best are kept, ties by rising number.
        multi_label: every class above the threshold makes a candidate.

    Returns:
        Kept: boxes (B, K, 4), scores (B, K), labels (B, K), index (B, K) the anchor, count (B,); the order is level,
        prior, row, column, class. Rows past ``count`` hold 0, label and index -1.

    Raises:
        ValueError, TypeError: as ``decode_boxes``; a threshold that is no number, a negative size, or a torch input
        that requires grad.

    Cost: logits are read once (up to five times on CUDA with multi_label). Nothing is allocated and no host is waited
    for on CUDA; order does not depend on threads. Same result on every backend, bit for bit.
    """
    op = "decode_candidates"
    arguments = (
        real(op, "score_threshold", score_threshold),
        whole(op, "max_candidates", max_candidates),
        bool(multi_label),
    )
    return Kept(*DECODE_CANDIDATES(list(logits), list(codes), *_arguments("decode_candidates", head), *arguments))


def detect(
    logits: Sequence[Any],
    codes: Sequence[Any],
    head: HeadFormat,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.5,
    max_det: int = 300,
    max_candidates: int = 30000,
    class_agnostic: bool = False,
    multi_label: bool = False,
) -> Kept:
    """Detections from raw maps: ``decode_boxes`` and ``multiclass_nms`` in one, without the dense scores between them.

    The result is that of ``multiclass_nms(*decode_boxes(logits, codes, head), ...)`` bit for bit.

    Args:
        logits, codes, head: as for ``decode_boxes``, without float64.
        score_threshold, iou_threshold, max_det, max_candidates, class_agnostic, multi_label: as for ``multiclass_nms``.

    Returns:
        Kept: boxes (B, D, 4), scores (B, D), labels (B, D), index (B, D) the anchor, count (B,).

    Raises:
        ValueError, TypeError: as ``decode_boxes`` and ``multiclass_nms``.

    Example:
        >>> head = HeadFormat("anchors", (8, 16, 32), anchors=anchors)  # YOLOv5
        >>> kept = detect(*head.split(maps, num_classes=80), head, iou_threshold=0.45)

    Cost: logits are read once, codes only where a logit passes; see ``decode_candidates``. No host synchronisation on
    CUDA, fixed shapes: can be captured in a graph. Gradients: none.
    """
    arguments = kept_numbers("detect", score_threshold, iou_threshold, max_det, max_candidates)
    flags = (bool(class_agnostic), bool(multi_label))
    return Kept(*DETECT(list(logits), list(codes), *_arguments("detect", head), *arguments, *flags))


def decode_boxes_reference(
    logits: Sequence[np.ndarray],
    codes: Sequence[np.ndarray],
    kind: str,
    strides: Sequence[float],
    anchors: Sequence[float],
    offset: float,
    image_size: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """The rule of ``decode_boxes`` in NumPy, with the same bits; the fields of ``Decoded`` in order."""
    boxes, scores = [], []
    for level in _levels(logits, codes, kind, strides, anchors):
        score = sigmoid_exact(level.logits)
        if level.objectness is not None:
            score = sigmoid_exact(level.objectness)[..., None] * score
        corners = _corners(level, kind, offset, image_size)
        images = len(score)
        boxes.append(corners.reshape(images, level.cells, 4))
        scores.append(score.reshape(images, level.cells, score.shape[-1]))
    return np.concatenate(boxes, 1), np.concatenate(scores, 1)


def decode_boxes_backward_reference(
    boxes_grad: np.ndarray,
    scores_grad: np.ndarray,
    scores: np.ndarray,
    logits: Sequence[np.ndarray],
    codes: Sequence[np.ndarray],
    kind: str,
    strides: Sequence[float],
    anchors: Sequence[float],
    offset: float,
    image_size: Sequence[float],
) -> list[np.ndarray]:
    """Gradients of all logits, then of all codes, from those of boxes (B, A, 4) and scores (B, A, C), in NumPy.

    ``scores`` is what the forward gave; where there is an objectness, the sigmoids in it are computed again.
    """
    logits_grads, codes_grads, first = [], [], 0
    for i, level in enumerate(_levels(logits, codes, kind, strides, anchors)):
        real, one = level.logits.dtype.type, level.logits.dtype.type(1)
        rows = slice(first, first + level.cells)
        first += level.cells
        grad = scores_grad[:, rows].reshape(level.logits.shape).astype(real)
        score = scores[:, rows].reshape(level.logits.shape)
        code_grad = _codes_gradient(level, boxes_grad[:, rows].astype(real), kind, image_size)
        with np.errstate(all="ignore"):
            if level.objectness is not None:
                score, objectness = sigmoid_exact(level.logits), sigmoid_exact(level.objectness)
                total = np.zeros_like(objectness)
                for of_class in np.moveaxis(grad * score, -1, 0):
                    total = total + of_class
                through = total * (objectness * (one - objectness))
                code_grad = np.concatenate([code_grad, through[..., None]], -1)
                grad = grad * objectness[..., None]
            logit_grad = grad * (score * (one - score))
        logits_grads.append(_as_map(logit_grad, kind).astype(logits[i].dtype))
        codes_grads.append(_as_map(code_grad, kind).astype(codes[i].dtype))
    return logits_grads + codes_grads


def decode_candidates_reference(
    logits: Sequence[np.ndarray],
    codes: Sequence[np.ndarray],
    kind: str,
    strides: Sequence[float],
    anchors: Sequence[float],
    offset: float,
    image_size: Sequence[float],
    score_threshold: float,
    max_candidates: int,
    multi_label: bool,
) -> tuple[np.ndarray, ...]:
    """The rule of ``decode_candidates`` in NumPy; the fields of ``Kept`` in order."""
    boxes, scores = decode_boxes_reference(logits, codes, kind, strides, anchors, offset, image_size)
    images, _, columns = scores.shape
    out = (
        np.zeros((images, max_candidates, 4), np.float32),
        np.zeros((images, max_candidates), np.float32),
        np.full((images, max_candidates), -1, np.int32),
        np.full((images, max_candidates), -1, np.int32),
    )
    count = np.zeros(images, np.int32)
    for b in range(images):
        table = np.where(np.isnan(scores[b]), -np.inf, scores[b])
        if multi_label:
            anchor, label = (a.ravel() for a in np.indices(table.shape))
        else:
            anchor = np.arange(len(table) if columns else 0)
            label = table.argmax(1) if columns else anchor
        score = table[anchor, label]
        passing = (score > -1) & (score.astype(np.float64) > score_threshold) & np.isfinite(boxes[b, anchor]).all(1)
        number = np.flatnonzero(passing)
        number = np.sort(number[np.argsort(-score[number], kind="stable")[:max_candidates]])
        n = len(number)
        rows = (boxes[b, anchor[number]], score[number], label[number], anchor[number])
        for array, row in zip(out, rows):
            array[b, :n] = row
        count[b] = n
    return (*out, count)


def detect_reference(
    logits: Sequence[np.ndarray],
    codes: Sequence[np.ndarray],
    kind: str,
    strides: Sequence[float],
    anchors: Sequence[float],
    offset: float,
    image_size: Sequence[float],
    *suppression: Any,
) -> tuple[np.ndarray, ...]:
    """The rule of ``detect`` in NumPy: dense decoding, then ``multiclass_nms_reference`` with its own arguments."""
    dense = decode_boxes_reference(logits, codes, kind, strides, anchors, offset, image_size)
    score_threshold, iou_threshold, max_det, max_candidates, class_agnostic, multi_label = suppression
    limits = (score_threshold, iou_threshold, max_det, max_candidates)
    return multiclass_nms_reference(*dense, *limits, class_agnostic, multi_label)


class _Level(NamedTuple):
    logits: np.ndarray  # [B, P, H, W, C]
    codes: np.ndarray  # [B, P, H, W, K], without the objectness
    objectness: np.ndarray | None  # [B, P, H, W]
    stride: float
    anchors: np.ndarray  # [P, 2]

    @property
    def cells(self) -> int:
        return int(np.prod(self.logits.shape[1:4]))


def _levels(
    logits: Sequence[np.ndarray],
    codes: Sequence[np.ndarray],
    kind: str,
    strides: Sequence[float],
    anchors: Sequence[float],
) -> list[_Level]:
    levels, at = [], 0
    for level_logits, level_codes, stride in zip(logits, codes, strides):
        real = np.float64 if level_logits.dtype == np.float64 else np.float32
        found = []
        for a in (level_logits, level_codes):
            rows = kind == "cxcywh"  # [B, Q, K]
            a = a[:, None, :, None] if rows else np.moveaxis(a if kind == "anchors" else a[:, None], 2, -1)
            found.append(a.astype(real))
        priors = found[0].shape[1] if kind == "anchors" else 0
        sizes = np.array(anchors[at : at + 2 * priors], real).reshape(priors, 2)
        at += 2 * priors
        objectness = found[1][..., 4] if kind == "anchors" and found[1].shape[-1] == 5 else None
        box_codes = found[1][..., :4] if kind == "anchors" else found[1]
        levels.append(_Level(found[0], box_codes, objectness, stride, sizes))
    return levels


def _corners(level: _Level, kind: str, offset: float, image_size: Sequence[float]) -> np.ndarray:
    """[B, P, H, W, 4]"""
    real = level.codes.dtype.type
    height, width = level.codes.shape[2:4]
    x, y = np.arange(width, dtype=real)[None, :], np.arange(height, dtype=real)[:, None]
    stride, half, two = real(level.stride), real(0.5), real(2)
    with np.errstate(all="ignore"):
        if kind in ("dfl", "distance"):
            left, top, right, bottom = np.moveaxis(_expected(level.codes)[2] if kind == "dfl" else level.codes, -1, 0)
            x, y = x + real(offset), y + real(offset)
            sides = ((x - left) * stride, (y - top) * stride, (x + right) * stride, (y + bottom) * stride)
            return np.stack(sides, -1)
        if kind == "anchors":
            sx, sy, sw, sh = np.moveaxis(sigmoid_exact(level.codes), -1, 0)
            cx, cy = ((sx * two - half) + x) * stride, ((sy * two - half) + y) * stride
            w, h = sw * two, sh * two
            size = level.anchors[None, :, None, None, :]
            w, h = (w * w) * size[..., 0], (h * h) * size[..., 1]
        else:
            cx, cy, w, h = np.moveaxis(level.codes, -1, 0)
        w, h = w * half, h * half
        corners = np.stack((cx - w, cy - h, cx + w, cy + h), -1)
        if kind == "cxcywh":
            corners = corners * np.array([image_size[1], image_size[0]] * 2, real)
    return corners


def _expected(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [..., 4, R], their sums and expectations [..., 4] of [..., 4 R] logits; sums in the order of bins."""
    bins = codes.shape[-1] // 4
    table = codes.reshape(*codes.shape[:-1], 4, bins)
    most = table[..., 0]
    for i in range(1, bins):
        most = np.where(table[..., i] > most, table[..., i], most)
    weights = exp_exact(table - most[..., None])
    total, moment = np.zeros_like(most), np.zeros_like(most)
    for i in range(bins):
        total = total + weights[..., i]
        moment = moment + weights[..., i] * codes.dtype.type(i)
    return weights, total, moment / total


def _codes_gradient(level: _Level, grad: np.ndarray, kind: str, image_size: Sequence[float]) -> np.ndarray:
    """[B, P, H, W, K] from the gradient of corners [B, P H W, 4]."""
    real = level.codes.dtype.type
    one, half = real(1), real(0.5)
    x1, y1, x2, y2 = np.moveaxis(grad.reshape(*level.codes.shape[:4], 4), -1, 0)
    with np.errstate(all="ignore"):
        if kind in ("dfl", "distance"):
            stride = real(level.stride)
            sides = np.stack((-(x1 * stride), -(y1 * stride), x2 * stride, y2 * stride), -1)
            if kind == "distance":
                return sides
            weights, total, expected = _expected(level.codes)
            bins = np.arange(weights.shape[-1], dtype=real)
            table = (sides / total)[..., None] * (weights * (bins - expected[..., None]))
            return table.reshape(level.codes.shape)
        centre = np.stack((x1 + x2, y1 + y2, (x2 - x1) * half, (y2 - y1) * half), -1)
        if kind == "cxcywh":
            return centre * np.array([image_size[1], image_size[0]] * 2, real)
        s = sigmoid_exact(level.codes)
        shift = np.broadcast_to(real(2) * real(level.stride), s[..., :2].shape)
        stretch = real(8) * s[..., 2:] * level.anchors[None, :, None, None, :]
        return (centre * np.concatenate((shift, stretch), -1)) * (s * (one - s))


def _as_map(rows: np.ndarray, kind: str) -> np.ndarray:
    """[B, P, H, W, K] in the axes of the map it belongs to."""
    if kind == "cxcywh":
        return rows[:, 0, :, 0]
    rows = np.moveaxis(rows, -1, 2)
    return np.ascontiguousarray(rows if kind == "anchors" else rows[:, 0])


def _anchors_of(logits: Sequence[Any], kind: str) -> Any:
    """A, from shapes."""
    if kind == "cxcywh":
        return sum(level.shape[1] for level in logits)
    priors = [level.shape[1] if kind == "anchors" else 1 for level in logits]
    return sum(p * level.shape[-2] * level.shape[-1] for p, level in zip(priors, logits))


def _fake_decoded(logits: Sequence[Any], codes: Sequence[Any], kind: str, *_: Any) -> tuple[Any, ...]:
    import torch

    first = logits[0]
    b, a, c = first.shape[0], _anchors_of(logits, kind), first.shape[-1 if kind == "cxcywh" else -3]
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    return first.new_empty((b, a, 4), dtype=dtype), first.new_empty((b, a, c), dtype=dtype)


def _fake_grads(
    boxes_grad: Any, scores_grad: Any, scores: Any, logits: Sequence[Any], codes: Sequence[Any], *_: Any
) -> list[Any]:
    return [level.new_empty(level.shape) for level in (*logits, *codes)]


def _fake_rows(logits: Sequence[Any], rows: int) -> tuple[Any, ...]:
    import torch

    first = logits[0]
    b = first.shape[0]
    return (
        first.new_empty((b, rows, 4), dtype=torch.float32),
        first.new_empty((b, rows), dtype=torch.float32),
        first.new_empty((b, rows), dtype=torch.int32),
        first.new_empty((b, rows), dtype=torch.int32),
        first.new_empty((b,), dtype=torch.int32),
    )


def _keep_maps(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    logits, codes, *description = inputs
    ctx.save_for_backward(*logits, *codes, output[1])
    ctx.description = description


def _backward(ctx: Any, boxes_grad: Any, scores_grad: Any) -> tuple[Any, ...]:
    *maps, scores = ctx.saved_tensors
    levels = len(maps) // 2
    logits, codes = list(maps[:levels]), list(maps[levels:])
    grads = DECODE_BOXES_BACKWARD(boxes_grad, scores_grad, scores, logits, codes, *ctx.description)
    # torch takes an empty list of numbers for one of tensors and expects as many gradients.
    return (list(grads[:levels]), list(grads[levels:]), *([] if d == [] else None for d in ctx.description))


_MAPS = "Tensor[] logits, Tensor[] codes, str kind, float[] strides, float[] anchors, float offset, float[] image_size"
DECODE_BOXES = Op(
    name="decode_boxes",
    schema=f"({_MAPS}) -> (Tensor, Tensor)",
    native=_core.decode_boxes,
    reference=decode_boxes_reference,
    fake=_fake_decoded,
    backward=_backward,
    setup_context=_keep_maps,
)
DECODE_BOXES_BACKWARD = Op(
    name="decode_boxes_backward",
    schema=f"(Tensor boxes_grad, Tensor scores_grad, Tensor scores, {_MAPS}) -> Tensor[]",
    native=_core.decode_boxes_backward,
    reference=decode_boxes_backward_reference,
    fake=_fake_grads,
    dtypes_of=(3,),
)
DECODE_CANDIDATES = Op(
    name="decode_candidates",
    schema=f"({_MAPS}, float score_threshold, int max_candidates, bool multi_label) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    native=_core.decode_candidates,
    reference=decode_candidates_reference,
    fake=lambda logits, codes, *rest: _fake_rows(logits, rest[-2]),
)
DETECT = Op(
    name="detect",
    schema=f"({_MAPS}, float score_threshold, float iou_threshold, int max_det, int max_candidates, "
    "bool class_agnostic, bool multi_label) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    native=_core.detect,
    reference=detect_reference,
    fake=lambda logits, codes, *rest: _fake_rows(logits, rest[-4]),
)
