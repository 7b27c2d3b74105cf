# SPDX-License-Identifier: Apache-2.0
"""House rules for C++ and CUDA, as functions of a path (below csrc/) and a text; each returns what it found broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

# A path of this form may include, beside the standard library, what starts so; the first match counts. {op} is the
# file's own operator.
INCLUDES = (
    (r"core/.*", ("core/",)),
    (r"ops/\w+/\w+_bind\.cpp", ("core/", "ops/{op}/", "bindings/", "pybind11/")),
    (r"ops/\w+/\w+_plugin\.cpp", ("core/", "ops/{op}/", "trt/")),
    (r"ops/\w+/\w+_math\.h", ("core/",)),
    (r"ops/\w+/\w+_cpu\.cpp", ("core/", "ops/{op}/", "immintrin.h")),
    (r"ops/rep_conv/rep_conv_cudnn_cuda\.cu", ("core/", "ops/{op}/", "cudnn_frontend.h")),  # headers that may be absent
    (r"ops/rep_conv/rep_conv_cutlass_cuda\.cu", ("core/", "ops/{op}/", "cutlass/")),
    (r"ops/.*", ("core/", "ops/{op}/")),
    (r"network/.*\.cpp", ("core/", "network/", "immintrin.h")),
    (r"network/.*", ("core/", "network/")),
    (r"evaluation/.*", ("core/", "evaluation/")),
    (r"dataset/.*", ("core/", "dataset/")),
    (r"bindings/.*", ("core/", "ops/", "network/", "evaluation/", "dataset/", "bindings/", "pybind11/")),
    (r"trt/.*", ("core/", "ops/", "trt/")),
    (r"cuda_library\.cu", ("core/", "ops/", "bindings/cuda_table.h", "cuda_runtime_api.h")),
)
# POSIX, beside the C++ standard library
SYSTEM = ("dirent.h", "dlfcn.h", "fcntl.h", "pthread.h", "sched.h", "sys/mman.h", "sys/stat.h", "unistd.h")
COMPILER = r"__CUDACC__|__CUDA_ARCH__|__GNUC__|__clang__|_MSC_VER|__GLIBC__|__x86_64__|__aarch64__"
ASKS_COMPILER = ("core/platform.h", "core/launch.h")  # launch.h: a launch is spelt differently under nvcc
CUDA_TEXT = re.compile(r"\b(__global__|__device__|__shared__|__syncthreads|threadIdx|blockIdx|cudaStream_t)\b")
KERNEL_SUFFIXES = (".cu", ".cuh")

MAX_FUNCTION, MAX_KERNEL = 80, 150


def includes(path: PurePath, text: str) -> list[str]:
    """A file's suffix is its layer; no operator includes another, nothing includes a framework."""
    allowed = next((places for pattern, places in INCLUDES if re.fullmatch(pattern, str(path))), None)
    if allowed is None:
        return [f"{path}: has no place in INCLUDES of tests/house_native.py"]
    op = path.parts[1] if path.parts[0] == "ops" else ""
    allowed = tuple(place.format(op=op) for place in allowed)
    faults = []
    for line, target in _matches(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text):
        standard = target in SYSTEM or not ("/" in target or target.endswith(".h"))
        if not standard and not target.startswith(allowed):
            faults.append(f"{path}:{line}: may not include {target}; allowed: {', '.join(allowed)}")
    return faults


def cuda_only_in_kernels(path: PurePath, text: str) -> list[str]:
    """CUDA's own words stay in .cu and .cuh files and the headers that spell them; a stream is a Stream elsewhere."""
    if path.suffix in KERNEL_SUFFIXES or str(path) in ASKS_COMPILER:
        return []
    return [f"{path}:{line}: {word} outside a kernel file" for line, word in _matches(CUDA_TEXT, strip(text))]


def one_place_asks_the_compiler(path: PurePath, text: str) -> list[str]:
    """Which compiler, which machine: asked in core/platform.h, answered by macros."""
    if str(path) in ASKS_COMPILER:
        return []
    asked = _matches(rf"^\s*#\s*(?:if|ifdef|ifndef|elif)\b.*?\b({COMPILER})\b", text)
    return [f"{path}:{line}: asks for {word}; ask in core/platform.h" for line, word in asked]


