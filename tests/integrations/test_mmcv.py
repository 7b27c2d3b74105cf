# SPDX-License-Identifier: Apache-2.0
"""mmcv's names and signatures by our operators, and the exchange on a stand-in of mmcv's layout."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastdet.integrations import mmcv as ours


def boxes_of(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = (torch.rand(count, 2, generator=generator) * 60).round()
    boxes = torch.cat([corner, corner + (torch.rand(count, 2, generator=generator) * 30).round()], 1)
    scores = (torch.rand(count, generator=generator) * 50).round() / 50  # with ties
    return boxes, scores, torch.randint(0, 4, (count,), generator=generator)


def pair_iou(a: list[float], b: list[float], offset: int, over_first: bool = False) -> float:
    """mmcv's rule for one pair; 0 where there is nothing to divide by."""
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset for i in (0, 1))
    inter = max(w, 0.0) * max(h, 0.0)
    area = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    whole = area[0] if over_first else area[0] + area[1] - inter
    return inter / whole if whole > 0 else 0.0


def greedy(boxes: Tensor, scores: Tensor, groups: list[int], threshold: float, offset: int) -> list[int]:
    rows, keep = boxes.tolist(), []

    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(
            groups[i] != groups[k] or np.float32(pair_iou(rows[k], rows[i], offset)) <= np.float32(threshold)
            for k in keep
        ):
            keep.append(i)
    return keep


@pytest.mark.parametrize("count", [0, 1, 80])
@pytest.mark.parametrize("offset", [0, 1])
def test_nms(count, offset):
    boxes, scores, _ = boxes_of(count, count)
    want = greedy(boxes, scores, [0] * count, 0.4, offset)
    found, keep = ours.nms(boxes, scores, 0.4, offset)
    assert keep.tolist() == want and keep.dtype == torch.int64
    assert torch.equal(found, torch.cat([boxes, scores[:, None]], 1)[want]) and found.shape == (len(want), 5)

    found, keep = ours.nms(boxes.numpy(), scores.numpy(), iou_threshold=0.4, offset=offset, max_num=3)
    assert isinstance(found, np.ndarray) and isinstance(keep, np.ndarray) and keep.tolist() == want[:3]
    keep = ours.nms(boxes, scores, 0.4, offset, score_threshold=0.5)[1]
    assert keep.tolist() == [i for i in want if scores[i] > 0.5]


