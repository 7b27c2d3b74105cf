# SPDX-License-Identifier: Apache-2.0
"""JSON from outside: what is ambiguous or not a number is refused, as other readers might understand it otherwise."""

from __future__ import annotations

import json
from typing import Any

_MAX_DIGITS = 25


def strict_json(text: str) -> Any:
    """The value of ``text``. ValueError for repeated keys, NaN and infinities, endless numbers, or no JSON."""
    try:
        return json.loads(
            text, object_pairs_hook=unique, parse_constant=_reject, parse_int=_integer, parse_float=_float
        )
    except RecursionError:
        raise ValueError("JSON is nested without end") from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of ``pairs``; ValueError if a key is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a repeated key")
    return found


def _reject(text: str) -> Any:
    raise ValueError(f"the number {text[:_MAX_DIGITS]}")


def _integer(text: str) -> int:
    return _reject(text) if len(text) > _MAX_DIGITS else int(text)


def _float(text: str) -> float:
    value = float(text)
    return _reject(text) if value in (float("inf"), float("-inf")) else value
