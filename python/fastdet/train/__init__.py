# SPDX-License-Identifier: Apache-2.0
"""Training of detectors: ``train(TrainConfig(...))``."""

from __future__ import annotations

from fastdet.train.config import TrainConfig, load_config
from fastdet.train.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "load_config", "train"]
