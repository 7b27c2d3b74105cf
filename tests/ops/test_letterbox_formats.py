# SPDX-License-Identifier: Apache-2.0
"""Letterbox: formats of pictures, OpenCV's area filter, padded channels: cases, equality with OpenCV, wrong use."""

from __future__ import annotations

import mmap

import cv2
import numpy as np
import pytest
import torch
from letterbox_pictures import IMAGENET, case, picture, picture_of
from PIL import Image

from fastdet import _core, ops
from fastdet.ops import letterbox
from fastdet.ops.letterbox import CHANNELS, CHROMA, FORMATS, TWO_ROWS
from fastdet.testing.ops import VARIANTS, check, check_torch

TO_RGB = {
    "grey": cv2.COLOR_GRAY2RGB,
    "bgr": cv2.COLOR_BGR2RGB,
    "rgba": cv2.COLOR_RGBA2RGB,
    "bgra": cv2.COLOR_BGRA2RGB,
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
    "i420": cv2.COLOR_YUV2RGB_I420,
    "yv12": cv2.COLOR_YUV2RGB_YV12,
    "yuyv": cv2.COLOR_YUV2RGB_YUYV,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
}
FILTERS = {"cv2": cv2.INTER_LINEAR, "cv2_area": cv2.INTER_AREA}
EVERY = {"format": list(FORMATS), "size": (24, 40)}
EVEN = [(2 * (5 + i), 2 * (30 - 2 * i)) for i in range(len(FORMATS))]

CASES = [
    case("area-down", (90, 130, 3), mode="cv2_area"),
    case("area-whole", (60, 90, 3), mode="cv2_area", size=(20, 30), dtype="uint8"),
    case("area-half", (60, 90, 3), mode="cv2_area", size=(30, 45), keep_ratio=False),
    case("area-quarter", (80, 160, 3), mode="cv2_area", size=(20, 40)),
    case("area-seventh-fifth", (35, 105, 3), mode="cv2_area", size=(7, 15), keep_ratio=False, dtype="uint8"),
    case("area-up", (9, 13, 3), mode="cv2_area"),
    case("area-up-and-down", (90, 13, 3), mode="cv2_area", size=(31, 52), keep_ratio=False),
    case("area-one-side", (40, 64, 3), mode="cv2_area", size=(40, 27), keep_ratio=False),
    case("area-same", (64, 64, 3), mode="cv2_area"),
    case("area-to-one", (90, 130, 3), mode="cv2_area", size=1),
    case("area-one-pixel", (1, 1, 3), (1, 200, 3), (200, 1, 3), mode="cv2_area"),
    case("area-wide", (9, 1100, 3), mode="cv2_area", size=(5, 300), keep_ratio=False),
    case("area-mixed", (90, 130), (20, 10, 4), (64, 64, 1), (128, 256, 3), mode="cv2_area", mean=IMAGENET[0]),
    case("every-format", *EVEN, **EVERY),
    case("every-format-area", *EVEN, **EVERY, mode="cv2_area", dtype="uint8"),
    case("every-format-pillow", *EVEN, **EVERY, mode="pillow"),
    case("every-format-bgr", *EVEN, **EVERY, swap_rb=True, matrix="bt709", mean=IMAGENET[0], std=IMAGENET[1]),
    case("every-format-same-size", *[(24, 40)] * len(FORMATS), **EVERY, swap_rb=True, dtype="uint8", layout="nhwc"),
    case("vertical-first-nv12", (130, 40), format="nv12", mode="pillow", keep_ratio=False, size=(31, 52)),
    case("smallest-yuv", (2, 2), (2, 2), (1, 2), format=("nv12", "i420", "yuyv"), mode="cv2_area"),
    case("i420-odd-chroma", (10, 6), (6, 10), format=("i420", "yv12"), size=(17, 19), keep_ratio=False),
    case("four-channels", (90, 130, 3), (5, 9), layout="nhwc", channels=4, size=(61, 67)),
    case("four-channels-uint8", (30, 20, 3), layout="nhwc", channels=4, dtype="uint8"),
    case("five-channels", (30, 20, 3), layout="nhwc", channels=5, mean=IMAGENET[0], std=IMAGENET[1]),
    case("eight-channels", (30, 20, 3), layout="nhwc", channels=8, dtype="float16", size=(33, 31)),
    case("sixty-four-channels", (6, 5, 3), layout="nhwc", channels=64, dtype="float16", size=9),
    case(
        "many-formats",
        *[(2 + 2 * (i % 5), 4 + 2 * (i % 3)) for i in range(132)],
        format=FORMATS * 12,
        mode="cv2_area",
        size=6,
    ),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, variant):
    check(case, variant)


