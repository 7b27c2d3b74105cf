# SPDX-License-Identifier: Apache-2.0
"""The licence that weights came under, as far as their file or its origin tells, said once a process."""

from __future__ import annotations

import re
import warnings

from fastdet.formats import shown
from fastdet.models.model_spec import ModelSpec
from fastdet.models.recognition import Official

_COPYLEFT = re.compile(r"\b[AL]?GPL", re.IGNORECASE)
# Package of a pickled model -> licence of the project that writes such files.
_ORIGINS = (
    ("ultralytics.", "AGPL-3.0", "Ultralytics"),
    ("yolov5.", "AGPL-3.0 (GPL-3.0 up to release v7.0)", "ultralytics/yolov5"),
)
_SHARED_PACKAGE = "models.yolo."  # of YOLOv5, YOLOv7 and YOLOv9 alike; the family decides
_said: set[str] = set()


class LicenseWarning(UserWarning):
    """Weights came under a licence with conditions for whoever passes them on or serves them."""


def licence_of(official: Official, spec: ModelSpec) -> str:
    """One line on the licence of the weights in a file: what it says itself, else what its origin implies, else ""."""
    stated = official.texts.get("license")
    if stated:
        return f"{shown(stated)} (stated in the file)"
    kind = official.modules[""].kind if official.modules else ""
    for package, licence, project in _ORIGINS:
        if kind.startswith(package):
            return f"{licence} (licence of {project}, which wrote the file)"
    if _COPYLEFT.search(spec.license):
        how = "which wrote the file" if kind.startswith(_SHARED_PACKAGE) else "whose keys these are"
        return f"{spec.license} (licence of the project of {spec.name}, {how})"
    return ""


def is_copyleft(licence: str) -> bool:
    """Whether a licence text names the GPL, LGPL or AGPL."""
    return bool(_COPYLEFT.search(licence))


def note_licence(path: str, licence: str) -> None:
    """Warn once per process and licence that the weights of ``path`` are under the GPL or a relative of it."""
    if is_copyleft(licence) and licence not in _said:
        _said.add(licence)
        warnings.warn(
            f"load: the weights of {path} are under {licence}; its conditions hold for what is made with them",
            LicenseWarning,
            stacklevel=5,
        )
