# SPDX-License-Identifier: Apache-2.0
"""Label files and picture headers read natively: what is taken equals what Python reads, the rest is left to Python."""

from __future__ import annotations

import io
import os
import random as random_numbers
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from broken_pictures import pattern
from fastdet import _core
from fastdet.data import yolo
from fastdet.data.dataset import strict
from fastdet.data.file_names import FileNames, texts_of
from fastdet.data.index import SECTIONS
from fastdet.data.index_rows import IndexBuilder
from fastdet.data.yolo import LabelRules, label_names, label_path, yolo_index
from fastdet.image_files import ImageError, read_size

CASES = int(os.environ.get("FASTDET_INDEX_CASES", "60"))  # thousands before a release
NAMES = ("a", "b", "c")


def slow_index(files, names, rules, report):
    """What ``yolo_index`` gives, by the readers in Python alone."""
    builder, pictures = IndexBuilder(), 0
    for file in files:
        found = yolo._read_picture(Path(file), rules, report)
        if found is not None:
            builder.picture(pictures, file, found[0])
            for each in found[1]:
                rings = [each.polygon.reshape(-1).tolist()] if len(each.polygon) else []
                area = each.box[2] * each.box[3]
                builder.annotation(builder.annotations, pictures, each.label, each.box, area, 0, rings)
            pictures += 1
    return builder.index(names, tuple(range(len(names))))


def agree(files, rules, names=NAMES) -> tuple[int, int]:
    """Both ways give the same rows, bit for bit, and the same problems in the same order; returns how many of each."""
    told: list[list] = [[], []]
    fast = yolo_index(files, names, rules, told[0].append)
    slow = slow_index(files, names, rules, told[1].append)
    assert told[0] == told[1]
    for name in SECTIONS:
        if name not in ("about", "paths", "path_starts"):
            one, other = getattr(fast, name), getattr(slow, name)
            assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes(), name
    count = len(fast.height)
    assert [fast.path(row) for row in range(count)] == [slow.path(row) for row in range(count)]
    return len(fast.box), len(told[0])


def left_to_python(files, rules) -> list[bool]:
    labels = list(label_names(FileNames.of(files), rules.root)) if rules.classes else []
    none = np.zeros(len(files), np.uint8)
    found = _core.dataset_read_yolo(
        b"", *texts_of(files), b"", *texts_of(labels), none, rules.classes, rules.keypoint_values, rules.polygons
    )
    return found["unclean"].astype(bool).tolist()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path.resolve()
    for kind in ("images", "labels"):
        (root / kind / "a").mkdir(parents=True)
    return root


def add(root: Path, name: str, text: str | bytes | None, size: tuple[int, int] = (48, 64)) -> str:
    path = root / "images" / "a" / f"{name}.png"
    if not path.exists():
        Image.fromarray(pattern(*size, 1)).save(path)
    if text is not None:
        (root / "labels" / "a" / f"{name}.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


NUMBER = st.one_of(
    st.floats(0, 1).map(repr),
    st.floats(-0.02, 1.02).map(lambda x: f"{x:.6f}"),
    st.sampled_from(
        "0.5 .5 1. 0 -0 -0.0 1e-3 5E-1 +0.5 1e-400 0x1p-1 0_5 nan inf 1e999 0.5e --1 \u0661 1.01 1.011 -0.01".split()
    ),
)
WORD = st.one_of(NUMBER, st.sampled_from(["0", "1", "2", "2.0", "3", "-1", "1e0", "65536"]))
SPACE = st.sampled_from([" ", "  ", "\t", " \t ", "\x0b", "\x1c", "\xa0", ""])
CLASS = st.sampled_from("012")


def numbers(low: float, high: float, least: int, most: int):
    return st.lists(st.floats(low, high).map(repr), min_size=least, max_size=most)


LINE = st.one_of(
    st.builds(lambda label, values: " ".join([label, *values]), CLASS, numbers(0.2, 0.5, 4, 4)),
    st.builds(lambda label, values: " ".join([label, *values]), CLASS, numbers(0, 1, 6, 8)),
    st.builds(lambda space, words: space.join(words), SPACE, st.lists(WORD, max_size=9)),
)
TEXT = st.builds(
    lambda mark, end, lines, last: (mark + end.join(lines) + last).encode(),
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from(["\n", "\r\n", "\n\n", "\r"]),
    st.lists(LINE, max_size=5),
    st.sampled_from(["", "\n", " \n ", "\x1a"]),
)


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXT, min_size=6, max_size=6), keypoints=st.sampled_from([0, 0, 0, 2, 3]), polygons=st.booleans())
def test_label_files_read_the_same(tmp_path_factory, texts, keypoints, polygons):
    root = tmp_path_factory.getbasetemp() / "generated"
    if not root.is_dir():
        for kind in ("images", "labels"):
            (root / kind / "a").mkdir(parents=True)
    root = root.resolve()
    files = [add(root, str(number), text, (48 + number, 64)) for number, text in enumerate(texts)]
    agree(files, LabelRules(root, 3, keypoints, False, polygons))