@pytest.mark.parametrize("case", [CASES[12], CASES[16], CASES[24]], ids=str)
def test_torch_library(case):
    check_torch(case)


def test_bfloat16_channels():
    image = torch.from_numpy(picture(30, 20, 3))
    batch, _ = letterbox(image, 24, dtype=torch.bfloat16, layout="nhwc", channels=8)
    assert batch.dtype == torch.bfloat16 and batch.shape == (1, 24, 24, 8) and not batch[..., 3:].any()
    assert torch.equal(batch[..., :3], letterbox(image, 24, dtype=torch.bfloat16, layout="nhwc")[0])


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def isa(request):
    """Each instruction set that this machine has, by forbidding the better ones."""
    _core.letterbox_limit_isa(request.param)
    yield request.param
    _core.letterbox_limit_isa("avx512")


def stretched(image, size, **options):
    return letterbox(image, size, keep_ratio=False, dtype="uint8", layout="nhwc", **options)[0][0]


def as_rgb(image, name):
    return cv2.cvtColor(image, TO_RGB[name]) if name in TO_RGB else image


@pytest.mark.parametrize("mode", FILTERS)
@pytest.mark.parametrize("name", FORMATS)
def test_equals_opencv(name, mode, isa):
    """Conversion and resize at once are OpenCV's two steps."""
    rng = np.random.default_rng([FORMATS.index(name), len(mode)])
    for i in range(30):
        height, width = (int(n) for n in 2 * rng.integers(1, 70, 2))
        new_height, new_width = (int(n) for n in rng.integers(1, 100, 2))
        if i % 3 == 0:  # whole ratios, and the size itself
            new_height, new_width = max(1, height // (1 + i // 3 % 5)), max(1, width // (1 + i // 6 % 4))
        image = picture_of(name, height, width, seed=i)
        resized = cv2.resize(as_rgb(image, name), (new_width, new_height), interpolation=FILTERS[mode])
        shape = (height, width, new_height, new_width)
        got = stretched(image, (new_height, new_width), mode=mode, format=name)
        np.testing.assert_array_equal(got, resized.reshape(got.shape), err_msg=f"{shape}")


SHAPES = [tuple(map(int, shape)) for shape in np.random.default_rng(11).integers(1, 160, (240, 4))]
SHAPES[::3] = [(h * (1 + i % 6), w * (1 + i % 4), h, w) for i, (_, _, h, w) in enumerate(SHAPES[::3])]
SHAPES[1::3] = [(h + new_h, w + new_w, new_h, new_w) for h, w, new_h, new_w in SHAPES[1::3]]  # both sides shrink


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_area_equals_opencv(channels):
    for i, (height, width, new_height, new_width) in enumerate(SHAPES):
        image = picture(height, width, channels, seed=i)
        want = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
        want = np.broadcast_to(want.reshape(new_height, new_width, channels)[..., :3], (new_height, new_width, 3))
        got = stretched(image, (new_height, new_width), mode="cv2_area")
        np.testing.assert_array_equal(got, want, err_msg=f"{SHAPES[i]}")


@pytest.mark.parametrize("rows", [256, 257, 258, 300])
def test_area_of_white_cells(rows):
    """Sums of bytes on both sides of 16 bits, at their greatest."""
    image = np.full((2 * rows, 9, 3), 255, np.uint8)
    image[0, 0] = 1
    want = cv2.resize(image, (3, 2), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(stretched(image, (2, 3), mode="cv2_area"), want)


def test_nv12_equals_pillow():
    image = picture_of("nv12", 90, 64)
    want = Image.fromarray(as_rgb(image, "nv12")).resize((50, 33), Image.Resampling.BILINEAR)
    mode = "pillow" if int(Image.__version__.split(".")[0]) >= 13 else "pillow12"
    np.testing.assert_array_equal(stretched(image, (33, 50), mode=mode, format="nv12"), np.asarray(want))


def test_every_colour_is_opencvs():
    """All pairs of chroma with luma below, at and above the limits: NV12 of 512 x 512, as it is."""
    u, v = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    rows = np.zeros((768, 512), np.uint8)
    rows[512:, 0::2], rows[512:, 1::2] = u, v
    for luma in ((0, 15, 16, 17), (80, 125, 128, 200), (234, 235, 236, 255)):
        rows[:512:2, 0::2], rows[:512:2, 1::2], rows[1:512:2, 0::2], rows[1:512:2, 1::2] = luma
        np.testing.assert_array_equal(stretched(rows, 512, format="nv12"), as_rgb(rows, "nv12"))


def test_bt709_is_its_formula():
    """Within the rounding of 8 bits of the real numbers, on every colour of a coarse grid."""
    y, u, v = (a.ravel() for a in np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij"))
    image = np.zeros((len(y), 2, 2), np.uint8)
    image[:, :, 0], image[:, 0, 1], image[:, 1, 1] = y[:, None], u, v
    got = stretched(image, image.shape[:2], format="yuyv", matrix="bt709")[:, 0].astype(int)
    red, blue = 0.2126, 0.0722
    green = 1 - red - blue
    bright, pb, pr = np.maximum(y - 16.0, 0) / 219, (u - 128.0) / 112 * (1 - blue), (v - 128.0) / 112 * (1 - red)
    exact = np.stack([bright + pr, bright - (red * pr + blue * pb) / green, bright + pb], 1) * 255
    assert np.abs(got - exact.clip(0, 255)).max() <= 0.501
    black, white = stretched(np.array([[[16, 128], [235, 128]]], np.uint8), (1, 2), format="yuyv", matrix="bt709")[0]
    assert black.tolist() == [0, 0, 0] and white.tolist() == [255, 255, 255]


# ---- arrays ----


def views(name):
    """Zero-copy views of larger or turned arrays: the element order is what counts, not where it lies."""
    image = picture_of(name, 12, 20)
    shape = image.shape
    wide = np.zeros((shape[0] + 3, shape[1] + 7, *shape[2:]), np.uint8)
    apart = np.zeros((2 * shape[0], 3 * shape[1], *shape[2:]), np.uint8)
    deep = np.zeros((*shape, 5), np.uint8)
    order = (1, 0, *range(2, image.ndim))
    last = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    result = {"pitch": wide[2:-1, 3:-4], "apart": apart[::2, ::3], "deep": deep[..., 2]}
    for view in result.values():
        view[...] = image
    return image, {
        **result,
        "turned": np.ascontiguousarray(image.transpose(order)).transpose(order),
        "mirrored": np.ascontiguousarray(image[:, ::-1])[:, ::-1],
        "upside down": np.ascontiguousarray(image[::-1])[::-1],
        "planes": np.moveaxis(last, 0, -1),
        "channels reversed": np.ascontiguousarray(image[..., ::-1])[..., ::-1],
        "with an axis": image.reshape(*shape, -1) if image.ndim == 2 else image,
    }


@pytest.mark.parametrize("mode", ["cv2", "cv2_area", "pillow"])
@pytest.mark.parametrize("name", FORMATS)
def test_views_equal_copies(name, mode):
    image, given = views(name)
    for size in ((7, 9), (4, 10), (12, 20), (30, 41)):
        want = stretched(image, size, mode=mode, format=name)
        for kind, view in given.items():
            np.testing.assert_array_equal(stretched(view, size, mode=mode, format=name), want, err_msg=kind)


@pytest.mark.parametrize("name", FORMATS)
def test_reads_nothing_beyond_the_picture(name, isa):
    """A picture at the very end of a mapping: a read past its last byte would end the process."""
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    _forbid(pages, mmap.PAGESIZE)
    whole = np.frombuffer(pages, np.uint8, mmap.PAGESIZE)
    for width in (2, 6, 14, 34, 66):
        image = picture_of(name, 4, width)
        at_end = whole[mmap.PAGESIZE - image.size :].reshape(image.shape)
        at_end[...] = image
        for mode in ("cv2", "cv2_area", "pillow"):
            for columns in (1, width // 2, width, 90):
                got = stretched(at_end, (2, columns), mode=mode, format=name)
                np.testing.assert_array_equal(got, stretched(image, (2, columns), mode=mode, format=name))


def _forbid(pages, offset):
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address + offset), ctypes.c_size_t(offset), 0) != 0:
        pytest.skip("mprotect is not allowed here")


def test_formats_give_rgb_and_swap_gives_bgr():
    rgb = picture(8, 8, 3)
    given = [rgb, rgb[..., ::-1], np.dstack([rgb, rgb[..., :1]]), np.dstack([rgb[..., ::-1], rgb[..., :1]])]
    want = rgb.transpose(2, 0, 1)
    for swap_rb in (False, True):
        batch, _ = letterbox(given, 8, format=["rgb", "bgr", "rgba", "bgra"], dtype="uint8", swap_rb=swap_rb)
        for result in batch:
            np.testing.assert_array_equal(result, want[::-1] if swap_rb else want)
    one, _ = letterbox(given[:2], 8, format=[None, "bgr"], dtype="uint8")
    np.testing.assert_array_equal(one[0], one[1])


def test_geometry_is_of_the_picture_not_of_its_array():
    _, geometry = letterbox([picture_of("nv12", 48, 64), picture_of("yuyv", 48, 64)], 32, format=["nv12", "yuyv"])
    assert geometry.image_sizes == ((48, 64), (48, 64)) and geometry.resized_sizes == ((24, 32), (24, 32))


def test_threads_do_not_show():
    images = [picture_of("nv12", 400, 300), picture_of("yuyv", 90, 700), picture_of("grey", 3, 3)]
    formats, before = ["nv12", "yuyv", "grey"], _core.num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            results.append([letterbox(images, 320, format=formats, mode=mode)[0] for mode in (*FILTERS, "pillow")])
    finally:
        _core.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


def test_empty_batch_has_the_channels():
    assert letterbox([], (32, 48), layout="nhwc", channels=4, format="nv12")[0].shape == (0, 32, 48, 4)
    assert letterbox([], 8, format=[])[0].shape == (0, 3, 8, 8)


# ---- wrong use ----

NV12 = picture_of("nv12", 8, 12)
YUYV = picture_of("yuyv", 8, 12)
WRONG = {
    "format unknown": (ValueError, "format must be one of", {"format": "yuv444"}),
    "format not a name": (ValueError, "format must be one of", {"format": [3]}),
    "formats too few": (ValueError, "format must be one name or one for each of 1", {"format": []}),
    "matrix unknown": (ValueError, "matrix must be one of", {"format": "nv12", "matrix": "bt2020"}),
    "nv12 of 11 columns": (ValueError, "H and W even for format nv12", {"images": NV12[:, :11]}),
    "nv12 of 11 rows": (ValueError, "H and W even for format nv12", {"images": NV12[:11]}),
    "nv12 of three channels": (ValueError, "format nv12", {"images": picture(12, 8, 3)}),
    "yuyv of 11 columns": (ValueError, "W even for format yuyv", {"images": YUYV[:, :11], "format": "yuyv"}),
    "yuyv flat": (ValueError, r"\(H, W, 2\)", {"images": NV12, "format": "yuyv"}),
    "two channels without format": (ValueError, "did you mean format='yuyv'", {"images": YUYV, "format": None}),
    "rgba of three channels": (
        ValueError,
        "4 channels for format rgba",
        {"images": picture(8, 9, 3), "format": "rgba"},
    ),
    "grey of three channels": (
        ValueError,
        "1 channels for format grey",
        {"images": picture(8, 9, 3), "format": "grey"},
    ),
    "bgr channels first": (ValueError, "did you mean images of", {"images": picture(3, 8, 9), "format": "bgr"}),
    "no pixel": (ValueError, "at least one pixel", {"images": NV12[:0]}),
    "channels with nchw": (ValueError, "channels must be 3 with layout", {"channels": 4}),
    "channels of two": (ValueError, "channels must be 3 to 64", {"channels": 2, "layout": "nhwc"}),
    "channels of 65": (ValueError, "channels must be 3 to 64", {"channels": 65, "layout": "nhwc"}),
    "channels a fraction": (TypeError, "channels", {"channels": 3.5, "layout": "nhwc"}),
    "out of three channels": (
        ValueError,
        "out",
        {"channels": 4, "layout": "nhwc", "out": np.zeros((1, 32, 32, 3), np.float32)},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use(name):
    error, words, given = WRONG[name]
    with pytest.raises(error, match=words):
        letterbox(**{"images": NV12, "size": 32, "format": "nv12", **given})


def test_the_extension_checks_formats_too():
    from fastdet.ops.letterbox import LETTERBOX

    def call(image, name, matrix="bt601", channels=3):
        rest = ([0, 0, 0], False, True, [], [], "float32", True, channels)
        with ops.backend("cpu"):
            return LETTERBOX([image], [name], [1, 1, 0, 0], 4, 4, "cv2", matrix, *rest)

    assert call(NV12, "nv12").shape == (1, 4, 4, 3)
    for image, name in ((NV12[:, :11], "nv12"), (NV12[:9], "nv12"), (NV12[:11], "nv12"), (YUYV[:, :3], "yuyv")):
        if image.shape == (9, 12):  # H is 6
            assert call(image, name).shape == (1, 4, 4, 3)
            continue
        with pytest.raises(ValueError, match=r"images\[0\]"):
            call(image, name)
    for name, words in (("rgb", "channels of rgb"), ("yuyv", r"\(H, W, 2\)"), ("abc", "known name, got abc")):
        with pytest.raises(ValueError, match=words):
            call(NV12, name)
    with pytest.raises(ValueError, match="matrix"):
        call(NV12, "nv12", matrix="bt2020")
    with pytest.raises(ValueError, match="channels"):
        call(NV12, "nv12", channels=65)


def test_lists_of_formats_are_whole():
    assert set(FORMATS) == set(CHANNELS) | set(CHROMA) and set(TWO_ROWS) < set(CHROMA)
