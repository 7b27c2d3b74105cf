# SPDX-License-Identifier: Apache-2.0
"""``fastdet train``: a detector from a data set."""

from __future__ import annotations

import logging
import sys
from dataclasses import fields

from fastdet.arguments import Parser, add_arguments

EXAMPLE = """\
example: fastdet train --data bccd --epochs 60 --output runs/cells
         fastdet train --config settings.json --output runs/cells --resume

DIR is a data set in YOLO (folder or data YAML), COCO or VOC format. The best weights are
written to OUTPUT/best.safetensors, for fastdet predict --weights."""

# The rest of the settings is shown by --help-all.
COMMON = (
    "data",
    "train_split",
    "val_split",
    "output",
    "resume",
    "model",
    "input_size",
    "epochs",
    "batch_size",
    "lr",
    "seed",
    "device",
    "workers",
)


def run(words: list[str]) -> int:
    """Run the command with ``words``; returns the exit code."""
    from fastdet.train.config import TrainConfig, from_json, load_config

    usage = "fastdet train --data DIR [OPTIONS]"
    parser = Parser(prog="fastdet train", usage=usage, description="Train a detector on your data.", epilog=EXAMPLE)
    parser.add_argument("--config", metavar="FILE", help="JSON file with any of these settings; options win over it")
    add_arguments(parser, TrainConfig, rare={each.name for each in fields(TrainConfig)} - set(COMMON))
    given = vars(parser.parse_args(words))
    path = given.pop("config")
    if path is None and not given:
        parser.error("say at least where the data is: --data DIR")
    try:
        config = load_config(path, **given) if path else from_json(given, "settings")
    except ValueError as error:
        parser.error(str(error))
    from fastdet.train import train

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    result = train(config)
    reached = f"{result.metrics.ap:.3f} {result.metrics.ap50:.3f}" if result.metrics else "- -"
    print(f"weights epoch AP AP50\n{result.weights} {result.best_epoch} {reached}")
    return 0
