# SPDX-License-Identifier: Apache-2.0
"""SimOTA assignment: the case table, and the facts that are special to it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_ota_problems import DEFAULTS, KINDS, problem, published_assignment

from fastdet import _core, ops
from fastdet.assign import anchor_candidates, pad_targets, sim_ota
from fastdet.testing import run_vector, shared_dir
from fastdet.testing.ops import VARIANTS, Case, check, check_torch

ASSIGN, COST = ops.SIM_OTA_ASSIGN, ops.SIM_OTA_COST


def case(name, op=ASSIGN, attributes=DEFAULTS, **kw):
    return Case(name, op, lambda: (*problem(**kw), *attributes), floats=(0, 1, 2))


CASES = [
    case("plain"),
    case("cost", COST),
    case("listed", listed=True, counts=[6, 3]),
    case("listed-cost", COST, listed=True, counts=[6, 3]),
    case("wide", seed=1, classes=80, rows=9),
    case("listed-wide", seed=1, classes=80, rows=9, listed=True, entries=300),
    case("long-rows", seed=2, images=1, size=(32, 32), classes=2500, rows=2, counts=[2]),
    case("one-class", seed=3, classes=1),
    case("int32", seed=4, labels=np.int32, listed=True),
    case("many-rows", seed=5, images=1, size=(64, 64), rows=90, counts=[90]),
    case("no-images", images=0),
    case("no-images-listed", COST, images=0, listed=True),
    case("no-priors", size=(0, 0)),
    case("no-priors-listed", size=(0, 0), listed=True),
    case("no-candidates", listed=True, entries=0),
    case("no-classes", classes=0, counts=[0, 0]),
    case("no-rows", rows=0),
    case("no-rows-listed", COST, rows=0, listed=True),
    case("all-empty", counts=[0, 0], listed=True),
    case("one-ground-truth", rows=1, counts=[1, 1]),
    case("one-prior", size=(8, 8)),
    case("topk-20", attributes=(2.5, 20, 1.0, 3.0), seed=7, kind="large"),
    case("topk-64", attributes=(2.5, 64, 1.0, 3.0), seed=8, kind="exact", listed=True, entries=200),
    case("radius-0", attributes=(0.0, 10, 1.0, 3.0), seed=10),
    case("weights-0", attributes=(2.5, 10, 0.0, 0.0), seed=12),
    case("heavy", attributes=(2.5, 10, 3e5, 7e5), seed=16, images=1, size=(64, 64), rows=40, counts=[40]),
    case("heavy-ties", attributes=(2.5, 10, 3e5, 7e5), seed=17, kind="ties", rows=17),
    case("heavy-twins", attributes=(2.5, 10, 3e6, 7e5), seed=18, kind="twins", classes=80, rows=17),
    case("certain", seed=13, kind="saturated", certain=True),
    case("certain-cost", COST, seed=14, kind="saturated", certain=True),
    case("certain-wide", COST, seed=15, kind="saturated", certain=True, classes=80, rows=9),
]
# Every kind in both forms at several sizes; which variants run them rotates, so that all of them meet all kinds.
GENERATED = [
    case(
        f"{kind}-{'listed' if listed else 'windows'}-{seed}",
        COST if seed % 5 == 4 else ASSIGN,
        DEFAULTS if seed % 3 else (1.5, 20, 0.7, 2.0),
        seed=seed,
        images=1 + seed % 3,
        size=[(64, 96), (32, 32), (96, 64)][seed % 3],
        classes=[3, 7, 20, 1][seed % 4],
        rows=[4, 1, 9, 17][seed // 2 % 4],
        kind=kind,
        listed=listed,
        entries=[33, 150][seed % 2],
    )
    for kind in KINDS
    for listed in (False, True)
    for seed in range(16)
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


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("plain", "cost", "listed", "listed-cost")], ids=str)
def test_torch_library(case):
    check_torch(case)


def multiset(arrays, tag, level):
    names = (f"{tag}_l{level}_{name}" for name in ("index", "target", "anchor"))
    return sorted(map(tuple, np.concatenate([np.asarray(arrays[n], np.float64) for n in names], 1).round(4).tolist()))


def test_shared_vectors_of_yolov7():
    """Matches as multisets per level; what decides them within 1e-4; candidates in order."""
    if shared_dir() is None:
        pytest.skip("no shared parity data (FASTDET_SHARED)")
    with np.load(shared_dir() / "parity" / "assign" / "yolov7_ota.npz") as file:
        arrays = dict(file)
    outputs = run_vector("yolov7_ota", arrays)
    assert set(outputs) == {k for k in arrays if "_img" in k or any(f"_l{i}_" in k for i in range(3))}
    for key, value in outputs.items():
        assert value.dtype == arrays[key].dtype and value.shape == arrays[key].shape, key
        if key.endswith(("candidates", "_k")):
            np.testing.assert_array_equal(value, arrays[key], err_msg=key)
        elif "_img" in key:
            np.testing.assert_allclose(value, arrays[key], rtol=1e-4, atol=1e-4, err_msg=key)
    for tag in ("ota", "auxota_lead", "auxota_aux"):
        for level in range(3):
            assert multiset(outputs, tag, level) == multiset(arrays, tag, level)


def alone(arguments, b):
    return [None if a is None else a if i in (6, 7) else a[b] for i, a in enumerate(arguments)]


def assign(arguments):
    return ops.Assignment(*ASSIGN(*arguments, *DEFAULTS))


@pytest.mark.parametrize("seed", range(40))
def test_published_rule(seed):
    """The rule as published, over all classes and in float64, makes the same decisions where no two costs are close."""
    kind, listed = ("plain", "large", "tiny", "exact")[seed % 4], seed % 3 == 0
    rows = {"rows": 12, "counts": [seed % 13]}
    arguments = list(
        problem(seed, images=1, classes=(80, 20, 2)[seed % 3], kind=kind, **rows, listed=listed, entries=90)
    )
    if listed:  # equal candidates would be ties
        arguments[8] = arguments[8][:, :45] if seed % 2 else np.unique(arguments[8])[None]
        _, first = np.unique(arguments[8], return_index=True)
        arguments[8] = arguments[8][:, np.sort(first)]
    result = assign(arguments)
    matched, iou = published_assignment(alone(arguments, 0), *DEFAULTS)
    np.testing.assert_array_equal(result.matched_gt[0], matched)
    np.testing.assert_allclose(result.label_scores[0], iou, rtol=2e-6)
    assert result.num_pos[0] == (matched >= 0).sum()


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


SMALL = {"images": 3, "size": (64, 64), "classes": 4, "rows": 7}


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(KINDS), listed=st.booleans())
def test_batch_equals_loop(seed, kind, listed):
    arguments = problem(seed, kind=kind, listed=listed, **SMALL)
    whole = assign(arguments)
    for b in range(3):
        one = [None if a is None else a if i in (6, 7) else a[b : b + 1] for i, a in enumerate(arguments)]
        same([field[b] for field in whole], [field[0] for field in assign(one)])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), kind=st.sampled_from(["plain", "tiny", "small", "large", "bad"]), listed=st.booleans()
)
def test_order_of_ground_truths_does_not_matter(seed, kind, listed):
    """A candidate goes to another ground truth only where both cost the same, to the bit."""
    arguments = list(problem(seed, counts=[7, 7, 7], listed=listed, **{**SMALL, "kind": kind}))
    expected, costs = assign(arguments), ops.AssignmentCost(*COST(*arguments, *DEFAULTS))
    rows = np.random.default_rng(seed).permutation(7)
    arguments[3], arguments[4] = arguments[3][:, rows], arguments[4][:, rows]
    got = assign(arguments)
    matched = np.where(got.matched_gt >= 0, rows[got.matched_gt], -1)
    same((matched >= 0, got.num_pos), (expected.matched_gt >= 0, expected.num_pos))
    for b, a in zip(*np.nonzero(matched != expected.matched_gt), strict=True):
        one, other = matched[b, a], expected.matched_gt[b, a]
        assert costs.cost[b, a, one] == costs.cost[b, a, other] and costs.inside[b, a, one] == costs.inside[b, a, other]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(KINDS), listed=st.booleans())
def test_padding_is_not_read(seed, kind, listed):
    arguments = list(problem(seed, kind=kind, listed=listed, **SMALL))
    expected = assign(arguments)
    arguments[3] = np.concatenate([arguments[3], np.full((3, 4, 4), np.nan, np.float32)], 1)
    arguments[4] = np.concatenate([arguments[4], np.full((3, 4), 10**12)], 1)
    same(expected, assign(arguments))


def test_ties_go_to_the_lower_candidate_and_row():
    """A prior listed four times and two equal ground truths: the first entries, the first row."""
    arguments = (np.zeros((1, 1, 2), np.float32), np.zeros((1, 1), np.float32), np.float32([[[0, 0, 32, 24]]]))
    gt = np.tile(np.float32([0, 0, 32, 32]), (1, 2, 1))
    listed = np.array([[0, -1, 0, 0, 0]])
    result = ops.sim_ota_assign(*arguments, gt, np.array([[1, 1]]), np.array([2]), candidates=listed, topk=3)
    assert result.matched_gt.tolist() == [[0, -1, 0, -1, -1]] and result.labels.tolist() == [[1, 2, 1, 2, 2]]
    assert result.label_scores.tolist() == [[0.75, 0, 0.75, 0, 0]]


def test_anchor_candidates():
    """A centre in the upper left of its cell has neighbours there; coarse takes all four; a shape too far off, none."""
    truth = pad_targets(
        [torch.tensor([[10.0, 18.8, 26, 30.8]]), torch.zeros(0, 4)], [torch.tensor([1]), torch.zeros(0)], 2
    )
    anchors = torch.tensor([[[16.0, 16], [80, 80]], [[20, 20], [6, 6]]])
    sizes, strides = [(8, 8), (4, 4)], [8, 16]
    fine = anchor_candidates(truth, anchors, sizes, strides)  # centre (18, 24.8): cells (2.25, 3.1), (1.125, 1.55)
    assert fine.shape == (2, 20) and fine.dtype == torch.int32 and (fine[1] == -1).all()
    first, second = fine[0, :10:2].tolist(), fine[0, 10:].reshape(5, 2).tolist()
    assert first == [26, 25, 18, -1, -1] and (fine[0, 1:10:2] == -1).all()
    at = 128 + 1 * 4 + 1
    assert [row[0] for row in second] == [at, at - 1, -1, -1, at + 4]
    coarse = anchor_candidates(truth, anchors, sizes, strides, coarse=True)
    assert coarse[0, :10:2].tolist() == [26, 25, 18, 27, 34]
    assert set(coarse[0, 10::2].tolist()) == {at, at - 1, at - 4, at + 1, at + 4}


def test_both_forms_through_the_assigner():
    arguments = [None if a is None else torch.from_numpy(np.array(a)) for a in problem(3, images=1, counts=[5], rows=5)]
    scores, objectness, boxes, gt, labels, _, points, strides, _ = arguments
    truth = pad_targets(list(gt), list(labels), 5)
    windows = sim_ota(scores, objectness, boxes, truth, points=points, strides=strides)
    assert int(windows.num_pos) > 0
    valid = torch.nonzero(windows.matched_gt[0] >= 0).T
    listed = sim_ota(scores, objectness, boxes, truth, candidates=valid)
    assert listed.matched_gt.shape == valid.shape


def test_threads_and_repetition():
    """The same bits with one thread and with several, again and again."""
    arguments = problem(1, images=4, size=(320, 320), classes=20, rows=40, kind="large")
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 5):
            _core.set_num_threads(threads)
            results.append(assign(arguments))
    finally:
        _core.set_num_threads(before)
    for result in results[1:]:
        same(results[0], result)


CROWD = """
import resource, sys
sys.path[:0] = {path!r}
from sim_ota_problems import problem
from fastdet import ops
arguments = problem(0, images=1, size=(640, 640), classes=4, rows=5000, counts=[5000], kind="tiny")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = ops.SIM_OTA_ASSIGN(*arguments, 2.5, 10, 1.0, 3.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, int(result[3][0]))
"""


@pytest.mark.skipif("san.so" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer's own memory would be counted")
def test_five_thousand_ground_truths_in_little_memory():
    """8400 priors x 5000 ground truths: one float32 per pair would be 168 MB."""
    output = subprocess.run(
        [sys.executable, "-c", CROWD.format(path=[*sys.path])], capture_output=True, text=True, check=True
    )
    kilobytes, positives = map(int, output.stdout.split())
    assert positives > 2000
    assert kilobytes < 8 * 1024


BASE = problem(0, images=2, size=(32, 32), classes=3, rows=4, counts=[4, 2])
NAMES = dict(
    zip(
        ("scores", "objectness", "boxes", "gt_boxes", "gt_labels", "gt_count", "points", "strides"),
        range(8),
        strict=True,
    )
)
LISTED = np.zeros((2, 5), np.int64)
WRONG = [
    ({"scores": BASE[0][0]}, ValueError, "scores must have 3 dimensions, got"),
    ({"scores": BASE[0].astype(np.float64)}, TypeError, "scores must be float32, float16 or bfloat16, got float64"),
    ({"objectness": BASE[1][:, :5]}, ValueError, r"objectness must be \(2, 21\) for scores \(2, 21, 3\), got \(2, 5\)"),
    ({"boxes": BASE[2].transpose(0, 2, 1)}, ValueError, r"got \(2, 4, 21\); did you mean boxes.swapaxes\(1, 2\)"),
    ({"boxes": BASE[2][..., :3]}, ValueError, r"boxes must be \(2, 21, 4\) for scores \(2, 21, 3\), got \(2, 21, 3\)"),
    ({"points": BASE[6][:5]}, ValueError, r"points must be \(21, 2\) for scores \(2, 21, 3\), got \(5, 2\)"),
    ({"strides": BASE[7][:-1]}, ValueError, r"strides must be \(21,\)"),
    ({"strides": None}, ValueError, "points and strides, or candidates must be given, got not enough of them"),
    ({"candidates": LISTED}, ValueError, "points and strides, or candidates must be given, got all of them"),
    (
        {"points": None, "strides": None, "candidates": LISTED[:1]},
        ValueError,
        r"candidates must be \(2, A\) for scores \(2, 21, 3\), got \(1, 5\)",
    ),
    (
        {"points": None, "strides": None, "candidates": LISTED.astype(np.float32)},
        TypeError,
        "candidates must be int64 or int32, got float32",
    ),
    ({"gt_boxes": BASE[3][:1]}, ValueError, r"gt_boxes must be \(2, M, 4\), got \(1, 4, 4\)"),
    ({"gt_labels": BASE[4][:, :3]}, ValueError, r"gt_labels must be \(2, 4\) for gt_boxes \(2, 4, 4\), got \(2, 3\)"),
    ({"gt_labels": BASE[4] * 0 + 3}, ValueError, r"gt_labels must lie in \[0, 3\), got 3 for image 0, row 0"),
    ({"gt_count": np.array([4, 5])}, ValueError, r"gt_count must lie in \[0, 4\], got 5 for image 1"),
    ({"topk": 0}, ValueError, r"topk must lie in \[1, 1024\], got 0"),
    ({"topk": 1025}, ValueError, r"topk must lie in \[1, 1024\], got 1025"),
    ({"center_radius": -1.0}, ValueError, "center_radius must be finite and not negative, got -1"),
    ({"class_weight": -0.5}, ValueError, "class_weight must be finite and not negative"),
    ({"iou_weight": float("inf")}, ValueError, "iou_weight must be finite"),
]


@pytest.mark.parametrize("function", [ops.sim_ota_assign, ops.sim_ota_cost])
@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_wrong_arguments(function, change, error, message):
    arguments, attributes = list(BASE[:6]), {"points": BASE[6], "strides": BASE[7]}
    for name, value in change.items():
        if NAMES.get(name, 9) < 6:
            arguments[NAMES[name]] = value
        else:
            attributes[name] = value
    with pytest.raises(error, match=message):
        function(*arguments, **attributes)
