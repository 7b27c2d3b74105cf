# SPDX-License-Identifier: Apache-2.0
"""Task-aligned assignment: the case table, and the facts that are special to it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_aligned_problems import DEFAULTS, KINDS, RULES, problem, published_assignment

from fastdet import _core, ops
from fastdet.ops._overlap import atan_of_ratio, log_exact, overlap_exact, sin_cos_exact
from fastdet.testing import run_vector, shared_dir
from fastdet.testing.ops import VARIANTS, Case, check, check_torch

ASSIGN, COST = ops.TASK_ALIGNED_ASSIGN, ops.TASK_ALIGNED_COST


def case(name, op=ASSIGN, rule="default", **kw):
    return Case(name, op, lambda: (*problem(rule=rule, **kw), *RULES[rule]), floats=(0, 1))


CASES = [
    *(case(rule, rule=rule, seed=i, counts=[6, 3]) for i, rule in enumerate(RULES)),
    case("cost", COST),
    case("cost-rotated", COST, rule="rotated", counts=[6, 1]),
    case("wide", seed=1, classes=80, rows=9),
    case("one-class", seed=3, classes=1),
    case("int32", seed=4, labels=np.int32),
    case("many-rows", seed=5, images=1, size=(64, 64), rows=90, counts=[90]),
    case("no-images", images=0),
    case("no-images-cost", COST, images=0),
    case("no-anchors", size=(0, 0)),
    case("no-anchors-cost", COST, size=(0, 0)),
    case("no-classes", classes=0, counts=[0, 0]),
    case("no-rows", rows=0),
    case("no-rows-cost", COST, rows=0),
    case("all-empty", counts=[0, 0]),
    case("one-ground-truth", rows=1, counts=[1, 1]),
    case("one-anchor", size=(8, 8)),
]
# Every kind under every rule at several sizes; which variants run them rotates, so that all of them meet all kinds.
GENERATED = [
    case(
        f"{kind}-{rule}-{seed}",
        COST if seed % 5 == 4 else ASSIGN,
        rule,
        seed=seed + 7 * i,
        images=1 + (seed + i) % 3,
        size=[(64, 96), (32, 32), (96, 64)][(seed + i) % 3],
        classes=[3, 7, 20, 1][seed % 4],
        rows=[4, 1, 9, 17][(seed + i) % 4],
        kind=kind,
    )
    for kind in KINDS
    for i, rule in enumerate(RULES)
    for seed in range(5)
]
HOST = [v for v in VARIANTS if not v.startswith("cuda")]
CUDA = [v for v in VARIANTS if v.startswith("cuda")]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize(("number", "case"), list(enumerate(GENERATED)), ids=map(str, GENERATED))
def test_generated(number, case):
    """Reference, CPU and CUDA give the same bits, whatever the arrays look like."""
    check(case, HOST[number % len(HOST)])
    check(case, CUDA[number % len(CUDA)])


TORCH = ("default", "one-to-one", "rotated", "cost", "no-rows", "int32")


@pytest.mark.parametrize("case", [c for c in CASES if c.name in TORCH], ids=str)
def test_torch_library(case):
    check_torch(case)


def vector(name):
    if shared_dir() is None:
        pytest.skip("no shared parity data (FASTDET_SHARED)")
    with np.load(shared_dir() / "parity" / "assign" / f"{name}.npz") as file:
        return dict(file)


def test_shared_vectors_of_the_ultralytics_family():
    arrays = vector("tal")
    inputs = {"pd_scores", "pd_bboxes", "anc_points", "strides", "gt_labels", "gt_bboxes", "mask_gt", "params"}
    inputs |= {"box1", "box2", "rbox1", "rbox2"}
    outputs = run_vector("tal", {k: v for k, v in arrays.items() if k.split("/")[1] in inputs})
    assert set(outputs) == {k for k in arrays if k.split("/")[1] not in inputs}
    for key, value in outputs.items():
        assert value.dtype == arrays[key].dtype, key
        if value.dtype == np.float32:
            np.testing.assert_allclose(value, arrays[key], rtol=0, atol=1e-5, err_msg=key)
        else:
            np.testing.assert_array_equal(value, arrays[key], err_msg=key)


def test_shared_vectors_of_yolov9():
    arrays = vector("yolov9_tal")
    outputs = run_vector("yolov9_tal", arrays)
    assert {f"{tag}_{key}" for tag in ("aux", "main") for key in ("align", "mask_pos", "fg", "scores")} <= set(outputs)
    for key, value in outputs.items():
        assert value.dtype == arrays[key].dtype, key
        if value.dtype == np.float32:
            np.testing.assert_allclose(value, arrays[key], rtol=1e-5, atol=1e-5, err_msg=key)
        else:
            np.testing.assert_array_equal(value, arrays[key], err_msg=key)


@pytest.mark.parametrize("seed", range(40))
def test_published_rule(seed):
    """The rule as published, over all pairs and in float64, makes the same decisions where no two metrics are close."""
    kind = ("plain", "large", "tiny", "small")[seed % 4]
    topk, second, small = ((10, 0, 0.0), (7, 1, 16.0), (1, 0, 16.0), (10, 0, 16.0))[seed // 4 % 4]
    arguments = problem(seed, images=1, classes=(80, 20, 2)[seed % 3], rows=12, counts=[seed % 13], kind=kind)
    rule = {"topk": topk, "second_topk": second or None, "small_below": small, "small_size": small}
    result = ops.task_aligned_assign(*arguments, **rule)
    scores, boxes, points, gt, labels, count = arguments
    image = (scores[0], boxes[0], points, gt[0, : count[0]], labels[0, : count[0]])
    matched, target = published_assignment(*image, topk, second, small)
    np.testing.assert_array_equal(result.matched_gt[0], matched)
    found = (result.labels[0, :, None] == np.arange(scores.shape[2])) * result.label_scores[0, :, None]
    np.testing.assert_allclose(found, target, rtol=2e-5, atol=1e-7)
    assert result.num_pos[0] == (matched >= 0).sum()


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


SMALL = {"images": 3, "size": (64, 64), "classes": 4, "rows": 7}


def assign(arguments, rule):
    return ops.Assignment(*ops.TASK_ALIGNED_ASSIGN(*arguments, *RULES[rule]))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), rule=st.sampled_from(sorted(RULES)))
def test_batch_equals_loop(seed, kind, rule):
    arguments = problem(seed % 10**9, rule, kind=kind, **SMALL)
    whole = assign(arguments, rule)
    for b in range(3):
        alone = [a if i == 2 else a[b : b + 1] for i, a in enumerate(arguments)]
        same([field[b] for field in whole], [field[0] for field in assign(alone, rule)])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["plain", "tiny", "small", "large", "bad"]),
    rule=st.sampled_from(["default", "small", "one-to-one", "second", "anywhere", "metric", "rotated"]),
)
def test_order_does_not_matter(seed, kind, rule):
    """Rows and anchors may come in any order; only equal values are decided by it, and these draws have none."""
    scores, boxes, points, gt, labels, _ = problem(seed, rule, counts=[7, 7, 7], **{**SMALL, "kind": kind})
    gt[..., 2:4] += np.arange(1, 8, dtype=np.float32)[:, None] * np.float32(0.37)  # no two of one size: no equal IoUs
    count = np.array([7, 7, 7])
    expected = assign((scores, boxes, points, gt, labels, count), rule)
    rng = np.random.default_rng(seed)
    rows, anchors = rng.permutation(7), rng.permutation(len(points))
    shuffled = (scores[:, anchors], boxes[:, anchors], points[anchors], gt[:, rows], labels[:, rows], count)
    got = assign(shuffled, rule)
    matched, want = np.where(got.matched_gt >= 0, rows[got.matched_gt], -1), expected.matched_gt[:, anchors]
    same(
        (matched, got.labels, got.label_scores), (want, expected.labels[:, anchors], expected.label_scores[:, anchors])
    )
    same((got.num_pos,), (expected.num_pos,))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(KINDS))
def test_equal_ground_truths_go_to_the_lower_row(seed, kind):
    """The stated tie rule: of rows with the same box and label only the first ever holds an anchor."""
    scores, boxes, points, gt, labels, _ = problem(seed, counts=[7, 7, 7], **{**SMALL, "kind": kind})
    gt[:, 4:], labels[:, 4:] = gt[:, :3], labels[:, :3]
    found = ops.task_aligned_assign(scores, boxes, points, gt, labels, np.array([7, 7, 7]))
    assert (found.matched_gt < 4).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_padding_is_not_read(seed, kind):
    *front, gt, labels, count = problem(seed, kind=kind, **SMALL)
    wide_gt = np.concatenate([gt, np.full((3, 4, 4), np.nan, np.float32)], 1)
    wide_labels = np.concatenate([labels, np.full((3, 4), 10**12)], 1)
    same(
        ops.task_aligned_assign(*front, gt, labels, count),
        ops.task_aligned_assign(*front, wide_gt, wide_labels, count),
    )


def test_ties_go_to_the_lower_anchor():
    """Four equal anchors, two wanted; two equal ground truths, the first gets them."""
    points = np.full((4, 2), 16, np.float32)
    boxes = np.tile(np.float32([8, 8, 24, 24]), (1, 4, 1))
    gt = np.tile(np.float32([0, 0, 32, 32]), (1, 2, 1))
    arguments = (np.full((1, 4, 2), 0.25, np.float32), boxes, points, gt, np.array([[1, 1]]), np.array([2]))
    result = ops.task_aligned_assign(*arguments, topk=2)
    assert result.matched_gt.tolist() == [[0, 0, -1, -1]] and result.labels.tolist() == [[1, 1, 2, 2]]
    np.testing.assert_allclose(result.label_scores, [[0.25, 0.25, 0, 0]], rtol=1e-5)  # metric / best metric * IoU 1/4


def test_small_boxes_are_widened():
    """A box between two anchors has no candidate until its sides count as 16."""
    points = np.float32([[4, 4], [12, 4], [20, 4]])
    gt = np.float32([[[6, 2, 9, 6]]])
    scores, boxes = np.full((1, 3, 1), 0.5, np.float32), np.tile(gt, (1, 3, 1))
    arguments = (scores, boxes, points, gt, np.zeros((1, 1), np.int64), np.array([1]))
    assert ops.task_aligned_assign(*arguments).num_pos.tolist() == [0]
    widened = ops.task_aligned_assign(*arguments, small_below=16, small_size=16)
    assert widened.matched_gt.tolist() == [[0, 0, -1]]


def test_threads_and_repetition():
    """The same bits with one thread and with several, again and again."""
    arguments = problem(1, images=4, size=(320, 320), classes=20, rows=40, kind="large")
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 5, 5):
            _core.set_num_threads(threads)
            results.append(ops.task_aligned_assign(*arguments))
    finally:
        _core.set_num_threads(before)
    for result in results[1:]:
        same(results[0], result)


def test_many_ground_truths_agree_with_the_reference():
    arguments = (*problem(2, images=1, size=(256, 256), classes=10, rows=700, counts=[700], kind="small"), *DEFAULTS)
    same(ASSIGN.reference(*arguments), ASSIGN.run(*arguments))


CROWD = """
import resource, sys
sys.path[:0] = {path!r}
from task_aligned_problems import problem
from fastdet import ops
arguments = problem(0, images=2, size=(640, 640), classes=4, rows=5000, counts=[5000, 5000], kind="small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = ops.task_aligned_assign(*arguments)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, int(result.num_pos.sum()))
"""


@pytest.mark.skipif("san.so" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer's own memory would be counted")
def test_five_thousand_ground_truths_in_little_memory():
    """8400 anchors x 5000 ground truths: one float32 per pair would be 168 MB a picture; a batch of 128 stays below
    2 GB if each picture takes less than 16 MB."""
    output = subprocess.run(
        [sys.executable, "-c", CROWD.format(path=[*sys.path])], capture_output=True, text=True, check=True
    )
    kilobytes, positives = map(int, output.stdout.split())
    assert positives > 4000
    assert kilobytes < 2 * 4 * 1024


def test_exact_functions():
    """The functions that the reference shares with the native code, against NumPy's in float64."""
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-80, 80, 20000)).astype(np.float32)
    np.testing.assert_allclose(log_exact(x), np.log(x.astype(np.float64)), rtol=1e-6, atol=1e-7)
    y = (x * rng.uniform(0, 3, x.shape)).astype(np.float32)
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    np.testing.assert_allclose(atan_of_ratio(y, x), exact, rtol=3e-7)
    angles = rng.uniform(-1e4, 1e4, 20000).astype(np.float32)
    np.testing.assert_allclose(
        sin_cos_exact(angles), [np.sin(angles, dtype=float), np.cos(angles, dtype=float)], atol=1e-7
    )


