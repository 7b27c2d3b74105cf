# SPDX-License-Identifier: Apache-2.0
"""Pairwise IoU family: the case table, the references' formulas, and the facts that are special to it."""

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
from fastdet.testing.ops import (
    DOUBLE_VARIANTS,
    VARIANTS,
    Case,
    check,
    check_gradients,
    check_torch,
    cuda_kind,
    zero_sizes,
)
from fastdet.testing.vector_iou import iou_pairs

PLAIN = [Rules(kind, "xyxy", 1e-7, "none", "add", "none") for kind in ("iou", "giou", "diou", "ciou")]
YOLO = [Rules(kind, "xyxy", 1e-7, "add", "add", "height") for kind in ("iou", "giou", "diou", "ciou")]
ROTATED = [Rules("probiou", "cxcywha", 1e-7, variance_eps=v) for v in (0.0, 0.01)]
OTHER = [
    Rules("iou", "cxcywh", 1e-3, "clamp"),
    Rules("giou", "xywh", 1e-6, "clamp", "clamp"),
    Rules("giou", "cxcywh"),
    Rules("diou", "cxcywh", 0.1, "add", "clamp", "both"),
    Rules("ciou", "xywh", 0.1, "add", "clamp", "both", detach_alpha=False),
    Rules("ciou", "cxcywh", 1e-7, "add", "add"),
]
ALL = [*PLAIN, *YOLO, *ROTATED, *OTHER]


def problem(rules, batch=2, m=5, n=7, kind="plain", seed=0):
    rng = np.random.default_rng(seed)
    return boxes(rng, (batch, m), kind, rules.fmt), boxes(rng, (batch, n), kind, rules.fmt)


def tolerance(rules, kind="plain"):
    """Without library functions the bits are equal; near 0 the root in the probabilistic IoU magnifies one ulp."""
    if rules.kind == "probiou":
        return {"rtol": 1e-5, "atol": 1e-4 if kind in ("lattice", "tiny") else 2e-5}
    return {"rtol": 1e-6, "atol": 1e-6} if rules.kind == "ciou" else {}


def forward(name, rules, kind="plain", **sizes):
    return Case(
        name,
        ops.BOX_IOU,
        lambda: (*problem(rules, kind=kind, **sizes), *rules),
        floats=(0, 1),
        doubles=(0, 1),
        batch=((0, 0), (1, 0)),
        **tolerance(rules, kind),
    )


def backward(name, rules, kind="plain", wants=(True, True), **sizes):
    def make():
        a, b = problem(rules, kind=kind, **sizes)
        grad = np.random.default_rng(9).standard_normal((a.shape[0], a.shape[1], b.shape[1])).astype(np.float32)
        return grad, a, b, *rules, *wants

    scale = 1e4 if kind in ("tiny", "bad") else 1.0
    return Case(
        name, ops.BOX_IOU_BACKWARD, make, floats=(1, 2), doubles=(0, 1, 2), batch=((0, 0), (1, 0), (2, 0)),
        rtol=2e-4, atol=2e-5 * scale, rtol_double=1e-9, atol_double=1e-9 * scale,
    )  # fmt: skip


SIZES = {"batch": 2, "m": 3, "n": 4}
CASES = [
    *zero_sizes(lambda name, **sizes: forward(name, YOLO[3], **sizes), SIZES),
    *zero_sizes(lambda name, **sizes: backward(f"backward-{name}", YOLO[3], **sizes), SIZES),
    backward("backward-first", YOLO[3], wants=(True, False)),
    backward("backward-second", ROTATED[1], wants=(False, True)),
    backward("backward-none", PLAIN[0], wants=(False, False)),
    forward("one", PLAIN[1], batch=1, m=1, n=1),
]
# Every rule and every kind of box at several sizes; which variants run them rotates, so that all meet all.
SHAPES = [(1, 1, 1), (2, 3, 7), (1, 17, 31), (3, 5, 2), (1, 65, 33), (1, 2, 301), (1, 67, 1), (1, 37, 257)]
GENERATED = [
    make(f"{make.__name__}-{rules.kind}-{number}-{kind}", rules, kind, seed=number, batch=b, m=m, n=n)
    for number, (rules, kind) in enumerate((rules, kind) for rules in ALL for kind in KINDS)
    for make in (forward, backward)
    for b, m, n in (SHAPES[number % len(SHAPES)],)
]
HOST = [v for v in VARIANTS if not v.startswith("cuda")] + [v for v in DOUBLE_VARIANTS if not v.startswith("cuda")]
CUDA = [v for v in (*VARIANTS, *DOUBLE_VARIANTS) if v.startswith("cuda")]


