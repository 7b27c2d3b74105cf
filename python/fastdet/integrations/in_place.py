# SPDX-License-Identifier: Apache-2.0
"""Other people's modules, changed where they stand: a module gets a subclass of its own class, and its class back."""

from __future__ import annotations

import copy
import copyreg
from functools import cache
from typing import Any

from torch import nn


class Changed:
    """First base of what ``change`` makes. Attributes of a module whose names begin with ``_fastdet_`` are ours.

    A deep copy is changed like its original; a pickle holds the module as its author made it.
    """

    _fastdet_original: type[nn.Module]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(_theirs(self), memo))
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Of the standard library, so that whoever reads the pickle needs no fastdet.
        return copyreg._reconstructor, (self._fastdet_original, object, None), _theirs(self)  # type: ignore[attr-defined]


def change(module: nn.Module, part: type[Changed]) -> None:
    """Put ``part`` before the class of ``module``; parameters, hooks, names and ``isinstance`` stay as they are."""
    module.__class__ = _subclass(part, type(module))  # type: ignore[arg-type]


def change_back(module: nn.Module) -> bool:
    """Whether ``module`` had been changed; it is of its own class again."""
    if not isinstance(module, Changed):
        return False
    original = module._fastdet_original
    module.__dict__.update(kept := _theirs(module))
    for name in set(module.__dict__) - set(kept):
        del module.__dict__[name]
    module.__class__ = original  # type: ignore[assignment]
    return True


@cache
def _subclass(part: type[Changed], original: type[nn.Module]) -> type[nn.Module]:
    # Of the same name: what looks at names (repr, device maps) finds what it knows.
    named = {"__module__": original.__module__, "__qualname__": original.__qualname__, "__doc__": original.__doc__}
    return type(original.__name__, (part, original), {**named, "_fastdet_original": original})


def _theirs(module: Any) -> dict[str, Any]:
    return {name: value for name, value in module.__dict__.items() if not name.startswith("_fastdet_")}
