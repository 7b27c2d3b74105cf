# SPDX-License-Identifier: Apache-2.0
"""The table of detectors: every published model has a row, and the page says what models, results and pages say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from fastdet import models

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models" / "index.md"
ROW = re.compile(r"^\| `([^`]+)` \| \d+ \| [^|]+ \| ([\d.]+) \| ([\d.]+) \|", flags=re.M)


@pytest.fixture
def benchmark_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import detector_table
    import published

    yield detector_table, published
    for name in ("detector_table", "published", "table"):
        sys.modules.pop(name, None)


def test_every_detector_has_a_published_figure_or_a_reason(benchmark_modules):
    _, published = benchmark_modules
    known = {s.name for f in models.FAMILIES.values() for s in f.SPECS.values() if s.task == "detect"}
    without = {*published.WITHOUT_AP, *published.PORTS} | {n for n in known if n.endswith(published.OTHER_LAYOUTS)}
    assert known == set(published.AP) | without and not set(published.AP) & without
    assert set(published.TEST_DEV) <= set(published.AP)


def test_page_is_made_from_models_and_results(benchmark_modules):
    """With the counts that the page shows; those are counted anew below, for the smallest of each family."""
    table, published = benchmark_modules
    text = PAGE.read_text()
    counted = [table.Counted(models.spec(n), 1e6 * float(p), float(g)) for n, p, g in ROW.findall(text)]
    assert sorted(row.spec.name for row in counted) == sorted(published.AP)
    assert [row.gflops for row in counted] == sorted(row.gflops for row in counted)
    new = table.updated(text, table.content(counted, table.read_results()))
    assert new == text, "python benchmarks/detector_table.py writes it anew"


@pytest.mark.parametrize("family", models.FAMILIES)
def test_counts_of_the_page(benchmark_modules, family):
    table, _ = benchmark_modules
    rows = {n: (p, g) for n, p, g in ROW.findall(PAGE.read_text()) if models.spec(n).family == family}
    name = min(rows, key=lambda n: float(rows[n][0]))
    row = table.count(name)
    assert (f"{row.parameters / 1e6:.1f}", f"{row.gflops:.1f}") == rows[name]


def test_pages_of_the_families_give_the_same_figures(benchmark_modules):
    _, published = benchmark_modules
    found = {}
    for page in PAGE.parent.glob("*.md"):
        if page == PAGE:
            continue
        column = deim = None
        for line in page.read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if line.startswith("| name |"):
                column = next((i for i, cell in enumerate(cells) if re.match(r"AP (val2017|test)", cell)), None)
                deim = cells.index("DEIM's AP") if "DEIM's AP" in cells else None
            elif line.startswith("| `") and column is not None and cells[column]:
                name = cells[0].strip("`")
                found[name] = float(cells[column].split("/")[-1])  # with NMS / without
                if deim is not None:
                    found[f"deim-{name}"] = float(cells[deim])
    assert len(found) > 50
    assert found == {name: published.AP[name] for name in found}


def test_a_measured_row_shows_its_time_and_a_missing_one_a_dash(benchmark_modules):
    table, _ = benchmark_modules
    counted = [table.Counted(models.spec(name), 2_408_932, 5.48) for name in ("yolo26n", "yolo11n")]
    spread = {"median": 31.4159, "p10": 30.0, "p90": 33.0}
    results = {"CPU": {"settings": {"yolo26n": {"milliseconds": {"fastdet": spread}, "rounds": 9}}}}
    assert table.rows(counted, results) == [
        "| `yolo26n` | 640 | **40.1** | 2.4 | 5.5 | 31.4 |  | AGPL-3.0 |",
        "| `yolo11n` | 640 | 39.5 | 2.4 | 5.5 | – | NMS | AGPL-3.0 |",
    ]
