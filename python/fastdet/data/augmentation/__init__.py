# SPDX-License-Identifier: Apache-2.0
"""Augmentation: recipes as data, random numbers by counter, pixels by ``fastdet.ops.compose``."""

from __future__ import annotations

from fastdet.data.augmentation.augmented import RECIPES, augmented_sample, recipe_named
from fastdet.data.augmentation.contact_sheet import contact_sheet
from fastdet.data.augmentation.own import Augmentation
from fastdet.data.augmentation.random_stream import Stream
from fastdet.data.augmentation.recipe import Recipe
from fastdet.data.augmentation.scene import Sample, SampleSource

__all__ = [
    "RECIPES",
    "Augmentation",
    "Recipe",
    "Sample",
    "SampleSource",
    "Stream",
    "augmented_sample",
    "contact_sheet",
    "recipe_named",
]
