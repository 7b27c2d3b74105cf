# SPDX-License-Identifier: Apache-2.0
"""Compose: the case table, equality with OpenCV step by step and as a whole, and wrong use."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from compose_problems import (
    affine,
    arguments,
    case,
    mask,
    mosaic,
    one,
    pasted,
    picture,
    projective,
    random_composition,
    tables,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet import _core, ops
from fastdet.ops import Composition, Layer, Tile, compose, compose_batch, compose_reference
from fastdet.ops._compose_rules import hsv_to_rgb, inverse_map, rgb_to_hsv, warp
from fastdet.ops.compose import COMPOSE, COMPOSE_OUT
from fastdet.testing.ops import VARIANTS, check, check_torch, cuda_kind

needs_opencv_5 = pytest.mark.skipif(int(cv2.__version__.partition(".")[0]) < 5, reason="OpenCV 4 warps otherwise")

TURN = affine(7, 0.8, (3.3, -20.7))


def random_batch(seed, count=3):
    rng = np.random.default_rng(seed)
    return [random_composition(rng) for _ in range(count)]


CASES = [
    case("one-tile", lambda: [one(Tile(picture(50, 60), 5, 4), matrix=TURN)]),
    case("mosaic", lambda: [one(*mosaic(64), matrix=TURN, canvas=(128, 128))]),
    case(
        "mosaic-colours-flips",
        lambda: [
            one(
                *mosaic(64),
                matrix=TURN,
                canvas=(128, 128),
                hsv=tables(),
                channel_order="bgr",
                flip_horizontal=True,
                flip_vertical=True,
            )
        ],
        channels_last=False,
    ),
    case("projective", lambda: [one(*mosaic(64), matrix=projective(TURN), canvas=(128, 128), hsv=tables(3))]),
    case("horizon", lambda: [one(*mosaic(64), matrix=projective(TURN, 0.05, 0.02), canvas=(128, 128))]),
    case(
        "mixup",
        lambda: [
            Composition(
                [Layer(mosaic(64), (128, 128), TURN), Layer([Tile(picture(40, 64, seed=9))], (40, 64), np.eye(3))],
                0.4321,
                (7, 8, 9),
                tables(),
            )
        ],
    ),
    case("identity", lambda: [one(Tile(picture(40, 64)), canvas=(40, 64))]),
    case("whole-shift", lambda: [one(Tile(picture(40, 64)), matrix=affine(shift=(7, -5)), fill=(1, 2, 3))]),
    case("no-tile", lambda: [one(hsv=tables(), matrix=TURN)]),
    case("tiles-outside", lambda: [one(Tile(picture(9, 9), 500, 0), Tile(picture(9, 9), 0, -9), matrix=TURN)]),
    case(
        "overlapping-windows",
        lambda: [
            one(
                Tile(picture(60, 60), -5, -7),
                Tile(picture(30, 40, seed=1), 20, 10, (25, 5, 40, 33)),
                Tile(picture(30, 40, seed=2), 22, 12, (-9, 14, 31, 900)),
                Tile(picture(8, 8, seed=3), 30, 30, (33, 33, 31, 40)),
                matrix=TURN,
            )
        ],
    ),
    case(
        "masks",
        lambda: [
            one(
                Tile(picture(64, 64)),
                Tile(picture(50, 40, seed=1), 3, 9, None, mask(50, 40)),
                Tile(picture(33, 64, seed=2), -9, 20, (0, 22, 50, 40), mask(33, 64, 1)),
                matrix=TURN,
            )
        ],
    ),
    case("pasted", lambda: [one(*pasted(), canvas=(128, 128), matrix=affine(0, 0.9, (-7.3, 4)))], size=(90, 101)),
    case("pasted-turned", lambda: [one(*pasted(20), canvas=(128, 128), matrix=TURN, hsv=tables())], size=(90, 101)),
    case("one-pixel", lambda: [one(Tile(picture(1, 1)), canvas=(1, 1), matrix=affine(scale=9.5))], size=(11, 13)),
    case("upright", lambda: [one(*mosaic(64), canvas=(128, 128), matrix=affine(0, 0.7, (3.3, -5.2)), hsv=tables())]),
    case(
        "upside-down",
        lambda: [
            one(
                *mosaic(64),
                canvas=(128, 128),
                matrix=np.array([[-1.4, 0, 90], [0, -1.4, 80], [0, 0, 1]]),
                flip_horizontal=True,
            )
        ],
        size=(70, 83),
    ),
    case("one-row", lambda: [one(Tile(picture(1, 61)), canvas=(1, 61), matrix=affine(3, 1.3))]),
    case("one-column", lambda: [one(Tile(picture(61, 1)), canvas=(61, 1), matrix=affine(3, 1.3))]),
    case("two-columns", lambda: [one(Tile(picture(61, 2)), canvas=(61, 2), matrix=affine(3, 1.3))]),
    case("one-out", lambda: [one(*mosaic(64), canvas=(128, 128), matrix=affine(0, 0.01))], size=(1, 1)),
    case("prime-out", lambda: [one(*mosaic(64), canvas=(128, 128), matrix=TURN)], size=(37, 101)),
    case("tiny-scale", lambda: [one(*mosaic(64), canvas=(128, 128), matrix=affine(5, 0.02))]),
    case("huge-scale", lambda: [one(*mosaic(64), canvas=(128, 128), matrix=affine(5, 900, (-50000, -60000)))]),
    case("quarter-turn", lambda: [one(Tile(picture(64, 40)), matrix=np.array([[0, 1, 0], [-1, 0, 39], [0, 0, 1.0]]))]),
    case("batch", lambda: random_batch(1), size=(33, 47)),
    case("batch-nchw", lambda: random_batch(2, 5), size=(21, 64), channels_last=False),
    case(
        "many-tiles",
        lambda: [one(*(Tile(picture(9, 9, seed=i), 7 * (i % 10), 6 * (i // 10)) for i in range(70)), matrix=TURN)],
    ),
    case(
        "wide", lambda: [one(Tile(picture(30, 400)), canvas=(40, 400), matrix=affine(2), hsv=tables())], size=(24, 400)
    ),
]


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "float16" not in v])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("mosaic-colours-flips", "batch")], ids=str)
def test_torch_library(case):
    check_torch(case)


def test_torch_library_out():
    args = [[torch.from_numpy(x) for x in a] if i < 3 else a for i, a in enumerate(arguments(*random_batch(3)))]
    out = torch.zeros(3, 40, 64, 3, dtype=torch.uint8)
    COMPOSE_OUT(out, *args)  # registers the operators, if nothing has
    assert torch.equal(out, COMPOSE(*args))
    torch.library.opcheck(torch.ops.fastdet.compose_out.default, (out, *args))


# ---- OpenCV ----

FILL = np.full(3, 114, np.uint8)
CV_AVX2, CV_FMA3 = 11, 12


def random_matrix(rng: np.random.Generator, projective: bool) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2] += rng.normal(0, 0.3, (2, 3))
    matrix[:2, 2] += rng.normal(0, 30, 2)
    if projective:
        matrix[2, :2] = rng.normal(0, 0.0007, 2)
    return matrix


def random_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def opencv_warp(picture: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: int = 114) -> np.ndarray:
    options = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_CONSTANT, "borderValue": (fill,) * 3}
    if tuple(matrix[2]) == (0, 0, 1):
        return cv2.warpAffine(picture, matrix[:2], size[::-1], **options)
    return cv2.warpPerspective(picture, matrix, size[::-1], **options)


@needs_opencv_5
@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    source=st.tuples(st.integers(2, 200), st.integers(2, 200)),
    size=st.tuples(st.integers(1, 120), st.integers(1, 200)),
    projective=st.booleans(),
)
def test_warp_is_that_of_opencv(seed, source, size, projective):
    # OpenCV takes the last 1 to 16 columns of a row one by one, with roundings of their own.
    rng = np.random.default_rng(seed)
    picture, matrix = random_picture(rng, *source), random_matrix(rng, projective)
    ours, theirs = warp(picture, inverse_map(matrix), size, FILL), opencv_warp(picture, matrix, size)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    if cv2.checkHardwareSupport(CV_AVX2) and cv2.checkHardwareSupport(CV_FMA3):
        vectors = (size[1] - 1) // 16 * 16
        np.testing.assert_array_equal(ours[:, :vectors], theirs[:, :vectors])


def test_hsv_is_that_of_opencv():
    # All colours, in rows of a multiple of 32: OpenCV rounds the pixels after the last 32 otherwise.
    steps = np.arange(0, 256, 5, dtype=np.uint8)
    triples = np.stack(np.meshgrid(np.arange(256, dtype=np.uint8), steps, steps, indexing="ij"), -1)
    colours = triples.reshape(-1, 52 * 32, 3)
    hsv = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)
    np.testing.assert_array_equal(rgb_to_hsv(colours), hsv)
    if cv2.checkHardwareSupport(CV_AVX2) and cv2.checkHardwareSupport(CV_FMA3):
        np.testing.assert_array_equal(hsv_to_rgb(hsv), cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
        np.testing.assert_array_equal(hsv_to_rgb(colours), cv2.cvtColor(colours, cv2.COLOR_HSV2RGB))


@needs_opencv_5
@pytest.mark.parametrize("projective", [False, True])
def test_reference_is_the_recipe_in_opencv(projective):
    rng = np.random.default_rng(5)
    s = 64
    tables = np.stack([np.arange(256) * 1.01 % 180, np.arange(256) * 0.7, np.minimum(np.arange(256) * 1.3, 255)])
    tables = tables.astype(np.uint8)
    layers, pictures = [], []
    for _ in range(2):
        canvas = np.full((2 * s, 2 * s, 3), 114, np.uint8)
        tiles = []
        for left, top, height, width in ((-10, -3, 60, 65), (55, 7, 50, 70), (5, 57, 71, 50), (55, 57, 40, 64)):
            picture = random_picture(rng, height, width)
            tiles.append(Tile(picture, left, top))
            cut = picture[max(-top, 0) :, max(-left, 0) :][: 2 * s - max(top, 0), : 2 * s - max(left, 0)]
            canvas[max(top, 0) :, max(left, 0) :][: cut.shape[0], : cut.shape[1]] = cut
        matrix = random_matrix(rng, projective)
        layers.append(Layer(tiles, (2 * s, 2 * s), matrix))
        pictures.append(opencv_warp(canvas, matrix, (s, s)))
    ratio = 0.3719
    mixed = (pictures[0] * ratio + pictures[1] * (1 - ratio)).astype(np.uint8)
    hsv = cv2.cvtColor(mixed, cv2.COLOR_BGR2HSV)
    moved = cv2.merge([cv2.LUT(plane, table) for plane, table in zip(cv2.split(hsv), tables)])
    expected = cv2.cvtColor(moved, cv2.COLOR_HSV2BGR)[:, ::-1]
    ours = compose_reference(
        layers, (s, s), blend=ratio, hsv=tables, channel_order="bgr", flip_horizontal=True, layout="nchw"
    )
    different = np.abs(ours.transpose(1, 2, 0).astype(int) - expected).max(-1)[:, ::-1]
    if cv2.checkHardwareSupport(CV_AVX2) and cv2.checkHardwareSupport(CV_FMA3):
        assert different[:, : s - 16].max() == 0


# ---- the same from every path ----


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def isa(request):
    """Each instruction set that this machine has, by forbidding the better ones."""
    _core.compose_limit_isa(request.param)
    yield request.param
    _core.compose_limit_isa("avx512")


@pytest.mark.parametrize("part", range(4))
def test_generated(part, isa):
    """Sizes up to 90, tiles anywhere, masks, windows, both maps: 320 pictures in each instruction set."""
    rng = np.random.default_rng(part)
    for _ in range(40):
        batch, size = [random_composition(rng), random_composition(rng)], tuple(int(n) for n in rng.integers(1, 80, 2))
        layout = ("nhwc", "nchw")[int(rng.integers(2))]
        expected = [compose_reference(size=size, layout=layout, **c._asdict()) for c in batch]
        got = compose_batch(batch, size, layout=layout)
        np.testing.assert_array_equal(got, expected)
        single = batch[1]._asdict()
        np.testing.assert_array_equal(compose(single.pop("layers"), size, layout=layout, **single), expected[1])


@pytest.mark.parametrize("width", [127, 128, 129, 255, 257, 391])
def test_wide_rows(width, isa):
    """Widths around the steps in which rows are coloured and mixed, and their rests."""
    layers = [
        Layer([Tile(picture(9, width + 20, seed=width))], (9, width + 20), affine(1, 0.97)),
        Layer([Tile(picture(7, width))], (7, width), projective(affine(-1), 0.0001, 0.0002)),
    ]
    for layout, order in (("nhwc", "rgb"), ("nchw", "bgr")):
        options = {"blend": 0.3, "hsv": tables(width), "channel_order": order, "flip_horizontal": width % 2 == 0}
        got = compose(layers, (6, width), layout=layout, **options)
        np.testing.assert_array_equal(got, compose_reference(layers, (6, width), layout=layout, **options))


def test_every_colour(isa):
    """Hue, saturation and value of all quotients, through tables that change nothing and that invert."""
    steps = np.arange(0, 256, 8, dtype=np.uint8) + np.uint8(7)
    colours = np.stack(np.meshgrid(np.arange(256, dtype=np.uint8), steps, steps, indexing="ij"), -1).reshape(256, -1, 3)
    for colour_tables in (
        np.tile(np.arange(256, dtype=np.uint8), (3, 1)),
        np.tile(np.arange(255, -1, -1, np.uint8), (3, 1)),
    ):
        layers, options = [Layer([Tile(colours)], colours.shape[:2], np.eye(3))], {"hsv": colour_tables}
        got = compose(layers, colours.shape[:2], **options)
        np.testing.assert_array_equal(got, compose_reference(layers, colours.shape[:2], **options))


def test_whole_shifts_copy():
    image = picture(40, 64)
    layers = [Layer([Tile(image)], (40, 64), affine(shift=(5, -3)))]
    moved = compose(layers, (40, 64), fill=9)
    np.testing.assert_array_equal(moved[:37, 5:], image[3:, :59])
    assert (moved[37:] == 9).all() and (moved[:, :5] == 9).all()


def views():
    base = picture(41, 53)
    return {
        "pitch": base[3:30, 5:40],
        "mirrored": base[:, ::-1],
        "upside down": base[::-1],
        "channels reversed": base[..., ::-1],
        "all reversed": base[::-1, ::-1, ::-1],
        "every second": base[::2, ::3],
        "planar": np.ascontiguousarray(base.transpose(2, 0, 1)).transpose(1, 2, 0),
        "turned": base.transpose(1, 0, 2),
        "repeated": np.broadcast_to(base[:, :1], base.shape),
        "grey": np.broadcast_to(base[..., :1], base.shape),
    }


@pytest.mark.parametrize("name", views())
def test_views_equal_copies(name, isa):
    view = views()[name]
    for shown in (None, mask(*view.shape[:2])):
        turned = shown if shown is None else np.asfortranarray(shown)
        given, copied = (Tile(image, 4, 3, None, m) for image, m in ((view, turned), (view.copy(), shown)))
        got, want = (compose([Layer([tile], (50, 60), TURN)], (48, 57)) for tile in (given, copied))
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 16, 17, 40])
def test_reads_nothing_beyond_the_picture(width, isa):
    """A picture at the very end of a mapping: a read past its last byte would end the process."""
    import mmap

    from test_letterbox import _forbid

    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    _forbid(pages, mmap.PAGESIZE)
    whole = np.frombuffer(pages, np.uint8, mmap.PAGESIZE)
    image = whole[mmap.PAGESIZE - 15 * width :].reshape(5, width, 3)
    image[:] = picture(5, width)
    for view in (image, image[::-1], image[:, ::-1], image[..., ::-1]):
        for matrix in (affine(scale=7.3), affine(180, 5.1, (200, 25)), affine(90, 4, (20, 0))):
            got, want = (compose([Layer([Tile(v)], (5, width), matrix)], (25, 210)) for v in (view, view.copy()))
            np.testing.assert_array_equal(got, want)


def test_threads_do_not_show():
    batch, before = random_batch(5, 9), _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 5):
            _core.set_num_threads(threads)
            results.append(compose_batch(batch, (63, 70)))
    finally:
        _core.set_num_threads(before)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_batch_is_its_pictures():
    batch = random_batch(6, 4)
    for layout in ("nhwc", "nchw"):
        together = compose_batch(batch, 45, layout=layout)
        for picture_, composition in zip(together, batch):
            options = composition._asdict()
            np.testing.assert_array_equal(picture_, compose(options.pop("layers"), 45, layout=layout, **options))


# ---- arrays ----


@pytest.mark.parametrize("backend", ["reference", "cpu", "auto", "cuda"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_out(kind, backend):
    if backend == "cuda" and cuda_kind() != "emulated":
        pytest.skip("host arrays reach CUDA code in the emulator alone")
    batch = [one(Tile(kind(picture(50, 60)), 5, 4, None, kind(mask(50, 60))), matrix=TURN, hsv=tables())] * 2
    for layout, shape in (("nhwc", (2, 40, 64, 3)), ("nchw", (2, 3, 40, 64))):
        out = kind(np.zeros(shape, np.uint8))
        with ops.backend(backend):
            assert compose_batch(batch, (40, 64), layout=layout, out=out) is out
            half = out[1]
            options = batch[0]._asdict()
            assert compose(options.pop("layers"), (40, 64), layout=layout, out=half, **options) is half
        expected = compose_batch(batch, (40, 64), layout=layout)
        assert type(expected) is type(out)
        np.testing.assert_array_equal(np.asarray(out), np.asarray(expected))


def test_without_arrays():
    assert (compose([Layer([], (9, 9), np.eye(3))], (4, 5), fill=(1, 2, 3)) == (1, 2, 3)).all()
    assert compose_batch([], 8).shape == (0, 8, 8, 3)
    out = torch.zeros(1, 3, 4, 5, dtype=torch.uint8)
    compose_batch([one(fill=7)], (4, 5), layout="nchw", out=out)
    assert (out == 7).all()
    with ops.backend("reference"):
        compose_batch([one(fill=8)], (4, 5), layout="nchw", out=out)
    assert (out == 8).all()


TILE = Tile(picture(9, 9))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "layers must be one or two", lambda: compose([], 8)),
        (ValueError, "layers must be one or two", lambda: compose([Layer([TILE], (9, 9), np.eye(3))] * 3, 8)),
        (ValueError, "matrix must be finite", lambda: compose_batch([one(TILE, matrix=np.full((3, 3), np.nan))], 8)),
        (ValueError, "must have an inverse", lambda: compose_batch([one(TILE, matrix=np.zeros((3, 3)))], 8)),
        (ValueError, "must have an inverse", lambda: compose_batch([one(TILE, matrix=np.diag([1.0, 0, 1]))], 8)),
        (ValueError, "must have an inverse", lambda: compose_batch([one(TILE, matrix=np.diag([1e-60, 1, 1]))], 8)),
        (ValueError, r"matrix must be \(3, 3\)", lambda: compose_batch([one(TILE, matrix=np.eye(3)[:2])], 8)),
        (
            ValueError,
            r"image of a tile must be \(h, w, 3\)",
            lambda: compose_batch([one(Tile(np.zeros((3, 9, 9))))], 8),
        ),
        (TypeError, "image of a tile must be an array", lambda: compose_batch([one(Tile([[1, 2, 3]]))], 8)),
        (TypeError, "must be uint8", lambda: compose_batch([one(Tile(np.zeros((9, 9, 3))))], 8)),
        (ValueError, "mask must have the size", lambda: compose_batch([one(TILE._replace(mask=mask(9, 8)))], 8)),
        (
            ValueError,
            r"mask of a tile must be \(h, w\)",
            lambda: compose_batch([one(TILE._replace(mask=picture(9, 9)))], 8),
        ),
        (TypeError, "left and top of a tile must be whole", lambda: compose_batch([one(TILE._replace(left=0.5))], 8)),
        (ValueError, "left of a tile must be at most", lambda: compose_batch([one(TILE._replace(left=1 << 40))], 8)),
        (ValueError, "x1, y1, x2, y2", lambda: compose_batch([one(TILE._replace(window=(1, 2, 3)))], 8)),
        (ValueError, "canvas must have sides", lambda: compose_batch([one(TILE, canvas=(0, 5))], 8)),
        (ValueError, "size must have sides", lambda: compose_batch([one(TILE)], (8, 1 << 21))),
        (ValueError, "fill must be one or three", lambda: compose_batch([one(TILE, fill=256)], 8)),
        (ValueError, "blend must be in", lambda: compose_batch([one(TILE, blend=float("nan"))], 8)),
        (ValueError, "channel_order must be one of", lambda: compose_batch([one(TILE, channel_order="gbr")], 8)),
        (ValueError, "layout must be one of", lambda: compose_batch([one(TILE)], 8, layout="chw")),
        (
            ValueError,
            r"hsv must be \(3, 256\)",
            lambda: compose_batch([one(TILE, hsv=np.zeros((256, 3), np.uint8))], 8),
        ),
        (TypeError, "hsv must be uint8", lambda: compose_batch([one(TILE, hsv=np.zeros((3, 256)))], 8)),
        (ValueError, "out must be", lambda: compose_batch([one(TILE)], 8, out=np.zeros((1, 8, 9, 3), np.uint8))),
        (
            ValueError,
            "out must be contiguous",
            lambda: compose_batch([one(TILE)], 8, out=np.zeros((1, 8, 8, 6), np.uint8)[..., ::2]),
        ),
        (TypeError, "out must be uint8", lambda: compose_batch([one(TILE)], 8, out=np.zeros((1, 8, 8, 3), np.float32))),
        (ValueError, "share memory", lambda: compose_batch([one(TILE)], 9, out=TILE.image[None])),
    ],
)
def test_wrong_use(error, message, call):
    with pytest.raises(error, match=message):
        call()
