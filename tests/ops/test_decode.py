# SPDX-License-Identifier: Apache-2.0
"""Head decoding: the case tables of its operators, and the facts that are special to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from head_maps import LEVELS, arguments, backward_arguments, head_of, maps_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet import ops
from fastdet.ops._numeric import exp_exact, sigmoid_exact
from fastdet.testing.ops import DOUBLE_VARIANTS, VARIANTS, Case, check, check_torch

KINDS = ("dfl", "distance", "anchors", "cxcywh")
ONE, ODD, WIDE = ((3, 3),), ((7, 1), (1, 5), (1, 1)), ((9, 13),)
EMPTY = ((0, 3), (2, 2), (3, 0))

# What maps may be like; each is put to every operator.
MAPS = {
    "dfl": ("dfl", {}),
    "dfl-16-bins": ("dfl", {"bins": 16, "levels": ONE, "b": 1}),
    "dfl-corner-17-bins": ("dfl", {"bins": 17, "offset": 0.0, "levels": ((4, 5), (2, 3))}),
    "dfl-two-bins": ("dfl", {"bins": 2, "c": 1}),
    "dfl-odd": ("dfl", {"levels": ODD, "c": 7}),
    "dfl-bad": ("dfl", {"bad": 6, "c": 4}),
    "dfl-ties": ("dfl", {"ties": 1, "c": 5}),
    "dfl-wide": ("dfl", {"levels": WIDE, "c": 37, "low": -4.0}),
    "dfl-many-classes": ("dfl", {"levels": WIDE, "c": 83, "b": 1}),
    "no-images": ("dfl", {"b": 0}),
    "no-classes": ("dfl", {"c": 0}),
    "no-cells": ("dfl", {"levels": ((0, 0),)}),
    "empty-levels": ("distance", {"levels": EMPTY}),
    "distance": ("distance", {}),
    "distance-corner": ("distance", {"offset": 0.0, "c": 1}),
    "distance-saturated": ("distance", {"low": 30.0, "c": 6}),
    "distance-bad": ("distance", {"bad": 8}),
    "one-cell": ("distance", {"levels": ((1, 1),), "b": 1, "c": 1}),
    "eight-levels": ("distance", {"levels": ((2, 2),) * 8, "c": 2}),
    "anchors": ("anchors", {}),
    "anchors-one": ("anchors", {"priors": 1, "c": 1}),
    "anchors-alone": ("anchors", {"objectness": False, "c": 1}),
    "anchors-nine": ("anchors", {"priors": 9, "levels": ONE}),
    "anchors-many-classes": ("anchors", {"levels": ((9, 8),), "c": 81, "b": 1, "priors": 1}),
    "anchors-bad": ("anchors", {"bad": 8, "c": 4}),
    "anchors-saturated": ("anchors", {"low": 20.0, "ties": 1}),
    "anchors-none": ("anchors", {"b": 0, "levels": EMPTY}),
    "anchors-no-classes": ("anchors", {"c": 0, "levels": ONE}),
    "queries": ("cxcywh", {}),
    "queries-one-class": ("cxcywh", {"c": 1, "b": 3}),
    "queries-bad": ("cxcywh", {"bad": 5}),
    "queries-none": ("cxcywh", {"levels": ((0, 1),)}),
}
# More than is worked on at once: 256 or 1024 anchors, 4096 for a thread, 16 or 80 classes, 32 bins.
LARGE = {
    "dfl-many-bins": ("dfl", {"bins": 40, "levels": ((3, 3), (2, 1))}),
    "dfl-tiles": ("dfl", {"levels": ((19, 31), (5, 7)), "c": 18}),
    "dfl-bad-tiles": ("dfl", {"levels": ((23, 29),), "c": 33, "bad": 9, "b": 1}),
    "distance-long-rows": ("distance", {"levels": ((2, 300), (1, 257)), "c": 17}),
    "distance-units": ("distance", {"levels": ((70, 61), (3, 4)), "b": 1, "low": -5.0}),
    "anchors-tiles": ("anchors", {"levels": ((17, 23),), "priors": 2, "c": 5}),
    "anchors-wide-tiles": ("anchors", {"levels": ((20, 13),), "priors": 1, "c": 97, "b": 1}),
    "queries-tiles": ("cxcywh", {"levels": ((1, 301),), "c": 19}),
}


def case(name, op, make, options=(), floats=(0, 1)):
    kind, kw = {**MAPS, **LARGE}[name.partition(" ")[0]]
    return Case(name, op, lambda: make(kind, *options, **kw), floats=floats, rtol_double=1e-12, atol_double=1e-12)


DENSE = [replace(case(name, ops.DECODE_BOXES, arguments), doubles=(0, 1)) for name in MAPS]
BACKWARD = [
    replace(case(name, ops.DECODE_BOXES_BACKWARD, backward_arguments, floats=(3, 4)), doubles=(0, 1, 2, 3, 4))
    for name in MAPS
]
CANDIDATES = [case(name, ops.DECODE_CANDIDATES, arguments, (0.25, 12, i % 2 == 1)) for i, name in enumerate(MAPS)]
DETECT = [
    case(name, ops.DETECT, arguments, (0.2, 0.5, 10, 30000, i % 3 == 2, i % 2 == 0)) for i, name in enumerate(MAPS)
]
# Thresholds and sizes of results.
LIMITS = [
    case(f"{name} {words}", ops.DECODE_CANDIDATES, arguments, options)
    for name, words, options in (
        ("dfl", "threshold-0", (0.0, 500, True)),
        ("dfl-bad", "negative", (-1.0, 500, True)),
        ("dfl-bad", "negative-best", (-1.0, 500, False)),
        ("dfl", "threshold-1", (1.0, 5, True)),
        ("distance-saturated", "saturated", (0.9999999, 20, False)),
        ("dfl", "no-rows", (0.1, 0, True)),
        ("dfl", "one-row", (0.05, 1, True)),
        ("dfl-ties", "truncated-ties", (0.05, 7, True)),
        ("anchors-bad", "negative", (-0.5, 500, True)),
    )
] + [
    case(f"{name} {words}", ops.DETECT, arguments, options)
    for name, words, options in (
        ("dfl", "threshold-0", (0.0, 0.7, 300, 30000, False, True)),
        ("dfl-bad", "negative", (-2.0, 0.5, 300, 30000, False, False)),
        ("dfl", "truncated", (0.01, 0.5, 20, 17, False, True)),
        ("dfl-ties", "truncated-ties", (0.01, 0.9, 20, 17, True, True)),
        ("anchors-saturated", "saturated", (0.5, 0.5, 9, 30000, False, False)),
        ("dfl", "no-rows", (0.1, 0.5, 0, 30000, False, True)),
        ("dfl", "no-candidates", (0.1, 0.5, 5, 0, False, True)),
        ("dfl", "one-candidate", (0.01, 0.5, 5, 1, False, True)),
        ("queries", "iou-0", (0.1, 0.0, 30, 100, False, True)),
    )
]
CASES = [*DENSE, *BACKWARD, *CANDIDATES, *DETECT, *LIMITS]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op.name}-{c.name}")
def test_case(case, variant):
    check(case, variant)


BEYOND = [
    case(name, op, make, options, floats)
    for name in LARGE
    for op, make, options, floats in (
        (ops.DECODE_BOXES, arguments, (), (0, 1)),
        (ops.DECODE_BOXES_BACKWARD, backward_arguments, (), (3, 4)),
        (ops.DECODE_CANDIDATES, arguments, (0.25, 60, True), (0, 1)),
        (ops.DETECT, arguments, (0.25, 0.5, 30, 30000, False, False), (0, 1)),
    )
]


@pytest.mark.parametrize(
    "variant", ["numpy-plain", "numpy-strided", "numpy-transposed", "torch-float16", "cuda-shuffled"]
)
@pytest.mark.parametrize("case", BEYOND, ids=lambda c: f"{c.op.name}-{c.name}")
def test_beyond_one_tile(case, variant):
    check(case, variant)


@pytest.mark.parametrize("variant", DOUBLE_VARIANTS)
@pytest.mark.parametrize("case", [*DENSE, *BACKWARD], ids=lambda c: f"{c.op.name}-{c.name}")
def test_double(case, variant):
    check(case, variant)


TRACED = [
    replace(case("dfl", ops.DECODE_BOXES, arguments)),
    replace(case("anchors", ops.DECODE_BOXES, arguments)),
    replace(case("queries", ops.DECODE_BOXES, arguments)),
    replace(case("distance", ops.DECODE_BOXES_BACKWARD, backward_arguments, floats=(3, 4))),
    case("distance", ops.DECODE_CANDIDATES, arguments, (0.2, 9, True)),
    case("dfl", ops.DETECT, arguments, (0.2, 0.5, 10, 30000, False, False)),
    case("anchors", ops.DETECT, arguments, (0.2, 0.5, 10, 30000, False, True)),
]


@pytest.mark.parametrize("case", TRACED, ids=lambda c: f"{c.op.name}-{c.name}")
def test_torch_library(case):
    check_torch(case)


def leaves_of(kind, dtype, **kw):
    import torch

    logits, codes = maps_of(kind, **kw)
    return [torch.from_numpy(a).to(dtype).requires_grad_() for a in (*logits, *codes)]


@pytest.mark.parametrize("name", ["dfl", "dfl-corner-17-bins", "distance", "anchors", "anchors-alone", "queries"])
def test_gradients(name):
    """Finite differences in float64; float32 near float64; the same bits again, compiled and from strided gradients."""
    import torch

    kind, kw = MAPS[name]
    kw = {**kw, "levels": ((2, 3), (1, 2)), "b": 2, "c": 2}
    offset = kw.pop("offset", 0.5)
    head = head_of(kind, kw["levels"], offset=offset)

    def run(*maps):
        half = len(maps) // 2
        return tuple(ops.decode_boxes(maps[:half], maps[half:], head))

    def gradients(run, maps, layout="plain"):
        results = run(*maps)
        rng = np.random.default_rng(1)
        grads = [torch.from_numpy(rng.normal(size=r.shape)).to(r.dtype) for r in results]
        if layout == "strided":
            grads = [torch.stack((g, g), -1)[..., 0] for g in grads]
        return torch.autograd.grad(results, maps, grads)

    torch.autograd.gradcheck(run, leaves_of(kind, torch.float64, **kw), eps=1e-6, atol=1e-6, rtol=1e-6)
    maps = leaves_of(kind, torch.float32, **kw)
    expected = gradients(run, maps)
    for got, want in zip(expected, gradients(run, leaves_of(kind, torch.float64, **kw))):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for other in (gradients(run, maps), gradients(run, maps, "strided"), gradients(compiled, maps)):
        assert all(torch.equal(a, b) for a, b in zip(other, expected))
    boxes, _ = run(*maps)  # only the boxes are used
    boxes.sum().backward()
    assert all(m.grad is not None for m in maps) and not any(bool(m.grad.any()) for m in maps[: len(maps) // 2])


def test_gradients_half_precision():
    import torch

    maps = leaves_of("dfl", torch.bfloat16)
    boxes, scores = ops.decode_boxes(maps[:3], maps[3:], head_of("dfl", LEVELS))
    assert boxes.dtype == scores.dtype == torch.float32
    (boxes.sum() + scores.sum()).backward()
    assert all(m.grad.dtype == torch.bfloat16 and m.grad.shape == m.shape for m in maps)
    with pytest.raises(ValueError, match=r"detect: has no gradient.*detach"):
        ops.detect(maps[:3], maps[3:], head_of("dfl", LEVELS))


def test_export_with_a_dynamic_batch():
    import torch

    head = head_of("dfl", LEVELS)

    class Module(torch.nn.Module):
        def forward(self, *maps):
            return tuple(ops.detect(maps[:3], maps[3:], head, score_threshold=0.2, max_det=7))

    def maps(b, seed):
        return tuple(torch.from_numpy(a) for side in maps_of("dfl", b=b, seed=seed) for a in side)

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Module(), maps(2, 0), dynamic_shapes=(tuple({0: batch} for _ in range(6)),))
    for b in (2, 5):
        for got, want in zip(program.module()(*maps(b, b)), Module()(*maps(b, b))):
            assert torch.equal(got, want)


# ---- what is special: the threshold -------------------------------------------------------------------------------


def test_the_sigmoid_never_falls():
    """On what decision by logits rests: stretches of float32 where formulas join, and random ones."""
    rng = np.random.default_rng(0)
    for start in (*rng.uniform(-90, 18, 40), *(k * np.log(2) for k in range(-127, 25)), 0.0, -17.4, 17.3):
        x = np.float32(start)
        stretch = np.arange(-3000, 3000) + x.view(np.int32)
        x = stretch.astype(np.int32).view(np.float32)
        x = np.sort(x[np.isfinite(x)])
        assert (np.diff(sigmoid_exact(x)) >= 0).all() and (np.diff(exp_exact(x)) >= 0).all()
    x = rng.uniform(-30, 30, 10000)
    np.testing.assert_allclose(exp_exact(x), np.exp(x), rtol=3e-16)
    np.testing.assert_allclose(exp_exact(x.astype(np.float32)), np.exp(x.astype(np.float32)), rtol=2.4e-7)
    edges = np.array([np.nan, np.inf, -np.inf, 100, -100, 0.0, -0.0], np.float32)
    np.testing.assert_array_equal(sigmoid_exact(edges), np.array([np.nan, 1, 0, 1, 0, 0.5, 0.5], np.float32))


def one_row(logits):
    logits = np.asarray(logits, np.float32)
    return [logits.reshape(1, 1, 1, -1)], [np.ones((1, 4, 1, logits.size), np.float32)], head_of("distance", ((1, 1),))


@settings(max_examples=200)
@given(
    x=st.floats(-40, 40, width=32),
    steps=st.integers(-2, 2),
    beside=st.sampled_from([-1e-9, 0.0, 1e-9]),
)
def test_threshold_decides_as_the_score_does(x, steps, beside):
    """Logits a few floats around the threshold's own."""
    threshold = float(sigmoid_exact(np.array([x], np.float32))[0]) + beside
    near = (np.float32(x).view(np.int32) + np.arange(-40, 41) + steps).astype(np.int32).view(np.float32)
    near = near[np.isfinite(near)]
    kept = ops.decode_candidates(*one_row(near), score_threshold=threshold)
    expected = np.flatnonzero(sigmoid_exact(near).astype(np.float64) > threshold)
    np.testing.assert_array_equal(kept.index[0, : kept.count[0]], expected)
    np.testing.assert_array_equal(kept.scores[0, : kept.count[0]], sigmoid_exact(near)[expected])


