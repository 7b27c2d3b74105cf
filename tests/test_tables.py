# SPDX-License-Identifier: Apache-2.0
"""Figures in the pages are those of the result files, and result files say where they come from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_tables_are_made_from_the_results():
    script = ROOT / "benchmarks" / "table.py"
    done = subprocess.run([sys.executable, str(script), "--check"], text=True, capture_output=True)
    assert done.returncode == 0, "python benchmarks/table.py writes them anew\n" + done.stderr


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_name_their_machine(path):
    record = json.loads(path.read_text())
    assert record["op"] and record["settings"]
    assert {"cpu", "cpus", "fastdet_threads", "commit", "python", "versions"} <= set(record["machine"])
    for figures in record["settings"].values():
        if record["op"] == "detectors":  # no peers, and heavy ones are timed a few times
            assert figures["rounds"] >= 2
        else:
            long = sum(spread["median"] for spread in figures["milliseconds"].values()) > 30e3
            assert figures["rounds"] >= (3 if long else 10)
            assert "ratio" in figures or len(figures["milliseconds"]) == 1
        for spread in figures["milliseconds"].values():
            assert 0 < spread["p10"] <= spread["median"] <= spread["p90"]
