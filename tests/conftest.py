# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels are tested on a device where there is one, else on the emulator, whose library is built here once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent / "native"))


# How long an example takes says nothing on a machine that others use, too.
hypothesis.settings.register_profile("untimed", parent=hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    if "FASTDET_CUDA_LIB" in os.environ or _device_present():
        return
    import build

    if build.available() is None:
        os.environ["FASTDET_CUDA_LIB"] = str(build.build_library())


def _device_present() -> bool:
    from fastdet import _core

    return bool(_core.cuda_available()[0])
