# SPDX-License-Identifier: Apache-2.0
"""Maps between a reference's state-dict keys and ours, as data, and loading that is strict both ways."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class KeyMap:
    """An ordered list of pairs (official pattern, our pattern) that is read in either direction.

    A pattern is a full key in which ``{i}``, ``{j}``, ... stand for a number and ``{rest}`` for anything; both sides
    of a pair hold the same placeholders. The first pair that matches decides.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]):
        self.pairs = tuple(pairs)
        self._to_ours = [(_regex(official), ours) for official, ours in self.pairs]
        self._to_official = [(_regex(ours), official) for official, ours in self.pairs]

    def to_ours(self, key: str) -> str | None:
        """Our name of the official ``key``, or None where no pair matches."""
        return _translate(key, self._to_ours)

    def to_official(self, key: str) -> str | None:
        """The official name of our ``key``, or None where no pair matches."""
        return _translate(key, self._to_official)


def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    source = "".join(
        re.escape(part) if i % 2 == 0 else f"(?P<{part}>{'.+' if part == 'rest' else '[0-9]+'})"
        for i, part in enumerate(parts)
    )
    return re.compile(source)


def _translate(key: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rules:
        match = pattern.fullmatch(key)
        if match:
            return template.format(**match.groupdict())
    return None


def as_tensor(value: object, key: str, caller: str) -> Tensor:
    """``value`` (NumPy array or torch tensor) as a torch tensor, without a copy where that is possible."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy("C"))
    raise TypeError(f"{caller}: {key} must be a NumPy array or a torch tensor, got {type(value).__name__}")


def official_layout(module: nn.Module, keys: KeyMap) -> dict[str, tuple[str, Tensor]]:
    """For each entry of ``module``'s state dict, in order: official key -> (our key, tensor)."""
    layout = {}
    for ours, tensor in module.state_dict().items():
        official = keys.to_official(ours)
        if official is None:
            raise ValueError(f"to_official: {ours} has no official name in the key map")
        layout[official] = (ours, tensor)
    return layout


def shape_of(state: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Shape of the entry ``key`` of a state dict, () where there is none."""
    return tuple(getattr(state.get(key), "shape", ()))


def strip_prefix(state: Mapping[str, Any], prefixes: Sequence[str] = ("module.", "_orig_mod.")) -> Mapping[str, Any]:
    """``state`` without the prefixes that data-parallel training and torch's compiler put before every key."""
    for prefix in (*prefixes, *prefixes):
        if state and all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def load_strict(layout: Mapping[str, Tensor], state: Mapping[str, object], caller: str) -> None:
    """Copy ``state`` into the tensors of ``layout`` by key; nothing is copied unless every key and shape agrees.

    Raises:
        ValueError: keys are missing, unused or of another shape; all are counted and the first listed, each missing
            key with the nearest unused names.
    """
    missing = [key for key in layout if key not in state]
    unused = [key for key in state if key not in layout]
    values = {key: as_tensor(state[key], key, caller) for key in layout if key in state}
    shapes = [
        f"{key} has shape {tuple(value.shape)}, the model wants {tuple(layout[key].shape)}"
        for key, value in values.items()
        if value.shape != layout[key].shape
    ]
    if missing or unused or shapes:
        raise ValueError("\n".join([f"{caller}: the weights do not fit the model", *_report(missing, unused, shapes)]))
    with torch.no_grad():
        for key, value in values.items():
            layout[key].copy_(value)


def _report(missing: Sequence[str], unused: Sequence[str], shapes: Sequence[str], limit: int = 8) -> Iterable[str]:
    for title, entries in (("missing", missing), ("unused", unused), ("of another shape", shapes)):
        if not entries:
            continue
        yield f"  {len(entries)} {title}:"
        for entry in entries[:limit]:
            near = difflib.get_close_matches(entry, unused, 2, 0.6) if title == "missing" else []
            yield f"    {entry}" + (f" (nearest: {', '.join(near)})" if near else "")
        if len(entries) > limit:
            yield f"    and {len(entries) - limit} more"
