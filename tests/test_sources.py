# SPDX-License-Identifier: Apache-2.0
"""What becomes a picture, what becomes one clear error, and what it may cost."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from broken_pictures import bomb, pattern, text_bomb, write_broken
from fastdet.image_files import DecodeLimits
from fastdet.sources import ImageError, expand, load, read_image

IMAGE = pattern()


def one(source):
    items = expand(source)
    assert len(items) == 1
    return load(items[0])


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm", "gif"])
def test_file_formats_give_rgb(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(IMAGE).save(path, **({"lossless": True} if suffix == "webp" else {}))
    picture = one(str(path))
    assert picture.path == path and picture.size == (48, 64) and picture.image.dtype == np.uint8
    tolerance = 90 if suffix == "gif" else 0  # a palette of 256 colours
    assert np.abs(picture.image.astype(int) - IMAGE).max() <= tolerance


def test_wrong_suffix_is_read_by_its_content(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(read_image(tmp_path / "a.jpg"), IMAGE)


def test_odd_modes_become_rgb(tmp_path):
    grey = Image.fromarray(IMAGE).convert("L")
    grey.save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.asarray(grey)[..., None].repeat(3, 2))
    wide = (np.asarray(grey).astype(np.uint16)) * 257
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide).save(tmp_path / "wide.tif")
    for name in ("wide.png", "wide.tif"):
        assert np.array_equal(read_image(tmp_path / name), np.asarray(grey)[..., None].repeat(3, 2))
    palette = Image.fromarray(IMAGE).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=3)
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    alpha = np.dstack([IMAGE, np.full(IMAGE.shape[:2], 100, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png"), IMAGE)
    Image.fromarray(IMAGE).convert("1").save(tmp_path / "bilevel.png")
    assert set(np.unique(read_image(tmp_path / "bilevel.png"))) <= {0, 255}
    Image.fromarray(IMAGE).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95, subsampling=0)
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - IMAGE).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    # What each orientation means, by NumPy: the stored picture turned into the upright one.
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation](IMAGE)
    stored = Image.fromarray(IMAGE)
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), upright)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(one(picture).image, upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x07" * 40)
    assert read_image(tmp_path / "a.jpg").shape == IMAGE.shape


def test_arrays_are_rgb_and_shared():
    picture = one(IMAGE)
    assert picture.path is None and np.shares_memory(picture.image, IMAGE) and np.array_equal(picture.image, IMAGE)
    assert np.array_equal(one(IMAGE[..., ::-1]).image, IMAGE[..., ::-1])
    assert np.array_equal(one(IMAGE[..., 0]).image, IMAGE[..., :1].repeat(3, 2))
    assert np.array_equal(one(np.dstack([IMAGE, IMAGE[..., :1]])).image, IMAGE)
    assert len(expand(np.stack([IMAGE, IMAGE]))) == 2


def test_tensors():
    tensor = torch.from_numpy(IMAGE.copy()).permute(2, 0, 1)
    for given in (tensor, tensor.float() / 255, tensor.double() / 255, tensor[None][0]):
        assert np.array_equal(one(given).image, IMAGE)
    assert len(expand(torch.stack([tensor, tensor]))) == 2
    with pytest.raises(ValueError, match="divide by 255"):
        one(tensor.float())
    with pytest.raises(ValueError, match=r"permute\(2, 0, 1\)"):
        one(tensor.permute(1, 2, 0))


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (IMAGE.astype(np.float32), TypeError, "uint8"),
        (IMAGE.astype(np.uint16), TypeError, "uint8"),
        (IMAGE.transpose(2, 0, 1), ValueError, r"transpose\(1, 2, 0\)"),
        (IMAGE[:0], ValueError, "pixels"),
        (IMAGE[..., :2], ValueError, r"\(H, W, 3\)"),
        (np.zeros(5, np.uint8), ValueError, r"\(H, W, 3\)"),
    ],
)
def test_bad_arrays(array, error, message):
    with pytest.raises(error, match=message):
        one(array)


@pytest.mark.parametrize("source", [3, None, {"a": 1}, b"a.jpg", {"a.jpg"}])
def test_bad_types(source):
    with pytest.raises(TypeError, match="sources"):
        expand(source)


def test_an_empty_path_is_no_folder():
    for source in ("", ["a.jpg", ""]):
        with pytest.raises(ValueError, match="path must not be empty"):
            expand(source)


def test_address_is_refused_without_its_query():
    with pytest.raises(ValueError, match="download") as caught:
        expand("https://example.org/a.jpg?token=secret")
    assert "secret" not in str(caught.value)


def test_folder_glob_list_order(tmp_path):
    for name in ("b.png", "a.png", "10.png", "9.png", "notes.md"):
        if name.endswith("png"):
            Image.fromarray(IMAGE).save(tmp_path / name)
        else:
            (tmp_path / name).write_text("x")
    (tmp_path / "deep").mkdir()
    Image.fromarray(IMAGE).save(tmp_path / "deep" / "c.png")
    names = [path.name for path in expand(tmp_path)]
    assert names == ["10.png", "9.png", "a.png", "b.png"]
    assert [p.name for p in expand(str(tmp_path / "*.png"))] == names
    assert [p.name for p in expand(str(tmp_path / "**" / "*.png"))] == ["10.png", "9.png", "a.png", "b.png", "c.png"]
    (tmp_path / "list.txt").write_text("# mine\nb.png\n\ndeep/c.png\n")
    assert [p.name for p in expand([tmp_path / "list.txt", tmp_path / "9.png"])] == ["b.png", "c.png", "9.png"]
    again = expand(tmp_path)
    assert expand(again) is again
    (tmp_path / "a[1].png").write_bytes((tmp_path / "a.png").read_bytes())
    assert [p.name for p in expand(str(tmp_path / "a[1].png"))] == ["a[1].png"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("missing.jpg", "no such file"),
        ("*.nothing", "no file matches"),
        ("hollow", "holds no picture"),
        ("clip.mp4", "video"),
        ("missing.txt", "no such file"),
        ("hollow/list.txt", "names no picture"),
        ("a\0b.jpg", "null"),
        ("x" * 5000 + ".jpg", "too long"),
    ],
)
def test_sources_without_a_picture(tmp_path, monkeypatch, source, reason):
    monkeypatch.chdir(tmp_path)
    Path("hollow").mkdir()
    Path("hollow/list.txt").write_text("\n# nothing\n")
    with pytest.raises(ImageError, match=reason):
        one(source)


def test_twelve_kinds_of_broken_files(tmp_path):
    reasons = write_broken(tmp_path)
    assert len(reasons) >= 12
    assert [path.name for path in expand(tmp_path)] == sorted(reasons)
    for name, reason in reasons.items():
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert reason in caught.value.reason and str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "a.jpg").write_bytes(b"x")
    monkeypatch.setattr(os, "open", refuse)  # chmod would not stop root
    with pytest.raises(ImageError, match="permission denied"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_cut_of_a_picture_is_an_error_or_a_picture(tmp_path):
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(pattern(20, 24)).save(buffer, kind)
        data = buffer.getvalue()
        path = tmp_path / "cut.jpg"
        for end in range(0, len(data), 29):
            path.write_bytes(data[:end])
            try:
                assert read_image(path).shape == (20, 24, 3)
            except ImageError as error:
                assert error.path == path


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_flipped_bytes_never_escape(tmp_path):
    rng = np.random.default_rng(5)
    path = tmp_path / "a.jpg"
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(pattern(20, 24)).save(buffer, kind)
        for _ in range(40):
            data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
            where = rng.integers(0, min(len(data), 400), 3)
            data[where] = rng.integers(0, 256, 3)
            path.write_bytes(data.tobytes())
            try:
                image = read_image(path, DecodeLimits(max_pixels=1 << 20))
                assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
            except ImageError as error:
                assert error.reason


def test_limits_are_arguments(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    for limits in (DecodeLimits(max_pixels=3000), DecodeLimits(max_side=60), DecodeLimits(max_ratio=0)):
        with pytest.raises(ImageError):
            read_image(tmp_path / "a.png", limits)
    with pytest.raises(ImageError, match="larger than"):
        read_image(tmp_path / "a.png", DecodeLimits(max_bytes=10))
    Image.fromarray(IMAGE).save(tmp_path / "a.jpg", progressive=True)
    with pytest.raises(ImageError, match="scans"):
        read_image(tmp_path / "a.jpg", DecodeLimits(max_scans=5))


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(ImageError(Path("a.jpg"), "is empty")))
    assert (error.path, error.reason, str(error)) == (Path("a.jpg"), "is empty", "a.jpg: is empty")


def test_bombs_are_refused_quickly_and_cheaply(tmp_path):
    kinds = ["png", "jpeg", "gif", "bmp", "ppm", "tiff", "webp_vp8x", "webp_vp8l", "webp_vp8"]
    sizes = [(20_000, 20_000), (16_383, 16_383), (13_400, 13_400), (65_000, 2_700), (16_000, 2_000)]
    for kind in kinds:
        for width, height in sizes:
            (tmp_path / f"{kind}_{width}_{height}.png").write_bytes(bomb(kind, width, height))
    (tmp_path / "side.png").write_bytes(bomb("png", 65_501, 1))
    (tmp_path / "text.png").write_bytes(text_bomb())  # harmless when its texts are left alone, so it is read
    (tmp_path / "line.png").write_bytes(bomb("png", 1, 2_000_000_000))
    script = """
        import json, sys, time
        from pathlib import Path
        from fastdet.sources import ImageError, read_image

        def peak():
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0])

        folder = Path(sys.argv[1])
        for kind in sys.argv[2:]:  # the first of each kind pays for the import of its plugin
            try: read_image(folder / f"{kind}_20000_20000.png")
            except ImageError: pass
        before, rows = peak(), []
        for path in sorted(folder.iterdir()):
            best, reason = 1.0, None
            for _ in range(3):
                start = time.perf_counter()
                try: reason = f"pixels: {read_image(path).mean()}"
                except ImageError as error: reason = error.reason
                best = min(best, time.perf_counter() - start)
            rows.append((path.name, reason, best))
        print(json.dumps({"rows": rows, "grown_kb": peak() - before}))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), *kinds]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(report["rows"]) == len(kinds) * len(sizes) + 3
    assert ["text.png", "pixels: 128.0"] in [row[:2] for row in report["rows"]]
    for name, reason, seconds in report["rows"]:
        assert reason and ("bomb" in reason or "pixels" in reason), f"{name}: {reason}"
        assert seconds < 0.05, f"{name} took {seconds:.3f} s"
    assert report["grown_kb"] < 16 << 10
