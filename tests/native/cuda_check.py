# SPDX-License-Identifier: Apache-2.0
"""Compiles every CUDA kernel with nvcc for every supported architecture; no warning, no unexplained spill.

``python tests/native/cuda_check.py [--json FILE] [--arch 90 ...] [--jobs N]`` prints registers, shared memory and
spills per kernel as a table. Exits with 1 on a warning, an error, or a spill or stack frame that ``EXPLAINED`` does not
name; with 0 and a plain line where there is no nvcc, unless ``--require`` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import build

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
FLAGS = ["-std=c++17", "--fmad=false", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v"]
# No -Wall: g++ would warn about nvcc's own rewriting. The emulated build compiles the same files with it.
HOST_FLAGS = "-ffp-contract=off,-fvisibility=hidden"
# Kernels that may spill or keep a stack frame, and why that is right: {"kernel": "reason"}.
EXPLAINED: dict[str, str] = {}


# Files that use a library's headers where they are found: definition, then header, variable that names its folder, and
# its place where pip installed the wheel. Their kernels are compiled for fewer architectures, which the
# others run too; in the case of cuDNN there are none, only code of the host.
LIBRARIES = {
    "rep_conv_cudnn_cuda.cu": (
        "FASTDET_WITH_CUDNN",
        (
            ("cudnn_frontend.h", "FASTDET_CUDNN_FRONTEND_INCLUDE", "include"),
            ("cudnn.h", "FASTDET_CUDNN_INCLUDE", "nvidia/cudnn/include"),
        ),
        (90,),
    ),
    "rep_conv_cutlass_cuda.cu": (
        "FASTDET_WITH_CUTLASS",
        (("cutlass/cutlass.h", "FASTDET_CUTLASS_INCLUDE", "cutlass_library/source/include"),),
        (80, 90),
    ),
}


@dataclass(frozen=True)
class KernelUse:
    """What ptxas says about one kernel on one architecture; memory in bytes."""

    source: str
    kernel: str
    arch: int
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


def find_nvcc() -> str | None:
    """``$CUDACXX``, nvcc on the PATH, or the toolkit's usual place; None if there is none."""
    candidates = (os.environ.get("CUDACXX"), "nvcc", "/usr/local/cuda/bin/nvcc")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def library_flags(source: Path, packages: Path) -> tuple[list[str], str]:
    """Compiler flags of a file in ``LIBRARIES`` and "", or no flags and what is missing."""
    if source.name not in LIBRARIES:
        return [], ""
    definition, headers, _ = LIBRARIES[source.name]
    flags = [f"-D{definition}"]
    for header, variable, place in headers:
        folder = Path(os.environ.get(variable) or packages / place)
        if not (folder / header).is_file():
            return [], f"{header} was not found ({variable}, or pip's {place})"
        flags += ["-isystem", str(folder)]
    return flags, ""


def parse_ptxas(text: str, source: str, arch: int) -> list[KernelUse]:
    """Reads the output of ``ptxas -v``. Kernel names are still mangled."""
    uses = []
    for entry in re.split(r"(?=Compiling entry function)", text)[1:]:
        name = re.match(r"Compiling entry function '(\w+)'", entry)
        registers = re.search(r"Used (\d+) registers", entry)
        if name is None or registers is None:
            raise ValueError(f"cuda_check: cannot read what ptxas says about {source}: {entry[:200]!r}")
        memory = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", entry)
        shared = re.search(r"(\d+) bytes smem", entry)
        stack, stores, loads = (int(group) for group in memory.groups()) if memory else (0, 0, 0)
        shared_bytes = int(shared.group(1)) if shared else 0
        uses.append(KernelUse(source, name.group(1), arch, int(registers.group(1)), shared_bytes, stack, stores, loads))
    return uses


