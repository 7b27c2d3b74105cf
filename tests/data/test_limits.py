# SPDX-License-Identifier: Apache-2.0
"""The limits of label files, from both sides: what lies on one is read, one more is refused."""

from __future__ import annotations

import pytest

from fastdet.data import DataError, voc
from fastdet.data.voc import VocObject, read_voc_file, voc_index
from fastdet.data.yolo_yaml import read_yaml


def annotation(inner: str) -> str:
    return f"<annotation>{inner}</annotation>"


def padded(size: int) -> str:
    """A valid XML file of ``size`` bytes."""
    return annotation("<!--" + "x" * (size - len(annotation("<!---->"))) + "-->")


# name -> (file of that size, the limit, the reason beyond it)
XML = {
    "bytes": (padded, 16 << 20, "is larger than 16384 KB"),
    "depth": (lambda n: annotation("<a>" * (n - 1) + "</a>" * (n - 1)), 16, "is nested deeper than 16"),
    "letters": (lambda n: annotation(f"<filename>{'x' * n}</filename>"), 4096, "a value of more than 4096 letters"),
    "letters in pieces": (
        lambda n: annotation(f"<filename>{'x&amp;' * (n // 2)}{'x' * (n % 2)}</filename>"), 4096,
        "a value of more than 4096 letters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", XML)
def test_xml(tmp_path, name):
    make, limit, reason = XML[name]
    path = tmp_path / "a.xml"
    path.write_text(make(limit))
    read_voc_file(path)
    path.write_text(make(limit + 1))
    with pytest.raises(DataError, match=reason):
        read_voc_file(path)


def test_letters_are_those_of_one_value(tmp_path):
    """Letters around an element inside count neither with those before it nor with its own."""
    path, long = tmp_path / "a.xml", "x" * 4000
    path.write_text(annotation(f"{long}<filename>{long}</filename>{long}<object>{long}</object>{long}"))
    assert read_voc_file(path, report=lambda _: None).filename == long


def test_objects_of_a_picture(tmp_path, monkeypatch):
    assert voc.MAX_BOXES_PER_PICTURE == 100_000
    monkeypatch.setattr(voc, "MAX_BOXES_PER_PICTURE", 3)
    path, problems = tmp_path / "a.xml", []
    path.write_text(annotation("<object/>" * 3))
    assert read_voc_file(path, report=problems.append).objects == () and len(problems) == 3
    path.write_text(annotation("<object/>" * 4))
    with pytest.raises(DataError, match="has more than 3 objects"):
        read_voc_file(path, report=problems.append)


SIZES = {
    ("1", "1"): (1, 1),
    ("65535", "65535"): (65_535, 65_535),
    (" 7 ", "9"): (7, 9),
    ("0", "9"): None,
    ("9", "0"): None,
    ("65536", "9"): None,
    ("9", "65536"): None,
    ("-1", "9"): None,
    ("9", "nine"): None,
    ("9", None): None,
}


@pytest.mark.parametrize("written", SIZES)
def test_sizes_of_pictures(tmp_path, written):
    sides = "".join(f"<{key}>{v}</{key}>" for key, v in zip(("height", "width"), written) if v is not None)
    path = tmp_path / "a.xml"
    path.write_text(annotation(f"<size>{sides}</size>"))
    assert read_voc_file(path).size == SIZES[written]


def voc_object(x1, y1, x2, y2, name="cell", difficult="0"):
    corners = "".join(f"<{side}>{value}</{side}>" for side, value in zip(voc.SIDES, (x1, y1, x2, y2)))
    return (
        f"<object>\n<name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox>"
        "<part><name>head</name><bndbox><xmin>99</xmin></bndbox></part></object>\n"
    )


def test_objects(tmp_path):
    """Equal corners are a box, the first of two values counts, difficult is 1 alone, parts are left out."""
    path = tmp_path / "a.xml"
    path.write_text(
        annotation(voc_object(3, 4, 3, 4) + voc_object(1, 2, 5, 9, "disc", "1") + voc_object(1, 2, 5, 9, "disc", "2"))
    )
    assert read_voc_file(path).objects == (
        VocObject(1, "cell", (3, 4, 3, 4), False),
        VocObject(3, "disc", (1, 2, 5, 9), True),
        VocObject(5, "disc", (1, 2, 5, 9), False),
    )


FAULTS = {
    "<object><name></name></object>": ("class-unknown", "the object has no <name>"),
    "<object><name>a</name></object>": ("label-columns", "the object has no <xmin>"),
    voc_object(1, 2, "", 4): ("label-number", "the box must be four numbers, got '1 2  4'"),
    voc_object(1, "1e999", 3, 4): ("box-not-finite", "the box must be finite, got 1 inf 3 4"),
    voc_object(4, 2, 3, 4): ("box-inverted", "the box is inverted, got 4 2 3 4"),
    voc_object(1, 5, 3, 4): ("box-inverted", "the box is inverted, got 1 5 3 4"),
}


@pytest.mark.parametrize("text", FAULTS, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(FAULTS.values())])
def test_faults_of_objects(tmp_path, text):
    """Each is told with its line and left out; those beside it stay."""
    path, problems = tmp_path / "a.xml", []
    path.write_text(annotation("\n" + text + voc_object(1, 2, 3, 4)))
    assert [each.name for each in read_voc_file(path, report=problems.append).objects] == ["cell"]
    assert [(each.level, each.kind, each.where, each.message) for each in problems] == [
        ("error", FAULTS[text][0], "2", FAULTS[text][1])
    ]


