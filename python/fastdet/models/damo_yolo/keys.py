# SPDX-License-Identifier: Apache-2.0
"""Names in the reference's checkpoints (tinyvision/DAMO-YOLO, v0.3.1) beside ours."""

from __future__ import annotations

from fastdet.models.damo_yolo.backbone import CspBackbone, MobileBackbone, ResidualBackbone
from fastdet.models.damo_yolo.specs import DamoSpec
from fastdet.models.keys import KeyMap

Pairs = tuple[tuple[str, str], ...]

RESIDUAL_KEYS: Pairs = (
    ("backbone.block_list.0.{rest}", "backbone.stages.0.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv1.conv1.{rest}", "backbone.stages.{i}.{j}.conv1.conv.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv1.bn1.{rest}", "backbone.stages.{i}.{j}.conv1.bn.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv2.rbr_dense.{rest}", "backbone.stages.{i}.{j}.conv2.dense.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv2.rbr_1x1.{rest}", "backbone.stages.{i}.{j}.conv2.point.{rest}"),
)
CSP_KEYS: Pairs = (
    ("backbone.csp_stage.0.{rest}", "backbone.stages.0.{rest}"),
    ("backbone.csp_stage.{i}.convstem.{j}.conv1.conv1.{rest}", "backbone.stages.{i}.blocks.{j}.conv1.conv.{rest}"),
    ("backbone.csp_stage.{i}.convstem.{j}.conv1.bn1.{rest}", "backbone.stages.{i}.blocks.{j}.conv1.bn.{rest}"),
    ("backbone.csp_stage.{i}.convstem.{j}.conv2.rbr_dense.{rest}", "backbone.stages.{i}.blocks.{j}.conv2.dense.{rest}"),
    ("backbone.csp_stage.{i}.convstem.{j}.conv2.rbr_1x1.{rest}", "backbone.stages.{i}.blocks.{j}.conv2.point.{rest}"),
    ("backbone.csp_stage.{i}.downsampler.conv.conv1.{rest}", "backbone.stages.{i}.down.conv.{rest}"),
    ("backbone.csp_stage.{i}.downsampler.conv.bn1.{rest}", "backbone.stages.{i}.down.bn.{rest}"),
    ("backbone.csp_stage.{i}.conv_start.conv.conv1.{rest}", "backbone.stages.{i}.split_main.conv.{rest}"),
    ("backbone.csp_stage.{i}.conv_start.conv.bn1.{rest}", "backbone.stages.{i}.split_main.bn.{rest}"),
    ("backbone.csp_stage.{i}.conv_shortcut.conv.conv1.{rest}", "backbone.stages.{i}.split_side.conv.{rest}"),
    ("backbone.csp_stage.{i}.conv_shortcut.conv.bn1.{rest}", "backbone.stages.{i}.split_side.bn.{rest}"),
    ("backbone.csp_stage.{i}.conv_fuse.conv.conv1.{rest}", "backbone.stages.{i}.merge.conv.{rest}"),
    ("backbone.csp_stage.{i}.conv_fuse.conv.bn1.{rest}", "backbone.stages.{i}.merge.bn.{rest}"),
    ("backbone.csp_stage.{i}.spp.{rest}", "backbone.stages.{i}.spp.{rest}"),
)
MOBILE_KEYS: Pairs = (
    ("backbone.block_list.0.conv.conv1.{rest}", "backbone.stages.0.conv.{rest}"),
    ("backbone.block_list.0.conv.bn1.{rest}", "backbone.stages.0.bn.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv.0.{rest}", "backbone.stages.{i}.{j}.expand.conv.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv.1.{rest}", "backbone.stages.{i}.{j}.expand.bn.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv.3.{rest}", "backbone.stages.{i}.{j}.depthwise.conv.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv.4.{rest}", "backbone.stages.{i}.{j}.depthwise.bn.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv.7.{rest}", "backbone.stages.{i}.{j}.project.conv.{rest}"),
    ("backbone.block_list.{i}.block_list.{j}.conv.8.{rest}", "backbone.stages.{i}.{j}.project.bn.{rest}"),
)
# Stands before a backbone's own pairs, whose patterns would match it too.
SPP_KEYS: Pairs = (("backbone.block_list.5.block_list.1.{rest}", "backbone.stages.5.1.{rest}"),)

_FUSIONS = {3: "m5", 4: "m4", 5: "p3", 7: "p4", 6: "p5"}
_DOWNS = {"13": "c4", "24": "c3", "57": "p3", "46": "m4", "76": "p4"}


def _fusion_keys(blocks: Pairs) -> Pairs:
    pairs = []
    for number, name in _FUSIONS.items():
        official, ours = f"neck.merge_{number}", f"neck.fuse_{name}"
        pairs += [
            (f"{official}.conv1.{{rest}}", f"{ours}.split_side.{{rest}}"),
            (f"{official}.conv2.{{rest}}", f"{ours}.split_main.{{rest}}"),
            (f"{official}.conv3.{{rest}}", f"{ours}.merge.{{rest}}"),
        ]
        pairs += [(f"{official}.convs.{{i}}.{theirs}", f"{ours}.blocks.{{i}}.{mine}") for theirs, mine in blocks]
    return tuple(pairs)


DENSE_NECK_KEYS: Pairs = (
    *((f"neck.bu_conv{number}.{{rest}}", f"neck.down_{name}.{{rest}}") for number, name in _DOWNS.items()),
    *_fusion_keys(
        (
            ("conv1.{rest}", "conv.{rest}"),
            ("conv2.rbr_dense.{rest}", "rep.dense.{rest}"),
            ("conv2.rbr_1x1.{rest}", "rep.point.{rest}"),
        )
    ),
)
MOBILE_NECK_KEYS: Pairs = (
    *(
        (f"neck.bu_conv{number}.{theirs}.{{rest}}", f"neck.down_{name}.{mine}.{{rest}}")
        for number, name in _DOWNS.items()
        for theirs, mine in (
            ("depthwise", "depthwise.conv"),
            ("dwnorm", "depthwise.bn"),
            ("pointwise", "pointwise.conv"),
            ("pwnorm", "pointwise.bn"),
        )
    ),
    *_fusion_keys(
        (
            ("conv.conv.0.{rest}", "expand.conv.{rest}"),
            ("conv.conv.1.{rest}", "expand.bn.{rest}"),
            ("conv.conv.3.{rest}", "depthwise.conv.{rest}"),
            ("conv.conv.4.{rest}", "depthwise.bn.{rest}"),
            ("conv.conv.6.{rest}", "project.conv.{rest}"),
            ("conv.conv.7.{rest}", "project.bn.{rest}"),
        )
    ),
)
HEAD_KEYS: Pairs = (
    ("head.integral.project", "head.bins"),
    ("head.gfl_cls.{i}.{rest}", "head.cls.{i}.{rest}"),
    ("head.gfl_reg.{i}.{rest}", "head.reg.{i}.{rest}"),
    ("head.scales.{i}.scale", "head.scales.{i}"),
)

KEYS = {
    ResidualBackbone: KeyMap(SPP_KEYS + RESIDUAL_KEYS + DENSE_NECK_KEYS + HEAD_KEYS),
    CspBackbone: KeyMap(CSP_KEYS + DENSE_NECK_KEYS + HEAD_KEYS),
    MobileBackbone: KeyMap(SPP_KEYS + MOBILE_KEYS + MOBILE_NECK_KEYS + HEAD_KEYS),
}


def key_map(spec: DamoSpec) -> KeyMap:
    """The key map of one size: it hangs on the kind of its backbone."""
    return KEYS[spec.backbone]
