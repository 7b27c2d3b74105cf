# SPDX-License-Identifier: Apache-2.0
"""What an official checkpoint says about its model: weights, names, task, sizes, origin; from content alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastdet.formats import ModuleNode, Record, flatten, is_module, value_of
from fastdet.models.keys import shape_of, strip_prefix

MAX_CLASSES = 1 << 16
MAX_SIDE = 1 << 14
# Where checkpoints keep their weights, best first: the moving average before what it averages. () is the whole file.
PLACES = (("ema", "module"), ("ema",), ("model",), ("state_dict",), ())


@dataclass(frozen=True, kw_only=True)
class Official:
    """An official checkpoint, read as data. What the file does not say is None or empty.

    Attributes:
        state: arrays by official key, without a ``module.`` prefix; as stored, so possibly float16.
        modules: where the file holds a module tree, its nodes (class and attributes) by path, ``""`` the model.
        place: where in the file the weights were, ``"ema"``, ``"model"``, or ``""``.
        names: class names. task: ``"detect"``, ``"segment"``, ... input_size: (height, width) of the training.
        strides: input pixels per cell, finest first.
        texts: ``license``, ``docs``, ``version``, ``date``, ``epoch`` and ``yaml_file`` as far as the file has them.
    """

    state: Mapping[str, Any]
    modules: Mapping[str, ModuleNode] = field(default_factory=dict)
    place: str = ""
    names: tuple[str, ...] | None = None
    task: str | None = None
    input_size: tuple[int, int] | None = None
    strides: tuple[int, ...] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)

    def attribute(self, path: str, name: str, default: Any = None) -> Any:
        """The attribute ``name`` of the module at ``path`` (``"model.9.cv1"``), ``default`` where the file has none."""
        node = self.modules.get(path)
        return default if node is None else node.attributes.get(name, default)

    def class_name(self, path: str) -> str | None:
        """The class of the module at ``path`` without its package: ``"SPPF"``; None where the file has no modules."""
        node = self.modules.get(path)
        return None if node is None else node.class_name

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a weight; () where there is none of this name."""
        return shape_of(self.state, key)


def read_official(content: Any) -> Official:
    """The weights and the description inside ``content``, what ``read_torch`` returned.

    Raises:
        ValueError: there are no weights in it, or the module tree that holds them is damaged; says what there is.
    """
    seen: list[str] = []
    for keys in PLACES:
        value = content
        for key in keys:
            value = value_of(value, key)
        place = ".".join(keys)
        if is_module(value):
            tree = flatten(value)
            if tree.state:
                return _described(content, tree.state, tree.modules, place)
        if isinstance(value, dict) and value and all(_is_weight(*entry) for entry in value.items()):
            return _described(content, value, {}, place)
        if isinstance(value, Record):
            seen.append(f"{value!r} at {place or 'the top'}")
    raise ValueError(
        "holds no weights at ema, model, state_dict or the top" + (f", but {', '.join(seen[:3])}" if seen else "")
    )


def _is_weight(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, np.ndarray)


def _described(content: Any, state: Mapping[str, Any], modules: Mapping[str, ModuleNode], place: str) -> Official:
    root = modules[""].attributes if modules else {}
    yaml: Any = root.get("yaml")
    texts = {name: value_of(content, name) for name in ("license", "docs", "version", "date", "epoch")}
    texts["yaml_file"] = root.get("yaml_file") or value_of(yaml, "yaml_file")
    settings = [root.get("args"), value_of(content, "train_args"), value_of(content, "opt")]
    return Official(
        state=strip_prefix(state),
        modules=modules,
        place=place,
        names=_names(root.get("names")) or _names(value_of(content, "names")) or _names(value_of(yaml, "names")),
        task=_first(value for source in (root, *settings) if isinstance(value := value_of(source, "task"), str)),
        input_size=_first(
            size
            for source in settings[::-1]
            for name in ("imgsz", "img_size")
            if (size := _input_size(value_of(source, name)))
        ),
        strides=_strides(root.get("stride")),
        texts={name: str(text)[:200] for name, text in texts.items() if isinstance(text, (str, int)) and text != ""},
    )


def _first(values: Iterator[Any]) -> Any:
    return next(values, None)


def _names(value: Any) -> tuple[str, ...] | None:
    """Class names from a list, or from a dict by number as newer files have it."""
    if isinstance(value, dict) and sorted(map(str, value)) == sorted(map(str, range(len(value)))):
        value = [value.get(i, value.get(str(i))) for i in range(len(value))]
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= MAX_CLASSES:
        return None
    return tuple(value) if all(isinstance(name, str) for name in value) else None


def _input_size(value: Any) -> tuple[int, int] | None:
    """(height, width) from a side or a pair; YOLOv5 and v7 write [size of training, size of test], alike as a rule."""
    sides = value if isinstance(value, (list, tuple)) else [value] * 2
    if len(sides) == 1:
        sides = [*sides, *sides]
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        return None
    return sides[0], sides[1]


def _strides(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, np.ndarray) or value.ndim != 1 or not 0 < value.size <= 8:
        return None
    found = value.tolist()
    return tuple(map(int, found)) if all(0 < step <= 1024 and step == int(step) for step in found) else None
