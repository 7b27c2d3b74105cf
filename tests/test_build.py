# SPDX-License-Identifier: Apache-2.0
"""What the build says and does about CUDA on a machine without nvcc; only configures, compiles nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CMAKE = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """CMake's first step. NOTFOUND is what its search for nvcc leaves where there is none."""
    pybind11 = pytest.importorskip("pybind11")
    if CMAKE is None:
        pytest.skip("cmake is not installed")
    where = (f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
    command = [CMAKE, "-S", str(ROOT), "-B", str(folder), *where, "-DCMAKE_CUDA_COMPILER=NOTFOUND", *options]
    done = subprocess.run(command, text=True, capture_output=True)
    if "CMake 3.26 or higher is required" in done.stderr:
        pytest.skip("this cmake is older than the build needs; pip fetches a newer one")
    return done


def test_auto_without_nvcc_says_so_and_builds_for_the_cpu(tmp_path):
    done = configure(tmp_path, "-DFASTDET_CUDA=AUTO")
    assert done.returncode == 0, done.stderr
    assert "fastdet: CUDA library not built: no CUDA compiler (nvcc) was found" in done.stdout
    assert "fastdet: operators" in done.stdout


def test_on_without_nvcc_fails(tmp_path):
    done = configure(tmp_path, "-DFASTDET_CUDA=ON")
    assert done.returncode != 0
    assert "FASTDET_CUDA=ON, but no CUDA compiler (nvcc) was found" in " ".join(done.stderr.split())


def test_off_does_not_look(tmp_path):
    done = configure(tmp_path, "-DFASTDET_CUDA=OFF")
    assert done.returncode == 0, done.stderr
    assert "fastdet: CUDA library not built (FASTDET_CUDA=OFF)" in done.stdout


def test_a_misspelt_choice_fails(tmp_path):
    done = configure(tmp_path, "-DFASTDET_CUDA=YES")
    assert done.returncode != 0
    assert "FASTDET_CUDA must be AUTO, ON or OFF, got YES" in " ".join(done.stderr.split())
