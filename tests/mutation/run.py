# SPDX-License-Identifier: Apache-2.0
"""Do the tests notice a wrong sign? Changes native code in one place at a time and runs the operator's tests.

``python tests/mutation/run.py --op nms --count 20 --seed 0`` samples operators and numbers of ``csrc/ops/nms``
(``*_math.h`` and every ``.cpp`` that computes), builds the extension from a copy of the tree with each of them changed,
and lists the changes that no test noticed: a missing test, or a change that no input can show. ``--core`` changes what
the operator takes from ``csrc/core`` instead, for this operator alone. CUDA is left out: the emulated kernels hold the
same ``_math.h``, so that they would tell every change of the CPU's copy.

Text is changed, not a syntax tree: clang-format puts blanks around binary operators and nowhere else, so that a blank,
``<`` and a blank is never a template's. Mull needs clang and its own compiler pass; universalmutator writes 829 mutants
of the 95 lines of nms_cpu.cpp, of which one in six compiles.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = ROOT / "build" / "mutation"
TREE = SCRATCH / "tree"
SWAPS = "< <=, < >=, <= <, > >=, > <=, >= >, == !=, != ==, && ||, || &&, + -, - +, * /, / *, % /, += -=, -= +="
OPERATORS = [tuple(f" {word} " for word in pair.split()) for pair in SWAPS.split(", ")]
OPERATORS += [("std::min(", "std::max("), ("std::max(", "std::min("), ("(!", "(")]
NUMBER = re.compile(r"(?<![\w.\]])(\d+\.\d+(?:e-?\d+)?|\d+)(?=[fu]?\b)(?![\w.]*x)")
# Nothing to decide: declarations of types, sizes of tiles, hints to the hardware, texts of errors.
SKIPPED = re.compile(r"^\s*(#|//|template|using|static_assert|constexpr (std::\w+|int) k|__builtin_prefetch)")
LEFT_OUT = ("_bind.cpp", "_check.cpp", "parallel.cpp")
# Folders of csrc beside the operators, with their tests.
TESTS = {
    "evaluation": ["tests/evaluation"],
    "dataset": ["tests/data/test_native_yolo.py", "tests/data/test_native_coco.py", "tests/data/test_malformed.py",
                "tests/data/test_formats.py", "tests/data/test_index.py"],
}  # fmt: skip
WITHOUT = re.compile(r"//.*|\"[^\"]*\"|<[\w:, *]*>")


@dataclass(frozen=True)
class Mutant:
    path: str
    line: int
    column: int
    old: str
    new: str

    def apply(self, text: str) -> str:
        lines = text.splitlines(keepends=True)
        row = lines[self.line - 1]
        lines[self.line - 1] = row[: self.column] + self.new + row[self.column + len(self.old) :]
        return "".join(lines)


def folder_of(op: str) -> Path:
    return ROOT / "csrc" / op if op in TESTS else ROOT / "csrc" / "ops" / op


def sources(op: str) -> list[Path]:
    folder = folder_of(op)
    headers = folder.glob("*.h" if op in TESTS else "*_math.h")
    return [p for p in (*sorted(headers), *sorted(folder.glob("*.cpp"))) if not p.name.endswith(LEFT_OUT)]


def included(path: Path, seen: set[Path]) -> set[Path]:
    """``seen`` and the headers that ``path`` includes, directly or not."""
    for name in re.findall(r'#include "([^"]+)"', path.read_text()):
        header = ROOT / "csrc" / name
        if header.exists() and header not in seen:
            seen.add(header)
            included(header, seen)
    return seen


def core_sources(op: str) -> list[Path]:
    """What ``op`` takes from ``csrc/core``: headers, and the sources that implement them or what those are made of."""
    seen: set[Path] = set()
    for path in folder_of(op).glob("*.cpp"):
        included(path, seen)
    core = ROOT / "csrc" / "core"
    waiting, found = [p for p in sorted(core.glob("*.cpp")) if not p.name.endswith(LEFT_OUT)], []
    while chosen := [
        p for p in waiting if any(h.stem.split("_")[0] == p.stem.split("_")[0] for h in seen & included(p, set()))
    ]:
        found += chosen
        waiting = [p for p in waiting if p not in chosen]
        for path in chosen:
            included(path, seen)
    headers = [p for p in sorted(seen) if p.parent == core and p.name not in ("check.h", "launch.h", "platform.h")]
    return [*headers, *found]


def tests_of(op: str) -> list[str]:
    if op in TESTS:
        return TESTS[op]
    names = [p.name for p in (ROOT / "csrc" / "ops").iterdir()]
    found = sorted((ROOT / "tests" / "ops").glob(f"test_{op}*.py"))
    longest = {p: max((n for n in names if p.stem[5:].startswith(n)), key=len) for p in found}
    return [f"tests/ops/{p.name}" for p in found if longest[p] == op]


def mutants_of(path: Path) -> list[Mutant]:
    name, found = str(path.relative_to(ROOT)), []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if SKIPPED.match(line):
            continue
        code = WITHOUT.sub(lambda m: "\1" * len(m[0]), line)
        for old, new in OPERATORS:
            at = code.find(old)
            while at >= 0:
                found.append(Mutant(name, number, at, old, new))
                at = code.find(old, at + 1)
        for match in NUMBER.finditer(code):
            old = match[1]
            new = (str(float(old) * 2) if float(old) else "1.0") if "." in old else str(int(old) + 1)
            found.append(Mutant(name, number, match.start(), old, new))
    return found


def copy_tree() -> None:
    """The tracked and new files that a build and the tests need; unchanged ones keep their time."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "csrc", "python", "tests", "pyproject.toml"]
    wanted = set(subprocess.run(listed, cwd=ROOT, check=True, text=True, capture_output=True).stdout.splitlines())
    for old in TREE.glob("csrc/**/*.*"):
        if str(old.relative_to(TREE)) not in wanted:
            old.unlink()
    for name in wanted:
        target, data = TREE / name, (ROOT / name).read_bytes()
        if not target.exists() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


