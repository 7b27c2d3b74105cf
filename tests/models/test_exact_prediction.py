# SPDX-License-Identifier: Apache-2.0
"""Detector against the chain of the references, written once more in NumPy: letterbox, decoding, suppression, back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastdet
from broken_pictures import pattern
from fastdet import Detector, models
from fastdet.models import AnchorRaw
from small_models import lively_module

cv2 = pytest.importorskip("cv2")

# Overlap above which a box goes (0 where none does), most detections, and whether boxes go back by the ideal ratio.
ORIGINAL_YOLOV5, ULTRALYTICS, NMS_FREE = (0.45, 1000, True), (0.7, 300, False), (0, 300, False)
NAMES = {
    "yolov5n": ORIGINAL_YOLOV5,
    "yolov5n-seg": ORIGINAL_YOLOV5,
    "yolov5nu": ULTRALYTICS,
    "yolov7-tiny": (0.45, 300, True),
    "yolov8n": ULTRALYTICS,
    "yolov8n-pose": ULTRALYTICS,
    "yolov9t": ORIGINAL_YOLOV5,
    "yolov9tu": ULTRALYTICS,
    "yolov10n": NMS_FREE,
    "yolo11n": ULTRALYTICS,
    "yolo11n-seg": ULTRALYTICS,
    "yolo26n": NMS_FREE,
}
SIZE, STRIDE = 160, 32
PICTURES = (pattern(97, 131, 1), pattern(233, 120, 2), pattern(SIZE, SIZE, 3), pattern(60, 301, 4))


def letterbox(image, auto):
    """Input [1, 3, H, W], and what leads back: gain x, gain y, left, top."""
    h, w = image.shape[:2]
    ratio = min(SIZE / h, SIZE / w)
    new_w, new_h = max(round(w * ratio), 1), max(round(h * ratio), 1)
    dw, dh = SIZE - new_w, SIZE - new_h
    if auto:
        dw, dh = dw % STRIDE, dh % STRIDE
    top, bottom, left, right = (round(v) for v in (dh / 2 - 0.1, dh / 2 + 0.1, dw / 2 - 0.1, dw / 2 + 0.1))
    if (new_h, new_w) != (h, w):
        image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None]).astype(np.float32) / 255
    return batch, (new_w / w, new_h / h, left, top)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def decode_distances(raw):
    """Rows x1 y1 x2 y2 and scores of one picture."""
    boxes, scores = [], []
    for reg, cls, stride in zip(raw.reg_logits, raw.cls_logits, (8, 16, 32)):
        reg, cls = reg[0].numpy().astype(np.float64), cls[0].numpy()
        _, h, w = cls.shape
        if len(reg) > 4:
            bins = np.exp(reg.reshape(4, 16, h, w))
            reg = (bins * np.arange(16)[:, None, None]).sum(1) / bins.sum(1)
        left, top, right, bottom = reg
        y, x = np.mgrid[0:h, 0:w] + 0.5
        boxes.append(np.stack([x - left, y - top, x + right, y + bottom], -1).reshape(-1, 4) * stride)
        scores.append(sigmoid(cls).reshape(len(cls), -1).T.astype(np.float32))  # where they saturate they tie
    return np.concatenate(boxes), np.concatenate(scores)


def decode_anchors(raw, anchors, num_classes):
    """The same for an anchor-based head; the score is objectness times class."""
    boxes, scores = [], []
    for level, sizes, stride in zip(raw.logits, anchors, (8, 16, 32)):
        _, h, w = level[0].shape
        t = sigmoid(level[0].numpy()).reshape(3, -1, h, w)
        y, x = np.mgrid[0:h, 0:w]
        cx, cy = (t[:, 0] * 2 - 0.5 + x) * stride, (t[:, 1] * 2 - 0.5 + y) * stride
        bw, bh = (((t[:, 2 + i] * 2) ** 2) * sizes[:, i, None, None] * stride for i in (0, 1))
        boxes.append(np.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], -1).reshape(-1, 4))
        scores.append((t[:, 5 : 5 + num_classes] * t[:, 4:5]).transpose(0, 2, 3, 1).reshape(-1, num_classes))
    return np.concatenate(boxes), np.concatenate(scores)


def iou(box, others):
    corner = np.maximum(box[:2], others[:, :2])
    size = (np.minimum(box[2:], others[:, 2:]) - corner).clip(0)
    inter = size.prod(1)
    return inter / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - inter)


def suppress(boxes, scores, conf, threshold, max_det):
    """Best class of each row above conf; greedy, boxes of different classes kept apart by an offset."""
    labels, best = scores.argmax(1), scores.max(1)
    rows = np.flatnonzero(best > conf)
    rows = rows[np.argsort(-best[rows], kind="stable")][:30000]
    shifted = (boxes + labels[:, None] * 7680.0)[rows]
    kept, alive = [], np.ones(len(rows), bool)
    for i in range(len(rows)):
        if alive[i]:
            kept.append(rows[i])
            alive[i + 1 :] &= ~(iou(shifted[i], shifted[i + 1 :]) > threshold)
    kept = kept[:max_det]
    return boxes[kept], best[kept], labels[kept]


def best_pairs(boxes, scores, conf, max_det):
    """The best (box, class) pairs above conf, none suppressed; never more than there are boxes."""
    found = np.argsort(-scores.ravel(), kind="stable")[: min(max_det, len(boxes))]
    found = found[scores.ravel()[found] > conf]
    rows, labels = np.divmod(found, scores.shape[1])
    return boxes[rows], scores.ravel()[found], labels


def reference(module, image, auto, overlap, max_det, ideal):
    batch, (gain_x, gain_y, left, top) = letterbox(image, auto)
    with torch.no_grad():
        raw = module(torch.from_numpy(batch))
    if isinstance(raw, AnchorRaw):
        boxes, scores = decode_anchors(raw, module.head.anchors.numpy(), module.num_classes)
    else:
        boxes, scores = decode_distances(raw)
    if overlap:
        boxes, scores, labels = suppress(boxes, scores, 0.25, overlap, max_det)
    else:
        boxes, scores, labels = best_pairs(boxes, scores, 0.25, max_det)
    h, w = image.shape[:2]
    if ideal:
        gain_x = gain_y = min(batch.shape[2] / h, batch.shape[3] / w)
        left, top = (batch.shape[3] - w * gain_x) / 2, (batch.shape[2] - h * gain_y) / 2
    boxes = (boxes - [left, top, left, top]) / [gain_x, gain_y, gain_x, gain_y]
    return boxes.clip(0, [w, h, w, h]), scores, labels


def assert_same(found, boxes, scores, labels):
    """All of one and of the other, empty ones too; scores less than 1e-4 apart may stand in either order."""
    assert len(found) == len(boxes) and np.abs(found.scores - scores).max() < 1e-4
    pairs = (found.labels[:, None] == labels) & (np.abs(found.scores[:, None] - scores) < 1e-4)
    pairs &= np.abs(found.boxes[:, None] - boxes).max(-1) < 0.002  # pixels; slivers have no overlap
    assert pairs.any(0).all() and pairs.any(1).all()


@pytest.mark.parametrize("name", NAMES)
def test_detections_are_those_of_the_reference(name):
    module = lively_module(name, PICTURES, size=(SIZE, SIZE))
    detector = Detector(module)
    total = 0
    for image in PICTURES:
        for rect in (True, False):
            (found,) = detector(image, rect=rect)
            boxes, scores, labels = reference(module, image, rect, *NAMES[name])
            assert_same(found, boxes, scores, labels)
            total += len(boxes)
    assert total > 100


@pytest.mark.parametrize("name", ["yolov10n", "yolo26n"])
def test_the_head_is_chosen_at_loading(name, tmp_path):
    module = lively_module(name, PICTURES, size=(SIZE, SIZE))
    path = models.save_fastdet(tmp_path / "two.safetensors", module, dtype="float32")
    free, suppressed = fastdet.load(path), fastdet.load(path, nms_free=False)
    assert free.spec.nms_free and not suppressed.spec.nms_free
    for detector, expected in ((free, NMS_FREE), (suppressed, ULTRALYTICS)):
        twin = models.load(path)
        twin.choose_head(nms_free=detector.spec.nms_free)
        for image in PICTURES[:2]:
            boxes, scores, labels = reference(twin.eval(), image, True, *expected)
            (found,) = detector(image)
            assert len(found) > 0
            assert_same(found, boxes, scores, labels)
    saved = models.save_fastdet(tmp_path / "one.safetensors", suppressed.module, dtype="float32")
    assert not models.load(saved).spec.nms_free  # folded: the other head is gone
    with pytest.raises(ValueError, match=f"nms_free must be False; {name} gives boxes for NMS"):
        fastdet.load(saved, nms_free=True)


def test_classes_of_an_nms_free_model_are_chosen_after_the_cut():
    module = lively_module("yolo26n", PICTURES, size=(SIZE, SIZE))
    detector = Detector(module)
    (everything,) = detector(PICTURES[0])
    (some,) = detector(PICTURES[0], classes=[1, 3])
    wanted = np.isin(everything.labels, (1, 3))
    assert 0 < wanted.sum() < len(wanted)
    assert np.array_equal(some.scores, everything.scores[wanted])
    assert np.array_equal(some.boxes, everything.boxes[wanted])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("yolov5n-seg", {}),
        ("yolo11n", {}),
        ("yolo26n", {}),
        ("yolov10n", {"max_det": 7}),
        ("yolo26n", {"iou_threshold": 0.5}),
    ],
)
def test_one_step_and_stage_by_stage_are_the_same(name, options):
    module = lively_module(name, PICTURES, size=(SIZE, SIZE))
    detector = Detector(module)
    options = {"score_threshold": 0.1, **options}
    short = detector(PICTURES, **options)
    stages = detector(PICTURES, **options, on_stage=lambda *_: None)
    filtered = detector(PICTURES, **options, classes=range(4))
    for a, *others in zip(short, stages, filtered):
        assert len(a) > 6
        for b in others:
            assert np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)
            assert np.array_equal(a.labels, b.labels)


@pytest.mark.parametrize("name", ["yolov5n", "yolo11n"])
def test_rectangle_only_for_pictures_of_one_size(name):
    module = lively_module(name, PICTURES, size=(SIZE, SIZE))
    detector, shapes = Detector(module), []
    module.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    wide, tall = pattern(60, 120, 1), pattern(120, 60, 2)
    detector([wide, wide], batch=2)
    detector([wide, tall], batch=2)
    detector([wide], rect=False)
    assert shapes == [(2, 3, 96, 160), (2, 3, 160, 160), (1, 3, 160, 160)]


@pytest.mark.parametrize("name", ["yolo11n-obb", "yolov8n-cls", "yolov5n-cls"])
def test_models_without_upright_boxes_say_what_they_give(name):
    with pytest.raises(ValueError, match=f"predict: {name} must be a model that finds upright boxes, got .*module"):
        Detector(lively_module(name, PICTURES))(pattern(60, 60, 0))