@pytest.mark.parametrize("variant", [*VARIANTS, *DOUBLE_VARIANTS])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize(("number", "case"), list(enumerate(GENERATED)), ids=map(str, GENERATED))
def test_generated(number, case):
    """Reference, CPU and CUDA agree, whatever the boxes and arrays look like; CPU and CUDA to the bit."""
    for step in range(2):
        check(case, HOST[(number // 2 + step * 5) % len(HOST)])
    check(case, CUDA[number // 2 % len(CUDA)])


@pytest.mark.parametrize(
    "case", [forward("ciou", YOLO[3]), forward("prob", ROTATED[0]), backward("b", OTHER[4])], ids=str
)
def test_torch_library(case):
    check_torch(case)


@pytest.mark.parametrize("rules", [*PLAIN[:3], *ROTATED, *(r._replace(detach_alpha=False) for r in YOLO), *OTHER[:5]])
def test_gradients(rules):
    """Against finite differences, where nothing is detached."""
    case = forward(f"{rules.kind}", rules, "large" if rules.fmt == "xywh" else "plain", batch=1, m=3, n=4, seed=3)
    check_gradients(case, (0, 1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rules", [r for r in ALL if r.kind != "probiou" or r.variance_eps], ids=str)
def test_published_formula(rules):
    """Values and gradients in float64 equal torch's on the formula as published, float32 lies close; alpha detached."""
    a, b = (torch.from_numpy(x).double() for x in problem(rules, batch=1, m=40, n=50, seed=5))
    leaves = [a.clone().requires_grad_(), b.clone().requires_grad_()]
    same = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    got = ops.BOX_IOU(*leaves, *rules)
    turned = same if rules.kind == "probiou" else [corners_of(x, rules.fmt) for x in same]
    words = {"detach_alpha": rules.detach_alpha, "variance_eps": rules.variance_eps}
    want = torch_similarity(turned[0][:, :, None], turned[1][:, None], *_placement(rules), **words)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ours, theirs in zip(torch.autograd.grad(got, leaves, weight), torch.autograd.grad(want, same, weight)):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    narrow = ops.BOX_IOU(a.float(), b.float(), *rules)
    torch.testing.assert_close(narrow.double(), want, rtol=1e-5, atol=2e-5 if rules.kind == "probiou" else 2e-6)


def _placement(rules):
    return rules.kind, rules.eps, rules.eps_union, rules.eps_enclosing, rules.eps_sides


TORCHVISION = {
    "box_iou": ("iou", 0.0, "none", "none"),
    "generalized_box_iou": ("giou", 0.0, "none", "none"),
    "distance_box_iou": ("diou", 1e-7, "none", "add"),
    "complete_box_iou": ("ciou", 1e-7, "none", "add"),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_results(name):
    """Defaults, (N, 4) x (M, 4), float16 results in float32, other formats: as torchvision has them."""
    rng = np.random.default_rng(2)
    a, b = (torch.from_numpy(boxes(rng, (n,))) for n in (30, 40))
    want = torch_similarity(a.double()[:, None], b.double()[None], *TORCHVISION[name])
    function = getattr(ops, name)
    torch.testing.assert_close(function(a, b), want.float(), rtol=1e-5, atol=1e-6)
    assert (
        isinstance(function(a.numpy(), b.numpy()), np.ndarray) and function(a.half(), b.half()).dtype == torch.float32
    )
    centred = [torch.cat([(x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2]], 1) for x in (a, b)]
    torch.testing.assert_close(function(*centred, fmt="cxcywh"), want.float(), rtol=1e-4, atol=1e-5)


def test_leading_dimensions():
    rng = np.random.default_rng(0)
    a, b = boxes(rng, (2, 3, 5)), boxes(rng, (2, 3, 4))
    got = ops.complete_box_iou(a, b)
    assert got.shape == (2, 3, 5, 4)
    np.testing.assert_array_equal(got[1, 2], ops.complete_box_iou(a[1, 2], b[1, 2]))
    assert ops.box_iou(a[:0], b[:0]).shape == (0, 3, 5, 4)


def test_shared_vectors():
    if shared_dir() is None:
        pytest.skip("no shared parity data (FASTDET_SHARED)")
    with np.load(shared_dir() / "parity" / "assign" / "tal.npz") as file:
        arrays = {key: file[key] for key in file if key.startswith("iou/")}
    inputs = {key: value for key, value in arrays.items() if "box" in key}
    got = iou_pairs(inputs)
    assert set(got) == set(arrays) - set(inputs)
    for key, value in got.items():
        assert value.dtype == arrays[key].dtype
        np.testing.assert_allclose(value, arrays[key], rtol=1e-5, atol=1e-5, err_msg=key)


def test_hand_made_pairs():
    """Equal, touching, contained, apart, without area, inverted, not finite."""
    box = np.float32([[0, 0, 2, 2]])
    other = np.float32(
        [[0, 0, 2, 2], [2, 0, 4, 2], [0, 0, 1, 1], [4, 0, 6, 2], [1, 1, 1, 1], [2, 2, 0, 0], [0, 0, np.nan, 2]]
    )
    assert ops.box_iou(box, other).tolist() == [[1, 0, 0.25, 0, 0, 0, 0]]
    generalized = ops.generalized_box_iou(box, other)
    np.testing.assert_allclose(generalized, [[1, 0, 0.25, -1 / 3, 0, 0, 0]], atol=1e-7)
    distance = ops.distance_box_iou(box, other)
    np.testing.assert_allclose(distance, [[1, -4 / 20, 0.25 - 0.5 / 8, -16 / 40, 0, 0, 0]], atol=1e-7)
    points = np.zeros((1, 4), np.float32)
    for function in (ops.box_iou, ops.generalized_box_iou, ops.distance_box_iou, ops.complete_box_iou):
        assert function(points, points).tolist() == [[0]]


@pytest.mark.parametrize("rules", ALL, ids=str)
def test_nothing_is_ever_nan(rules):
    """Whatever stands in the boxes, values and gradients are finite; pairs without area or not finite have none."""
    for kind in ("degenerate", "bad", "lattice"):
        a, b = (torch.from_numpy(x).requires_grad_() for x in problem(rules, 1, 60, 60, kind, seed=8))
        value = ops.BOX_IOU(a, b, *rules)
        grads = torch.autograd.grad(value.sum(), (a, b))
        assert all(x.isfinite().all() for x in (value, *grads))
        sound = a.isfinite().all(-1)
        if rules.fmt == "xyxy":
            sound = sound & (a[..., 2] > a[..., 0]) & (a[..., 3] > a[..., 1])
        assert (grads[0][~sound] == 0).all() and (value[~a.isfinite().all(-1)] == 0).all()


SEEDS, SHAPE = st.integers(0, 2**32 - 1), st.tuples(st.integers(0, 20), st.integers(0, 20))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, shape=SHAPE, kind=st.sampled_from(KINDS))
def test_symmetry_range_and_order(seed, shape, kind):
    """f(a, b) = f(b, a) transposed; IoU in [0, 1]; GIoU and DIoU at most IoU, CIoU at most DIoU, all above -1 or -2."""
    rng = np.random.default_rng(seed)
    a, b = boxes(rng, shape[:1], kind), boxes(rng, shape[1:], kind)
    found = [f(a, b) for f in (ops.box_iou, ops.generalized_box_iou, ops.distance_box_iou, ops.complete_box_iou)]
    for function, value in zip(
        (ops.box_iou, ops.generalized_box_iou, ops.distance_box_iou, ops.complete_box_iou), found
    ):
        np.testing.assert_array_equal(value, function(b, a).T)
    iou, generalized, distance, complete = found
    assert (iou >= 0).all() and (iou <= 1).all()
    if kind != "bad":
        assert (generalized <= iou + 1e-6).all() and (distance <= iou).all() and (complete <= distance).all()
    assert (generalized >= -1 - 1e-6).all() and (distance >= -1 - 1e-6).all() and (complete >= -2.1).all()
    rows, columns = rng.permutation(shape[0]), rng.permutation(shape[1])
    np.testing.assert_array_equal(ops.complete_box_iou(a[rows], b[columns]), complete[np.ix_(rows, columns)])


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, shape=SHAPE)
def test_rotated_properties(seed, shape):
    """Symmetric; in [0, 1) to rounding; a half turn, and a quarter turn with the sides exchanged, change nothing."""
    rng = np.random.default_rng(seed)
    a, b = boxes(rng, shape[:1], fmt="cxcywha"), boxes(rng, shape[1:], fmt="cxcywha")
    value = ops.probabilistic_box_iou(a, b)
    np.testing.assert_allclose(value, ops.probabilistic_box_iou(b, a).T, atol=1e-4)
    assert (value > -1e-6).all() and (value < 1).all()
    half = b + np.float32([0, 0, 0, 0, np.pi])
    quarter = b[:, [0, 1, 3, 2, 4]] + np.float32([0, 0, 0, 0, np.pi / 2])
    for same in (half, quarter):
        np.testing.assert_allclose(ops.probabilistic_box_iou(a, same), value, atol=1e-4)


def test_threads_and_repetition():
    """The same bits with one thread and with several, again and again, forwards and backwards."""
    rules = YOLO[3]
    a, b = problem(rules, 2, 150, 1100, seed=4)
    grad = np.random.default_rng(1).standard_normal((2, 150, 1100)).astype(np.float32)
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 5):
            _core.set_num_threads(threads)
            results.append((ops.BOX_IOU(a, b, *rules), *ops.BOX_IOU_BACKWARD(grad, a, b, *rules, True, True)))
    finally:
        _core.set_num_threads(before)
    for result in results[1:]:
        for x, y in zip(results[0], result):
            np.testing.assert_array_equal(x, y)


@pytest.mark.skipif(cuda_kind() not in ("emulated", "device"), reason="no CUDA and no emulator")
def test_long_sums_on_cuda():
    """More tiles of columns and pieces of rows than a block has warps: sums still have the bits of the CPU."""
    for m, n in ((1, 4700), (600, 3)):
        check(backward("long", YOLO[3], batch=1, m=m, n=n, seed=6), "cuda-shuffled")


def test_numbers_of_angles():
    """Sine, cosine and arc tangent of the native code are those of the library to the last bits."""
    rng = np.random.default_rng(0)
    angle = np.concatenate([rng.uniform(-10, 10, 2000), rng.uniform(-1e6, 1e6, 2000)]).astype(np.float32)
    a = np.tile(np.float32([0, 0, 60, 20, 0]), (4000, 1))
    a[:, 4] = angle
    want = ops.BOX_IOU.reference(a[None].astype(np.float64), np.float64([[[5, 5, 40, 30, 0]]]), *ROTATED[0])
    got = ops.probabilistic_box_iou(a, np.float32([[5, 5, 40, 30, 0]]))
    np.testing.assert_allclose(got, want[0], atol=2e-6)


BASE = problem(PLAIN[0], 2, 3, 4)
WRONG = [
    ({"boxes1": BASE[0][..., :3]}, {}, ValueError, r"boxes1 must be \(B, M, 4\), got \(2, 3, 3\)"),
    ({"boxes1": BASE[0][:1]}, {}, ValueError, r"boxes2 must be \(1, N, 4\) for boxes1 \(1, 3, 4\), got \(2, 4, 4\)"),
    ({"boxes2": BASE[1].astype(np.float64)}, {}, TypeError, "both be float64 or neither, got float32 and float64"),
    ({"boxes2": BASE[1].astype(np.int32)}, {}, TypeError, "boxes2 must be float32, float16, bfloat16 or float64"),
    ({"boxes1": BASE[0][0]}, {}, ValueError, r"same leading dimensions, got \(3, 4\) and"),
    ({"boxes1": BASE[0][None]}, {}, ValueError, "same leading dimensions"),
    ({"boxes2": BASE[1][0, 0]}, {}, ValueError, r"boxes2 must be \(..., N, numbers of a box\), got \(4,\)"),
    ({"boxes1": BASE[0][None], "boxes2": BASE[1][:1, None]}, {}, ValueError, "same leading dimensions"),
    ({"boxes1": BASE[0][0, 0]}, {}, ValueError, "boxes"),
    ({"boxes1": [[0, 0, 1, 1]]}, {}, TypeError, "boxes1 must be an array .* got list"),
    ({}, {"fmt": "corners"}, ValueError, "fmt must be one of xyxy, xywh, cxcywh, cxcywha, got corners"),
    ({}, {"fmt": "cxcywha"}, ValueError, "fmt must be cxcywha for probiou and for nothing else"),
    ({}, {"eps": -1.0}, ValueError, "eps must be finite and not negative, got -1"),
    ({}, {"eps": float("nan")}, ValueError, "eps must be finite"),
    ({}, {"eps_union": "multiply"}, ValueError, "eps_union must be one of none, add, clamp, got multiply"),
    ({}, {"eps_enclosing": ""}, ValueError, "eps_enclosing must be one of"),
    ({}, {"eps_sides": "width"}, ValueError, "eps_sides must be one of none, height, both, got width"),
]


@pytest.mark.parametrize(("arrays", "words", "error", "message"), WRONG)
def test_wrong_arguments(arrays, words, error, message):
    given = {"boxes1": BASE[0], "boxes2": BASE[1], **arrays}
    with pytest.raises(error, match=message):
        ops.generalized_box_iou(given["boxes1"], given["boxes2"], **words)


def test_half_gradients_keep_their_dtype():
    a, b = (torch.from_numpy(x) for x in problem(PLAIN[1], 1, 4, 5))
    for one, two in ((torch.float16, torch.float32), (torch.bfloat16, torch.float16)):
        leaves = [a.to(one).requires_grad_(), b.to(two).requires_grad_()]
        grads = torch.autograd.grad(ops.generalized_box_iou(*leaves).sum(), leaves)
        assert [g.dtype for g in grads] == [one, two]


def test_probabilistic_gradient_begins_at_eps():
    """Distances are clamped to [eps, 100], and on its edge the clamp has a gradient: number by number across it."""
    for sides in ((8, 4), (3, 11), (6.5, 6.5)):
        a = np.float32([[0, 0, *sides, 0]])
        near, far = 0.0, 4.0 * max(sides)

        def gradient(xs: np.ndarray, a: np.ndarray = a, sides: tuple[float, float] = sides) -> np.ndarray:
            others = torch.tensor([[x, 0, *sides, 0] for x in xs.tolist()], requires_grad=True)
            ops.probabilistic_box_iou(torch.from_numpy(a), others, eps=0.25).sum().backward()
            return others.grad.numpy()

        for _ in range(40):
            middle = (near + far) / 2
            near, far = (middle, far) if not gradient(np.float32([middle])).any() else (near, middle)
        xs = (np.float32(far).view(np.int32) + np.arange(-64, 64, dtype=np.int32)).view(np.float32)
        got = gradient(xs)
        with ops.backend("reference"):
            want = gradient(xs)
        assert not got[0].any() and got[-1].any()
        np.testing.assert_array_equal(got.any(1), want.any(1))
