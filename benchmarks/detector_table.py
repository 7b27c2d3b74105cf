# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/models/index.md: published AP, counted size and arithmetic, measured time, licence.

``python benchmarks/detector_table.py`` rewrites what stands between the marks; ``--check`` changes nothing and exits
with 1 if the page is not what the models and benchmarks/results/detectors*.json say. Needs torch, for the counts.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import published
from fastdet import models
from fastdet.models.complexity import complexity
from fastdet.models.unfilled import unfilled
from table import BEGIN, END, RESULTS, ROOT, machines, milliseconds, updated

PAGE = ROOT / "docs" / "models" / "index.md"
DEVICES = {"CPU": "detectors.json", "GPU": "detectors-cuda.json"}


@dataclass(frozen=True)
class Counted:
    """A model and what its deployed graph costs for one picture of its input size."""

    spec: models.ModelSpec
    parameters: int
    gflops: float


def count(name: str) -> Counted:
    """Parameters and 1e9 operations of the graph that ``fastdet.load(name)`` runs; no weights are computed."""
    spec = models.spec(name)
    with unfilled():
        module = models.build(spec).eval()
    counts = complexity(module.fuse(), spec.input_size)
    return Counted(spec, counts.parameters, counts.gflops)


def by_cost() -> list[Counted]:
    """Every model with a published AP, cheapest first."""
    return sorted((count(name) for name in published.AP), key=lambda row: (row.gflops, row.spec.name))


def rows(counted: list[Counted], results: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the table; AP is bold where no row above has as much."""
    lines, best = [], 0.0
    for row in counted:
        name = row.spec.name
        ap = published.AP[name]
        shown = f"**{ap:.1f}**" if ap > best else f"{ap:.1f}"
        best = max(best, ap)
        cells = [
            f"`{name}`",
            f"{row.spec.input_size[0]}",
            shown + ("†" if name in published.TEST_DEV else ""),
            f"{row.parameters / 1e6:.1f}",
            f"{row.gflops:.1f}",
            *(_time(results[device], name) for device in DEVICES if device in results),
            "" if row.spec.nms_free else "NMS",
            row.spec.license.partition(" (")[0],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def content(counted: list[Counted], results: dict[str, dict[str, Any]]) -> str:
    """All that stands between the marks."""
    shown = {device: record for device, record in results.items() if record or device == "CPU"}
    heads = ["model", "input", "AP", "parameters, M", "GFLOPs", *(f"{device}, ms" for device in shown)]
    heads += ["suppression", "licence of the weights"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows(counted, shown)]
    text = "\n".join(lines) + "\n"
    measured = {device: record for device, record in shown.items() if record}
    for device, record in measured.items():
        text += f"\n{device}: {machines({device: record})}\n"
    return text if measured else text + "\nNo time has been measured yet.\n"


def read_results() -> dict[str, dict[str, Any]]:
    """Device -> content of its result file, empty where there is none."""
    paths = {device: RESULTS / name for device, name in DEVICES.items()}
    return {device: json.loads(path.read_text()) if path.exists() else {} for device, path in paths.items()}


def _time(record: dict[str, Any], name: str) -> str:
    figures = record.get("settings", {}).get(name)
    return milliseconds(figures["milliseconds"]["fastdet"]["median"]) if figures else "–"


def main() -> int:
    """Rewrite or check the page; returns the exit code."""
    text = PAGE.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"detector_table: {PAGE.name} must hold the two marks of a table")
    new = updated(text, content(by_cost(), read_results()))
    if "--check" in sys.argv[1:]:
        return int(new != text)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
