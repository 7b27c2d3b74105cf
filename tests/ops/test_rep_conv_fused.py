# SPDX-License-Identifier: Apache-2.0
"""Fused convolution by cuDNN and CUTLASS, as far as no device is needed: keys, refusals, loading, choice."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import build
import pytest
import torch

from fastdet import _core, ops
from fastdet.ops import _torch_rep_conv
from fastdet.ops.rep_conv import Convolution
from fastdet.testing.ops import cuda_kind

LAST = torch.channels_last


def call(batch=2, inputs=16, outputs=8, side=6, kernel=3, **change):
    """Arguments that either library takes."""
    given = {
        "x": torch.zeros(batch, inputs, side, side).half().contiguous(memory_format=LAST),
        "weight": torch.zeros(outputs, inputs, kernel, kernel).half().contiguous(memory_format=LAST),
        "bias": torch.zeros(outputs).half(),
        "stride": [1, 1],
        "padding": [1, 1],
        "groups": 1,
        "activation": "silu",
        "residual": None,
        "add_first": False,
    }
    return tuple({**given, **change}.values())


RESIDUAL = torch.zeros(2, 8, 6, 6).half().contiguous(memory_format=LAST)
DIFFERENT = [
    {"batch": 3},
    {"inputs": 24},
    {"outputs": 24},
    {"side": 7},
    {"stride": [2, 1]},
    {"stride": [1, 2]},
    {"padding": [2, 1]},
    {"padding": [1, 2]},
    {"kernel": 1},
    {"activation": "relu"},
    {"bias": None},
    {"residual": RESIDUAL},
    {"residual": RESIDUAL, "add_first": True},
    {"groups": 2},
    {"x": torch.zeros(2, 16, 6, 6).half()},
    {"x": torch.zeros(2, 16, 6, 6).bfloat16().contiguous(memory_format=LAST), "bias": None},
    {"weight": torch.zeros(8, 16, 3, 3).half()},
]


def test_plans_are_told_apart_by_all_that_matters():
    keys = [_core.rep_conv_plan_key(*call(**change)) for change in [{}, *DIFFERENT]]
    assert len({tuple(key) for key in keys}) == len(keys)


def test_plans_are_shared_by_what_does_not_matter():
    values = call(x=torch.ones(2, 16, 6, 6).half().contiguous(memory_format=LAST), bias=torch.ones(8).half())
    assert _core.rep_conv_plan_key(*values) == _core.rep_conv_plan_key(*call())
    # Without a residual there is nothing to add first.
    assert _core.rep_conv_plan_key(*call(add_first=True)) == _core.rep_conv_plan_key(*call())


REFUSED = [
    ({"x": torch.zeros(2, 16, 6, 6).half()}, "x, weight and residual must be channels_last"),
    ({"weight": torch.zeros(8, 16, 3, 3).half()}, "x, weight and residual must be channels_last"),
    ({"residual": torch.zeros(2, 8, 6, 6).half()}, "x, weight and residual must be channels_last"),
    ({"inputs": 12}, r"channels must be multiples of 8, got weight \(8, 12, 3, 3\)"),
    ({"outputs": 12}, "channels must be multiples of 8"),
    ({"batch": 0}, "there is nothing to convolve"),
    ({"bias": torch.zeros(9).half()[1:]}, "arrays must begin at multiples of 16 bytes"),
    ({"bias": torch.zeros(16).half()[::2]}, "bias contiguous"),
    ({"x": torch.zeros(2, 16, 6, 6), "weight": torch.zeros(8, 16, 3, 3), "bias": None}, "not float32"),
]


@pytest.mark.parametrize("library", _torch_rep_conv.FUSED)
@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_refused_before_any_library_is_asked(library, change, message):
    with pytest.raises(RuntimeError, match=f"rep_conv2d: backend '{library}' was asked for, but .*{message}"):
        _core.rep_conv2d_fused(library, *call(**change), False)
    assert _core.rep_conv2d_fused(library, *call(**change), True) != ""


def test_cutlass_has_no_groups():
    grouped = call(groups=2, weight=torch.zeros(8, 8, 3, 3).half().contiguous(memory_format=LAST))
    assert _core.rep_conv2d_fused("cutlass", *grouped, True) == "groups must be 1, got 2"
    assert _core.rep_conv2d_fused("cutlass", *call(), True) == "it runs on CUDA only"


@pytest.mark.skipif(cuda_kind() != "emulated", reason="the emulated library has neither")
def test_a_build_without_the_libraries_says_so():
    assert _core.rep_conv_fused_missing("cudnn") == "this fastdet was built without the headers of the cuDNN frontend"
    assert _core.rep_conv_fused_missing("cutlass") == "this fastdet was built without the headers of CUTLASS"


SCRIPT = """
import sys, torch
sys.path[:0] = {path!r}
from test_rep_conv_fused import call
from fastdet import _core
print(_core.rep_conv2d_fused("cudnn", *call(), True))
"""


def told(library):
    """What a fresh process says about a cuDNN at this path."""
    environment = {**os.environ, "FASTDET_CUDNN_LIB": str(library)}
    script = SCRIPT.format(path=[*sys.path])
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_cudnn_that_cannot_be_opened(tmp_path):
    message = told(tmp_path / "absent.so")
    assert message.startswith("cuDNN cannot be opened (") and "absent.so" in message


@pytest.mark.skipif(build.available() is not None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("version", "message"), [(8907, "must be cuDNN 9, got version 8907"), (92800, "it runs on CUDA only")]
)
def test_cudnn_of_another_version(tmp_path, version, message):
    source, library = tmp_path / "fake.cpp", tmp_path / "libcudnn.so.9"
    source.write_text(f'extern "C" unsigned long cudnnGetVersion() {{ return {version}; }}')
    subprocess.run([*build.compiler().split(), "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    assert told(library).endswith(message)


class OnDevice:
    """What the choice looks at, as if on a CUDA device."""

    def __init__(self, tensor):
        self.tensor, self.device = tensor, SimpleNamespace(type="cuda")

    def __getattr__(self, name):
        return getattr(self.tensor, name)


def chosen(monkeypatch, missing, refused, method="auto", x=None):
    """The choice on a machine that lacks ``missing`` and whose libraries have no plan where ``refused`` says so."""
    asked = []

    def plan(name, *_):
        asked.append(name)
        return refused.get(name, "")

    monkeypatch.setattr(_torch_rep_conv, "library_missing", lambda name: missing.get(name, ""))
    monkeypatch.setattr(_core, "rep_conv2d_fused", plan)
    given, *rest = call()
    return _torch_rep_conv.choose(OnDevice(given if x is None else x), Convolution(*rest), method, "auto"), asked


def test_choice_on_cuda(monkeypatch):
    assert chosen(monkeypatch, {}, {}) == ("cudnn", ["cudnn"])
    assert chosen(monkeypatch, {"cudnn": "absent"}, {}) == ("cutlass", ["cutlass"])
    assert chosen(monkeypatch, {}, {"cudnn": "no plan"}) == ("cutlass", ["cudnn", "cutlass"])
    assert chosen(monkeypatch, {}, {"cudnn": "no plan", "cutlass": "no"}) == ("torch", ["cudnn", "cutlass"])
    assert chosen(monkeypatch, {"cudnn": "absent", "cutlass": "absent"}, {}) == ("torch", [])
    assert chosen(monkeypatch, {}, {}, "cutlass") == ("cutlass", ["cutlass"])
    assert chosen(monkeypatch, {}, {}, "torch") == ("torch", [])
    assert chosen(monkeypatch, {}, {}, x=torch.zeros(2, 16, 6, 6).half()) == ("torch", [])


def test_forced_choice_says_why_not(monkeypatch):
    with pytest.raises(RuntimeError, match="backend 'cudnn' was asked for, but absent"):
        chosen(monkeypatch, {"cudnn": "absent"}, {}, "cudnn")
    with pytest.raises(RuntimeError, match="backend 'cudnn' was asked for, but no plan"):
        chosen(monkeypatch, {}, {"cudnn": "no plan"}, "cudnn")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("library", _torch_rep_conv.FUSED)
@pytest.mark.parametrize(
    "change", [{}, {"residual": RESIDUAL}, {"residual": RESIDUAL, "add_first": True}, {"bias": None}]
)
def test_on_a_device(library, change):
    if _torch_rep_conv.library_missing(library):
        pytest.skip(_torch_rep_conv.library_missing(library))
    arguments = [torch.randn_like(a).cuda() if torch.is_tensor(a) and a.numel() else a for a in call(**change)]
    y = ops.REP_CONV2D(*arguments, library)
    want = ops.REP_CONV2D(*[a.double() if torch.is_tensor(a) else a for a in arguments], "torch")
    torch.testing.assert_close(y.double(), want, rtol=1e-2, atol=1e-2 * float(want.abs().max()))
    assert torch.equal(ops.REP_CONV2D(*arguments, library), y)
