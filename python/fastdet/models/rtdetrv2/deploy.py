# SPDX-License-Identifier: Apache-2.0
"""Folded convolutions with their epilogue: what the deployed graph runs."""

from __future__ import annotations

from torch import nn

from fastdet.models.blocks import ConvNormAct, RepConv
from fastdet.models.rep_conv import RepConv2d
from fastdet.models.rtdetrv2.backbone import BasicBlock, Bottleneck

_NAMES: dict[type[nn.Module], str] = {nn.Identity: "none", nn.ReLU: "relu", nn.SiLU: "silu"}


def deploy_convolutions(module: nn.Module) -> None:
    """Replace, in place, every folded convolution inside ``module`` by one that does its activation too.

    The last one of a residual block takes the sum and the block's ReLU along. Doing it twice changes nothing.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, (ConvNormAct, RepConv)) or child.conv is None or child.conv.bias is None:
                continue
            if isinstance(parent, (BasicBlock, Bottleneck)) and name == parent.last:
                setattr(parent, name, RepConv2d.from_conv(child.conv, act="relu", add_first=True))
            else:
                setattr(parent, name, RepConv2d.from_conv(child.conv, act=_NAMES[type(child.act)]))
