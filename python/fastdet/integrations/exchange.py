# SPDX-License-Identifier: Apache-2.0
"""Functions of another package exchanged for ours, in every module of it that holds them, and back."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class Exchange:
    """Puts functions into the place of others of the same names, for the whole process.

    Args:
        home: module that holds the others.
        ours: name -> what stands for it.
        packages: whose loaded modules are looked through for references.
    """

    def __init__(self, home: str, ours: Mapping[str, Callable[..., Any]], packages: Sequence[str]):
        self._home, self._ours, self._packages = home, dict(ours), frozenset(packages)
        self._theirs: list[tuple[Any, Any]] = []  # what each of ours replaces; empty: not patched
        self._depth = 0
        self._lock = threading.RLock()

    def patch(self) -> None:
        """Exchange; the second call and later ones only count."""
        home = importlib.import_module(self._home)
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._theirs = [(ours, getattr(home, name)) for name, ours in self._ours.items() if hasattr(home, name)]
                self._replace({id(theirs): ours for ours, theirs in self._theirs})

    def unpatch(self) -> None:
        """Exchange back, in modules loaded meanwhile too, when called as often as ``patch``; more calls do nothing."""
        with self._lock:
            self._depth = max(self._depth - 1, 0)
            if self._depth == 0:
                self._replace({id(ours): theirs for ours, theirs in self._theirs})
                self._theirs = []

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Both, around a ``with`` statement."""
        self.patch()
        try:
            yield
        finally:
            self.unpatch()

    def _replace(self, new: Mapping[int, Any]) -> None:
        loaded = [m for name, m in sys.modules.items() if name.split(".")[0] in self._packages and m is not None]
        for module in loaded:
            for name, value in list(vars(module).items()):
                if id(value) in new:
                    setattr(module, name, new[id(value)])
