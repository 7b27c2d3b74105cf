# SPDX-License-Identifier: Apache-2.0
"""What the attributes of a pickled module tree say beyond keys and shapes: taken over where it can be, else refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from fastdet.formats import ModuleNode
from fastdet.models.keys import KeyMap
from fastdet.models.recognition import Official

# Class name -> maker. The slope of LeakyReLU is that of every YOLO that uses it.
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "SiLU": nn.SiLU, "ReLU": nn.ReLU, "LeakyReLU": partial(nn.LeakyReLU, 0.1), "Hardswish": nn.Hardswish,
    "GELU": nn.GELU, "Mish": nn.Mish, "ELU": nn.ELU, "ReLU6": nn.ReLU6, "Identity": nn.Identity,
}  # fmt: skip
_CONV = ("stride", "padding", "dilation", "groups")


def set_attributes(
    module: nn.Module, activations: tuple[tuple[str, str], ...], epsilons: tuple[tuple[str, float], ...]
) -> None:
    """Give parts of ``module``, by path, another activation (class name) or BatchNorm epsilon.

    Raises:
        ValueError: a path or a class that is not there.
    """
    for path, name in activations:
        parent, _, attribute = path.rpartition(".")
        owner = _part(module, parent)
        if not isinstance(getattr(owner, attribute, None), nn.Module) or name not in ACTIVATIONS:
            raise ValueError(f"there is no activation at {path[:100]!r}, or none called {name[:100]!r}")
        setattr(owner, attribute, ACTIVATIONS[name]())
    for path, value in epsilons:
        norm = _part(module, path)
        if not isinstance(norm, nn.BatchNorm2d):
            raise ValueError(f"there is no BatchNorm at {path[:100]!r}")
        norm.eps = value


def refined(spec: Any, module: nn.Module, keys: KeyMap, official: Official) -> Any:
    """``spec`` with the activations and the epsilons of BatchNorm of the file, where these are fields of it.

    Args:
        spec, module: the model that keys and shapes have told, ``module`` built from ``spec``.
        keys: official keys beside ours. official: the file; without a module tree nothing is looked at.

    Raises:
        ValueError: an activation, epsilon, stride, padding, group count or shortcut differs and cannot be taken over.
    """
    activations, epsilons = [], []
    for path, node in official.modules.items():
        name, part = _counterpart(module, keys, path)
        if part is None:
            continue
        if isinstance(part, nn.BatchNorm2d):
            eps = _number(node, "eps", path, part.eps)
            if eps != part.eps:
                epsilons.append((name, eps))
        elif isinstance(part, nn.Conv2d):
            _same_convolution(node, part, path)
        elif node.class_name in ACTIVATIONS and path.rpartition(".")[2].startswith("act"):
            if type(part).__name__ != node.class_name:
                activations.append((name, node.class_name))
            if node.class_name == "LeakyReLU" and _number(node, "negative_slope", path, 0.1) != 0.1:
                raise ValueError(f"the slope of {path} is not 0.1")
        adds = node.attributes.get("add")
        if isinstance(adds, bool) and getattr(part, "add", adds) != adds:
            raise ValueError(f"{path} ({node.class_name}) {'has a' if adds else 'lacks the'} shortcut")
    found = {"activations": tuple(activations), "epsilons": tuple(epsilons)} | _key_points(spec, official)
    changes = {name: value for name, value in found.items() if value}
    lacking = [name for name in changes if not hasattr(spec, name)]
    if lacking:
        raise ValueError(f"its {', '.join(lacking)} differ from those of {spec.name}: {str(changes)[:200]}")
    return dataclasses.replace(spec, **changes) if changes else spec


def _key_points(spec: Any, official: Official) -> dict[str, Any]:
    """(number, values each) of a pose head, which its channels tell only the product of."""
    for node in official.modules.values():
        shape = node.attributes.get("kpt_shape")
        if isinstance(shape, (list, tuple)) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape):
            given = getattr(spec, "keypoints", tuple(shape))
            if spec.task == "pose" and given[0] * given[1] == shape[0] * shape[1] and given != tuple(shape):
                return {"keypoints": tuple(shape)}
    return {}


def _counterpart(module: nn.Module, keys: KeyMap, path: str) -> tuple[str, nn.Module | None]:
    """Our name and module for the official ``path``, by the key of its weight; None where we have none."""
    name = (keys.to_ours(f"{path}.weight") or path).removesuffix(".weight")
    return name, _part(module, name)


def _part(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _number(node: ModuleNode, name: str, path: str, default: float) -> float:
    """An attribute between 0 and 1, ``default`` where the file does not say."""
    value = node.attributes.get(name, default)
    if not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ValueError(f"{path} has a {name} that is no small number")
    return float(value)


def _same_convolution(node: ModuleNode, part: nn.Conv2d, path: str) -> None:
    for name in _CONV:
        theirs, mine = node.attributes.get(name), getattr(part, name)
        if theirs is not None and theirs != mine:
            raise ValueError(f"{path} has {name} {str(theirs)[:40]}, the model {mine}")
