# SPDX-License-Identifier: Apache-2.0
"""Aligned IoU losses: the case table, every reference's formula, and the facts that are special to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from box_pairs import KINDS, boxes, corners_of, torch_similarity
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet import _core, ops
from fastdet.ops._iou import Rules
from fastdet.testing import shared_dir
from fastdet.testing.ops import DOUBLE_VARIANTS, VARIANTS, Case, check, check_gradients, check_torch, zero_sizes

# The references and their arguments, as the table of docs/ops/box_iou_loss.md has them.
REFERENCES = {
    "torchvision generalized_box_iou_loss": {"kind": "giou"},
    "torchvision distance_box_iou_loss": {"kind": "diou"},
    "torchvision complete_box_iou_loss": {"kind": "ciou"},
    "DAMO-YOLO": {"kind": "giou", "eps": 1e-6, "eps_union": "clamp", "eps_enclosing": "clamp"},
    "RT-DETR": {"kind": "giou", "fmt": "cxcywh", "eps_union": "none", "eps_enclosing": "none"},
    "YOLOv5": {"kind": "ciou", "fmt": "cxcywh"},
    "YOLOv7, YOLOv9, Ultralytics": {"kind": "ciou", "eps_sides": "height"},
    "Ultralytics, rotated": {"kind": "probiou", "variance_eps": 0.01},
}
WORDS = [
    *REFERENCES.values(),
    {"kind": "iou"},
    {"kind": "iou", "fmt": "xywh", "eps": 1e-3, "eps_union": "clamp"},
    {"kind": "diou", "fmt": "xywh", "eps": 0.1, "eps_enclosing": "clamp", "eps_sides": "both"},
    {"kind": "ciou", "fmt": "cxcywh", "eps": 0.1, "eps_sides": "both", "detach_alpha": False},
    {"kind": "probiou"},
    {"kind": "iou", "fmt": "cxcywh", "eps_union": "none"},
    {"kind": "giou", "fmt": "xywh", "eps": 1e-3, "eps_enclosing": "none"},
    {"kind": "giou", "eps": 0.1, "eps_union": "none", "eps_enclosing": "clamp", "eps_sides": "height"},
    {"kind": "diou", "fmt": "cxcywh", "eps": 1e-3, "eps_union": "clamp", "eps_enclosing": "none"},
    {"kind": "ciou", "fmt": "xywh", "eps": 1e-3, "eps_union": "clamp", "eps_enclosing": "clamp", "eps_sides": "height"},
    {"kind": "probiou", "eps": 1e-3, "variance_eps": 1.0},
]


def rules_of(kind, fmt="xyxy", eps=1e-7, eps_union="add", eps_enclosing="add", eps_sides="none", **rest):
    """What ``box_iou_loss`` makes of its words."""
    if kind == "probiou":
        return Rules(kind, "cxcywha", eps, **rest)
    return Rules(kind, fmt, eps, eps_union, eps_enclosing, eps_sides, **rest)


def pairs(rules, n=7, kind="plain", seed=0):
    """Predictions, targets of which some are equal to the predictions, and weights of which some are 0."""
    rng = np.random.default_rng(seed)
    pred, target = boxes(rng, (n,), kind, rules.fmt), boxes(rng, (n,), kind, rules.fmt)
    same = rng.random(n) < 0.1
    target[same] = pred[same]
    return pred, target, rng.random(n).astype(np.float32) * (rng.random(n) < 0.8)


def forward(name, words, kind="plain", n=7, *, reduction="none", wants=(True, True), weighted=True, seed=0):
    rules = rules_of(**words)

    def make():
        pred, target, weight = pairs(rules, n, kind, seed)
        return pred, target, weight if weighted else None, *rules, reduction, *wants

    # Gradients of small or huge boxes are large; near 0 the root in the probabilistic IoU magnifies one ulp.
    atol = (5e-4 if rules.kind == "probiou" else 2e-6) * {"tiny": 1e4, "bad": 1e4, "lattice": 10}.get(kind, 1)
    at = (0, 1, 2) if weighted else (0, 1)
    return Case(
        name, ops.BOX_IOU_LOSS, make, floats=at, doubles=at, batch=tuple((i, 0) for i in at),
        rtol=2e-5, atol=atol, rtol_double=1e-9, atol_double=1e-9 * (1e4 if kind in ("tiny", "bad") else 1),
    )  # fmt: skip


def backward(name, n=7, *, scalar=False, kept=(True, True)):
    def make():
        rng = np.random.default_rng(n)
        grad = rng.standard_normal(() if scalar else n).astype(np.float32)
        return np.asarray(grad), *(rng.standard_normal((n if k else 0, 4)).astype(np.float32) for k in kept)

    return Case(name, ops.BOX_IOU_LOSS_BACKWARD, make, doubles=(0, 1, 2), rtol_double=0, atol_double=0)


CIOU = {"kind": "ciou", "eps_sides": "height"}
CASES = [
    *zero_sizes(lambda name, n: forward(name, CIOU, n=n), {"n": 5}),
    forward("no-pairs-sum", CIOU, n=0, reduction="sum"),
    forward("no-pairs-mean", CIOU, n=0, reduction="mean"),
    forward("one-mean", CIOU, n=1, reduction="mean"),
    forward("no-weight", CIOU, weighted=False),
    forward("only-pred", CIOU, wants=(True, False), reduction="sum"),
    forward("only-target", CIOU, wants=(False, True), reduction="mean"),
    forward("no-gradient", CIOU, wants=(False, False)),
    backward("backward-rows"),
    backward("backward-scalar", scalar=True),
    backward("backward-large", 600),
    backward("backward-pred", kept=(True, False)),
    backward("backward-target", scalar=True, kept=(False, True)),
    backward("backward-no-pairs", 0),
]
SIZES = [1, 7, 31, 255, 256, 257, 300, 523]
GENERATED = [
    forward(f"{words['kind']}-{number}-{kind}", words, kind, SIZES[number % 8], weighted=number % 4 > 0, seed=number,
            reduction=("none", "sum", "mean")[number % 3])
    for number, (words, kind) in enumerate((words, kind) for words in WORDS for kind in KINDS)
]  # fmt: skip
HOST = [v for v in (*VARIANTS, *DOUBLE_VARIANTS) if not v.startswith("cuda")]
CUDA = [v for v in (*VARIANTS, *DOUBLE_VARIANTS) if v.startswith("cuda")]


@pytest.mark.parametrize("variant", [*VARIANTS, *DOUBLE_VARIANTS])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize(("number", "case"), list(enumerate(GENERATED)), ids=map(str, GENERATED))
def test_generated(number, case):
    """Reference, CPU and CUDA agree, whatever the boxes and arrays look like; CPU and CUDA to the bit."""
    for step in range(3):
        check(case, HOST[(number + step * 4) % len(HOST)])
    check(case, CUDA[number % len(CUDA)])
    check(case, CUDA[(number + 3) % len(CUDA)])


@pytest.mark.parametrize(
    "case", [forward("rows", CIOU), forward("mean", WORDS[7], reduction="mean", weighted=False), backward("b")], ids=str
)
def test_torch_library(case):
    check_torch(case)


@pytest.mark.parametrize("words", [{**words, "detach_alpha": False} for words in WORDS], ids=str)
def test_gradients(words):
    """Against finite differences, where nothing is detached."""
    rules, number = rules_of(**words), WORDS.index(next(w for w in WORDS if w.items() <= words.items()))
    rng = np.random.default_rng(number)
    args = [boxes(rng, (6,), fmt=rules.fmt) for _ in range(2)]
    reduction = ("none", "sum", "mean")[number % 3]
    case = Case(
        "loss", ops.BOX_IOU_LOSS, lambda: (*args, np.float32([1, 2, 0, 0.5, 3, 1]), *rules, reduction, True, True),
        doubles=(0, 1, 2), rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    check_gradients(case, (0, 1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("words", WORDS, ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_published_formula(words, reduction):
    """Loss and gradients in float64 equal torch's on the formula as published; float32 lies close."""
    rules = rules_of(**words)
    rng = np.random.default_rng(4)
    given = [torch.from_numpy(boxes(rng, (2, 60), fmt=rules.fmt)).double() for _ in range(2)]
    weight = torch.from_numpy(rng.random((2, 60)))
    leaves, same = ([x.clone().requires_grad_() for x in given] for _ in range(2))
    got = ops.box_iou_loss(*leaves, **words, weight=weight, reduction=reduction)
    turned = same if rules.kind == "probiou" else [corners_of(x, rules.fmt) for x in same]
    where = (rules.kind, rules.eps, rules.eps_union, rules.eps_enclosing, rules.eps_sides)
    more = {"detach_alpha": rules.detach_alpha, "variance_eps": rules.variance_eps}
    rows = weight * (1 - torch_similarity(*turned, *where, **more))
    want = {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    upstream = torch.rand(want.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = torch.autograd.grad(want, same, upstream)
    for ours, theirs in zip(torch.autograd.grad(got, leaves, upstream), exact):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    narrow = [x.float().requires_grad_() for x in given]
    loss = ops.box_iou_loss(*narrow, **words, weight=weight.float(), reduction=reduction)
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=2e-5)
    for ours, theirs in zip(torch.autograd.grad(loss, narrow, upstream.float()), exact):
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-4, atol=2e-6)


