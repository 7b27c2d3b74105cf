# SPDX-License-Identifier: Apache-2.0
"""Hungarian matching: the case table, and the facts that are special to it."""

from __future__ import annotations

import numpy as np
import pytest
from hungarian_problems import DEFAULTS, KINDS, MATRIX_KINDS, matrices, problem, published_cost, remaining, with_holes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastdet import _core, ops
from fastdet.ops import backend
from fastdet.ops._numeric import log_exact
from fastdet.testing import run_vector, shared_dir
from fastdet.testing.ops import DOUBLE_VARIANTS, VARIANTS, Case, check, check_torch, zero_sizes

ASSIGN, COST, SOLVE = ops.HUNGARIAN_ASSIGN, ops.HUNGARIAN_COST, ops.LINEAR_SUM_ASSIGNMENT
BATCH = tuple((i, 0) for i in range(5))


def case(name, op=ASSIGN, attributes=DEFAULTS, **kw):
    return Case(name, op, lambda: (*problem(**kw), *attributes), floats=(0, 1), batch=BATCH)


def matrix_case(name, **kw):
    return Case(name, SOLVE, lambda: matrices(**kw), floats=(0,), doubles=(0,), batch=((0, 0), (1, 0)))


def zero_case(name, images=2, queries=3, classes=4, rows=2):
    counts = [0] * images if classes == 0 or rows == 0 else None
    return case(name, images=images, queries=queries, classes=classes, rows=rows, counts=counts)


CASES = [
    case("plain"),
    case("cost", COST),
    case("coco", seed=1, queries=300, classes=80, rows=50),
    case("more-objects", seed=2, queries=5, rows=12, counts=[12, 3]),
    case("more-objects-cost", COST, seed=2, queries=5, rows=12, counts=[12, 3]),
    case("square", seed=3, queries=13, rows=13, counts=[13, 13]),
    case("int32", seed=4, labels=np.int32),
    case("one-class", seed=5, classes=1),
    case("one-query", seed=6, queries=1, rows=4, counts=[4, 1]),
    case("many-queries", seed=7, images=1, queries=1031, rows=7, counts=[7]),
    case("all-empty", counts=[0, 0]),
    case("one-empty", COST, counts=[0, 6]),
    case("gamma-0", attributes=(2.0, 5.0, 2.0, 0.25, 0.0), seed=8),
    case("gamma-1.5", COST, attributes=(2.0, 5.0, 2.0, 0.25, 1.5), seed=9, kind="saturated"),
    case("gamma-3", attributes=(1.0, 5.0, 2.0, 0.75, 3.0), seed=10),
    case("weights-0", attributes=(0.0, 0.0, 0.0, 0.25, 2.0), seed=11, kind="bad"),
    case("weights-0-cost", COST, attributes=(0.0, 0.0, 0.0, 0.25, 2.0), seed=11, kind="bad"),
    case("weights-huge", attributes=(3e38, 3e38, 3e38, 1.0, 2.0), seed=12),
    *zero_sizes(zero_case, {"images": 2, "queries": 3, "classes": 4, "rows": 2}),
    case("no-queries-cost", COST, queries=0),
]
MATRICES = [
    *(matrix_case(kind, kind=kind) for kind in MATRIX_KINDS),
    matrix_case("wide", rows=4, columns=33, counts=[33, 4, 3]),
    matrix_case("tall", rows=67, columns=5, counts=[5, 5, 0]),
    matrix_case("square", rows=17, columns=17, counts=[17] * 3, kind="integers"),
    matrix_case("large", images=1, rows=70, columns=600, counts=[600], kind="integers"),
    matrix_case("large-hollow", images=2, rows=70, columns=530, counts=[530, 60], kind="hollow"),
    *(
        matrix_case(f"immense-{n}", seed=n, rows=11, columns=9 + 2 * n, kind="immense", dtype=np.float64)
        for n in range(4)
    ),
    matrix_case("large-chain", images=1, rows=41, columns=41, counts=[41], kind="chain"),
    *zero_sizes(lambda name, **kw: matrix_case(name, **kw), {"images": 3, "rows": 4, "columns": 5}),
]
# Every kind at several sizes; which variants run them rotates, so that all of them meet all kinds.
GENERATED = [
    case(
        f"{kind}-{seed}",
        COST if seed % 5 == 4 else ASSIGN,
        DEFAULTS if seed % 3 else (1.0, 2.5, 0.7, 0.6, 1.25),
        seed=seed,
        images=1 + seed % 3,
        queries=[7, 31, 64][seed % 3],
        classes=[3, 7, 20, 1][seed % 4],
        rows=[1, 4, 9, 17][seed // 2 % 4],
        kind=kind,
    )
    for kind in KINDS
    for seed in range(31)
] + [
    matrix_case(
        f"matrix-{kind}-{seed}",
        seed=seed,
        rows=1 + 7 * seed % 12,
        columns=1 + 5 * seed % 14,
        kind=kind,
        images=1 + seed % 4,
    )
    for kind in MATRIX_KINDS
    for seed in range(23)
]  # fmt: skip
HOST = [v for v in VARIANTS if not v.startswith("cuda")]
CUDA = [v for v in VARIANTS if v.startswith("cuda")]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES + MATRICES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("variant", DOUBLE_VARIANTS)
@pytest.mark.parametrize("case", MATRICES, ids=str)
def test_double_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize(("number", "case"), list(enumerate(GENERATED)), ids=map(str, GENERATED))
def test_generated(number, case):
    """Reference, CPU and CUDA give the same bits, whatever the arrays look like."""
    check(case, HOST[number % len(HOST)])
    check(case, CUDA[number % len(CUDA)])


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[3], MATRICES[0]], ids=str)
def test_torch_library(case):
    check_torch(case)


