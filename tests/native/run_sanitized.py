# SPDX-License-Identifier: Apache-2.0
"""Runs the Python tests of native code with sanitizers in the extension and in the emulated CUDA kernels.

``python tests/native/run_sanitized.py [--build asan|tsan] [--small] [pytest arguments]``; without --build, both;
without a path among the arguments, all in ``TESTS``.

asan is AddressSanitizer with UndefinedBehaviorSanitizer; tsan, ThreadSanitizer, sees races between the extension's
threads and between the emulated threads of a kernel. Python itself and other libraries are not instrumented. Exits with
1 if a test failed or a sanitizer reported anything; there are no suppressions.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import build

# whatever runs native code
TESTS = (
    "tests/ops",
    "tests/models/test_cpu_graph.py",
    "tests/evaluation",
    "tests/data/test_file_names.py",
    "tests/data/test_native_coco.py",
    "tests/data/test_native_yolo.py",
)
SMALL = "(numpy-plain or numpy-strided or cuda-forward or cpu_graph or evaluation or test_native or file_names)"
SMALL += " and not large"
# Without tracing by torch, which runs no other native code, and without the tests of size, which would take hours here.
ALL = "not torch_library and not million_boxes and not all_equal_scores"
OPTIONS = {
    "asan": {
        # The interpreter leaks by design. New memory is filled, so that a workspace used before it is written shows.
        "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=205:log_path={log}",
        "UBSAN_OPTIONS": "print_stacktrace=1:log_path={log}",
    },
    "tsan": {"TSAN_OPTIONS": "atexit_sleep_ms=0:exitcode=66:second_deadlock_stack=1:log_path={log}"},
}
LIBRARIES = {"asan": ("libasan.so", "libstdc++.so"), "tsan": ("libtsan.so",)}


def environment(variant: str, log: Path) -> dict[str, str]:
    """Environment in which an uninstrumented Python can load libraries built in ``variant``.

    The sanitizer's runtime must come first in the process; ASan also needs the C++ runtime there to follow exceptions.
    """
    preloaded = [_library(name) for name in LIBRARIES[variant]]
    options = {name: value.format(log=log) for name, value in OPTIONS[variant].items()}
    return {**os.environ, **options, "LD_PRELOAD": " ".join(preloaded), "PYTHONMALLOC": "malloc"}


def _library(name: str) -> str:
    command = [*shlex.split(build.compiler()), f"-print-file-name={name}"]
    path = Path(subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip())
    if not path.is_absolute():
        raise FileNotFoundError(f"run_sanitized: {build.compiler()} has no {name}")
    return str(path.resolve())


def _core_in_use(env: dict[str, str]) -> str:
    code = "from fastdet import _core; print(_core.__file__)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, env=env, cwd=build.ROOT)
    return done.stdout.strip() or done.stderr[-2000:]


def run(variant: str, keyword: str, tests: list[str]) -> bool:
    """Builds ``variant``, runs the tests in it and prints what the sanitizer reported. True if all is well."""
    reason = build.available(variant)
    if reason is not None:
        print(f"run_sanitized: {reason}", file=sys.stderr)
        return False
    library = build.build_library(variant)
    package = build.build_package(variant)
    log = build.build_folder(variant) / "report"
    for old in log.parent.glob("report.*"):
        old.unlink()
    env = environment(variant, log)
    env.update(PYTHONPATH=str(package), FASTDET_CUDA_LIB=str(library), FASTDET_NUM_THREADS="3", OMP_NUM_THREADS="1")
    env["OPENCV_FOR_THREADS_NUM"] = "1"  # what its own threads do is not seen, and would look like races
    for cases, fewer in (("FASTDET_EVALUATION_CASES", "400"), ("FASTDET_INDEX_CASES", "10")):
        env.setdefault(cases, fewer)
    used = _core_in_use(env)
    if not used.startswith(str(package)):
        print(f"run_sanitized: the extension under test would be {used}, not the one in {package}", file=sys.stderr)
        return False
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", keyword, *tests]
    failed = subprocess.run(pytest, env=env, cwd=build.ROOT).returncode
    reports = sorted(log.parent.glob("report.*"))
    for report in reports:
        print(report.read_text(errors="replace"))
    print(f"run_sanitized: {variant}: pytest exited with {failed}, {len(reports)} processes with reports", flush=True)
    return failed == 0 and not reports


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the operators' tests under the sanitizers.")
    parser.add_argument("--build", choices=sorted(OPTIONS), action="append", help="which (default: all)")
    parser.add_argument("--small", action="store_true", help="fewer variants of each case, for every change")
    options, arguments = parser.parse_known_args()
    if not any((build.ROOT / argument.partition("::")[0]).exists() for argument in arguments):
        arguments += TESTS
    results = [run(variant, SMALL if options.small else ALL, arguments) for variant in options.build or OPTIONS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