def test_threshold_borders():
    row = one_row([np.nan, np.inf, -np.inf, 100, -100, 0, -0.0])
    for threshold, expected in ((-0.1, [1, 2, 3, 4, 5, 6]), (0.0, [1, 3, 5, 6]), (0.5, [1, 3]), (1.0, []), (7.0, [])):
        kept = ops.decode_candidates(*row, score_threshold=threshold)
        assert kept.index[0, : kept.count[0]].tolist() == expected


def test_the_lowest_class_among_equal_scores_wins():
    logits = np.array([20.0, 30.0, 25.0, 17.4], np.float32).reshape(1, 4, 1, 1)
    codes = [np.ones((1, 4, 1, 1), np.float32)]
    assert ops.detect([logits], codes, head_of("distance", ((1, 1),))).labels[0, 0] == 0
    logits[0, 0] = 16.0  # a score of its own, below 1
    assert ops.detect([logits], codes, head_of("distance", ((1, 1),))).labels[0, 0] == 1


# ---- what is special: fusion --------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
    ties=st.sampled_from([0, 0, 1, 2]),
    bad=st.sampled_from([0, 0, 3]),
    low=st.sampled_from([-6.0, -2.0, 3.0, 25.0]),
    score=st.sampled_from([-1.0, 0.0, 0.001, 0.25, 0.9, 1.0]),
    iou=st.sampled_from([0.0, 0.5, 0.7, 1.0]),
    sizes=st.sampled_from([(300, 30000), (5, 30000), (20, 13), (300, 0), (0, 10)]),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_detect_is_decode_then_suppression(kind, seed, ties, bad, low, score, iou, sizes, flags):
    head = head_of(kind, LEVELS, seed=seed % 7)
    logits, codes = maps_of(kind, c=1 + seed % 5, seed=seed, ties=ties, bad=bad, low=low)
    options = {
        "score_threshold": score,
        "iou_threshold": iou,
        "max_det": sizes[0],
        "max_candidates": sizes[1],
        "class_agnostic": flags[0],
        "multi_label": flags[1],
    }
    expected = ops.multiclass_nms(*ops.decode_boxes(logits, codes, head), **options)
    for got, want in zip(ops.detect(logits, codes, head, **options), expected):
        np.testing.assert_array_equal(got, want)


