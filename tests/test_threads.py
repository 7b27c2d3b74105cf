# SPDX-License-Identifier: Apache-2.0
"""Threads: how many, that calls run beside Python, and that results do not depend on them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastdet import _core, ops


def apart(n, seed=0):
    """Boxes that overlap nothing, so that the walk compares all with all: O(n^2) work."""
    corners = np.stack([30.0 * np.arange(n), np.zeros(n)], 1)
    scores = np.random.default_rng(seed).permutation(n) / n
    return np.concatenate([corners, corners + 10], 1).astype(np.float32), scores.astype(np.float32)


def clustered(n, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 200, (n, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 50, (n, 2))], 1)
    return boxes.astype(np.float32), rng.random(n, np.float32)


@pytest.fixture
def threads():
    """Sets the number of threads for a test and puts the old one back."""
    before = _core.num_threads()
    yield _core.set_num_threads
    _core.set_num_threads(before)


def num_threads(value: str | None) -> str:
    env = {k: v for k, v in os.environ.items() if k != "FASTDET_NUM_THREADS"}
    if value is not None:
        env["FASTDET_NUM_THREADS"] = value
    code = "from fastdet import _core; print(_core.num_threads())"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, env=env)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_number_of_threads():
    assert num_threads("3") == "3"
    assert num_threads(None) == num_threads("") == str(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("value", ["0", "-1", "two", "4x", "100000"])
def test_wrong_number_of_threads(value):
    assert num_threads(value).endswith(f"FASTDET_NUM_THREADS: must be a number from 1 to 4096, got {value}")


def test_python_runs_on_during_a_call(threads):
    """While one thread is inside an operator, another keeps running Python: the call has released the GIL."""
    threads(1)
    boxes, scores = apart(60000)
    started, ended = threading.Event(), threading.Event()

    def call():
        started.set()
        ops.nms(boxes, scores, 0.5)
        ended.set()

    worker = threading.Thread(target=call)
    worker.start()
    started.wait()
    turns = 0
    while not ended.is_set():
        time.sleep(0.001)
        turns += 1
    worker.join()
    assert turns >= 10, f"{turns} turns of another thread during a call that takes hundreds of milliseconds"


def test_calls_in_parallel_equal_calls_in_series(threads):
    threads(3)
    inputs = [clustered(3000, seed) for seed in range(12)] + [apart(6000, seed) for seed in range(4)]
    serial = [ops.nms(boxes, scores, 0.5) for boxes, scores in inputs]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            parallel = list(pool.map(lambda pair: ops.nms(*pair, 0.5), inputs))
            assert all((a == b).all() for a, b in zip(serial, parallel, strict=True))


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_results_do_not_depend_on_the_number_of_threads(threads, count):
    boxes, scores = apart(9000)
    batch = [clustered(500, seed) for seed in range(7)]
    args = np.stack([b for b, _ in batch]), np.stack([s for _, s in batch])[..., None]
    threads(1)
    alone, kept_alone = ops.nms(boxes, scores, 0.5), ops.multiclass_nms(*args)
    threads(count)
    assert _core.num_threads() == count
    assert (ops.nms(boxes, scores, 0.5) == alone).all()
    for a, b in zip(ops.multiclass_nms(*args), kept_alone, strict=True):
        np.testing.assert_array_equal(a, b)


def test_errors_in_one_thread_leave_others_alone(threads):
    threads(3)
    boxes, scores = apart(6000)
    expected = ops.nms(boxes, scores, 0.5)

    def call(i):
        if i % 2:
            with pytest.raises(ValueError, match="iou_threshold"):
                ops.nms(boxes, scores, 2.0)
            return True
        return bool((ops.nms(boxes, scores, 0.5) == expected).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(16)))


def test_the_number_may_change_during_calls(threads):
    boxes, scores = apart(12000)
    expected = ops.nms(boxes, scores, 0.5)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(ops.nms, boxes, scores, 0.5) for _ in range(8)]
        for count in (1, 4, 2, 3):
            threads(count)
        assert all((call.result() == expected).all() for call in calls)
