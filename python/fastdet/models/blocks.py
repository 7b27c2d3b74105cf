# SPDX-License-Identifier: Apache-2.0
"""Blocks that more than one family uses. Protocol: ``Block(c_in, c_out, **options)`` and an attribute ``c_out``.

A block that has a deployed form has ``fold_(batch_norm=True)``, which changes it in place (``fastdet.models.fuse``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastdet.models.fuse import fold_conv_bn, fold_rep_conv


def conv2d(
    c_in: int, c_out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution with "same" padding for odd kernels: output side = ceil(input side / stride)."""
    return nn.Conv2d(c_in, c_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=bias)


def activation(kind: type[nn.Module] | None) -> nn.Module:
    """An activation of class ``kind``; ReLU in place, since neither it nor a BatchNorm before it needs its input."""
    if kind is None:
        return nn.Identity()
    return kind(inplace=True) if kind is nn.ReLU else kind()


class ConvNormAct(nn.Module):
    """Convolution without bias, BatchNorm, activation; deployed: convolution with bias, activation.

    Args:
        c_in, c_out: channels. kernel, stride, groups: of the convolution.
        act: class of the activation, or None for none.
        eps, momentum: of the BatchNorm.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] | None = nn.SiLU,
        eps: float = 1e-3,
        momentum: float = 0.03,
    ):
        super().__init__()
        self.c_out = c_out
        self.conv = conv2d(c_in, c_out, kernel, stride=stride, groups=groups)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, eps=eps, momentum=momentum)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        return self.act(self.bn(self.conv(x)))

    def fold_(self, *, batch_norm: bool = True) -> None:
        """Fold the BatchNorm into the convolution, unless ``batch_norm`` is False or it is done already."""
        if batch_norm and isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fold_conv_bn(self.conv, self.bn)
            self.bn = nn.Identity()
            if isinstance(self.act, nn.SiLU):
                self.act.inplace = True  # nobody else has what the convolution gave


class Concat(nn.Module):
    """Maps of one size joined on their channels, in the order given."""

    def __init__(self, c_in: Sequence[int]):
        super().__init__()
        self.c_out = sum(c_in)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[B, c_in[i], H, W] each -> [B, sum(c_in), H, W]."""
        return torch.cat(tuple(maps), 1)


