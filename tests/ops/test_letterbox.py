# SPDX-License-Identifier: Apache-2.0
"""Letterbox: the case table, equality with OpenCV and Pillow, geometry, and wrong use."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from letterbox_pictures import IMAGENET, arguments, case, picture
from PIL import Image

from fastdet import _core, ops
from fastdet.ops import Letterbox, letterbox
from fastdet.ops.letterbox import LETTERBOX, LETTERBOX_OUT, _place
from fastdet.testing import run_vector, shared_dir
from fastdet.testing.ops import VARIANTS, check, check_torch, cuda_kind

CASES = [
    case("down", (90, 130, 3)),
    case("up", (9, 13, 3)),
    case("same-size", (64, 64, 3)),
    case("third", (192, 96, 3)),
    case("half", (128, 128, 3)),
    case("one-pixel", (1, 1, 3)),
    case("one-row", (1, 200, 3)),
    case("one-column", (200, 1, 3)),
    case("two-columns", (30, 2, 3)),
    case("grey-2d", (50, 70)),
    case("grey-3d", (50, 70, 1), mean=IMAGENET[0], std=IMAGENET[1]),
    case("rgba", (70, 50, 4), swap_rb=True),
    case("odd-output", (90, 130, 3), size=(61, 67)),
    case("narrow-output", (90, 130, 3), size=(200, 3)),
    case("stretch", (37, 90, 3), keep_ratio=False, size=(50, 44)),
    case("top-left", (37, 90, 3), center=False, fill=(1, 2, 3)),
    case("no-scale-up", (20, 30, 3), scale_up=False),
    case("smallest-rectangle", (50, 90, 3), (50, 90, 3), stride=32, size=(96, 96)),
    case("mixed", (90, 130, 3), (20, 10, 3), (33, 64), (64, 33, 4), (5, 5, 1)),
    case("normalised", (90, 130, 3), (30, 20, 3), mean=IMAGENET[0], std=IMAGENET[1], swap_rb=True),
    case("mean-only", (40, 30, 3), mean=(0.1, 0.2, 0.3), dtype="float16"),
    case("pixels-as-floats", (40, 30, 3), scale=False, dtype="float16"),
    case("caffe", (40, 30, 3), scale=False, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)),
    case("uint8", (90, 130, 3), dtype="uint8", fill=(0, 128, 255)),
    case("uint8-nhwc", (90, 130, 3), (3, 2), dtype="uint8", layout="nhwc"),
    case("float32-nhwc", (90, 130, 3), layout="nhwc", mean=IMAGENET[0], std=IMAGENET[1], size=(61, 67)),
    case("float16", (90, 130, 3), dtype="float16", mean=IMAGENET[0], std=IMAGENET[1]),
    case("float16-nhwc", (90, 130, 3), dtype="float16", layout="nhwc"),
    case("pillow-down", (130, 90, 3), mode="pillow"),
    case("pillow-up", (9, 13, 3), mode="pillow", layout="nhwc"),
    case("pillow-vertical-first", (130, 40, 3), mode="pillow", keep_ratio=False, size=(31, 52)),
    case("pillow-horizontal-first", (130, 40, 3), mode="pillow12", keep_ratio=False, size=(31, 52)),
    case("pillow-mixed", (130, 40), (3, 90, 4), (64, 64, 3), (1, 1, 3), mode="pillow", swap_rb=True, dtype="float16"),
    case("wide", (20, 1100, 3), size=(24, 1040)),
    case("wide-float16", (3, 1300, 3), size=(4, 1301), dtype="float16", keep_ratio=False),
    case("many", *[(3 + i % 5, 4 + i % 3, 3) for i in range(130)], size=(8, 8)),
]
BFLOAT16 = [
    case("bfloat16", (90, 130, 3), (30, 20), dtype="bfloat16", mean=IMAGENET[0], std=IMAGENET[1], size=(61, 67)),
    case("bfloat16-nhwc", (90, 130, 3), dtype="bfloat16", layout="nhwc", scale=False),
    case("wide-bfloat16", (3, 1300, 3), size=(4, 1301), dtype="bfloat16", keep_ratio=False),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("numpy")])
@pytest.mark.parametrize("case", BFLOAT16, ids=str)
def test_bfloat16(case, variant):
    check(case, variant)


@pytest.mark.parametrize("case", [CASES[0], CASES[18], BFLOAT16[0]], ids=str)
def test_torch_library(case):
    check_torch(case)


def test_torch_library_out():
    args = arguments((30, 20, 3), size=(24, 24))
    tensors = [torch.from_numpy(p) for p in args[0]]
    torch.library.opcheck(torch.ops.fastdet.letterbox_out.default, (torch.zeros(1, 3, 24, 24), tensors, *args[1:]))


def test_torch_library_compiles_as_a_whole():
    image = torch.from_numpy(picture(30, 20, 3))
    call = torch.compile(lambda x: letterbox([x], 32, stride=8)[0] * 2, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(call(image), letterbox(image, 32, stride=8)[0] * 2, rtol=0, atol=0)


def test_torch_library_first_call_is_compiled():
    """In a process of its own: the first call registers the operators, and may itself be traced."""
    code = """
