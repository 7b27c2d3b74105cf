# SPDX-License-Identifier: Apache-2.0
"""The native reader of COCO files: what it takes, it reads as the reader in Python does; the rest it leaves alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdet import _core
from fastdet.data import coco
from fastdet.data.coco import CocoOptions, coco_index
from fastdet.data.dataset import DataError, strict
from fastdet.data.index import SECTIONS

CASES = int(os.environ.get("FASTDET_INDEX_CASES", "60"))  # thousands before a release
TOKENS = [b"NaN", b"1e999", b"-0", b"null", b"01", b"\\ud800", b'"id":1,', b"[[", b"5.0", b"\xed\xa0\x80"]
COLUMNS = [name for name in SECTIONS if name not in ("about", "paths", "path_starts")]


def both(path: Path, root: Path, allow_outside: bool = False, polygons: bool = True):
    """(native, Python's) index of a file; None for the native where it declines, a message for Python's error."""
    options = CocoOptions(allow_outside, polygons)
    clean = coco._clean_index(path, root, options, strict)
    try:
        checked = coco._checked_index(path, root, options, strict)
    except DataError as error:
        checked = str(error)
    return clean, checked


def agree(clean, checked) -> None:
    """Equal in every column, bit for bit, and in every path."""
    assert not isinstance(checked, str), checked
    for name in COLUMNS:
        one, other = getattr(clean, name), getattr(checked, name)
        assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes(), name
    assert (clean.names, clean.category_ids) == (checked.names, checked.category_ids)
    assert [clean.path(i) for i in range(len(clean.height))] == [checked.path(i) for i in range(len(checked.height))]


class Raw(str):
    """A number as it is written."""


def number(low: float, high: float):
    """Numbers as people and programs write them."""
    floats = st.floats(low, high)
    texts = [
        floats.map(repr),
        floats.map(lambda x: f"{x:.1f}"),
        floats.map(lambda x: f"{x:.3e}"),
        floats.map(lambda x: f"{x:.17g}"),
        floats.map(lambda x: f"{x:.25f}"),
        st.integers(int(low), int(high)).map(str),
    ]
    return st.one_of(texts)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
NAME = st.one_of(
    st.from_regex(r"[a-c]{1,3}(/[a-z.]{1,3}){0,2}\.jpg", fullmatch=True),
    TEXT,
    st.sampled_from(["../x", "a/../x.jpg", "./a", "/a", "a//b", "a:b", "C:/x", "link/a.jpg", "out/a.jpg", "l.jpg"]),
)
OTHER = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def written(value, draw_space: str, ascii_only: bool) -> str:
    """JSON text; numbers that are ``Raw`` as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        members = (f"{json.dumps(k)}{draw_space}:{written(v, draw_space, ascii_only)}" for k, v in value.items())
        return "{" + f",{draw_space}".join(members) + draw_space + "}"
    if isinstance(value, list):
        return "[" + f"{draw_space},".join(written(each, draw_space, ascii_only) for each in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


POLYGONS = st.one_of(
    st.none(),
    st.just({"counts": "abc", "size": [1, 2]}),
    st.lists(
        st.sampled_from([0, 4, 5, 6, 7, 8, 10]).flatmap(
            lambda n: st.lists(number(-20, 900).map(Raw), min_size=n, max_size=n)
        ),
        max_size=3,
    ),
)


@st.composite
def coco_files(draw, strange=False):
    """COCO files that are right, and that look every way they may; ``strange``: polygons are anything."""
    identities = st.one_of(st.integers(0, 20), st.integers(0, 2**63 - 1))
    pictures = draw(st.lists(identities, min_size=1, max_size=4, unique=True))
    categories = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3, unique=True))
    images = [
        {"id": each, "file_name": draw(NAME), "height": draw(st.integers(1, 65535)), "width": draw(st.integers(1, 99))}
        for each in pictures
    ]
    annotations = []
    for identity in draw(st.lists(identities, max_size=5, unique=True)):
        box = [Raw(draw(number(-50, 200))), Raw(draw(number(-5, 60)))]
        box += [Raw(draw(number(0, big))) for big in draw(st.sampled_from([(50, 50), (2**40, 9), (1e300, 1e3)]))]
        row = {"id": identity, "image_id": draw(st.sampled_from(pictures)), "bbox": box}
        row["category_id"] = draw(st.sampled_from(categories))
        if draw(st.booleans()):
            row["area"] = Raw(draw(number(-10, 1e6)))
        if draw(st.booleans()):
            row["iscrowd"] = draw(st.integers(0, 1))
        if draw(st.booleans()):
            row["segmentation"] = draw(st.one_of(POLYGONS, OTHER if strange else POLYGONS))
        annotations.append(dict(draw(st.permutations(list(row.items())))))
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": each, "name": draw(TEXT)} for each in categories],
        "info": draw(OTHER),
    }
    order = dict(draw(st.permutations(list(content.items()))))
    text = written(order, draw(st.sampled_from(["", " ", "\r\n\t"])), draw(st.booleans()))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of pictures with links in it: to itself, out of it, and of a file."""
    outer = tmp_path_factory.mktemp("coco")
    root = outer / "pictures"
    (root / "a").mkdir(parents=True)
    (root / "link").symlink_to(root / "a")
    (root / "out").symlink_to(outer)
    (root / "l.jpg").symlink_to("a/l.jpg")
    return root


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=coco_files(), allow_outside=st.booleans(), polygons=st.booleans())
def test_right_files_read_the_same(folder, data, allow_outside, polygons):
    path = folder.parent / "x.json"
    path.write_bytes(data)
    clean, checked = both(path, folder, allow_outside, polygons)
    if clean is not None:
        agree(clean, checked)
    elif not isinstance(checked, str) and not allow_outside:
        # declined though right: by numbers beyond 2^26 whose product only integers hold
        rows = json.loads(data.decode("utf-8-sig"))["annotations"]
        widest = max((value for row in rows for value in row["bbox"][2:]), default=0)
        assert widest > 2**26, data


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=coco_files(strange=True), random=st.randoms(use_true_random=False))
def test_changed_files_are_never_taken_where_python_refuses(folder, data, random):
    path = folder.parent / "y.json"
    out = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(out))
        kind = random.randrange(4)
        if kind == 0:
            out[at] = random.choice(b'"{}[],:-+.eE0123456789 \n\\u\x00\x7f\x80\xc3\xed\xf0tfnNI')
        elif kind == 1:
            del out[at : at + random.randint(1, 8)]
        elif kind == 2:
            out[at:at] = out[at : at + random.randint(1, 30)]
        else:
            out[at:at] = random.choice(TOKENS)
        if not out:
            break
    path.write_bytes(out)
    clean, checked = both(path, folder)
    if clean is not None:
        agree(clean, checked)


GOOD = {
    "images": [{"id": 5, "file_name": "a.jpg", "height": 40, "width": 60}],
    "annotations": [{"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4]}],
    "categories": [{"id": 9, "name": "nine"}],
}


@pytest.mark.parametrize(
    ("old", "new", "taken"),
    [
        ('"id": 1', '"id": 1, "id": 2', False),  # Python takes the last
        ('"categories"', '"images": [], "categories"', False),
        ('"id": 1', '"\\u0069d": 1', True),
        ("a.jpg", "\\ud83d\\ude00.jpg", True),
        ("a.jpg", "\\ud83d.jpg", False),
        ("a.jpg", "\\udc80.jpg", False),
        ("a.jpg", "\\u0000.jpg", False),
        ("nine", "\\u00e9\\/\\b\\f\\n\\r\\t\\\\", True),
        ("nine", "\\x41", False),
        ("nine", "\\u00g1", False),
        ("nine", "\\u+0a1", False),
        ("3, 4]", "0.1, 1e2]", True),
        ("3, 4]", "-0, -0.0]", True),
        ("3, 4]", "1E+2, 00]", False),
        ("3, 4]", "+1, 2]", False),
        ("3, 4]", ".5, 2]", False),
        ("3, 4]", "5., 2]", False),
        ("3, 4]", "1e400, 2]", False),
        ("3, 4]", "1e200, 1e200]", False),
        ("3, 4]", f"{2**26}, {2**26}]", True),
        ("3, 4]", f"{2**27 + 1}, {2**27 + 1}]", False),
        ("3, 4]", "4503599627370497.5, 0.1]", True),
        ("[1, 2,", f"[{-(2**63)}, 2,", False),
        ("[1, 2,", f"[{-(2**63) + 1}, {2**63 - 1},", True),
        ("[1, 2,", "[NaN, 2,", False),
        ('"id": 5,', '"id": 5, "x": [NaN, -Infinity, Infinity, 1e999, "\\ud800"],', True),
        ('"id": 5,', f'"id": 5, "x": {"9" * 5000},', False),
        ('"id": 5,', '"id": 5, "x": "\t",', False),
        ('"id": 5,', '"id": 5.0,', False),
        ('"width": 60', '"width": 65536', False),
        ('"name": "nine"', '"name": ""', False),
        ("3, 4]", "3, 4, 5]", False),
        ("3, 4]", "3]", False),
        ("3, 4]", '3, "4"]', False),
        ("3, 4]", "3, true]", False),
        ('"image_id": 5', '"image_id": 6', False),
        ('"id": 1', '"id": 1, "segmentation": [[1, 2, 3, 4, 5, 6], [0, 0, 1e3, 0, -1000000, 1000000.0, 7, 7]]', True),
        ('"id": 1', '"id": 1, "segmentation": []', True),
        ('"id": 1', '"id": 1, "segmentation": null', True),
        ('"id": 1', '"id": 1, "segmentation": {"counts": [1, NaN]}', True),
        ('"id": 1', '"segmentation": [], "id": 1, "segmentation": []', False),
        ('"id": 1', '"id": 1, "segmentation": [1, 2, 3, 4, 5, 6]', False),
        ('"id": 1', '"id": 1, "segmentation": [[1, 2, 3, 4, 5, 6, 7]]', True),
        ('"id": 1', '"id": 1, "segmentation": [[1, 2, 3, 4]]', True),
        ('"id": 1', '"id": 1, "segmentation": [[]]', True),
        ('"id": 1', '"id": 1, "segmentation": [[1, 2, 3, 4, 5, NaN]]', False),
        ('"id": 1', '"id": 1, "segmentation": [[1, 2, 3, 4, 5, 1000001]]', False),
        ('"id": 1', '"id": 1, "segmentation": [[1, 2, 3, 4, 5, true]]', False),
        ('"id": 1', '"id": 1, "segmentation": [[1, 2, 3, 4, 5, "6"]]', False),
        ('"id": 1', '"id": 1, "segmentation": "abc"', False),
        ('"id": 1', '"id": 1, "segmentation": NaN', False),
        ('"id": 1', '"id": 1, "segmentation": 7', False),
        ("}]}", "}]} x", False),
        ("}]}", "}],}", False),
    ],
)
def test_what_is_taken(tmp_path, old, new, taken):
    text = json.dumps(GOOD)
    assert text.count(old) >= 1
    path = tmp_path / "x.json"
    path.write_text(text.replace(old, new, 1) if old != "}]}" else text[: -len(old)] + new)
    clean, checked = both(path, tmp_path)
    assert (clean is not None) == taken
    if taken:
        agree(clean, checked)
    else:
        try:
            index = coco_index(path, tmp_path, CocoOptions(False, True), strict)
        except DataError as error:
            assert str(error) == checked
        else:
            agree(index, checked)


def test_only_regular_files_are_mapped(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "empty", tmp_path / "pipe"):
        assert _core.dataset_read_coco(os.fsencode(path), False) is None


def test_nesting(tmp_path):
    for depth, taken in ((62, True), (63, False)):
        text = json.dumps({**GOOD, "info": 0}).replace('"info": 0', '"info": {"x": ' + "[" * depth + "]" * depth + "}")
        (tmp_path / "x.json").write_text(text)
        clean, checked = both(tmp_path / "x.json", tmp_path)
        assert (clean is not None) == taken and isinstance(checked, str) != taken


def test_ids_in_any_order(tmp_path):
    random = np.random.default_rng(1)
    ids = random.permutation(300).tolist()
    images = [{"id": 7 * i, "file_name": f"{i % 5}/{i}.jpg", "height": 9 + i, "width": 9} for i in ids]
    rows = [
        {"id": i, "image_id": 7 * ids[i % 290], "category_id": 9 - i % 3, "bbox": [i, 2.5, 3, 4], "iscrowd": i % 2}
        for i in random.permutation(2000).tolist()
    ]
    content = {"annotations": rows, "categories": [{"id": i, "name": str(i)} for i in (8, 9, 7)], "images": images}
    (tmp_path / "x.json").write_text(json.dumps(content))
    clean, checked = both(tmp_path / "x.json", tmp_path)
    agree(clean, checked)
    rows[5]["id"] = rows[6]["id"]
    (tmp_path / "x.json").write_text(json.dumps(content))
    clean, checked = both(tmp_path / "x.json", tmp_path)
    assert clean is None and "occurs twice" in checked


def test_starts_are_checked():
    letters = np.frombuffer(b"abcdef", np.uint8)
    assert _core.dataset_not_plain(b"/", letters, np.array([0, 3, 6]), False).tolist() == [False, False]
    for starts in ([0, 7], [1, 6], [0, 4, 3, 6], [0, -1, 6], []):
        with pytest.raises(ValueError, match="dataset_not_plain"):
            _core.dataset_not_plain(b"/", letters, np.array(starts, np.int64), False)
