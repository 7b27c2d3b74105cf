# SPDX-License-Identifier: Apache-2.0
"""Models from and to files: fastdet's own (safetensors with a specification) and official checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastdet import __version__
from fastdet.files import write_atomic
from fastdet.formats import FileFormatError, Record, read_safetensors, read_torch_zip, safetensors_bytes
from fastdet.models.detection_model import DetectionModel
from fastdet.models.keys import load_strict
from fastdet.models.model_spec import ModelSpec
from fastdet.models.registry import build, load_official, recognise, spec

__all__ = ["FileFormatError", "load", "load_file", "read_torch_zip", "save_fastdet"]

FORMAT = 1
MAX_CLASSES = 1 << 16
SUFFIXES = (".safetensors", ".pth", ".pt")
# Where checkpoints keep their state dict, best first; "" is the checkpoint itself.
_STATE_PATHS = (("ema", "module"), ("ema",), ("model",), ("state_dict",), ())
# Fields of ModelSpec that a file may change: a training may use another size, and its weights then want it.
_SPEC_FIELDS = (
    "input_size", "color", "keep_ratio", "fill", "scale", "mean", "std",
    "score_threshold", "iou_threshold", "max_det", "multi_label",
)  # fmt: skip


def load(source: str | os.PathLike[str], num_classes: int | None = None) -> DetectionModel:
    """A model from a file, or a freshly initialised one by name.

    Args:
        source: path of a file (see ``load_file``), or a model name such as ``damo-yolo-t``.
        num_classes: C. None for what the file holds, or 80. With another number than the file's, the head is fresh
            and everything before it comes from the file, for fine-tuning.

    Raises:
        FileFormatError: the file cannot be used; the message names it and says why. ValueError: no such name.
    """
    if Path(source).suffix.lower() in SUFFIXES or os.path.isfile(source):
        return load_file(source, num_classes)
    return build(os.fspath(source), 80 if num_classes is None else num_classes)


def load_file(path: str | os.PathLike[str], num_classes: int | None = None) -> DetectionModel:
    """A model in its training graph from a fastdet file or an official checkpoint; the content tells which.

    Of an official checkpoint (a state dict in a torch file of 1.6 or later, read without executing anything) model
    and class count are told from its keys and shapes; its names are COCO's for 80 classes. Args and errors as ``load``.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise FileFormatError(path, f"cannot be opened: {error.strerror}") from error
    # A safetensors header is a JSON object behind its length; everything else is left to the reader of torch files.
    read = _from_fastdet if head[8:] == b"{" and head[:4] != b"PK\x03\x04" else _from_official
    with torch.random.fork_rng(devices=[]):  # what is built is overwritten, and draws nothing from the caller's numbers
        module = read(path)
    if num_classes is None or num_classes == module.num_classes:
        return module
    if module.fused:
        raise FileFormatError(path, f"is folded for {module.num_classes} classes and cannot be given {num_classes}")
    return _with_fresh_head(module, num_classes)


