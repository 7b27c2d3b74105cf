# SPDX-License-Identifier: Apache-2.0
"""Data sets for training and evaluation: readers, augmentation, batches."""

from __future__ import annotations

from fastdet.data.dataset import DataError, Dataset
from fastdet.data.layout import open_dataset

__all__ = ["DataError", "Dataset", "open_dataset"]
