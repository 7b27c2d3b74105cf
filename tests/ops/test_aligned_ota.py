# SPDX-License-Identifier: Apache-2.0
"""AlignedOTA assignment: the case table, and the facts that are special to it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from aligned_ota_problems import DEFAULTS, KINDS, grid, problem, published_assignment, published_costs
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet import _core, ops
from fastdet.ops.aligned_ota import _log, _log_one_minus
from fastdet.testing import run_vector, shared_dir
from fastdet.testing.ops import VARIANTS, Case, check, check_torch

ASSIGN, COST = ops.ALIGNED_OTA_ASSIGN, ops.ALIGNED_OTA_COST


def case(name, op=ASSIGN, attributes=DEFAULTS, **kw):
    return Case(name, op, lambda: (*problem(**kw), *attributes), floats=(0, 1))


CASES = [
    case("plain"),
    case("cost", COST),
    case("wide", seed=1, classes=80, rows=9),
    case("long-rows", seed=2, images=1, size=(32, 32), classes=2500, rows=2, counts=[2]),
    case("one-class", seed=3, classes=1),
    case("int32", seed=4, labels=np.int32),
    case("many-rows", seed=5, images=1, size=(64, 64), rows=90, counts=[90]),
    case("many-rows-cost", COST, seed=5, images=1, size=(64, 64), rows=70, counts=[70]),
    case("no-images", images=0),
    case("no-images-cost", COST, images=0),
    case("no-priors", size=(0, 0)),
    case("no-priors-cost", COST, size=(0, 0)),
    case("no-classes", classes=0, counts=[0, 0]),
    case("no-rows", rows=0),
    case("no-rows-cost", COST, rows=0),
    case("all-empty", counts=[0, 0]),
    case("one-empty", COST, counts=[0, 6]),
    case("one-prior", size=(8, 8)),
    case("topk-1", attributes=(2.5, 1, 1.0, 3.0), seed=6),
    case("topk-11", attributes=(2.5, 11, 1.0, 3.0), seed=7, kind="large"),
    case("topk-64", attributes=(2.5, 64, 1.0, 3.0), seed=8, kind="exact"),
    case("topk-above-priors", attributes=(2.5, 1024, 1.0, 3.0), seed=9, size=(32, 32), kind="exact"),
    case("radius-0", attributes=(0.0, 10, 1.0, 3.0), seed=10),
    case("radius-huge", attributes=(1e30, 10, 1.0, 3.0), seed=11),
    case("weights-0", attributes=(2.5, 10, 0.0, 0.0), seed=12),
    case("weights-huge", attributes=(2.5, 10, 3e38, 3e38), seed=13),
]
# Every kind at several sizes; which variants run them rotates, so that all of them meet all kinds.
GENERATED = [
    case(
        f"{kind}-{seed}",
        COST if seed % 5 == 4 else ASSIGN,
        DEFAULTS if seed % 3 else (1.5, 5, 0.7, 2.0),
        seed=seed,
        images=1 + seed % 3,
        size=[(64, 96), (32, 32), (96, 64)][seed % 3],
        classes=[3, 7, 20, 1][seed % 4],
        rows=[1, 4, 9, 17][seed // 2 % 4],
        kind=kind,
    )
    for kind in KINDS
    for seed in range(31)
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


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("plain", "cost", "no-rows", "int32")], ids=str)
def test_torch_library(case):
    check_torch(case)


def test_shared_vectors():
    if shared_dir() is None:
        pytest.skip("no shared parity data (FASTDET_SHARED)")
    with np.load(shared_dir() / "parity" / "assign" / "damo_aligned_ota.npz") as file:
        arrays = dict(file)
    names = [k.removesuffix("_scores") for k in arrays if k.endswith("_scores") and not k.endswith("_label_scores")]
    given = {f"{name}_{key}" for name in names for key in ("scores", "boxes", "gt_boxes", "gt_labels")}
    inputs = {k: v for k, v in arrays.items() if k in given or k.endswith(("points", "strides"))}
    outputs = run_vector("damo_aligned_ota", inputs)
    assert set(outputs) == set(arrays) - set(inputs)
    for key, value in outputs.items():
        assert value.dtype == arrays[key].dtype, key
        if value.dtype == np.float32:
            np.testing.assert_allclose(value, arrays[key], rtol=1e-6, err_msg=key)
        else:
            np.testing.assert_array_equal(value, arrays[key], err_msg=key)


@pytest.mark.parametrize("seed", range(40))
def test_published_rule(seed):
    """The rule as published, over all classes and in float64, makes the same decisions where no two costs are close."""
    kind = ("plain", "large", "tiny", "exact")[seed % 4]
    arguments = problem(seed, images=1, classes=(80, 20, 2)[seed % 3], rows=12, counts=[seed % 13], kind=kind)
    result = ops.aligned_ota_assign(*arguments)
    image = [a if i in (2, 3) else a[0] for i, a in enumerate(arguments)]
    matched, iou = published_assignment(image, *DEFAULTS)
    np.testing.assert_array_equal(result.matched_gt[0], matched)
    np.testing.assert_allclose(result.label_scores[0], iou, rtol=2e-6)
    labels = np.where(matched < 0, arguments[0].shape[2], image[5][matched] if seed % 13 else 0)
    np.testing.assert_array_equal(result.labels[0], labels)
    assert result.num_pos[0] == (matched >= 0).sum()


@pytest.mark.parametrize("kind", ["plain", "exact", "saturated"])
def test_published_costs(kind):
    """Summing all classes once per prior loses nothing, not even where scores are 0 or 1."""
    arguments = problem(3, images=1, classes=80, rows=9, counts=[9], kind=kind)
    cost = ops.aligned_ota_cost(*arguments)
    scores, boxes, points, strides, gt, labels, _ = arguments
    clamped = np.clip(scores[0].astype(np.float64), 0, 1)
    valid, expected, iou, inside = published_costs(clamped, boxes[0], points, strides, gt[0], labels[0], 2.5, 1.0, 3.0)
    np.testing.assert_array_equal(np.nonzero(cost.valid[0])[0], valid)
    np.testing.assert_array_equal(cost.inside[0, valid], inside)
    np.testing.assert_allclose(cost.iou[0, valid], iou, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(cost.cost[0, valid], expected, rtol=1e-5, atol=2e-6)


def test_logarithm():
    """Within 1 ulp on all of float32; log(1 - p) within 2 ulp, also for small p."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 0x7F800000, 400000, dtype=np.int32).view(np.float32)
    x = np.concatenate([x, rng.uniform(0.5, 2, 400000).astype(np.float32)])
    exact = np.log(x.astype(np.float64))
    assert np.max(np.abs(_log(x) - exact) / np.spacing(np.abs(exact).astype(np.float32))) < 1
    p = np.concatenate([rng.random(400000), np.exp(rng.uniform(-30, 0, 400000))]).astype(np.float32)
    p = p[p < 1]
    exact = np.log1p(-p.astype(np.float64))
    assert np.max(np.abs(_log_one_minus(p) - exact) / np.spacing(np.abs(exact).astype(np.float32))) < 2
    assert _log(np.float32([0, 1])).tolist() == [-np.inf, 0.0]


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