import torch
from fastdet.ops import letterbox
call = torch.compile(lambda x: letterbox([x], 8)[0], fullgraph=True, backend="aot_eager")
assert call(torch.zeros(4, 4, 3, dtype=torch.uint8)).shape == (1, 3, 8, 8)
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


# ---- the libraries it stands for ----

SHAPES = [tuple(map(int, shape)) for shape in np.random.default_rng(7).integers(1, 160, (200, 4))]
SHAPES[:20] = [
    tuple(1 if (i >> axis) & 1 else size for axis, size in enumerate(shape)) for i, shape in enumerate(SHAPES[:20])
]


def stretched(image, new_height, new_width, mode):
    batch, _ = letterbox(image, (new_height, new_width), keep_ratio=False, mode=mode, dtype="uint8", layout="nhwc")
    return batch[0]


@pytest.mark.parametrize("part", range(4))
def test_equals_opencv(part):
    for i, (height, width, new_height, new_width) in list(enumerate(SHAPES))[part::4]:
        image = picture(height, width, (3, 1, 4)[i % 3], seed=i)
        want = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR).reshape(
            new_height, new_width, -1
        )
        want = np.broadcast_to(want[..., :3], (new_height, new_width, 3))
        np.testing.assert_array_equal(stretched(image, new_height, new_width, "cv2"), want, err_msg=f"{SHAPES[i]}")


@pytest.mark.parametrize("part", range(4))
def test_equals_pillow(part):
    mode = "pillow" if int(PIL.__version__.split(".")[0]) >= 13 else "pillow12"
    for i, (height, width, new_height, new_width) in list(enumerate(SHAPES))[part::4]:
        image = picture(height, width, 3, seed=i)
        want = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(stretched(image, new_height, new_width, mode), want, err_msg=f"{SHAPES[i]}")


