# SPDX-License-Identifier: Apache-2.0
"""Pickled trees of ``torch.nn.Module`` walked as data: weights under their state-dict keys, attributes by path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastdet.formats.unpickle import Global, Record

MAX_DEPTH = 64
MAX_ENTRIES = 50_000
_OWN = ("_parameters", "_buffers", "_modules")
_WRAPPERS = ("DataParallel", "DistributedDataParallel")


class ModuleNode(NamedTuple):
    """One module of a tree. kind: its class, ``"torch.nn.modules.conv.Conv2d"``. attributes: what else it held."""

    kind: str
    attributes: Mapping[str, Any]

    @property
    def class_name(self) -> str:
        """The last part of ``kind``."""
        return self.kind.rpartition(".")[2]


class ModuleTree(NamedTuple):
    """state: arrays in the order and under the keys of ``state_dict()``. modules: nodes by path, ``""`` the root."""

    state: dict[str, np.ndarray]
    modules: dict[str, ModuleNode]


def is_module(value: Any) -> bool:
    """Whether ``value`` is the record of a ``torch.nn.Module``: it has parameters and modules of its own."""
    return isinstance(value, Record) and all(isinstance(value_of(value, name), dict) for name in _OWN)


def value_of(record: Any, name: str) -> Any:
    """The attribute ``name`` of a record (or the entry of a dict), None where there is none."""
    return attributes_of(record).get(name)


def attributes_of(record: Any) -> dict[Any, Any]:
    """The attributes of a record, or a dict itself; empty for anything else."""
    state = record.state if isinstance(record, Record) else record
    if isinstance(record, Record) and isinstance(state, tuple):  # of classes with __slots__: (dict or None, dict)
        return {name: value for part in state if isinstance(part, dict) for name, value in part.items()}
    return state if isinstance(state, dict) else {}


def flatten(record: Record) -> ModuleTree:
    """The weights and attributes of a module tree; see ``ModuleTree``.

    As ``state_dict()`` does: parameters, buffers, then children, each in stored order; None and buffers that are
    not persistent are left out. A wrapper for data-parallel training is looked through.

    Raises:
        ValueError: a part is not what a module has, or there is no end to it.
    """
    for _ in range(MAX_DEPTH):
        parts = value_of(record, "_modules") or {}
        if list(parts) != ["module"] or not repr(record.kind).endswith(_WRAPPERS):
            break
        record = parts["module"]
    tree = ModuleTree({}, {})
    _walk(record, "", 0, tree)
    return tree


def _walk(record: Any, path: str, depth: int, tree: ModuleTree) -> None:
    if not is_module(record) or not isinstance(record.kind, Global):
        raise ValueError(f"{path or 'the model'} is no module")
    if depth > MAX_DEPTH or len(tree.modules) + len(tree.state) > MAX_ENTRIES:
        raise ValueError(f"has modules deeper than {MAX_DEPTH} or more than {MAX_ENTRIES} entries")
    state = attributes_of(record)
    prefix = f"{path}." if path else ""
    tree.modules[path] = ModuleNode(repr(record.kind), {k: v for k, v in state.items() if k not in _OWN})
    passing = state.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, value in state[group].items():
            if value is None or (group == "_buffers" and name in passing):
                continue
            if not isinstance(name, str) or not isinstance(value, np.ndarray):
                raise ValueError(f"{prefix}{name} is no tensor but {value!r:.80}")
            tree.state[prefix + name] = value
    for name, child in state["_modules"].items():
        if not isinstance(name, str):
            raise ValueError(f"a part of {path or 'the model'} has no name")
        if child is not None:
            _walk(child, prefix + name, depth + 1, tree)