def matcher_file():
    if shared_dir() is None:
        pytest.skip("no shared parity data (FASTDET_SHARED)")
    with np.load(shared_dir() / "parity" / "assign" / "rtdetr_matcher.npz") as file:
        return dict(file)


def test_shared_vectors():
    arrays = matcher_file()
    wanted = {k for k in arrays if k.endswith(("_cost", "_gap")) or k.rstrip("0123456789").endswith(("_src", "_tgt"))}
    outputs = run_vector("rtdetr_matcher", {k: v for k, v in arrays.items() if k not in wanted})
    assert set(outputs) == wanted
    for key, value in outputs.items():
        assert value.dtype == arrays[key].dtype and value.shape == arrays[key].shape, key
        if value.dtype == np.float64:
            np.testing.assert_allclose(value, arrays[key], rtol=0, atol=1e-5, err_msg=key)
        else:
            np.testing.assert_array_equal(value, arrays[key], err_msg=key)


@pytest.mark.parametrize("seed", range(24))
def test_published_rule(seed):
    """The cost as published, in float64, and scipy make the same pairs."""
    from scipy.optimize import linear_sum_assignment

    attributes = DEFAULTS if seed % 2 else (1.0, 4.0, 3.0, 0.4, 1.7)
    queries, rows = [(40, 9), (6, 11), (25, 25)][seed % 3]
    arguments = problem(seed, images=1, queries=queries, classes=(80, 2)[seed % 2], rows=rows, counts=[rows])
    logits, boxes, gt, labels, _ = arguments
    expected = published_cost(logits[0], boxes[0], gt[0], labels[0], *attributes)
    names = dict(zip(("class_weight", "l1_weight", "giou_weight", "alpha", "gamma"), attributes))
    np.testing.assert_allclose(ops.hungarian_cost(*arguments, **names)[0], expected, rtol=2e-6, atol=1e-5)
    found = ops.hungarian_assign(*arguments, **names)
    query, row = linear_sum_assignment(expected)
    matched = np.full(queries, -1)
    matched[query] = row
    np.testing.assert_array_equal(found.matched_gt[0], matched)


def pair_total(cost, result, image=0, matrix=None):
    """Total cost of one image's pairs, in float64; checks that both sides tell the same. ``matrix``: other than it."""
    of_row, of_column = result.column_of_row[image], result.row_of_column[image]
    rows = np.nonzero(of_row >= 0)[0]
    np.testing.assert_array_equal(of_column[of_row[rows]], rows)
    assert (of_column >= 0).sum() == len(rows) == result.num_pairs[image]
    return cost[image if matrix is None else matrix, rows, of_row[rows]].astype(np.float64).sum()