@pytest.mark.parametrize(
    ("text", "keypoints", "taken"),
    [
        ("", 0, True),
        (None, 0, True),
        ("0 0.5 0.5 0.25 0.5\n2 0.1 0.1 0.1 0.1", 0, True),
        ("\ufeff1.0\t.5 5e-1 0.25 1.\r\n\r\n", 0, True),
        ("1 0.1 0.1 0.2 0.1 0.2 0.2\n2 0.1 0.1 0.9 0.1 0.2 0.8 0.1 0.9\n", 0, True),
        ("1 0.5 0.5 0.2 0.2 7 8 2\n", 3, True),
        ("1 0.5 0.5 0.2 0.2\n", 3, False),
        ("1 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.2 0.1 0.2 0.2\n", 0, False),
        ("1 0.5 0.5 0.2 0.2\n1 0.5 0.50 0.2 0.2\n", 0, False),  # a warning
        ("1 0.5 0.5 0 0.2\n", 0, False),  # a warning
        ("3 0.5 0.5 0.2 0.2\n", 0, False),
        ("1.5 0.5 0.5 0.2 0.2\n", 0, False),
        ("-0 0.5 0.5 0.2 0.2\n", 0, True),
        ("0 0.5 0.5 -0.2 0.2\n", 0, False),
        ("0 0.5 0.5 nan 0.2\n", 0, False),
        ("0 0.5 0.5 0.2 1e999\n", 0, False),
        ("0 0.5 0.5 0.2\n", 0, False),
        ("0 0.5 0.5 0.2 0.2 0.2\n", 0, False),
        ("0 0.5 0.5 0.2 +0.2\n", 0, False),  # right, and rare
        (b"0 0.5 0.5 0.2 0.2\xff\n", 0, False),
        (b"0 0.5 0.5 0.2 0.2\0\n", 0, False),
    ],
)
def test_which_label_files_are_taken(folder, text, keypoints, taken):
    for polygons in (False, True):
        rules = LabelRules(folder, 3, keypoints, False, polygons)
        file = add(folder, "x", text)
        assert left_to_python([file], rules) == [not taken]
        agree([file, add(folder, "y", "0 0.1 0.1 0.5 0.5 0.2 0.7" if keypoints == 0 else ""), file], rules)


