# SPDX-License-Identifier: Apache-2.0
"""The published sizes of RT-DETRv2, its few-point variants and DEIM's form of it, as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastdet.models.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class RtDetrSpec(ModelSpec):
    """What tells the sizes apart. Pictures are stretched to the input size as Pillow does and given as RGB in 0..1.

    Attributes:
        depths: blocks of the four backbone stages. bottleneck: their kind. stem, widths: channels of the stem and inner
            channels of the stages. frozen: backbone norms are constants, and the stem does not train.
        encoder_dim, encoder_ffn: of the hybrid encoder. expansion: inner width of its fusion blocks over encoder_dim.
        decoder_dim, decoder_ffn, heads (of both), queries, points (per level): of the decoder.
        decoder_layers: as trained. eval_layer: index of the last one that runs at evaluation.
        sampling: ``"default"`` (bilinear) or ``"discrete"`` (nearest, arXiv 2407.17140). The published ``_dsp`` weights
            want ``dataclasses.replace(spec, sampling="discrete")``: nothing in their files tells them from the others.
        act: of the decoder's feed-forward and box networks. query_pos: hidden widths of the position network.
        denoising, label_noise, box_noise: nominal number of denoising queries of a picture, and their noise.
    """

    FILE_FIELDS: ClassVar[tuple[str, ...]] = (
        *ModelSpec.FILE_FIELDS, "resize", "frozen", "queries", "points", "decoder_layers", "eval_layer", "sampling",
    )  # fmt: skip

    family: str = "rtdetrv2"
    input_size: tuple[int, int] = (640, 640)
    keep_ratio: bool = False
    resize: str = "pillow"
    score_threshold: float = 0.0
    iou_threshold: float = 1.0
    nms_free: bool = True
    license: str = "Apache-2.0"
    depths: tuple[int, int, int, int]
    bottleneck: bool = True
    stem: tuple[int, int, int] = (32, 32, 64)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    frozen: bool = True
    encoder_dim: int = 256
    encoder_ffn: int = 1024
    expansion: float = 1.0
    decoder_dim: int = 256
    decoder_ffn: int = 1024
    heads: int = 8
    queries: int = 300
    points: tuple[int, ...] = (4, 4, 4)
    decoder_layers: int = 6
    eval_layer: int = 5
    sampling: str = "default"
    act: type[nn.Module] = nn.ReLU
    query_pos: tuple[int, ...] = (512,)
    denoising: int = 100
    label_noise: float = 0.5
    box_noise: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for what no network can be; files from outside say some of this."""
        if not 0 <= self.eval_layer < self.decoder_layers <= 64:
            raise ValueError(
                f"{self.name}: eval_layer must be one of at most 64 decoder_layers, got {self.eval_layer} of "
                f"{self.decoder_layers}"
            )
        if len(self.points) != len(self.strides) or not all(0 < count <= 64 for count in self.points):
            raise ValueError(f"{self.name}: points must be 1 to 64 for each of {len(self.strides)} levels")
        if self.sampling not in ("default", "discrete"):
            raise ValueError(f"{self.name}: sampling must be 'default' or 'discrete', got {self.sampling!r}")
        if self.resize not in ("cv2", "pillow"):
            raise ValueError(f"{self.name}: resize must be 'cv2' or 'pillow', got {self.resize!r}")
        if not 0 < self.queries <= 1 << 16:
            raise ValueError(f"{self.name}: queries must be 1 to 65536, got {self.queries}")


_SIZES = (
    RtDetrSpec(
        name="rtdetrv2-s",
        reference_names=("rtdetrv2_r18vd", "rtdetrv2_r18vd_120e_coco"),
        depths=(2, 2, 2, 2),
        bottleneck=False,
        frozen=False,
        expansion=0.5,
        decoder_layers=3,
        eval_layer=2,
    ),
    RtDetrSpec(
        name="rtdetrv2-m-r34",
        reference_names=("rtdetrv2_r34vd", "rtdetrv2_r34vd_120e_coco"),
        depths=(3, 4, 6, 3),
        bottleneck=False,
        frozen=False,
        expansion=0.5,
        decoder_layers=4,
        eval_layer=3,
    ),
    RtDetrSpec(
        name="rtdetrv2-m",
        reference_names=("rtdetrv2_r50vd_m", "rtdetrv2_r50vd_m_7x_coco"),
        depths=(3, 4, 6, 3),
        expansion=0.5,
        eval_layer=2,
    ),
    RtDetrSpec(
        name="rtdetrv2-l",
        reference_names=("rtdetrv2_r50vd", "rtdetrv2_r50vd_6x_coco"),
        depths=(3, 4, 6, 3),
    ),
    RtDetrSpec(
        name="rtdetrv2-x",
        reference_names=("rtdetrv2_r101vd", "rtdetrv2_r101vd_6x_coco"),
        depths=(3, 4, 23, 3),
        encoder_dim=384,
        encoder_ffn=2048,
    ),
)
_DEIM_EPOCHS = dict(zip((size.name for size in _SIZES), ("120e", "120e", "60e", "60e", "60e")))


def _variants(size: RtDetrSpec) -> list[RtDetrSpec]:
    """``size`` itself, its forms with fewer points, and DEIM's (``M`` and ``M*`` are its names the other way round)."""
    official = size.reference_names[0]
    found = [size]
    if size.name == "rtdetrv2-s":
        for points in (1, 2, 3):
            aliases = (f"{official}_sp{points}", f"{official}_sp{points}_120e_coco")
            found.append(
                dataclasses.replace(size, name=f"{size.name}-sp{points}", reference_names=aliases, points=(points,) * 3)
            )
    alias = official.replace("rtdetrv2", "deim")
    found.append(
        dataclasses.replace(
            size,
            name=f"deim-{size.name}",
            reference_names=(f"{alias}_{_DEIM_EPOCHS[size.name]}_coco", official.replace("rtdetrv2", "deim_rtdetrv2")),
            frozen=False,
            act=nn.SiLU,
            query_pos=(256, 256),
        )
    )
    return found


SPECS = {spec.name: spec for size in _SIZES for spec in _variants(size)}