@pytest.mark.parametrize(("block", "total"), [(i, 500) for i in range(20)])
def test_totals_are_those_of_scipy(block, total):
    """10,000 random matrices in 20 blocks, one call each: tall and wide, with and without ties."""
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(block)
    rows, columns = (int(n) for n in rng.integers(1, 26, 2))
    ties = block % 2 == 1
    cost = (
        rng.integers(-5, 6, (total, rows, columns))
        if ties
        else rng.normal(0, 10.0 ** rng.integers(-3, 4), (total, rows, columns))
    )
    cost = cost.astype([np.float64, np.float32][block // 2 % 2])  # fmt: skip
    count = rng.integers(0, columns + 1, total)
    result = ops.linear_sum_assignment(cost, count)
    np.testing.assert_array_equal(result.num_pairs, np.minimum(rows, count))
    for i in range(total):
        row, column = linear_sum_assignment(cost[i, :, : count[i]])
        best = cost[i, row, column].astype(np.float64).sum()
        got = pair_total(cost, result, i)
        scale = np.abs(cost[i, row, column]).astype(np.float64).sum()
        assert got == best if ties else abs(got - best) <= 1e-14 * scale


def assert_best_of_what_remains(cost, result, image=0):
    """Who has no finite cost is unmatched; the others' total is scipy's, others counting as the largest finite cost."""
    from scipy.optimize import linear_sum_assignment

    rows, columns, rest = remaining(cost)
    assert result.num_pairs[image] == min(len(rows), len(columns))
    assert set(np.nonzero(result.column_of_row[image] >= 0)[0]) <= set(rows)
    assert set(np.nonzero(result.row_of_column[image] >= 0)[0]) <= set(columns)
    replaced = np.full(cost.shape, np.nan)
    replaced[np.ix_(rows, columns)] = rest
    row, column = linear_sum_assignment(rest)
    best, scale = rest[row, column].sum(), np.abs(rest[row, column]).sum()
    np.testing.assert_allclose(pair_total(replaced[None], result, image, 0), best, rtol=0, atol=1e-14 * scale)


@pytest.mark.parametrize("block", range(40))
def test_costs_that_are_not_finite(block):
    """4,000 small matrices: scipy's total on the replaced matrix, and the pairs of that matrix given alone."""
    rng = np.random.default_rng(block)
    rows, columns = (int(n) for n in rng.integers(1, 9, 2))
    shape = (100, rows, columns)
    cost = rng.integers(-5, 6, shape) if block % 2 else rng.normal(0, 10.0 ** rng.integers(-3, 4), shape)
    cost = np.stack([with_holes(rng, matrix) for matrix in cost]).astype([np.float64, np.float32][block // 2 % 2])
    count = rng.integers(0, columns + 1, 100)
    result = ops.linear_sum_assignment(cost, count)
    with backend("cuda"):
        same(result, ops.linear_sum_assignment(cost, count))
    for i in range(100):
        used = cost[i, :, : count[i]]
        assert_best_of_what_remains(used.astype(np.float64), result, i)
        live_rows, live_columns, rest = remaining(used)
        expected = np.full(rows, -1)
        if live_rows:
            alone = ops.linear_sum_assignment(rest[None], np.array([len(live_columns)])).column_of_row[0]
            expected[live_rows] = np.where(alone >= 0, np.take(live_columns, alone), -1)
        np.testing.assert_array_equal(result.column_of_row[i], expected)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.just(1), st.integers(1, 6), st.integers(1, 6)),
        elements=st.sampled_from([0.0, 1.0, 2.0, 5.0, -1.0, np.inf, np.nan, -np.inf]),
    )
)
def test_any_small_matrix(cost):
    """scipy's total; the same bits from reference, CPU and CUDA in every order of threads."""
    count = np.array([cost.shape[2]])
    assert_best_of_what_remains(cost[0].astype(np.float64), ops.linear_sum_assignment(cost, count))
    case = Case("drawn", SOLVE, lambda: (cost, count))
    for variant in ("numpy-plain", "cuda-forward", "cuda-reverse", "cuda-shuffled"):
        check(case, variant)


@pytest.mark.parametrize("not_finite", [np.nan, np.inf, -np.inf])
def test_rule_of_costs_that_are_not_finite(not_finite):
    n = not_finite
    cases = [
        ([[n, 1], [2, 9]], [1, 0]),
        ([[n, 9], [9, 9]], [0, 1]),  # counts as 9: a tie, which goes to the lower column
        ([[n, n], [2, 1]], [-1, 1]),
        ([[n, 2, 3], [n, 1, 1], [n, 5, 1]], [-1, 1, 2]),  # more rows than columns remain
        ([[n, n, n], [4, n, 3], [n, n, n]], [-1, 2, -1]),
        ([[1, n], [2, n], [n, n]], [0, -1, -1]),
        ([[n, 1], [1, n]], [0, 1]),  # counts as 1: a tie too
        ([[0, n, 5], [0, n, n]], [0, 2]),  # a pair that counts as 5; the middle column takes no part
        ([[n, n], [n, n]], [-1, -1]),
    ]
    for cost, expected in cases:
        for dtype in (np.float16, np.float32, np.float64):
            matrix = np.array([cost], dtype)
            result = ops.linear_sum_assignment(matrix, np.array([len(cost[0])]))
            assert result.column_of_row.tolist() == [expected], cost
            assert pair_total(np.zeros(matrix.shape), result) == 0


@pytest.mark.parametrize("seed", range(40))
def test_float64_beyond_all_sums(seed):
    """Costs up to the largest float64: the total is that of scipy, which overflows, on the same costs times 2^-64."""
    rng = np.random.default_rng(seed)
    rows, columns = (int(n) for n in rng.integers(1, 30, 2))
    cost = rng.uniform(-1, 1, (rows, columns)) * 2.0 ** rng.integers(955, 1024) * (1 + rng.random())
    cost = np.where(rng.random(cost.shape) < 0.2, rng.normal(0, 1, cost.shape), cost)
    cost = with_holes(rng, cost) if seed % 2 else cost
    assert cost.dtype == np.float64
    result = ops.linear_sum_assignment(cost[None], np.array([columns]))
    assert_best_of_what_remains(cost * 2.0**-64, result)
    same(result, ops.linear_sum_assignment(cost[None] * 2.0**-64, np.array([columns])))


def test_whole_pictures_that_are_not_finite():
    """A NaN object, a NaN query, and a picture of NaN leave the others as they are."""
    arguments = problem(3, images=2, queries=9, rows=5, counts=[5, 5])
    logits, boxes, gt, *_ = arguments
    expected = ops.hungarian_assign(*arguments)
    free = int(np.nonzero(expected.matched_gt[0] < 0)[0][0])
    boxes[0, free, 1], logits[1], gt[0, 2, 3] = np.nan, np.inf, -np.inf
    found = ops.hungarian_assign(*arguments)
    fewer = [np.delete(a, 2, 1) if i in (2, 3) else a for i, a in enumerate(arguments[:4])]
    others = ops.hungarian_assign(*fewer, np.array([4, 4]))
    assert found.num_pos.tolist() == [4, 0] and (found.matched_query[1] == -1).all() and found.matched_gt[0, free] == -1
    np.testing.assert_array_equal(np.delete(found.matched_query[0], 2), others.matched_query[0])


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


SMALL = {"images": 3, "queries": 11, "classes": 4, "rows": 7}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_batch_equals_loop_and_solver(seed, kind):
    """A batch is its pictures, and the fused operator is the cost followed by the solver."""
    arguments = problem(seed, kind=kind, **SMALL)
    whole, costs = ops.hungarian_assign(*arguments), ops.hungarian_cost(*arguments)
    same(whole, ops.linear_sum_assignment(costs, arguments[4]))
    for b in range(3):
        alone = [a[b : b + 1] for a in arguments]
        same([field[b] for field in whole], [field[0] for field in ops.hungarian_assign(*alone)])
        np.testing.assert_array_equal(costs[b], ops.hungarian_cost(*alone)[0])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["plain", "saturated", "exact", "bad"]))
