# SPDX-License-Identifier: Apache-2.0
"""Paths in columns: what a list of them gives, and folders listed natively as Python lists them."""

from __future__ import annotations

import os
import random as random_numbers
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet import _core
from fastdet.data.dataset import DataError, Problem, real_inside
from fastdet.data.file_names import FileNames, texts_of
from fastdet.data.picture_files import _listed, in_folder, in_list
from fastdet.image_files import PICTURE_SUFFIXES

PATHS = st.lists(st.text("ab/.\u00e9\U0001f600\udc80", max_size=6).map("/set/".__add__), max_size=8)


@settings(max_examples=100, deadline=None)
@given(paths=PATHS, chosen=st.randoms(use_true_random=False))
def test_columns_are_the_list(paths, chosen):
    names = FileNames.of(paths)
    assert list(names) == paths == [names[row] for row in range(len(paths))] and len(names) == len(paths)
    assert list(names[1:5]) == paths[1:5] and list(names[-2:]) == paths[-2:] and not names[9:]
    mask = np.array([chosen.random() < 0.5 for _ in paths], bool)
    assert list(names.keep(mask)) == [path for path, kept in zip(paths, mask, strict=True) if kept]
    begin = len(os.fsencode(names.prefix))
    rows = np.flatnonzero(mask)
    replaced = names.replaced(rows, [os.fsencode(f"{paths[row]}x")[begin:] for row in rows])
    assert list(replaced) == [f"{path}x" if new else path for path, new in zip(paths, mask, strict=True)]
    assert list(FileNames.join([names, replaced, names[:0]])) == [*names, *replaced]
    assert list(names.in_order()) == sorted(paths, key=lambda path: path.replace("/", "\0"))
    numbers, folders = names.folders()
    assert [folders[number] for number in numbers] == [path[: path.rfind("/") + 1] for path in paths]
    assert len(set(folders)) == len(folders)


def test_parts_with_other_folders_are_joined():
    parts = [["/set/a/1", "/set/a/2"], [], ["/set/b/1"], ["x"]]
    assert list(FileNames.join([FileNames.of(part) for part in parts])) == [path for part in parts for path in part]
    assert list(FileNames.join([])) == [] and list(FileNames.of([])) == []
    with pytest.raises(IndexError):
        FileNames.of(["a"])[1]


def listed_by_python(folder, root, allow_outside, report):
    """What ``in_folder`` says it does, by ``os.walk``-like means alone."""
    found, waiting, seen = [], [folder], set()
    while waiting:
        here = waiting.pop()
        if os.path.realpath(here) in seen:
            continue
        seen.add(os.path.realpath(here))
        for name in os.listdir(here):
            entry, picture = here / name, os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES
            if entry.is_symlink() and not allow_outside and not real_inside(root, entry):
                if picture or entry.is_dir():
                    report(Problem("error", "path-outside", entry, "", "x"))
            elif picture:
                found.append(str(entry))
            elif entry.is_dir():
                waiting.append(entry)
    return sorted(found, key=lambda path: path.replace("/", "\0"))


NAMES = [b"a.jpg", b"b.PNG", b"A.Jpeg", b".jpg", b"..png", b".x.png", b"jpg", b"a.jpgs", b"a.", b"z-1.bmp", b"a.tiff"]
NAMES += [b"\xc3\xa9.jpg", b"\xff.jpg", b"x.\xff", b"\xe2\x84\xaa.jpg", b"n.b\xe2\x84\xaap", b"a b.webp", b"a.jpg.txt"]


@pytest.mark.parametrize("seed", range(6))
def test_folders_are_listed_as_python_lists_them(tmp_path, seed):
    random = random_numbers.Random(seed)
    root = (tmp_path / "set").resolve()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "out.jpg").write_bytes(b"")
    folders = [os.fsencode(root)]
    os.mkdir(folders[0])
    for name in (b"a", b"a.b", b"a/c", b"a-", b"sub.jpg", b"\xfe", b"a/c/d"):
        if os.path.dirname(b"%s/%s" % (folders[0], name)) in folders and random.random() < 0.8:
            folders.append(b"%s/%s" % (folders[0], name))
            os.mkdir(folders[-1])
    for folder in folders:
        for name in random.sample(NAMES, random.randrange(len(NAMES))):
            if seed % 2 and not name.isascii():
                continue
            Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"")
    for place, goal in (("l", "a"), ("out", "../elsewhere"), ("o.jpg", "../elsewhere/out.jpg"), ("q.png", "a.jpg")):
        (root / place).symlink_to(goal)
    (root / "gone.jpg").symlink_to("nothing")
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "pipe.gif")
    for allow_outside in (False, True):
        told: list[list[Problem]] = [[], []]
        found = in_folder(root, root, allow_outside=allow_outside, report=told[0].append)
        wanted = listed_by_python(root, root, allow_outside, told[1].append)
        assert list(found) == wanted and len(wanted) > 3
        assert [problem.path for problem in told[0]] == [problem.path for problem in told[1]]


