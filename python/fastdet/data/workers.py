# SPDX-License-Identifier: Apache-2.0
"""Who builds the batches: the caller himself, threads, or processes. All give the same batches in the same order."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import connection, resource_tracker
from typing import Any, Protocol

import numpy as np

from fastdet.data.batches import Batch, BatchBuilder, BatchPlan
from fastdet.data.dataset import DataError

__all__ = ["CallerWorker", "ProcessWorkers", "ThreadWorkers", "Workers"]

PATIENCE = 2.0  # seconds that a process gets to die
Allocate = Callable[[tuple[int, ...]], np.ndarray]


class Workers(Protocol):
    """Builds batches of one epoch in order; errors come when the turn of their batch comes."""

    def batches(self, epoch: int, numbers: range) -> Iterator[Batch]:
        """The batches ``numbers`` of ``epoch``."""

    def close(self) -> None:
        """End all threads and processes. May be called twice."""


class CallerWorker:
    """Builds each batch when it is asked for."""

    def __init__(self, builder: BatchBuilder, allocate: Allocate) -> None:
        self._builder, self._allocate = builder, allocate

    def batches(self, epoch: int, numbers: range) -> Iterator[Batch]:
        """The batches ``numbers`` of ``epoch``."""
        for number in numbers:
            yield self._builder.build(epoch, number, self._allocate(self._builder.plan.shape))

    def close(self) -> None:
        """Nothing runs."""


class ThreadWorkers:
    """Threads of this process, at most ``ahead`` batches before the caller; decoding and warping release the GIL."""

    def __init__(self, builder: BatchBuilder, allocate: Allocate, workers: int, ahead: int) -> None:
        self._builder, self._allocate = builder, allocate
        self._workers, self._ahead = workers, ahead

    def batches(self, epoch: int, numbers: range) -> Iterator[Batch]:
        """The batches ``numbers`` of ``epoch``. Its threads end with it."""
        stopped = threading.Event()
        shape = self._builder.plan.shape
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="fastdet-loader")
        waiting: deque[Future[Batch]] = deque()
        left = deque(numbers)
        try:
            while left or waiting:
                while left and len(waiting) < self._ahead:
                    images = self._allocate(shape)
                    waiting.append(pool.submit(self._builder.build, epoch, left.popleft(), images, stopped.is_set))
                yield waiting.popleft().result()
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Nothing runs between two epochs."""


class _Process:
    """One worker process as its parent sees it. ``tasks``: number of a batch -> what was sent, in order."""

    def __init__(self, name: str, start: Callable[[_Process], tuple[Any, connection.Connection]]) -> None:
        self.name, self._start = name, start
        self.tasks: dict[int, tuple[int, int, int]] = {}  # (epoch, number, slot)
        self.ready = self.restarted = False
        self.process, self.pipe = start(self)

    def give(self, task: tuple[int, int, int]) -> None:
        self.tasks[task[1]] = task
        with contextlib.suppress(OSError):  # it is dead, which is noticed when its answer is awaited
            self.pipe.send(task)

    def answer(self) -> tuple[int, str, Any] | None:
        """(number, kind, content), or None when there is no batch yet; a dead process is started again, once."""
        try:
            number, kind, content = self.pipe.recv()
        except (EOFError, OSError):
            self._revive()
            return None
        if kind == "ready":
            self.ready = True
            return None
        del self.tasks[number]
        return number, kind, content

    def _revive(self) -> None:
        code = 1  # of one that ended before it had read what it was to do
        if self.process.pid is not None:
            self.process.join(PATIENCE)
            if self.process.exitcode is None:  # it does not answer and does not end
                self.process.kill()
                self.process.join(PATIENCE)
            code = self.process.exitcode
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        who = f"Loader: {self.name} (process {self.process.pid}) {how}"
        if not self.ready and code is not None and code > 0:
            raise RuntimeError(
                f"{who} before it began; a script that uses worker processes must do its work under "
                "if __name__ == '__main__':, because each worker imports it"
            )
        if self.restarted:
            work = ", ".join(f"batch {number} of epoch {epoch}" for epoch, number, _ in self.tasks.values())
            raise RuntimeError(
                f"{who}, the second time, with {work or 'nothing'} to build; signal 9 often means that "
                "memory ran out: use fewer workers, or worker_kind='thread'"
            )
        self.pipe.close()
        self.ready, self.restarted = False, True
        self.process, self.pipe = self._start(self)
        for task in self.tasks.values():
            self.give(task)


