# SPDX-License-Identifier: Apache-2.0
"""The index of a data set: what it gives back, what it refuses, and how it is kept between openings."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from small_sets import write_coco, write_voc, write_yolo

from fastdet.data import index_cache, layout, open_dataset
from fastdet.data.index import HEADER, PLACE, SECTIONS, IndexFileError, make_index, open_index, write_index
from fastdet.data.index_rows import Annotations, IndexBuilder, Pictures

COLUMNS = [name for name in SECTIONS if name != "about"]
WRITERS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


def some_index(pictures: int = 5, seed: int = 0, folder: str = "/set"):
    """Pictures without and with annotations, which come in any order."""
    random = np.random.default_rng(seed)
    builder = IndexBuilder()
    for row in range(pictures):
        builder.picture(100 - row, f"{folder}/{row % 3}/{row}.jpg", (40 + row, 60))
    for row in range(3 * pictures if pictures > 1 else 0):
        box = tuple((random.random(4) * 50 - 5).tolist())
        rings = [random.uniform(-5, 70, 2 * int(random.integers(3, 6))).tolist() for _ in range(row % 3)]
        picture = int(random.integers(pictures - 1))
        builder.annotation(row, picture, row % 2, box, box[2] * box[3], int(row % 5 == 0), rings)
    return builder.index(("a", "\udce4"), (3, 7))


def same(one, other) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    assert (one.names, one.category_ids, one.prefix, one.notes) == (
        other.names,
        other.category_ids,
        other.prefix,
        other.notes,
    )


def rows_of(pictures):
    def rings(picture):
        return picture.polygons and [[ring.tolist() for ring in own] for own in picture.polygons]

    return [(p.id, p.path, p.height, p.width, p.boxes.tolist(), p.labels.tolist(), rings(p)) for p in pictures]


def test_rows_are_made_on_access():
    index = some_index()
    pictures, annotations = Pictures(index), Annotations(index)
    assert len(pictures) == 5 and [p.id for p in pictures] == [100, 99, 98, 97, 96] == pictures.ids.tolist()
    assert pictures[-1].path == Path("/set/1/4.jpg") and pictures[1:4][1].id == 98
    assert rows_of(pictures[::-2]) == rows_of(pictures)[::-2]
    assert list(annotations[3:9]) == list(annotations)[3:9] == [annotations[i] for i in range(3, 9)]
    assert rows_of(pictures.where(pictures.ids > 97)) == rows_of(pictures)[:3]
    for picture in pictures:
        own = [a for a in annotations if a.image_id == picture.id and not a.iscrowd]
        corners = np.array([(*a.bbox[:2], a.bbox[0] + a.bbox[2], a.bbox[1] + a.bbox[3]) for a in own]).reshape(-1, 4)
        corners = corners.clip(0, [picture.width, picture.height] * 2)
        solid = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        np.testing.assert_array_equal(picture.boxes, corners[solid].astype(np.float32))
        np.testing.assert_array_equal(picture.labels, np.array([{3: 0, 7: 1}[a.category_id] for a in own])[solid])
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            pictures[wrong]
    with pytest.raises(ValueError, match="read-only"):
        index.box[0] = 0


@pytest.mark.parametrize("pictures", [0, 1, 2, 97])
def test_file_gives_back_what_was_written(tmp_path, pictures):
    index = some_index(pictures)
    write_index(tmp_path / "x.index", index)
    again = open_index(tmp_path / "x.index")
    same(index, again)
    sent = pickle.dumps(again)
    assert len(sent) < 300
    same(pickle.loads(sent), again)
    same(pickle.loads(pickle.dumps(index)), index)
    write_index(tmp_path / "x.index", some_index(3))
    with pytest.raises(IndexFileError, match="another index than the one"):
        pickle.loads(sent)


def test_every_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "x.index"
    write_index(path, some_index(2))
    good = path.read_bytes()
    for at in (*range(HEADER.size), *range(HEADER.size, len(good), 5)):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        with pytest.raises(IndexFileError):
            open_index(path)
    for at in (0, 1, 55, HEADER.size, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:at])
        with pytest.raises(IndexFileError):
            open_index(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(IndexFileError, match="bytes"):
        open_index(path)


def signed(data: bytes) -> bytes:
    """``data`` with the checksum that it should have."""
    head = data[: HEADER.size - 32] + bytes(32)
    return head[:-32] + hashlib.sha256(head + data[HEADER.size :]).digest() + data[HEADER.size :]


def test_offsets_are_checked_even_when_the_checksum_is_right(tmp_path):
    path = tmp_path / "x.index"
    write_index(path, some_index(4))
    good = path.read_bytes()
    assert signed(good) == good
    number = {name: place for place, name in enumerate(SECTIONS)}

    def refused(data: bytes, reason: str | None = None) -> None:
        path.write_bytes(signed(data))
        with pytest.raises(IndexFileError, match=reason):
            open_index(path)

    def changed(name: str, row: int, value: int) -> bytes:
        kind, wide = SECTIONS[name]
        start, _ = PLACE.unpack_from(good, HEADER.size + PLACE.size * number[name])
        at = start + np.dtype(kind).itemsize * wide * row
        raw = np.array(value).astype(kind).tobytes()
        return good[:at] + raw + good[at + len(raw) :]

    for name, value in (
        ("path_starts", -1),
        ("path_starts", 2**62),
        ("starts", 2**40),
        ("order", 12),
        ("order", -1),
        ("picture", 4),
        ("picture", -(2**63)),
        ("label", 2),
        ("label", -1),
        ("height", 0),
        ("width", 2**30),
        ("crowd", 2),
        ("point", np.nan),
        ("point", -1e7),
        ("ring_starts", 2),
        ("ring_starts", 2**50),
        ("ring_starts", -1),
        ("polygon_starts", 2**50),
        ("polygon_starts", -1),
    ):
        refused(changed(name, 1, value), name)
    for name in SECTIONS:
        at = HEADER.size + PLACE.size * number[name]
        start, length = PLACE.unpack_from(good, at)
        for other in ((start + 64, length), (start, length + 64), (2**64 - 64, length), (start, 2**64 - 1), (0, 0)):
            refused(good[:at] + PLACE.pack(*other) + good[at + PLACE.size :])
    start, length = PLACE.unpack_from(good, HEADER.size)
    for about in (b"[]", b"{}", b"\xff", b'{"names": 3}', b"[" * 60):
        refused(good[:start] + about.ljust(length) + good[start + length :])


def test_columns_must_belong_together():
    index = some_index()
    columns = {name: getattr(index, name) for name in COLUMNS if name not in ("starts", "order")}
    make_index(index.names, index.category_ids, prefix=b"", **columns)
    wrong = [("height", "height", index.height[1:]), ("picture", "picture", index.picture + 5)]
    wrong += [("area", "area", index.area[:2]), ("point", "ring_starts", index.point[:-1])]
    wrong += [("ring_starts", "polygon_starts", index.ring_starts[:-1]), ("ring_starts", "ring_starts", ())]
    wrong += [("polygon_starts", "polygon_starts", value) for value in ((), index.polygon_starts[:-1])]
    for name, told, value in wrong:
        with pytest.raises(IndexFileError, match=told):
            make_index(index.names, index.category_ids, prefix=b"", **{**columns, name: value})


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Which readers ran."""
    ran: list[str] = []
    for name in ("coco_index", "yolo_index", "voc_index"):
        reader = getattr(layout, name)
        monkeypatch.setattr(
            layout, name, lambda *a, _r=reader, _n=name, **k: (ran.append(_n.removesuffix("_index")), _r(*a, **k))[1]
        )
    return ran