def test_equals_the_usual_chain():
    image = picture(108, 192, 3)
    resized = cv2.resize(image, (64, 36))
    padded = cv2.copyMakeBorder(resized, 14, 14, 0, 0, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    unit = padded[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255
    mean, std = (np.array(a, np.float32)[:, None, None] for a in IMAGENET)
    batch, _ = letterbox(image, 64, swap_rb=True)
    np.testing.assert_array_equal(batch[0], unit)
    batch, _ = letterbox(image, 64, swap_rb=True, mean=IMAGENET[0], std=IMAGENET[1])
    np.testing.assert_array_equal(batch[0], (unit - mean) / std)


def test_every_value_of_every_dtype_is_numpys():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for mean, std in ((None, None), IMAGENET, ((1e-3, 300.0, -7.0), (-3.0, 1e-4, 7e4))):
        want = ramp.astype(np.float32).repeat(3, 2) / np.float32(255)
        if mean is not None:
            want = (want - np.float32(mean)) / np.float32(std)
        for dtype in (np.float32, np.float16):
            with np.errstate(over="ignore"):
                expected = want.astype(dtype)
            batch, _ = letterbox(ramp, 16, dtype=dtype, layout="nhwc", mean=mean, std=std)
            np.testing.assert_array_equal(batch[0], expected)
        batch, _ = letterbox(torch.from_numpy(ramp), 16, dtype=torch.bfloat16, layout="nhwc", mean=mean, std=std)
        assert torch.equal(batch[0], torch.from_numpy(want).bfloat16())


def test_parity_vectors():
    shared = shared_dir()
    if shared is None:
        pytest.skip("no shared parity data")
    with np.load(shared / "parity" / "assign" / "letterbox.npz") as file:
        arrays = dict(file)
    inputs = {
        key: value
        for key, value in arrays.items()
        if key.split("/")[-1] in ("columns", "picture_seed", "index", "input_index")
    }
    known = np.arange(arrays["rows"].shape[1]) < 7
    outputs = run_vector(
        "letterbox",
        inputs | {"rows": np.where(known, arrays["rows"], -1), "load_resize": arrays["load_resize"][:, :3]},
    )
    for key in arrays.keys() - inputs.keys():
        np.testing.assert_allclose(outputs[key], arrays[key], rtol=1e-12, atol=0, err_msg=key)


# ---- arrays ----


def views():
    base = picture(41, 53, 4)
    planar = np.ascontiguousarray(base[..., :3].transpose(2, 0, 1))
    wide = np.zeros((41, 120, 3), np.uint8)
    wide[:, 2:106:2] = base[:, :52, :3]
    return {
        "pitch": base[3:30, 5:40],
        "mirrored": base[:, ::-1],
        "upside down": base[::-1],
        "channels reversed": base[..., 2::-1],
        "all reversed": base[::-1, ::-1, 2::-1],
        "every second": base[::2, ::3],
        "planar": planar.transpose(1, 2, 0),
        "turned": base.transpose(1, 0, 2),
        "gaps": wide[:, 2:106:2],
        "repeated": np.broadcast_to(base[:, :1], base.shape),
        "repeated rows": np.broadcast_to(base[:1], base.shape),
        "grey channel": base[..., 1],
        "grey repeated": np.broadcast_to(base[..., :1], (41, 53, 3)),
    }


@pytest.mark.parametrize("mode", ["cv2", "pillow"])
@pytest.mark.parametrize("name", views())
def test_views_equal_copies(name, mode):
    view = views()[name]
    for swap_rb in (False, True):
        for size in ((32, 45), view.shape[:2]):
            got, _ = letterbox(view, size, mode=mode, swap_rb=swap_rb)
            want, _ = letterbox(np.ascontiguousarray(view), size, mode=mode, swap_rb=swap_rb)
            np.testing.assert_array_equal(got, want)


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def isa(request):
    """Each instruction set that this machine has, by forbidding the better ones."""
    _core.letterbox_limit_isa(request.param)
    yield request.param
    _core.letterbox_limit_isa("avx512")


def test_instruction_sets(isa):
    """Reductions by 1/9 to 40 through every loop; layouts by views(), sums by noise."""
    images = [picture(5, 640, 3), picture(7, 90, 4), picture(3, 333), picture(6, 71, 3)[:, ::-1]]
    images += [view for name, view in views().items() if name != "grey channel"]
    for new_width in (16, 33, 70, 127, 640):
        places = [n for _ in images for n in (9, new_width, 0, 0)]
        args = [images, [""] * len(images), places, 9, new_width, "cv2", "bt601", [0] * 3, False]
        for dtype in ("uint8", "float16"):
            rest = (True, [], [], dtype, False, 3)
            with ops.backend("cpu"):
                got = LETTERBOX(*args, *rest)
            np.testing.assert_array_equal(got, LETTERBOX.reference(*args, *rest), err_msg=f"{isa}, {new_width}")


@pytest.mark.parametrize("width", [1, 2, 3, 5, 16, 17, 40])
def test_reads_nothing_beyond_the_picture(width, isa):
    """A picture at the very end of a mapping: a read past its last byte would end the process."""
    import mmap

    size = 5 * width * 3
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    _forbid(pages, mmap.PAGESIZE)
    whole = np.frombuffer(pages, np.uint8, mmap.PAGESIZE)
    image = whole[mmap.PAGESIZE - size :].reshape(5, width, 3)
    image[:] = picture(5, width, 3)
    for view in (image, image[::-1], image[:, ::-1], image[..., ::-1], image[..., 2]):
        for mode, columns in (("cv2", 90), ("cv2", 3), ("pillow", 90)):
            got, _ = letterbox(view, (20, columns), mode=mode, keep_ratio=False)
            want, _ = letterbox(view.copy(), (20, columns), mode=mode, keep_ratio=False)
            np.testing.assert_array_equal(got, want)


def _forbid(pages, offset):
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address + offset), ctypes.c_size_t(offset), 0) != 0:
        pytest.skip("mprotect is not allowed here")


