# SPDX-License-Identifier: Apache-2.0
"""Data sets for training and evaluation: readers, augmentation, batches."""

from __future__ import annotations
