# SPDX-License-Identifier: Apache-2.0
"""Speed against a peer, both timed in one run, turn by turn (A B A B), so that both see the same machine.

A benchmark is one function that hands its contenders to ``compare``; the first contender is ours::

    def bench_nms(benchmark):
        boxes, scores = ...
        compare(
            benchmark, "nms", "8400 boxes, IoU 0.65",
            {"fastdet": lambda: ops.nms(boxes, scores, 0.65), "torch": lambda: plain_nms(boxes, scores, 0.65)},
            same=torch.equal,
        )

``FASTDET_BENCH_SAVE=1`` (set by ``make bench``) writes ``benchmarks/results/<op>.json``; the README's table is made
from those files. ``pytest --benchmark-disable`` runs and compares every contender once and times nothing.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import subprocess
from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "torch", "torchvision", "transformers", "opencv-python-headless", "pillow", "scipy")
SAMPLE_SECONDS = 0.005  # calls shorter than this are timed several at a time
LONG_SECONDS = 30.0  # a turn of all contenders that takes longer is always counted: each has been called before
# Before a sample the contender works so long uncounted: its threads are awake and spread over the processors,
# and those of the one before, which look for more work for a while (OpenMP's some 5 ms), sleep.
WARM_SECONDS = 0.02


def compare(
    benchmark: Any,
    op: str,
    setting: str,
    contenders: Mapping[str, Callable[[], Any]],
    *,
    same: Callable[[Any, Any], bool],
    rounds: int = 20,
    device: str = "cpu",
    moved: int | None = None,
    eager: Collection[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Check that all contenders agree, then time them in turn and keep medians and paired ratios.

    Args:
        benchmark: pytest-benchmark's fixture; it times the first contender, its peers are timed between its rounds.
        op: names the result file. setting: names the row in it.
        contenders: name -> function without arguments; ours first.
        same: whether a peer's result (second argument) equals ours (first), as closely as the two promise.
        rounds: timings of each contender after two unrecorded ones.
        device: ``"cuda"`` replays each contender as a CUDA graph, times by the device's events and records the device.
        moved: bytes that the work cannot help reading and writing; on CUDA the row gets the share of the measured
            bandwidth of a copy that our contender reaches with them.
        eager: on CUDA, the contenders that wait for the device themselves, which no graph can hold.
        extra: more figures for the row, for example ``peak_memory`` of each contender.

    Returns:
        The row: per contender median, p10 and p90 in milliseconds, and ``ratio``: the median over rounds of
        peer time / our time.
    """
    sample = _sample
    if device == "cuda":
        import on_device

        sample = on_device.sample
        contenders = {n: run if n in eager else on_device.graphed(run) for n, run in contenders.items()}
    (ours, run_ours), *peers = contenders.items()
    started = perf_counter()
    expected = run_ours()
    first = {ours: perf_counter() - started}
    for name, run in peers:
        started = perf_counter()
        result = run()
        first[name] = perf_counter() - started
        assert same(expected, result), f"{op}, {setting}: {name} does not agree with {ours}"
    if not benchmark.enabled:
        benchmark(run_ours)  # runs it once
        return {}
    seconds = {n: first[n] if first[n] > 1 else _seconds(run, sample) for n, run in contenders.items()}
    calls = {name: max(1, min(10000, round(SAMPLE_SECONDS / each))) for name, each in seconds.items()}
    warm_up = 2 if sum(seconds.values()) < LONG_SECONDS else 0
    timed: dict[str, list[float]] = {name: [] for name in contenders}

    def peers_turn() -> None:
        for name, run in peers:
            turn(name, run)

    def our_turn() -> None:
        turn(ours, run_ours)

    def turn(name: str, run: Callable[[], Any]) -> None:
        if device == "cpu" and seconds[name] < WARM_SECONDS:
            _warm_up(run)
        timed[name].append(sample(run, calls[name]))

    gc.disable()
    try:
        benchmark.pedantic(our_turn, setup=peers_turn, rounds=rounds, warmup_rounds=warm_up)
    finally:
        gc.enable()
    taken = {name: np.array(values[-rounds:]) for name, values in timed.items()}
    row: dict[str, Any] = {
        "milliseconds": {name: _spread(1e3 * values) for name, values in taken.items()},
        "ratio": {name: round(float(np.median(taken[name] / taken[ours])), 3) for name, _ in peers},
        "rounds": rounds,
        "calls_per_sample": calls,
        **(extra or {}),
    }
    if moved is not None:
        row["bytes"] = moved
        if device == "cuda":
            row |= on_device.throughput(moved, row["milliseconds"][ours]["median"])
    benchmark.group = f"{op}: {setting}"
    benchmark.extra_info.update(row)
    if os.environ.get("FASTDET_BENCH_SAVE") == "1":
        save(op, setting, row, device)
    return row


