# SPDX-License-Identifier: Apache-2.0
"""Problems for the convolution's tests: one call as positional arguments of the operator, from a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Sizes and attributes of one call; ``seed`` draws its arrays."""

    batch: int = 2
    inputs: int = 5
    outputs: int = 7
    height: int = 9
    width: int = 11
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str = "silu"
    bias: bool = True
    residual: bool = False
    add_first: bool = False
    special: bool = False  # NaN, infinities, negative zero, huge values in x
    seed: int = 0

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        p, q = (
            (n + 2 * pad - k) // s + 1
            for n, pad, k, s in zip((self.height, self.width), self.padding, self.kernel, self.stride)
        )
        return self.batch, self.outputs, p, q

    def arrays(self):
        """x, weight, bias, residual; outputs have a variance near 1."""
        rng = np.random.default_rng(self.seed)
        depth = max(1, self.inputs // self.groups * self.kernel[0] * self.kernel[1])
        x = rng.standard_normal((self.batch, self.inputs, self.height, self.width)).astype(np.float32)
        weight = rng.standard_normal((self.outputs, self.inputs // self.groups, *self.kernel)) / np.sqrt(depth)
        if self.special and x.size:
            x.reshape(-1)[rng.integers(0, x.size, 6)] = [np.nan, np.inf, -np.inf, -0.0, 3e4, -3e4]
        bias = rng.standard_normal(self.outputs).astype(np.float32) if self.bias else None
        residual = rng.standard_normal(self.out_shape).astype(np.float32) if self.residual else None
        return x, weight.astype(np.float32), bias, residual

    def arguments(self, method="auto"):
        """Arguments of ``rep_conv2d``'s operator."""
        x, weight, bias, residual = self.arrays()
        attributes = (self.stride, self.padding, self.groups, self.activation)
        return (x, weight, bias, *attributes, residual, self.add_first, method)

    def backward_arguments(self, wanted=(True, True, True, True)):
        """Arguments of its backward operator."""
        grad = np.random.default_rng(self.seed + 1).standard_normal(self.out_shape).astype(np.float32)
        return (grad, *self.arguments()[:-1], list(wanted))

    def epilogue_arguments(self):
        """Arguments of ``bias_act``'s operator, on maps of this problem's result."""
        rng = np.random.default_rng(self.seed)
        x = (4 * rng.standard_normal(self.out_shape)).astype(np.float32)
        if self.special and x.size:
            x.reshape(-1)[rng.integers(0, x.size, 8)] = [np.nan, np.inf, -np.inf, -0.0, 3e4, -3e4, -95.0, 100.0]
        _, _, bias, residual = self.arrays()
        return x, bias, self.activation, residual, self.add_first


def square(k, **options):
    """A "same" padded k x k convolution."""
    return Problem(kernel=(k, k), padding=(k // 2, k // 2), **options)


PROBLEMS = {
    "plain": Problem(),
    "point": square(1),
    "five": square(5, seed=1),
    "seven": square(7, seed=2, inputs=3),
    "relu": Problem(activation="relu", seed=3),
    "leaky": Problem(activation="leaky_relu", seed=4),
    "linear": Problem(activation="none", seed=5),
    "unbiased": Problem(bias=False, seed=6),
    "residual": Problem(residual=True, seed=7),
    "residual-first": Problem(residual=True, add_first=True, seed=8),
    "resnet": Problem(residual=True, add_first=True, activation="relu", seed=9),
    "resnext": Problem(inputs=8, outputs=8, groups=2, residual=True, add_first=True, activation="relu", seed=9),
    "residual-linear": Problem(residual=True, activation="none", seed=10),
    "residual-leaky": Problem(residual=True, activation="leaky_relu", add_first=True, seed=11),
    "down": Problem(stride=(2, 2), seed=12),
    "down-odd": Problem(stride=(3, 2), height=13, width=8, seed=13),
    "no-padding": Problem(padding=(0, 0), seed=14),
    "wide-padding": Problem(padding=(4, 3), seed=15),
    "oblong": Problem(kernel=(1, 5), padding=(0, 2), stride=(1, 2), seed=16),
    "even-kernel": Problem(kernel=(2, 4), padding=(1, 2), seed=17),
    "groups": Problem(inputs=6, outputs=9, groups=3, seed=18),
    "depthwise": Problem(inputs=19, outputs=19, groups=19, seed=19),
    "depthwise-large": square(7, inputs=5, outputs=5, groups=5, residual=True, seed=20),
    "depthwise-down": Problem(inputs=16, outputs=16, groups=16, stride=(2, 2), seed=21),
    "multiplier": Problem(inputs=4, outputs=8, groups=4, seed=22),
    "one-pixel": Problem(height=1, width=1, seed=23),
    "one-of-all": square(1, batch=1, inputs=1, outputs=1, height=1, width=1, seed=24),
    "row": Problem(height=1, width=70, seed=25),
    "stem": Problem(inputs=3, outputs=16, height=20, width=24, stride=(2, 2), seed=26),
    "deep": Problem(batch=1, inputs=64, outputs=9, height=5, width=5, seed=27),  # more than one panel
    "tiles": Problem(batch=1, inputs=8, outputs=33, height=8, width=8, seed=28),
    "no-pictures": Problem(batch=0, residual=True),
    "no-inputs": Problem(inputs=0),
    "no-outputs": Problem(outputs=0, residual=True),
    "no-rows": Problem(height=0, padding=(2, 1), residual=True),
    "no-columns": Problem(width=0, padding=(1, 2), inputs=2),
    "no-pixels": Problem(height=0, width=0, padding=(2, 2), bias=False),
}
SPECIAL = {
    f"special-{a}-{r}": Problem(seed=40, activation=a, special=True, residual=r != "alone", add_first=r == "first")
    for a in ("silu", "relu", "leaky_relu", "none")
    for r in ("alone", "first", "after")
}
