# SPDX-License-Identifier: Apache-2.0
"""What a model is apart from its weights: sizes, preprocessing, post-processing, origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The constants of one published model. Families add their own fields in a subclass.

    Attributes:
        name: fastdet's name, e.g. ``damo-yolo-t``.
        family: key into ``fastdet.models.FAMILIES``.
        task: ``"detect"``, ``"segment"``, ``"pose"``, ``"obb"`` (rotated boxes) or ``"classify"``.
        num_classes: of the published weights.
        input_size: (height, width) in pixels at which the model was trained.
        color: channel order the network expects, ``"RGB"`` or ``"BGR"``.
        keep_ratio: True for a letterbox, False for a plain stretch to ``input_size``.
        resize: how pictures are scaled, a ``mode`` of ``fastdet.ops.letterbox``: ``"cv2"``, ``"pillow"``.
        fill: grey value of the letterbox border, 0..255.
        scale: True when pixels are divided by 255, False when the network is given 0..255.
        mean, std: per-channel normalisation in the units that ``scale`` leaves, or None.
        strides: input pixels per cell of each output level, finest first. Both sides of an input must be
            multiples of the last.
        score_threshold, iou_threshold, max_det, multi_label: post-processing of the published evaluation.
        nms_free: True where the best scores are the detections, False where overlapping boxes are suppressed. Models
            with a head for either (YOLOv10, YOLO26) predict with the one that this says.
        predict_iou_threshold, predict_max_det: what the reference's own prediction uses, at a score above 0.25.
        ideal_ratio: True where the reference maps boxes back by the ratio before sizes were rounded.
        rect: True where the reference predicts on the smallest rectangle of whole strides around the resized picture,
            False where it fills the whole input.
        reference_names: names under which the reference publishes the model (configurations, files).
        license: licence of the published weights.

    ``FILE_FIELDS`` names the fields in which a file may differ from the published model of its name; they are written
    into fastdet's files and read back. A family adds its own (anchors, reg_max, ...), plain data all: bool, number,
    text, None, or tuples of these.
    """

    FILE_FIELDS: ClassVar[tuple[str, ...]] = (
        "input_size", "color", "keep_ratio", "fill", "scale", "mean", "std", "strides",
        "score_threshold", "iou_threshold", "max_det", "multi_label", "nms_free",
    )  # fmt: skip

    name: str
    family: str
    task: str = "detect"
    num_classes: int = 80
    input_size: tuple[int, int]
    color: str = "RGB"
    keep_ratio: bool = True
    resize: str = "cv2"
    fill: int = 114
    scale: bool = True
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    strides: tuple[int, ...] = (8, 16, 32)
    score_threshold: float = 0.05
    iou_threshold: float = 0.7
    max_det: int = 300
    multi_label: bool = True
    nms_free: bool = False
    predict_iou_threshold: float = 0.7
    predict_max_det: int = 300
    ideal_ratio: bool = False
    rect: bool = False
    reference_names: tuple[str, ...] = ()
    license: str = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelSpec:
        """Itself: it cannot change, and makers inside it would no longer be equal to the published model's."""
        return self

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The keyword arguments of ``fastdet.ops.letterbox`` that this model wants (pictures given as RGB)."""
        return {
            "mode": self.resize,
            "keep_ratio": self.keep_ratio,
            "fill": self.fill,
            "scale": self.scale,
            "mean": self.mean,
            "std": self.std,
            "swap_rb": self.color == "BGR",
        }


COCO_NAMES = [
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
]  # fmt: skip


def default_names(num_classes: int) -> list[str]:
    """Class names of a model that came without any: COCO's for 80 classes, else ``class 0``, ``class 1``, ..."""
    if num_classes == len(COCO_NAMES):
        return list(COCO_NAMES)
    return [f"class {i}" for i in range(num_classes)]