@pytest.mark.parametrize("kind", WRITERS)
def test_kept_index_is_used_until_something_changes(tmp_path, reads, kind, monkeypatch):
    root, cache = WRITERS[kind](tmp_path / "set"), tmp_path / "cache"
    first = open_dataset(root, "val", cache=cache)
    monkeypatch.setenv("FASTDET_CACHE", str(cache))
    again = open_dataset(root, "val")
    assert reads == [kind] and again.pictures.columns.file is not None and len(list(cache.iterdir())) == 1
    assert rows_of(first.pictures) == rows_of(again.pictures) and list(first.annotations) == list(again.annotations)
    assert (first.path, first.names, first.category_ids) == (again.path, again.names, again.category_ids)
    label = {"coco": "annotations/instances_val.json", "yolo": "labels/val/b.txt", "voc": "Annotations/b.xml"}[kind]
    os.utime(root / label, ns=(1, 1))
    open_dataset(root, "val")
    assert reads == [kind] * 2 and len(list(cache.iterdir())) == 1  # the old one is gone
    open_dataset(root, "val", allow_outside=True)
    open_dataset(root, "train")
    assert reads == [kind] * 4 and len(list(cache.iterdir())) == 3
    open_dataset(root, "val", report=lambda problem: None)  # wants to be told again
    monkeypatch.delenv("FASTDET_CACHE")
    open_dataset(root, "val")
    assert reads == [kind] * 6 and len(list(cache.iterdir())) == 3


def test_damaged_entry_is_built_again(tmp_path, reads):
    root, cache = write_yolo(tmp_path / "set"), tmp_path / "cache"
    wanted = rows_of(open_dataset(root, "val", cache=cache).pictures)
    (entry,) = cache.iterdir()
    good = entry.read_bytes()
    random = np.random.default_rng(3)
    for count in range(20):
        at = int(random.integers(len(good)))
        entry.write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
        assert rows_of(open_dataset(root, "val", cache=cache).pictures) == wanted
        assert len(reads) == count + 2 and entry.read_bytes() == good


