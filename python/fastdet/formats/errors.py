# SPDX-License-Identifier: Apache-2.0
"""The one error of files from outside."""

from __future__ import annotations

import os


class FileFormatError(ValueError):
    """A file is not what it should be. ``path`` names it, ``reason`` says why and what to do; one line together."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason


def shown(text: str, limit: int = 100) -> str:
    """``text`` from a file as it may stand in a message: short, and without control characters."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
