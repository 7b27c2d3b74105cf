# SPDX-License-Identifier: Apache-2.0
"""The loader gives the same batches whoever builds them, from any place on, and says what it could not read."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastdet.data.pictures
from broken_pictures import pattern, write_broken
from fastdet.data.augmentation import RECIPES, Augmentation, augmented_sample
from fastdet.data.coco import read_coco
from fastdet.data.dataset import DataError, Picture
from fastdet.data.loader import Loader, PictureCache, read_picture
from fastdet.image_files import ImageError

OPTIONS = Augmentation(mosaic=0.5, mixup=0.2, rotate_quarter=0.5)
SIZE = (64, 96)


def dataset_of(root):
    return read_coco(root / "annotations/train.json", root / "images")


def loader_of(root, **options):
    return Loader(dataset_of(root), OPTIONS, **{"size": SIZE, "batch_size": 2, "seed": 5, "cache_mb": 100, **options})


def batches(root, epoch=3, **options):
    with loader_of(root, **options) as loader:
        loader.seek(epoch)
        return list(loader)


def content(batch):
    """All of a batch, as bytes."""
    arrays = [batch.images, *batch.boxes, *batch.labels]
    return [(each.shape, each.dtype, each.tobytes()) for each in arrays], batch.indices


def flat(given):
    """index -> (pixels, boxes, labels)"""
    return {
        index: (batch.images[row].tobytes(), batch.boxes[row].tobytes(), batch.labels[row].tobytes())
        for batch in given
        for row, index in enumerate(batch.indices)
    }


def test_shapes_and_order(shapes):
    given = batches(shapes, batch_size=3)
    assert len(given) == 2  # of 8 pictures, the last incomplete batch is left out
    assert given[0].images.shape == (3, 3, 64, 96) and given[0].images.dtype == np.uint8
    assert len({index for batch in given for index in batch.indices}) == 6


def test_sample_depends_on_seed_epoch_and_index_only(shapes):
    reference = flat(batches(shapes))
    assert sorted(reference) == list(range(8))
    for options in ({"batch_size": 4}, {"batch_size": 8, "workers": 2}, {"cache_mb": 0}):
        assert flat(batches(shapes, **options)) == reference, options
    for options in ({"epoch": 4}, {"seed": 6}):
        other = flat(batches(shapes, **options))
        assert all(other[index] != reference[index] for index in range(8))


@pytest.mark.parametrize("name", ["yolov7", "damo-yolo"])
def test_recipes_of_others(shapes, name):
    """A batch holds what ``augmented_sample`` gives, whoever builds it."""
    data, recipe = dataset_of(shapes), RECIPES[name]
    for options in ({}, {"workers": 2}):
        with Loader(data, recipe, size=SIZE, batch_size=4, seed=5, calm_from=1, **options) as loader:
            given = [(epoch, batch) for epoch in range(2) for batch in loader]
        for epoch, batch in given:
            for row, index in enumerate(batch.indices):
                sample = augmented_sample(
                    PictureCache(data.pictures), index, recipe=recipe, size=SIZE, seed=5, epoch=epoch, calm=epoch == 1
                )
                np.testing.assert_array_equal(batch.images[row].transpose(1, 2, 0), sample.image)
                np.testing.assert_array_equal(batch.boxes[row], sample.boxes)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 1},
        {"workers": 3, "prefetch": 1},
        {"workers": 5},
        {"workers": 1, "worker_kind": "process"},
        {"workers": 2, "worker_kind": "process", "prefetch": 1},
    ],
    ids=str,
)
def test_all_workers_give_the_same_batches_in_two_epochs(shapes, options):
    with loader_of(shapes) as plain, loader_of(shapes, **options) as loader:
        for _ in range(2):
            wanted, given = list(plain), list(loader)
            assert [content(batch) for batch in given] == [content(batch) for batch in wanted]
        assert loader.state() == plain.state() and loader.state()["epoch"] == 2


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"workers": 2, "worker_kind": "process"}], ids=str)
def test_state_gives_exactly_the_remaining_batches(shapes, options):
    straight = [content(batch) for epoch in (0, 1) for batch in batches(shapes, epoch)]
    for taken in (0, 1, 4, 5):
        first = loader_of(shapes)
        seen = []
        while len(seen) < taken:
            for batch in first:
                seen.append(content(batch))
                if len(seen) == taken:
                    break
        saved = json.loads(json.dumps(first.state()))
        with loader_of(shapes, **options) as second:
            second.load_state(saved)
            while second.state()["epoch"] < 2:
                seen += [content(batch) for batch in second]
        assert seen == straight, taken
        if "worker_kind" in options:
            break  # starting processes takes its time


def test_states_that_do_not_fit_are_refused(shapes):
    loader = loader_of(shapes)
    state = loader.state()
    for change in ({"seed": 6}, {"batch_size": 4}, {"pictures": 9}, {"batch": 5}, {"epoch": -1}, {"batch": None}):
        with pytest.raises(ValueError, match="Loader: "):
            loader.load_state({**state, **change})
    assert loader.state() == state
    for batch in loader:
        with pytest.raises(RuntimeError, match="cannot seek"):
            loader.load_state(state)
        with pytest.raises(RuntimeError, match="has not ended"):
            next(iter(loader))
        assert batch.images.any()


def test_refusals(shapes):
    for options in (
        {"batch_size": 0}, {"workers": -1}, {"prefetch": 0}, {"worker_kind": "fork"}, {"on_error": "grey"},
        {"size": (0, 64)}, {"size": (64,)}, {"seed": -1}, {"seed": 2**64},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"Loader: {next(iter(options))} must be"):
            loader_of(shapes, **options)
    with pytest.raises(ValueError, match="batch_size 9 is above the 8 pictures"):
        loader_of(shapes, batch_size=9)
    for options in ({"batch_size": 2.5}, {"workers": "2"}, {"size": 64}, {"size": "64"}, {"size": (64.0, 64)}):
        with pytest.raises(TypeError, match=f"Loader: {next(iter(options))} must be"):
            loader_of(shapes, **options)
    with pytest.raises(TypeError, match=r"augmentation must be an Augmentation or a Recipe.*got 'yolov8'"):
        Loader(dataset_of(shapes), "yolov8", size=(64, 64), batch_size=2)
    with pytest.raises(TypeError, match="dataset must be what open_dataset returns, got str"):
        Loader("bccd", Augmentation(), size=(64, 64), batch_size=2)
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="pin_memory needs"):
            loader_of(shapes, pin_memory=True)


def test_pinned_memory(shapes):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("pinned memory needs a CUDA device")
    with loader_of(shapes, pin_memory=True, workers=2) as loader, loader_of(shapes) as plain:
        for batch, other in zip(loader, plain, strict=True):
            assert torch.from_numpy(batch.images).is_pinned() and content(batch) == content(other)


def test_calm_samples_keep_every_box(shapes):
    data = dataset_of(shapes)
    for batch in batches(shapes, calm_from=3):
        for row, index in enumerate(batch.indices):
            np.testing.assert_array_equal(batch.labels[row], data.pictures[index].labels)


def picture(path, height=6, width=10):
    return Picture(1, path, height, width, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def test_picture_is_turned_as_its_exif_says(tmp_path):
    pixels = np.zeros((10, 6, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # show turned clockwise by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    shown = np.asarray(read_picture(picture(tmp_path / "a.png")))
    assert shown.shape == (6, 10, 3) and (shown[:, -1] == 255).all() and not shown[:, :-1].any()


def test_bad_pictures_are_named(tmp_path):
    Image.new("RGB", (10, 6)).save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("cut.jpg", "page.jpg", "empty.jpg", "folder.jpg", "missing.jpg"):
        with pytest.raises(DataError, match=f"{name}: cannot be decoded"):
            read_picture(picture(tmp_path / name))
    with pytest.raises(DataError, match=r"good.jpg: is 10 x 6 pixels, the annotations say 10 x 7"):
        read_picture(picture(tmp_path / "good.jpg", height=7))


# ---- pictures that cannot be read ----------------------------------------------------------------------------------

KINDS = [{}, {"workers": 2}, {"workers": 2, "worker_kind": "process"}]


@pytest.fixture
def damaged(shapes, tmp_path):
    """The data set with pictures 2, 3 and 7 spoilt."""
    root = tmp_path / "damaged"
    shutil.copytree(shapes, root)
    (root / "images/train-2.png").write_bytes(b"")
    (root / "images/train-3.png").write_text("<html>404</html>")
    Image.new("RGB", (5, 5)).save(root / "images/train-7.png")
    return root


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_an_error_names_the_file_and_loses_nothing(shapes, damaged, options):
    with loader_of(damaged, **options) as loader:
        seen = []
        while loader.state()["epoch"] == 0:
            try:
                seen += [content(batch) for batch in _noting(loader, seen)]
            except DataError as error:
                name = Path(str(error).partition(": ")[0]).name
                assert name in ("train-2.png", "train-3.png", "train-7.png")
                assert loader.state()["batch"] == len(seen)
                shutil.copy(shapes / "images" / name, damaged / "images" / name)  # repaired: go on
    assert seen == [content(batch) for batch in batches(shapes, 0)]


def _noting(loader, seen):
    for batch in loader:
        seen.append(content(batch))
    return ()


def test_skipping_takes_the_next_picture_and_counts(damaged):
    """Every kind of worker gives the same, which is what a data set with the next pictures in their place gives."""
    data = dataset_of(damaged)
    stands_in = {2: 4, 3: 4, 7: 0}
    pictures = tuple(data.pictures[stands_in.get(index, index)] for index in range(8))
    repaired = dataclasses.replace(data, pictures=pictures)
    wanted = list(Loader(repaired, OPTIONS, size=SIZE, batch_size=2, seed=5))
    counts = []
    for options in KINDS:
        with loader_of(damaged, on_error="skip", **options) as loader:
            given = list(loader)
            counts.append((loader.replaced, {path.name: reason for path, reason in loader.bad_pictures.items()}))
        for batch, other in zip(given, wanted, strict=True):
            assert content(batch)[0] == content(other)[0]
            assert batch.indices == [stands_in.get(index, index) for index in other.indices]
            assert set(batch.unreadable) <= set(stands_in)
        assert loader.replaced == sum(batch.replaced for batch in given) >= 3
    assert counts[0] == counts[1] == counts[2]
    assert sorted(counts[0][1]) == ["train-2.png", "train-3.png", "train-7.png"]
    assert counts[0][1]["train-2.png"].endswith("train-2.png: cannot be decoded: the file is empty")
    assert "is 5 x 5 pixels" in counts[0][1]["train-7.png"]


def test_nothing_readable_is_an_error(damaged):
    for path in (damaged / "images").glob("train-*.png"):
        path.write_bytes(b"")
    with loader_of(damaged, on_error="skip") as loader, pytest.raises(DataError, match="no picture of it can be read"):
        list(loader)


@pytest.mark.parametrize("options", [{}, {"workers": 2}], ids=str)
def test_retrying_reads_again_and_counts(shapes, monkeypatch, options):
    """A file that comes back within three more attempts changes nothing but the count; another is an error."""
    failures = {"train-2.png": 3, "train-5.png": 1}
    left, read = dict(failures), fastdet.data.pictures.read_reduced

    def sometimes(path, draft):
        if left.get(path.name, 0):
            left[path.name] -= 1
            raise ImageError(path, "input/output error")
        return read(path, draft)

    monkeypatch.setattr("fastdet.data.pictures.read_reduced", sometimes)
    monkeypatch.setattr("fastdet.data.batches.RETRY_SECONDS", (0.0, 0.0, 0.0))
    wanted = batches(shapes, 0, on_error="retry", worker_kind="process", workers=1)  # which reads for itself
    with loader_of(shapes, on_error="retry", cache_mb=0, **options) as loader:
        given = list(loader)
        assert [content(batch) for batch in given] == [content(batch) for batch in wanted]
        assert loader.retried == sum(batch.retried for batch in given) == 4 and loader.bad_pictures == {}
    left["train-2.png"] = 4
    with loader_of(shapes, on_error="retry", cache_mb=0) as loader, pytest.raises(DataError, match="output error"):
        list(loader)
    assert left["train-2.png"] == 0


# ---- threads and processes end -------------------------------------------------------------------------------------


def shared_segments():
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def left_behind(before, seconds=3.0):
    """Segments that came since ``before`` and stay; those of other programs come and go."""
    end = time.monotonic() + seconds
    left = shared_segments() - before
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left &= shared_segments()
    return left


def loader_threads():
    return [each for each in threading.enumerate() if each.name.startswith("fastdet-loader")]


def pids(loader):
    return [each.process.pid for each in loader._workers._processes]


def gone(numbers, seconds=20.0):
    """Whether all processes have ended, or do within ``seconds``: about one on a machine with nothing else to do."""
    end = time.monotonic() + seconds
    while any(os.path.exists(f"/proc/{number}") for number in numbers) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(os.path.exists(f"/proc/{number}") for number in numbers)


@pytest.mark.parametrize("options", KINDS[1:], ids=str)
def test_leaving_early_ends_everything(shapes, options):
    before = shared_segments()
    loader = loader_of(shapes, **options)
    for fault in (KeyboardInterrupt, GeneratorExit):
        iterator = iter(loader)
        assert next(iterator).images.any()
        processes = pids(loader) if "worker_kind" in options else []
        with pytest.raises(fault):
            iterator.throw(fault)
        assert not loader_threads() and gone(processes, 0)
    assert loader.state()["batch"] == 2 and len(list(loader)) == 2
    processes = pids(loader) if "worker_kind" in options else []
    del iterator, loader  # the last to know of it
    assert not loader_threads() and gone(processes)
    assert not left_behind(before)


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked up in /proc")


@needs_proc
def test_a_killed_worker_is_started_again_once(shapes):
    wanted = [content(batch) for epoch in (0, 1) for batch in batches(shapes, epoch)]
    with loader_of(shapes, workers=1, worker_kind="process") as loader:
        iterator = iter(loader)
        seen = [content(next(iterator))]
        first = pids(loader)[0]
        os.kill(first, signal.SIGKILL)
        seen += [content(batch) for batch in iterator]
        second = pids(loader)[0]
        assert second != first and gone([first], 0)
        iterator = iter(loader)
        seen.append(content(next(iterator)))
        assert seen == wanted[:5]
        os.kill(second, signal.SIGKILL)
        with pytest.raises(
            RuntimeError, match=rf"worker 0 \(process {second}\) was ended by signal 9, the second time"
        ):
            list(iterator)
        assert gone([second], 0) and loader.state()["batch"] < 4


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from fastdet.data.augmentation import Augmentation
from fastdet.data.coco import read_coco
from fastdet.data.loader import Loader

def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
    root = Path(sys.argv[1])
    data = read_coco(root / "annotations/train.json", root / "images")
    loader = Loader(data, Augmentation(), size=(64, 64), batch_size=2, workers=2, worker_kind="process")
    batches = iter(loader)
    next(batches)
    print("torch" in sys.modules, *[each.process.pid for each in loader._workers._processes], flush=True)
    time.sleep(60)

"""


