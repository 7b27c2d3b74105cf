# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: one safetensors file each, written atomically, checked by hash when read.

``checkpoint-<epoch>.safetensors`` holds the tensors (weights, average, optimiser, generator) and, as JSON in the
header, everything else. ``checkpoints.json`` lists the files newest first with their SHA-256. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import nn

from fastdet.train.ema import Ema

INDEX = "checkpoints.json"
KEPT = 2


@dataclass(frozen=True)
class Position:
    """Where a training stands after whole epochs; ``config`` is what it was started with, as plain JSON values."""

    epoch: int  # epochs done
    step: int  # optimiser steps done
    best_metric: float
    best_epoch: int
    config: dict[str, Any]


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a crash at any time leaves the old file or the new one, never a part.

    Raises:
        RuntimeError: the disk is full or the folder not writable; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RuntimeError(f"write_atomically: cannot write {path}: {error.strerror}") from error


def save_state(folder: Path, position: Position, module: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer) -> Path:
    """Write a checkpoint into ``folder`` and drop all but the newest two. Returns its path."""
    tensors = {f"model.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.module.state_dict().items()}
    tensors["rng.torch"] = torch.get_rng_state()
    scalars: dict[str, Any] = {}
    content = optimizer.state_dict()
    for index, values in content["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            elif value is not None:
                scalars[f"{index}.{name}"] = value
    header = {
        "position": vars(position),
        "ema_updates": ema.updates,
        "optimizer_groups": [{k: v for k, v in group.items() if k != "params"} for group in content["param_groups"]],
        "optimizer_scalars": scalars,
    }
    data = serialize(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, {"fastdet": json.dumps(header)}
    )
    path = folder / f"checkpoint-{position.epoch:06d}.safetensors"
    write_atomically(path, data)
    entries = [{"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}]
    entries += [entry for entry in _read_index(folder) if entry["file"] != path.name]
    write_atomically(folder / INDEX, json.dumps(entries[:KEPT], indent=1).encode())
    for entry in entries[KEPT:]:
        (folder / entry["file"]).unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """Newest checkpoint of ``folder`` whose content matches its hash; None when there is none."""
    for entry in _read_index(folder):
        path = folder / entry["file"]
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]:
            return path
    return None


def load_state(path: Path, module: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer) -> Position:
    """Put the state of a checkpoint into freshly built objects, and the torch generator where it was.

    Raises:
        ValueError: the file is no checkpoint, or belongs to a model or optimiser of another structure.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["fastdet"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a mapping
    except Exception as error:
        raise ValueError(f"load_state: {path} is not a training checkpoint: {error}") from error
    try:
        module.load_state_dict(_below(tensors, "model."))
        ema.module.load_state_dict(_below(tensors, "ema."))
    except RuntimeError as error:
        raise ValueError(f"load_state: {path} does not fit the model: {error}") from error
    ema.updates = header["ema_updates"]
    _load_optimizer(optimizer, header, _below(tensors, "optimizer."))
    torch.set_rng_state(tensors["rng.torch"])
    return Position(**header["position"])


def _load_optimizer(
    optimizer: torch.optim.Optimizer, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    content = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for source in (tensors, header["optimizer_scalars"]):
        for key, value in source.items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
    groups = [
        {**group, "params": fresh["params"]}
        for group, fresh in zip(header["optimizer_groups"], content["param_groups"], strict=True)
    ]
    for group in groups:  # JSON has no tuples
        if "betas" in group:
            group["betas"] = tuple(group["betas"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _read_index(folder: Path) -> list[dict[str, str]]:
    path = folder / INDEX
    if not path.is_file():
        return []
    try:
        return [
            {"file": Path(entry["file"]).name, "sha256": str(entry["sha256"])} for entry in json.loads(path.read_text())
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"newest_checkpoint: {path} is damaged: {error}") from error
