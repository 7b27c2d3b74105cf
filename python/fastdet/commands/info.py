# SPDX-License-Identifier: Apache-2.0
"""``fastdet info``: what is installed, what the operators run on, what a weight file holds."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fastdet import __version__
from fastdet.arguments import Parser

EXAMPLE = """\
example: fastdet info runs/cells/best.safetensors

The first thing to read, and to send along, when something is wrong."""

PACKAGES = ("numpy", "torch", "pillow", "safetensors", "tqdm", "pyyaml", "matplotlib")


def run(words: list[str]) -> int:
    """Run the command with ``words``; returns the exit code."""
    parser = Parser(
        prog="fastdet info", description="Versions, backends, and what a weight file holds.", epilog=EXAMPLE
    )
    parser.add_argument("weights", nargs="*", metavar="W", help="weight files, model names, or default")
    given = parser.parse_args(words)
    _print(_environment())
    for weights in given.weights:
        from fastdet.detector import load

        about = load(weights).info()
        height, width = about["input_size"]
        names = about["classes"]
        listed = ", ".join(names if len(names) <= 10 else [*names[:8], "...", names[-1]])
        about |= {"input_size": f"{height} x {width} (height x width)", "classes": f"{len(names)}: {listed}"}
        stages, trained = about.pop("stages"), about.pop("trained")
        for name, form in (("layers", "{:,}"), ("parameters", "{:,}"), ("gflops", "{:.2f}")):
            about[name] = f"{form} folded, {form} as trained".format(about[name], trained[name])
        print()
        _print(about)
        _print_stages(stages)
    return 0


def _print_stages(stages: Sequence[Mapping[str, Any]]) -> None:
    """A line for each stage of the folded network."""
    form = "{:<10}{:<16}{:>12}{:>10}  {}\n"
    sys.stdout.write("\n" + form.format("stage", "block", "parameters", "GFLOPs", "output"))
    for stage in stages:
        numbers = (f"{stage['parameters']:,}", f"{stage['gflops']:.3f}")
        sys.stdout.write(form.format(stage["name"], stage["block"], *numbers, stage["output"]))


def _environment() -> dict[str, str]:
    from fastdet import ops

    available, why = ops.cuda_available()
    rows = {
        "fastdet": f"{__version__} in {os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}",
        "python": f"{platform.python_version()} on {platform.platform()}",
        "processors": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} usable",
        "backend": f"{ops.current_backend()} (FASTDET_BACKEND)",
        "CUDA": "available" if available else f"not available: {why}",
    }
    for name in PACKAGES:
        try:
            rows[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows[name] = "not installed"
    return rows


def _print(rows: Mapping[str, object]) -> None:
    wide = max(map(len, rows)) + 2
    for name, value in rows.items():
        sys.stdout.write(f"{name:<{wide}}{value}\n")
