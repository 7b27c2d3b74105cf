# SPDX-License-Identifier: Apache-2.0
"""The families, and what is done by name or key whatever the family.

A family is a module (file or folder) of ``fastdet.models`` that offers what ``Family`` lists, or its ``SPECS`` alone
where it is nothing but tables (``GraphFamily``); ``FAMILIES`` names it.
To be recognised in files it needs ``num_classes_of`` and ``candidates``, which look at keys and shapes alone:

    num_classes_of(state)   C of an official state dict of this family, None (cheaply) for any other.
    candidates(state)       the specifications that the state dict could be, told apart by a few shapes; variants that
                            show in keys or shapes (another class branch, reg_max, anchors) are made here, by
                            ``dataclasses.replace`` of a published one. Each is built and compared in full, key by key
                            and shape by shape, in the order given, so there should be few: one is best.

and may offer, for what shows in no key of its training graph:

    upgrade(state)          the official state dict in the layout that ``key_map`` knows: caches that are recomputed and
                            branches that are not built are left out, older releases' keys renamed. Applied before all
                            else, also by ``load_official``; must leave other state dicts alone.
    fit(spec, state)        where a model is published in several layouts (with and without a branch for training): the
                            specification of the layout that ``state`` has, ``spec`` itself where none fits better.
    layout(module, state)   the tensors of ``module`` by the names of ``state``, for a family that several projects
                            publish, each under names of its own; by the official ones where ``state`` is empty.
    refine(spec, official)  the specification with what only the file's attributes tell (``recognition.Official``).
                            Class names, input size, strides, activations, the epsilon of BatchNorm, key points, and
                            that convolutions and shortcuts are the same, are seen to here, by ``models.refine``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from fastdet.formats import shown
from fastdet.models import damo_yolo, rtdetrv2, yolo11, yolo26, yolov5, yolov7, yolov8, yolov9, yolov10
from fastdet.models.detection_model import DetectionModel
from fastdet.models.graph_model import GraphFamily
from fastdet.models.keys import KeyMap, load_strict, official_layout, strip_prefix
from fastdet.models.model_spec import ModelSpec
from fastdet.models.recognition import MAX_CLASSES, Official
from fastdet.models.refine import refined
from fastdet.models.unfilled import unfilled


class Family(Protocol):
    """What a module in ``FAMILIES`` offers; the rest (``upgrade``, ``refine``) is optional, see above."""

    @property
    def SPECS(self) -> Mapping[str, Any]:
        """Specifications of the published models by name."""

    def build(self, spec: Any, num_classes: int) -> DetectionModel:
        """A freshly initialised model in its training graph."""

    def num_classes_of(self, state: Mapping[str, Any]) -> int | None:
        """Class count of an official state dict, or None if it is none of this family's."""

    def candidates(self, state: Mapping[str, Any]) -> Sequence[Any]:
        """The specifications that an official state dict could be."""

    def key_map(self, spec: Any) -> KeyMap:
        """Official keys beside ours."""

    def case_outputs(self, module: Any, images: Tensor) -> dict[str, Tensor]:
        """Every output under the names that parity cases use."""