class Changed:
    """A ``with`` statement in which one file of the copy is changed; sources outside ``folders`` do not meet it.

    What is not compiled again keeps the text of before: functions of the operators' and core's headers are FD_HD, so
    that no other source shares them.
    """

    def __init__(self, build: Any, mutant: Mutant, folders: list[Path]) -> None:
        self.file, self.mutant, self.objects = TREE / mutant.path, mutant, []
        for listing in build.build_folder("mutant").glob("*.d"):
            words = [os.path.abspath(word) for word in shlex.split(listing.read_text().replace("\\\n", " "))[1:]]
            inside = any(Path(words[0]).is_relative_to(TREE / folder.relative_to(ROOT)) for folder in folders)
            if str(self.file) in words and inside and listing.with_suffix(".o").exists():
                self.objects.append(listing.with_suffix(".o"))

    def __enter__(self) -> None:
        self.text, self.time = self.file.read_text(), self.file.stat().st_mtime_ns
        self._write(self.mutant.apply(self.text))
        for each in self.objects:
            each.rename(each.with_suffix(".kept"))

    def __exit__(self, *_: Any) -> None:
        self._write(self.text)
        for each in self.objects:
            each.with_suffix(".kept").replace(each)
            os.utime(each)  # so that the link is made again

    def _write(self, text: str) -> None:
        self.file.write_text(text)
        os.utime(self.file, ns=(self.time, self.time))


