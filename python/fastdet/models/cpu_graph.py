# SPDX-License-Identifier: Apache-2.0
"""The deployed network of a table on the CPU: its modules flattened into the steps of a native program.

Maps lie pixel by pixel; a convolution adds bias, activation and residual as it writes, and writes into the map that a
concatenation is; buffers share one arena. ``fastdet.models.cpu_lowering`` makes the steps, here they get their sizes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastdet import _core, ops
from fastdet.models.cpu_lowering import Buffer, Lowered, Slice, StepOf, lower
from fastdet.models.graph_model import GraphModel

KEPT_SIZES = 8
_ALIGNED = 64


def obstacle(module: Any, dtype: torch.dtype) -> str:
    """Why ``CpuGraph`` cannot stand for ``module`` as it is now; empty if it can (its blocks are looked at later)."""
    if not isinstance(module, GraphModel):
        return f"{type(module).__name__} is no table"
    if not module.fused or module.training:
        return "it is not fused, or in training mode"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16, not {dtype}"
    why: str = _core.network_unsupported(dtype == torch.bfloat16)
    return why


class CpuGraph:
    """``module(images)`` of a fused GraphModel, for inference on the CPU. Threads may share it.

    Sums are float32, in an order of their own: results are those of the module to float32 rounding. With bfloat16,
    maps and weights are bfloat16 between the first convolution and the raw output, which is float32.

    Args:
        module: GraphModel in its deployed graph; its weights are copied as they are.
        dtype: torch.float32 or torch.bfloat16.

    Raises:
        ValueError: ``obstacle`` says why, or a block of the module has no native form.
    """

    def __init__(self, module: GraphModel, dtype: torch.dtype = torch.float32):
        why = obstacle(module, dtype)
        if why:
            raise ValueError(f"CpuGraph: {module.spec.name} must be a module that runs natively, but {why}")
        self._lowered: Lowered = lower(module, half=dtype == torch.bfloat16)
        self._check = module.check_images
        self._plans: dict[tuple[int, int], _Plan] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Any:
        """[B, 3, H, W] float32, RGB in 0..1, H and W multiples of the last stride -> what the module returns, float32.

        The maps are channels_last.
        """
        images, plan = self._ready(images)
        return self._run(images, plan, plan.outputs(images.shape[0]))

    @contextmanager
    def lend(self, images: Tensor) -> Iterator[Any]:
        """The same for a ``with`` statement: behind it the memory of the maps is used again, for other pictures."""
        images, plan = self._ready(images)
        outputs = plan.take_outputs(images.shape[0])
        try:
            yield self._run(images, plan, outputs)
        finally:
            plan.give_back(outputs)

    def _ready(self, images: Tensor) -> tuple[Tensor, _Plan]:
        self._check(images)
        return images.detach().to(torch.float32).contiguous(), self._plan(images.shape[2], images.shape[3])

    def _run(self, images: Tensor, plan: _Plan, outputs: list[Tensor]) -> Any:
        for i in range(images.shape[0]):
            plan.program.run([images[i].data_ptr(), *(output[i].data_ptr() for output in outputs)])
        return self._lowered.raw([output.permute(0, 3, 1, 2) for output in outputs])

    def profile(self, images: Tensor) -> list[tuple[str, float]]:
        """(name, processor seconds) of each step for the first of ``images``, on the calling thread."""
        images, plan = self._ready(images[:1])
        outputs = plan.outputs(1)
        seconds = plan.program.profile([images.data_ptr(), *(output.data_ptr() for output in outputs)])
        names = [name for step in self._lowered.steps for name in [step.name] * (2 if step.kind == "attention" else 1)]
        return list(zip(names, seconds, strict=True))

    def _plan(self, height: int, width: int) -> _Plan:
        with self._lock:
            plan = self._plans.get((height, width))
            if plan is None:
                if len(self._plans) >= KEPT_SIZES:
                    del self._plans[next(iter(self._plans))]
                plan = self._plans[(height, width)] = _Plan(self._lowered, height, width)
            return plan


class CpuNetwork:
    """Runs ``module`` for inference: by a CpuGraph of its present weights where that is possible, else as it is.

    It is made on first use, and anew when weights are changed. Hooks and ``fastdet.ops.backend`` are obeyed: then
    the module itself runs.
    """

    def __init__(self, module: Any):
        self.module = module
        self._lock = threading.Lock()
        self._made: tuple[Any, CpuGraph | None, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return CpuNetwork, (self.module,)  # of a copy it is made anew

    def why_not(self) -> str:
        """Why the module itself runs; empty where the native program does."""
        return self._choose()[1]

    @contextmanager
    def run(self, images: Tensor, *, keep: bool) -> Iterator[Any]:
        """The raw output for ``images`` float32 on the CPU; without ``keep`` for use inside the ``with`` only."""
        graph = self._choose()[0]
        if graph is None:
            yield self.module(images.to(next(self.module.parameters()).dtype))
        elif keep:
            yield graph(images)
        else:
            with graph.lend(images) as raw:
                yield raw

    def _choose(self) -> tuple[CpuGraph | None, str]:
        dtype = next(self.module.parameters()).dtype
        if ops.current_backend() != "auto":
            return None, f"the backend {ops.current_backend()} was asked for"
        why = obstacle(self.module, dtype) or _hooked(self.module)
        if why:
            return None, why
        now = tuple((each.data_ptr(), _version(each)) for each in self.module.parameters())
        with self._lock:
            if self._made is None or self._made[0] != now:
                try:
                    self._made = now, CpuGraph(self.module, dtype), ""
                except ValueError as error:
                    self._made = now, None, str(error)
            return self._made[1:]


def _hooked(module: Any) -> str:
    """Whether someone watches a part of ``module``, who would see nothing."""
    watched = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    return "a part of it has a hook" if watched else ""


def _version(a: Tensor) -> int:
    """Counts changes in place; inference tensors have no count and cannot be changed outside inference mode."""
    return 0 if a.is_inference() else a._version


class _Plan:
    """The program for pictures of one size."""

    def __init__(self, lowered: Lowered, height: int, width: int):
        self.sizes: dict[Buffer, tuple[int, int]] = {lowered.source: (height, width)}
        for step in lowered.steps:
            self._set_size(step.out, step.size(self.sizes[step.inputs[0].buffer.root()[0]]))
        self._idle: list[list[Tensor]] = []
        self._lock = threading.Lock()
        self._output_sizes = [(*self.sizes[buffer], buffer.channels) for buffer in lowered.outputs]
        offsets, total = self._place(lowered.steps)
        self._offsets = offsets
        self.program = _core.NetworkProgram(total)
        for step in lowered.steps:
            self._append(step)

    def outputs(self, batch: int) -> list[Tensor]:
        """Unfilled memory of the outputs, [batch, H, W, C] each."""
        return [torch.empty((batch, *size)) for size in self._output_sizes]

    def take_outputs(self, batch: int) -> list[Tensor]:
        """The same, used before where possible."""
        with self._lock:
            found = next((each for each in self._idle if each[0].shape[0] == batch), None)
            if found is None:
                return self.outputs(batch)
            self._idle = [each for each in self._idle if each is not found]
            return found

    def give_back(self, outputs: list[Tensor]) -> None:
        """What ``take_outputs`` gave is needed no more."""
        with self._lock:
            self._idle = [outputs, *self._idle][:KEPT_SIZES]

    def _set_size(self, out: Slice, size: tuple[int, int]) -> None:
        root = out.buffer.root()[0]
        if self.sizes.setdefault(root, size) != size:
            raise ValueError(f"CpuGraph: maps that are joined must have one size, got {self.sizes[root]} and {size}")

    def _bytes(self, buffer: Buffer) -> int:
        height, width = self.sizes[buffer]
        if buffer.scratch is not None:
            floats: int = _core.network_attention_scratch(height * width, *buffer.scratch)
            return 4 * floats
        cells = (height + 2 * buffer.halo) * (width + 2 * buffer.halo)
        return cells * buffer.pixel * (2 if buffer.half else 4)

    def _place(self, steps: Sequence[StepOf]) -> tuple[dict[Buffer, int], int]:
        """Where each buffer begins in the arena: those that are needed at the same time do not overlap."""
        life: dict[Buffer, tuple[int, int]] = {}
        for i, step in enumerate(steps):
            for each in (*step.inputs, step.out, *step.scratch):
                buffer = each.buffer.root()[0]
                if buffer.place < 0:
                    life[buffer] = (life.get(buffer, (i, i))[0], i)
                    self.sizes.setdefault(buffer, self.sizes[step.inputs[0].buffer.root()[0]])
        placed: list[tuple[int, int, Buffer]] = []
        for buffer in sorted(life, key=self._bytes, reverse=True):
            start, size = 0, -(-self._bytes(buffer) // _ALIGNED) * _ALIGNED
            for low, high, other in sorted(placed, key=lambda each: each[0]):
                apart = life[buffer][1] < life[other][0] or life[other][1] < life[buffer][0]
                if not apart and start < high and low < start + size:
                    start = high
            placed.append((start, start + size, buffer))
        return {buffer: low for low, _, buffer in placed}, max((high for _, high, _ in placed), default=_ALIGNED)

    def _map(self, part: Slice) -> Any:
        root, first = part.buffer.root()
        first += part.first
        height, width = self.sizes[root]
        halo, size = root.halo, 2 if root.half else 4
        if root.planes:
            row, pixel, plane = width, 1, height * width
        else:
            row, pixel, plane = (width + 2 * halo) * root.pixel, root.pixel, 0
        offset = size * (halo * row + halo * pixel + first)
        return _core.NetworkMap(
            root.place,
            offset if root.place >= 0 else offset + self._offsets[root],
            [height, width, part.channels],
            [row, pixel, plane],
            halo,
            root.half,
        )

    def _append(self, step: StepOf) -> None:
        maps = [self._map(part) for part in step.inputs]
        out = self._map(step.out)
        if step.kind in ("convolution", "depthwise"):
            residual = maps[1] if len(maps) > 1 else None
            add = getattr(self.program, step.kind)
            add(maps[0], out, residual, step.weights, list(step.window), step.activation)
        elif step.kind == "pool":
            self.program.pool(maps[0], out, list(step.window), step.average)
        elif step.kind == "enlarge":
            self.program.enlarge(maps[0], out, step.scale)
        elif step.kind == "add":
            self.program.add(maps[0], maps[1], out)
        else:
            heads, key_dim, value_dim, factor = step.attention
            self.program.attention(maps[0], out, self._map(step.scratch[0]), [heads, key_dim, value_dim], factor)
