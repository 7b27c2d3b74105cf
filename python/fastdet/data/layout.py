# SPDX-License-Identifier: Apache-2.0
"""``open_dataset``: whatever DATA is, one ``Dataset``."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from fastdet.data.coco import CocoOptions, coco_index
from fastdet.data.dataset import (
    DataError,
    Dataset,
    Problem,
    Report,
    read_text,
    real_inside,
    refusal,
    resolve_inside,
    strict,
)
from fastdet.data.file_names import FileNames
from fastdet.data.index import Index
from fastdet.data.index_cache import cache_folder, cached_index, file_stamps, folder_stamps
from fastdet.data.picture_files import in_folder, in_list
from fastdet.data.voc import read_voc_file, voc_index
from fastdet.data.yolo import LabelRules, label_names, yolo_index
from fastdet.data.yolo_yaml import read_yaml
from fastdet.image_files import PICTURE_SUFFIXES

__all__ = ["Layout", "open_dataset", "recognise"]

YAML_SUFFIXES = (".yaml", ".yml")
# Other names under which data sets publish a split.
ALIASES = {"val": ("val", "valid", "validation"), "train": ("train", "training"), "test": ("test", "testing")}
SPLIT_NAME = re.compile(rf"({'|'.join(itertools.chain(*ALIASES.values()))})[0-9]{{0,4}}")
LIST_LIMIT = 64 << 20


@dataclass(frozen=True)
class Layout:
    """What DATA is: ``kind`` "coco", "yolo", "voc", "pictures" or "list", and what each split is read from."""

    kind: str
    path: Path
    splits: dict[str, Path]  # the COCO file, the YAML, VOC's list or folder of a split; {"": path} without splits

    def find(self, split: str) -> str:
        """The name under which the data set has ``split``. Raises DataError."""
        if "" in self.splits:
            return ""
        for name in ALIASES.get(split, (split,)):
            for suffix in ("", "2017", "2014", "2012", "2007"):
                if name + suffix in self.splits:
                    return name + suffix
        _fail(self.path, f"has no split {split!r}; there are {', '.join(self.splits)}")


def recognise(data: str | os.PathLike[str]) -> Layout:
    """Tell which format ``data`` is by what lies there; nothing is read but names of files.

    - a ``.json`` file: COCO; a ``.yaml`` or ``.yml`` file: YOLO; a ``.txt`` file: a list of pictures;
    - a folder with ``annotations/instances_SPLIT.json``, ``annotations/SPLIT.json`` (train, val or test, perhaps with a
      year) or ``SPLIT/_annotations.coco.json``: COCO;
    - a folder with ``Annotations/`` and ``JPEGImages/``, or with XML files beside pictures, in it or in one folder
      a split: VOC;
    - a folder with one YAML file (or ``data.yaml`` among several): YOLO;
    - any other folder with pictures somewhere in it: pictures without labels.

    Raises:
        DataError: nothing is there, or it is none of these.
    """
    path = Path(data)
    if not path.is_dir():
        kinds = {".json": "coco", ".txt": "list", **dict.fromkeys(YAML_SUFFIXES, "yolo")}
        if not path.is_file():
            _fail(path, "no such file or folder")
        if path.suffix.lower() not in kinds:
            _fail(path, "must be a folder, a COCO file (.json), a data YAML or a list of pictures (.txt)")
        kind = kinds[path.suffix.lower()]
        return Layout(kind, path, _yaml_splits(path) if kind == "yolo" else {"": path})
    # in this order: a folder of COCO or VOC files may hold a YAML of something else
    for kind, find in (("coco", _coco_splits), ("voc", _voc_splits), ("yolo", _yaml_in)):
        splits = find(path)
        if splits:
            return Layout(kind, path, splits)
    return Layout("pictures", path, {"": path})


def open_dataset(
    data: str | os.PathLike[str],
    split: str = "val",
    *,
    images: str | os.PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    allow_outside: bool = False,
    polygons: bool = False,
    cache: str | os.PathLike[str] | None = None,
    report: Report = strict,
) -> Dataset:
    """Open one split of a data set in any format that ``recognise`` tells.

    Args:
        data: folder or file, see ``recognise``.
        split: "train", "val", "test" or the data set's own word; ignored where there are no splits.
        images: folder of the pictures of a COCO file; by default ``images/SPLIT``, ``images``, ``SPLIT`` or the folder.
        names: the classes in order, for VOC, which does not number them; by default all in its files, sorted.
        allow_outside: accept files that are absolute, or lie outside the data set's folder after following links.
        polygons: read the polygons of COCO (``segmentation``; run lengths are none) and of YOLO label lines, too:
            ``Picture.polygons``, which copy-paste cuts objects out by. A polygon that is none is an error then; of
            COCO's, those of fewer than three points are left out.
        cache: folder in which the index of what was read is kept for the next time, by default that of the environment
            variable ``FASTDET_CACHE``; without either nothing is kept.
        report: called with each Problem; by default the first error is raised. What is kept is then not used.

    Returns:
        Dataset. Pictures without labels have ``names == ()``.

    Raises:
        DataError: it cannot be read, or something in it is wrong; names file and place.
        ModuleNotFoundError: a YAML is to be read and PyYAML is not installed.
    """
    layout = recognise(data)
    key = layout.find(split)
    place = layout.splits[key]
    root = Path(os.path.realpath(layout.path if layout.path.is_dir() else layout.path.parent))
    options: dict[str, Any] = {"allow_outside": allow_outside, "report": report}
    if layout.kind == "coco":
        source = _coco_source(place, _coco_images(layout, key, images), CocoOptions(allow_outside, polygons), report)
    elif layout.kind == "voc":
        source = _voc_source(layout, key, root, names, options)
    elif layout.kind == "yolo":
        told = read_yaml(place, allow_outside=allow_outside)
        files = told.files(key, report)
        rules = LabelRules(told.root, len(told.names), told.keypoint_values, allow_outside, polygons)
        source = _yolo_source(place, files, told.names, rules, report)
    else:
        listed = in_list if layout.kind == "list" else in_folder
        files = listed(place, root, **options)
        if not files:
            _fail(layout.path, "holds no data set: no COCO file, YAML, VOC annotations or pictures")
        source = _yolo_source(layout.path, files, (), LabelRules(root, 0, 0, allow_outside), report)
    folder = cache_folder(cache)
    if folder is None or report is not strict:  # what was read before is not told again
        return Dataset.of(source.path, source.read())
    about = {"kind": layout.kind, "data": str(data), "in": os.getcwd(), "split": key, **source.options}
    return Dataset.of(source.path, cached_index(folder, about, source.stamps(), source.read))


@dataclass(frozen=True)
class _Source:
    """What a split is read from; ``options`` and ``stamps`` tell whether it is still what was read before."""

    path: Path
    options: dict[str, Any]
    stamps: Callable[[], bytes]
    read: Callable[[], Index]


def _coco_source(place: Path, images: Path, options: CocoOptions, report: Report) -> _Source:
    def read() -> Index:
        index = coco_index(place, images, options, report)
        # a link below the folder decides what a name leads to
        folders = [] if options.allow_outside else folder_stamps(index)
        return replace(index, notes={"folders": folders})

    about = {"images": str(images), **vars(options)}
    return _Source(place, about, lambda: file_stamps([str(place), str(images)]), read)


def _yolo_source(path: Path, files: FileNames, names: tuple[str, ...], rules: LabelRules, report: Report) -> _Source:
    def stamps() -> bytes:
        return file_stamps(files) + (file_stamps(label_names(files, rules.root)) if names else b"")

    about = {**vars(rules), "root": str(rules.root), "names": names}
    return _Source(path, about, stamps, lambda: yolo_index(files, names, rules, report))


def _voc_source(
    layout: Layout, split: str, root: Path, names: Sequence[str] | None, options: dict[str, Any]
) -> _Source:
    pairs = _voc_pairs(layout, split, root, **options)
    allow_outside = options["allow_outside"]

    def stamps() -> bytes:
        named = _voc_files(layout.path) if names is None else ()
        return file_stamps([str(path) for path in itertools.chain(*pairs, named) if path is not None])

    def read() -> Index:
        known = _voc_names(layout.path) if names is None else tuple(names)
        for _, xml in pairs:
            if xml is not None and not allow_outside and not real_inside(root, xml):
                _fail(xml, refusal(root, ""))
        return voc_index(pairs, known, options["report"])

    about = {"names": None if names is None else tuple(names), "allow_outside": allow_outside}
    return _Source(layout.splits[split], about, stamps, read)


def _fail(path: Path, reason: str) -> NoReturn:
    raise DataError(f"{path}: {reason}")


def _coco_splits(folder: Path) -> dict[str, Path]:
    found = sorted((folder / "annotations").glob("*.json"))
    named = {path.stem.removeprefix("instances_"): path for path in found if path.stem.startswith("instances_")}
    splits = named or {path.stem: path for path in found if SPLIT_NAME.fullmatch(path.stem)}
    return splits or {path.parent.name: path for path in sorted(folder.glob("*/_annotations.coco.json"))}


def _coco_images(layout: Layout, split: str, images: str | os.PathLike[str] | None) -> Path:
    place = layout.splits[split]
    if images is not None:
        return Path(images)
    if place.name == "_annotations.coco.json":
        return place.parent
    if not split:
        _fail(place, "images must be given with a COCO file: the folder of its pictures (--images)")
    tried = [layout.path / "images" / split, layout.path / "images", layout.path / split]
    return next((folder for folder in tried if folder.is_dir()), tried[1])


def _yaml_in(folder: Path) -> dict[str, Path]:
    found = sorted(path for suffix in YAML_SUFFIXES for path in folder.glob(f"*{suffix}"))
    chosen = [path for path in found if path.stem == "data"] if len(found) > 1 else found
    if found and len(chosen) != 1:
        _fail(folder, f"holds several YAML files ({', '.join(path.name for path in found)}); give one of them")
    return _yaml_splits(chosen[0]) if chosen else {}


def _yaml_splits(path: Path) -> dict[str, Path]:
    return dict.fromkeys(read_yaml(path, allow_outside=True).splits, path)


def _voc_splits(folder: Path) -> dict[str, Path]:
    if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        lists = sorted((folder / "ImageSets" / "Main").glob("*.txt"))
        named = {path.stem: path for path in lists if "_" not in path.stem}  # cat_train.txt tells where cats are
        return named or {"": folder / "JPEGImages"}
    splits = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and next(path.glob("*.xml"), None)}
    return splits or ({"": folder} if next(folder.glob("*.xml"), None) else {})


def _voc_files(folder: Path) -> Iterator[Path]:
    places = [folder / "Annotations"] if (folder / "Annotations").is_dir() else [folder, *sorted(folder.iterdir())]
    for place in places:
        yield from sorted(place.glob("*.xml")) if place.is_dir() else ()


def _voc_names(folder: Path) -> tuple[str, ...]:
    names: set[str] = set()
    faults: list[str] = []
    for path in _voc_files(folder):
        try:
            objects = read_voc_file(path, report=lambda problem: faults.append(str(problem))).objects
        except DataError as error:  # said again when the file is read for its boxes
            faults.append(str(error))
        else:
            names.update(each.name for each in objects)
    if not names:
        raise DataError(faults[0] if faults else f"{folder}: no object in its XML files has a name")
    return tuple(sorted(names))


def _voc_pairs(
    layout: Layout, split: str, root: Path, allow_outside: bool, report: Report
) -> list[tuple[Path, Path | None]]:
    """(picture, annotations) of a split."""
    place = layout.splits[split]
    if place.suffix != ".txt" or place.is_dir():
        files = [Path(file) for file in in_folder(place, root, allow_outside=allow_outside, report=report)]
        beside = layout.path / "Annotations" if place.name == "JPEGImages" else None
        labels = [(beside or file.parent) / f"{file.stem}.xml" for file in files]
        return [(file, xml if os.path.exists(xml) else None) for file, xml in zip(files, labels, strict=True)]
    pairs: list[tuple[Path, Path | None]] = []
    for number, line in enumerate(read_text(place, LIST_LIMIT).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        xml = resolve_inside(root, f"Annotations/{words[0]}.xml")
        suffixes = sorted(PICTURE_SUFFIXES, key=lambda suffix: suffix != ".jpg")
        tried = [resolve_inside(root, f"JPEGImages/{words[0]}{suffix}") for suffix in suffixes]
        if xml is None or tried[0] is None or words[0].startswith("/") or words[0][1:2] == ":":
            report(Problem("error", "path-outside", place, str(number), f"{words[0]!r:.200} leads out of {root}"))
            continue
        file = next((each for each in tried if each is not None and os.path.exists(each)), tried[0])
        pairs.append((file, xml if os.path.exists(xml) else None))
    return pairs
