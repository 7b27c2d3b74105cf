# SPDX-License-Identifier: Apache-2.0
"""Detectors as torch modules: built by name, loaded from files, in a training and a deployed graph."""

from __future__ import annotations

from fastdet.models import checkpoint
from fastdet.models.checkpoint import load, load_file, save_fastdet
from fastdet.models.detection_model import DetectionModel
from fastdet.models.heads import AnchorRaw, ClassLogits, RawHead, Targets
from fastdet.models.licences import LicenseWarning
from fastdet.models.model_spec import ModelSpec
from fastdet.models.registry import FAMILIES, build, fit, load_official, recognise, spec, to_official
from fastdet.models.rep_conv import RepConv2d

__all__ = [
    "FAMILIES",
    "AnchorRaw",
    "ClassLogits",
    "DetectionModel",
    "LicenseWarning",
    "ModelSpec",
    "RawHead",
    "RepConv2d",
    "Targets",
    "build",
    "checkpoint",
    "fit",
    "load",
    "load_file",
    "load_official",
    "recognise",
    "save_fastdet",
    "spec",
    "to_official",
]
