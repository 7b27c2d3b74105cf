# SPDX-License-Identifier: Apache-2.0
"""Every format gives the same data set; what each of them is told by; where their files may lie."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import small_sets
from PIL import Image
from small_sets import BOXES, NAMES, SIZES, write_coco, write_voc, write_yolo

from broken_pictures import pattern
from fastdet.data import DataError, open_dataset
from fastdet.data.layout import recognise
from fastdet.data.pictures import read_picture
from fastdet.image_files import ImageError, read_image, read_size

WRITERS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


def summary(data):
    """Picture name -> (height, width, boxes, labels)."""
    return {p.path.stem: (p.height, p.width, p.boxes.round(3).tolist(), p.labels.tolist()) for p in data.pictures}


WANTED = {
    name: (*SIZES[name], [list(box[1:]) for box in boxes], [box[0] for box in boxes]) for name, boxes in BOXES.items()
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same(tmp_path, kind):
    root = WRITERS[kind](tmp_path / "set")
    if kind != "yolo":  # a YAML that describes something else
        (root / "settings.yaml").write_text("- 1\n")
    assert recognise(root).kind == kind
    data = open_dataset(root, "val")
    assert data.names == NAMES and data.category_ids == (0, 1) and summary(data) == WANTED
    areas = [(x2 - x1) * (y2 - y1) for boxes in BOXES.values() for _, x1, y1, x2, y2 in boxes]
    np.testing.assert_allclose([row.area for row in data.annotations], areas)
    assert [row.image_id for row in data.annotations] == [0, 0, 1] and len({row.id for row in data.annotations}) == 3
    with pytest.raises(DataError, match="has no split 'test'; there are train, val"):
        open_dataset(root, "test")


@pytest.mark.parametrize("suffix", ["", "2017"])
def test_coco_files_named_by_their_split(tmp_path, suffix):
    root = write_coco(tmp_path / "set")
    wanted = {split: open_dataset(root, split) for split in ("train", "val")}
    for split in wanted:
        (root / "annotations" / f"instances_{split}.json").rename(root / "annotations" / f"{split}{suffix}.json")
        (root / "images" / split).rename(root / "images" / f"{split}{suffix}")
    (root / "annotations" / "a.json").write_text("{}")  # of another tool, one a picture
    assert recognise(root).splits.keys() == {f"{split}{suffix}" for split in wanted}
    for split, data in wanted.items():
        assert list(open_dataset(root, split).annotations) == list(data.annotations)


@pytest.mark.parametrize("layout", ["yaml file", "split first", "roboflow", "lists", "several", "path", "nc", "names"])
def test_layouts_of_yolo(tmp_path, layout):
    root = write_yolo(tmp_path / "set")
    yaml = root / "data.yaml"
    text = yaml.read_text()
    if layout in ("split first", "roboflow"):
        for split in ("train", "val"):
            (root / split).mkdir()
            for kind in ("images", "labels"):
                shutil.move(root / kind / split, root / split / kind)
        dots = "../" if layout == "roboflow" else ""
        text = text.replace("images/train", f"{dots}train/images").replace("images/val", f"{dots}val/images")
    elif layout == "lists":
        (root / "lists").mkdir()
        (root / "lists" / "val.txt").write_text(
            "# list\r\n../images/val/c.png\r\nimages/val/a.png\n\nimages/val/b.png\n"
        )
        text = text.replace("val: images/val", "val: lists/val.txt")
    elif layout == "several":
        for name in "abc":
            (root / "images" / f"only_{name}").mkdir()
            (root / "images" / "val" / f"{name}.png").rename(root / "images" / f"only_{name}" / f"{name}.png")
        shutil.copytree(root / "labels" / "val", root / "labels" / "only_a")
        (root / "labels" / "only_b").mkdir()
        (root / "labels" / "val" / "b.txt").rename(root / "labels" / "only_b" / "b.txt")
        text = text.replace("val: images/val", "val: [images/only_a, images/only_b, images/only_c]")
    elif layout == "path":
        text = "path: ./images\n" + text.replace("images/", "")
    elif layout == "nc":
        text = text[: text.index("names")] + "nc: 2\n"
    elif layout == "names":
        text = text[: text.index("names")] + "nc: 2\nnames: [cell, disc]\n"
    yaml.write_text(text)
    data = (
        open_dataset(yaml if layout == "yaml file" else root, "valid" if layout == "names" else "val")
        if (layout != "names")
        else open_dataset(root)
    )
    assert summary(data) == WANTED
    assert data.names == (("class0", "class1") if layout == "nc" else NAMES)


def test_polygons_and_keypoints_become_boxes(tmp_path):
    root = write_yolo(tmp_path / "set")
    labels = root / "labels" / "val" / "b.txt"
    labels.write_text("1 0.25 0.25 0.75 0.3 0.5 0.5\n1 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3\n")
    boxes = open_dataset(root).pictures[1].boxes
    np.testing.assert_allclose(boxes, [[8, 8, 24, 16], [3.2, 3.2, 6.4, 9.6]], atol=1e-4)
    with (root / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 3]\n")
    for name in "ab":
        labels.with_name(f"{name}.txt").write_text("1 0.5 0.375 0.5 0.25 0.1 0.1 2 0.2 0.2 0\n")
    np.testing.assert_allclose(open_dataset(root).pictures[1].boxes, [[8, 8, 24, 16]], atol=1e-4)


def test_xml_beside_pictures_and_difficult_objects(tmp_path):
    small_sets.write_pictures(tmp_path / "train")
    small_sets.write_pictures(tmp_path / "valid")
    for name in "ab":
        text = small_sets.voc_xml(name).replace("<difficult>0", "<difficult>1", 1)
        (tmp_path / "valid" / f"{name}.xml").write_text(text)
        (tmp_path / "train" / f"{name}.xml").write_text(text)
    data = open_dataset(tmp_path, "val")
    assert recognise(tmp_path).kind == "voc" and data.names == NAMES
    assert [row.iscrowd for row in data.annotations] == [1, 0, 1]
    assert [picture.labels.tolist() for picture in data.pictures] == [[1], [], []]
    assert open_dataset(tmp_path, "val", names=("disc", "cell")).pictures[0].labels.tolist() == [0]
    with pytest.raises(DataError, match=r"b.xml:5: the class disc is not one of cell"):
        (tmp_path / "valid" / "a.xml").unlink()
        open_dataset(tmp_path, "val", names=("cell",))


def test_val_takes_every_format(tmp_path):
    pytest.importorskip("torch")
    from fastdet import Detector
    from small_models import random_module

    detector = Detector(random_module())
    yolo, voc = write_yolo(tmp_path / "yolo"), write_voc(tmp_path / "voc")
    text = (yolo / "data.yaml").read_text()
    (yolo / "data.yaml").write_text(text.replace("0: cell", "0: a").replace("1: disc", "1: b") + "  2: c\n")
    small_sets.write_pictures(voc / "JPEGImages", offset=10)  # those of the other's split
    for path in (voc / "Annotations").iterdir():
        path.write_text(path.read_text().replace("cell", "a").replace("disc", "b"))
    first, second = (detector.val(root).to_dict() for root in (yolo, voc))
    for metrics in (first, second):
        metrics.pop("milliseconds")
    assert first == second and first["ap"] >= 0


def test_pictures_without_labels(tmp_path):
    small_sets.write_pictures(tmp_path / "deep" / "er")
    (tmp_path / "list.txt").write_text("deep/er/b.png\n./deep/er/a.png\n")
    data = open_dataset(tmp_path)
    assert recognise(tmp_path).kind == "pictures" and data.names == () and set(summary(data)) == set("abc")
    assert [picture.path.stem for picture in open_dataset(tmp_path / "list.txt").pictures] == ["b", "a"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "none", "no such file or folder"),
        (lambda root: root, "holds no data set"),
        (lambda root: (root / "a.png").write_bytes(b"") or root / "a.png", "must be a folder, a COCO file"),
        (lambda root: [(root / f"{n}.yaml").write_text("names: [a]") for n in "ab"] and root, "several YAML"),
        (lambda root: (root / "a.json").write_text("{}") and root / "a.json", "images must be given with a COCO file"),
    ],
)  # fmt: skip
def test_what_is_no_data_set(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        open_dataset(make(tmp_path))


def test_sizes_are_those_of_the_decoded_pictures(tmp_path):
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".gif", ".tif"):
        for turn in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = turn
            path = tmp_path / f"{turn}{suffix}"
            Image.fromarray(pattern(20, 34)).save(path, exif=exif)
            assert read_size(path) == read_image(path).shape[:2], path
    with pytest.raises(ImageError, match="no such file"):
        read_size(tmp_path / "none.jpg")


# ---- nothing outside the folder is read ----------------------------------------------------------------------------

OUTSIDE = [
    "/etc",
    "../other",
    "..",
    "a/../../other",
    "C:/x",
    "c:x",
    "..\\other",
    "\\\\host\\share",
    "x\x00y",
    "link",
    "//e",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key", ["path", "val", "list", "file_name"])
def test_paths_that_lead_outside(tmp_path, key, name):
    root = write_yolo(tmp_path / "set")
    small_sets.write_pictures(tmp_path / "other")
    (root / "link").symlink_to(tmp_path / "other")
    text = (root / "data.yaml").read_text()
    quoted = '"' + name.replace("\\", "\\\\").replace("\x00", "\\0") + '"'
    if key == "path":
        (root / "data.yaml").write_text(f"path: {quoted}\n{text}")
    elif key == "val":
        (root / "data.yaml").write_text(text.replace("val: images/val", f"val: {quoted}"))
    else:
        (root / "list.txt").write_text(f"images/val/a.png\n{name}/a.png\n")
        (root / "data.yaml").write_text(text.replace("val: images/val", "val: list.txt"))
    line = ":2: " if key in ("list", "file_name") else "data.yaml: "
    why = "is an absolute path; allow_outside=True" if name[0] == "/" or name[1:2] == ":" else "leads out of"
    why = "has a zero byte" if "\x00" in name else why
    why = "has backslashes; folders are separated by '/'" if "\\" in name else why
    with pytest.raises(DataError, match=why) as caught:
        open_dataset(root)
    assert line in str(caught.value)


@pytest.mark.parametrize("name", ["C:/images", "c:images"])
def test_drives_are_refused_where_folders_of_such_names_are(tmp_path, name):
    """Elsewhere than on Windows ``C:`` may be a folder; a data set must mean the same everywhere."""
    root = write_yolo(tmp_path / "set")
    shutil.copytree(root / "images" / "val", root / "sub" / name)
    text = (root / "data.yaml").read_text().replace("val: images/val", f"val: {name}")
    (root / "data.yaml").write_text(f"path: sub\n{text}")
    with pytest.raises(DataError, match=rf"val: '{name}' is an absolute path"):
        open_dataset(root)
    assert len(open_dataset(root, allow_outside=True)) == 3


@pytest.mark.parametrize("name", ["a/" * 100_000 + "x.jpg", "x" * 300 + ".jpg", "\u00e9" * 2100 + ".jpg"], ids=len)
@pytest.mark.parametrize("allow_outside", [False, True])
def test_names_that_no_file_system_has(tmp_path, name, allow_outside):
    """Told in the words of data sets, and soon; 100,000 folders in each other once ended the process."""
    root = write_yolo(tmp_path / "yolo")
    (root / "list.txt").write_text(f"images/val/a.png\n{name}\n")
    text = (root / "data.yaml").read_text()
    for key, value in (("val", "list.txt"), ("val", name[:900]), ("path", name[:900])):
        lines = text.replace("val: images/val", f"val: {value}") if key == "val" else f"path: {value}\n{text}"
        (root / "data.yaml").write_text(lines)
        with pytest.raises(DataError):
            open_dataset(root, allow_outside=allow_outside)
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"a.png"', json.dumps(name)))
    with pytest.raises(DataError, match=r"has more than 4095 letters|file name too long"):
        read_picture(open_dataset(root, allow_outside=allow_outside).pictures[0])


def test_a_split_of_roboflow_that_is_not_there(tmp_path):
    root = write_yolo(tmp_path / "set")
    text = (root / "data.yaml").read_text().replace("val: images/val", "val: ../valid/images")
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"leads out of .* accepts that, and there is no 'valid/images' in it"):
        open_dataset(root)


def test_a_picture_is_no_split(tmp_path):
    root = write_yolo(tmp_path / "set")
    text = (root / "data.yaml").read_text().replace("val: images/val", "val: images/val/a.png")
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"val: 'images/val/a.png' is a picture; it must be a folder or a list"):
        open_dataset(root)


def test_links_that_lead_outside(tmp_path):
    root = write_yolo(tmp_path / "set")
    small_sets.write_pictures(tmp_path / "other")
    (tmp_path / "other" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    picture, labels = root / "images" / "val" / "a.png", root / "labels" / "val" / "a.txt"
    labels.unlink()
    labels.symlink_to(tmp_path / "other" / "a.txt")
    with pytest.raises(DataError, match=r"a.txt: leads out of"):
        open_dataset(root)
    assert len(open_dataset(root, allow_outside=True).pictures[0].boxes) == 1
    labels.unlink()
    picture.unlink()
    picture.symlink_to(tmp_path / "other" / "a.png")
    with pytest.raises(DataError, match=r"a.png: is a link that leads out of"):
        open_dataset(root)
    picture.unlink()
    picture.symlink_to(root / "images" / "train" / "a.png")
    (root / "images" / "val" / "loop").symlink_to(root / "images")
    assert len(open_dataset(root)) == 3 + 3  # the link to the folder above holds train; val is not walked twice
