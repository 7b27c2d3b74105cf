# SPDX-License-Identifier: Apache-2.0
"""Modules built without drawing their random weights, for those that are overwritten or only looked at."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode

_DRAWS = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "orthogonal_",
)


class unfilled(TorchFunctionMode):
    """``with unfilled(): module = build(name)``: random weights stay uninitialised memory, all else is as ever.

    Drawing takes most of the time of building, and the memory of a weight is not touched until it is written. The
    meta device would do as well, but its first use makes torch import its compiler, which takes two seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor as it is for what would fill it with random numbers."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
