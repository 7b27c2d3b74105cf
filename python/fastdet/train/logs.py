# SPDX-License-Identifier: Apache-2.0
"""Logs of a training: a CSV and a JSON-lines file with one row per epoch, and a progress bar."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fastdet.train.state import write_atomically

log = logging.getLogger("fastdet.train")
T = TypeVar("T")


class EpochLog:
    """Writes ``log.jsonl`` (each row as it is) and ``log.csv`` (the union of columns) after every epoch.

    Rows after ``epochs_done`` that an interrupted run left behind are dropped. A log that cannot be written is a
    warning, not the end of the training.
    """

    def __init__(self, folder: Path, epochs_done: int) -> None:
        self._json, self._csv = folder / "log.jsonl", folder / "log.csv"
        self._rows: list[dict[str, Any]] = []
        if epochs_done and self._json.is_file():
            rows = [json.loads(line) for line in self._json.read_text().splitlines() if line]
            self._rows = [row for row in rows if row["epoch"] <= epochs_done]

    def write(self, row: dict[str, Any]) -> None:
        """Append a row of an epoch."""
        self._rows.append(row)
        columns = list(dict.fromkeys(name for each in self._rows for name in each))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        lines = "".join(json.dumps(each) + "\n" for each in self._rows)
        try:
            write_atomically(self._json, lines.encode())
            write_atomically(self._csv, table.getvalue().encode())
        except RuntimeError as error:
            log.warning("%s", error)


def progress(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """``items`` behind a tqdm bar when tqdm is installed and standard error is a terminal, else as they are."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            pass
        else:
            return iter(tqdm(items, total=total, desc=title, leave=False))
    return iter(items)
