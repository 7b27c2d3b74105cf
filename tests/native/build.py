# SPDX-License-Identifier: Apache-2.0
"""Builds the native code for tests: emulated CUDA code, and the extension with sanitizers.

``python tests/native/build.py [--variant plain|O0|asan|tsan]`` builds the library with every operator's kernels and
prints its path. Loaded through ``FASTDET_CUDA_LIB`` it makes ``fastdet`` run its CUDA kernels on the CPU. Objects are
kept under ``build/native`` (or ``FASTDET_NATIVE_BUILD``) and compiled again when a source, a header they include, or a
flag has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = ROOT / "tests" / "native" / "emulator"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror", "-Wno-unknown-pragmas")  # g++ does not know "#pragma unroll"
CODE = ("-std=c++17", "-g1", "-fPIC", "-pthread", "-ffp-contract=off", "-fvisibility=hidden")
COMMON = (*CODE, f"-ffile-prefix-map={ROOT}/=", *WARNINGS, "-I", str(ROOT / "csrc"))
EMULATED = ("-DFASTDET_EMULATED", "-include", str(EMULATOR / "cuda_on_cpu.h"))


@dataclass(frozen=True)
class Variant:
    """How code under test is compiled. The emulator's own files get ``runtime`` instead: no instrumentation."""

    code: tuple[str, ...]
    runtime: tuple[str, ...] = ("-O2",)
    link: tuple[str, ...] = ()


UNDEFINED = ("-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all")
VARIANTS = {
    "plain": Variant(code=("-O2",)),
    "O0": Variant(code=("-O0", "-fno-inline")),
    "asan": Variant(
        code=("-O1", "-fno-omit-frame-pointer", "-fsanitize=address", *UNDEFINED),
        runtime=("-O2", "-DFASTDET_EMULATOR_ASAN"),
        link=("-fsanitize=address,undefined",),
    ),
    "tsan": Variant(
        code=("-O1", "-fsanitize=thread"),
        runtime=("-O2", "-DFASTDET_EMULATOR_TSAN"),
        link=("-fsanitize=thread",),
    ),
    # The portable way of switching stacks, which no listed machine uses by itself.
    "ucontext": Variant(code=("-O2",), runtime=("-O2", "-DFASTDET_EMULATOR_UCONTEXT")),
}


Unit = tuple[Path, list[str]]  # a source and its flags


class BuildError(RuntimeError):
    """A compiler call failed; the message holds the command and what the compiler said."""


def compiler() -> str:
    """The C++ compiler: ``$CXX``, else ``g++``."""
    return os.environ.get("CXX") or "g++"


@functools.lru_cache
def available(variant: str = "plain") -> str | None:
    """None if this machine can build and run ``variant``, else the reason why not."""
    cxx = shlex.split(compiler())
    if shutil.which(cxx[0]) is None:
        return f"no C++ compiler ({cxx[0]}) was found"
    flags = [*VARIANTS[variant].code, *VARIANTS[variant].link]
    source = "int main() { return 0; }"
    command = [*cxx, *flags, "-x", "c++", "-", "-o", "/dev/null"]
    probe = subprocess.run(command, input=source, text=True, capture_output=True)
    if probe.returncode != 0:
        return f"{compiler()} cannot build the {variant} variant: {probe.stderr.strip()[-200:]}"
    return None


def build_folder(variant: str) -> Path:
    base = os.environ.get("FASTDET_NATIVE_BUILD")
    return (Path(base) if base else ROOT / "build" / "native") / variant


def kernel_sources() -> list[Path]:
    """The CUDA library's sources: its table and every operator's launchers."""
    return [ROOT / "csrc" / "cuda_library.cu", *sorted(ROOT.glob("csrc/ops/*/*_cuda.cu"))]


def build_library(variant: str = "plain", jobs: int | None = None) -> Path:
    """Builds the emulated CUDA library of all operators and returns its path."""
    units = _runtime_units(variant) + [(path, _kernel_flags(variant)) for path in kernel_sources()]
    return _link(variant, "libfastdet_emulated.so", units, ["-shared", "-Wl,-z,defs"], jobs)