def test_repeated_runs_give_the_same_bits():
    head = head_of("dfl", LEVELS)
    maps = maps_of("dfl", b=3, ties=2, low=0.0)
    first = ops.detect(*maps, head, multi_label=True, score_threshold=0.1)
    for _ in range(20):
        for a, b in zip(first, ops.detect(*maps, head, multi_label=True, score_threshold=0.1)):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["dfl", "anchors"])
@pytest.mark.parametrize("layout", ["joined", "channels-last", "cropped", "flipped"])
def test_views_are_read_as_they_lie(kind, layout):
    """Channel views of joined maps, channels-last maps, parts of larger maps, reversed rows and columns."""
    head, c = head_of(kind, LEVELS), 6
    logits, codes = maps_of(kind, c=c, low=-1.0)
    expected = ops.decode_boxes(logits, codes, head), ops.detect(logits, codes, head, score_threshold=0.1)
    if layout == "joined":
        joined = [np.concatenate(pair, -3) for pair in zip(codes, logits)]
        if kind == "anchors":
            joined = [j.reshape(j.shape[0], -1, *j.shape[3:]) for j in joined]
        logits, codes = head.split(joined, c)
        assert all(np.shares_memory(view, whole) for view, whole in zip(logits, joined))
    elif layout == "channels-last":
        logits, codes = (
            [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -3, -1)), -1, -3) for a in side]
            for side in (logits, codes)
        )
    elif layout == "cropped":
        logits, codes = ([np.pad(a, [(1, 1)] * a.ndim)[(slice(1, -1),) * a.ndim] for a in s] for s in (logits, codes))
    else:
        turned = (..., slice(None, None, -1), slice(None, None, -1))
        logits, codes = ([a[turned].copy()[turned] for a in side] for side in (logits, codes))
    got = ops.decode_boxes(logits, codes, head), ops.detect(logits, codes, head, score_threshold=0.1)
    for want, have in zip(expected, got):
        for a, b in zip(want, have):
            np.testing.assert_array_equal(a, b)


