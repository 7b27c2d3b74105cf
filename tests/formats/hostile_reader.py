# SPDX-License-Identifier: Apache-2.0
"""Loads every file of a folder under an audit hook and prints what happened, as JSON; see test_hostile_files.py."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path

from fastdet import models
from fastdet.formats import FileFormatError, read_torch
from fuzz.targets import Watch


def main(folder: Path) -> None:
    """Read all files below ``folder``."""
    paths = sorted(folder.iterdir())
    for path in paths[:3]:  # what is imported at the first use is imported here
        with contextlib.suppress(FileFormatError):
            models.load_file(path)
    environment, folder_now = dict(os.environ), os.getcwd()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch, files, inert, slowest = Watch(), {}, [], 0.0
    for path in paths:
        start = time.perf_counter()
        watch.armed = True
        with contextlib.suppress(FileFormatError):
            read_torch(path)
            inert.append(path.name)
        try:
            models.load_file(path)
            files[path.name] = None
        except FileFormatError as error:
            files[path.name] = str(error)
        watch.armed = False
        slowest = max(slowest, time.perf_counter() - start)
    if environment != dict(os.environ) or folder_now != os.getcwd():
        watch.events.append("the environment has changed")
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"files": files, "inert": inert, "events": watch.events, "slowest": slowest, "peak_mb": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