def script(shapes, text):
    import subprocess
    import sys

    (shapes / "script.py").write_text(SCRIPT + text)
    return subprocess.Popen(
        [sys.executable, str(shapes / "script.py"), str(shapes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_workers_end_with_their_parent(shapes, number):
    """Killed, it can do nothing for them. Ctrl-C reaches all of its terminal, them too, and only it complains."""
    before = shared_segments()
    with script(shapes, "if __name__ == '__main__':\n    main()\n") as parent:
        words = parent.stdout.readline().split()
        workers = [int(word) for word in words[1:]]
        assert words[0] == "False" and len(workers) == 2 and not gone(workers, 0)
        if number == signal.SIGKILL:
            parent.kill()
        else:
            os.killpg(parent.pid, number)
        assert gone(workers) and parent.wait(20) != 0
        assert parent.stderr.read().count("Traceback") == (number == signal.SIGINT)
    assert not left_behind(before)


def test_a_script_without_a_guard_is_told_so(shapes):
    with script(shapes, "main()\n") as parent:
        _, error = parent.communicate(timeout=60)
    assert parent.returncode == 1
    assert "before it began; a script that uses worker processes must do its work under if __name__" in error


def test_draft_decodes_less_and_moves_the_boxes(tmp_path):
    """What a batch shows of a large JPEG is nearly the same; its boxes are; no pixel of it is enlarged."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    coarse = Image.fromarray(rng.integers(0, 256, (20, 25, 3), dtype=np.uint8))
    coarse.resize((1001, 802), Image.Resampling.BICUBIC).save(tmp_path / "images/a.jpg", quality=95)
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [100, 50, 333, 451], "area": 9, "iscrowd": 0}
    images = [{"id": 1, "file_name": "a.jpg", "height": 802, "width": 1001}]
    content = {"images": images, "annotations": [row], "categories": [{"id": 1, "name": "disc"}]}
    (tmp_path / "annotations/train.json").write_text(json.dumps(content))
    data = dataset_of(tmp_path)
    cache = PictureCache(data.pictures, draft=(200, 200))
    assert cache(0).image.shape == (201, 251, 3) and cache(0).labels.tolist() == [0]
    scale = np.array([251 / 1001, 201 / 802] * 2)
    np.testing.assert_allclose(cache(0).boxes[0], np.array([100, 50, 433, 501]) * scale, rtol=1e-6)
    calm = {"batch_size": 1, "calm_from": 0}
    small, whole = (next(iter(loader_of(tmp_path, draft=draft, **calm))) for draft in (True, False))
    np.testing.assert_allclose(small.boxes[0], whole.boxes[0], atol=1e-3)
    assert np.abs(small.images.astype(int) - whole.images).mean() < 6 and not np.array_equal(small.images, whole.images)
    short = dataclasses.replace(data.pictures[0], width=1002)
    with pytest.raises(DataError, match=r"a.jpg: is 1001 x 802 pixels, the annotations say 1002 x 802"):
        read_picture(short, (200, 200))


def test_a_data_set_with_all_kinds_of_broken_pictures(tmp_path):
    """The epoch is whole, each broken file is named with its reason, no batch has an empty place."""
    reasons = write_broken(tmp_path / "images")
    del reasons["loop.jpg"]  # the reader refuses a path that leads nowhere, and follows links
    reasons["missing.jpg"] = reasons.pop("gone.jpg")
    names = [f"{number}.png" for number in range(7)]
    for number, name in enumerate(names):
        Image.fromarray(pattern(48, 64, number)).save(tmp_path / "images" / name)
    names = sorted([*names, *reasons])  # broken ones side by side, and between whole ones
    images = [{"id": i, "file_name": name, "height": 48, "width": 64} for i, name in enumerate(names)]
    row = {"iscrowd": 0, "category_id": 1, "bbox": [5, 5, 30, 20], "area": 600}
    rows = [{"id": i, "image_id": i, **row} for i in range(len(names))]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "disc"}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.json").write_text(json.dumps(content))
    with loader_of(tmp_path, on_error="skip", workers=2, batch_size=1) as loader:
        given = list(loader)
    assert len(given) == len(names)
    found = {path.name: reason for path, reason in loader.bad_pictures.items()}
    assert found.keys() == reasons.keys() and all(reasons[name] in reason for name, reason in found.items())
    assert loader.replaced == sum(batch.replaced for batch in given) >= len(reasons)
    shown = {names[index] for batch in given for index in batch.indices}
    assert not shown & reasons.keys() and all(batch.images.std() > 1 for batch in given)