@pytest.mark.parametrize("agnostic", [False, True])
def test_batched_nms(agnostic):
    boxes, scores, labels = boxes_of(90, 3)
    groups = [0] * 90 if agnostic else labels.tolist()
    want = greedy(boxes, scores, groups, 0.4, 0)
    for config in ({"type": "nms", "iou_threshold": 0.4, "split_thr": 10}, {"iou_thr": 0.4}):
        found, keep = ours.batched_nms(boxes, scores, labels, config, class_agnostic=agnostic)
        assert keep.tolist() == want and torch.equal(found[:, 4], scores[want])
    config = {"iou_threshold": 0.4, "max_num": 5, "score_threshold": 0.2, "class_agnostic": agnostic}
    assert ours.batched_nms(boxes, scores, labels.float(), config)[1].tolist() == want[:5]
    assert len(config) == 4  # the caller's dictionary is not touched
    found, keep = ours.batched_nms(boxes, scores, labels, None)
    assert torch.equal(found[:, 4], scores.sort(descending=True)[0]) and torch.equal(found[:, :4], boxes[keep])


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        {"type": "soft_nms", "iou_threshold": 0.3, "min_score": 0.05},
        {"type": "soft_nms", "method": "gaussian", "sigma": 0.3, "offset": 1},
        {"type": "soft_nms", "method": "naive", "iou_thr": 0.4},
        {"type": "nms_rotated", "iou_threshold": 0.3},
        {"type": "nms_rotated", "iou_threshold": 0.1, "clockwise": False},
        {"type": "nms", "iou_threshold": 0.3, "offset": 1},
    ],
    ids=str,
)
def test_batched_nms_is_its_type_of_each_class(config, agnostic):
    """As mmdet's (soft) and mmrotate's configurations ask for it: class by class, then by falling score."""
    boxes, scores, labels = boxes_of(70, 8)
    scores = scores + torch.arange(70) * 1e-4  # no ties
    if config["type"] == "nms_rotated":
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1, torch.linspace(-3, 3, 70)[:, None]], 1)
    alone = {"iou_threshold" if key == "iou_thr" else key: value for key, value in config.items() if key != "type"}
    want = []
    for group in [torch.arange(70)] if agnostic else [torch.where(labels == c)[0] for c in range(4)]:
        found, keep = getattr(ours, config["type"])(boxes[group], scores[group], **alone)
        want += [(score, i) for score, i in zip(found[:, -1].tolist(), group[keep].tolist())]
    want.sort(reverse=True)
    for cut, more in ((len(want), {}), (5, {"max_num": 5}), (len(want), {"split_thr": 3})):
        found, keep = ours.batched_nms(boxes, scores, labels, config | more, class_agnostic=agnostic)
        assert keep.tolist() == [i for _, i in want[:cut]]
        assert found[:, -1].tolist() == [score for score, _ in want[:cut]] and torch.equal(found[:, :-1], boxes[keep])
    as_function = {**config, "type": getattr(ours, config["type"])}
    assert torch.equal(ours.batched_nms(boxes, scores, labels.float(), as_function, agnostic)[1], keep)
    found, keep = ours.batched_nms(boxes[:0], scores[:0], labels[:0], config, agnostic)
    assert found.shape == (0, boxes.shape[1] + 1) and keep.shape == (0,)


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
def test_soft_nms(method, offset):
    boxes, scores, _ = boxes_of(40, 3)
    scores = scores + torch.arange(40) * 1e-4  # no ties
    rows, left, want = boxes.tolist(), dict(enumerate(scores.tolist())), []
    while left:
        best = max(left, key=lambda i: left[i])
        if left[best] <= 0.05:
            break
        want.append((best, left.pop(best)))
        for i in left:
            iou = pair_iou(rows[best], rows[i], offset)
            near = np.float32(iou) >= np.float32(0.3)
            factors = {"naive": 1 - near, "linear": 1 - iou * near, "gaussian": np.exp(-(iou**2) / 0.5)}
            left[i] *= factors[method]
    found, index = ours.soft_nms(boxes, scores, min_score=0.05, method=method, offset=offset)
    assert index.tolist() == [i for i, _ in want] and torch.equal(found[:, :4], boxes[index])
    np.testing.assert_allclose(found[:, 4], [score for _, score in want], rtol=1e-4)
    array, rows_kept = ours.soft_nms(boxes.numpy(), scores.numpy(), min_score=0.05, method=method, offset=offset)
    assert isinstance(array, np.ndarray) and rows_kept.tolist() == index.tolist()


def test_nms_rotated():
    """Without rotation it is ``nms``; a square turned by 45 degrees covers less of its neighbour."""
    boxes, scores, labels = boxes_of(60, 5)
    centred = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2], torch.zeros(60, 1)], 1)
    for groups in (None, labels):
        found, keep = ours.nms_rotated(centred, scores, 0.4, groups)
        want = greedy(boxes, scores, [0] * 60 if groups is None else groups.tolist(), 0.4, 0)
        assert keep.tolist() == want and torch.equal(found, torch.cat([centred, scores[:, None]], 1)[want])
    pair = torch.tensor([[0, 0, 10, 10, 0], [0, 0, 10, 10, 0.785398]])  # IoU 0.707
    scores = torch.tensor([0.9, 0.8])
    assert ours.nms_rotated(pair, scores, 0.72)[1].tolist() == [0, 1]
    assert ours.nms_rotated(pair, scores, 0.70, clockwise=False)[1].tolist() == [0]
    assert ours.nms_rotated(IN_LINE, scores, 0.3)[1].tolist() == [0]
    assert ours.nms_rotated(IN_LINE, scores, 0.3, clockwise=False)[1].tolist() == [0, 1]