def take_turns(
    benchmark: Any, op: str, contenders: Mapping[str, Callable[[], Any]], *, rounds: int, device: str = "cpu"
) -> None:
    """Time what has no peer: each contender is a setting of ``op`` and a row, all are timed turn by turn.

    Args:
        benchmark: pytest-benchmark's fixture; one of its rounds is one call of every contender.
        op: names the result file. contenders: setting -> function without arguments.
        rounds: recorded calls of each, after one unrecorded. device: as for ``compare``.
    """
    sample = _sample
    if device == "cuda":
        import on_device

        sample = on_device.sample
    timed: dict[str, list[float]] = {name: [] for name in contenders}

    def turn() -> None:
        for name, run in contenders.items():
            timed[name].append(sample(run, 1))

    if not benchmark.enabled:
        benchmark(turn)
        return
    gc.disable()
    try:
        benchmark.pedantic(turn, rounds=rounds, warmup_rounds=1)
    finally:
        gc.enable()
    for name, seconds in timed.items():
        row = {"milliseconds": {"fastdet": _spread(1e3 * np.array(seconds[-rounds:]))}, "rounds": rounds}
        benchmark.extra_info[name] = row
        if os.environ.get("FASTDET_BENCH_SAVE") == "1":
            save(op, name, row, device)


def save(op: str, setting: str, row: Mapping[str, Any], device: str = "cpu") -> Path:
    """Put one row into the result file of an operator; rows of another machine or build are dropped first."""
    path = RESULTS / (f"{op}.json" if device == "cpu" else f"{op}-{device}.json")
    record = {"op": op, "machine": machine(device), "settings": {}}
    if path.exists():
        old = json.loads(path.read_text())
        if old["machine"] == record["machine"]:
            record["settings"] = old["settings"]
    record["settings"][setting] = dict(row)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions, commit; no names of hosts or people."""
    from fastdet import __version__, _core

    record: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "fastdet_threads": _core.num_threads(),
        "fastdet": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "versions": {name: v for name in PACKAGES if (v := _version(name))},
    }
    if record["versions"].get("torch"):
        import torch

        record["torch_threads"] = torch.get_num_threads()
        if device == "cuda":
            record["gpu"] = torch.cuda.get_device_name()
            record["cuda"] = _core.cuda_description()
    return record


def peak_memory(run: Callable[[], Any]) -> int:
    """Bytes by which the resident set grows at its peak while ``run`` works (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
    before = _status_bytes("VmRSS")
    run()
    return max(0, _status_bytes("VmHWM") - before)


def _sample(run: Callable[[], Any], calls: int) -> float:
    """Seconds of one of ``calls`` calls."""
    start = perf_counter()
    for _ in range(calls):
        run()
    return (perf_counter() - start) / calls


def _warm_up(run: Callable[[], Any]) -> None:
    end = perf_counter() + WARM_SECONDS
    while perf_counter() < end:
        run()


def _seconds(run: Callable[[], Any], sample: Callable[[Callable[[], Any], int], float]) -> float:
    """About what a call takes."""
    first = sample(run, 1)
    return max(1e-9, first if first > SAMPLE_SECONDS else min(sample(run, 1) for _ in range(2)))


def _spread(values: np.ndarray) -> dict[str, float]:
    p10, median, p90 = np.percentile(values, (10, 50, 90))
    return {"median": round(float(median), 5), "p10": round(float(p10), 5), "p90": round(float(p90), 5)}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit, marked where what is measured differs from it; results and pages may."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *words]
        return subprocess.run(command, text=True, capture_output=True).stdout.strip()

    measured = (
        "csrc",
        "python",
        "CMakeLists.txt",
        "benchmarks/ops",
        "benchmarks/harness.py",
        "benchmarks/on_device.py",
    )
    dirty = "-dirty" if git("status", "--porcelain", "--", *measured) else ""
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + dirty


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")
