# SPDX-License-Identifier: Apache-2.0
"""Files written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["write_atomic"]


def write_atomic(path: str | os.PathLike[str], data: bytes | Iterable[Any]) -> Path:
    """Write ``data``, bytes or pieces of bytes, to ``path``: it is the new file, or untouched if anything went wrong.

    Missing folders are made. The data is on the disk (fsync of file and folder) before the name changes. A link stays
    a link, to the new file; what is no regular file, and all of ``/dev``, is appended to as it is.
    Returns the path. Raises OSError, whose ``filename`` is ``path``.
    """
    given = path = Path(path)
    pieces: Iterable[Any] = [data] if isinstance(data, bytes) else data
    try:
        _write(path, pieces)
    except OSError as error:  # that of a full disk names no file, others the temporary one
        error.filename = os.fspath(given)
        raise
    return given


def _write(path: Path, pieces: Iterable[Any]) -> None:
    if path.exists() and (not path.is_file() or path.is_relative_to("/dev")):
        with open(path, "ab") as file:  # /dev/stdout may be a log, which must not lose what it holds
            file.writelines(pieces)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