def save_fastdet(
    path: str | os.PathLike[str],
    module: DetectionModel,
    *,
    names: Sequence[str] | None = None,
    dtype: str = "float16",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``module`` to ``path`` as safetensors; whole or not at all, and the same bytes every time.

    The metadata entry ``fastdet`` is JSON: model, graph, class names, the fields of the specification, version, and
    ``metadata`` as the record of the training.

    Args:
        path: the file; missing folders are made. module: in its training or deployed graph.
        names: C class names; by default ``module.names``.
        dtype: ``"float16"`` or ``"float32"``, for tensors of two dimensions or more. Biases and BatchNorm are small,
            and their variances can exceed the range of float16: they are always float32.
        metadata: text by name, for people.

    Returns:
        The path.

    Raises:
        ValueError: names are not C texts, another dtype, or a weight that is not finite in ``dtype``.
    """
    names = list(module.names if names is None else names)
    if len(names) != module.num_classes or not all(isinstance(name, str) for name in names):
        raise ValueError(f"save_fastdet: names must be {module.num_classes} texts, got {names!r}")
    if dtype not in ("float16", "float32"):
        raise ValueError(f"save_fastdet: dtype must be 'float16' or 'float32', got {dtype!r}")
    tensors = {}
    for key, tensor in module.state_dict().items():
        array = tensor.detach().cpu()
        if tensor.is_floating_point():
            array = array.to(getattr(torch, dtype) if tensor.ndim >= 2 else torch.float32)
            if not torch.isfinite(array).all():
                raise ValueError(f"save_fastdet: {key} must be finite in {array.dtype}")
        tensors[key] = array.contiguous().numpy()
    specification = {
        "format": FORMAT,
        "fastdet": __version__,
        "model": module.spec.name,
        "graph": "deployed" if module.fused else "training",
        "names": names,
        "spec": {field: getattr(module.spec, field) for field in _SPEC_FIELDS},
        "training": dict(sorted((metadata or {}).items())),
    }
    text = json.dumps(specification, ensure_ascii=False, separators=(",", ":"))
    return write_atomic(path, safetensors_bytes(tensors, {"fastdet": text}))


def _from_fastdet(path: str | os.PathLike[str]) -> DetectionModel:
    tensors, metadata = read_safetensors(path)
    if "fastdet" not in metadata:
        raise FileFormatError(
            path, "is a safetensors file without fastdet's specification; it does not say what model it is"
        )
    try:
        content = json.loads(metadata["fastdet"])
        if content["format"] > FORMAT:
            raise FileFormatError(
                path, f"was written by fastdet {content['fastdet']}; this is {__version__}, update it"
            )
        names = content["names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MAX_CLASSES:
            raise ValueError(f"names are not a list of at most {MAX_CLASSES} texts")
        module = build(_changed_spec(spec(str(content["model"])), content["spec"]), len(names))
        if content["graph"] == "deployed":
            module.fuse()
        load_strict(module.state_dict(), tensors, "load")
        module.names = names
        module.metadata = {str(key): str(text) for key, text in content["training"].items()}
    except FileFormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise FileFormatError(path, f"has a specification or weights that cannot be used: {reason}") from error
    return module


def _changed_spec(base: ModelSpec, fields: Mapping[str, Any]) -> ModelSpec:
    """``base`` with the fields that a file gives; each must look like the field it replaces."""
    changes: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in _SPEC_FIELDS:
            raise ValueError(f"spec.{name} is unknown")
        value = tuple(value) if isinstance(value, list) else value
        if not _plausible(name, value):
            raise ValueError(f"spec.{name} cannot be {value!r}")
        changes[name] = value
    return dataclasses.replace(base, **changes)


def _plausible(name: str, value: Any) -> bool:
    if name == "input_size":
        return isinstance(value, tuple) and len(value) == 2 and all(type(v) is int and 0 < v <= 1 << 16 for v in value)
    if name in ("mean", "std"):
        return value is None or (
            isinstance(value, tuple) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)
        )
    if name == "color":
        return value in ("RGB", "BGR")
    if name in ("keep_ratio", "scale", "multi_label"):
        return isinstance(value, bool)
    if name in ("fill", "max_det"):
        return type(value) is int and value >= 0
    return isinstance(value, (int, float)) and 0 <= value <= 1


def _from_official(path: str | os.PathLike[str]) -> DetectionModel:
    state = _find_state(path, read_torch_zip(path))
    found = recognise(state)
    if found is None:
        first = ", ".join(map(repr, list(state)[:3]))
        raise FileFormatError(path, f"holds the weights of a model that fastdet does not know (first keys: {first})")
    try:
        return load_official(build(*found), state)
    except (ValueError, TypeError) as error:
        raise FileFormatError(path, f"looks like {found[0].name}, but: {error}") from error


def _find_state(path: str | os.PathLike[str], content: Any) -> dict[str, np.ndarray]:
    """The state dict inside a checkpoint: a dict of arrays by text, at one of the places where they are kept."""
    records = []
    for keys in _STATE_PATHS:
        value = content
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, Record):
            records.append(value)
        if isinstance(value, dict) and value and all(_is_weight(*entry) for entry in value.items()):
            return value
    if records:
        raise FileFormatError(
            path,
            f"holds a whole object ({records[0]!r}) instead of a state dict; this version of fastdet reads state dicts",
        )
    raise FileFormatError(path, "holds no state dict (at model, state_dict, ema or the top)")


def _is_weight(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, np.ndarray)


def _with_fresh_head(module: DetectionModel, num_classes: int) -> DetectionModel:
    fresh = build(module.spec, num_classes)
    layout = fresh.state_dict()
    state = {key: value for key, value in module.state_dict().items() if not key.startswith("head.")}
    load_strict({key: layout[key] for key in layout if not key.startswith("head.")}, state, "load")
    return fresh