def run_tests(package: Path, tests: list[str], seconds: float, extra: list[str]) -> bool:
    """Whether tests pass within ``seconds`` of the processor, in a child that need not import torch again."""
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 5))
        with open(SCRATCH / "last.log", "w") as log:
            os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        os.chdir(TREE)
        sys.path[:0] = [str(package)]
        os.environ["PYTHONPATH"] = str(package)  # for tests that start another interpreter
        os.environ["FASTDET_CUDA_LIB"] = "left out"  # so that no conftest builds it
        os.environ["FASTDET_NUM_THREADS"] = "3"  # so that what threads must not share is told
        code = 1
        try:
            import pytest
            from hypothesis import HealthCheck, settings

            from fastdet.testing import ops as harness

            settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
            settings.load_profile("same")  # a slow machine must not look like a failed test
            harness._run_cuda = lambda case, args, how: case.op.run(*harness._presented(case, args, "torch", how))
            harness._check_cuda_gradients = lambda *_: None
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-k", "not cuda", *extra, *tests])
        finally:
            os._exit(int(code))
    end = time.monotonic() + 20 * seconds  # for tests that wait for ever
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def survivors(op: str, options: argparse.Namespace) -> None:
    """Prints what no test of ``op`` notices."""
    import build

    tests, extra, limit = tests_of(op), shlex.split(options.pytest), options.limit
    package, before = build.build_package("mutant", options.jobs), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    if limit is None:
        if not run_tests(package, tests, 3600, extra):
            sys.exit(f"mutate: {', '.join(tests)} must pass before anything is changed; see {SCRATCH / 'last.log'}")
        limit = 10 + 5 * (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    files = core_sources(op) if options.core else sources(op)
    folders = [ROOT / "csrc"] if op in TESTS else [folder_of(op), ROOT / "csrc" / "core"]
    places = [m for path in files for m in mutants_of(path) if options.only in f"{m.path}:{m.line}:"]
    chosen = random.Random(options.seed).sample(places, min(options.count, len(places)))
    print(f"{op}: {len(chosen)} of {len(places)} changes, {limit:.0f} s for each", flush=True)
    noticed = survived = 0  # what does not compile is neither
    by: Counter[str] = Counter()  # the first test that failed
    for mutant in chosen:
        line, place = (
            (TREE / mutant.path).read_text().splitlines()[mutant.line - 1].strip(),
            f"{mutant.line}:{mutant.column + 1}",
        )
        try:
            with Changed(build, mutant, folders):
                passed = run_tests(build.build_package("mutant", options.jobs), tests, limit, extra)
        except build.BuildError:
            continue
        noticed, survived = noticed + (not passed), survived + passed
        if not passed:
            told = re.search(r"^(?:FAILED|ERROR) \S+?::(\w+)", (SCRATCH / "last.log").read_text(), re.M)
            by[told[1] if told else "time or a crash"] += 1
        else:
            print(f"SURVIVED {mutant.path}:{place}: {mutant.old!r} -> {mutant.new!r}   {line}", flush=True)
    share = 100 * noticed / max(noticed + survived, 1)
    names = ", ".join(f"{name} {number}" for name, number in by.most_common())
    print(f"{op}: {noticed} of {noticed + survived} noticed, {share:.0f} %: {names}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Change native code in one place at a time; list what no test notices."
    )
    parser.add_argument("--op", required=True, nargs="+", help="folders of csrc/ops, or evaluation, dataset")
    parser.add_argument("--core", action="store_true", help="change what the operator takes from csrc/core")
    parser.add_argument("--count", type=int, default=20, help="changes of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="compiler processes at once")
    parser.add_argument("--only", default="", help="places whose csrc/FILE:LINE: contains this")
    parser.add_argument("--limit", type=float, help="seconds for the tests; without, they are first run with no change")
    parser.add_argument("--pytest", default="", help="more arguments of pytest")
    options = parser.parse_args()

    copy_tree()
    sys.path.insert(0, str(TREE / "tests" / "native"))
    os.environ["FASTDET_NATIVE_BUILD"] = str(SCRATCH / "native")
    import build  # the copy's, so that it builds the copy
    import hypothesis  # noqa: F401
    import torch  # noqa: F401

    build.VARIANTS["mutant"] = build.Variant(code=("-O1", "-w"))
    for op in options.op:
        survivors(op, options)


if __name__ == "__main__":
    main()
