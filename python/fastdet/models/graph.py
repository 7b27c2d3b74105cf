# SPDX-License-Identifier: Apache-2.0
"""Networks as tables: a row holds a block and says where its input comes from; ``Graph`` builds and runs the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn


class Row:
    """One row of a table: ``block(c_in, c_out, **options)``.

    Args:
        block: the class (or function) that makes the module; it, or the module, has an attribute ``c_out``.
        channels: c_out before the family's scaling. None for a block that decides itself (Concat, Upsample), which is
            then called without it.
        repeat: given to the block as ``repeat``, after the family's scaling; None where the block takes none.
        source: row whose output is the input: absolute from 0, or -1 for the row before (of row 0: the picture). A
            tuple gives the block a list of inputs, and c_in is then a tuple.
        tap: name under which ``Graph`` hands the output to the head.
        options: further arguments of the block.
    """

    __slots__ = ("block", "channels", "options", "repeat", "source", "tap")

    def __init__(
        self,
        block: Callable[..., nn.Module],
        channels: int | None = None,
        *,
        repeat: int | None = None,
        source: int | tuple[int, ...] = -1,
        tap: str | None = None,
        **options: Any,
    ):
        self.block, self.channels, self.repeat = block, channels, repeat
        self.source, self.tap, self.options = source, tap, options

    def __repr__(self) -> str:
        name = getattr(self.block, "__name__", repr(self.block))
        return f"Row({name}, {self.channels}, repeat={self.repeat}, source={self.source}, tap={self.tap!r})"


class Graph(nn.ModuleList):
    """The modules of a table, numbered as its rows, so that row 4 is ``4.`` in the state dict.

    Modules appended later (the head) belong to the list and do not run in ``forward``.

    Args:
        rows: the table. c_in: channels of the picture.
        width: the family's rule from a row's channels to c_out. depth: its rule for repeats.

    Attributes:
        taps: names of the outputs, sorted. c_out: their channels. last_row: number of rows less 1.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        c_in: int = 3,
        width: Callable[[int], int] = lambda channels: channels,
        depth: Callable[[int], int] = lambda repeat: repeat,
    ):
        super().__init__()
        channels: list[Any] = []
        self._sources: list[int | tuple[int, ...]] = []
        for i, row in enumerate(rows):
            source = self._resolve(row.source, i)
            of = [c_in, *channels]
            inputs = tuple(of[j + 1] for j in source) if isinstance(source, tuple) else of[source + 1]
            c_out = () if row.channels is None else (width(row.channels),)
            repeat = {} if row.repeat is None else {"repeat": depth(row.repeat)}
            block = row.block(inputs, *c_out, **repeat, **row.options)
            self.append(block)
            self._sources.append(source)
            channels.append(block.c_out)
        self._taps = sorted((i for i, row in enumerate(rows) if row.tap), key=lambda i: str(rows[i].tap))
        self.taps = tuple(str(rows[i].tap) for i in self._taps)
        self.c_out = tuple(channels[i] for i in self._taps)
        self.last_row = len(rows) - 1
        self._run = list(range(len(rows)))
        self._done_with = self._last_uses()

    @staticmethod
    def _resolve(source: int | tuple[int, ...], i: int) -> int | tuple[int, ...]:
        if isinstance(source, tuple):
            return tuple(j + i if j < 0 else j for j in source)
        return source + i if source < 0 else source

    def _last_uses(self) -> dict[int, list[int]]:
        """For each row that runs the outputs that nobody needs after it."""
        last = {i: i for i in self._run}
        for i in self._run:
            last.update(dict.fromkeys(self._inputs(i), i))
        return {i: [j for j in last if last[j] == i and j not in self._taps] for i in self._run}

    def _inputs(self, i: int) -> tuple[int, ...]:
        source = self._sources[i]
        return source if isinstance(source, tuple) else (source,)

    def prune(self, count: int) -> None:
        """Put out only the first ``count`` taps, and empty the rows that lead to none of them; numbers stay."""
        self._taps, self.taps, self.c_out = self._taps[:count], self.taps[:count], self.c_out[:count]
        needed: set[int] = set()
        rows = list(self._taps)
        while rows:
            row = rows.pop()
            if row >= 0 and row not in needed:
                needed.add(row)
                rows.extend(self._inputs(row))
        for i in set(self._run) - needed:
            self[i] = nn.Identity()
        self._run = sorted(needed)
        self._done_with = self._last_uses()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, c_in, H, W] -> the tapped outputs [B, c_out[i], H_i, W_i]."""
        outputs: dict[int, Any] = {-1: images}
        for i in self._run:
            source = self._sources[i]
            outputs[i] = self[i]([outputs[j] for j in source] if isinstance(source, tuple) else outputs[source])
            for j in self._done_with[i]:
                del outputs[j]
        return tuple(outputs[i] for i in self._taps)