FAMILIES: dict[str, Family] = {
    "damo-yolo": damo_yolo,
    "yolov5": GraphFamily(yolov5.SPECS),
    "yolov7": yolov7,
    "yolov8": GraphFamily(yolov8.SPECS),
    "yolov9": yolov9,
    "yolov10": GraphFamily(yolov10.SPECS),
    "yolo11": GraphFamily(yolo11.SPECS),
    "yolo26": GraphFamily(yolo26.SPECS),
    "rtdetrv2": rtdetrv2,
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


def fit(chosen: ModelSpec, state: Mapping[str, Any]) -> ModelSpec:
    """``chosen`` with the options that keys and shapes of an official ``state`` show, where its family has any."""
    fit_family = getattr(FAMILIES[chosen.family], "fit", None)
    fitted: ModelSpec = chosen if fit_family is None else fit_family(chosen, strip_prefix(state))
    return fitted


def build(name: str | ModelSpec, num_classes: int | None = None) -> DetectionModel:
    """A model with random weights, in its training graph and training mode.

    Args:
        name: a model name, or a specification.
        num_classes: C, at least 1; None for that of the published weights: 80, or what the task has.

    Returns:
        DetectionModel: ``forward(images [B, 3, H, W]) -> RawHead``, ``decode(raw) -> (boxes [B, A, 4], scores
        [B, A, C])``, ``criterion(raw, targets) -> dict``, ``fuse()``, and the attributes ``spec`` and ``names``.
    """
    chosen = spec(name) if isinstance(name, str) else name
    num_classes = chosen.num_classes if num_classes is None else num_classes
    if num_classes < 1:
        raise ValueError(f"models.build: num_classes must be at least 1, got {num_classes}")
    return FAMILIES[chosen.family].build(chosen, num_classes)


def load_official(module: DetectionModel, state: Mapping[str, Any]) -> DetectionModel:
    """Fill ``module`` from the reference's own state dict (NumPy or torch values); returns ``module``.

    Strict both ways: missing, unused and misshapen entries are listed with the nearest names in a ValueError, and
    then nothing has been changed. A ``module.`` prefix on every key is ignored. Where the reference publishes a model
    in several layouts, as YOLOv7 and YOLOv9 with and without what only training needs, ``module`` takes that of
    ``state``: it then holds new parameters and another ``spec``.
    """
    known = upgraded(FAMILIES[module.spec.family], strip_prefix(state))
    _check_unfused(module, "load_official")
    variant = fit(module.spec, known)
    target = module if variant == module.spec else _like(module, variant)
    load_strict(_layout(target, known, "load_official"), known, "load_official")
    if target is not module:
        vars(module).update(vars(target))
    return module


def _like(module: DetectionModel, variant: ModelSpec) -> DetectionModel:
    """A model of ``variant`` with the classes, mode, device and dtype of ``module``; its weights are not filled."""
    first = next(module.parameters())
    with unfilled():
        other = build(variant, module.num_classes).to(device=first.device, dtype=first.dtype).train(module.training)
    other.names, other.metadata = module.names, module.metadata
    return other


def to_official(module: DetectionModel) -> dict[str, Tensor]:
    """The weights of ``module`` (training graph) under the reference's own keys; the inverse of ``load_official``."""
    return _layout(module, {}, "to_official")


def recognise(state: Mapping[str, Any]) -> tuple[ModelSpec, int] | None:
    """The model and the class count whose official keys and shapes are those of ``state``, or None.

    Where no model fits in full, the one that shares most entries is returned, if it shares more than half of them:
    loading it says what is wrong.
    """
    state = strip_prefix(state)
    best: tuple[int, ModelSpec, int] | None = None
    for family in FAMILIES.values():
        known = upgraded(family, state)
        num_classes = family.num_classes_of(known)
        if not num_classes or num_classes > MAX_CLASSES:
            continue
        shapes = {key: tuple(getattr(value, "shape", ())) for key, value in known.items()}
        for candidate in family.candidates(known):
            with unfilled():
                layout = _layout(build(candidate, num_classes), known, "recognise")
            shared = sum(shapes.get(key) == tuple(tensor.shape) for key, tensor in layout.items())
            if shared == len(layout) == len(known):
                return candidate, num_classes
            if 2 * shared > len(layout) and (best is None or shared > best[0]):
                best = shared, candidate, num_classes
    return None if best is None else best[1:]


def identify(official: Official) -> tuple[ModelSpec, int] | None:
    """As ``recognise``, of a file: the specification is refined by what the file says besides its weights.

    Raises:
        ValueError: the file contradicts the model that its weights are.
    """
    found = recognise(official.state)
    if found is None:
        return None
    spec, num_classes = found
    family = FAMILIES[spec.family]
    with unfilled():
        module = build(spec, num_classes)
    known = upgraded(family, official.state)
    if _layout(module, known, "identify").keys() != known.keys():
        return found  # loading will say what is wrong
    spec = refined(spec, module, family.key_map(spec), official)
    refine = getattr(family, "refine", None)
    if refine is not None:
        spec = refine(spec, official)
    if official.strides is not None and sorted(official.strides) != sorted(spec.strides):
        raise ValueError(f"its strides are {official.strides}, those of {spec.name} are {spec.strides}")
    if official.input_size is not None:
        step = max(spec.strides)  # the reference rounds up too
        height, width = (-(-side // step) * step for side in official.input_size)
        spec = dataclasses.replace(spec, input_size=(height, width))
    return spec, num_classes


def describe_unknown(official: Official) -> str:
    """One line on a model that no family knows: its classes or first keys, and the family whose keys are most alike."""
    classes = sorted({node.class_name for node in official.modules.values() if not node.kind.startswith("torch.nn.")})
    if official.modules:
        kind = shown(official.modules[""].kind)
        listed = ", ".join([shown(name, 40) for name in classes[:12]] + ["..."] * (len(classes) > 12))
        what = f"a {kind} of {listed}" if listed else f"a {kind}"
    else:
        what = f"first keys: {', '.join(repr(shown(key)) for key in list(official.state)[:3])}"
    near = _nearest(official.state)
    hint = f"; nearest is {near[0]}, which shares {near[1]:.0%} of its kinds of keys" if near else ""
    return f"holds the weights of a model that fastdet does not know ({what}){hint}; it knows {', '.join(FAMILIES)}"


def _nearest(state: Mapping[str, Any]) -> tuple[str, float] | None:
    """The family whose keys, numbers left out, are most like those of ``state``, and their share in common."""
    theirs = {re.sub(r"[0-9]+", "0", key) for key in state}
    best = ("", 0.0)
    for name, family in FAMILIES.items():
        with unfilled():
            module = build(next(iter(family.SPECS.values())))
        ours = {re.sub(r"[0-9]+", "0", key) for key in to_official(module)}
        best = max(best, (name, len(ours & theirs) / len(ours | theirs)), key=lambda pair: pair[1])
    return best if best[1] > 0.2 else None


def upgraded(family: Family, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """``state`` in the layout that the key map of ``family`` knows."""
    upgrade = getattr(family, "upgrade", None)
    return state if upgrade is None else upgrade(state)


def _layout(module: DetectionModel, state: Mapping[str, Any], caller: str) -> dict[str, Tensor]:
    """The tensors of ``module`` by the names of ``state``: the official ones, unless its family knows others."""
    _check_unfused(module, caller)
    family = FAMILIES[module.spec.family]
    layout = getattr(family, "layout", None)
    if layout is not None:
        named: dict[str, Tensor] = layout(module, state)
        return named
    found = official_layout(module, family.key_map(module.spec))
    return {official: tensor for official, (_, tensor) in found.items()}


def _check_unfused(module: DetectionModel, caller: str) -> None:
    if module.fused:
        raise ValueError(f"{caller}: module must be in its training graph, got a fused one; build it anew")
