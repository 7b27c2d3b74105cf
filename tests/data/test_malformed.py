# SPDX-License-Identifier: Apache-2.0
"""Label files, YAML and XML that are wrong or hostile: one line that names file and place, and quickly."""

from __future__ import annotations

import time

import pytest
import small_sets
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet.data import DataError, open_dataset
from fastdet.data.check import check_dataset
from fastdet.data.voc import read_voc_file
from fastdet.data.yolo import read_labels
from fastdet.data.yolo_yaml import read_yaml

GOOD = "0 0.5 0.5 0.2 0.2\n"
LABELS = {
    "four columns": ("0 0.5 0.5 0.2", "must have 5 columns (class cx cy w h) or 7, 9, 11 ... (polygon), got 4"),
    "six columns": ("0 0.5 0.5 0.2 0.2 0.9", "got 6"),
    "two points": ("0 0.5 0.5 0.2 0.2 0.9 0.1 0.3", "got 8"),
    "mixed": ("0 0.1 0.1 0.2 0.1 0.2 0.2", "boxes and polygons are mixed"),
    "word": ("cat 0.5 0.5 0.2 0.2", "must be numbers, got 'cat 0.5"),
    "comma": ("0,0.5,0.5,0.2,0.2", "got 1"),
    "decimal comma": ("0 0,5 0,5 0,2 0,2", "must be numbers"),
    "other digits": ("0 ٠.٥ 0.5 0.2 0.2", "must be numbers"),
    "underscore": ("1_0 0.5 0.5 0.2 0.2", "must be numbers"),
    "binary": ("\x01\x02 \x7f", "got 2"),
    "NaN": ("0 nan 0.5 0.2 0.2", "coordinates must be finite"),
    "infinite": ("0 0.5 0.5 inf 0.2", "coordinates must be finite"),
    "huge": ("0 0.5 0.5 1e999 0.2", "coordinates must be finite"),
    "inverted": ("0 0.5 0.5 -0.2 0.2", "the box has a negative size, -0.2 x 0.2"),
    "pixels": ("0 320 240 64 48", "coordinates must lie in [0, 1], got 48 to 320; are these pixels?"),
    "outside": ("0 1.2 0.5 0.2 0.2", "coordinates must lie in [0, 1], got 0.2 to 1.2"),
    "negative centre": ("0 -0.5 0.5 0.2 0.2", "coordinates must lie in [0, 1]"),
    "class": ("2 0.5 0.5 0.2 0.2", "the class must be in 0..1, got 2"),
    "absurd class": ("99999999999999999999 0.5 0.5 0.2 0.2", "the class must be in 0..1"),
    "negative class": ("-1 0.5 0.5 0.2 0.2", "the class must be in 0..1, got -1"),
    "half class": ("0.5 0.5 0.5 0.2 0.2", "the class must be an integer, got 0.5"),
    "NaN class": ("nan 0.5 0.5 0.2 0.2", "the class must be an integer, got nan"),
}


def test_keypoint_columns(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0 0.5 0.5 0.2 0.2 0.1 0.1\n0 0.5 0.5 0.2 0.2 0.1\n")
    with pytest.raises(DataError, match=r":2: must have 7 columns \(box and keypoints\), got 6"):
        read_labels(path, 1, keypoint_values=2)


@pytest.mark.parametrize("name", LABELS)
def test_label_lines(tmp_path, name):
    line, reason = LABELS[name]
    path = tmp_path / "a.txt"
    path.write_text(GOOD + "\n" + line + "\n" + GOOD.replace("0 ", "1 ", 1), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_labels(path, 2)
    assert str(caught.value).startswith(f"{path}:3: ") and reason in str(caught.value)
    problems = []
    rows = read_labels(path, 2, report=problems.append)
    assert [row.label for row in rows] == [0, 1] and [each.where for each in problems] == ["3"]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"\n \n", 0),
        (b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\r\n1 0.5 0.5 0.2 0.2", 2),
        (b"1.0\t0.5 5e-1 +0.2 .2\n", 1),
        (GOOD.encode() * 7, 1),
        (b"0 1.005 0.5 0.2 0.2\n0 0.5 0.5 0 0\n", 2),
    ],
)
def test_label_files_that_are_read(tmp_path, data, count):
    (tmp_path / "a.txt").write_bytes(data)
    assert len(read_labels(tmp_path / "a.txt", 2)) == count


@pytest.mark.parametrize(
    ("data", "reason"),
    [(bytes(range(256)), "is not UTF-8 text"), ("0 .5 .5 .1 .1\n".encode("utf-16"), "is not UTF-8 text")],
)
def test_label_files_that_are_no_text(tmp_path, data, reason):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=reason):
        read_labels(tmp_path / "a.txt", 2)