SMALL = {"images": 3, "size": (64, 64), "classes": 4, "rows": 7}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_batch_equals_loop(seed, kind):
    arguments = problem(seed, kind=kind, **SMALL)
    whole, costs = ops.aligned_ota_assign(*arguments), ops.aligned_ota_cost(*arguments)
    for b in range(3):
        alone = [a if i in (2, 3) else a[b : b + 1] for i, a in enumerate(arguments)]
        same([field[b] for field in whole], [field[0] for field in ops.aligned_ota_assign(*alone)])
        same([field[b] for field in costs], [field[0] for field in ops.aligned_ota_cost(*alone)])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["plain", "tiny", "bad"]))
def test_order_does_not_matter(seed, kind):
    """Rows and priors may come in any order. Costs are equal, and the order decides, only where the IoU is 0."""
    scores, boxes, points, strides, gt, labels, _ = problem(seed, counts=[7, 7, 7], kind=kind, **SMALL)
    count = np.array([7, 7, 7])
    expected = ops.aligned_ota_assign(scores, boxes, points, strides, gt, labels, count)
    rng = np.random.default_rng(seed)
    rows, priors = rng.permutation(7), rng.permutation(len(points))
    got = ops.aligned_ota_assign(
        scores[:, priors], boxes[:, priors], points[priors], strides[priors], gt[:, rows], labels[:, rows], count
    )
    matched, want = np.where(got.matched_gt >= 0, rows[got.matched_gt], -1), expected.matched_gt[:, priors]
    same((got.label_scores, matched >= 0, got.num_pos), (expected.label_scores[:, priors], want >= 0, expected.num_pos))
    decided = got.label_scores > 0
    same((matched[decided], got.labels[decided]), (want[decided], expected.labels[:, priors][decided]))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_padding_is_not_read(seed, kind):
    *front, gt, labels, count = problem(seed, kind=kind, **SMALL)
    wide_gt = np.concatenate([gt, np.full((3, 4, 4), np.nan, np.float32)], 1)
    wide_labels = np.concatenate([labels, np.full((3, 4), 10**12)], 1)
    same(ops.aligned_ota_assign(*front, gt, labels, count), ops.aligned_ota_assign(*front, wide_gt, wide_labels, count))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_non_finite_is_as_if_removed(seed, kind, value):
    """A prior or ground truth with a bad number gets nothing, and the others get what they would get without it."""
    scores, boxes, points, strides, gt, labels, _ = problem(seed, counts=[7, 7, 7], kind=kind, **SMALL)
    rng = np.random.default_rng(seed)
    bad, bad_row = rng.random(len(points)) < 0.2, int(rng.integers(7))
    for i in np.nonzero(bad)[0]:
        place = rng.integers(4)
        target = (scores[:, i, 1:2], boxes[:, i, 3:], points[i, :1], strides[i : i + 1])[place]
        target[:] = value
    gt[:, bad_row, rng.integers(4)] = value
    got = ops.aligned_ota_assign(scores, boxes, points, strides, gt, labels, np.array([7, 7, 7]))
    assert (
        (got.matched_gt[:, bad] == -1).all() and (got.labels[:, bad] == 4).all() and (got.matched_gt != bad_row).all()
    )
    rows = np.delete(np.arange(7), bad_row)
    without = ops.aligned_ota_assign(
        *(
            scores[:, ~bad],
            boxes[:, ~bad],
            points[~bad],
            strides[~bad],
            gt[:, rows],
            labels[:, rows],
            np.array([6, 6, 6]),
        )
    )
    matched = np.where(without.matched_gt >= 0, rows[without.matched_gt], -1)
    np.testing.assert_array_equal(got.matched_gt[:, ~bad], matched)
    same((got.label_scores[:, ~bad], got.num_pos), (without.label_scores, without.num_pos))


