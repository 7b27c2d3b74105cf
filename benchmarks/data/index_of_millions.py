# SPDX-License-Identifier: Apache-2.0
"""Opens data sets of millions of made-up pictures: ``python benchmarks/data/index_of_millions.py --pictures 2000000``.

Prints seconds, seconds of processors (the start of Python included) and peak memory of opening without and with a kept
index, each in a process of its own, and how much the memory of worker processes grows that read the boxes of random
pictures. COCO: one file, streamed to disk, 1.5 boxes a picture, no picture files. YOLO: hard links to a few pictures
and label files, so that only names take space.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

OPEN = """
import resource, sys, time
from fastdet.data import open_dataset
start = time.perf_counter()
data = open_dataset(sys.argv[1], images=sys.argv[2] or None, cache=sys.argv[3] or None)
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_SELF)
busy = used.ru_utime + used.ru_stime
count = f"{len(data):9d} pictures {len(data.annotations):9d} boxes"
print(f"{seconds:8.1f} s {busy:8.1f} s of processors {used.ru_maxrss / 1024:8.0f} MB peak {count}")
"""


def write_coco(path: Path, pictures: int) -> None:
    """A COCO file of ``pictures`` in 500 folders, with 1 or 2 boxes each."""
    with open(path, "w") as file:
        file.write('{"images": [')
        for i in range(pictures):
            head = ", " if i else ""
            name = f"part{i % 500:03}/{i:012}.jpg"
            file.write(f'{head}{{"id": {i}, "file_name": "{name}", "height": {480 + i % 160}, "width": 640}}')
        file.write('], "annotations": [')
        count = 0
        for i in range(pictures):
            for _ in range(1 + i % 2):
                box = f"[{count % 300}.25, {count % 200}.5, {10 + count % 97}.75, {20 + count % 89}.37]"
                file.write(
                    f'{", " if count else ""}{{"id": {count}, "image_id": {i}, "category_id": {1 + count % 80}, '
                    f'"bbox": {box}, "area": {100 + count % 1000}.125, "iscrowd": 0}}'
                )
                count += 1
        categories = ", ".join(f'{{"id": {k}, "name": "class {k}"}}' for k in range(1, 81))
        file.write(f'], "categories": [{categories}]}}')


def write_yolo(root: Path, pictures: int) -> None:
    """Pictures and label files in folders of 10,000, hard links to the first of each folder."""
    from PIL import Image

    image = Image.fromarray(np.zeros((48, 64, 3), np.uint8))
    for first in range(0, pictures, 10_000):
        folders = [root / kind / "val" / f"{first:09}" for kind in ("images", "labels")]
        for folder, suffix in zip(folders, (".jpg", ".txt"), strict=True):
            folder.mkdir(parents=True)
            source = folder / f"{first:09}{suffix}"
            if suffix == ".jpg":
                image.save(source)
            else:
                source.write_text("0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.125 0.125\n")
            for i in range(first + 1, min(first + 10_000, pictures)):
                os.link(source, folder / f"{i:09}{suffix}")
    (root / "data.yaml").write_text("val: images/val\nnames: [a, b]\n")


def opened(label: str, data: Path, images: Path | str, cache: Path | str) -> None:
    """Open in a process of its own and print what it took."""
    command = [sys.executable, "-c", OPEN, str(data), str(images), str(cache)]
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    print(f"{label:28}{done.stdout}", end="", flush=True)


def _memory() -> np.ndarray:
    """MB of this process: its own pages, and its share of all."""
    text = Path("/proc/self/smaps_rollup").read_text()
    values = {line.split(":")[0]: float(line.split()[1]) for line in text.splitlines()[1:]}
    return np.array([values["Private_Dirty"], values["Pss"]]) / 1024


def _work(dataset, seed: int, reads: int, epochs: int, results) -> None:
    random = np.random.default_rng(seed)
    pictures = dataset.pictures
    seen = []
    for _ in range(epochs + 1):  # the first warms up: modules, allocator
        for row in random.integers(0, len(pictures), reads).tolist():
            assert len(pictures[row].boxes) <= 2
        seen.append(_memory())
    results.put(np.array(seen))


def workers(data: Path, images: Path, cache: Path, count: int, epochs: int, reads: int) -> None:
    """Print the growth of ``count`` spawned processes that together read ``reads`` pictures an epoch."""
    from fastdet.data import open_dataset

    dataset = open_dataset(data, images=images, cache=cache)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    reads //= count
    started = [context.Process(target=_work, args=(dataset, i, reads, epochs, results)) for i in range(count)]
    start = time.perf_counter()
    for process in started:
        process.start()
    seen = np.sum([results.get() for _ in started], axis=0)
    for process in started:
        process.join()
    taken, own = time.perf_counter() - start, seen[:, 0]
    print(f"{count} spawned workers, {epochs} epochs of {count * reads} pictures: {taken:.0f} s")
    print(f"their own memory: {own[0]:.0f} MB after the first epoch, {own[-1] - own[0]:+.1f} MB at the end")
    print(f"with their shares of what is mapped: {seen[-1, 1]:.0f} MB")


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2_000_000, help="of the COCO file")
    parser.add_argument("--files", type=int, default=200_000, help="pictures of the YOLO data set")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--reads", type=int, help="pictures that the workers read in an epoch; by default all")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fastdet-index-", dir=given.folder))
    try:
        coco, images, cache = folder / "coco.json", folder / "images", folder / "cache"
        images.mkdir()
        write_coco(coco, given.pictures)
        print(f"COCO file of {coco.stat().st_size / 1e6:.0f} MB")
        opened("COCO, nothing kept", coco, images, "")
        opened("COCO, first with a cache", coco, images, cache)
        opened("COCO, from the cache", coco, images, cache)
        print(f"index file of {sum(each.stat().st_size for each in cache.iterdir()) / 1e6:.0f} MB")
        workers(coco, images, cache, given.workers, given.epochs, given.reads or given.pictures)
        write_yolo(folder / "yolo", given.files)
        opened("YOLO, nothing kept", folder / "yolo", "", "")
        opened("YOLO, first with a cache", folder / "yolo", "", cache)
        opened("YOLO, from the cache", folder / "yolo", "", cache)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