def test_label_files_that_are_no_files_or_links(folder):
    rules = LabelRules(folder, 3, 0, False)
    labels = folder / "labels" / "a"
    files = [add(folder, name, None) for name in ("dir", "pipe", "in", "out", "loop", "dangling", "none", "good")]
    (labels / "dir.txt").mkdir()
    os.mkfifo(labels / "pipe.txt")
    (labels / "good.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (labels / "in.txt").symlink_to("good.txt")
    (folder.parent / "outside.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (labels / "out.txt").symlink_to(folder.parent / "outside.txt")
    (labels / "loop.txt").symlink_to("loop.txt")
    (labels / "dangling.txt").symlink_to("nothing.txt")
    assert left_to_python(files, rules) == [True] * 6 + [False] * 2
    boxes, problems = agree(files, rules)
    assert (boxes, problems) == (2, 5)
    assert agree(files, LabelRules(folder, 3, 0, True))[0] == 3


def test_label_folder_that_leads_out(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    file = add(folder, "x", None)
    (folder / "labels" / "a").rmdir()
    (folder / "labels" / "a").symlink_to(outside)
    (outside / "x.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    assert agree([file], LabelRules(folder, 3, 0, False)) == (0, 1)
    assert agree([file], LabelRules(folder, 3, 0, True)) == (1, 0)


def test_label_paths(tmp_path):
    root = Path("/set")
    files = [
        "images/a/b.jpg",
        "images/x/images/b.c.JPG",
        "b.png",
        "images/b",
        "images/.jpg",
        "images/b.",
        "images/a.b/c",
        "a/b.tar.gz",
    ]
    paths = [f"/set/{file}" for file in files] + ["/images/other/images/b.jpg", "relative/images/b.jpg", "x.jpg"]
    assert list(label_names(FileNames.of(paths), root)) == [str(label_path(Path(path), root)) for path in paths]


def test_many_pictures_with_some_that_python_reads(folder):
    random = np.random.default_rng(5)
    files = []
    for number in range(520):
        count = int(random.integers(0, 4))
        lines = [
            f"{random.integers(3)} {x:.4f} 0.5 0.2 0.{random.integers(1, 9)}" for x in random.uniform(0.2, 0.8, count)
        ]
        files.append(add(folder, f"{number:03}", "\n".join(lines)))
    for number in range(0, 520, 97):
        (folder / "labels" / "a" / f"{number:03}.txt").write_text("0 +0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 9\n")
    for number in range(50, 520, 151):
        Path(files[number]).write_bytes(b"no picture")
    rules = LabelRules(folder, 3, 0, False)
    boxes, problems = agree(files, rules)
    assert boxes > 600 and problems == len(range(0, 520, 97)) + len(range(50, 520, 151))
    agree(files, LabelRules(folder, 0, 0, False), ())
    with pytest.raises(ValueError, match=r"000\.txt:2: "):
        yolo_index(files, NAMES, rules, strict)


def native_size(path: Path) -> tuple[int, int] | None:
    found = _core.dataset_read_yolo(b"", *texts_of([str(path)]), b"", *texts_of([]), np.zeros(1, np.uint8), 0, 0, False)
    return None if found["unclean"][0] else (int(found["height"][0]), int(found["width"][0]))


def encoded(form: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(pattern(37, 53, 3))
    if mode == "I;16":
        picture = picture.convert("I")  # Pillow up to 10 has no way there from RGB
    picture.convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def exif(value: int, extra: bool = False, endian: str = "<") -> bytes:
    made = Image.Exif()
    made.endian = endian
    if extra:
        made[0x010F] = "a maker of some length"
        made[0x0131] = "software"
    made[0x0112] = value
    return made.tobytes()


def pictures() -> dict[str, tuple[bytes, bool]]:
    """Name -> (file, whether it is to be read natively)."""
    found: dict[str, tuple[bytes, bool]] = {}
    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            found[f"jpeg {mode} {progressive}"] = (encoded("JPEG", mode, progressive=progressive), True)
    found["jpeg comment and profile"] = (encoded("JPEG", comment=b"x" * 300, icc_profile=b"y" * 70000), True)
    for value in range(1, 9):
        for extra in (False, True):
            found[f"jpeg exif {value} {extra}"] = (encoded("JPEG", exif=exif(value, extra)), True)
    found["jpeg exif 0"] = (encoded("JPEG", exif=exif(0)), False)
    found["jpeg exif 9"] = (encoded("JPEG", exif=exif(9)), False)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    plain = encoded("JPEG")
    found["jpeg xmp"] = (plain[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp + plain[2:], False)
    for mode in ("RGB", "L", "P", "1", "RGBA", "LA", "I;16"):
        found[f"png {mode}"] = (encoded("PNG", mode), True)
    found["png exif"] = (encoded("PNG", exif=exif(6)), False)
    text = PngInfo()
    text.add_text("a", "b" * 500)
    text.add_itxt("c", "d")
    found["png text"] = (encoded("PNG", pnginfo=text, dpi=(72, 72), gamma=0.45), True)
    whole = encoded("PNG")
    found["png cut"] = (whole[: len(whole) * 2 // 3], True)
    chunk = b"eXIf" + exif(8)[6:]
    late = len(chunk) - 4
    late_exif = late.to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    found["png exif behind the pixels"] = (whole[:-12] + late_exif + whole[-12:], False)
    for form in ("BMP", "GIF", "WEBP", "TIFF", "PPM"):
        found[form] = (encoded(form), False)
    found["tiny bomb"] = (encoded("PNG").replace((53).to_bytes(4, "big"), (60000).to_bytes(4, "big"), 1), False)
    return found


PICTURES = pictures()


@pytest.mark.parametrize("name", PICTURES)
def test_sizes_are_those_of_pillow(tmp_path, name):
    data, natively = PICTURES[name]
    path = tmp_path / "x"
    path.write_bytes(data)
    assert (native_size(path) is not None) == natively
    if natively:
        assert native_size(path) == read_size(path)


@pytest.mark.parametrize("name", [name for name, (_, natively) in PICTURES.items() if natively])
@pytest.mark.filterwarnings("ignore")
def test_sizes_of_damaged_headers(tmp_path, name):
    """Where a size is told of a file whose header was changed, Pillow tells the same."""
    good, _ = PICTURES[name]
    random = random_numbers.Random(name)
    path = tmp_path / "x"
    for _ in range(CASES // 2):
        data = bytearray(good)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(min(len(data), 400))
            kind = random.randrange(3)
            if kind == 0:
                data[at] = random.randrange(256)
            elif kind == 1:
                data[at] ^= 1 << random.randrange(8)
            else:
                del data[at : at + random.randint(1, 4)]
        path.write_bytes(data)
        told = native_size(path)
        if told is not None:
            assert told == read_size(path), bytes(data)


def test_embedded_pictures_agree():
    found = list((Path(__file__).parents[2] / "python/fastdet/weights").glob("*.jpg"))
    assert len(found) == 3
    for path in found:
        try:
            assert native_size(path) in (None, read_size(path))
        except ImageError:
            assert native_size(path) is None


def test_arguments_are_checked():
    letters, starts = texts_of(["a", "b"])
    none = np.zeros(2, np.uint8)
    with pytest.raises(ValueError, match="left must have 2 numbers, got 1"):
        _core.dataset_read_yolo(b"", letters, starts, b"", letters, starts, none[:1], 1, 0, False)
    with pytest.raises(ValueError, match="a label file a picture"):
        _core.dataset_read_yolo(b"", letters, starts, b"", *texts_of(["a"]), none, 1, 0, False)
    with pytest.raises(ValueError, match="starts must rise"):
        _core.dataset_read_yolo(b"", letters, starts[::-1].copy(), b"", letters, starts, none, 1, 0, False)
    with pytest.raises(ValueError, match="negative"):
        _core.dataset_read_yolo(b"", letters, starts, b"", letters, starts, none, -1, 0, True)
    assert _core.dataset_file_states(b"", *texts_of(["/", "/no/such"])).reshape(2, 6)[1].tolist() == [-1] * 6
