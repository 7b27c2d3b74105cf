# SPDX-License-Identifier: Apache-2.0
"""How far long work has come, on standard error: a tqdm bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Progress"]

INTERVAL = 10.0  # seconds between plain lines; work shorter than this prints none


class Progress:
    """Counts steps of known number. ``note`` prints a whole line without tearing the bar.

    Example:
        >>> with Progress(len(paths), "pictures") as progress:
        ...     for path in paths:
        ...         progress.step()
    """

    def __init__(self, total: int, unit: str, stream: TextIO | None = None) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self.stream = sys.stderr if stream is None else stream
        self.started = self.spoken = time.monotonic()
        self.bar: Any = None
        if self.stream.isatty() and total > 1:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self.bar = tqdm(total=total, unit=f" {unit}", file=self.stream, leave=False, dynamic_ncols=True)

    def step(self, count: int = 1) -> None:
        """``count`` more are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
            return
        now = time.monotonic()
        if now - self.spoken >= INTERVAL and self.done < self.total:
            self.spoken = now
            left = (now - self.started) / self.done * (self.total - self.done)
            print(f"{self.done} of {self.total} {self.unit}, about {left:.0f} s left", file=self.stream, flush=True)

    def note(self, line: str, stream: TextIO | None = None) -> None:
        """Print ``line`` to ``stream`` (standard error by default), above the bar if there is one."""
        if self.bar is not None:
            self.bar.write(line, file=stream or self.stream)
        else:
            print(line, file=stream or self.stream, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self.bar is not None:
            self.bar.close()


def printable(line: str) -> str:
    """``line`` without control characters and halves of letters, which names of files may hold and terminals obey."""
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of texts as lines with aligned columns, two spaces between them."""
    wide = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, wide)).rstrip() for row in rows]
