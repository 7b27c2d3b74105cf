# SPDX-License-Identifier: Apache-2.0
"""Overlap of rotated boxes: the case table, clipping in float64, and properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_boxes import clipped_overlap, rotated

from fastdet import _core, ops
from fastdet.testing.ops import DOUBLE_VARIANTS, VARIANTS, Case, check, check_torch, zero_sizes

FORMS = (("polygon", "iou"), ("polygon", "iof"), ("probiou", "iou"))
KINDS = ("plain", "same", "lattice", "quarter", "thin", "tiny", "huge", "far", "degenerate", "bad")


def problem(batch, m, n, kind="plain", seed=0, degrees=False, aligned=False):
    """Two sets from the same clusters; aligned ones as many, each near its partner."""
    n = m if aligned else n
    drawn, _ = rotated(max(batch * (m + n), 8), seed, size=120.0, kind=kind)
    if degrees:
        drawn[:, 4] *= np.float32(180 / np.pi)
    a, b = drawn[: batch * m].reshape(batch, m, 5), drawn[-batch * n or len(drawn) :].reshape(batch, n, 5)
    if aligned and kind != "bad":
        b = b.copy()
        b[..., :2] = a[..., :2] + (b[..., :2] - a[..., :2]) * np.float32(0.1)
    return a, b


def case_of(name, form=FORMS[0], aligned=False, degrees=False, batch=2, m=5, n=7, kind="plain", seed=0):
    close = {"rtol": 1e-5, "atol": 1e-4 if kind in ("lattice", "tiny", "same", "thin", "degenerate") else 2e-5}
    return Case(
        name,
        ops.ROTATED_BOX_IOU,
        lambda: (*problem(batch, m, n, kind, seed, degrees, aligned), *form, aligned, degrees),
        floats=(0, 1),
        doubles=(0, 1),
        batch=((0, 0), (1, 0)),
        rtol_double=1e-9 if form[0] == "probiou" else 0.0,
        atol_double=1e-7 if form[0] == "probiou" else 0.0,
        **(close if form[0] == "probiou" else {}),  # rectangles: the bits of the reference
    )


SIZES = {"batch": 2, "m": 3, "n": 4}
CASES = [
    *zero_sizes(lambda name, **sizes: case_of(f"polygon-{name}", **sizes), SIZES),
    *zero_sizes(lambda name, **sizes: case_of(f"aligned-{name}", aligned=True, **sizes), {"batch": 2, "m": 3}),
    case_of("one", batch=1, m=1, n=1),
    case_of("probiou-one", FORMS[2], batch=1, m=1, n=1),
    case_of("two-tiles", batch=1, m=3, n=521),
    case_of("two-blocks", batch=1, m=131, n=19),
    case_of("aligned-tiles", aligned=True, batch=2, m=521),
]
# Every form and kind of box at several sizes; which variants run them rotates, so that all meet all.
SHAPES = [(1, 1, 1), (2, 3, 7), (1, 17, 31), (3, 5, 2), (1, 65, 33), (1, 2, 301), (1, 67, 1), (1, 37, 257)]
WORDS = [
    (form, aligned, degrees, kind)
    for form in FORMS
    for aligned in (False, True)
    for degrees in (False, True)
    for kind in KINDS
]
GENERATED = [
    case_of(
        "-".join([*form, "aligned" if aligned else "pairs", "degrees" if degrees else "radians", kind]),
        form, aligned, degrees, *SHAPES[number % len(SHAPES)], kind, number,
    )
    for number, (form, aligned, degrees, kind) in enumerate(WORDS)
]  # fmt: skip
HOST = [v for v in (*VARIANTS, *DOUBLE_VARIANTS) if not v.startswith("cuda")]
CUDA = [v for v in (*VARIANTS, *DOUBLE_VARIANTS) if v.startswith("cuda")]
TABLE = [
    (case, variant)
    for number, case in enumerate(GENERATED)
    for variant in (HOST[number % len(HOST)], HOST[(number + 5) % len(HOST)], CUDA[number % len(CUDA)])
]


@pytest.mark.parametrize("variant", [*VARIANTS, *DOUBLE_VARIANTS])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize(("case", "variant"), TABLE, ids=str)
def test_generated(case, variant):
    check(case, variant)


@pytest.mark.parametrize(
    "case", [case_of("polygon"), case_of("aligned", aligned=True), case_of("probiou", FORMS[2])], ids=str
)
def test_torch_library(case):
    check_torch(case)


@pytest.mark.parametrize("kind", ["plain", "quarter", "lattice", "same", "tiny"])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_common_area_is_that_of_clipped_polygons(kind, mode):
    a, b = (each[0] for each in problem(1, 30, 35, kind, seed=5))
    want = np.array([[clipped_overlap(p, q, mode == "iof") for q in b] for p in a])
    assert (want > 0).mean() > 0.1
    np.testing.assert_allclose(ops.rotated_box_iou(a, b, mode=mode), want, rtol=0, atol=1e-5)
    wide = ops.rotated_box_iou(a.astype(np.float64), b.astype(np.float64), mode=mode)
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, want, rtol=0, atol=1e-12)


def test_by_hand():
    """Equal, half covered, contained, turned by 45 degrees, crossing, touching, apart, empty, inverted, not finite."""
    first = np.float32([[0, 0, 4, 2, 0]])
    others = np.float32(
        [
            [0, 0, 4, 2, np.pi],
            [2, 0, 4, 2, 0],
            [0, 0, 2, 1, 0.3],
            [0, 0, 2, 4, np.pi / 2],
            [0, 0, 2, 4, 0],
            [4, 0, 4, 2, 0],
            [9, 9, 4, 2, 1],
            [0, 0, 0, 2, 0],
            [0, 0, -4, 2, 0],
            [0, 0, 4, np.nan, 0],
            [0, 0, 4, 2, 2e6],
        ]
    )
    found = ops.rotated_box_iou(first, others)
    np.testing.assert_allclose(found, [[1, 1 / 3, 0.25, 1, 1 / 3, 0, 0, 0, 0, 0, 0]], atol=1e-6)
    found = ops.rotated_box_iou(first, others, mode="iof")
    np.testing.assert_allclose(found, [[1, 0.5, 0.25, 1, 0.5, 0, 0, 0, 0, 0, 0]], atol=1e-6)
    squares = np.float32([[0, 0, 10, 10, 0], [0, 0, 10, 10, 45]])
    octagon = 200 * (np.sqrt(2) - 1)  # area in common
    found = ops.rotated_box_iou(squares, squares, angle_unit="degrees")
    np.testing.assert_allclose(found[0, 1], octagon / (200 - octagon), rtol=1e-6)


def test_the_sense_of_rotation():
    """Two thin boxes in one line when angles turn from x towards y, side by side when they turn the other way."""
    boxes = np.float32([[0, 0, 40, 2, np.pi / 4], [10, 10, 40, 2, np.pi / 4]])
    assert ops.rotated_box_iou(boxes, boxes)[0, 1] > 0.4
    assert ops.rotated_box_iou(boxes * np.float32([1, 1, 1, 1, -1]), boxes * np.float32([1, 1, 1, 1, -1]))[0, 1] == 0
    assert ops.rotated_box_iou(boxes * np.float32([1, -1, 1, 1, -1]), boxes * np.float32([1, -1, 1, 1, -1]))[0, 1] > 0.4


SEEDS, SHAPE = st.integers(0, 2**32 - 1), st.tuples(st.integers(0, 20), st.integers(0, 20))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, shape=SHAPE, kind=st.sampled_from(["plain", "quarter", "lattice", "same", "tiny", "degenerate"]))
def test_properties(seed, shape, kind):
    """In [0, 1], symmetric; half a turn, or a quarter with the sides exchanged, changes nothing; shares of both areas
    are one area; the order of boxes does not matter."""
    a, b = (each[0] for each in problem(1, *shape, kind, seed))
    found = ops.rotated_box_iou(a, b)
    assert (found >= 0).all() and (found <= 1).all()
    np.testing.assert_allclose(found, ops.rotated_box_iou(b, a).T, atol=2e-5)
    half, quarter = b + np.float32([0, 0, 0, 0, np.pi]), b[:, [0, 1, 3, 2, 4]] + np.float32([0, 0, 0, 0, np.pi / 2])
    for same in (half, quarter):
        np.testing.assert_allclose(ops.rotated_box_iou(a, same), found, atol=2e-5)
    area_a, area_b = (np.prod(np.maximum(each[:, 2:4].astype(np.float64), 0), 1) for each in (a, b))
    common = ops.rotated_box_iou(a, b, mode="iof") * area_a[:, None]
    swapped = ops.rotated_box_iou(b, a, mode="iof").T * area_b
    np.testing.assert_allclose(common, swapped, atol=2e-5 * max(1e-9, *area_a, *area_b, 0))
    rows, columns = (np.random.default_rng(seed).permutation(count) for count in shape)
    np.testing.assert_array_equal(ops.rotated_box_iou(a[rows], b[columns]), found[np.ix_(rows, columns)])


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_aligned_is_the_diagonal(form):
    a, b = (each[0] for each in problem(1, 301, 301, seed=4, aligned=True))
    words = {"measure": form[0], "mode": form[1]}
    both = ops.rotated_box_iou(a, b, **words)
    np.testing.assert_array_equal(ops.rotated_box_iou(a, b, aligned=True, **words), both.diagonal())
    assert (both.diagonal() > 0.05).mean() > 0.5


def test_probabilistic_iou_has_the_bits_of_the_differentiable_one():
    a, b = problem(2, 40, 50, seed=6)
    np.testing.assert_array_equal(ops.rotated_box_iou(a, b, measure="probiou"), ops.probabilistic_box_iou(a, b))


def test_it_is_what_rotated_nms_compares():
    boxes = problem(1, 80, 1, seed=9)[0][0]
    above = np.triu(ops.rotated_box_iou(boxes, boxes).astype(np.float64) > 0.3, 1)
    keep = ops.rotated_nms(boxes, np.arange(80, 0, -1).astype(np.float32), 0.3, semantics="fast")
    np.testing.assert_array_equal(keep, np.flatnonzero(~above.any(0)))


def test_leading_dimensions():
    a, b = problem(6, 5, 4, seed=1)
    got = ops.rotated_box_iou(a.reshape(2, 3, 5, 5), b.reshape(2, 3, 4, 5))
    np.testing.assert_array_equal(got.reshape(6, 5, 4), ops.rotated_box_iou(a, b))
    np.testing.assert_array_equal(got[1, 2], ops.rotated_box_iou(a[5], b[5]))
    got = ops.rotated_box_iou(a.reshape(2, 3, 5, 5), a.reshape(2, 3, 5, 5), aligned=True)
    assert got.shape == (2, 3, 5) and ops.rotated_box_iou(a[0], a[0], aligned=True).shape == (5,)


def test_nothing_is_ever_nan():
    for form in FORMS:
        for kind in ("bad", "degenerate", "huge", "tiny"):
            a, b = (np.concatenate([each[0], np.full((2, 5), np.nan, np.float32)]) for each in problem(1, 60, 60, kind))
            a[-1] = 3e38
            for aligned in (False, True):
                found = ops.rotated_box_iou(a, b, measure=form[0], mode=form[1], aligned=aligned)
                assert np.isfinite(found).all() and (found >= -1e-6).all() and (found <= 1).all()
            sound = np.isfinite(a).all(1) & (np.abs(a[:, 4]) <= 1e6)
            assert (ops.rotated_box_iou(a, b, measure=form[0], mode=form[1])[~sound] == 0).all()


def test_threads():
    a, b = problem(2, 150, 1100, seed=4)
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            results.append((ops.rotated_box_iou(a, b), ops.rotated_box_iou(b, b, aligned=True)))
    finally:
        _core.set_num_threads(before)
    for result in results[1:]:
        for x, y in zip(results[0], result):
            np.testing.assert_array_equal(x, y)


def test_gradients_are_refused():
    a, b = (torch.from_numpy(each[0]) for each in problem(1, 3, 4))
    with pytest.raises(ValueError, match="rotated_box_iou: has no gradient"):
        ops.rotated_box_iou(a.requires_grad_(), b)
    with torch.no_grad():
        assert ops.rotated_box_iou(a, b).shape == (3, 4)


A, B = problem(2, 3, 4)
WRONG = [
    ((A[..., :4], B), {}, ValueError, r"rotated_box_iou: boxes1 must be \(B, M, 5\), got \(2, 3, 4\)"),
    ((A[:1], B), {}, ValueError, r"boxes2 must be \(1, N, 5\) for boxes1 \(1, 3, 5\), got \(2, 4, 5\)"),
    ((A, B.astype(np.float64)), {}, TypeError, "both be float64 or neither, got float32 and float64"),
    ((A, B.astype(np.int32)), {}, TypeError, "boxes2 must be float32, float16, bfloat16 or float64"),
    ((A[0], B), {}, ValueError, "same leading dimensions"),
    ((A[None], B[:1, None]), {}, ValueError, "same leading dimensions"),
    (([[0, 0, 1, 1, 0]], B), {}, TypeError, "boxes1 must be an array .* got list"),
    ((A, B), {"aligned": True}, ValueError, "aligned boxes must be as many, got 3 and 4"),
    ((A, B), {"measure": "iou"}, ValueError, "measure must be one of polygon, probiou, got iou"),
    ((A, B), {"mode": "giou"}, ValueError, "mode must be one of iou, iof, got giou"),
    ((A, B), {"measure": "probiou", "mode": "iof"}, ValueError, "mode must be iou for the measure probiou, got iof"),
    ((A, B), {"angle_unit": "turns"}, ValueError, "angle_unit must be radians or degrees, got 'turns'"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG)
def test_wrong_arguments(args, options, error, message):
    with pytest.raises(error, match=message):
        ops.rotated_box_iou(*args, **options)
