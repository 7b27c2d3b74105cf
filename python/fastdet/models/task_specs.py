# SPDX-License-Identifier: Apache-2.0
"""What turns a detector with a DistanceHead into the other tasks of its family; only the head differs."""

from __future__ import annotations

from fastdet.models.distance_head import PoseHead, RotatedHead, SegmentHead
from fastdet.models.graph_model import GraphSpec


def distance_tasks(detect: GraphSpec) -> tuple[GraphSpec, GraphSpec, GraphSpec]:
    """The specifications of segmentation, COCO keypoints and rotated boxes (DOTA) beside that of detection."""
    width = detect.channels(256)
    return (
        detect.variant("-seg", task="segment", head=SegmentHead, masks=32, prototype_width=width),
        detect.variant("-pose", task="pose", num_classes=1, head=PoseHead, keypoints=(17, 3)),
        detect.variant("-obb", task="obb", num_classes=15, input_size=(1024, 1024), head=RotatedHead),
    )
