# SPDX-License-Identifier: Apache-2.0
"""cuda_check reads ptxas correctly, and finds warnings and spills; with nvcc, on real kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import build
import cuda_check

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7fastdet10one_kernelIfEEvPT_' for 'sm_90'
ptxas info    : Function properties for _ZN7fastdet10one_kernelIfEEvPT_
    48 bytes stack frame, 44 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 1040 bytes smem
ptxas info    : Compiling entry function '_Z10two_kernelPf' for 'sm_90'
ptxas info    : Function properties for _Z10two_kernelPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
"""


def test_reads_registers_memory_and_spills():
    one, two = cuda_check.parse_ptxas(PTXAS, "ops/x_cuda.cu", 90)
    assert (one.registers, one.shared, one.stack, one.spill_stores, one.spill_loads) == (255, 1040, 48, 44, 40)
    assert (two.registers, two.shared, two.stack, two.spill_stores, two.spill_loads) == (8, 0, 0, 0, 0)
    names = cuda_check.demangled([one.kernel, two.kernel])
    assert names[one.kernel] in ("one_kernel<float>", one.kernel)
    table = cuda_check.table([one, two], names)
    assert [line.split()[1:] for line in table.splitlines()[1:]] == [["255", "1040", "84"], ["8", "0", "0"]]


def test_spills_need_a_reason(monkeypatch):
    uses = cuda_check.parse_ptxas(PTXAS, "ops/x_cuda.cu", 90)
    names = {uses[0].kernel: "one_kernel<float>", uses[1].kernel: "two_kernel"}
    (line,) = cuda_check.unexplained(uses, names)
    assert line == "ops/x_cuda.cu: one_kernel<float> on sm_90: 48 bytes of stack, 44 stored and 40 loaded by spills"
    monkeypatch.setitem(cuda_check.EXPLAINED, "one_kernel", "a reason")
    assert cuda_check.unexplained(uses, names) == []


def test_libraries_are_found_where_they_are(tmp_path, monkeypatch):
    source = Path("rep_conv_cutlass_cuda.cu")
    for _, headers, _ in cuda_check.LIBRARIES.values():
        for _, variable, _ in headers:
            monkeypatch.delenv(variable, raising=False)
    assert cuda_check.library_flags(Path("nms_cuda.cu"), tmp_path) == ([], "")
    flags, missing = cuda_check.library_flags(source, tmp_path)
    assert flags == [] and missing.startswith("cutlass/cutlass.h was not found")
    folder = tmp_path / "cutlass_library" / "source" / "include"
    (folder / "cutlass").mkdir(parents=True)
    (folder / "cutlass" / "cutlass.h").touch()
    found = (["-DFASTDET_WITH_CUTLASS", "-isystem", str(folder)], "")
    assert cuda_check.library_flags(source, tmp_path) == found
    monkeypatch.setenv("FASTDET_CUTLASS_INCLUDE", str(folder))
    assert cuda_check.library_flags(source, tmp_path / "elsewhere") == found
    assert "cudnn_frontend.h was not found" in cuda_check.library_flags(Path("rep_conv_cudnn_cuda.cu"), tmp_path)[1]


def test_unreadable_output_is_an_error():
    with pytest.raises(ValueError, match="cannot read what ptxas says"):
        cuda_check.parse_ptxas("Compiling entry function '_Z1fv' for 'sm_90'\nsomething else", "x.cu", 90)


@pytest.mark.skipif(cuda_check.find_nvcc() is None, reason="needs nvcc")
@pytest.mark.parametrize(("body", "problem"), [("out[0] = 1;", ""), ("int never_used; out[0] = 1;", "never_used")])
def test_warnings_are_problems(tmp_path, monkeypatch, body, problem):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    source = tmp_path / "csrc" / "kernel.cu"
    source.parent.mkdir()
    source.write_text(f"__global__ void one_kernel(int* out) {{ {body} }}\n")
    uses, said = cuda_check.compile_one(str(cuda_check.find_nvcc()), source, 80)
    assert (problem in said) if problem else (said == "" and [use.arch for use in uses] == [80])