# corners as written on a picture of 30 x 20 (width x height) -> the kind of problem; a pixel beyond the border is none
BORDERS = {
    (1, 1, 30, 20): None,
    (0, 0, 32, 22): None,
    (0.5, 1, 30, 20): None,
    (-0.5, 1, 30, 20): "box-outside",
    (1, -0.5, 30, 20): "box-outside",
    (1, 1, 32.5, 20): "box-outside",
    (1, 1, 30, 22.5): "box-outside",
    (7, 3, 7, 9): "box-zero",
    (7, 3, 9, 3): "box-zero",
}


def test_index_of_pictures(tmp_path):
    """Rows of what could be read, boxes from pixels that count from 1, crowds, and a problem at each fault."""
    texts = {
        "bordered": annotation("<size><width>30</width><height>20</height></size>\n"
                               + "".join(voc_object(*each) for each in BORDERS)),
        "broken": "<annotation>",
        "sizeless": annotation(voc_object(1, 1, 2, 2)),
        "whole": annotation("<size><width>8</width><height>9</height></size>"
                            + voc_object(2, 3, 5, 9, "disc", "1") + voc_object(1, 1, 2, 2, "ring")
                            + voc_object(1, 1, 4, 2)),
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.xml").write_text(text)
    pairs = [(tmp_path / f"{name}.png", tmp_path / f"{name}.xml") for name in texts]
    pairs.insert(2, (tmp_path / "background.png", None))
    problems = []
    index = voc_index(pairs, ("cell", "disc"), problems.append)
    assert [index.path(row).stem for row in range(2)] == ["bordered", "whole"] and len(index.picture_id) == 2
    assert (index.height.tolist(), index.width.tolist()) == ([20, 9], [30, 8])
    boxes = [[x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1] for x1, y1, x2, y2 in BORDERS]
    assert index.box.tolist() == [*boxes, [1, 2, 4, 7], [0, 0, 4, 2]]
    assert index.area.tolist() == [w * h for _, _, w, h in index.box.tolist()]
    assert index.picture.tolist() == [0] * len(BORDERS) + [1, 1]
    assert index.label.tolist() == [0] * len(BORDERS) + [1, 0]
    assert index.crowd.tolist() == [0] * len(BORDERS) + [1, 0]
    found = [(each.level, each.kind, each.path.name, each.where) for each in problems]
    lines = range(2, 2 + 2 * len(BORDERS), 2)
    assert found == [
        *(("warning", kind, "bordered.xml", str(line)) for kind, line in zip(BORDERS.values(), lines) if kind),
        ("error", "label-file", "broken.xml", "1"),
        ("error", "picture", "background.png", ""),
        ("error", "picture", "sizeless.png", ""),
        ("error", "class-unknown", "whole.xml", "3"),
    ]
    assert problems[-1].message == "the class ring is not one of cell, disc"


HEAD = "train: a\nnames: [b]\n"


def aliases(nodes: int) -> str:
    """A YAML file of ``nodes`` values when its aliases are followed: a list of 1000, 98 times, and the rest."""
    rest = nodes - 6 - (1 + 1000) - (2 + 98 * 1000) - 2  # the mapping with HEAD; x, y and z with their keys
    return HEAD + f"x: &x [{'1,' * 999}]\ny: [{'*x,' * 98}]\nz: [{'1,' * rest}]"


YAML = {
    "bytes": (lambda n: HEAD + "#" * (n - len(HEAD)), 1 << 20, "is larger than 1024 KB"),
    "depth": (lambda n: HEAD + "x: " + "[" * (n - 2) + "]" * (n - 2), 16, "nested deeper than 16"),
    "mappings": (lambda n: HEAD + "x: " + "{a: " * (n - 2) + "}" * (n - 2), 16, "nested deeper than 16"),
    "plain": (lambda n: HEAD + "x: " + "1" * n, 1000, "a plain value of more than 1000 letters"),
    "tagged": (lambda n: HEAD + f"x: !!str '{'1' * n}'", 1000, "a plain value of more than 1000 letters"),
    "values": (aliases, 100_000, "more than 100000 values when its aliases are followed"),
    "classes": (lambda n: f"train: a\nnc: {n}", 65_535, "'nc' must be a number of classes, got 65536"),
    "keypoints": (lambda n: HEAD + f"kpt_shape: [1, {n}]", 10_000, "'kpt_shape' must be two counts"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml(tmp_path, name):
    pytest.importorskip("yaml")
    make, limit, reason = YAML[name]
    path = tmp_path / "data.yaml"
    path.write_text(make(limit))
    read_yaml(path)
    path.write_text(make(limit + 1))
    with pytest.raises(DataError, match=reason):
        read_yaml(path)


@pytest.mark.parametrize("extra", ["x: '{}'", "x: |\n  {}", 'x: "{}"'])
def test_quoted_values_may_be_long(tmp_path, extra):
    pytest.importorskip("yaml")
    path = tmp_path / "data.yaml"
    path.write_text(HEAD + extra.format("1" * 5000))
    assert read_yaml(path).names == ("b",)


@pytest.mark.parametrize("text", ["x: [*x]", "x: &x [1, *x]", "x: [&y 1]\nz: [*z]", "x: {a: &x b}\ny: *a"])
def test_aliases_of_nothing(tmp_path, text):
    pytest.importorskip("yaml")
    path = tmp_path / "data.yaml"
    path.write_text(HEAD + text)
    with pytest.raises(DataError, match="stands for nothing, or for itself"):
        read_yaml(path)
    path.write_text(HEAD + "x: &x [1, &y 2]\ny: [*x, *y, {z: *x}]")
    assert read_yaml(path).splits == {"train": ("a",)}