def test_ties_go_to_the_lower_prior_and_row():
    """Four equal priors, two equal ground truths: both ask for one prior, the first one, and the first row gets it."""
    points = np.full((4, 2), 16, np.float32)
    boxes = np.tile(np.float32([8, 8, 16, 16]), (1, 4, 1))
    gt = np.tile(np.float32([0, 0, 32, 32]), (1, 2, 1))
    arguments = (np.full((1, 4, 2), 0.5, np.float32), boxes, points, np.full(4, 8, np.float32))
    result = ops.aligned_ota_assign(*arguments, gt, np.array([[1, 1]]), np.array([2]))
    assert result.matched_gt.tolist() == [[0, -1, -1, -1]]
    assert result.labels.tolist() == [[1, 2, 2, 2]]
    assert result.label_scores.tolist() == [[0.0625, 0, 0, 0]]


def test_boundaries_are_strict():
    """A point on an edge is not in the box; a point exactly the radius away is not in the centre window."""
    gt = np.float32([[[10, 20, 40, 40]]])  # centre (25, 30); radius 3 and stride 4: the window is 13 to 37, 18 to 42
    x = np.float32([20, 20, 20, 10, 13, 37, 36, 25, 25, 25])
    y = np.float32([25, 20, 40, 25, 25, 25, 39, 18, 42, 41])
    inside = [True, False, False, False, False, False, True, False, False, False]
    valid = [True, True, True, False, True, True, True, False, False, True]
    n = len(x)
    scores, boxes, strides = np.full((1, n, 1), 0.5), np.zeros((1, n, 4)), np.full(n, 4)
    arguments = (np.float32(scores), np.float32(boxes), np.stack([x, y], 1), np.float32(strides))
    pairs = ops.aligned_ota_cost(*arguments, gt, np.zeros((1, 1), np.int64), np.array([1]), center_radius=3.0)
    assert pairs.valid[0].tolist() == valid
    assert pairs.inside[0, :, 0].tolist() == inside


