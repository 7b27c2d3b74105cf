# SPDX-License-Identifier: Apache-2.0
"""From a 1080p picture to boxes on the CPU, batch 1: fastdet, ONNX Runtime and OpenVINO on the same weights.

The peers' network is exported from the fused module; around it stand OpenCV and NumPy, written to be quick: one
resize, one ``blobFromImage``, thresholds on logits before anything is decoded, then OpenCV's NMS, or for models without
it the best 300 pairs of cell and class. All contenders get the whole 640 x 640 input.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from fastdet import Detector, _core, models
from harness import compare

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; pip install 'fastdet[bench]'")
openvino = pytest.importorskip("openvino", reason="openvino is not installed; pip install 'fastdet[bench]'")
pytest.importorskip("onnx", reason="onnx is not installed; pip install 'fastdet[bench]'")

SIDE, SCORE, IOU, MOST = 640, 0.25, 0.7, 300
THREADS = _core.num_threads()


class Found(NamedTuple):
    """Boxes [D, 4] in pixels of the picture, scores [D], labels [D], best first."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def lively(name: str) -> models.DetectionModel:
    """A fused model with random weights that keep signals alive; some hundred candidates pass the threshold."""
    torch.manual_seed(0)
    module = models.build(name).eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.Conv2d) and part.weight.requires_grad:
                part.weight.normal_(0, (2.0 / part.weight[0].numel()) ** 0.5)
        module.fuse()
        logits = module(torch.from_numpy(opencv_input(picture())[0])).cls_logits
        for branch, level in zip(class_branches(module), logits):
            spread = level.std()
            branch.weight.div_(spread)
            branch.bias.sub_(level.mean()).div_(spread)
            branch.bias.sub_(5.5)
    return module


def class_branches(module: models.DetectionModel) -> list[torch.nn.Conv2d]:
    """The last convolutions of the class branches that predict."""
    return [branch[-1] for branch in getattr(module.head, "cv3", None) or module.head.one2one_cv3]


def picture() -> np.ndarray:
    """1080 x 1920 x 3 RGB, uint8: blobs of several sizes."""
    noise = np.random.default_rng(0).integers(0, 256, (27, 48, 3), dtype=np.uint8)
    return cv2.resize(noise, (1920, 1080), interpolation=cv2.INTER_CUBIC)


def opencv_input(image: np.ndarray) -> tuple[np.ndarray, float, int, int]:
    """[1, 3, SIDE, SIDE] float32, the scale and the border to the left and above."""
    scale = SIDE / max(image.shape[:2])
    height, width = (round(side * scale) for side in image.shape[:2])
    canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    cv2.resize(image, (width, height), dst=canvas[top : top + height, left : left + width])
    return cv2.dnn.blobFromImage(canvas, 1 / 255), scale, left, top


