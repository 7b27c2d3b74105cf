# SPDX-License-Identifier: Apache-2.0
"""The thread pool as a C++ program: plain, and under ThreadSanitizer and AddressSanitizer."""

from __future__ import annotations

import shlex
import subprocess

import build
import pytest

SOURCES = [build.ROOT / "tests" / "native" / "host" / "parallel.cpp", build.ROOT / "csrc" / "core" / "parallel.cpp"]
BUILDS = {
    "plain": ["-O2"],
    "tsan": ["-O1", "-g", "-fsanitize=thread"],
    "asan": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}


@pytest.mark.parametrize("variant", BUILDS)
def test_thread_pool(variant, tmp_path):
    if (reason := build.available(variant)) is not None:
        pytest.skip(reason)
    program = tmp_path / "parallel"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pthread", *BUILDS[variant]]
    compile_ = [*shlex.split(build.compiler()), *flags, "-I", str(build.ROOT / "csrc"), *map(str, SOURCES)]
    subprocess.run([*compile_, "-o", str(program)], check=True)
    arguments = ["without-fork"] if variant == "tsan" else []
    done = subprocess.run([str(program), *arguments], text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