def test_a_million_lines(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"0 0.5 0.5 0.2 {0.000001 * i:.6f}\n" for i in range(100_002)))
    with pytest.raises(DataError, match="has more than 100000 boxes"):
        read_labels(path, 2)
    monkeypatch.setattr("fastdet.data.yolo.MAX_BOXES_PER_PICTURE", 1000)
    path.write_text(GOOD * 1000)
    assert len(read_labels(path, 2)) == 1
    for line in (GOOD, "x\n"):  # lines that are equal, or wrong, and told one by one
        problems = []
        path.write_text("\n" + GOOD + line * 1000)
        with pytest.raises(DataError, match="has more than 1000 boxes"):
            read_labels(path, 2, report=problems.append)
        assert len(problems) < 1000
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "none.txt", 2)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match="is not a regular file"):
        read_labels(tmp_path / "folder.txt", 2)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]\n" for i in range(1, 12)
)
MERGES = "m0: &m0 {k: v}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40))
YAML = {
    "empty": ("", "must hold a mapping"),
    "a list": ("[train, val]", "must hold a mapping"),
    "tabs": ("names:\n\t- a", "is not valid YAML"),
    "no names": ("train: images", "'names' must list the classes"),
    "no splits": ("names: [a]", "must name the pictures"),
    "nc": ("train: images\nnc: 3\nnames: [a]", "'nc' is 3, 'names' has 1"),
    "nc text": ("train: images\nnc: many", "'nc' must be a number"),
    "gap in names": ("train: images\nnames: {0: a, 2: b}", "the keys of 'names' must be 0 to 1"),
    "names of lists": ("train: images\nnames: [[a]]", "each of 'names' must be a text"),
    "train number": ("train: 3\nnames: [a]", "'train' must be a folder"),
    "path number": ("path: 3\ntrain: a\nnames: [a]", "'path' must be a text"),
    "keypoints": ("train: a\nnames: [a]\nkpt_shape: [17]", "'kpt_shape' must be two counts"),
    "python": ("!!python/object/apply:os.system ['touch ran']", "is not valid YAML"),
    "python name": ("names: !!python/name:os.system\ntrain: a", "is not valid YAML"),
    "own tag": ("names: !run [a]\ntrain: a", "is not valid YAML"),
    "laughs": (LAUGHS + "train: a\nnames: *a11", "when its aliases are followed"),
    "merges": (MERGES + "train: a\nnames: [a]", "when its aliases are followed"),
    "itself": ("names: &n [*n]\ntrain: a", "stands for nothing, or for itself"),
    "deep": ("names: " + "[" * 400 + "]" * 400, "nested deeper than 16"),
    "deep without end": ("[" * 100_000, "nested deeper than 16"),
    "digits": ("train: a\nnc: " + "9" * 200_000, "a plain value of more than 1000 letters"),
    "sixties": ("train: a\nnc: !!int '" + "1:" * 200_000 + "1'", "a plain value of more than 1000 letters"),
    "large": ("# " + "x" * (1 << 20), "is larger than 1024 KB"),
    "many": ("names: [" + "a," * 300_000 + "]", "more than 100000 values"),
    "bad date": ("train: a\nnames: [2001-99-99]", "is not valid YAML"),
    "bad bool": ("train: a\nnames: !!bool maybe", "is not valid YAML"),
    "NUL": ("names: [a]\x00", "is not valid YAML"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml(tmp_path, monkeypatch, name):
    pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    text, reason = YAML[name]
    path = tmp_path / "data.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(DataError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path)) and reason in str(caught.value) and "\n" not in str(caught.value)
    assert time.process_time() - start < 1 and not (tmp_path / "ran").exists()


def test_download_is_shown_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "train: images/train\nval: gone\nnames: [a]\ndownload: |\n  import os\n  os.system('touch ran')\n"
    root = small_sets.write_yolo(tmp_path / "set")
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"'download' is shown here and never run: .*os.system"):
        open_dataset(root)
    assert not (tmp_path / "ran").exists()


BOX = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>20</ymax></bndbox>"
XML = {
    "empty": ("", "is not valid XML"),
    "cut": ("<annotation><object>", "is not valid XML"),
    "html": ("<html></html>", ":1: must hold <annotation>, got <html>"),
    "doctype": ("<!DOCTYPE annotation SYSTEM 'file:///etc/passwd'>\n<annotation/>", ":1: has a document type"),
    "laughs": ("<!DOCTYPE l [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><annotation>&b;</annotation>", "document type"),
    "entity": ("<annotation>&passwords;</annotation>", "is not valid XML"),
    "deep": ("<annotation>" + "<a>" * 50_000, "is nested deeper than 16"),
    "long value": ("<annotation><filename>" + "x" * 100_000 + "</filename></annotation>", "more than 4096 letters"),
    "no name": ("<annotation>\n<object>" + BOX.format(1, 9) + "</object></annotation>", ":2: the object has no <name>"),
    "no box": ("<annotation>\n\n<object><name>a</name></object></annotation>", ":3: the object has no <xmin>"),
    "half a box": (
        "<annotation><object><name>a</name><bndbox><xmin>~</xmin></bndbox></object></annotation>",
        "the object has no <ymin>",
    ),
    "word": ("<annotation><object><name>a</name>" + BOX.format("x", 9) + "</object></annotation>", "four numbers"),
    "NaN": ("<annotation><object><name>a</name>" + BOX.format("nan", 9) + "</object></annotation>", "finite"),
    "inverted": ("<annotation><object><name>a</name>" + BOX.format(30, 9) + "</object></annotation>", "inverted"),
}


@pytest.mark.parametrize("name", XML)
def test_xml(tmp_path, name):
    text, reason = XML[name]
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_voc_file(path)
    assert str(caught.value).startswith(str(path)) and reason in str(caught.value)


@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-16", "windows-1252", "us-ascii", "utf-8-sig"])
def test_xml_is_read_in_the_encoding_that_it_names(tmp_path, encoding):
    name = "cell" if encoding == "us-ascii" else "caf\u00e9"
    text = f"<annotation><object><name>{name}</name>{BOX.format(1, 9)}</object></annotation>"
    declared = "" if encoding == "utf-8-sig" else f'<?xml version="1.0" encoding="{encoding}"?>\n'
    path = tmp_path / "a.xml"
    path.write_bytes((declared + text).encode(encoding))
    assert [each.name for each in read_voc_file(path).objects] == [name]


@pytest.mark.parametrize("encoding", ["gbk", "no such thing"])
def test_xml_in_other_encodings_is_refused(tmp_path, encoding):
    path = tmp_path / "a.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>\n<annotation/>'.encode())
    with pytest.raises(DataError, match=r"use UTF-8|is not valid XML"):
        read_voc_file(path)


def test_the_fault_that_hides_all_names_is_said(tmp_path):
    root = small_sets.write_voc(tmp_path / "set")
    for path in (root / "Annotations").glob("*.xml"):
        path.write_text("<annotation>")
    with pytest.raises(DataError, match=r"a\.xml:1: is not valid XML"):
        open_dataset(root)
    assert [each.kind for each in check_dataset(root).problems].count("unreadable") == 1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


WORDS = st.sampled_from(
    ["0", "1", "0.5", "-1", "nan", "1e999", "0.2", "٣", "x", "\n", "\r\n", "\ufeff", "0x1", "", "\x00"]
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=40).map(lambda words: " ".join(words).encode())))
def test_any_label_file_is_read_or_named(place, data):
    path = place / "a.txt"
    path.write_bytes(data)
    try:
        rows = read_labels(path, 3)
    except DataError as error:
        assert str(error).startswith(str(path))
        return
    assert all(0 <= row.label < 3 and max(map(abs, row.box)) < 2.1 for row in rows)


