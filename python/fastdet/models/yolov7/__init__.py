# SPDX-License-Identifier: Apache-2.0
"""YOLOv7 (arXiv 2207.02696; reference WongKinYiu/yolov7)."""