def test_damo_yolo_vectors():
    if shared_dir() is None:
        pytest.skip("no shared parity data (FASTDET_SHARED)")
    with np.load(shared_dir() / "parity" / "assign" / "damo_losses.npz") as file:
        given = {key: torch.from_numpy(file[key]) for key in file if key.startswith("giou_")}
    words = REFERENCES["DAMO-YOLO"]
    pred = given["giou_pred"].requires_grad_()
    rows = ops.box_iou_loss(pred, given["giou_target"], **words)
    torch.testing.assert_close(rows, given["giou_per_row"], rtol=1e-5, atol=1e-6)
    total = ops.box_iou_loss(pred, given["giou_target"], **words, weight=given["giou_weight"], reduction="sum")
    loss = 2 * total / given["giou_avg_factor"]
    loss.backward()
    torch.testing.assert_close(loss.detach(), given["giou_loss"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pred.grad, given["giou_grad_pred"], rtol=1e-5, atol=1e-8)
    edge = ops.box_iou_loss(given["giou_edge_pred"], given["giou_edge_target"], **words)
    torch.testing.assert_close(edge, given["giou_edge_per_row"], rtol=1e-5, atol=1e-6)


def test_rtdetr_vectors():
    if shared_dir() is None:
        pytest.skip("no shared parity data (FASTDET_SHARED)")
    with np.load(shared_dir() / "parity" / "assign" / "rtdetr_losses.npz") as file:
        given = {key: file[key] for key in file if key.startswith("single_")}
    first = np.cumsum([0, *given["single_num_gt"]])
    boxes_of = torch.from_numpy(given["single_boxes"]).requires_grad_()
    gt = torch.from_numpy(given["single_gt_boxes"])
    source = [torch.from_numpy(given[f"single_src{i}"]) for i in range(len(first) - 1)]
    pred = torch.cat([boxes_of[i, s] for i, s in enumerate(source)])
    target = torch.cat([gt[first[i] + given[f"single_tgt{i}"]] for i in range(len(source))])
    rows = ops.box_iou_loss(pred, target, **REFERENCES["RT-DETR"])
    np.testing.assert_allclose(1 - rows.detach(), given["single_matched_giou"], rtol=1e-5, atol=2e-6)
    loss = rows.sum() / float(given["single_num_boxes"])
    loss.backward()
    np.testing.assert_allclose(loss.item(), given["single_loss_giou"], rtol=1e-5)
    np.testing.assert_allclose(boxes_of.grad, given["single_loss_giou_grad_boxes"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("words", WORDS, ids=str)
def test_degenerate_pairs(words):
    """Any box without area, inverted or not finite, on either side: a finite loss, no gradient, never NaN."""
    rules = rules_of(**words)
    for kind in ("degenerate", "bad"):
        pred, target, weight = (torch.from_numpy(x) for x in pairs(rules, 400, kind, seed=3))
        leaves = pred.requires_grad_(), target.requires_grad_()
        rows = ops.box_iou_loss(*leaves, **words)
        assert rows.isfinite().all()
        broken = ~(pred.isfinite().all(-1) & target.isfinite().all(-1))
        assert (rows[broken] == 1).all()
        if rules.fmt == "xyxy":
            broken = broken | ~((pred[:, 2:] > pred[:, :2]).all(-1) & (target[:, 2:] > target[:, :2]).all(-1))
        for reduction in ("sum", "mean"):
            loss = ops.box_iou_loss(*leaves, **words, weight=weight, reduction=reduction)
            for grad in torch.autograd.grad(loss, leaves):
                assert grad.isfinite().all() and (grad[broken] == 0).all()


def test_eps_is_the_fourth_argument():
    by_place = ops.box_iou_loss(PRED, TARGET, "ciou", 1e-3)
    np.testing.assert_array_equal(by_place, ops.box_iou_loss(PRED, TARGET, "ciou", eps=1e-3))
    assert (by_place != ops.box_iou_loss(PRED, TARGET, "ciou")).any()


def test_equal_boxes():
    """No loss; the gradient of each corner is that of half its slope, as torch has it."""
    box = torch.tensor([[1.0, 2, 4, 6]])
    for kind in ("iou", "giou", "diou", "ciou"):
        pred = box.clone().requires_grad_()
        loss = ops.box_iou_loss(pred, box, kind, eps=0.0)
        assert loss.item() == 0
        theirs = box.double().requires_grad_()
        (1 - torch_similarity(theirs, box.double(), kind, 1e-15)).sum().backward()
        (grad,) = torch.autograd.grad(loss.sum(), pred)
        torch.testing.assert_close(grad.double(), theirs.grad, atol=1e-7, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40), kind=st.sampled_from(KINDS), words=st.sampled_from(WORDS))
def test_agrees_with_pairwise(seed, n, kind, words):
    """1 - the diagonal of the pairwise form, to the bit; rows follow the order of pairs; sums are sums of rows."""
    rules = rules_of(**words)
    pred, target, weight = pairs(rules, n, kind, seed)
    rows = ops.box_iou_loss(pred, target, **words)
    similarity = ops.BOX_IOU(pred[:, None], target[:, None], *rules)[:, 0, 0]
    np.testing.assert_array_equal(rows, np.float32(1) - similarity)
    order = np.random.default_rng(seed).permutation(n)
    np.testing.assert_array_equal(ops.box_iou_loss(pred[order], target[order], **words), rows[order])
    for reduction, divisor in (("sum", 1), ("mean", max(n, 1))):
        got = ops.box_iou_loss(pred, target, **words, weight=weight, reduction=reduction)
        want = (weight * rows).astype(np.float64).sum() / divisor
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-30)


def test_threads_and_repetition():
    """The same bits with one thread and with several, again and again."""
    pred, target, weight = pairs(rules_of(**CIOU), 20000, seed=5)
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 5):
            _core.set_num_threads(threads)
            results.append(ops.BOX_IOU_LOSS(pred, target, weight, *rules_of(**CIOU), "mean", True, True))
    finally:
        _core.set_num_threads(before)
    for result in results[1:]:
        for x, y in zip(results[0], result):
            np.testing.assert_array_equal(x, y)