def test_a_link_put_in_place_of_a_picture_is_noticed(tmp_path):
    root, cache = write_coco(tmp_path / "set"), tmp_path / "cache"
    open_dataset(root, "val", cache=cache)
    picture = root / "images" / "val" / "a.png"
    picture.rename(tmp_path / "elsewhere.png")
    picture.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(ValueError, match="leads out of"):
        open_dataset(root, "val", cache=cache)


def test_folder_that_cannot_be_written_is_a_warning(tmp_path, reads):
    root = write_coco(tmp_path / "set")
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="no index could be kept there"):
        data = open_dataset(root, "val", cache=tmp_path / "file" / "cache")
    assert len(data) == 3 and reads == ["coco"]


OPEN = """
import sys, time
from fastdet.data import layout, open_dataset
reader = layout.coco_index
def slow(*given, **options):
    print("reads", flush=True)
    time.sleep(float(sys.argv[3]))
    return reader(*given, **options)
layout.coco_index = slow
data = open_dataset(sys.argv[1], "val", cache=sys.argv[2])
print(len(data), data.pictures[1].boxes.tolist(), data.pictures.columns.file is not None, flush=True)
"""


def opener(root: Path, cache: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", OPEN, str(root), str(cache), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_builds_and_a_killed_one_holds_nobody(tmp_path):
    root, cache = write_coco(tmp_path / "set"), tmp_path / "cache"
    killed = opener(root, cache, 60)
    assert killed.stdout is not None and killed.stdout.readline() == "reads\n"
    (lock,) = cache.glob("*.lock")
    assert lock.read_text().split()[0] == str(killed.pid)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    both = [opener(root, cache, 0.5) for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[0] for process in both)
    line = "3 [[8.0, 8.0, 24.0, 16.0]] True\n"
    assert said == [line, f"reads\n{line}"]
    assert [path.suffix for path in cache.iterdir()] == [".index"]


def test_a_lock_that_is_held_for_too_long_does_not_stop_reading(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(index_cache, "LOCK_SECONDS", 0.05)
    root, cache = write_coco(tmp_path / "set"), tmp_path / "cache"
    open_dataset(root, "val", cache=cache)
    (entry,) = cache.iterdir()
    entry.unlink()
    with open(entry.with_suffix(".lock"), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        start = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(open_dataset(root, "val", cache=cache)) == 3
        assert time.monotonic() - start < 30 and entry.exists()


def test_half_a_surrogate_pair_names_no_file(tmp_path):
    root = write_coco(tmp_path / "set")
    path = root / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"a.png"', r'"\ud800.png"'))
    for allowed in (False, True):
        with pytest.raises(ValueError, match=r"images\[0\]: 'file_name' must be a text"):
            open_dataset(root, "val", allow_outside=allowed)


def test_coco_nested_deeper_than_64_is_refused(tmp_path):
    root = write_coco(tmp_path / "set")
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    for depth, fine in ((62, True), (63, False)):
        extra = []
        for _ in range(depth - 1):
            extra = [extra]
        path.write_text(json.dumps({**content, "info": {"x": extra}}))
        if fine:
            assert len(open_dataset(root, "val")) == 3
        else:
            with pytest.raises(ValueError, match="nested too deeply"):
                open_dataset(root, "val")


def test_pictures_cost_no_objects(tmp_path):
    """What stays of 20,000 pictures and 30,000 boxes is columns: 69 bytes a box, 32 and the name a picture."""
    pictures = 20_000
    images = [{"id": i, "file_name": f"{i % 7}/{i:08}.jpg", "height": 480, "width": 640} for i in range(pictures)]
    rows = [
        {"id": k, "image_id": k * 2 // 3, "category_id": 1, "bbox": [k % 300, 2.5, 30, 40], "iscrowd": 0}
        for k in range(3 * pictures // 2)
    ]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    del images, rows, content
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        gc.collect()
        objects = len(gc.get_objects())
        tracemalloc.start()
        data = open_dataset(tmp_path / "x.json", images=tmp_path, cache=cache)
        size, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        gc.collect()
        assert len(gc.get_objects()) - objects < 1000
        assert len(data) == pictures and len(data.annotations) == 3 * pictures // 2
        columns = data.pictures.columns
        assert columns.nbytes() == pictures * (8 + 4 + 4 + 8 + 8 + 14) + 16 + len(data.annotations) * 69
        assert size < (columns.nbytes() if cache is None else 0) + 200_000 and peak < 3 * columns.nbytes()