def test_relative_folders_and_such_that_cannot_be_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jpg").write_bytes(b"")
    for folder, names in ((".", ["a/b.jpg"]), ("a", ["a/b.jpg"])):
        assert list(in_folder(Path(folder), tmp_path, allow_outside=False, report=print)) == names
    for missing, reason in (("none", "No such file"), ("a/b.jpg", "Not a directory")):
        with pytest.raises(DataError, match=f"^{missing}: cannot be read: {reason}"):
            in_folder(Path(missing), tmp_path, allow_outside=False, report=print)


def test_lists_are_read_as_line_by_line(tmp_path):
    root = (tmp_path / "set").resolve()
    outside = (tmp_path / "elsewhere").resolve()
    for folder in (root / "lists" / "a", root / "a" / "b", outside, root / "c:d", root / "e\\f"):
        folder.mkdir(parents=True)
        for name in ("1.jpg", "2.jpg"):
            (folder / name).write_bytes(b"")
    (root / "a" / "3.jpg").write_bytes(b"")
    for place, goal in (("in", "a"), ("out", outside), ("loop", "loop"), ("lists/up", "../a/b")):
        (root / place).symlink_to(goal)
    (root / "a" / "link.jpg").symlink_to("3.jpg")
    (root / "a" / "out.jpg").symlink_to(outside / "1.jpg")
    (root / "a" / "gone.jpg").symlink_to("nothing")
    folders = [
        "",
        "a/",
        "./a/",
        "a/b/",
        "a/../a/b/",
        "a//b/",
        "in/",
        "in/b/",
        "out/",
        "loop/",
        "up/",
        "../a/",
        "../lists/a/",
    ]
    folders += ["../../set/a/", "../elsewhere/", "c:d/", "e\\f/", "none/", f"{root}/a/", f"{outside}/", "a/3.jpg/", "/"]
    files = ["1.jpg", "3.jpg", "link.jpg", "out.jpg", "gone.jpg", "none.jpg", ".", "..", "b", "", "# x"]
    names = [folder + file for folder in folders for file in files]
    (root / "l").symlink_to("lists")
    for place in (root / "list.txt", root / "lists" / "list.txt", root / "l" / "list.txt", outside / "list.txt"):
        place.write_text("\n".join(names))
        for allow_outside in (False, True):
            told: list[Problem] = []
            found = in_list(place, root, allow_outside=allow_outside, report=told.append)
            lines = [(row, name) for row, name in enumerate(names, start=1) if name.strip() and name[0] != "#"]
            wanted = [(row, _listed(place, root, name, allow_outside)) for row, name in lines]
            assert list(found) == [str(path) for _, path in wanted if path is not None]
            assert [problem.where for problem in told] == [str(row) for row, path in wanted if path is None]


def test_arguments_are_checked():
    names = texts_of(["a/b.jpg", "a/c.jpg"])
    labels = texts_of(["labels/"])
    (letters, starts), special = _core.dataset_label_names(*names, np.zeros(2, np.int32), *labels)
    assert list(FileNames("", letters, starts)) == ["labels/b.txt", "labels/c.txt"] and not len(special)
    for numbers in ([0], [0, 1], [-1, 0]):
        with pytest.raises(ValueError, match="dataset_label_names: folder must"):
            _core.dataset_label_names(*names, np.array(numbers, np.int32), *labels)
    for call in (_core.dataset_sorted, _core.dataset_folders):
        with pytest.raises(ValueError, match="starts must rise"):
            call(names[0], names[1][::-1].copy())