def test_order_does_not_change_the_total(seed, kind):
    """Queries and objects may come in any order: the total stays, unique pairs too."""
    logits, boxes, gt, labels, _ = problem(seed, counts=[7, 7, 7], kind=kind, **SMALL)
    count = np.array([7, 7, 7])
    rng = np.random.default_rng(seed)
    queries, rows = rng.permutation(11), rng.permutation(7)
    cost = ops.hungarian_cost(logits, boxes, gt, labels, count)
    shuffled = (logits[:, queries], boxes[:, queries], gt[:, rows], labels[:, rows])
    np.testing.assert_array_equal(ops.hungarian_cost(*shuffled, count), cost[:, queries][:, :, rows])
    expected, got = ops.hungarian_assign(logits, boxes, gt, labels, count), ops.hungarian_assign(*shuffled, count)
    np.testing.assert_array_equal(got.num_pos, expected.num_pos)
    for b in range(3):
        query, other = expected.matched_query[b], got.matched_query[b]
        finite = np.isfinite(cost[b])
        paid = np.where(finite, cost[b], cost[b][finite].max(initial=-np.inf)).astype(np.float64)
        total = paid[query, np.arange(7)][query >= 0].sum()
        np.testing.assert_allclose(paid[queries[other], rows][other >= 0].sum(), total, rtol=1e-12, atol=1e-12)
        if kind == "plain":
            np.testing.assert_array_equal(queries[other], query[rows])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_padding_is_not_read(seed, kind):
    *front, gt, labels, count = problem(seed, kind=kind, **SMALL)
    wide_gt = np.concatenate([gt, np.full((3, 9, 4), np.nan, np.float32)], 1)
    wide_labels = np.concatenate([labels, np.full((3, 9), 10**12)], 1)
    narrow = ops.hungarian_assign(*front, gt, labels, count)
    wide = ops.hungarian_assign(*front, wide_gt, wide_labels, count)
    assert (wide.matched_query[:, 7:] == -1).all()
    same(narrow, wide._replace(matched_query=wide.matched_query[:, :7]))