# Two thin boxes on one line when angles turn clockwise (y points down), side by side when they turn the other way.
IN_LINE = torch.tensor([[0, 0, 40, 2, torch.pi / 4], [10, 10, 40, 2, torch.pi / 4]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_box_iou_rotated(dtype):
    """Without rotation it is ``bbox_overlaps``, row by row too; the sense of rotation; (N, 5), (N,) and the dtype."""
    pairs = [boxes_of(7, seed)[0] for seed in (1, 2)]
    pairs[0][3] = torch.tensor([5.0, 5, 5, 9])  # no area
    turned = [
        torch.cat([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2], torch.zeros(7, 1)], 1).to(dtype) for b in pairs
    ]
    for mode in ("iou", "iof"):
        want = ours.bbox_overlaps(*pairs, mode).to(dtype)
        found = ours.box_iou_rotated(*turned, mode)
        assert found.dtype == dtype
        torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.box_iou_rotated(*turned, mode, True), want.diagonal(), rtol=1e-3, atol=1e-3)
    apart = IN_LINE.to(dtype)
    assert ours.box_iou_rotated(apart, apart)[0, 1] > 0.4
    assert ours.box_iou_rotated(apart, apart, clockwise=False)[0, 1] == 0
    mixed = ours.box_iou_rotated(apart.requires_grad_(), apart.detach().float())
    assert mixed.dtype == dtype and not mixed.requires_grad
    assert ours.box_iou_rotated(apart[:0], apart).shape == (0, 2)
    assert ours.box_iou_rotated(apart[:0], apart[:0], aligned=True).shape == (0,)