def test_one_class_of_yolov7_is_its_objectness():
    head = replace(head_of("anchors", LEVELS), single_class_objectness=True)
    maps = [np.random.default_rng(0).normal(size=(1, 18, h, w)).astype(np.float32) for h, w in LEVELS]
    boxes, scores = ops.decode_boxes(*head.split(maps, 1), head)
    first = maps[0].reshape(1, 3, 6, *LEVELS[0])[:, :, 4].reshape(-1)
    np.testing.assert_array_equal(scores[0, : first.size, 0], sigmoid_exact(first))
    assert boxes.shape == (1, scores.shape[1], 4)


def test_more_images_than_a_grid_is_high():
    maps = [np.repeat(m, 70000, 0) for side in maps_of("distance", b=1, levels=((1, 2),), c=2) for m in side]
    head = head_of("distance", ((1, 2),))
    kept = ops.detect(maps[:1], maps[1:], head, score_threshold=0.0, max_det=2)
    assert (kept.count == kept.count[0]).all() and (kept.scores == kept.scores[0]).all()


# ---- wrong arguments ----------------------------------------------------------------------------------------------

LOGITS, CODES = maps_of("dfl")
HEAD = head_of("dfl", LEVELS)
NEXT = maps_of("anchors")
WRONG = [
    ((LOGITS[:2], CODES, HEAD), ValueError, "codes must have the 2 levels of logits, got 3"),
    ((LOGITS[:2], CODES[:2], HEAD), ValueError, "strides must have one number for each of the 2 levels, got 3"),
    (([], [], HEAD), ValueError, "logits must have at least one level"),
    ((LOGITS, CODES, "dfl"), TypeError, "head must be a HeadFormat, got str"),
    (
        (LOGITS, [CODES[0], CODES[0], CODES[2]], HEAD),
        ValueError,
        r"codes\[1\] must have the batch and cells of logits\[1\]",
    ),
    (
        ([LOGITS[0][:, :1], *LOGITS[1:]], CODES, HEAD),
        ValueError,
        r"logits\[1\] must have the batch 2 and the classes 1",
    ),
    (
        (LOGITS, [c[:, :4] for c in CODES], HEAD),
        ValueError,
        r"codes\[0\] must be \(B, 4 R, H, W\).*did you mean kind=.distance",
    ),
    ((LOGITS, [c[:, :7] for c in CODES], HEAD), ValueError, r"codes\[0\] must be \(B, 4 R, H, W\)"),
    ((LOGITS, CODES, head_of("distance", LEVELS)), ValueError, r"must be \(B, 4, H, W\).*did you mean kind=.dfl"),
    ((LOGITS, [*CODES[:2], CODES[2][:, :8]], HEAD), ValueError, r"codes\[2\] must have 16 numbers per anchor"),
    ((LOGITS, CODES, head_of("anchors", LEVELS)), ValueError, r"logits\[0\] must have 5 dimensions"),
    ((*NEXT, HEAD), ValueError, r"logits\[0\] must have 4 dimensions"),
    ((*NEXT, head_of("anchors", LEVELS, 2)), ValueError, "anchors must hold width and height"),
    ((*NEXT, head_of("anchors", LEVELS, 4)), ValueError, "anchors must hold width and height"),
    ((NEXT[0], [c[:, :, :3] for c in NEXT[1]], head_of("anchors", LEVELS)), ValueError, "or 4 without objectness"),
    ((LOGITS, [c.astype(np.float16) for c in CODES], HEAD), TypeError, r"codes\[0\] must be float32 like logits"),
    (([m.astype(np.int32) for m in LOGITS], CODES, HEAD), TypeError, r"logits\[0\] must be float32, float16"),
    ((LOGITS, [None, None, None], HEAD), TypeError, r"codes\[0\] must be an array"),
    ((LOGITS, CODES, replace(HEAD, strides=(8, 0, 32))), ValueError, "strides must be positive, got 0"),
    ((LOGITS, CODES, replace(HEAD, strides=(8, float("inf"), 32))), ValueError, "strides must be positive"),
    ((LOGITS, CODES, replace(HEAD, offset=float("nan"))), ValueError, "offset must be finite"),
    (([LOGITS[0]] * 9, [CODES[0]] * 9, replace(HEAD, strides=(8,) * 9)), ValueError, "at most 8 levels"),
]


