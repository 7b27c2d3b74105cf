# SPDX-License-Identifier: Apache-2.0
"""The YAML file that describes a data set of the YOLO ecosystem, read as data: nothing in it is run or fetched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fastdet.data.dataset import MAX_NAME, DataError, Problem, Report, read_text, refusal, resolve_inside, strict
from fastdet.data.file_names import FileNames
from fastdet.data.picture_files import in_folder, in_list
from fastdet.image_files import PICTURE_SUFFIXES

YAML_LIMIT = 1 << 20  # bytes
MAX_DEPTH = 16
MAX_NODES = 100_000  # aliases counted as what they stand for
MAX_PLAIN = 1000  # letters of a plain scalar: numbers of a million digits take minutes
MAX_CLASSES = 65_535
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class YoloFile:
    """What the file says. ``root`` is the folder nothing may lead out of, ``base`` that of ``path``; without links."""

    path: Path
    root: Path
    base: Path
    names: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]
    keypoint_values: int
    download: str | None
    allow_outside: bool

    def files(self, split: str, report: Report = strict) -> FileNames:
        """Pictures of a split, in the order of its folders and lists. Raises DataError."""
        parts: list[FileNames] = []
        for name in self.splits[split]:
            place = self._place(split, name)
            options: dict[str, Any] = {"allow_outside": self.allow_outside, "report": report}
            if os.path.isdir(place):
                parts.append(in_folder(place, self.root, **options))
            elif place.suffix.lower() in PICTURE_SUFFIXES:
                _fail(self.path, f"{split}: {name!r:.200} is a picture; it must be a folder or a list of pictures")
            elif os.path.isfile(place):
                parts.append(in_list(place, self.root, **options))
            else:
                _fail(self.path, f"{split}: {name!r} is neither a folder nor a list in {self.base}{self.hint()}")
        found = FileNames.join(parts)
        if not found:
            report(Problem("error", "empty", self.path, "", f"{split}: no picture in {', '.join(self.splits[split])}"))
        return found

    def hint(self) -> str:
        """What the file would have downloaded, for messages."""
        return f"; its 'download' is shown here and never run: {self.download!r:.160}" if self.download else ""

    def _place(self, split: str, name: str) -> Path:
        target = _inside(self.root, self.base, name, self.allow_outside)
        if name.startswith("../") and (target is None or not os.path.exists(target)):
            # Roboflow writes ../train/images and means train/images
            other = _inside(self.root, self.base, name[3:], self.allow_outside)
            target = other if other is not None and os.path.exists(other) else target
        if target is None:
            inner = f", and there is no {name[3:]!r:.200} in it" if name.startswith("../") else ""
            _fail(self.path, f"{split}: {name!r:.200} {refusal(self.root, name)}{inner}")
        return target


def read_yaml(path: str | Path, *, allow_outside: bool = False) -> YoloFile:
    """Read a data YAML: ``path``, ``train``, ``val``, ``test``, ``names``, ``nc``, ``kpt_shape``.

    ``download`` is kept as text, for messages.

    Args:
        allow_outside: accept folders that are absolute or lead out of the folder of the file.

    Raises:
        DataError: the file is no such YAML, or a value is wrong. ModuleNotFoundError: PyYAML is not installed.
    """
    path = Path(path)
    content = _load(path)
    if not isinstance(content, dict):
        _fail(path, f"must hold a mapping with names, train and val, got {type(content).__name__}")
    root = Path(os.path.realpath(path.parent))
    given = "" if content.get("path") is None else content["path"]
    if not isinstance(given, str):
        _fail(path, f"'path' must be a text, got {given!r:.100}")
    base = root if given in ("", ".", "./") else _inside(root, root, given, allow_outside)
    if base is None:
        _fail(path, f"'path' {given!r:.200} {refusal(root, given)}; without 'path' it is the folder of this file")
    splits = {name: _entries(path, name, content[name]) for name in SPLITS if content.get(name) is not None}
    if not splits:
        _fail(path, "must name the pictures of 'train' or 'val'")
    download = content.get("download")
    shape = content.get("kpt_shape")
    if shape is not None and not (isinstance(shape, list) and len(shape) == 2 and all(map(_is_count, shape))):
        _fail(path, f"'kpt_shape' must be two counts, got {shape!r:.100}")
    values = shape[0] * shape[1] if shape else 0
    text = None if download is None else str(download)
    return YoloFile(path, root, base, _names(path, content), splits, values, text, allow_outside)


def _fail(path: Path, reason: str) -> NoReturn:
    raise DataError(f"{path}: {reason}")


def _inside(root: Path, base: Path, name: str, allow_outside: bool) -> Path | None:
    if "\x00" in name or len(name) > MAX_NAME:
        return None
    if allow_outside:
        return Path(os.path.realpath(base / name))
    if os.path.isabs(name) or name[1:2] == ":":
        return None
    if Path(os.path.realpath(base / name)) == root:
        return root
    return resolve_inside(root, str(base.relative_to(root) / name))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10_000


def _entries(path: Path, key: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str) and each for each in values):
        _fail(path, f"'{key}' must be a folder, a list file or several of them, got {value!r:.100}")
    return tuple(values)


def _names(path: Path, content: dict[Any, Any]) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if count is not None and not (isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MAX_CLASSES):
        _fail(path, f"'nc' must be a number of classes, got {count!r:.100}")
    if names is None and count is not None:
        return tuple(f"class{label}" for label in range(count))
    if isinstance(names, dict):
        if set(names) != set(range(len(names))) or any(isinstance(key, bool) for key in names):
            _fail(path, f"the keys of 'names' must be 0 to {len(names) - 1}, got {list(names)!r:.100}")
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list) or not 0 < len(names) <= MAX_CLASSES:
        _fail(path, f"'names' must list the classes, got {names!r:.100}")
    if not all(isinstance(name, (str, int, float, bool)) and str(name) for name in names):
        _fail(path, f"each of 'names' must be a text, got {names!r:.100}")
    if count is not None and count != len(names):
        _fail(path, f"'nc' is {count}, 'names' has {len(names)}")
    return tuple(map(str, names))


def _load(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise ModuleNotFoundError(f"reading {path} needs PyYAML: pip install 'fastdet[train]'", name="yaml") from None
    text = read_text(path, YAML_LIMIT)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml, yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)
    except _Hostile as error:
        _fail(path, f"is refused: {error}")
    except Exception as error:  # constructors of YAML's kinds fail with whatever int() and datetime() raise
        _fail(path, "is not valid YAML: " + " ".join(str(error).split())[:200])


class _Hostile(Exception):
    """Why a YAML file is not even looked at."""


def _check_events(yaml: Any, events: Any) -> None:
    """Bound depth, numbers and the size after all aliases are followed, before anything is built."""
    open_nodes: list[list[Any]] = [[None, 0]]  # [anchor, nodes so far]
    sizes: dict[str, int] = {}
    for event in events:
        count, anchor = 1, getattr(event, "anchor", None)
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            open_nodes.append([anchor, 1])
            if len(open_nodes) > MAX_DEPTH:
                raise _Hostile(f"nested deeper than {MAX_DEPTH}")
            continue
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, count = open_nodes.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise _Hostile(f"the alias {anchor!r:.40} stands for nothing, or for itself")
            count, anchor = sizes[anchor], None
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MAX_PLAIN and (not event.style or event.tag):
                raise _Hostile(f"a plain value of more than {MAX_PLAIN} letters")
        else:
            continue
        if anchor:
            sizes[anchor] = count
        open_nodes[-1][1] += count
        if open_nodes[-1][1] > MAX_NODES:
            raise _Hostile(f"more than {MAX_NODES} values when its aliases are followed")