def numpy_boxes(maps: list[np.ndarray], strides: tuple[int, ...], geometry: tuple[float, int, int]) -> Found:
    """Class maps, then box maps: what passes the threshold is decoded, then OpenCV's NMS by class."""
    levels, (scale, left, top) = len(strides), geometry
    boxes, scores, labels = [], [], []
    for cls, reg, stride in zip(maps[:levels], maps[levels:], strides):
        flat = cls[0].reshape(cls.shape[1], -1)
        best = flat.max(0)
        at = np.flatnonzero(best > -np.log(1 / SCORE - 1))
        logits = reg[0].reshape(4, -1, flat.shape[1])[..., at]
        weights = np.exp(logits - logits.max(1, keepdims=True))
        sides = (weights * np.arange(logits.shape[1], dtype=np.float32)[:, None]).sum(1) / weights.sum(1)
        centre = np.stack((at % cls.shape[3] + 0.5, at // cls.shape[3] + 0.5))
        boxes.append(np.concatenate((centre - sides[:2], centre + sides[2:])).T * stride)
        scores.append(1 / (1 + np.exp(-best[at])))
        labels.append(flat[:, at].argmax(0))
    box, score, label = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    sizes = np.concatenate((box[:, :2], box[:, 2:] - box[:, :2]), 1)
    kept = np.array(cv2.dnn.NMSBoxesBatched(sizes.tolist(), score.tolist(), label.tolist(), SCORE, IOU), int)[:MOST]
    in_picture = (box[kept] - (left, top, left, top)) / scale
    return Found(in_picture.clip(0, (1920, 1080, 1920, 1080)), score[kept], label[kept])


def numpy_pairs(maps: list[np.ndarray], strides: tuple[int, ...], geometry: tuple[float, int, int]) -> Found:
    """The same for a head without NMS, whose box maps are distances: the best pairs of cell and class."""
    levels, (scale, left, top) = len(strides), geometry
    boxes, logits, labels = [], [], []
    for cls, reg, stride in zip(maps[:levels], maps[levels:], strides):
        flat = cls.reshape(-1)
        pairs = np.flatnonzero(flat > -np.log(1 / SCORE - 1))
        label, at = np.divmod(pairs, cls.shape[2] * cls.shape[3])
        sides = reg[0].reshape(4, -1)[:, at]
        centre = np.stack((at % cls.shape[3] + 0.5, at // cls.shape[3] + 0.5))
        boxes.append(np.concatenate((centre - sides[:2], centre + sides[2:])).T * stride)
        logits.append(flat[pairs])
        labels.append(label)
    box, logit, label = np.concatenate(boxes), np.concatenate(logits), np.concatenate(labels)
    best = np.argsort(-logit, kind="stable")[:MOST]
    in_picture = (box[best] - (left, top, left, top)) / scale
    return Found(in_picture.clip(0, (1920, 1080, 1920, 1080)), 1 / (1 + np.exp(-logit[best])), label[best])


def exported(module: models.DetectionModel, folder: Any) -> str:
    """The ONNX file of the raw maps, class maps first."""

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            raw = self.module(images)
            return (*raw.cls_logits, *raw.reg_logits)

    path = str(folder / "network.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Maps().eval(), (torch.zeros(1, 3, SIDE, SIDE),), path, dynamo=False, opset_version=17)
    return path


def runtime(path: str) -> Any:
    """ONNX Runtime: image -> maps."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def vino(path: str, **options: str) -> Any:
    """OpenVINO: image -> maps."""
    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS, **options}
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

    def run(x: np.ndarray) -> list[np.ndarray]:
        found = request.infer({0: x}, share_inputs=True, share_outputs=True)
        return [found[i] for i in range(len(found))]

    return run


def same(ours: Any, theirs: Any) -> bool:
    """Most of our detections are theirs; bfloat16 moves scores across the threshold, and so what is suppressed."""
    if len(ours.scores) == 0 or len(theirs.scores) == 0:
        return False
    area = lambda box: np.prod(box[..., 2:] - box[..., :2], -1)  # noqa: E731
    a, b = ours.boxes[:, None], theirs.boxes[None]
    common = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0).prod(-1)
    iou = common / (area(a) + area(b) - common)
    pairs = (iou > 0.8) & (ours.labels[:, None] == theirs.labels[None])
    return float(pairs.any(1).mean()) > 0.6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["yolo11n", "yolo26n", "yolov9c"])
def bench_latency(benchmark, name, dtype, tmp_path):
    """float32 beside float32; bfloat16 beside what OpenVINO chooses by itself where the processor has bfloat16."""
    if not benchmark.enabled and name == "yolov9c":
        pytest.skip("the large models are only timed")
    if dtype == "bfloat16" and _core.network_unsupported(True):
        pytest.skip("this processor has no bfloat16")
    module, image = lively(name), picture()
    path, strides = exported(module, tmp_path), module.spec.strides
    decode, overlap = (numpy_pairs, None) if module.spec.nms_free else (numpy_boxes, IOU)
    torch.set_num_threads(THREADS)

    def around(run: Any) -> Any:
        def detect() -> Found:
            x, *geometry = opencv_input(image)
            return decode(run(x), strides, tuple(geometry))

        return detect

    detector = Detector(models.build(name).eval().fuse(), dtype="float32")
    detector.module.load_state_dict(module.state_dict())
    detector = Detector(detector.module, dtype=dtype)
    contenders = {
        "fastdet": lambda: detector(image, rect=False, score_threshold=SCORE, iou_threshold=overlap)[0],
        "ONNX Runtime": around(runtime(path)),
        "OpenVINO": around(vino(path, **({"INFERENCE_PRECISION_HINT": "f32"} if dtype == "float32" else {}))),
    }
    if dtype == "bfloat16":
        del contenders["ONNX Runtime"]  # it has no bfloat16 on a CPU
    setting = f"{name}, {dtype}, 1080p to boxes, 640 x 640, {THREADS} threads"
    compare(benchmark, "latency", setting, contenders, same=same, rounds=10 if name == "yolov9c" else 40)
