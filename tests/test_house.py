# SPDX-License-Identifier: Apache-2.0
"""House rules: layers, budgets, headers, documentation, completeness; each is shown to fail on text that breaks it."""

from __future__ import annotations

import inspect
import re
import subprocess
from pathlib import Path, PurePath
from statistics import median

import pytest

import house_native as native
import house_python as python
from fastdet import ops

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "fastdet"
CSRC = ROOT / "csrc"
NATIVE_SUFFIXES = (".h", ".cpp", ".cu", ".cuh")
SOURCE_SUFFIXES = (".py", ".pyi", *NATIVE_SUFFIXES)

# Files that may break a budget, each with its reason. Empty is best.
LONG_FILES: dict[str, str] = {}
MAX_FILE, MAX_MEDIAN, MAX_CMAKE = 600, 150, 200

PYTHON_RULES = (
    python.layers,
    python.imports,
    python.calls,
    python.functions,
    python.documented,
    python.names,
    python.standard_library_only,
)
NATIVE_RULES = (
    native.includes,
    native.cuda_only_in_kernels,
    native.one_place_asks_the_compiler,
    native.calls,
    native.kernels,
    native.functions,
)


def tracked(*folders: str) -> list[Path]:
    """Files of the project below ``folders``: what git knows, or without git all that is not a build product."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *folders], cwd=ROOT, text=True, capture_output=True
    )
    if done.returncode == 0:
        return [ROOT / name for name in sorted(done.stdout.splitlines()) if (ROOT / name).is_file()]
    found = [path for folder in folders or (".",) for path in sorted((ROOT / folder).rglob("*"))]
    return [path for path in found if path.is_file() and not {"__pycache__", "build", ".git"} & set(path.parts)]


def sources(*folders: str, suffixes: tuple[str, ...] = SOURCE_SUFFIXES) -> list[Path]:
    return [path for path in tracked(*folders) if path.suffix in suffixes]


# ---- rules of one file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_python(rule):
    files = sources("python", suffixes=(".py",))
    faults = [fault for path in files for fault in rule(PurePath(path.relative_to(PACKAGE)), path.read_text())]
    assert not faults, "\n".join([rule.__doc__, *faults])


@pytest.mark.parametrize("rule", NATIVE_RULES, ids=lambda rule: rule.__name__)
def test_native(rule):
    files = sources("csrc", suffixes=NATIVE_SUFFIXES)
    faults = [fault for path in files for fault in rule(PurePath(path.relative_to(CSRC)), path.read_text())]
    assert not faults, "\n".join([rule.__doc__, *faults])


def test_functions_outside_the_package():
    faults = [
        f
        for path in sources("tests", "benchmarks", suffixes=(".py",))
        for f in python.functions(path, path.read_text())
    ]
    faults += [
        f for path in sources("tests", suffixes=NATIVE_SUFFIXES) for f in native.functions(path, path.read_text())
    ]
    assert not faults, "\n".join(faults)


BROKEN = [
    (python.layers, "ops/nms.py", "from fastdet.boxes import Letterbox", "lies above"),
    (python.layers, "boxes.py", "def f():\n    from fastdet import models", "lies above"),
    (python.layers, "files.py", "from fastdet import Detector", "lies above"),
    (python.layers, "ops/_torch.py", "from ..models import build", "lies above"),
    (python.layers, "models/other/head.py", "from fastdet.models.damo_yolo import head", "family other"),
    (python.layers, "models/other.py", "from fastdet.models import damo_yolo", "family other"),
    (python.layers, "detector.py", "def f():\n    from fastdet import integrations", "nothing knows the adapters"),
    (python.layers, "novel.py", "", "no place"),
    (python.imports, "ops/nms.py", "import torch", "inside the function"),
    (python.imports, "detector.py", "from torch import nn", "inside the function"),
    (python.imports, "boxes.py", "import cv2", "OpenCV"),
    (python.imports, "files.py", "def f():\n    import pickle", "never code"),
    (python.imports, "files.py", "import urllib.request", "no connection"),
    (python.imports, "train/loop.py", "from subprocess import run", "no process"),
    (python.calls, "ops/nms.py", "assert True", "assert"),
    (python.calls, "ops/nms.py", "print(1)", "prints"),
    (python.calls, "models/spec.py", "eval('1')", "calls eval"),
    (python.calls, "models/spec.py", "import sys\nsys.exit(1)", "calls sys.exit"),
    (python.calls, "models/spec.py", "numpy.load(path, allow_pickle=True)", "pickles"),
    (python.calls, "models/spec.py", "torch.load(path)", "torch.load"),
    (python.calls, "ops/nms.py", "np.einsum('bd,btd->bt', a, b)", "np.einsum"),
    (python.functions, "a.py", "def f():\n" + "    x = 1\n" * 80, "f has 81 lines"),
    (python.documented, "a.py", "x = 1", "no docstring"),
    (python.documented, "a.py", '"""A."""\nimport os\n', "__future__"),
    (python.documented, "a.py", "def f() -> None: ...", "f has no docstring"),
    (python.documented, "a.py", 'def f(x) -> int:\n    """F."""', "without a type"),
    (python.names, "utils.py", "", "says nothing"),
    (python.names, "data/_helpers.py", "", "says nothing"),
    (python.standard_library_only, "files.py", "import tqdm", "imports tqdm"),
    (native.includes, "core/box.h", '#include "ops/nms/nms.h"', "may not include"),
    (native.includes, "ops/nms/nms.h", '#include "ops/letterbox/letterbox.h"', "may not include"),
    (native.includes, "ops/nms/nms_math.h", '#include "ops/nms/nms.h"', "may not include"),
    (native.includes, "ops/nms/nms_cpu.cpp", "#include <pybind11/pybind11.h>", "may not include"),
    (native.includes, "ops/nms/nms_cuda.cu", "#include <cuda_runtime.h>", "may not include"),
    (native.includes, "ops/nms/nms_kernels.cuh", "#include <cub/cub.cuh>", "may not include"),
    (native.includes, "bindings/arrays.cpp", "#include <torch/extension.h>", "may not include"),
    (native.includes, "elsewhere/a.cpp", "", "no place"),
    (native.cuda_only_in_kernels, "ops/nms/nms.h", "void f(cudaStream_t stream);", "outside a kernel file"),
    (native.one_place_asks_the_compiler, "core/box.h", "#ifdef __CUDACC__", "ask in core/platform.h"),
    (native.calls, "core/box.h", "void f() { assert(true); }", "assert"),
    (native.calls, "ops/nms/nms_cuda.cu", "void f() { cudaDeviceSynchronize(); }", "only launch"),
    (native.kernels, "a.cuh", "__global__ FD_LAUNCH_BOUNDS(256) void scale(float* x) {}", "_kernel"),
    (native.kernels, "a.cuh", "const int i = blockIdx.x * blockDim.x + threadIdx.x;", "32 bits"),
    (native.kernels, "a.cuh", "std::int64_t i = kThreads * blockIdx.x;", "32 bits"),
    (native.functions, "a.cpp", "void f() {\n" + "  g();\n" * 80 + "}\n", "f has 82 lines"),
    (native.functions, "a.cuh", "__global__ void k(int n) {\n" + "  g();\n" * 150 + "}\n", "k has 152 lines"),
    (native.functions, "a.h", "struct A {\n  A() : a{1} {\n" + "    g();\n" * 80 + "  }\n};", "A has 82 lines"),
]


@pytest.mark.parametrize(("rule", "path", "text", "fault"), BROKEN, ids=[f"{r.__name__}-{p}" for r, p, _, _ in BROKEN])
def test_rule_finds_what_breaks_it(rule, path, text, fault):
    assert any(fault in found for found in rule(PurePath(path), text)), rule(PurePath(path), text)


SOUND = [
    (
        python.layers,
        "models/damo_yolo/head.py",
        "from fastdet.models.damo_yolo import keys\nfrom fastdet.models import heads",
    ),
    (python.imports, "boxes.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    (python.imports, "ops/nms.py", "def f():\n    import torch"),
    (python.functions, "a.py", 'def f():\n    """' + "Long.\n" * 90 + '"""\n' + "    x = 1\n" * 70),
    (native.calls, "core/check.h", '// printf(1)\nstatic_assert(sizeof(int) == 4);\nauto s = "abort()";'),
    (native.kernels, "a.cuh", "std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads;"),
    (native.functions, "a.cpp", "namespace a {\n" + "void f() { g(); }\n" * 90 + "}\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), SOUND, ids=[f"{r.__name__}-{p}" for r, p, _ in SOUND])
def test_rule_leaves_sound_text_alone(rule, path, text):
    assert rule(PurePath(path), text) == []


# ---- all files -----------------------------------------------------------------------------------------------------


def header_missing(text: str) -> bool:
    return "SPDX-License-Identifier: Apache-2.0" not in "\n".join(text.splitlines()[:2])


def test_licence_headers():
    named = [ROOT / "CMakeLists.txt", ROOT / "Makefile", ROOT / ".ci" / "run"]
    faults = [str(path.relative_to(ROOT)) for path in [*sources(), *named] if header_missing(path.read_text())]
    assert not faults, f"without an SPDX header: {faults}"
    assert header_missing("import os\n")


# A letter in brackets keeps these patterns from finding themselves.
UNFINISHED = re.compile("T[O]DO|FIX[M]E|X[X]X|HAC[K]")
MACHINE = re.compile("/wor[k]/|/hom[e]/|/roo[t]/|/op[t]/|index-ur[l]|find-link[s]")


@pytest.mark.parametrize(("pattern", "broken"), [(UNFINISHED, "# {}: later"), (MACHINE, "open('{}me/a')")])
def test_forbidden_text(pattern, broken):
    texts = [
        p
        for p in tracked()
        if p.suffix in (*SOURCE_SUFFIXES, ".md", ".toml", ".txt", ".yaml", ".json", "") and p.name != "LICENSE"
    ]
    faults = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path in texts
        for text in [path.read_text(errors="replace")]
        for match in pattern.finditer(text)
    ]
    assert not faults, "\n".join(faults)
    assert pattern.search(broken.format(re.sub(r"[\[\]]", "", pattern.pattern.split("|")[0])))


def test_file_lengths():
    files = {
        str(p.relative_to(ROOT)): len(p.read_text().splitlines())
        for p in sources("csrc", "python", "tests", "benchmarks")
    }
    long = {name: lines for name, lines in files.items() if lines > MAX_FILE and name not in LONG_FILES}
    assert not long, f"above {MAX_FILE} lines: {long}"
    assert set(LONG_FILES) <= set(files), "LONG_FILES names files that are gone"
    product = [lines for name, lines in files.items() if name.startswith(("csrc", "python"))]
    assert median(product) <= MAX_MEDIAN
    assert len((ROOT / "CMakeLists.txt").read_text().splitlines()) <= MAX_CMAKE


TOP_LEVEL = (
    "pyproject.toml CMakeLists.txt csrc python tests benchmarks docs third_party Makefile README.md CHANGELOG.md "
    "CONTRIBUTING.md LICENSE NOTICE SECURITY.md .ci .pre-commit-config.yaml .clang-format .gitignore"
).split()


def test_top_level():
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} == set(TOP_LEVEL)


# ---- operators -----------------------------------------------------------------------------------------------------

OP_FILES = sorted({op.reference.__module__.rpartition(".")[2] for op in ops.OPS})


# Arithmetic on parameters, done once on the host: no kernel, no folder in csrc.
WITHOUT_KERNELS = {"fold"}


def test_the_lists_of_operators_agree():
    cmake = re.search(r"set\(FASTDET_OPS\s+([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())[1].split()
    folders = sorted(path.name for path in (CSRC / "ops").iterdir() if path.is_dir())
    modules = sorted({path.stem for path in (PACKAGE / "ops").glob("[a-z]*.py")} - WITHOUT_KERNELS)
    assert sorted(cmake) == folders == modules == OP_FILES


@pytest.mark.parametrize("folder", OP_FILES)
def test_operator_has_all_its_files(folder):
    base = CSRC / "ops" / folder
    for name in (f"{folder}.h", f"{folder}_math.h", f"{folder}_kernels.cuh", f"{folder}_cuda.cu", f"{folder}_bind.cpp"):
        assert (base / name).is_file(), f"csrc/ops/{folder}/{name} is missing"
    assert list(base.glob("*_cpu.cpp")), f"csrc/ops/{folder} has no CPU path (*_cpu.cpp)"


@pytest.mark.parametrize("op", ops.OPS, ids=lambda op: op.name)
def test_operator_is_complete(op):
    folder = op.reference.__module__.rpartition(".")[2]
    # Forms that write into the caller's array, and gradients.
    name = op.name.removesuffix("_out").removesuffix("_backward")
    assert callable(getattr(ops, name, None)) and name in ops.__all__, f"fastdet.ops.{name} is missing"
    assert callable(getattr(ops, f"{name}_reference", None)), f"fastdet.ops.{name}_reference is missing"
    assert callable(op.fake) and callable(op.native)
    for path in (f"tests/ops/test_{folder}.py", f"benchmarks/ops/bench_{folder}.py", f"docs/ops/{folder}.md"):
        text = (ROOT / path).read_text() if (ROOT / path).is_file() else ""
        assert re.search(rf"\b{name}\b|\b{name.upper()}\b", text), f"{path} does not mention {name}"


PUBLIC = [name for name in ops.__all__ if inspect.isfunction(getattr(ops, name)) and not name.endswith("_reference")]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_tell_their_arguments(name):
    doc = inspect.getdoc(getattr(ops, name)) or ""
    # A reference to a function with the same arguments tells them too.
    doc += "".join(
        inspect.getdoc(getattr(ops, other))
        for other in PUBLIC
        if re.search(rf"(as for|arguments.* of) ``{other}``", doc)
    )
    missing = [p for p in inspect.signature(getattr(ops, name)).parameters if not re.search(rf"\b{p}\b", doc)]
    assert not missing, f"the docstring of fastdet.ops.{name} says nothing of {missing}"


def test_types_of_the_extension_are_complete():
    from fastdet import _core

    stub = (PACKAGE / "_core.pyi").read_text()
    declared = set(re.findall(r"^(?:def|class) (\w+)", stub, flags=re.M))
    assert declared == {name for name in dir(_core) if not name.startswith("_")}
    methods = set(re.findall(r"^    def (\w+)", stub, flags=re.M))
    assert methods <= {name for each in vars(_core).values() if isinstance(each, type) for name in dir(each)}
