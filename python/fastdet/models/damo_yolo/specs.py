# SPDX-License-Identifier: Apache-2.0
"""The seven published sizes of DAMO-YOLO, as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from fastdet.models.damo_yolo.backbone import CspBackbone, MobileBackbone, ResidualBackbone, Stage
from fastdet.models.damo_yolo.blocks import Block, DenseDown, DepthwiseDown, MobileBlock, RepBlock
from fastdet.models.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class DamoSpec(ModelSpec):
    """What tells the sizes apart. Pictures are stretched to the input size and given as RGB in 0..255.

    Attributes:
        backbone, stem, stages: class, channels after the stem, and rows of the backbone.
        act: activation of backbone and neck (other than their fixed ones).
        neck_out: channels of the neck's outputs. neck_blocks: blocks per fusion stage. neck_block, neck_down: makers.
        head_kernel: of the head's convolutions. reg_max: last distance bin.
    """

    family: str = "damo-yolo"
    input_size: tuple[int, int] = (640, 640)
    keep_ratio: bool = False
    scale: bool = False
    max_det: int = 500
    license: str = "Apache-2.0"
    backbone: type[ResidualBackbone] | type[CspBackbone] | type[MobileBackbone]
    stem: int
    stages: tuple[Stage, ...]
    act: type[nn.Module] = nn.SiLU
    neck_out: tuple[int, int, int] = (128, 256, 512)
    neck_blocks: int = 3
    neck_block: Block
    neck_down: Block
    head_kernel: int = 3
    reg_max: int = 16


_nano = partial(
    DamoSpec,
    backbone=MobileBackbone,
    input_size=(416, 416),
    score_threshold=0.03,
    iou_threshold=0.65,
    neck_blocks=2,
    neck_block=partial(MobileBlock, expansion=3.0),
    neck_down=DepthwiseDown,
    head_kernel=1,
    reg_max=7,
)
_relu_down = partial(DenseDown, act=nn.ReLU)


def _stages(*rows: tuple[int, ...]) -> tuple[Stage, ...]:
    """Residual and CSP rows: (c_in, c_out, bottleneck, blocks, stride)."""
    return tuple(Stage(c_in, c_out, blocks, stride, bottleneck=inner) for c_in, c_out, inner, blocks, stride in rows)


def _mobile(*rows: tuple[int, int, int]) -> tuple[Stage, ...]:
    """Mobile rows: (c_in, c_out, blocks); strides and expansions are the same in all sizes."""
    strides, expansions = (2, 2, 2, 1, 2), (3.5, 4.0, 4.5, 5.0, 5.5)
    return tuple(
        Stage(c_in, c_out, blocks, stride, expansion=expansion)
        for (c_in, c_out, blocks), stride, expansion in zip(rows, strides, expansions, strict=True)
    )


_ALL = (
    DamoSpec(
        name="damo-yolo-t",
        reference_names=("damoyolo_tinynasL20_T",),
        backbone=ResidualBackbone,
        stem=24,
        stages=_stages(
            (24, 64, 24, 2, 2), (64, 96, 64, 2, 2), (96, 192, 96, 2, 2), (192, 192, 152, 2, 1), (192, 384, 192, 1, 2)
        ),
        act=nn.ReLU,
        neck_out=(64, 128, 256),
        neck_block=partial(RepBlock, act=nn.ReLU),
        neck_down=_relu_down,
    ),
    DamoSpec(
        name="damo-yolo-s",
        reference_names=("damoyolo_tinynasL25_S",),
        backbone=ResidualBackbone,
        stem=32,
        stages=_stages(
            (32, 128, 24, 1, 2),
            (128, 128, 88, 5, 2),
            (128, 256, 128, 3, 2),
            (256, 256, 120, 2, 1),
            (256, 512, 144, 1, 2),
        ),
        act=nn.ReLU,
        neck_block=partial(RepBlock, act=nn.ReLU, ratio=0.75),
        neck_down=_relu_down,
    ),
    DamoSpec(
        name="damo-yolo-m",
        reference_names=("damoyolo_tinynasL35_M",),
        backbone=CspBackbone,
        stem=32,
        stages=_stages(
            (32, 128, 64, 2, 2),
            (128, 128, 64, 4, 2),
            (128, 256, 256, 4, 2),
            (256, 256, 256, 4, 1),
            (256, 512, 256, 3, 2),
        ),
        neck_blocks=4,
        neck_block=RepBlock,
        neck_down=DenseDown,
    ),
    DamoSpec(
        name="damo-yolo-l",
        reference_names=("damoyolo_tinynasL45_L",),
        backbone=CspBackbone,
        stem=32,
        stages=_stages(
            (32, 128, 96, 3, 2),
            (128, 128, 96, 5, 2),
            (128, 256, 384, 5, 2),
            (256, 256, 384, 5, 1),
            (256, 512, 384, 4, 2),
        ),
        neck_blocks=6,
        neck_block=RepBlock,
        neck_down=DenseDown,
    ),
    _nano(
        name="damo-yolo-ns",
        reference_names=("damoyolo_tinynasL18_Ns", "damoyolo_nano_small"),
        stem=16,
        stages=_mobile((16, 24, 1), (24, 40, 2), (40, 64, 2), (64, 80, 2), (80, 160, 2)),
        neck_out=(40, 80, 160),
    ),
    _nano(
        name="damo-yolo-nm",
        reference_names=("damoyolo_tinynasL18_Nm", "damoyolo_nano_middle"),
        stem=16,
        stages=_mobile((16, 40, 2), (40, 64, 2), (64, 112, 2), (112, 128, 2), (128, 256, 1)),
        neck_out=(64, 128, 256),
    ),
    _nano(
        name="damo-yolo-nl",
        reference_names=("damoyolo_tinynasL20_Nl", "damoyolo_nano_large"),
        stem=24,
        stages=_mobile((24, 48, 1), (48, 80, 2), (80, 160, 2), (160, 160, 3), (160, 320, 2)),
        neck_out=(80, 160, 320),
    ),
)
SPECS = {spec.name: spec for spec in _ALL}
