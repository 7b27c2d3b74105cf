# SPDX-License-Identifier: Apache-2.0
"""``python -m fastdet.train CONFIG.json``: a training from a settings file."""

from __future__ import annotations

import argparse
import logging
import sys

from fastdet.train import load_config, train


def main(arguments: list[str] | None = None) -> int:
    """Run a training; returns the exit code: 0, or 1 after one line that says what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m fastdet.train", description="Train a detector.")
    parser.add_argument("config", help="JSON file with the fields of TrainConfig")
    parser.add_argument("--data", help="folder of the data set")
    parser.add_argument("--output", help="folder for checkpoints, logs and weights")
    parser.add_argument("--resume", action="store_true", help="continue the training found in the output folder")
    given = parser.parse_args(arguments)
    overrides = {name: value for name, value in vars(given).items() if name != "config" and value}
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        result = train(load_config(given.config, **overrides))
    except (ValueError, RuntimeError, FloatingPointError) as error:
        sys.stderr.write(f"fastdet train: {error}\n")
        return 1
    metrics = result.metrics
    reached = f", AP {metrics.ap:.3f}, AP50 {metrics.ap50:.3f}" if metrics else ""
    sys.stderr.write(f"best weights: {result.weights} (epoch {result.best_epoch}{reached})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