@pytest.mark.parametrize("offset", range(16))
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_misaligned_out(offset, dtype):
    image = picture(30, 40, 3)
    item = np.dtype(dtype).itemsize
    buffer = np.zeros(3 * 32 * 36 * item + 64, np.uint8)
    start = -buffer.ctypes.data % 16 + offset * item
    out = buffer[start : start + 3 * 32 * 36 * item].view(dtype).reshape(1, 3, 32, 36)
    returned, _ = letterbox(image, (32, 36), dtype=dtype, out=out)
    assert returned is out
    np.testing.assert_array_equal(out, letterbox(image, (32, 36), dtype=dtype)[0])
    if cuda_kind() == "emulated":
        out[:] = 0
        with ops.backend("cuda"):
            letterbox(image, (32, 36), dtype=dtype, out=out)
        np.testing.assert_array_equal(out, letterbox(image, (32, 36), dtype=dtype)[0])


@pytest.mark.parametrize("backend", ["reference", "cpu", "auto"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_out_of_every_dtype(dtype, backend):
    images = [torch.from_numpy(picture(30, 40, 3)), torch.from_numpy(picture(9, 4, 1))]
    out = torch.zeros(2, 3, 32, 32, dtype=dtype)
    with ops.backend(backend):
        returned, _ = letterbox(images, 32, dtype=dtype, out=out)
    assert returned is out and torch.equal(out, letterbox(images, 32, dtype=dtype)[0])


def test_results_are_of_the_kind_given():
    image = picture(9, 9, 3)
    assert isinstance(letterbox(image, 8)[0], np.ndarray)
    assert isinstance(letterbox([torch.from_numpy(image)], 8)[0], torch.Tensor)
    for dtype in (torch.float16, "float16", np.float16, np.dtype("float16")):
        assert letterbox(image, 8, dtype=dtype)[0].dtype == np.float16
    frozen = image.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(letterbox(frozen, 8)[0], letterbox(image, 8)[0])


def test_no_picture_gives_an_empty_batch():
    batch, geometry = letterbox([], (32, 48), dtype="float16")
    assert batch.shape == (0, 3, 32, 48) and batch.dtype == np.float16 and len(geometry) == 0
    assert letterbox([], (32, 48), layout="nhwc")[0].shape == (0, 32, 48, 3)
    out = torch.empty(0, 3, 8, 8)
    assert letterbox([], 8, out=out)[0] is out


def test_threads_do_not_show():
    images, before = [picture(400, 300, 3), picture(90, 700, 3), picture(3, 3, 3)], _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            results.append([letterbox(images, 320, mode=mode)[0] for mode in ("cv2", "pillow")])
    finally:
        _core.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


# ---- geometry ----


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=3),
    target=st.tuples(st.integers(1, 1300), st.integers(1, 1300)),
    scale_up=st.booleans(),
    center=st.booleans(),
    stride=st.none() | st.integers(1, 64),
    seed=st.integers(0, 99),
)
def test_round_trip(sizes, target, scale_up, center, stride, seed):
    sizes = sizes[:1] if stride else sizes
    input_size, placements = _place(sizes, target, scale_up, center, stride, True)
    geometry = Letterbox(input_size, tuple(sizes), tuple(p[:2] for p in placements), tuple(p[2:] for p in placements))
    rng = np.random.default_rng(seed)
    for i, ((height, width), (new_h, new_w), (top, left)) in enumerate(
        zip(geometry.image_sizes, geometry.resized_sizes, geometry.offsets)
    ):
        assert top >= 0 and top + new_h <= input_size[0] and left >= 0 and left + new_w <= input_size[1]
        assert not stride or (input_size[0] - new_h < stride and input_size[1] - new_w < stride)
        boxes = (np.sort(rng.random((20, 2, 2)), 1) * (width, height)).reshape(20, 4).astype(np.float32)
        inside = geometry.to_input(boxes, i)
        low, high = np.array([left, top, left, top]) - 1e-2, np.array([left + new_w, top + new_h] * 2) + 1e-2
        assert ((inside >= low) & (inside <= high)).all()
        assert np.abs(geometry.to_image(inside, i) - boxes).max() < 0.5
        corners = geometry.to_image(np.array([left, top, left + new_w, top + new_h], np.float32), i)
        np.testing.assert_allclose(corners, [0, 0, width, height], atol=1e-2)


