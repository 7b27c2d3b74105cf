# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of README.md (chosen rows) and benchmarks/README.md (all rows) from benchmarks/results/*.json.

``python benchmarks/table.py`` rewrites what stands between the lines ``<!-- table -->`` and ``<!-- end of table -->``;
``--check`` changes nothing and exits with 1 if a page is not what the results say.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
# Rows of the README: result file and the beginning of the setting's name.
CHOSEN = (
    ("letterbox", "1080p to 640, float32"),
    ("letterbox", "1080p to 640, uint8"),
    ("letterbox", "NV12 1080p to 640, float32"),
    ("nms", "8400 random boxes"),
    ("multiclass_nms", "validation"),
    ("rotated_nms", "8400 random rotated boxes, probabilistic"),
    ("aligned_ota", "8400 priors, 80 classes, 50 boxes"),
    ("task_aligned", "16 images of 8400 anchors, 80 classes, 50 boxes"),
    ("sim_ota", "2 images of 8400 priors, 80 classes, 50 boxes"),
    ("hungarian_assign", "16 pictures, 300 queries, 80 classes, 50 boxes"),
    ("box_iou", "CIoU, 300 x 8400"),
    ("box_iou_loss", "CIoU, mean and gradient, 10000 pairs"),
    ("detect", "YOLO11 maps, batch 8"),
    ("ms_deform_attn", "forward, RT-DETRv2-L decoder, batch 1"),
    ("ms_deform_attn", "forward and backward, RT-DETRv2-L decoder, batch 1"),
    ("rep_conv2d", "3x3 64-64 at 80x80, NCHW float32"),
    ("compose", "8 mosaics of 4, affine"),
    ("augmentation", "8 samples of yolov8"),
    ("evaluate", "5,000 pictures, 36,000"),
    ("accelerate", "rtdetrv2-l"),
    ("latency", "yolo11n, float32"),
    ("latency", "yolo11n, bfloat16"),
    ("latency", "yolo26n, float32"),
    ("latency", "yolo26n, bfloat16"),
)


def read_results() -> dict[str, dict[str, Any]]:
    """Stem of the file -> its content."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def row(record: dict[str, Any], setting: str) -> str:
    """One line: operator, setting, our median, each peer's median with the ratio."""
    figures = record["settings"][setting]
    ours, *peers = figures["milliseconds"]
    cells = []
    for name in peers:
        ratio = "" if name.startswith("fastdet") else f" (**{figures['ratio'][name]:.1f}×**)"  # ours in another form
        cells.append(f"{name} {milliseconds(figures['milliseconds'][name]['median'])}{ratio}")
    mine = milliseconds(figures["milliseconds"][ours]["median"])
    memory = figures.get("peak_memory", {})
    if memory:
        sizes = ", ".join(f"{name} {memory[name] / 2**20:.3g} MiB" for name in (ours, *peers))
        setting += f"; peak memory: {sizes}"
    return f"| `{record['op']}` | {setting} | {mine} | {', '.join(cells)} |"


def milliseconds(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def table(rows: list[str]) -> str:
    """A Markdown table of rows."""
    head = "| operator | setting | fastdet, ms | peer, ms (peer / fastdet) |\n|---|---|---|---|\n"
    return head + "".join(f"{line}\n" for line in rows)


def machines(results: dict[str, dict[str, Any]]) -> str:
    """One sentence per machine and software that the figures come from, with the commits measured there."""
    commits: dict[str, list[str]] = {}
    for record in results.values():
        m = record["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
        place = f"{m['gpu']}, {m['cuda']}; {m['cpu']}" if "gpu" in m else m["cpu"]
        threads = f"{m['fastdet_threads']} threads each" if m["fastdet_threads"] > 1 else "1 thread each"
        known = commits.setdefault(f"{place}, {threads}; {versions}; Python {m['python']}", [])
        if m["commit"] not in known:
            known.append(m["commit"])
    return " ".join(f"{sentence}; commit {', '.join(known)}." for sentence, known in commits.items())


def chosen(results: dict[str, dict[str, Any]]) -> str:
    """The README's table; rows without a result are left out."""
    rows, used = [], {}
    for stem, beginning in CHOSEN:
        settings = [s for s in results.get(stem, {}).get("settings", ()) if s.startswith(beginning)]
        if settings:
            rows.append(row(results[stem], settings[0]))
            used[stem] = results[stem]
    return table(rows) + "\n" + machines(used) + "\n"


def everything(results: dict[str, dict[str, Any]]) -> str:
    """All rows, file by file, each with its machine; whole detectors have a page of their own."""
    parts = []
    for stem, record in results.items():
        if record["op"] == "detectors":
            continue
        rows = [row(record, setting) for setting in record["settings"]]
        parts.append(f"### {stem}\n\n{table(rows)}\n{machines({stem: record})}\n")
    return "\n".join(parts)


def updated(text: str, content: str) -> str:
    """``text`` with ``content`` between the two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def main() -> int:
    """Rewrite or check both pages; returns the exit code."""
    results = read_results()
    stale = 0
    for path, content in ((ROOT / "README.md", chosen), (ROOT / "benchmarks" / "README.md", everything)):
        text = path.read_text()
        new = updated(text, content(results))
        if new != text:
            stale += 1
            if "--check" not in sys.argv[1:]:
                path.write_text(new)
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
