# SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention: the case table, gradients, and the facts that are special to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fastdet import ops
from fastdet.testing import run_vector, shared_dir
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

FORWARD, BACKWARD = ops.MS_DEFORM_ATTN, ops.MS_DEFORM_ATTN_BACKWARD
FUSED, FUSED_BACKWARD = ops.MS_DEFORM_ATTN_FUSED, ops.MS_DEFORM_ATTN_FUSED_BACKWARD
ALL = (FORWARD, BACKWARD, FUSED, FUSED_BACKWARD)
MAPS = ((5, 7), (3, 4), (2, 2))
WIDE = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e6": 1e6, "-1e6": -1e6, "1e30": 1e30, "-0": -0.0, "0.5": 0.5}


def spoil(array, draw, kind, spare=()):
    """Puts odd numbers into a part of the array: what is infinite, not a number, huge, or at an edge."""
    flat = array.reshape(-1)
    at = draw.permutation(flat.size)[: max(1, flat.size // 4)]
    values = [v for name, v in WIDE.items() if name not in spare]
    flat[at] = np.resize(np.array(values, np.float32), len(at)) if kind == "wide" else 1 / np.float32(len(at))


def problem(op, seed=0, batch=2, queries=3, heads=2, channels=8, points=2, maps=MAPS, ragged=None, discrete=False,
            deterministic=True, reference=4, levels_of_reference=1, kind="", integers=np.int64):  # fmt: skip
    """Arguments of one of the four operators."""
    draw = np.random.default_rng(seed)
    points_of = list(ragged) if ragged is not None else [points] * len(maps)
    shapes = np.array(maps, integers).reshape(-1, 2)
    sizes = shapes.prod(1)
    starts = (np.cumsum(sizes) - sizes).astype(integers)
    rows = (batch, queries, heads, sum(points_of))
    value = draw.standard_normal((batch, int(sizes.sum()), heads, channels)).astype(np.float32)
    grad = draw.standard_normal((batch, queries, heads * channels)).astype(np.float32)
    numbers = draw.standard_normal(rows).astype(np.float32)
    places = draw.uniform(-0.3, 1.3, (*rows, 2)).astype(np.float32)
    if kind == "wide":
        spoil(places, draw, kind)
    if kind == "edges" and places.size:  # centres and edges of pixels, exactly
        places[...] = np.round(places * 8) / 8
    if kind == "values":
        spoil(value, draw, "wide", spare=("1e30", "1e6", "-1e6"))
        spoil(numbers, draw, "wide", spare=("inf", "-inf", "1e30"))
    if kind == "one-pixel":
        places = (0.3 + 0.01 * places).astype(np.float32)
    if op in (FORWARD, BACKWARD):
        tail = (value, shapes, starts, places, numbers, points_of, discrete, deterministic)
    else:
        references = draw.uniform(0.2, 0.8, (batch, queries, levels_of_reference, reference)).astype(np.float32)
        offsets = (4 * places - 2).astype(np.float32)
        tail = (value, shapes, starts, references, offsets, numbers, points_of, 0.5, discrete, deterministic)
    return tail if op in (FORWARD, FUSED) else (grad, *tail, [True] * 3)


def case(name, op=FORWARD, **options):
    fused, backward = op in (FUSED, FUSED_BACKWARD), op in (BACKWARD, FUSED_BACKWARD)
    shift = 1 if backward else 0
    floats = (*range(shift + 1), *((4 + shift, 5 + shift) if fused else ()))
    doubles = (*range(shift + 1), *range(3 + shift, (6 if fused else 5) + shift))
    return Case(
        f"{op.name.removeprefix('ms_deform_attn') or '_forward'}-{name}"[1:],
        op,
        lambda: problem(op, **options),
        floats=floats,
        doubles=doubles,
        batch=tuple((i, 0) for i in doubles),
        rtol=2e-5,
        atol=1e-4,
        atol_double=1e-11,
    )


def of(op):
    """Cases of one operator; sizes so that every width of a warp's share, and every rest, is met."""

    def one(name, **options):
        return case(name, op, **options)

    sizes = {"batch": 2, "queries": 3, "heads": 2, "channels": 8, "points": 2}
    cases = [
        one("plain"),
        one("decoder", channels=32, heads=2, points=4, queries=5),
        one("wide-head", seed=1, channels=64, heads=1, ragged=(3, 6, 3)),
        one("odd-head", seed=2, channels=5, heads=3, batch=3, queries=7),
        one("discrete", seed=3, channels=16, discrete=True),
        one("discrete-wide", seed=4, channels=32, discrete=True, kind="wide"),
        one("places", seed=5, channels=16, kind="wide"),
        one("edges", seed=6, kind="edges"),
        one("not-finite", seed=7, kind="values"),
        one("one-pixel", seed=8, queries=23, heads=1, kind="one-pixel"),
        *zero_sizes(one, sizes),
        one("no-pixels", maps=((0, 0), (0, 3), (4, 0))),
        one("no-levels", maps=()),
        one("head-48", seed=9, channels=48, heads=1, queries=2),
        one("head-1", seed=10, channels=1),
        one("one-level", seed=11, maps=((7, 9),), ragged=(5,)),
        one("empty-level", seed=12, maps=((3, 4), (0, 0), (2, 2)), ragged=(2, 3, 1)),
        one("level-without-points", seed=13, ragged=(3, 0, 2)),
        one("many-samples", seed=14, ragged=(17, 1, 15), queries=1, integers=np.int32),
        one("one-query", seed=15, batch=1, queries=1, heads=1, maps=((1, 1),)),
        one("discrete-ragged", seed=19, channels=7, ragged=(1, 4, 2), discrete=True, integers=np.int32),
        one("lines", seed=20, channels=24, maps=((1, 9), (11, 1))),
    ]
    if op in (FUSED, FUSED_BACKWARD):
        cases += [
            one("points", seed=16, reference=2, channels=16),
            one("points-per-level", seed=17, reference=2, levels_of_reference=3, ragged=(2, 1, 4)),
            one("boxes-per-level", seed=18, levels_of_reference=3, channels=32),
        ]
    return cases


CASES = [c for op in ALL for c in of(op)]


@pytest.mark.parametrize("variant", (*VARIANTS, *DOUBLE_VARIANTS))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


NAMES = ("plain", "discrete", "no-queries")


@pytest.mark.parametrize("case", [c for c in CASES if c.name.partition("-")[2] in NAMES], ids=str)
def test_torch_library(case):
    check_torch(case)


DIFFERENTIABLE = [
    (case("smooth", batch=1, queries=2, channels=3), (0, 3, 4)),
    (case("ragged", seed=1, batch=1, queries=2, heads=1, channels=2, ragged=(1, 2, 1)), (0, 3, 4)),
    (case("discrete", seed=2, batch=1, queries=2, channels=2, discrete=True), (0, 4)),
    (case("smooth", FUSED, seed=3, batch=1, queries=2, channels=3), (0, 4, 5)),
    (case("points", FUSED, seed=4, batch=1, queries=2, channels=2, reference=2, ragged=(1, 2, 1)), (0, 4, 5)),
]


@pytest.mark.parametrize(("case", "at"), DIFFERENTIABLE, ids=lambda x: str(x))
def test_gradients(case, at):
    check_gradients(case, at, atol=1e-3)


def grid_sample_form(value, shapes, locations, weights, points):
    """The composite of torch operators that detectors ship."""
    batch, _, heads, channels = value.shape
    sampled, first, token = [], 0, 0
    for (h, w), count in zip(shapes.tolist(), points):
        part = value[:, token : token + h * w].permute(0, 2, 3, 1).reshape(batch * heads, channels, h, w)
        grid = (2 * locations - 1)[:, :, :, first : first + count].transpose(1, 2).flatten(0, 1)
        sampled.append(functional.grid_sample(part, grid, align_corners=False))
        first, token = first + count, token + h * w
    share = weights.transpose(1, 2).flatten(0, 1)[:, None]
    out = (torch.cat(sampled, -1) * share).sum(-1)
    return out.view(batch, heads * channels, -1).transpose(1, 2)


@pytest.mark.parametrize("seed", range(4))
def test_grid_sample(seed):
    """Result and gradients of the composite, in float64."""
    ragged = [(2, 2, 2), (3, 1, 4)][seed % 2]
    value, shapes, starts, places, weights, *_ = problem(FORWARD, seed, channels=[6, 32][seed // 2], ragged=ragged)
    leaves = [torch.from_numpy(a).double().requires_grad_() for a in (value, places, weights)]
    sizes = torch.from_numpy(shapes), torch.from_numpy(starts)
    ours = ops.ms_deform_attn(leaves[0], *sizes, leaves[1], leaves[2], num_points=ragged)
    theirs = grid_sample_form(leaves[0], sizes[0], leaves[1], leaves[2], ragged)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    grad = torch.randn(ours.shape, dtype=torch.float64)
    for a, b in zip(torch.autograd.grad(ours, leaves, grad), torch.autograd.grad(theirs, leaves, grad)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_both_layouts_are_the_same():
    value, shapes, starts, places, weights, *_ = problem(FORWARD, points=4)
    flat = ops.ms_deform_attn(value, shapes, starts, places, weights)
    split = ops.ms_deform_attn(value, shapes, starts, places.reshape(2, 3, 2, 3, 4, 2), weights.reshape(2, 3, 2, 3, 4))
    np.testing.assert_array_equal(flat, split)


@pytest.mark.parametrize("reference", [2, 4])
def test_fused_is_its_parts(reference):
    """Locations and softmax computed apart give the same to rounding."""
    value, shapes, starts, references, offsets, logits, points, *_ = problem(
        FUSED, 3, reference=reference, ragged=(2, 3, 1)
    )
    level = np.repeat(np.arange(3), points)
    if reference == 4:
        box = references[:, :, :, None]
        places = box[..., :2] + offsets * (1 / np.take(points, level))[:, None] * box[..., 2:] * 0.5
    else:
        places = references[:, :, :, None] + offsets / shapes[level][:, ::-1]
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    apart = ops.ms_deform_attn(
        value, shapes, starts, places.astype(np.float32), weights.astype(np.float32), num_points=points
    )
    fused = ops.ms_deform_attn_fused(value, shapes, starts, references, offsets, logits, num_points=points)
    np.testing.assert_allclose(fused, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backward", [BACKWARD, FUSED_BACKWARD])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_atomics_on_request(backward, dtype):
    """The gradient of value by float atomics is the sorted one to rounding; the others are the same bits."""
    if cuda_kind() not in ("device", "emulated"):
        pytest.skip(f"no CUDA: {cuda_kind()}")
    arguments = list(problem(backward, seed=1, queries=7, channels=16))
    at = (0, 1, 4, 5, 6) if backward is FUSED_BACKWARD else (0, 1, 4, 5)
    for i, a in enumerate(arguments):
        if isinstance(a, np.ndarray):
            a = torch.from_numpy(a)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            arguments[i] = a.to(dtype if i in (0, 1) else wide) if i in at else a
            arguments[i] = arguments[i].cuda() if cuda_kind() == "device" else arguments[i]
    with ops.backend("cuda"):
        sorted_sums = backward.run(*arguments)
        arguments[-2] = False
        atomic = backward.run(*arguments)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(atomic[0], sorted_sums[0], rtol=tolerance, atol=tolerance)
    assert torch.equal(atomic[1], sorted_sums[1]) and torch.equal(atomic[2], sorted_sums[2])


@pytest.mark.parametrize("backward", [BACKWARD, FUSED_BACKWARD])
def test_only_what_is_wanted(backward):
    *arguments, _ = problem(backward, seed=2)
    for run in ("cpu", "cuda"):
        if run == "cuda" and cuda_kind() != "emulated":
            continue
        with ops.backend(run):
            full = backward.run(*arguments, [True] * 3)
            for i in range(3):
                part = backward.run(*arguments, [i == j for j in range(3)])
                np.testing.assert_array_equal(part[i], full[i])
                assert all(p.shape == (0,) for j, p in enumerate(part) if j != i)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 3), queries=st.integers(1, 5), discrete=st.booleans())
def test_rows_are_independent(seed, batch, queries, discrete):
    """A query's result does not depend on the other queries or pictures, nor on the number of threads."""
    value, shapes, starts, places, weights, *rest = problem(
        FORWARD, seed, batch=batch, queries=queries, discrete=discrete
    )
    whole = FORWARD.run(value, shapes, starts, places, weights, *rest)
    b, q = seed % batch, seed // 7 % queries
    alone = FORWARD.run(
        value[b : b + 1], shapes, starts, places[b : b + 1, q : q + 1], weights[b : b + 1, q : q + 1], *rest
    )
    np.testing.assert_array_equal(whole[b : b + 1, q : q + 1], alone)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_constant_maps(seed):
    """On a map of ones a sample well inside adds its weight, one far outside nothing."""
    value, shapes, starts, places, weights, *rest = problem(FORWARD, seed)
    inside = (places * (shapes[:, ::-1].repeat(2, 0)) - 0.5 >= 0).all(-1)
    inside &= (places * (shapes[:, ::-1].repeat(2, 0)) - 0.5 <= shapes[:, ::-1].repeat(2, 0) - 1).all(-1)
    places[~inside] = 7
    out = FORWARD.run(np.ones_like(value), shapes, starts, places, weights, *rest)
    expected = (weights * inside).sum(-1)[..., None].repeat(value.shape[3], -1).reshape(out.shape)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_threads_do_not_change_bits():
    from fastdet import _core

    arguments = problem(BACKWARD, queries=61, heads=4, channels=32, points=4)
    before = _core.num_threads()
    results = []
    try:
        for count in (1, 3):
            _core.set_num_threads(count)
            results.append(BACKWARD.run(*arguments))
    finally:
        _core.set_num_threads(before)
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("precision", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_shared_vectors(precision, tolerance):
    if shared_dir() is None:
        pytest.skip("no shared parity data (FASTDET_SHARED)")
    with np.load(shared_dir() / "parity" / "assign" / "msda.npz") as file:
        arrays = {k: a.astype(precision) if a.dtype == np.float64 else a for k, a in file.items()}
    kept = (
        "_value",
        "_shapes",
        "_level_start",
        "_points",
        "_loc",
        "_weight",
        "_grad_out",
        "_query",
        "_memory",
        "_ref_boxes",
    )
    outputs = run_vector("msda", arrays)
    inputs = {k for k in arrays if k not in outputs}
    assert all(k.endswith(kept) or "_p_" in k for k in inputs), inputs
    assert len(outputs) == 55
    for key, got in outputs.items():
        want = arrays[key]
        scale = max(1.0, float(np.abs(want).max()))
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale, err_msg=key)


BASE = problem(FORWARD)
WRONG = [
    (0, lambda a: a[0], ValueError, "value must have 4 dimensions"),
    (0, lambda a: a.astype(np.int32), TypeError, "value must be float32"),
    (
        3,
        lambda a: a.astype(np.float16),
        TypeError,
        "sampling_locations must be float32 for value float32, got float16; 16 bits",
    ),
    (3, lambda a: a[:, :, :, :4], ValueError, r"sampling_locations must be \(2, 3, 2, 6, 2\)"),
    (4, lambda a: a.astype(np.float64), TypeError, "attention_weights must be float32"),
    (4, lambda a: a[:, :, :1], ValueError, r"attention_weights must be \(B, Q, M, T\)"),
    (1, lambda a: a[:2], ValueError, "num_points must add up|spatial_shapes must be"),
    (1, lambda a: a + 1, ValueError, "level_start_index must be the sum of H W of the levels before, 48 for level 1"),
    (1, lambda a: -a, ValueError, "spatial_shapes must not be negative"),
    (2, lambda a: a[::-1], ValueError, "level_start_index must be the sum"),
    (2, lambda a: a.astype(np.float32), TypeError, "level_start_index must be int64 or int32"),
]


@pytest.mark.parametrize(("at", "change", "error", "message"), WRONG)
def test_wrong_arguments(at, change, error, message):
    arguments = list(BASE[:5])
    arguments[at] = change(arguments[at])
    with pytest.raises(error, match=message):
        ops.ms_deform_attn(*arguments, num_points=(2, 2, 2))


def test_wrong_attributes():
    with pytest.raises(ValueError, match="method must be one of default, discrete, got 'cubic'"):
        ops.ms_deform_attn(*BASE[:5], method="cubic")
    with pytest.raises(ValueError, match="num_points must add up to the 6 samples"):
        ops.ms_deform_attn(*BASE[:5], num_points=(2, 2, 1))
    with pytest.raises(ValueError, match="num_points must not be negative"):
        ops.ms_deform_attn(*BASE[:5], num_points=(-1, 3, 4))
    with pytest.raises(TypeError, match="num_points must be one number for each level, got 2"):
        ops.ms_deform_attn(*BASE[:5], num_points=2)
    with pytest.raises(TypeError, match=r"spatial_shapes must be an array \(L, 2\), got list"):
        ops.ms_deform_attn(BASE[0], BASE[1].tolist(), *BASE[2:5])
    with pytest.raises(ValueError, match="num_points must be given"):
        ops.ms_deform_attn(*BASE[:3], BASE[3][:, :, :, :5], BASE[4][..., :5])
    with pytest.raises(ValueError, match="reference_points must be"):
        arguments = problem(FUSED)
        ops.ms_deform_attn_fused(*arguments[:3], arguments[3][..., :3], *arguments[4:6])