def test_ties_go_to_free_then_low_columns():
    cost = np.zeros((1, 5, 3), np.float32)
    result = ops.linear_sum_assignment(cost, np.array([3]))
    assert result.column_of_row.tolist() == [[0, 1, 2, -1, -1]] and result.row_of_column.tolist() == [[0, 1, 2]]
    result = ops.linear_sum_assignment(cost.transpose(0, 2, 1), np.array([5]))
    assert result.column_of_row.tolist() == [[0, 1, 2]] and result.row_of_column.tolist() == [[0, 1, 2, -1, -1]]


def test_logarithm():
    """Within 1 ulp on all normal numbers."""
    rng = np.random.default_rng(0)
    x = rng.integers(0x00800000, 0x7F800000, 400000, dtype=np.int32).view(np.float32)
    x = np.concatenate([x, rng.uniform(0.5, 2, 400000).astype(np.float32)])
    exact = np.log(x.astype(np.float64))
    assert np.max(np.abs(log_exact(x) - exact) / np.spacing(np.abs(exact).astype(np.float32))) < 1
    np.testing.assert_array_equal(log_exact(x[x < 2**80] * np.float32(2**32), 32), log_exact(x[x < 2**80]))


def test_threads_and_repetition():
    """The same bits with one thread and with several, again and again."""
    arguments = problem(1, images=7, queries=300, classes=80, rows=60)
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 5, 5):
            _core.set_num_threads(threads)
            results.append(ops.hungarian_assign(*arguments))
    finally:
        _core.set_num_threads(before)
    for result in results[1:]:
        same(results[0], result)


BASE = problem(0, images=2, queries=5, classes=3, rows=4, counts=[4, 2])
NAMES = {"logits": 0, "boxes_cxcywh": 1, "gt_boxes_cxcywh": 2, "gt_labels": 3, "gt_count": 4}
WRONG = [
    ({"logits": BASE[0][0]}, ValueError, "logits must have 3 dimensions, got"),
    ({"logits": BASE[0][:1]}, ValueError, r"boxes_cxcywh must be \(1, 5, 4\) for logits"),
    ({"logits": BASE[0].astype(np.float64)}, TypeError, "logits must be float32, float16 or bfloat16, got float64"),
    ({"logits": BASE[0].tolist()}, TypeError, "logits must be an array .* got list"),
    ({"boxes_cxcywh": BASE[1][..., :3]}, ValueError, r"boxes_cxcywh must be \(2, 5, 4\) .* got \(2, 5, 3\)"),
    ({"boxes_cxcywh": BASE[1][:, :4]}, ValueError, r"boxes_cxcywh must be \(2, 5, 4\)"),
    ({"boxes_cxcywh": BASE[1].astype(np.int32)}, TypeError, "boxes_cxcywh must be .* got int32"),
    ({"gt_boxes_cxcywh": BASE[2][:1]}, ValueError, r"gt_boxes_cxcywh must be \(2, M, 4\), got \(1, 4, 4\)"),
    ({"gt_boxes_cxcywh": BASE[2][:, :0].astype(np.float16)}, TypeError, "gt_boxes_cxcywh must be float32, got float16"),
    ({"gt_labels": BASE[3][:, :3]}, ValueError, r"gt_labels must be \(2, 4\) for gt_boxes_cxcywh \(2, 4, 4\)"),
    ({"gt_labels": BASE[3].astype(np.float32)}, TypeError, "gt_labels must be int64 or int32, got float32"),
    ({"gt_labels": BASE[3] * 0 + 3}, ValueError, r"gt_labels must lie in \[0, 3\), got 3 for image 0, row 0"),
    ({"gt_labels": BASE[3] * 0 - 1}, ValueError, r"gt_labels must lie in \[0, 3\), got -1"),
    ({"gt_count": BASE[4][:1]}, ValueError, r"gt_count must be \(2,\), got \(1,\)"),
    ({"gt_count": np.array([4, 5])}, ValueError, r"gt_count must lie in \[0, 4\], got 5 for image 1"),
    ({"gt_count": np.array([-1, 2])}, ValueError, r"gt_count must lie in \[0, 4\], got -1 for image 0"),
    ({"gt_count": np.array([4.0, 2.0])}, TypeError, "gt_count must be int64 or int32, got float64"),
    ({"class_weight": -0.5}, ValueError, "class_weight must be finite and not negative"),
    ({"l1_weight": float("inf")}, ValueError, "l1_weight must be finite"),
    ({"giou_weight": 1e39}, ValueError, "giou_weight must be finite and not negative, got inf"),
    ({"alpha": 1.5}, ValueError, r"alpha must lie in \[0, 1\], got 1.5"),
    ({"alpha": float("nan")}, ValueError, r"alpha must lie in \[0, 1\]"),
    ({"gamma": -1.0}, ValueError, "gamma must be finite and not negative"),
    ({"gamma": "two"}, TypeError, "gamma must be a number"),
]


