# SPDX-License-Identifier: Apache-2.0
"""Models from and to files: fastdet's own (safetensors with a specification) and official checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastdet import __version__
from fastdet.files import write_atomic
from fastdet.formats import FileFormatError, open_file, read_safetensors, read_torch, safetensors_bytes, strict_json
from fastdet.models.detection_model import DetectionModel
from fastdet.models.keys import load_strict, strip_prefix
from fastdet.models.licences import licence_of, note_licence
from fastdet.models.model_spec import ModelSpec
from fastdet.models.recognition import MAX_CLASSES, Official, read_official
from fastdet.models.registry import build, describe_unknown, identify, load_official, spec
from fastdet.models.unfilled import unfilled

__all__ = ["FileFormatError", "load", "load_file", "read_torch", "save_fastdet"]

FORMAT = 1
SUFFIXES = (".safetensors", ".pth", ".pt")


def load(source: str | os.PathLike[str], num_classes: int | None = None) -> DetectionModel:
    """A model from a file, or a freshly initialised one by name.

    Args:
        source: path of a file (see ``load_file``), or a model name such as ``damo-yolo-t``.
        num_classes: C. None for what the file holds, or the published number. With another number than the file's, the
            head is fresh and everything before it comes from the file, for fine-tuning.

    Raises:
        FileFormatError: the file cannot be used; the message names it and says why. ValueError: no such name.
    """
    if Path(source).suffix.lower() in SUFFIXES or os.path.isfile(source):
        return load_file(source, num_classes)
    return build(os.fspath(source), num_classes)


def load_file(path: str | os.PathLike[str], num_classes: int | None = None) -> DetectionModel:
    """A model in its training graph from a fastdet file or an official checkpoint; the content tells which.

    Safetensors without fastdet's specification are read as an official state dict, as Hugging Face's are.
    Of an official checkpoint (a state dict in a torch file of 1.6 or later, read without executing anything) model
    and class count are told from its keys and shapes; its names are COCO's for 80 classes. Args and errors as ``load``.
    """
    with open_file(path) as file:
        head = file.read(9)
    # A safetensors header is a JSON object behind its length; everything else is left to the reader of torch files.
    read = _from_fastdet if head[8:] == b"{" and head[:2] != b"PK" else _from_official
    with torch.random.fork_rng(devices=[]):  # what is built is overwritten, and draws nothing from the caller's numbers
        module = read(path)
    note_licence(os.fspath(path), module.metadata.get("license", ""))
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
    base = spec(module.spec.name)
    for each in dataclasses.fields(module.spec):
        if each.name not in base.FILE_FIELDS and getattr(base, each.name) != getattr(module.spec, each.name):
            raise ValueError(f"save_fastdet: spec.{each.name} must be that of {base.name}; the file could not tell")
    record = {name: text for name, text in module.metadata.items() if name == "license"} | dict(metadata or {})
    specification = {
        "format": FORMAT,
        "fastdet": __version__,
        "model": module.spec.name,
        "task": module.spec.task,
        "graph": "deployed" if module.fused else "training",
        "names": names,
        "spec": {field: getattr(module.spec, field) for field in module.spec.FILE_FIELDS},
        "training": dict(sorted(record.items())),
    }
    text = json.dumps(specification, ensure_ascii=False, separators=(",", ":"))
    return write_atomic(path, safetensors_bytes(tensors, {"fastdet": text}))


def _from_fastdet(path: str | os.PathLike[str]) -> DetectionModel:
    tensors, metadata = read_safetensors(path)
    if "fastdet" not in metadata:
        module = _recognised(path, Official(state=strip_prefix(tensors)))
        if module is None:
            raise FileFormatError(
                path, "is a safetensors file without fastdet's specification; it does not say what model it is"
            )
        return module
    try:
        content = strict_json(metadata["fastdet"])
        if content["format"] > FORMAT:
            raise FileFormatError(
                path, f"was written by fastdet {content['fastdet']}; this is {__version__}, update it"
            )
        names = content["names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MAX_CLASSES:
            raise ValueError(f"names are not a list of at most {MAX_CLASSES} texts")
        changed = _changed_spec(spec(str(content["model"])), content["spec"])
        with unfilled():
            module = build(changed, len(names))
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
        if name not in base.FILE_FIELDS:
            raise ValueError(f"spec.{name} is unknown")
        value = _tuples(value)
        if not _plausible(name, value, getattr(base, name)):
            raise ValueError(f"spec.{name} cannot be {str(value)[:80]!r}")
        changes[name] = value
    return dataclasses.replace(base, **changes)


def _tuples(value: Any, depth: int = 0) -> Any:
    """Lists of JSON as tuples; ValueError for what is nested deeper than any field, or long."""
    if not isinstance(value, list):
        return value
    if depth > 4 or len(value) > 4096:
        raise ValueError("a field of spec is too deep or too long")
    return tuple(_tuples(item, depth + 1) for item in value)


def _plausible(name: str, value: Any, base: Any) -> bool:
    if name == "input_size":
        return isinstance(value, tuple) and len(value) == 2 and all(type(v) is int and 0 < v <= 1 << 16 for v in value)
    if name == "strides":
        return isinstance(value, tuple) and len(value) > 0 and all(type(v) is int and 0 < v <= 1 << 10 for v in value)
    if name in ("mean", "std"):
        return value is None or (isinstance(value, tuple) and len(value) == 3 and all(map(_is_number, value)))
    if name == "color":
        return value in ("RGB", "BGR")
    if name.endswith("_threshold"):
        return _is_number(value) and 0 <= value <= 1
    return _same_kind(value, base)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def _same_kind(value: Any, base: Any) -> bool:
    """Whether ``value`` is plain data of the kind of ``base``; where that is None, of any kind."""
    if base is None:
        return value is None or isinstance(value, (bool, str)) or _is_number(value) or _same_kind(value, ())
    if isinstance(base, tuple):
        return isinstance(value, tuple) and all(_same_kind(item, base[0] if base else None) for item in value)
    if isinstance(base, bool) or isinstance(value, bool):
        return isinstance(base, bool) and isinstance(value, bool)
    if isinstance(base, str):
        return isinstance(value, str) and len(value) <= 200
    if isinstance(base, int):
        return type(value) is int and 0 <= value < 1 << 31
    return _is_number(value)


def _from_official(path: str | os.PathLike[str]) -> DetectionModel:
    try:
        official = read_official(read_torch(path))
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(path, str(error)) from error
    module = _recognised(path, official)
    if module is None:
        raise FileFormatError(path, describe_unknown(official))
    return module


def _recognised(path: str | os.PathLike[str], official: Official) -> DetectionModel | None:
    """The model whose weights ``official`` holds, filled with them; None where no family knows them."""
    try:
        found = identify(official)
    except ValueError as error:
        raise FileFormatError(path, str(error)) from error
    if found is None:
        return None
    try:
        with unfilled():
            module = build(*found)
        load_official(module, official.state)
    except (ValueError, TypeError) as error:
        raise FileFormatError(path, f"looks like {found[0].name}, but: {error}") from error
    if official.names is not None:
        if len(official.names) != module.num_classes:
            raise FileFormatError(
                path, f"has {len(official.names)} class names for the {module.num_classes} classes of {found[0].name}"
            )
        module.names = list(official.names)
    licence = licence_of(official, found[0])
    if licence:
        module.metadata["license"] = licence
    return module


def _with_fresh_head(module: DetectionModel, num_classes: int) -> DetectionModel:
    fresh = build(module.spec, num_classes)
    layout = fresh.state_dict()
    head = module.head_prefix
    state = {key: value for key, value in module.state_dict().items() if not key.startswith(head)}
    load_strict({key: layout[key] for key in layout if not key.startswith(head)}, state, "load")
    return fresh
