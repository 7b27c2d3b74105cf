# SPDX-License-Identifier: Apache-2.0
"""``fastdet val``: COCO metrics of a detector on a data set."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from fastdet.arguments import Parser, add_arguments, build_config
from fastdet.detector import ValOptions, load
from fastdet.evaluation import Metrics
from fastdet.files import write_atomic

EXAMPLE = """\
example: fastdet val bccd --split test --weights runs/cells/best.safetensors

DATA: a data set in COCO, YOLO (folder or data YAML) or VOC format, or a COCO file with --images.
Thresholds are those of the model's published evaluation, not those of predict."""


@dataclass(frozen=True, kw_only=True)
class ValCommand:
    """What ``fastdet val`` takes beside ``ValOptions``."""

    weights: str = field(
        default="default", metadata={"help": "file (.safetensors, .pth), model name, or default", "metavar": "W"}
    )
    output: str | None = field(
        default=None, metadata={"help": "write numbers, predictions and plots there", "metavar": "DIR"}
    )
    json: str | None = field(default=None, metadata={"help": "write all numbers there", "metavar": "FILE"})
    device: str = field(default="cpu", metadata={"help": "torch device: cpu, cuda, cuda:1", "metavar": "DEVICE"})


def run(words: list[str]) -> int:
    """Run the command with ``words``; returns the exit code."""
    usage = "fastdet val DATA [OPTIONS]"
    parser = Parser(
        prog="fastdet val", usage=usage, description="COCO metrics of a detector on a data set.", epilog=EXAMPLE
    )
    parser.add_argument("data", metavar="DATA", help="folder, data YAML or COCO file")
    add_arguments(parser, ValOptions)
    add_arguments(parser, ValCommand)
    given = parser.parse_args(words)
    command: ValCommand = build_config(ValCommand, given)
    options: ValOptions = build_config(ValOptions, given)
    metrics = load(command.weights, device=command.device).val(given.data, **vars(options), output=command.output)
    print("\n".join(_lines(metrics)))
    if command.json:
        write_atomic(Path(command.json), (json.dumps(metrics.to_dict(), indent=1) + "\n").encode())
    return 0


TWELVE = (
    ("AP  IoU 0.50:0.95", "ap"),
    ("AP  IoU 0.50", "ap50"),
    ("AP  IoU 0.75", "ap75"),
    ("AP  small", "ap_small"),
    ("AP  medium", "ap_medium"),
    ("AP  large", "ap_large"),
    ("AR  1 detection", "ar_1"),
    ("AR  10 detections", "ar_10"),
    ("AR  100 detections", "ar_100"),
    ("AR  small", "ar_small"),
    ("AR  medium", "ar_medium"),
    ("AR  large", "ar_large"),
)


def _lines(metrics: Metrics) -> list[str]:
    """The twelve numbers of COCO, a line per class, and where the time went."""
    wide = max(len("AR  100 detections"), *map(len, metrics.class_ap), 0)
    lines = [f"{text:<{wide}}{getattr(metrics, name):>10.4f}" for text, name in TWELVE]
    lines += ["", f"{'class':<{wide}}{'AP50-95':>10}{'AP50':>10}"]
    lines += [f"{name:<{wide}}{ap:>10.4f}{metrics.class_ap50[name]:>10.4f}" for name, ap in metrics.class_ap.items()]
    spent = ", ".join(f"{stage} {value:.1f}" for stage, value in metrics.milliseconds.items())
    return [*lines, "", f"milliseconds a picture: {spent}"]