def build_program(name: str, sources: Sequence[Path], variant: str = "plain", *, shared: bool = False) -> Path:
    """Builds a program, or a shared library, of emulated ``.cu`` files and returns its path."""
    units = _runtime_units(variant) + [(path, _kernel_flags(variant)) for path in sources]
    return _link(variant, name, units, ["-shared"] if shared else [], None)


def build_package(variant: str, jobs: int | None = None) -> Path:
    """Builds the extension in ``variant`` and returns a folder for ``PYTHONPATH`` with the package around it."""
    import pybind11

    includes = ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include")]
    flags = [*COMMON, *VARIANTS[variant].code, *includes]
    sources = [path for path in sorted(ROOT.glob("csrc/**/*.cpp")) if not path.stem.endswith("_plugin")]
    name = "_core" + sysconfig.get_config_var("EXT_SUFFIX")
    # Bound at once: instrumented resolvers of target_clones call the sanitizer, so they must be relocated last.
    # For that they have to be local as well, which the map makes them.
    linking = ["-shared", "-Wl,-z,now", f"-Wl,--version-script={ROOT}/csrc/bindings/exports.map", "-ldl"]
    core = _link(variant, name, [(path, flags) for path in sources], linking, jobs)
    package = build_folder(variant) / "python" / "fastdet"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for item in (ROOT / "python" / "fastdet").iterdir():
        if not item.name.startswith("_core.") or item.suffix == ".pyi":
            (package / item.name).symlink_to(item)
    (package / name).symlink_to(core)
    return package.parent


def try_compile(source: Path) -> str:
    """What the compiler says about one emulated file; empty if it is accepted. Nothing is kept."""
    command = [*shlex.split(compiler()), *_kernel_flags("plain"), "-fsyntax-only", "-x", "c++", str(source)]
    return subprocess.run(command, text=True, capture_output=True).stderr


def _kernel_flags(variant: str) -> list[str]:
    return [*COMMON, *EMULATED, *VARIANTS[variant].code, "-I", str(EMULATOR / "include")]


def _runtime_units(variant: str) -> list[Unit]:
    flags = [*COMMON, *EMULATED, *VARIANTS[variant].runtime]
    return [(path, flags) for path in sorted(EMULATOR.glob("*.cpp"))]


def _link(variant: str, name: str, units: list[Unit], flags: list[str], jobs: int | None) -> Path:
    folder = build_folder(variant)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    with _locked(folder), ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(lambda unit: _compile(folder, *unit), units))
        command = [*shlex.split(compiler()), *flags, *map(str, objects), "-pthread", *VARIANTS[variant].link]
        command += ["-o", str(target)]
        record = folder / f"{name}.link"  # how the present target was linked
        made_so = target.exists() and record.exists() and record.read_text() == shlex.join(command)
        if not made_so or any(obj.stat().st_mtime_ns > target.stat().st_mtime_ns for obj in objects):
            record.unlink(missing_ok=True)
            _run(command)
            record.write_text(shlex.join(command))
    return target


def _compile(folder: Path, source: Path, flags: list[str]) -> Path:
    command = [*shlex.split(compiler()), *flags, "-MMD", "-x", "c++", "-c", str(source)]
    key = hashlib.sha256("\0".join(command).encode()).hexdigest()[:12]
    target = folder / f"{source.stem}-{key}.o"
    if not _fresh(target):
        _run([*command, "-o", str(target)])
    return target


def _fresh(target: Path) -> bool:
    listing = target.with_suffix(".d")
    if not target.exists() or not listing.exists():
        return False
    dependencies = shlex.split(listing.read_text().replace("\\\n", " "))[1:]
    built = target.stat().st_mtime_ns
    return all(Path(path).exists() and Path(path).stat().st_mtime_ns <= built for path in dependencies)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr[-6000:]}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the emulated CUDA library and print its path.")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="plain")
    parser.add_argument("--jobs", type=int, default=None, help="compiler processes at once (default: the CPUs at hand)")
    options = parser.parse_args()
    print(build_library(options.variant, options.jobs))


if __name__ == "__main__":
    main()
