# SPDX-License-Identifier: Apache-2.0
"""``fastdet check`` finds everything that was planted, and nothing else."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import NAMES, write_coco, write_voc, write_yolo

from broken_pictures import bomb, pattern, text_bomb, write_broken
from fastdet import fast_jpeg
from fastdet.cli import main
from fastdet.data import DataError
from fastdet.data.check import CheckReport, _same, _Seen, check_dataset
from fastdet.data.duplicates import near_pairs, thumbnail
from fastdet.testing import shared_dir


def found(report):
    """(kind, name of the file, place) of each problem."""
    return sorted((each.kind, each.path.name, each.where) for each in report.problems)


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_a_sound_set_has_no_problem(tmp_path, capfd, write):
    root = write(tmp_path / "set")
    report = check_dataset(root)
    assert report.problems == [] and not report.harmful
    train = report.splits[0]
    assert (train.name, train.pictures, train.background, train.objects) == ("train", 3, 1, 3)
    assert train.classes == {"cell": 1, "disc": 2} and train.sizes == {"small": 2, "medium": 1, "large": 0}
    assert main(["check", str(root)]) == 0
    out, err = capfd.readouterr()
    assert err == "" and "nothing would harm training; 0 notes" in out
    assert re.search(r"^train +3 +1 +3 +0 +2 +1 +0$", out, re.M) and re.search(r"^disc +2 +2$", out, re.M)


PLANTED_LINES = {
    "0 nan 0.5 0.1 0.1": "box-not-finite",
    "0 0.5 0.5 -0.1 0.1": "box-inverted",
    "0 0.5 0.5 0 0.1": "box-zero",
    "0 1.5 0.5 0.1 0.1": "box-outside",
    "0 0.99 0.5 0.4 0.1": "box-outside",
    "77 0.5 0.5 0.1 0.1": "class-unknown",
    "-3 0.5 0.5 0.1 0.1": "class-unknown",
    "0 0.5 0.5 0.1": "label-columns",
    "0 zero 0.5 0.1 0.1": "label-number",
    "1 0.3 0.3 0.1 0.1": None,
    "1 0.3 0.3 0.1 0.10": "box-repeated",
}


def test_all_of_a_planted_set_is_found(tmp_path, capfd):
    root = write_yolo(tmp_path / "set")
    (root / "labels" / "train" / "b.txt").write_text("\n".join(PLANTED_LINES) + "\n")
    planted = [(kind, "b.txt", str(line)) for line, kind in enumerate(PLANTED_LINES.values(), start=1) if kind]
    (root / "labels" / "train" / "c.txt").write_bytes(b"\xff\xfe0\x00")
    planted.append(("label-file", "c.txt", ""))
    kinds = {
        "empty.jpg": "empty", "truncated.jpg": "truncated", "truncated.png": "truncated", "text.jpg": "no-picture",
        "page.jpg": "no-picture", "noise.jpg": "no-picture", "bomb.png": "too-large", "animated.gif": "animated",
        "float.tif": "pixels", "folder.jpg": "no-file", "loop.jpg": "no-file", "gone.jpg": "missing",
        "pipe.jpg": "no-file",
    }  # fmt: skip
    assert write_broken(root / "images" / "train").keys() == kinds.keys()
    planted += [(f"picture-{kind}", name, "") for name, kind in kinds.items()]
    for kind in ("jpeg", "gif", "bmp", "ppm", "tiff", "webp_vp8x", "webp_vp8l", "webp_vp8"):
        side = 16_000 if kind.startswith("webp") else 40_000
        name = f"{kind}.{kind[:4].rstrip('_')}"
        (root / "images" / "train" / name).write_bytes(bomb(kind, side, side))
        planted.append(("picture-too-large", name, ""))
    (root / "images" / "train" / "texts.png").write_bytes(text_bomb())  # is refused by none: a whole picture
    train, val = root / "images" / "train", root / "images" / "val"
    (val / "copy.png").write_bytes((train / "a.png").read_bytes())
    (train / "twice.png").write_bytes((train / "a.png").read_bytes())
    Image.open(train / "b.png").resize((64, 64), Image.Resampling.BICUBIC).save(val / "again.jpg", quality=90)
    planted += [("leak", "copy.png", ""), ("duplicate", "twice.png", ""), ("near-leak", "again.jpg", "")]
    (root.parent / "secret.png").write_bytes((train / "a.png").read_bytes())
    (val / "outside.png").symlink_to(root.parent / "secret.png")
    planted.append(("path-outside", "outside.png", ""))
    with (root / "data.yaml").open("a") as file:
        file.write("download: https://example.org/a.zip\n")
    planted.append(("download", "data.yaml", ""))
    (root / "labels" / "val" / "z.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    planted.append(("label-orphan", "z.txt", ""))
    report = check_dataset(root)
    assert found(report) == sorted(planted) and report.harmful
    code = main(["check", str(root), "--json", str(tmp_path / "r.json"), "--show", "0"])
    out, _ = capfd.readouterr()
    written = json.loads((tmp_path / "r.json").read_text())
    assert code == 1 and written == report.to_dict() and written["harmful"] is True
    assert all(str(problem) in out for problem in report.problems)
    assert "b.txt:1: coordinates must be finite" in out and "2 notes" in out


def damaged_files(folder):
    """Damage and oddities beyond ``write_broken``: name -> kind of problem."""

    def encoded(kind, image=None, **options):
        buffer = io.BytesIO()
        (image or Image.fromarray(pattern(40, 60, len(kinds) + 100))).save(buffer, kind, **options)
        return bytearray(buffer.getvalue())

    kinds = {}
    for kind, name in (("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif"), ("PPM", "ppm"), ("WEBP", "webp")):
        data = encoded(kind)
        (folder / f"cut.{name}").write_bytes(data[: len(data) * 2 // 3])
        kinds[f"cut.{name}"] = "picture-damaged" if kind == "WEBP" else "picture-truncated"
    data = encoded("PNG")
    data[data.index(b"IDAT") + 40] ^= 255
    (folder / "flipped.png").write_bytes(data)
    data = encoded("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    (folder / "scans.jpg").write_bytes(data[:last] + data[last:-2] * 600 + b"\xff\xd9")
    data = encoded("JPEG", quality=90)
    middle = (data.rindex(b"\xff\xda") + len(data)) // 2
    data[middle : middle + 40] = b"\xff\xd9" * 20  # the end comes early, and Pillow fills with grey
    (folder / "grey.jpg").write_bytes(data)
    kinds |= {"flipped.png": "picture-damaged", "scans.jpg": "picture-too-large"}
    if fast_jpeg.available():
        kinds["grey.jpg"] = "picture-corrupt"
    (folder / "other.jpg").write_bytes(encoded("PNG"))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "turned.jpg").write_bytes(encoded("JPEG", exif=exif))
    grey = np.asarray(Image.fromarray(pattern(40, 60, 90)).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "deep.png")
    for seed, (mode, name) in enumerate((("CMYK", "cmyk.jpg"), ("P", "palette.png"), ("RGBA", "alpha.png"))):
        Image.fromarray(pattern(40, 60, 80 + seed)).convert(mode).save(folder / name)
    (folder / "phone.heic").write_bytes(b"not read")
    kinds |= dict.fromkeys(("deep.png", "cmyk.jpg", "palette.png", "alpha.png"), "picture-converted")
    return kinds | {"other.jpg": "picture-suffix", "turned.jpg": "picture-turned", "phone.heic": "picture-unread"}


def test_damage_and_oddities_of_pictures_are_found(tmp_path):
    root = write_yolo(tmp_path / "set")
    train, labels = root / "images" / "train", root / "labels" / "train"
    planted = [(kind, name, "") for name, kind in damaged_files(train).items()]
    (train / "again").symlink_to("..")  # a folder in itself: its pictures are there once; those of val are in train too
    (train / "self").symlink_to("self")
    planted += [("leak", f"{name}.png", "") for name in "abc"]
    (labels / "cmyk.txt").symlink_to("cmyk.txt")
    (labels / "alpha.txt").mkdir()
    os.mkfifo(labels / "deep.txt")
    (labels / "other.txt").write_text("0 1e400 0.5 0.1 0.1\n")
    planted += [("label-file", f"{name}.txt", "") for name in ("cmyk", "alpha", "deep")]
    planted.append(("box-not-finite", "other.txt", "1"))
    assert found(check_dataset(root)) == sorted(planted)


def test_planted_in_coco(tmp_path):
    root = write_coco(tmp_path / "set")
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    bad = {
        "box-not-finite": {"bbox": [float("nan"), 1, 2, 3]},
        "box-inverted": {"bbox": [5, 5, -2, 3]},
        "box-zero": {"bbox": [5, 5, 0, 3]},
        "box-outside": {"bbox": [50, 5, 40, 3]},
        "class-unknown": {"category_id": 99},
        "picture-unknown": {"image_id": 99},
        "polygon": {"segmentation": [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5]]},
    }
    good = content["annotations"][0]
    for number, change in enumerate(bad.values()):
        content["annotations"].append({**good, "id": 100 + number, **change})
    content["annotations"].append({**good, "id": 200})
    content["images"].append({"id": 50, "file_name": "../a.png", "height": 5, "width": 5})
    content["images"].append({"id": 51, "file_name": "nowhere.png", "height": 5, "width": 5})
    content["images"][1]["height"] += 1
    path.write_text(json.dumps(content))
    wanted = [(kind, path.name, f"annotations[{3 + number}]") for number, kind in enumerate(bad)]
    wanted += [("box-repeated", "a.png", ""), ("path-outside", path.name, "images[3]")]
    wanted += [("picture-missing", "nowhere.png", ""), ("picture-size", "b.png", "")]
    assert found(check_dataset(root)) == sorted(wanted)


def test_planted_in_voc(tmp_path):
    root = write_voc(tmp_path / "set")  # its val holds the pictures of train
    text = (root / "Annotations" / "b.xml").read_text()
    box = text[text.index("<bndbox>") : text.index("</bndbox>") + 9]
    for number, corners in enumerate(["9 9 3 12", "nan 1 5 5", "9 9 9 9", "1 1 90 5"]):
        x1, y1, x2, y2 = corners.split()
        sides = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        extra = f"<object><name>disc</name><bndbox>{sides}</bndbox></object>\n"
        text = text.replace("</annotation>", f"{extra}</annotation>")
        assert box in text and number < 4
    (root / "Annotations" / "b.xml").write_text(text)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb\nc\n")
    assert [split.name for split in check_dataset(root).splits] == ["train", "val"]
    (root / "Annotations" / "a.xml").write_text("<!DOCTYPE x>\n")
    kinds = {each[0] for each in found(check_dataset(root))}
    assert kinds == {"box-inverted", "box-not-finite", "box-zero", "box-outside", "label-file", "leak"} | (
        {"class-not-trained"} & kinds
    )


def test_splits_that_do_not_fit(tmp_path):
    root = write_coco(tmp_path / "set")
    path = root / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"disc"', '"disk"'))
    assert {"classes-differ", "class-not-trained"} <= {each[0] for each in found(check_dataset(root))}
    path.write_text("{")
    assert found(check_dataset(root)) == [("unreadable", path.name, "")]


def test_lists_need_not_name_all_pictures(tmp_path):
    """Labels of a picture that no split lists are no label files without a picture."""
    root = write_yolo(tmp_path / "set")
    (root / "some.txt").write_text("images/val/a.png\n")
    yaml = (root / "data.yaml").read_text().replace("val: images/val", "val: some.txt")
    (root / "data.yaml").write_text(yaml)
    assert not [each for each in check_dataset(root).problems if each.kind == "label-orphan"]
    (root / "images" / "val" / "b.png").unlink()
    assert ("label-orphan", "b.txt", "") in found(check_dataset(root))


def test_classes_of_one_name_are_counted_apart(tmp_path, capfd):
    root = write_yolo(tmp_path / "set")
    yaml = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(yaml.replace("disc", "cell"))
    report = check_dataset(root)
    assert report.splits[0].classes == {"cell": 1, "cell (2)": 2}
    assert [(each.level, str(each)) for each in report.problems] == [
        ("warning", f"{root}: 2 classes are called cell, 2 of them have objects")
    ]
    for path in (root / "labels").rglob("*.txt"):
        path.write_text(re.sub("^0", "1", path.read_text(), flags=re.M))
    assert [(each.level, each.kind) for each in check_dataset(root).problems if each.kind != "class-empty"] == [
        ("note", "class-repeated")
    ]


def test_errors_are_printed_before_notes(tmp_path, capfd):
    root = write_yolo(tmp_path / "set")
    for name in "xyz":
        (root / "images" / "train" / f"{name}.heic").write_bytes(b"")
    (root / "labels" / "train" / "b.txt").write_text("7 0.5 0.5 0.1 0.1\n0 0.9 0.5 0.4 0.1\n0 48 0.5 0.1 0.1\n")
    assert main(["check", str(root)]) == 1
    heads = re.findall(r"^(?:error|warning|note) .*", capfd.readouterr().out, re.M)
    assert heads == ["error box-outside: 2", "error class-unknown: 1", "note picture-unread: 3"]


@pytest.mark.skipif(os.name != "posix", reason="such names are POSIX's")
def test_names_that_terminals_obey_are_written_out(tmp_path):
    """Neither control characters nor letters that the output cannot encode: one line a problem, whatever its name."""
    root = write_yolo(tmp_path / "set")
    for name in (b"new\nline.png", b"\x1b[31mred.png", b"\xff.png", "\N{SNOWMAN}.png".encode()):
        Path(os.fsdecode(os.fsencode(root / "images" / "val") + b"/" + name)).write_bytes(b"")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    words = [sys.executable, "-m", "fastdet", "check", str(root)]
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    names = re.findall(rb"val/(\S+): cannot be decoded", done.stdout)
    assert names == [rb"\x1b[31mred.png", rb"new\nline.png", rb"\u2603.png", rb"\udcff.png"]


def test_the_report_is_printed_whatever_becomes_of_the_pictures(tmp_path, capfd):
    root = write_yolo(tmp_path / "set")
    png, jpg = tmp_path / "labels.png", tmp_path / "labels.jpg"
    assert main(["check", str(root), "--png", str(jpg)]) == 0
    assert Image.open(jpg).format == "JPEG"
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    capfd.readouterr()
    assert main(["check", str(root), "--png", str(png), "--sheet", str(tmp_path / "sheet.png")]) == 1
    out, err = capfd.readouterr()
    assert "error picture-empty: 6" in out and err.count("\n") == 1 and "there are no pictures" in err
    assert Image.open(png).format == "PNG"
    for option in ("--png", "--sheet"):
        assert main(["check", str(root), option, "labels.xyz"]) == 2
        assert f"{option} must end in one of" in capfd.readouterr().err


def test_files_in_place_of_pictures_are_told_with_what_to_do(tmp_path):
    for suffix in (".jpg", ".png"):
        (tmp_path / f"pointer{suffix}").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
        )
        (tmp_path / f"._notes{suffix}").write_bytes(b"\x00\x05\x16\x07" + bytes(80))
    report = check_dataset(tmp_path)
    assert {each.kind for each in report.problems} == {"picture-no-picture"}
    assert sum("git lfs pull" in each.message for each in report.problems) == 2
    assert sum("macOS" in each.message for each in report.problems) == 2


def test_labels_of_what_is_taken_for_pictures_are_told(tmp_path):
    """A forgotten YAML, a COCO file of another name: read without labels, which must not look as if all were well."""
    root = write_yolo(tmp_path / "yolo")
    (root / "data.yaml").unlink()
    report = check_dataset(root)
    assert report.kind == "pictures" and report.harmful
    assert [(each.level, each.kind, each.path.name) for each in report.problems] == [("warning", "no-labels", "a.txt")]
    root = write_coco(tmp_path / "coco", ("val",))
    file = root / "annotations" / "instances_val.json"
    file.rename(file.with_name("mine.json"))
    report = check_dataset(root)
    assert report.kind == "pictures" and not report.harmful
    assert [(each.kind, each.path.name) for each in report.problems] == [("labels-unread", "mine.json")]


def test_labels_in_the_wrong_place(tmp_path):
    root = write_yolo(tmp_path / "set")
    (root / "labels").rename(root / "annotation")
    assert ("no-labels", "set", "") in found(check_dataset(root))


def test_pictures_without_labels_are_checked_too(tmp_path, capfd):
    write_broken(tmp_path / "in")
    report = check_dataset(tmp_path)
    assert len(report.problems) == 13 and report.kind == "pictures"
    with pytest.raises(DataError, match="no such file or folder"):
        check_dataset(tmp_path / "none")
    assert main(["check", str(tmp_path / "none")]) == 1
    assert capfd.readouterr().err.startswith("fastdet check: ")


def test_equal_and_near_pictures_are_told():
    """Split by split, picture by picture: which one is told, against which, how, and of what level."""
    base = [thumbnail(pattern(60, 80, seed)) for seed in range(5)]
    near = [np.clip(each.astype(int) + 1, 0, 255).astype(np.uint8) for each in base]
    rows = [  # split, path, bytes, small copy
        ("train", "a", b"0", base[0]), ("train", "b", b"0", base[0]), ("train", "c", b"1", near[0]),
        ("train", "d", b"2", base[1]), ("train", "d", b"2", base[1]), ("val", "a", b"0", base[0]),
        ("val", "e", b"2", base[1]), ("val", "f", b"3", near[1]), ("val", "g", b"4", base[2]),
        ("", "h", b"5", base[3]), ("", "h", b"5", base[3]),
    ]  # fmt: skip
    report = CheckReport(Path("set"), "yolo")
    _same([_Seen(split, Path(path), data, small) for split, path, data, small in rows], report)
    assert [(each.level, each.kind, each.path.name, each.where, each.message) for each in report.problems] == [
        ("note", "duplicate", "b", "", "is the same file as a"),
        ("warning", "leak", "a", "", "is the same file as a: val would be judged on pictures of train"),
        ("note", "duplicate", "d", "", "is listed twice in train"),
        ("warning", "leak", "e", "", "is the same file as d: val would be judged on pictures of train"),
        ("note", "duplicate", "h", "", "is listed twice in the data set"),
        ("note", "near-duplicate", "c", "", "shows nearly what a shows"),
        (
            "warning", "near-leak", "f", "",
            "shows nearly what d shows: val would be judged on pictures of train",
        ),
    ]  # fmt: skip
    report.problems.clear()
    _same([], report)
    assert report.problems == []


def plain_near_pairs(copies):
    """All pairs, compared one by one: 4 of 64 bits, 3 grey levels on average, 12 in a cell."""
    hashes = []
    for copy in copies.astype(float):
        rows = (copy[0::2] + copy[1::2]) / 2
        columns = np.stack([np.interp(np.linspace(0, 15, 9), np.arange(16), row) for row in rows])
        hashes.append(columns[:, 1:] > columns[:, :-1])
    found = []
    for i in range(len(copies)):
        for j in range(i + 1, len(copies)):
            difference = np.abs(copies[i].astype(int) - copies[j])
            alike = (hashes[i] != hashes[j]).sum() <= 4 and difference.mean() <= 3 and difference.max() <= 12
            if alike and min(copies[i].std(), copies[j].std()) >= 2:
                found.append((i, j))
    return found


def test_near_pairs_are_those_of_a_plain_search():
    rng = np.random.default_rng(0)
    base = np.concatenate([rng.integers(20, 230, (6, 16, 16)), rng.integers(100, 116, (6, 16, 16))])  # many bits turn
    reach = np.array([1, 2, 4, 5, 6, 7, 8, 12, 13]).reshape(-1, 1, 1, 1)  # up to beyond the limits of mean and cell
    noisy = (base + rng.integers(-reach, reach + 1, (9, 12, 16, 16))).reshape(-1, 16, 16)
    one_cell = base.copy()
    one_cell[:6, 3, 3] += 12
    one_cell[6:, 3, 3] += 13
    flat = np.full((3, 16, 16), 77)
    copies = np.concatenate([base, noisy, one_cell, flat]).astype(np.uint8)
    near = near_pairs(copies)
    assert near == plain_near_pairs(copies)
    assert 60 < len(near) < 400 and (0, 120) in near and (11, 131) not in near
    assert near_pairs(np.zeros((0, 16, 16), np.uint8)) == []
    image = pattern(200, 300, 3)
    small = np.asarray(Image.fromarray(image).resize((150, 100), Image.Resampling.BICUBIC))
    others = [thumbnail(pattern(200, 300, seed)) for seed in range(10, 20)]
    assert near_pairs(np.stack([thumbnail(image), *others, thumbnail(small)])) == [(0, 11)]
    assert NAMES == ("cell", "disc")


@pytest.mark.slow
def test_bccd():
    shared = shared_dir()
    if shared is None or not (shared / "data" / "bccd").is_dir():
        pytest.skip("the data set BCCD is not here")
    report = check_dataset(shared / "data" / "bccd")
    assert sum(split.pictures for split in report.splits) > 300
    assert not any(problem.level == "error" for problem in report.problems)
