# SPDX-License-Identifier: Apache-2.0
"""Reduced decoding, and the faster decoder: Pillow's pixels and Pillow's verdicts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from broken_pictures import bomb, pattern, write_broken
from fastdet import fast_jpeg
from fastdet.image_files import DecodeLimits, ImageError, read_image, read_reduced, read_size

JPEGS = {
    "4:2:0": {"quality": 85},
    "4:4:4": {"quality": 95, "subsampling": 0},
    "4:2:2": {"quality": 70, "subsampling": 1},
    "progressive": {"quality": 80, "progressive": True},
    "restarts": {"quality": 80, "restart_marker_blocks": 2},
}
SIZES = ((101, 333), (480, 640), (17, 9), (1, 1), (1, 50))
needs_simplejpeg = pytest.mark.skipif(not fast_jpeg.available(), reason="simplejpeg (extra fast-jpeg) is not installed")


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request, monkeypatch):
    """Both decoders in turn."""
    if request.param == "Pillow":
        monkeypatch.setattr(fast_jpeg, "_simplejpeg", lambda: None)
    elif not fast_jpeg.available():
        pytest.skip("simplejpeg (extra fast-jpeg) is not installed")
    return request.param


def noisy(height, width):
    image = pattern(height, width).astype(int) + np.random.default_rng(height).integers(-20, 20, (height, width, 3))
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@needs_simplejpeg
@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_simplejpeg_gives_the_pixels_of_pillow(kind, size):
    for image in (noisy(*size), noisy(*size).convert("L")):
        data = encoded(image, **JPEGS[kind])
        for scale in (1, 2, 4, 8):
            if min(size) // scale < 1:
                continue
            reference = Image.open(io.BytesIO(data))
            if scale > 1:
                reference.draft(None, (size[1] // scale, size[0] // scale))
            assert np.array_equal(fast_jpeg.decode(data, size, scale), np.asarray(reference.convert("RGB")))


@pytest.mark.parametrize(
    ("draft", "scale"), [((121, 160), 2), ((120, 160), 4), ((60, 80), 8), ((9, 9), 8), ((241, 9), 1)]
)
def test_the_smallest_that_is_enough_is_decoded(tmp_path, decoder, draft, scale):
    noisy(480, 640).save(tmp_path / "a.jpg")
    image, size = read_reduced(tmp_path / "a.jpg", draft)
    assert size == (480, 640) == read_size(tmp_path / "a.jpg")
    assert image.shape == (480 // scale, 640 // scale, 3) and image.dtype == np.uint8
    whole = read_image(tmp_path / "a.jpg")
    assert np.array_equal(read_reduced(tmp_path / "a.jpg", None)[0], whole)
    averages = whole.reshape(480 // scale, scale, 640 // scale, scale, 3).mean(axis=(1, 3))
    assert np.abs(image - averages).mean() < 2  # it shows the same place for place


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_pictures_are_turned_too(tmp_path, decoder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noisy(96, 200).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    assert np.array_equal(read_image(tmp_path / "a.jpg"), upright)
    across = orientation >= 5
    image, size = read_reduced(tmp_path / "a.jpg", (100, 48) if across else (48, 100))
    assert size == upright.shape[:2] and image.shape[:2] == tuple(side // 2 for side in size)
    assert np.abs(image - upright.reshape(size[0] // 2, 2, size[1] // 2, 2, 3).mean(axis=(1, 3))).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp"])
def test_other_formats_are_read_whole(tmp_path, suffix):
    noisy(64, 64).save(tmp_path / f"a{suffix}")
    image, size = read_reduced(tmp_path / f"a{suffix}", (8, 8))
    assert image.shape == (64, 64, 3) and size == (64, 64)


def test_both_decoders_refuse_the_same(tmp_path, decoder):
    reasons = write_broken(tmp_path / "in")
    for name, reason in reasons.items():
        for draft in (None, (4, 4)):
            with pytest.raises(ImageError) as caught:
                read_reduced(tmp_path / "in" / name, draft)
            assert reason in caught.value.reason
    (tmp_path / "bomb.jpg").write_bytes(bomb("jpeg", 40_000, 40_000))
    noisy(64, 64).save(tmp_path / "a.jpg")
    for path, limits in (("bomb.jpg", DecodeLimits()), ("a.jpg", DecodeLimits(max_pixels=4000))):
        with pytest.raises(ImageError, match=r"bomb|more than"):
            read_reduced(tmp_path / path, (2, 2), limits)


def test_what_libjpeg_warns_of_is_read_as_by_pillow(tmp_path, decoder):
    """Rubbish before a marker, after the end; four colours; a comment of 60 kB."""
    data = encoded(noisy(40, 56), quality=80, comment=b"x" * 60_000)
    (tmp_path / "tail.jpg").write_bytes(data + b"rubbish" * 99)
    (tmp_path / "between.jpg").write_bytes(data[:-2] + b"\1\2\3" + data[-2:])
    noisy(40, 56).convert("CMYK").save(tmp_path / "cmyk.jpg")
    for name in ("tail.jpg", "between.jpg", "cmyk.jpg"):
        with Image.open(tmp_path / name) as picture:
            assert np.array_equal(read_image(tmp_path / name), np.asarray(picture.convert("RGB"))), name