EMPTY = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
OF_NOTHING = {
    "nms": lambda b, s, _: ours.nms(b, s, 0.5),
    "nms-filtered": lambda b, s, _: ours.nms(b, s, 0.5, 1, 0.3, 5),
    "batched_nms": lambda b, s, i: ours.batched_nms(b, s, i, {"iou_threshold": 0.5}),
    "batched_nms-agnostic": lambda b, s, i: ours.batched_nms(b, s, i, {"iou_threshold": 0.5}, class_agnostic=True),
    "batched_nms-sorted": lambda b, s, i: ours.batched_nms(b, s, i, None),
    "soft_nms": lambda b, s, _: ours.soft_nms(b, s),
    "soft_nms-gaussian": lambda b, s, _: ours.soft_nms(b, s, method="gaussian"),
    "soft_nms-naive": lambda b, s, _: ours.soft_nms(b, s, method="naive"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("call", OF_NOTHING)
def test_of_no_boxes(call, dtype):
    """(0, 5) of the boxes' dtype and (0,) of int64, as from mmcv; arrays for arrays."""
    boxes, scores, labels = EMPTY[0].to(dtype), EMPTY[1].to(dtype), EMPTY[2]
    found, keep = OF_NOTHING[call](boxes, scores, labels)
    assert found.shape == (0, 5) and found.dtype == dtype
    assert keep.shape == (0,) and keep.dtype == torch.int64
    if not call.startswith("batched"):
        found, keep = OF_NOTHING[call](boxes.numpy(), scores.numpy(), None)
        assert isinstance(found, np.ndarray) and found.shape == (0, 5) and found.dtype == boxes.numpy().dtype
        assert isinstance(keep, np.ndarray) and keep.shape == (0,) and keep.dtype == np.int64


@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("labels", [None, EMPTY[2]])
def test_nms_rotated_of_no_boxes(labels, clockwise):
    """mmcv returns what it was given, and None for the indices."""
    boxes = torch.zeros(0, 5)
    found, keep = ours.nms_rotated(boxes, EMPTY[1], 0.5, labels, clockwise)
    assert found is boxes and keep is None


def test_kept_boxes_have_gradients():
    boxes, scores, _ = boxes_of(10, 5)
    boxes.requires_grad_()
    found, keep = ours.nms(boxes, scores, 0.5)
    found.sum().backward()
    assert boxes.grad.sum(1).nonzero().flatten().tolist() == sorted(keep.tolist())


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_bbox_overlaps(mode, offset):
    first, second = boxes_of(7, 1)[0], boxes_of(7, 2)[0]
    first[3] = torch.tensor([5.0, 5, 5, 9])  # no area without the offset
    rows = (first.tolist(), second.tolist())
    want = torch.tensor([[pair_iou(a, b, offset, mode == "iof") for b in rows[1]] for a in rows[0]])
    torch.testing.assert_close(ours.bbox_overlaps(first, second, mode, offset=offset), want)
    torch.testing.assert_close(ours.bbox_overlaps(first, second, mode, True, offset), want.diagonal())
    got = ours.bbox_overlaps(first.half(), second.half(), mode, offset=offset)
    assert got.dtype == torch.float16
    empty = torch.zeros(0)
    assert ours.bbox_overlaps(empty, second, mode).shape == (0, 7)
    assert ours.bbox_overlaps(first, empty, mode).shape == (7, 0)
    assert ours.bbox_overlaps(empty, empty, mode).shape == (0, 0)
    assert ours.bbox_overlaps(empty, empty, mode, aligned=True).shape == (0,)


def sampled(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention, a query and head at a time, by grid_sample."""
    batch, _, heads, dim = value.shape
    out = torch.zeros(batch, locations.shape[1], heads, dim, dtype=value.dtype)
    for b in range(batch):
        for m in range(heads):
            start = 0
            for level, (h, w) in enumerate(shapes):
                plane = value[b, start : start + h * w, m].T.reshape(1, dim, h, w)
                grid = 2 * locations[None, b, :, m, level] - 1
                got = F.grid_sample(plane, grid, align_corners=False)[0]  # [dim, Q, P]
                out[b, :, m] = out[b, :, m] + (got * weights[b, :, m, level]).sum(-1).T
                start += h * w
    return out.flatten(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deformable_attention(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 7), (2, 3)]
    tables = torch.tensor(shapes), torch.tensor([0, 35])
    inputs = [torch.rand(*size, generator=generator, dtype=dtype) for size in ((2, 41, 3, 8), (2, 4, 3, 2, 3, 2))]
    inputs.append(torch.rand(2, 4, 3, 2, 3, generator=generator, dtype=dtype))
    for each in inputs:
        each.requires_grad_()
    value, locations, weights = inputs
    want = sampled(value, shapes, locations, weights)
    grads = torch.autograd.grad(want.square().sum(), inputs)
    for got in (
        ours.MultiScaleDeformableAttnFunction.apply(value, *tables, locations, weights, 64),
        ours.multi_scale_deformable_attn_pytorch(value, tables[0], locations, weights),
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        for ours_grad, grad in zip(torch.autograd.grad(got.square().sum(), inputs), grads):
            torch.testing.assert_close(ours_grad, grad, rtol=1e-4, atol=1e-4)
    half = ours.MultiScaleDeformableAttnFunction.apply(value.half(), *tables, locations.half(), weights.half())
    assert half.dtype == torch.float16


def stand_in() -> dict[str, types.ModuleType]:
    """mmcv's layout: functions in files of mmcv.ops, shown by mmcv.ops, used by mmdet by names of its own."""
    names = ("mmcv", "mmcv.ops", "mmcv.ops.nms_file", "mmcv.ops.multi_scale_deform_attn", "mmdet.models")
    found = {name: types.ModuleType(name) for name in names}
    file, attention = found["mmcv.ops.nms_file"], found["mmcv.ops.multi_scale_deform_attn"]
    exec(
        "def nms(boxes): return 'theirs'\ndef batched_nms(boxes): return nms(boxes)\ndef other(): return 0", vars(file)
    )
    exec("def bbox_overlaps(a): return 'theirs'\ndef box_iou_rotated(a): return 'theirs'", vars(file))
    exec("def soft_nms(a): return 'theirs'\ndef nms_rotated(a): return 'theirs'", vars(file))
    exec("class MultiScaleDeformableAttnFunction: pass", vars(attention))
    exec("def multi_scale_deformable_attn_pytorch(value): return 'theirs'", vars(attention))
    for name in ("nms", "batched_nms", "soft_nms", "nms_rotated", "bbox_overlaps", "box_iou_rotated", "other"):
        setattr(found["mmcv.ops"], name, getattr(file, name))
    found["mmcv.ops"].MultiScaleDeformableAttnFunction = attention.MultiScaleDeformableAttnFunction
    found["mmdet.models"].suppress = file.batched_nms
    return found


def test_exchange(monkeypatch):
    found = stand_in()
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    before = {name: dict(vars(module)) for name, module in found.items()}
    attention = found["mmcv.ops.multi_scale_deform_attn"]
    with ours.patched():
        assert found["mmcv.ops"].nms is found["mmcv.ops.nms_file"].nms is ours.nms
        assert found["mmdet.models"].suppress is ours.batched_nms
        assert found["mmcv.ops"].box_iou_rotated is ours.box_iou_rotated
        assert attention.MultiScaleDeformableAttnFunction is ours.MultiScaleDeformableAttnFunction
        assert attention.multi_scale_deformable_attn_pytorch is ours.multi_scale_deformable_attn_pytorch
        assert found["mmcv.ops"].other() == 0
        found["mmdet.models"].later = ours.nms  # what an import meanwhile leaves
    assert found["mmdet.models"].later is found["mmcv.ops"].nms
    del found["mmdet.models"].later
    assert {name: dict(vars(module)) for name, module in found.items()} == before


def test_without_mmcv(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv", None)
    with pytest.raises(ImportError), ours.patched():
        pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, s: ours.nms(b, s, 0.5, offset=2), "nms: offset must be 0 or 1, got 2"),
        (lambda b, s: ours.nms(b[:, :3], s, 0.5), r"nms: boxes and scores must be \(N, 4\) and \(N,\), got \(5, 3\)"),
        (lambda b, s: ours.batched_nms(b, s, s, {"type": "nms_match", "iou_threshold": 0.5}), "got 'nms_match'"),
        (lambda b, s: ours.batched_nms(b, s, s, {"type": 3, "iou_threshold": 0.5}), "got 3"),
        (
            lambda b, s: ours.batched_nms(b, s, s, {"type": "soft_nms", "clockwise": True}),
            "got the key 'clockwise' too",
        ),
        (lambda b, s: ours.batched_nms(b, s, s, {"type": "nms_rotated"}), "nms_rotated only, got none"),
        (lambda b, s: ours.batched_nms(b, s, s, {"iou_threshold": 0.5, "sigma": 1}), "got the key 'sigma' too"),
        (lambda b, s: ours.batched_nms(b, s, s, {}), "got none"),
        (lambda b, s: ours.soft_nms(b, s, method="hard"), "got 'hard'"),
        (lambda b, s: ours.bbox_overlaps(b, b, "giou"), "mode must be 'iou' or 'iof', got 'giou'"),
        (lambda b, s: ours.bbox_overlaps(b, b[:2], aligned=True), "as many, got 5 and 2"),
        (lambda b, s: ours.box_iou_rotated(b, b), "boxes1 must be"),
        (lambda b, s: ours.box_iou_rotated(b, b, mode="giou"), "mode must be one of iou, iof, got giou"),
    ],
)
def test_refusals(call, message):
    boxes, scores, _ = boxes_of(5, 0)
    with pytest.raises(ValueError, match=message):
        call(boxes, scores)
