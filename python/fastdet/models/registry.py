# SPDX-License-Identifier: Apache-2.0
"""The families, and what is done by name or key whatever the family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastdet.models import damo_yolo, yolov8
from fastdet.models.detection_model import DetectionModel
from fastdet.models.keys import KeyMap, load_strict, official_layout, strip_prefix
from fastdet.models.model_spec import ModelSpec

FAMILIES = {
    "damo-yolo": damo_yolo,
    "yolov8": yolov8,
}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def spec(name: str) -> ModelSpec:
    """The specification of the model called ``name``, e.g. ``damo-yolo-t`` (or the reference's name of it).

    Case, ``-`` and ``_`` do not matter. Raises ValueError, listing the names, for an unknown one.
    """
    wanted = _plain(name)
    for family in FAMILIES.values():
        for candidate in family.SPECS.values():
            if wanted in map(_plain, (candidate.name, *candidate.reference_names)):
                return candidate
    known = ", ".join(known for family in FAMILIES.values() for known in family.SPECS)
    raise ValueError(f"models.spec: name must be one of {known}; got {name!r}")


def build(name: str | ModelSpec, num_classes: int = 80) -> DetectionModel:
    """A model with random weights, in its training graph and training mode.

    Args:
        name: a model name, or a specification.
        num_classes: C, at least 1.

    Returns:
        DetectionModel: ``forward(images [B, 3, H, W]) -> RawHead``, ``decode(raw) -> (boxes [B, A, 4], scores
        [B, A, C])``, ``criterion(raw, targets) -> dict``, ``fuse()``, and the attributes ``spec`` and ``names``.
    """
    if num_classes < 1:
        raise ValueError(f"models.build: num_classes must be at least 1, got {num_classes}")
    chosen = spec(name) if isinstance(name, str) else name
    return FAMILIES[chosen.family].build(chosen, num_classes)


def load_official(module: DetectionModel, state: Mapping[str, Any]) -> DetectionModel:
    """Fill ``module`` from the reference's own state dict (NumPy or torch values); returns ``module``.

    Strict both ways: missing, unused and misshapen entries are listed with the nearest names in a ValueError, and
    then nothing has been changed. A ``module.`` prefix on every key is ignored.
    """
    layout = official_layout(module, _key_map(module, "load_official"))
    load_strict({official: tensor for official, (_, tensor) in layout.items()}, strip_prefix(state), "load_official")
    return module


def to_official(module: DetectionModel) -> dict[str, Tensor]:
    """The weights of ``module`` (training graph) under the reference's own keys; the inverse of ``load_official``."""
    layout = official_layout(module, _key_map(module, "to_official"))
    return {official: tensor for official, (_, tensor) in layout.items()}


def recognise(state: Mapping[str, Any]) -> tuple[ModelSpec, int] | None:
    """The model and the class count whose official keys and shapes are those of ``state``, or None.

    Where no model fits in full, the one that shares most entries is returned, if it shares more than half of them:
    loading it says what is wrong.
    """
    state = strip_prefix(state)
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    best: tuple[int, ModelSpec, int] | None = None
    for family in FAMILIES.values():
        num_classes = family.num_classes_of(state)
        if not num_classes:
            continue
        for candidate in family.candidates(state):
            # Not on the meta device: initialising there makes torch import its compiler, a second the first time.
            layout = to_official(build(candidate, num_classes))
            shared = sum(shapes.get(key) == tuple(tensor.shape) for key, tensor in layout.items())
            if shared == len(layout) == len(state):
                return candidate, num_classes
            if 2 * shared > len(layout) and (best is None or shared > best[0]):
                best = shared, candidate, num_classes
    return None if best is None else best[1:]


def _key_map(module: DetectionModel, caller: str) -> KeyMap:
    if module.fused:
        raise ValueError(f"{caller}: module must be in its training graph, got a fused one; build it anew")
    return FAMILIES[module.spec.family].key_map(module.spec)