PIECES = st.sampled_from([
    "<annotation>", "</annotation>", "<object>", "</object>", "<name>a</name>", BOX.format(1, 9), BOX.format(9, 1),
    "&lt;",     "<size><width>9</width><height>x</height></size>", "<!DOCTYPE a>", "<![CDATA[", "]]>",
    "<?xml version='1.0'?>",
    "<a>", "<bndbox><xmin>~</xmin></bndbox>",
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=20).map(lambda parts: "".join(parts).encode())))
def test_any_xml_is_read_or_named(place, data):
    path = place / "a.xml"
    path.write_bytes(data)
    try:
        read_voc_file(path)
    except DataError as error:
        assert str(error).startswith(str(path))


LINES = st.sampled_from([
    "names: [a, b]", "train: images", "names: &a [*a]", "nc: 2", "nc: 1:1", "path: ..", "? [a]", "- x", "  b: !!int x",
    "<<: *a",     "names: {0: a}", "kpt_shape: [1, 2]", "train: !!set {a, b}", "x: &a {<<: {y: 1}}", "'", "names: *a",
    "%YAML 9.9", "---",
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=100), st.lists(LINES, max_size=8).map(lambda lines: "\n".join(lines).encode())))
def test_any_yaml_is_read_or_named(place, data):
    pytest.importorskip("yaml")
    path = place / "data.yaml"
    path.write_bytes(data)
    try:
        read_yaml(path)
    except DataError as error:
        assert str(error).startswith(str(path))