def calls(path: PurePath, text: str) -> list[str]:
    """The library does not print, abort or assert; kernels do not allocate or synchronise."""
    words = r"\b(assert|abort|exit|printf|fprintf|puts)\s*\(|\b(std::cout|std::cerr)\b"
    faults = [f"{path}:{line}: {word}" for line, word in _matches(words, strip(text))]
    if path.parts[0] == "ops" and path.suffix in KERNEL_SUFFIXES:
        waits = r"\b(cuda(?:Malloc|Free|DeviceSynchronize|StreamSynchronize|Memcpy|SetDevice|StreamCreate)\w*)"
        faults += [f"{path}:{line}: {word}; launchers only launch" for line, word in _matches(waits, strip(text))]
    return faults


def kernels(path: PurePath, text: str) -> list[str]:
    """Entry points are called *_kernel; global indices are 64 bits wide."""
    code = strip(text)
    named = _matches(r"__global__[^;{(]*(?:\([^()]*\))?[^;{(]*?(\w+)\s*\(", code)
    faults = [f"{path}:{line}: kernel {n} must end in _kernel" for line, n in named if not n.endswith("_kernel")]
    # Constants and extents are 32 bits wide, and so is blockIdx: their product is cut before it is widened.
    narrow = _matches(
        r"\bblockIdx\.[xyz]\s*\*\s*(?:blockDim|gridDim|k[A-Z]|\d)|(?:blockDim\.[xyz]|\bk[A-Z]\w*)\s*\*\s*blockIdx", code
    )
    faults += [f"{path}:{line}: {word}: an index in 32 bits; cast blockIdx to std::int64_t" for line, word in narrow]
    return faults


def functions(path: PurePath, text: str) -> list[str]:
    """No function is longer than 80 lines, no kernel longer than 150."""
    faults = []
    for line, head, lines in bodies(text):
        limit = MAX_KERNEL if "__global__" in head else MAX_FUNCTION
        if lines > limit:
            name = re.search(r"([\w:~]+)\s*\(", head)
            faults.append(f"{path}:{line}: {name and name[1]} has {lines} lines, at most {limit} are allowed")
    return faults


def strip(text: str) -> str:
    """The text with comments and literals blanked, lines kept."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    return re.sub(
        r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])\'', blank, text, flags=re.S
    )


def bodies(text: str) -> Iterator[tuple[int, str, int]]:
    """First line, head and number of lines of every function. Lambdas count as part of the function around them."""
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m[0]), strip(text), flags=re.M)
    code = re.sub(r"(?<=\w)\{([^{};\n]*)\}", r"(\1)", code)  # `a{1}` of an initialiser list opens no body
    depth, head_from, inside = 0, 0, None
    for at, char in enumerate(code):
        if char == "{":
            if inside is None and _opens_function(code[head_from:at]):
                inside = (depth, head_from, at)
            depth += 1
        elif char == "}":
            depth -= 1
            if inside is not None and depth == inside[0]:
                start = inside[1] + len(code[inside[1] : inside[2]]) - len(code[inside[1] : inside[2]].lstrip())
                lines = code.count("\n", start, at) + 1
                yield code.count("\n", 0, start) + 1, code[start : inside[2]], lines
                inside = None
        if char in "{};" and inside is None:
            head_from = at + 1


def _opens_function(head: str) -> bool:
    head = head.strip()
    scope = re.match(r"(?:template\s*<.*>\s*)?(namespace|class|struct|union|enum|extern)\b", head, flags=re.S)
    return "(" in head and not scope and not re.search(r"=\s*$", head)


def _matches(pattern: str | re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    for match in re.finditer(pattern, text, flags=0 if isinstance(pattern, re.Pattern) else re.M):
        yield text.count("\n", 0, match.start()) + 1, next(filter(None, match.groups()), match[0])