@pytest.mark.parametrize("function", [ops.hungarian_assign, ops.hungarian_cost])
@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_wrong_arguments(function, change, error, message):
    arguments, attributes = list(BASE), {}
    for name, value in change.items():
        if name in NAMES:
            arguments[NAMES[name]] = value
        else:
            attributes[name] = value
    with pytest.raises(error, match=message):
        function(*arguments, **attributes)


@pytest.mark.parametrize(
    ("cost", "count", "error", "message"),
    [
        (np.zeros((2, 3)), np.zeros(2, int), ValueError, "cost must have 3 dimensions"),
        (np.zeros((2, 3, 4), int), np.zeros(2, int), TypeError, "cost must be .* got int64"),
        (np.zeros((2, 3, 4)), np.zeros(3, int), ValueError, r"count must be \(2,\), got \(3,\)"),
        (np.zeros((2, 3, 4)), np.zeros(2), TypeError, "count must be int64 or int32, got float64"),
        (np.zeros((2, 3, 4)), np.array([4, 5]), ValueError, r"count must lie in \[0, 4\], got 5 for image 1"),
    ],
)
def test_wrong_matrices(cost, count, error, message):
    with pytest.raises(error, match=f"linear_sum_assignment: {message}"):
        ops.linear_sum_assignment(cost, count)


def test_inputs_that_require_grad_are_taken():
    """An assignment has no gradient by its nature, so a training loop need not detach."""
    import torch

    arguments = [torch.from_numpy(np.array(a)) for a in BASE]
    expected = ops.hungarian_assign(*arguments)
    arguments[0].requires_grad_()
    same(expected, ops.hungarian_assign(*arguments))
    assert not ops.hungarian_cost(*arguments).requires_grad


def test_labels_out_of_range_match_nothing_on_a_device():
    """Where nobody looks at values: through the emulated library, which is handed what the host would refuse."""
    import torch

    from fastdet.testing.ops import cuda_kind

    arguments = [torch.from_numpy(np.array(a)) for a in problem(0, images=1, counts=[6])]
    if cuda_kind() == "device":
        arguments = [a.cuda() for a in arguments]
        arguments[3][0, 2] = 99
        found = ops.hungarian_assign(*arguments)
        assert found.matched_query[0, 2] == -1 and found.num_pos[0] == 5
    else:  # host memory is looked at, also for the emulator
        arguments[3][0, 2] = 99
        with backend("cuda"), pytest.raises(ValueError, match="gt_labels must lie"):
            ops.hungarian_assign(*arguments)


def test_of_padded_targets():
    import torch

    from fastdet.assign import hungarian, pad_targets

    logits, boxes, gt, labels, count = (torch.from_numpy(np.array(a)) for a in BASE)
    objects = [(gt[b, :n], labels[b, :n]) for b, n in enumerate(count.tolist())]
    truth = pad_targets([o[0] for o in objects], [o[1] for o in objects], 3)
    same(hungarian(logits, boxes, truth), ops.hungarian_assign(*BASE))