def test_overlap_is_that_of_the_iou_operators():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 60, (2, 200, 2))
    a, b = np.concatenate([corners, corners + rng.uniform(1, 50, (2, 200, 2))], -1).astype(np.float32)
    expected = ops.complete_box_iou(a[:, None], b[:, None], 1e-7, eps_union="add", eps_sides="height")[:, 0, 0]
    np.testing.assert_array_equal(overlap_exact("ciou", a, b, 1e-7), expected)
    turned = [np.concatenate([v, rng.uniform(-2, 2, (200, 1))], -1).astype(np.float32) for v in (a, b)]
    expected = ops.probabilistic_box_iou(turned[0][:, None], turned[1][:, None], eps=1e-7)[:, 0, 0]
    np.testing.assert_array_equal(overlap_exact("probiou", *turned, 1e-7), expected)


BASE = problem(0, images=2, size=(32, 32), classes=3, rows=4, counts=[4, 2])
POSITIONS = {"scores": 0, "boxes": 1, "points": 2, "gt_boxes": 3, "gt_labels": 4, "gt_count": 5}
WRONG = [
    ({"scores": BASE[0][0]}, ValueError, "scores must have 3 dimensions, got"),
    ({"scores": BASE[0][:, :20]}, ValueError, r"boxes must be \(2, 20, 4\)"),
    ({"scores": BASE[0].astype(np.float64)}, TypeError, "scores must be float32, float16 or bfloat16, got float64"),
    ({"scores": None}, TypeError, "scores must be an array .* got NoneType"),
    ({"boxes": BASE[1].transpose(0, 2, 1)}, ValueError, r"got \(2, 4, 21\); did you mean boxes.swapaxes\(1, 2\)"),
    ({"boxes": BASE[1][..., :3]}, ValueError, r"boxes must be \(2, 21, 4\) for scores \(2, 21, 3\), got \(2, 21, 3\)"),
    ({"iou_kind": "probiou"}, ValueError, r"boxes must be \(2, 21, 5\)"),
    ({"points": BASE[2][:5]}, ValueError, r"points must be \(21, 2\) for scores \(2, 21, 3\), got \(5, 2\)"),
    ({"points": BASE[2].astype(np.float16)}, TypeError, "points must be float32, got float16"),
    ({"gt_boxes": BASE[3][:1]}, ValueError, r"gt_boxes must be \(2, M, 4\), got \(1, 4, 4\)"),
    ({"gt_labels": BASE[4][:, :3]}, ValueError, r"gt_labels must be \(2, 4\) for gt_boxes \(2, 4, 4\), got \(2, 3\)"),
    ({"gt_labels": BASE[4].astype(np.float32)}, TypeError, "gt_labels must be int64 or int32, got float32"),
    ({"gt_labels": BASE[4] * 0 + 3}, ValueError, r"gt_labels must lie in \[0, 3\), got 3 for image 0, row 0"),
    ({"gt_count": BASE[5][:1]}, ValueError, r"gt_count must be \(2,\), got \(1,\)"),
    ({"gt_count": np.array([4, 5])}, ValueError, r"gt_count must lie in \[0, 4\], got 5 for image 1"),
    ({"topk": 0}, ValueError, r"topk must lie in \[1, 1024\], got 0"),
    ({"topk": 1025}, ValueError, r"topk must lie in \[1, 1024\], got 1025"),
    ({"alpha": -1.0}, ValueError, r"alpha must lie in \[0, 64\], got -1"),
    ({"beta": float("nan")}, ValueError, r"beta must lie in \[0, 64\], got"),
    ({"small_below": -1.0}, ValueError, "small_below must be finite and not negative, got -1"),
    ({"small_size": float("inf")}, ValueError, "small_size must be finite"),
    ({"iou_kind": "giou"}, ValueError, "iou_kind must be one of iou, ciou, probiou, got giou"),
]
OF_THE_ASSIGNMENT = [
    ({"second_topk": 0}, ValueError, r"second_topk must lie in \[1, 1024\] or be None, got 0"),
    ({"second_topk": 2000}, ValueError, "second_topk must lie in"),
    ({"eps": -1.0}, ValueError, "eps must be finite and not negative"),
    ({"conflict": "first"}, ValueError, "conflict must be one of overlap, overlap_anywhere, metric, got first"),
    ({"target_score": "soft"}, ValueError, "target_score must be one of normalized, metric, overlap, got soft"),
]


def refuse(function, change, error, message):
    arguments, attributes = list(BASE), {}
    for name, value in change.items():
        if name in POSITIONS:
            arguments[POSITIONS[name]] = value
        else:
            attributes[name] = value
    with pytest.raises(error, match=message):
        function(*arguments, **attributes)


@pytest.mark.parametrize("function", [ops.task_aligned_assign, ops.task_aligned_cost])
@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_wrong_arguments(function, change, error, message):
    refuse(function, change, error, message)


@pytest.mark.parametrize(("change", "error", "message"), OF_THE_ASSIGNMENT)
def test_wrong_arguments_of_the_assignment(change, error, message):
    refuse(ops.task_aligned_assign, change, error, message)


def test_inputs_that_require_grad_are_taken():
    """An assignment has no gradient by its nature, so a training loop need not detach."""
    import torch

    arguments = [torch.from_numpy(np.array(a)) for a in BASE]
    expected = ops.task_aligned_assign(*arguments)
    arguments[0].requires_grad_()
    got = ops.task_aligned_assign(*arguments)
    same(expected, got)
    assert not got.label_scores.requires_grad