class Upsample(nn.Module):
    """Every pixel twice in both directions."""

    def __init__(self, c_in: int):
        super().__init__()
        self.c_out = c_in

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_in, 2 H, 2 W]."""
        return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Bottleneck(nn.Module):
    """Two convolutions and, with equal channels and ``shortcut``, their input added. Keys ``cv1``, ``cv2``.

    Args:
        c_in, c_out: channels. kernels: of the two. expansion: channels between them, as a part of c_out.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        kernels: tuple[int, int] = (3, 3),
        expansion: float = 0.5,
        shortcut: bool = True,
    ):
        super().__init__()
        self.c_out = c_out
        middle = int(c_out * expansion)
        self.cv1 = ConvNormAct(c_in, middle, kernel=kernels[0])
        self.cv2 = ConvNormAct(middle, c_out, kernel=kernels[1])
        self.add = shortcut and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    """Cross-stage block: ``repeat`` bottlenecks beside a 1x1 convolution. Keys ``cv1``, ``cv2``, ``cv3``, ``m``."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        repeat: int = 1,
        shortcut: bool = True,
        kernels: tuple[int, int] = (1, 3),
        expansion: float = 0.5,
    ):
        super().__init__()
        self.c_out = c_out
        middle = int(c_out * expansion)
        self.cv1 = ConvNormAct(c_in, middle)
        self.cv2 = ConvNormAct(c_in, middle)
        self.cv3 = ConvNormAct(2 * middle, c_out)
        self.m = nn.Sequential(
            *(Bottleneck(middle, middle, kernels=kernels, expansion=1.0, shortcut=shortcut) for _ in range(repeat))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C2f(nn.Module):
    """Cross-stage block that keeps every intermediate result. Keys ``cv1``, ``cv2``, ``m``.

    A 1x1 convolution gives two halves; ``repeat`` units are chained from the second; a 1x1 convolution joins the halves
    and the result of each unit.

    Args:
        c_in, c_out: channels. repeat: units. expansion: channels of a half, as a part of c_out.
        unit: makes a unit, ``unit(c, c, **options)``.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        repeat: int = 1,
        expansion: float = 0.5,
        unit: Callable[..., nn.Module] | None = None,
        **options: Any,
    ):
        super().__init__()
        self.c_out = c_out
        half = int(c_out * expansion)
        self.cv1 = ConvNormAct(c_in, 2 * half)
        self.cv2 = ConvNormAct((2 + repeat) * half, c_out)
        if unit is None:
            unit, options = Bottleneck, {"expansion": 1.0, "shortcut": False, **options}
        self.m = nn.ModuleList(unit(half, half, **options) for _ in range(repeat))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        first, second = self.cv1(x).chunk(2, 1)
        parts = [first, second]
        for unit in self.m:
            parts.append(unit(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Pyramid pooling by three chained 5-pixel maxima, which see 5, 9 and 13 pixels. Keys ``cv1``, ``cv2``.

    Args:
        c_in, c_out: channels. act: activation of ``cv1``, or None. shortcut: add the input where channels agree.
    """

    def __init__(self, c_in: int, c_out: int, *, act: type[nn.Module] | None = nn.SiLU, shortcut: bool = False):
        super().__init__()
        self.c_out = c_out
        self.cv1 = ConvNormAct(c_in, c_in // 2, act=act)
        self.cv2 = ConvNormAct(4 * (c_in // 2), c_out)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.add = shortcut and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        five = self.pool(one := self.cv1(x))
        nine = self.pool(five)
        y = self.cv2(torch.cat((one, five, nine, self.pool(nine)), 1))
        return x + y if self.add else y


class C3k(C3):
    """C3 of two bottlenecks of two 3x3 convolutions."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(c_in, c_out, repeat=2, kernels=(3, 3))


class Attention(nn.Module):
    """Self-attention over the positions of a map, with a depthwise convolution of the values as position code.

    Channels of ``qkv`` are laid out head by head, each as query, key, value; queries and keys are half as wide as
    values. Keys ``qkv``, ``proj``, ``pe``.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.value_dim = channels // heads
        self.key_dim = self.value_dim // 2
        self.scale = self.key_dim**-0.5
        self.qkv = ConvNormAct(channels, channels + 2 * heads * self.key_dim, act=None)
        self.proj = ConvNormAct(channels, channels, act=None)
        self.pe = ConvNormAct(channels, channels, kernel=3, groups=channels, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same shape."""
        batch, channels, height, width = x.shape
        parts = self.qkv(x).view(batch, self.heads, -1, height * width)
        query, key, value = parts.split((self.key_dim, self.key_dim, self.value_dim), 2)
        weights = ((query.transpose(2, 3) * self.scale) @ key).softmax(-1)
        mixed = (value @ weights.transpose(2, 3)).reshape(batch, channels, height, width)
        return self.proj(mixed + self.pe(value.reshape(batch, channels, height, width)))


class PSABlock(nn.Module):
    """Attention and a two-layer network of 1x1 convolutions, each added to its input. Keys ``attn``, ``ffn``."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.attn = Attention(channels, heads)
        self.ffn = nn.Sequential(ConvNormAct(channels, 2 * channels), ConvNormAct(2 * channels, channels, act=None))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same shape."""
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    """Cross-stage block, one half through ``repeat`` attention blocks with 64 channels a head. Keys as of C2f."""

    def __init__(self, c_in: int, c_out: int, *, repeat: int = 1):
        super().__init__()
        self.c_out = c_out
        half = c_out // 2
        self.cv1 = ConvNormAct(c_in, 2 * half)
        self.cv2 = ConvNormAct(2 * half, c_out)
        self.m = nn.Sequential(*(PSABlock(half, max(half // 64, 1)) for _ in range(repeat)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        side, main = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((side, self.m(main)), 1))


class RepConv(nn.Module):
    """RepVGG convolution (arXiv 2101.03697) without the identity branch: act(BN(conv3x3) + BN(conv1x1)).

    Deployed: one 3x3 convolution with bias, then the activation, as two modules that tables are lowered from; with its
    epilogue in one it is ``RepConv2d``, which ``fastdet.models.fuse.fold_rep_conv`` folds as well.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        stride: int = 1,
        act: type[nn.Module] | None = nn.SiLU,
        eps: float = 1e-3,
        momentum: float = 0.03,
    ):
        super().__init__()
        self.c_out = c_out
        self.dense: ConvNormAct | None = ConvNormAct(
            c_in, c_out, kernel=3, stride=stride, act=None, eps=eps, momentum=momentum
        )
        self.point: ConvNormAct | None = ConvNormAct(
            c_in, c_out, kernel=1, stride=stride, act=None, eps=eps, momentum=momentum
        )
        self.conv: nn.Conv2d | None = None
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        if self.dense is not None and self.point is not None:
            return self.act(self.dense(x) + self.point(x))
        return self.act(cast(nn.Conv2d, self.conv)(x))

    def fold_(self, *, batch_norm: bool = True) -> None:
        """Replace the two branches by one convolution. ``batch_norm`` has no say here: a branch's is always folded."""
        if self.dense is not None and self.point is not None:
            self.conv = fold_rep_conv([(branch.conv, branch.bn) for branch in (self.dense, self.point)])
            self.dense = self.point = None


class Focus(nn.Module):
    """Space to depth, then a convolution: [B, 3, H, W] -> [B, 12, H/2, W/2] -> [B, c_out, H/2, W/2].

    The four phases are concatenated in the order (even row, even column), (odd, even), (even, odd), (odd, odd).
    """

    def __init__(self, c_in: int, c_out: int, *, kernel: int = 3, act: type[nn.Module] | None = nn.SiLU):
        super().__init__()
        self.c_out = c_out
        self.conv = ConvNormAct(4 * c_in, c_out, kernel=kernel, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H / 2, W / 2]; H and W even."""
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        phases = (even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2])
        return self.conv(torch.cat(phases, 1))


class SPP(nn.Module):
    """Spatial pyramid pooling: 1x1 to c_in / 2, beside it its 5, 9 and 13 pixel maxima, 1x1 to c_out.

    The wider windows are pooled from the narrower ones: a 5-maximum of a 5-maximum is a 9-maximum, exactly.
    """

    def __init__(self, c_in: int, c_out: int, *, act: type[nn.Module] | None = nn.SiLU):
        super().__init__()
        self.c_out = c_out
        self.conv1 = ConvNormAct(c_in, c_in // 2, act=act)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.conv2 = ConvNormAct(4 * (c_in // 2), c_out, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        x = self.conv1(x)
        five = self.pool(x)
        nine = self.pool(five)
        return self.conv2(torch.cat((x, five, nine, self.pool(nine)), 1))


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``channels``, never more than 10 % below it (MobileNetV2's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
