# SPDX-License-Identifier: Apache-2.0
"""Timing on a CUDA device: calls captured once and replayed, time taken by the device's own events.

Bytes that an operator cannot help moving, over its time, are set against what a plain copy reaches on the same device
in the same run: that share says how much is left to gain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]

COPY_BYTES = 1 << 30  # many times what any second cache holds


def graphed(run: Callable[[], Any]) -> Callable[[], Any]:
    """``run`` captured in a CUDA graph: a call replays it and returns its result, which the next replay overwrites."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # plans are chosen and workspaces taken before the capture
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def sample(run: Callable[[], Any], calls: int) -> float:
    """Seconds of one of ``calls`` calls, from the device's events before the first and after the last."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return 1e-3 * start.elapsed_time(end) / calls


@functools.cache
def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a device-to-device copy of 1 GiB: the median of nine."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = sorted(sample(lambda: target.copy_(source), 1) for _ in range(9))
    return 2 * COPY_BYTES / seconds[4]


def throughput(moved: int, milliseconds: float) -> dict[str, float]:
    """What a row says of ``moved`` bytes: their number, and the share of the copy's bandwidth at which they moved."""
    share = moved / (1e-3 * milliseconds) / copy_bandwidth()
    return {"bytes": moved, "copy_bandwidth": round(copy_bandwidth()), "share_of_copy": round(share, 4)}
