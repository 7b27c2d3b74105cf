# SPDX-License-Identifier: Apache-2.0
"""Average precision of every detector as its authors publish it: what the table of docs/models/index.md compares.

COCO val2017 at the model's own input size, of the graph and the head that ``fastdet.load`` runs (without NMS where
``spec.nms_free``), unless ``TEST_DEV`` says otherwise. None of it was measured here. A test holds the pages of the
families to these figures.
"""

from __future__ import annotations

# Family as the sources name it -> where the figures stand.
SOURCES = {
    "DAMO-YOLO": "README of tinyvision/DAMO-YOLO (T to L: the distilled weights)",
    "YOLOv5": "README of ultralytics/yolov5, release 7.0; u models: Ultralytics' documentation",
    "YOLOv7": "README of WongKinYiu/yolov7 (COCO test-dev)",
    "YOLOv8, YOLO11, YOLO26": "Ultralytics' documentation",
    "YOLOv9": "README of WongKinYiu/yolov9",
    "YOLOv10": "README of THU-MIG/yolov10",
    "RT-DETRv2": "README of lyuwenyu/RT-DETR; DEIM's: the README of DEIM",
}

# Name in fastdet.models -> AP in percent.
AP = {
    "damo-yolo-ns": 32.3, "damo-yolo-nm": 38.2, "damo-yolo-nl": 40.5,
    "damo-yolo-t": 43.6, "damo-yolo-s": 47.7, "damo-yolo-m": 50.2, "damo-yolo-l": 51.9,
    "yolov5n": 28.0, "yolov5s": 37.4, "yolov5m": 45.4, "yolov5l": 49.0, "yolov5x": 50.7,
    "yolov5n6": 36.0, "yolov5s6": 44.8, "yolov5m6": 51.3, "yolov5l6": 53.7, "yolov5x6": 55.0,
    "yolov5nu": 34.3, "yolov5su": 43.0, "yolov5mu": 49.0, "yolov5lu": 52.2, "yolov5xu": 53.2,
    "yolov7": 51.4, "yolov7x": 53.1, "yolov7-w6": 54.9, "yolov7-e6": 56.0, "yolov7-d6": 56.6, "yolov7-e6e": 56.8,
    "yolov8n": 37.3, "yolov8s": 44.9, "yolov8m": 50.2, "yolov8l": 52.9, "yolov8x": 53.9,
    "yolov9t-w80": 38.3, "yolov9s": 46.8, "yolov9m": 51.4, "yolov9c": 53.0, "yolov9e": 55.6,
    "yolov10n": 38.5, "yolov10s": 46.3, "yolov10m": 51.1, "yolov10b": 52.5, "yolov10l": 53.2, "yolov10x": 54.4,
    "yolo11n": 39.5, "yolo11s": 47.0, "yolo11m": 51.5, "yolo11l": 53.4, "yolo11x": 54.7,
    "yolo26n": 40.1, "yolo26s": 47.8, "yolo26m": 52.5, "yolo26l": 54.4, "yolo26x": 56.9,
    "rtdetrv2-s": 48.1, "rtdetrv2-s-sp1": 47.3, "rtdetrv2-s-sp2": 47.7, "rtdetrv2-s-sp3": 47.8,
    "rtdetrv2-m-r34": 49.9, "rtdetrv2-m": 51.9, "rtdetrv2-l": 53.4, "rtdetrv2-x": 54.3,
    "deim-rtdetrv2-s": 49.0, "deim-rtdetrv2-m-r34": 50.9, "deim-rtdetrv2-m": 53.2, "deim-rtdetrv2-l": 54.3,
    "deim-rtdetrv2-x": 55.5,
}  # fmt: skip

# Published on COCO test-dev only, which is close to val2017 and not the same.
TEST_DEV = ("yolov7", "yolov7x", "yolov7-w6", "yolov7-e6", "yolov7-d6", "yolov7-e6e")

# Detectors of these models whose AP nobody publishes under this name: other layouts of the same weights, another width,
# and YOLOv7-tiny, of which its authors give val figures for a network with another activation only.
WITHOUT_AP = ("yolov7-tiny", "yolov9t", "gelan-t", "gelan-t-w80", "gelan-s", "gelan-m", "gelan-c", "gelan-e")
OTHER_LAYOUTS = ("-deploy",)
PORTS = ("yolov9tu", "yolov9su", "yolov9mu", "yolov9cu", "yolov9eu")