def compile_one(nvcc: str, source: Path, arch: int, flags: Iterable[str] = ()) -> tuple[list[KernelUse], str]:
    """Compiles one file for one architecture. Returns the use of its kernels, and what went wrong ("" if nothing)."""
    with tempfile.TemporaryDirectory() as folder:
        target = ["-gencode", f"arch=compute_{arch},code=sm_{arch}", "-c", str(source), "-o", f"{folder}/kernels.o"]
        command = [nvcc, *FLAGS, "-Xcompiler", HOST_FLAGS, "-I", str(build.ROOT / "csrc"), *flags, *target]
        done = subprocess.run(command, text=True, capture_output=True)
    label = str(source.relative_to(build.ROOT))
    said = [
        line for line in done.stderr.splitlines() if not re.match(r"ptxas info|\s+\d+ bytes stack frame|\s*$", line)
    ]
    if done.returncode != 0 or said:
        return [], "\n".join([f"{label} for sm_{arch}: nvcc exited with {done.returncode}", *said[:40]])
    return parse_ptxas(done.stderr, label, arch), ""


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Mangled name -> kernel with its template arguments, without parameters and namespaces of ours."""
    names = sorted(set(names))
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return {name: name for name in names}
    lines = subprocess.run([tool, *names], text=True, capture_output=True, check=True).stdout.splitlines()
    short = [re.sub(r"fastdet::|\(anonymous namespace\)::", "", line).removeprefix("void ") for line in lines]
    plain = [re.sub(r"\(.*", "", line) for line in short]
    # Kernels of CUTLASS have names of some 1600 letters, all beginning alike.
    return {
        name: line if len(line) <= 120 else f"{line[:60]}... ({i})" for i, (name, line) in enumerate(zip(names, plain))
    }


def unexplained(uses: Iterable[KernelUse], names: dict[str, str]) -> list[str]:
    """Lines about kernels that spill or keep a stack frame without a reason in ``EXPLAINED``."""
    lines = []
    for use in uses:
        kernel = names[use.kernel]
        spills = use.spill_stores or use.spill_loads or use.stack
        if spills and not any(kernel == known or kernel.startswith(f"{known}<") for known in EXPLAINED):
            lines.append(
                f"{use.source}: {kernel} on sm_{use.arch}: {use.stack} bytes of stack, "
                f"{use.spill_stores} stored and {use.spill_loads} loaded by spills"
            )
    return lines


def table(uses: list[KernelUse], names: dict[str, str]) -> str:
    """One row per kernel: registers on each architecture, shared memory, the most that is spilled."""
    archs = sorted({use.arch for use in uses})
    rows: dict[tuple[str, str], dict[int, KernelUse]] = defaultdict(dict)
    for use in uses:
        rows[(use.source, names[use.kernel])][use.arch] = use
    width = max((len(kernel) for _, kernel in rows), default=6)
    lines = [f"{'kernel':{width}}" + "".join(f"{f'sm_{arch}':>8}" for arch in archs) + f"{'shared':>8}{'spilled':>8}"]
    for (_, kernel), by_arch in sorted(rows.items()):
        registers = "".join(f"{by_arch[arch].registers if arch in by_arch else '-':>8}" for arch in archs)
        shared = max(use.shared for use in by_arch.values())
        spilled = max(use.spill_stores + use.spill_loads for use in by_arch.values())
        lines.append(f"{kernel:{width}}{registers}{shared:>8}{spilled:>8}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile every CUDA kernel for every architecture.")
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compiler processes at once")
    parser.add_argument("--require", action="store_true", help="fail where there is no nvcc")
    options = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("cuda-check: no nvcc was found; the CUDA kernels were not compiled")
        return 1 if options.require else 0
    work = []
    for source in sorted(build.ROOT.glob("csrc/ops/*/*_cuda.cu")):
        flags, missing = library_flags(source, Path(sysconfig.get_path("purelib")))
        if missing:
            print(f"cuda-check: {source.name} was compiled without its library: {missing}")
        known = LIBRARIES[source.name][2] if flags else options.arch
        work += [(source, arch, flags) for arch in options.arch if arch in known]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda item: compile_one(nvcc, *item), work))
    uses = [use for found, _ in results for use in found]
    names = demangled(use.kernel for use in uses)
    problems = [text for _, text in results if text] + unexplained(uses, names)
    print(table(uses, names))
    if options.json is not None:
        rows = [{**asdict(use), "kernel": names[use.kernel]} for use in uses]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    for problem in problems:
        print(problem, file=sys.stderr)
    kernels = len({(use.source, use.kernel) for use in uses})
    print(f"cuda-check: {kernels} kernels, {len(options.arch)} architectures, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
