# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as other projects write them, assembled by hand: pickled trees of classes that do not exist here."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzz import seeds

_STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage", "int64": "LongStorage", "float64": "DoubleStorage"}
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "anchors", "anchor_grid")
KINDS = {"conv": "torch.nn.modules.conv.Conv2d", "bn": "torch.nn.modules.batchnorm.BatchNorm2d"}


class Writer:
    """Collects storages while a pickle is put together from instructions."""

    def __init__(self, module: torch.nn.Module | None = None, kind: Callable[[str], str] | None = None):
        self.storages: dict[str, bytes] = {}
        self._module, self._kind = module, kind or (lambda path: "models.common.Conv")

    def tensor(self, array: np.ndarray) -> bytes:
        """Instructions that make ``array`` from a storage of its own."""
        key = str(len(self.storages))
        self.storages[key] = np.ascontiguousarray(array).tobytes()
        return seeds.tensor(key, array.shape, _STORAGES[str(array.dtype)], array.size)

    def tree(self, state: Mapping[str, np.ndarray], root: str, **attributes: Any) -> bytes:
        """Instructions that make the module tree whose state dict is ``state``, its root of class ``root``."""
        nested: dict[str, Any] = {}
        for key, array in state.items():
            *path, name = key.split(".")
            node = nested
            for part in path:
                node = node.setdefault(part, {})
            node[name] = array
        return self._node(nested, "", root, attributes)

    def _node(self, node: Mapping[str, Any], path: str, kind: str, attributes: Mapping[str, Any]) -> bytes:
        arrays = {name: each for name, each in node.items() if isinstance(each, np.ndarray)}
        children = {
            name: self._node(each, f"{path}.{name}".lstrip("."), self._child_kind(f"{path}.{name}".lstrip(".")), {})
            for name, each in node.items()
            if isinstance(each, dict)
        }
        attributes = {**self._attributes(path), **attributes}
        if set(children) == {"conv", "bn"}:
            children["act"] = seeds.module(attributes.pop("act", "torch.nn.modules.activation.SiLU"), {}, {})
        return seeds.module(
            kind,
            {name: self.tensor(each) for name, each in arrays.items() if name not in _BUFFERS},
            children,
            buffers={name: self.tensor(each) for name, each in arrays.items() if name in _BUFFERS},
            **attributes,
        )

    def _child_kind(self, path: str) -> str:
        last = path.rpartition(".")[2]
        return KINDS.get(last) or self._kind(path)

    def _attributes(self, path: str) -> dict[str, Any]:
        if path.endswith("bn"):
            return {"eps": 0.001, "momentum": 0.03}
        try:
            ours = self._module.get_submodule(path) if self._module is not None else None
        except AttributeError:
            return {}
        if isinstance(ours, torch.nn.Conv2d):
            return {name: getattr(ours, name) for name in ("stride", "padding", "dilation", "groups")}
        return {"add": ours.add} if isinstance(getattr(ours, "add", None), bool) else {}

    def write(self, path: Path, entries: Mapping[str, Any], *, old: bool = False) -> Path:
        """Write a checkpoint of ``entries``: instructions (bytes) or plain values by key; ``old``: as torch 1.5 did."""
        items = {key: each if isinstance(each, bytes) else seeds.value(each) for key, each in entries.items()}
        content = b"\x80\x02" + seeds.dictionary(items) + b"."
        if old:
            sizes = {key: (self._count(key, content), raw) for key, raw in self.storages.items()}
            path.write_bytes(seeds.legacy(content, sizes))
        else:
            path.write_bytes(seeds.torch_zip(content, **self.storages))
        return path

    def _count(self, key: str, content: bytes) -> int:
        """Elements of a storage: what its persistent id in ``content`` says."""
        at = content.index(seeds.value(key) + seeds.value("cpu"))
        for size in (8, 4, 2):
            if len(self.storages[key]) % size == 0:
                count = len(self.storages[key]) // size
                tail = content[at + len(seeds.value(key) + seeds.value("cpu")) :]
                if tail.startswith(pickle.dumps(count, 2)[2:-1]):
                    return count
        raise ValueError(f"no element count for storage {key}")