@pytest.mark.parametrize(("args", "error", "message"), WRONG)
@pytest.mark.parametrize("op", [ops.decode_boxes, ops.decode_candidates, ops.detect], ids=lambda f: f.__name__)
def test_wrong_arguments(op, args, error, message):
    with pytest.raises(error, match=f"{op.__name__}: .*{message}"):
        op(*args)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_det": -1}, "max_det must be at least 0, got -1"),
        ({"max_candidates": -5}, "max_candidates must be at least 0, got -5"),
        ({"score_threshold": float("nan")}, "score_threshold must be a number, got nan"),
        ({"iou_threshold": 2}, r"iou_threshold must lie in \[0, 1\], got 2"),
        ({"iou_threshold": float("nan")}, r"iou_threshold must lie in \[0, 1\], got nan"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ops.detect(LOGITS, CODES, HEAD, **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kind": "boxes"}, "kind must be one of dfl, distance, anchors, cxcywh, got 'boxes'"),
        ({"kind": "cxcywh"}, "image_size must be"),
        ({"kind": "anchors"}, "anchors must have one entry for each of the 3 strides, got 0"),
        ({"kind": "anchors", "strides": (8,), "anchors": ((1, 2),)}, "anchors must be as many .* on each level"),
        ({"kind": "anchors", "strides": (8,), "anchors": (((1, 2, 3),),)}, r"anchors must be .*, got \(\(\(1, 2, 3\)"),
        ({"kind": "anchors", "strides": (8,), "anchors": (7,)}, r"anchors must be .*, got \(7,\)"),
        ({"kind": "cxcywh", "image_size": (1, 2, 3)}, r"image_size must be \(height, width\), got \(1, 2, 3\)"),
    ],
)
def test_wrong_descriptions(words, message):
    with pytest.raises(ValueError, match=message):
        ops.HeadFormat(**words)
    with pytest.raises(ValueError, match=r"split: maps\[0\] must be"):
        HEAD.split([LOGITS[0]], 80)
    with pytest.raises(ValueError, match=r"split: maps\[0\] must be"):
        head_of("anchors", LEVELS).split([LOGITS[0]] * len(LEVELS), 80)
    with pytest.raises(ValueError, match=f"split: maps must be one array for each of {len(LEVELS)} levels, got 9"):
        head_of("anchors", LEVELS).split([LOGITS[0]] * 9, 80)