def test_what_is_kept():
    """Only the gradients that somebody asked for, and nothing at all where nobody did."""
    pred, target, _ = (torch.from_numpy(x) for x in pairs(rules_of(**CIOU), 9))
    assert not ops.box_iou_loss(pred, target, **CIOU).requires_grad
    loss = ops.box_iou_loss(pred.requires_grad_(), target, **CIOU, reduction="mean")
    kept = [tuple(t.shape) for t in loss.grad_fn.saved_tensors]
    assert kept == [(9, 4), (0, 4)]
    half = pred.detach().half().requires_grad_()
    (grad,) = torch.autograd.grad(ops.box_iou_loss(half, target, **CIOU, reduction="sum"), half)
    assert grad.dtype == torch.float16
    with pytest.raises(RuntimeError, match="want_pred must be true"):
        loss = ops.BOX_IOU_LOSS(pred, target, None, *rules_of(**CIOU), "sum", False, False)[0]
        loss.backward()


def test_second_derivatives_are_refused():
    pred, target, _ = (torch.from_numpy(x) for x in pairs(rules_of(**CIOU)))
    loss = ops.box_iou_loss(pred.requires_grad_(), target, **CIOU)
    upstream = torch.ones_like(loss).requires_grad_()
    with pytest.raises(ValueError, match="has no gradient"):
        torch.autograd.grad(loss, pred, upstream, create_graph=True)