def test_boxes_of_every_form():
    _, geometry = letterbox([picture(100, 200, 3), picture(50, 20, 3)], 64)
    boxes = np.random.default_rng(0).uniform(-20, 90, (2, 7, 4)).astype(np.float32)
    batched = geometry.to_image(boxes)
    for i in range(2):
        np.testing.assert_array_equal(geometry.to_image(boxes[i], i), batched[i])
        np.testing.assert_array_equal(geometry.to_image(boxes[i, 0], i), batched[i, 0])
    index = np.repeat([0, 1], 7)
    np.testing.assert_array_equal(geometry.to_image(boxes.reshape(14, 4), index), batched.reshape(14, 4))
    tensor = torch.from_numpy(boxes)
    np.testing.assert_array_equal(geometry.to_image(tensor).numpy(), batched)
    np.testing.assert_array_equal(
        geometry.to_image(tensor.reshape(14, 4), torch.from_numpy(index)).numpy(), batched.reshape(14, 4)
    )
    assert geometry.to_image(tensor.double()).dtype == torch.float64
    assert geometry.to_image(tensor.half()).dtype == torch.float32
    assert geometry.to_image(boxes.astype(np.float64)).dtype == np.float64
    np.testing.assert_array_equal(
        geometry.to_input(boxes.astype(int)), geometry.to_input(boxes.astype(int).astype(np.float32))
    )
    assert geometry.to_image(np.zeros((0, 4)), 1).shape == (0, 4) and geometry.to_image(torch.zeros(2, 0, 4)).shape == (
        2,
        0,
        4,
    )


def test_clipping():
    _, geometry = letterbox(picture(100, 200, 3), 64)
    boxes = np.array([[-5, -5, 500, 500], [10, 20, 30, 40]], np.float32)
    np.testing.assert_array_equal(geometry.to_image(boxes)[0], [0, 0, 200, 100])
    assert geometry.to_image(boxes, clip=False)[0, 2] == 500 / 0.32
    np.testing.assert_array_equal(geometry.to_image(torch.from_numpy(boxes))[0], [0, 0, 200, 100])
    np.testing.assert_allclose(geometry.to_image(boxes)[1], (boxes[1] - [0, 16, 0, 16]) / 0.32, rtol=1e-6)


def test_gains_are_those_of_the_rounded_size():
    _, geometry = letterbox(picture(375, 124, 3), (64, 64))
    assert geometry.resized_sizes == ((64, 21),)
    assert geometry.gains == ((64 / 375, 21 / 124),)
    assert geometry.offsets == ((0, 21),)


# ---- wrong use ----

