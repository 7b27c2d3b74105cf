# SPDX-License-Identifier: Apache-2.0
"""Numbers among an operator's arguments: taken as what its schema says, or refused by name."""

from __future__ import annotations

import operator
from typing import Any


def real(op: str, name: str, value: Any) -> float:
    """``value`` as a float; any number, also one of NumPy or in an array without dimensions.

    Raises:
        TypeError: it is none.
    """
    return float(value) if isinstance(value, float) else _float(op, name, "a number", value)


def reals(op: str, **values: Any) -> tuple[float, ...]:
    """``real`` of several, in the order given."""
    return tuple([real(op, name, value) for name, value in values.items()])


def whole(op: str, name: str, value: Any) -> int:
    """``value`` as an int; any whole number, 300.0 too.

    Raises:
        TypeError: it is no number. ValueError: it is not whole, or needs more than 64 bits.
    """
    number = int(value) if isinstance(value, int) else _index(op, name, value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{op}: {name} must be a number of 64 bits, got {number}")
    return number


def _index(op: str, name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        number = _float(op, name, "a whole number", value)
    if not number.is_integer():
        raise ValueError(f"{op}: {name} must be a whole number, got {value!r}")
    return int(number)


def _float(op: str, name: str, rule: str, value: Any) -> float:
    try:
        if not isinstance(value, (str, bytes)):  # float("0.5") is a number, "0.5" is none
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    shown = repr(value)
    raise TypeError(f"{op}: {name} must be {rule}, got {shown if len(shown) <= 60 else type(value).__name__}")