PRED, TARGET, WEIGHT = pairs(rules_of(**CIOU))
WRONG = [
    ({"pred": PRED[:, :3]}, ValueError, r"pred must be \(N, 4\), got \(7, 3\)"),
    ({"target": TARGET[:5]}, ValueError, r"target must be \(7, 4\) like pred, got \(5, 4\)"),
    ({"pred": PRED[None]}, ValueError, "must have the same shape"),
    ({"pred": PRED.astype(np.float64)}, TypeError, "both be float64 or neither"),
    ({"pred": PRED.astype(np.int64)}, TypeError, "pred must be float32, float16, bfloat16 or float64, got int64"),
    ({"pred": PRED.tolist()}, TypeError, "pred must be an array .* got list"),
    ({"weight": WEIGHT[:3]}, ValueError, r"weight must be \(7,\), got \(3,\)"),
    ({"pred": PRED[None], "target": TARGET[None], "weight": 0.5}, ValueError, r"weight must be \(1, 7\), got 0.5"),
    ({"weight": torch.ones(7, requires_grad=True)}, ValueError, "weight must not require a gradient"),
    ({"kind": "siou"}, ValueError, "kind must be one of iou, giou, diou, ciou, probiou, got siou"),
    ({"kind": "probiou"}, ValueError, r"pred must be \(N, 5\)"),
    ({"fmt": "cxcywha"}, ValueError, "fmt must be cxcywha for probiou"),
    ({"reduction": "max"}, ValueError, "reduction must be one of none, sum, mean, got max"),
    ({"eps": -1.0}, ValueError, "eps must be finite"),
    ({"kind": "probiou", "variance_eps": -1.0}, ValueError, "variance_eps must be finite"),
]


@pytest.mark.parametrize(("words", "error", "message"), WRONG)
def test_wrong_arguments(words, error, message):
    with pytest.raises(error, match=message):
        ops.box_iou_loss(**{"pred": PRED, "target": TARGET, **words})
