# SPDX-License-Identifier: Apache-2.0
"""Builds an sdist, a wheel from that sdist in a clean environment, and runs the wheel with nothing but NumPy beside it.

``python tests/package_check.py`` takes some minutes; pip must reach what it installs from. Exits with 1 and a line per
fault.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_WHEEL_WITHOUT_WEIGHTS = 3 << 20
IN_SDIST = (
    "pyproject.toml CMakeLists.txt README.md LICENSE NOTICE csrc/cuda_library.cu tests/conftest.py Makefile".split()
)
IN_WHEEL = (
    r"fastdet/__init__\.py fastdet/_core\..*\.so fastdet/_core\.pyi fastdet/py\.typed fastdet/ops/nms\.py".split()
)
SMOKE = """
import numpy as np, fastdet, fastdet.ops as ops
boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [8, 8, 9, 9]], np.float32)
assert ops.nms(boxes, np.array([0.5, 0.9, 0.1], np.float32), 0.5).tolist() == [1, 2]
print(fastdet.__version__, ops.cuda_available()[1])
"""


def run(*command: object) -> str:
    """Standard output and error of a command that has to succeed."""
    env = {**os.environ, "FASTDET_CUDA": "OFF", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True, env=env, cwd=tempfile.gettempdir())
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def faults_of_sdist(path: Path) -> list[str]:
    """What is missing from an sdist, or should not be in it."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    faults = [f"{path.name}: {name} is missing" for name in IN_SDIST if name not in names]
    strange = [n for n in names if re.search(r"\.so$|\.o$|__pycache__|^build/|^\.venv|^dist/|^demo/", n)]
    return faults + [f"{path.name}: {name} should not be there" for name in strange]


def faults_of_wheel(path: Path) -> list[str]:
    """What is missing from a wheel, should not be in it, or is too large."""
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.compress_size for entry in archive.infolist()}
    faults = [f"{path.name}: {form} is missing" for form in IN_WHEEL if not any(re.fullmatch(form, n) for n in sizes)]
    faults += [
        f"{path.name}: {name} should not be there"
        for name in sizes
        if not re.match(r"fastdet/|fastdet-[\w.]+\.dist-info/", name) or "__pycache__" in name
    ]
    without = sum(size for name, size in sizes.items() if not name.startswith("fastdet/weights/"))
    if without > MAX_WHEEL_WITHOUT_WEIGHTS:
        faults.append(f"{path.name}: {without} bytes beside the weights, at most {MAX_WHEEL_WITHOUT_WEIGHTS} are meant")
    print(f"{path.name}: {path.stat().st_size} bytes, {without} beside weights and pictures")
    return faults


def main() -> int:
    """Run the check; returns the exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT)
        sdist = next(folder.glob("*.tar.gz"))
        log = run(sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-cache-dir", "-w", folder, sdist)
        wheel = next(folder.glob("*.whl"))
        faults = faults_of_sdist(sdist) + faults_of_wheel(wheel)
        if "fastdet: CUDA library not built" not in log:
            faults.append("the build log does not say that the CUDA library was not built")
        venv.create(folder / "clean", with_pip=True)
        python = folder / "clean" / "bin" / "python"
        run(python, "-m", "pip", "install", wheel)
        print(run(python, "-c", SMOKE).strip())
    print("\n".join(faults) or "package-check: nothing to complain about")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
