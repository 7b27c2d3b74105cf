# SPDX-License-Identifier: Apache-2.0
"""rep_conv2d and bias_act against eager torch, which passes over memory once for each of their steps."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional as F

from fastdet import ops
from harness import compare
from on_device import needs_cuda

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
# inputs, outputs, kernel, side of the map, stride, groups
SHAPES = {
    "3x3 64-64 at 80x80": (64, 64, 3, 80, 1, 1),
    "1x1 64-64 at 80x80": (64, 64, 1, 80, 1, 1),
    "3x3 256-256 at 20x20": (256, 256, 3, 20, 1, 1),
    "3x3 16-32 at 160x160, stride 2": (16, 32, 3, 160, 2, 1),
    "7x7 depthwise 128 at 20x20": (128, 128, 7, 20, 1, 128),
}
TRAINED = {
    "3x3 64-64 at 40x40": (64, 64, 3, 40, 1, 1),
    "3x3 64-64 at 20x20": (64, 64, 3, 20, 1, 1),
    "3x3 32-32 at 80x80": (32, 32, 3, 80, 1, 1),
    "3x3 128-128 at 40x40": (128, 128, 3, 40, 1, 1),
    "1x1 128-128 at 20x20": (128, 128, 1, 20, 1, 1),
    "3x3 depthwise 64 at 80x80": (64, 64, 3, 80, 1, 64),
}


def layer(shape: tuple[int, ...], layout: str, dtype: torch.dtype, batch: int = 1) -> tuple[torch.Tensor, ...]:
    inputs, outputs, kernel, side, _, groups = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, inputs, side, side, generator=generator).to(dtype)
    weight = torch.randn(outputs, inputs // groups, kernel, kernel, generator=generator).to(dtype)
    weight = weight * (inputs // groups * kernel * kernel) ** -0.5
    bias = torch.randn(outputs, generator=generator).to(dtype)
    return x.contiguous(memory_format=LAYOUTS[layout]), weight.contiguous(memory_format=LAYOUTS[layout]), bias


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    unit = 1e-4 if ours.dtype == torch.float32 else 6e-2
    return torch.allclose(ours.float(), theirs.float(), rtol=unit, atol=unit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SHAPES)
def bench_rep_conv2d(benchmark, name, layout, dtype):
    """Batch 1, SiLU. `packed` is what a deployed RepConv2d runs: the weight converted once, results channels_last."""
    x, weight, bias = layer(SHAPES[name], layout, dtype)
    *_, kernel, _, stride, groups = SHAPES[name]
    options = {"stride": stride, "padding": kernel // 2, "groups": groups}
    packed = ops.pack_rep_conv(weight, bias, **options, input_shape=x.shape)
    with torch.no_grad():
        compare(
            benchmark,
            "rep_conv2d",
            f"{name}, {layout} {str(dtype).removeprefix('torch.')}",
            {
                "fastdet": lambda: ops.rep_conv2d(x, weight, bias, **options),
                "fastdet packed": lambda: packed(x),
                "torch eager": lambda: F.silu(F.conv2d(x, weight, bias, stride, kernel // 2, 1, groups)),
            },
            same=close,
            extra={"backend": ops.rep_conv2d_backend(x, weight, **options)},
        )


def bench_rep_conv2d_native(benchmark):
    """fastdet's own convolution, which needs no torch, beside oneDNN's."""
    x, weight, bias = layer(SHAPES["3x3 64-64 at 80x80"], "NCHW", torch.float32)
    arrays = [a.numpy() for a in (x, weight, bias)]
    with torch.no_grad():
        compare(
            benchmark,
            "rep_conv2d",
            "3x3 64-64 at 80x80, NumPy float32",
            {
                "fastdet": lambda: torch.from_numpy(ops.rep_conv2d(*arrays, padding=1)),
                "torch eager": lambda: F.silu(F.conv2d(x, weight, bias, padding=1)),
            },
            same=close,
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [*SHAPES, *TRAINED])
def bench_rep_conv2d_backward(benchmark, name, layout):
    """Forward and the gradients of x, weight and bias, float32."""
    shape = {**SHAPES, **TRAINED}[name]
    leaves = [a.requires_grad_() for a in layer(shape, layout, torch.float32)]
    *_, kernel, _, stride, groups = shape
    options = {"stride": stride, "padding": kernel // 2, "groups": groups}

    def eager(x, weight, bias):
        return F.silu(F.conv2d(x, weight, bias, **options))

    grad = torch.randn_like(eager(*leaves))

    def gradients(function):
        return torch.autograd.grad(function(*leaves), leaves, grad)

    compare(
        benchmark,
        "rep_conv2d",
        f"{name}, {layout} float32, forward and backward",
        {
            "fastdet": lambda: gradients(lambda *a: ops.rep_conv2d(*a, **options)),
            "torch eager": lambda: gradients(eager),
        },
        same=lambda ours, theirs: all(torch.allclose(a, b, rtol=1e-3, atol=1e-2) for a, b in zip(ours, theirs)),
        extra={"backend": ops.rep_conv2d_backend(*leaves, **options)},
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def bench_bias_act(benchmark, layout):
    x, _, bias = layer(SHAPES["3x3 64-64 at 80x80"], layout, torch.float32)
    residual = torch.randn_like(x)
    compare(
        benchmark,
        "bias_act",
        f"SiLU and residual, 64 x 80 x 80, {layout} float32",
        {
            "fastdet": lambda: ops.bias_act(x, bias, residual=residual),
            "torch eager": lambda: F.silu(x + bias[:, None, None]) + residual,
        },
        same=close,
    )


@needs_cuda
@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("name", SHAPES)
def bench_rep_conv2d_cuda(benchmark, name, batch):
    """float16 channels_last, every implementation this machine has."""
    x, weight, bias = (a.cuda() for a in layer(SHAPES[name], "NHWC", torch.float16, batch))
    *_, kernel, _, stride, groups = SHAPES[name]
    options = {"stride": stride, "padding": kernel // 2, "groups": groups}
    contenders = {"fastdet": lambda: ops.rep_conv2d(x, weight, bias, **options)}
    for backend in ("cudnn", "cutlass", "torch"):
        try:
            ops.rep_conv2d_backend(x, weight, groups=groups, backend=backend)
        except RuntimeError:
            continue
        run = functools.partial(ops.rep_conv2d, x, weight, bias, **options, backend=backend)
        contenders[f"fastdet {backend}"] = run
    eager = lambda: F.silu(F.conv2d(x, weight, bias, stride, kernel // 2, 1, groups))  # noqa: E731
    compiled = torch.compile(eager, mode="max-autotune-no-cudagraphs")
    contenders |= {"torch eager": eager, "torch compiled": compiled}
    setting = f"{name}, batch {batch}, NHWC float16"
    moved = (x.numel() + weight.numel() + eager().numel()) * x.element_size()
    with torch.no_grad():
        compare(benchmark, "rep_conv2d", setting, contenders, same=close, device="cuda", moved=moved)