ONE = np.zeros((4, 6, 3), np.uint8)
WRONG = {
    "images is a string": (TypeError, "images", {"images": "x.jpg"}),
    "images is None": (TypeError, "images", {"images": None}),
    "picture is a PIL image": (TypeError, "np.asarray", {"images": Image.new("RGB", (4, 4))}),
    "picture is a list": (TypeError, "images", {"images": [[[1, 2, 3]]]}),
    "float picture": (TypeError, "uint8", {"images": ONE.astype(np.float32)}),
    "int8 picture": (TypeError, "images", {"images": [ONE, ONE.astype(np.int8)]}),
    "bool picture": (TypeError, "uint8", {"images": ONE.astype(bool)}),
    "one dimension": (ValueError, r"images\[0\] must be \(H, W\)", {"images": ONE[0, 0]}),
    "a stack": (ValueError, r"list\(images\)", {"images": ONE[None]}),
    "channels first": (ValueError, r"permute\(1, 2, 0\)", {"images": np.zeros((3, 50, 60), np.uint8)}),
    "two channels": (ValueError, "1, 3 or 4 channels", {"images": ONE[..., :2]}),
    "no channel": (ValueError, "channels", {"images": ONE[..., :0]}),
    "no rows": (ValueError, "at least one pixel", {"images": [ONE, ONE[:0]]}),
    "no columns": (ValueError, r"images\[1\]", {"images": [ONE, ONE[:, :0]]}),
    "mixed kinds": ((TypeError, ValueError), "letterbox", {"images": [torch.from_numpy(ONE), ONE.astype(np.int64)]}),
    "size zero": (ValueError, "size must be positive", {"size": 0}),
    "size negative": (ValueError, "size", {"size": (32, -1)}),
    "size fraction": (TypeError, "size must be an integer", {"size": 32.5}),
    "size of three": (ValueError, "size must be one number", {"size": (3, 32, 32)}),
    "size text": (TypeError, "size", {"size": "640"}),
    "unknown mode": (ValueError, "mode must be one of cv2, cv2_area, pillow", {"mode": "nearest"}),
    "mode None": (ValueError, "mode", {"mode": None}),
    "unknown layout": (ValueError, "layout must be one of nchw, nhwc", {"layout": "chw"}),
    "unknown dtype": (TypeError, "dtype must be one of", {"dtype": "float64"}),
    "dtype is a number": (TypeError, "dtype", {"dtype": 32}),
    "bfloat16 of NumPy": (TypeError, "bfloat16", {"dtype": "bfloat16"}),
    "bfloat16 of nothing": (TypeError, "bfloat16", {"images": [], "dtype": "bfloat16"}),
    "fill too large": (ValueError, "fill", {"fill": 256}),
    "fill negative": (ValueError, "fill", {"fill": (0, 0, -1)}),
    "fill fraction": (ValueError, "fill must be whole", {"fill": 0.5}),
    "fill of two": (ValueError, "fill must be one or three", {"fill": (1, 2)}),
    "fill text": (TypeError, "fill", {"fill": "grey"}),
    "mean of two": (ValueError, "mean must be three", {"mean": (0.5, 0.5)}),
    "mean a number": (TypeError, "mean", {"mean": 0.5}),
    "mean not finite": (ValueError, "mean must be finite", {"mean": (0, 0, float("nan"))}),
    "std zero": (ValueError, "std must not be zero", {"std": (1, 0, 1)}),
    "std zero in float32": (ValueError, "std", {"std": (1, 1e-60, 1)}),
    "std infinite": (ValueError, "std must be finite", {"std": (1, float("inf"), 1)}),
    "std text": (TypeError, "std", {"std": ("a", "b", "c")}),
    "mean with uint8": (ValueError, "uint8", {"dtype": "uint8", "mean": (0, 0, 0)}),
    "std with uint8": (ValueError, "uint8", {"dtype": "uint8", "std": (1, 1, 1)}),
    "stride zero": (ValueError, "stride must be positive", {"stride": 0}),
    "stride fraction": (TypeError, "stride", {"stride": 1.5}),
    "stride without pictures": (ValueError, "must not be empty with stride", {"images": [], "stride": 32}),
    "different rectangles": (ValueError, "one input size", {"images": [ONE, ONE.transpose(1, 0, 2)], "stride": 4}),
    "stretch without scale_up": (ValueError, "scale_up", {"keep_ratio": False, "scale_up": False}),
    "out of another shape": (ValueError, "out", {"out": np.zeros((1, 3, 32, 31), np.float32)}),
    "out of another batch": (ValueError, "out", {"out": np.zeros((2, 3, 32, 32), np.float32)}),
    "out of another layout": (ValueError, "out", {"out": np.zeros((1, 32, 32, 3), np.float32)}),
    "out of another rank": (ValueError, "out", {"out": np.zeros((3, 32, 32), np.float32)}),
    "out of another dtype": (TypeError, "out", {"out": np.zeros((1, 3, 32, 32), np.float16)}),
    "out not contiguous": (ValueError, "contiguous", {"out": np.zeros((1, 3, 32, 64), np.float32)[..., ::2]}),
    "out is a list": (TypeError, "out", {"out": [0.0]}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use(name):
    error, words, given = WRONG[name]
    with pytest.raises(error, match=words):
        letterbox(**{"images": ONE, "size": 32, **given})


def test_read_only_out_is_refused():
    out = np.zeros((1, 3, 32, 32), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        letterbox(ONE, 32, out=out)


def test_overlap_is_refused():
    memory = np.zeros((1, 3, 32, 32), np.uint8)
    image = memory.reshape(-1)[:300].reshape(10, 10, 3)
    with pytest.raises(ValueError, match="share memory"):
        letterbox([ONE, image], 4, dtype="uint8", out=memory.reshape(-1)[299 : 299 + 96].reshape(2, 3, 4, 4))
    letterbox([ONE, image], 4, dtype="uint8", out=memory.reshape(-1)[300 : 300 + 96].reshape(2, 3, 4, 4))


def test_gradients_are_refused():
    out = torch.zeros(1, 3, 8, 8, requires_grad=True)
    with pytest.raises(ValueError, match="grad"):
        letterbox(torch.from_numpy(ONE), 8, out=out)


GEOMETRY = Letterbox((32, 32), ((4, 6), (8, 8)), ((21, 32), (32, 32)), ((5, 0), (0, 0)))
WRONG_BOXES = {
    "five columns": (ValueError, np.zeros((3, 5)), 0),
    "no axis": (ValueError, np.zeros(()), 0),
    "no index": (ValueError, np.zeros((3, 4)), None),
    "wrong batch": (ValueError, np.zeros((3, 7, 4)), None),
    "index too large": (ValueError, np.zeros((3, 4)), 2),
    "index negative": (ValueError, np.zeros((3, 4)), [0, -1, 0]),
    "index of another length": (ValueError, np.zeros((3, 4)), [0, 1]),
    "index of floats": (TypeError, np.zeros((3, 4)), [0.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("name", WRONG_BOXES)
@pytest.mark.parametrize("method", ["to_image", "to_input"])
def test_wrong_boxes(name, method):
    error, boxes, index = WRONG_BOXES[name]
    with pytest.raises(error, match=f"Letterbox.{method}"):
        getattr(GEOMETRY, method)(boxes, index)


def test_errors_come_before_any_work_on_every_backend():
    for backend in ("reference", "cpu", "auto"):
        with ops.backend(backend), pytest.raises(ValueError, match="at least one pixel"):
            letterbox([ONE, ONE[:0]], 8)
    rest = ([0, 0, 0], False, True, [], [], "float32", False, 3)
    with pytest.raises(ValueError, match="placement"):
        LETTERBOX([ONE], [""], [40, 40, 0, 0], 32, 32, "cv2", "bt601", *rest)
    with pytest.raises(ValueError, match="placements"):
        LETTERBOX([ONE], [""], [1, 1], 32, 32, "cv2", "bt601", *rest)
    with pytest.raises(ValueError, match="formats"):
        LETTERBOX([ONE], [], [1, 1, 0, 0], 32, 32, "cv2", "bt601", *rest)
    out = np.zeros((1, 3, 32, 32), np.float32)
    with ops.backend("reference"), pytest.raises(ValueError, match="out must be"):
        LETTERBOX_OUT(out[:, :2], [ONE], [""], [1, 1, 0, 0], 32, 32, "cv2", "bt601", *rest)
