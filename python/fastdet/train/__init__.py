# SPDX-License-Identifier: Apache-2.0
"""Training of detectors: ``train(TrainConfig(...))``. torch is imported only when ``train`` is asked for."""

from __future__ import annotations

from typing import Any

from fastdet.train.config import TrainConfig, load_config

__all__ = ["TrainConfig", "TrainResult", "load_config", "train"]


def __getattr__(name: str) -> Any:
    if name in ("TrainResult", "train"):
        from fastdet.train import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