class ProcessWorkers:
    """Spawned processes, at most ``ahead`` batches before the caller.

    Pixels come through anonymous shared memory, one slot a batch, which has no name that could be left behind; the
    rest through pipes. A worker that dies is started again once and gets its batches again. One that has lost its
    parent ends by itself.
    """

    def __init__(self, plan: BatchPlan, allocate: Allocate, workers: int, ahead: int, cache_mb: float) -> None:
        self._plan, self._allocate, self._cache_mb = plan, allocate, cache_mb / workers
        self._names = [f"worker {number}" for number in range(workers)]
        self._ahead = max(ahead, workers)
        self._context = multiprocessing.get_context("spawn")
        self._slots: list[Any] = []
        self._processes: list[_Process] = []

    def batches(self, epoch: int, numbers: range) -> Iterator[Batch]:
        """The batches ``numbers`` of ``epoch``. The processes stay for the next epoch if all were taken."""
        whole = False
        try:
            if not self._processes:
                size = int(np.prod(self._plan.shape))
                self._slots = [self._context.RawArray(ctypes.c_uint8, size) for _ in range(self._ahead)]
                for name in self._names:
                    self._processes.append(_Process(name, self._start))
            yield from self._batches(epoch, numbers)
            whole = True
        finally:
            if not whole:
                self.close()

    def _batches(self, epoch: int, numbers: range) -> Iterator[Batch]:
        left, free = deque(numbers), deque(range(len(self._slots)))
        slot_of: dict[int, int] = {}
        done: dict[int, tuple[str, Any]] = {}

        def feed() -> None:
            while left and free:
                number = left.popleft()
                slot_of[number] = free.popleft()
                worker = min(self._processes, key=lambda each: len(each.tasks))
                worker.give((epoch, number, slot_of[number]))

        feed()
        for number in numbers:
            while number not in done:
                busy = {each.pipe: each for each in self._processes if each.tasks}
                for pipe in connection.wait(list(busy)):
                    answer = busy[pipe].answer()  # type: ignore[index] # wait's annotation knows more kinds
                    if answer is not None:
                        done[answer[0]] = answer[1:]
            kind, content = done.pop(number)
            if kind == "data":
                raise DataError(content)
            if kind == "error":
                raise RuntimeError(f"Loader: a worker process failed in batch {number} of epoch {epoch}:\n{content}")
            images = self._allocate(self._plan.shape)
            slot = slot_of.pop(number)
            np.copyto(images, _pixels(self._slots[slot], self._plan))
            free.append(slot)
            feed()  # before the caller goes to work
            yield Batch(images, *content)

    def _start(self, worker: _Process) -> tuple[Any, connection.Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve,
            args=(self._plan, self._cache_mb, self._slots, theirs),
            name=f"fastdet-loader {worker.name}",
            daemon=True,
        )
        try:
            with _interrupts_held():
                process.start()
        except BrokenPipeError:
            pass  # it ended before it had read its plan; said when its answer is awaited
        finally:
            theirs.close()
        return process, ours

    def close(self) -> None:
        """End the processes; they hold nothing that would have to be saved."""
        processes, self._processes, self._slots = self._processes, [], []
        for each in processes:
            each.pipe.close()
            if each.process.pid is not None:
                each.process.terminate()
        for each in processes:
            if each.process.pid is not None:
                each.process.join(PATIENCE)
                if each.process.exitcode is None:
                    each.process.kill()
                    each.process.join(PATIENCE)


def _pixels(slot: Any, plan: BatchPlan) -> np.ndarray:
    return np.frombuffer(slot, np.uint8).reshape(plan.shape)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; one started in here never hears of it, its parent does afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else started in between, and it lets interrupts through
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _serve(plan: BatchPlan, cache_mb: float, slots: list[Any], pipe: connection.Connection) -> None:
    """What a worker process does until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from fastdet import _core

    _core.set_num_threads(1)  # the processes are the parallelism
    builder = BatchBuilder(plan, cache_mb)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone, or has closed
        pipe.send((-1, "ready", None))
        while True:
            epoch, number, slot = pipe.recv()
            try:
                batch = builder.build(epoch, number, _pixels(slots[slot], plan))
                rest = (batch.boxes, batch.labels, batch.indices, batch.unreadable, batch.replaced, batch.retried)
                pipe.send((number, "batch", rest))
            except DataError as error:
                pipe.send((number, "data", str(error)))
            except Exception:
                pipe.send((number, "error", traceback.format_exc()))
