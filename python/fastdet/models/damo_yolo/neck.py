# SPDX-License-Identifier: Apache-2.0
"""Efficient RepGFPN: five fusion stages over three levels, with down-sampling links between all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastdet.models.damo_yolo.blocks import Block, FusionStage


class RepGFPN(nn.Module):
    """Fuses c3, c4, c5 (strides 8, 16, 32) into p3, p4, p5.

    Args:
        c_in, c_out: channels of the three inputs and outputs.
        blocks: blocks per fusion stage. block: makes one. down: makes a layer that halves the picture.
        act: activation of the 1x1 convolutions of the fusion stages.
    """

    def __init__(
        self,
        c_in: Sequence[int],
        c_out: Sequence[int],
        *,
        blocks: int,
        block: Block,
        down: Callable[[int, int], nn.Module],
        act: type[nn.Module],
    ):
        super().__init__()
        (c3, c4, c5), (o3, o4, o5) = c_in, c_out
        self.c_out = tuple(c_out)

        def stage(parts: Sequence[int], out: int) -> FusionStage:
            return FusionStage(sum(parts), out, blocks=blocks, block=block, act=act)

        self.down_c4 = down(c4, c4)
        self.fuse_m5 = stage((c5, c4), c5)
        self.down_c3 = down(c3, c3)
        self.fuse_m4 = stage((c4, c3, c5), c4)
        self.fuse_p3 = stage((c3, c4), o3)
        self.down_p3 = down(o3, o3)
        self.fuse_p4 = stage((c4, o3), o4)
        self.down_m4 = down(c4, c4)
        self.down_p4 = down(o4, o4)
        self.fuse_p5 = stage((c5, c4, o4), o5)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[B, c_in[i], H_i, W_i] per level -> [B, c_out[i], H_i, W_i] per level; each level half of the one before."""
        c3, c4, c5 = features
        m5 = self.fuse_m5(torch.cat((c5, self.down_c4(c4)), 1))
        m4 = self.fuse_m4(torch.cat((c4, self.down_c3(c3), _twice(m5)), 1))
        p3 = self.fuse_p3(torch.cat((c3, _twice(m4)), 1))
        p4 = self.fuse_p4(torch.cat((m4, self.down_p3(p3)), 1))
        p5 = self.fuse_p5(torch.cat((m5, self.down_m4(m4), self.down_p4(p4)), 1))
        return p3, p4, p5


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
