# SPDX-License-Identifier: Apache-2.0
"""fastdet: exact, fast operators for real-time object detection, and the detectors that prove them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastdet import ops
    from fastdet.detections import Detections
    from fastdet.detector import Detector, load
    from fastdet.evaluation import evaluate
    from fastdet.image_files import ImageError
    from fastdet.integrations import accelerate, restore
    from fastdet.ops import backend

__all__ = ["Detections", "Detector", "ImageError", "accelerate", "backend", "evaluate", "load", "ops", "restore"]

# Name -> module it lives in. Imported on first use, so that ``import fastdet`` costs nothing.
_HOMES = {
    "Detections": "fastdet.detections",
    "Detector": "fastdet.detector",
    "ImageError": "fastdet.image_files",
    "accelerate": "fastdet.integrations",
    "backend": "fastdet.ops",
    "evaluate": "fastdet.evaluation",
    "load": "fastdet.detector",
    "restore": "fastdet.integrations",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in ("evaluation", "integrations", "models", "ops", "testing", "train"):
        value = importlib.import_module(f"fastdet.{name}")
    else:
        raise AttributeError(f"module 'fastdet' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