def test_threads_and_repetition():
    """The same bits with one thread and with several, again and again."""
    arguments = problem(1, images=4, size=(320, 320), classes=20, rows=40, kind="large")
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 5, 5):
            _core.set_num_threads(threads)
            results.append(ops.aligned_ota_assign(*arguments))
    finally:
        _core.set_num_threads(before)
    for result in results[1:]:
        same(results[0], result)


def test_many_ground_truths_agree_with_the_reference():
    arguments = (*problem(2, images=1, size=(256, 256), classes=10, rows=1200, counts=[1200]), *DEFAULTS)
    same(ASSIGN.reference(*arguments), ASSIGN.run(*arguments))


CROWD = """
import resource, sys
sys.path[:0] = {path!r}
import numpy as np
from aligned_ota_problems import problem
from fastdet import ops
arguments = problem(0, images=1, size=(640, 640), classes=4, rows=5000, counts=[5000], kind="tiny")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = ops.aligned_ota_assign(*arguments)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, int(result.num_pos[0]))
"""


@pytest.mark.skipif("san.so" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer's own memory would be counted")
def test_five_thousand_ground_truths_in_little_memory():
    """8400 priors x 5000 ground truths: one float32 per pair would be 168 MB."""
    path = [*sys.path]
    output = subprocess.run([sys.executable, "-c", CROWD.format(path=path)], capture_output=True, text=True, check=True)
    kilobytes, positives = map(int, output.stdout.split())
    assert positives > 2000
    assert kilobytes < 16 * 1024


BASE = problem(0, images=2, size=(32, 32), classes=3, rows=4, counts=[4, 2])
NAMES = {"scores": 0, "boxes": 1, "points": 2, "strides": 3, "gt_boxes": 4, "gt_labels": 5, "gt_count": 6}
WRONG = [
    ({"scores": BASE[0][0]}, ValueError, "scores must have 3 dimensions, got"),
    ({"scores": BASE[0][:1]}, ValueError, r"boxes must be \(1, 21, 4\) for scores"),
    ({"scores": BASE[0][:, :20]}, ValueError, r"boxes must be \(2, 20, 4\)"),
    ({"scores": BASE[0].astype(np.float64)}, TypeError, "scores must be float32, float16 or bfloat16, got float64"),
    ({"scores": BASE[0].astype(np.int32)}, TypeError, "scores must be .* got int32"),
    ({"scores": BASE[0].tolist()}, TypeError, "scores must be an array .* got list"),
    ({"scores": None}, TypeError, "scores must be an array .* got NoneType"),
    ({"boxes": BASE[1].transpose(0, 2, 1)}, ValueError, r"got \(2, 4, 21\); did you mean boxes.swapaxes\(1, 2\)"),
    ({"boxes": BASE[1][..., :3]}, ValueError, r"boxes must be \(2, 21, 4\) for scores \(2, 21, 3\), got \(2, 21, 3\)"),
    ({"boxes": BASE[1][0]}, ValueError, "boxes must have 3 dimensions"),
    ({"boxes": BASE[1].astype(np.float64)}, TypeError, "boxes must be .* got float64"),
    ({"points": BASE[2][:5]}, ValueError, r"points must be \(21, 2\) for scores \(2, 21, 3\), got \(5, 2\)"),
    ({"points": BASE[2].T}, ValueError, r"points must be \(21, 2\)"),
    ({"points": BASE[2].astype(np.float16)}, TypeError, "points must be float32, got float16"),
    ({"strides": BASE[3][:, None]}, ValueError, "strides must have 1 dimensions"),
    ({"strides": BASE[3][:-1]}, ValueError, r"strides must be \(21,\)"),
    ({"strides": BASE[3].astype(np.int64)}, TypeError, "strides must be float32, got int64"),
    ({"gt_boxes": BASE[4][:1]}, ValueError, r"gt_boxes must be \(2, M, 4\), got \(1, 4, 4\)"),
    ({"gt_boxes": BASE[4][..., :2]}, ValueError, r"gt_boxes must be \(2, M, 4\), got \(2, 4, 2\)"),
    ({"gt_boxes": BASE[4].astype(np.float64)}, TypeError, "gt_boxes must be float32, got float64"),
    ({"gt_labels": BASE[5][:, :3]}, ValueError, r"gt_labels must be \(2, 4\) for gt_boxes \(2, 4, 4\), got \(2, 3\)"),
    ({"gt_labels": BASE[5][0]}, ValueError, "gt_labels must have 2 dimensions"),
    ({"gt_labels": BASE[5].astype(np.float32)}, TypeError, "gt_labels must be int64 or int32, got float32"),
    ({"gt_labels": BASE[5] * 0 + 3}, ValueError, r"gt_labels must lie in \[0, 3\), got 3 for image 0, row 0"),
    ({"gt_labels": BASE[5] * 0 - 1}, ValueError, r"gt_labels must lie in \[0, 3\), got -1"),
    ({"gt_count": BASE[6][:1]}, ValueError, r"gt_count must be \(2,\), got \(1,\)"),
    ({"gt_count": BASE[6][:, None]}, ValueError, "gt_count must have 1 dimensions"),
    ({"gt_count": np.array([4, 5])}, ValueError, r"gt_count must lie in \[0, 4\], got 5 for image 1"),
    ({"gt_count": np.array([-1, 2])}, ValueError, r"gt_count must lie in \[0, 4\], got -1 for image 0"),
    ({"gt_count": np.array([4.0, 2.0])}, TypeError, "gt_count must be int64 or int32, got float64"),
    ({"topk": 0}, ValueError, r"topk must lie in \[1, 1024\], got 0"),
    ({"topk": 1025}, ValueError, r"topk must lie in \[1, 1024\], got 1025"),
    ({"topk": -3}, ValueError, "topk must lie"),
    ({"center_radius": -1.0}, ValueError, "center_radius must be finite and not negative, got -1"),
    ({"center_radius": float("nan")}, ValueError, "center_radius must be finite"),
    ({"class_weight": -0.5}, ValueError, "class_weight must be finite and not negative"),
    ({"class_weight": 1e39}, ValueError, "class_weight must be finite and not negative, got inf"),
    ({"iou_weight": float("inf")}, ValueError, "iou_weight must be finite"),
    ({"iou_weight": "three"}, TypeError, "iou_weight must be a number"),
]


@pytest.mark.parametrize("function", [ops.aligned_ota_assign, ops.aligned_ota_cost])
@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_wrong_arguments(function, change, error, message):
    arguments = list(BASE)
    attributes = {}
    for name, value in change.items():
        if name in NAMES:
            arguments[NAMES[name]] = value
        else:
            attributes[name] = value
    with pytest.raises(error, match=message):
        function(*arguments, **attributes)


def test_inputs_that_require_grad_are_taken():
    """An assignment has no gradient by its nature, so a training loop need not detach."""
    import torch

    arguments = [torch.from_numpy(np.array(a)) for a in BASE]
    expected = ops.aligned_ota_assign(*arguments)
    arguments[0].requires_grad_()
    got = ops.aligned_ota_assign(*arguments)
    same(expected, got)
    assert not got.label_scores.requires_grad


def test_grid_of_the_models():
    points, strides = grid(640, 640)
    assert points.shape == (8400, 2) and strides.shape == (8400,)
