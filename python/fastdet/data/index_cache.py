# SPDX-License-Identifier: Apache-2.0
"""Index files kept from one opening of a data set to the next, in a folder that the user names.

An entry is called by what was read: the files, their sizes and times, the options and the version of the format. What
does not open whole is built again. Entries may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastdet import _core
from fastdet.data.file_names import FileNames
from fastdet.data.index import VERSION, Index, IndexFileError, open_index, write_index

__all__ = ["cache_folder", "cached_index", "file_stamps", "folder_stamps"]

VARIABLE = "FASTDET_CACHE"
LOCK_SECONDS = 600.0  # how long another process may build before this one does it, too
CHUNK = 1 << 16


def cache_folder(given: str | os.PathLike[str] | None) -> Path | None:
    """The folder that is given, or named by FASTDET_CACHE; None: nothing is kept."""
    chosen = given if given is not None else os.environ.get(VARIABLE) or None
    return None if chosen is None else Path(os.path.expanduser(chosen))


def cached_index(folder: Path, identity: dict[str, Any], stamps: bytes, read: Callable[[], Index]) -> Index:
    """The index of ``identity`` and ``stamps``, opened from ``folder`` or read and written there.

    Of processes that need the same entry one builds it, the others wait. A folder that cannot be written is a warning.
    An entry whose pictures' folders (``folders`` of its notes) have changed is built again.

    Args:
        identity: what was opened and how, JSON. stamps: the state of all files that ``read`` would read.
    """
    about = json.dumps({"version": VERSION, **identity}, sort_keys=True).encode()
    data_set = hashlib.sha256(about).hexdigest()[:16]
    path = folder / f"{data_set}-{hashlib.sha256(about + stamps).hexdigest()[:32]}.index"
    index = _open(path)
    if index is not None:
        return index
    built = None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock")):
            index = _open(path)  # another process may have built it
            if index is not None:
                return index
            built = read()
            write_index(path, built)
            for old in folder.glob(f"{data_set}-*.index"):
                if old != path:
                    old.unlink(missing_ok=True)
            return _open(path) or built
    except OSError as error:
        warnings.warn(f"fastdet: {folder}: no index could be kept there: {error.strerror or error}", stacklevel=3)
    return read() if built is None else built


def _open(path: Path) -> Index | None:
    try:
        index = open_index(path)
    except (OSError, IndexFileError):
        return None
    return index if _folders_are_as_noted(index) else None


def file_stamps(paths: Sequence[str]) -> bytes:
    """Digest of the names of files, and of size and time of what stands there: of links, and of what they lead to."""
    names = FileNames.of(paths)
    prefix = os.fsencode(names.prefix)
    digest = hashlib.sha256(prefix + b"\0")
    for first in range(0, len(names), CHUNK):
        part = names[first : first + CHUNK]
        states = _core.dataset_file_states(prefix, part.letters, part.starts)
        for column in (part.letters, part.starts, states):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.digest()


def folder_stamps(index: Index) -> list[list[Any]]:
    """[folder, time] of every folder between the prefix of the paths and a picture: a link there changes one."""
    folders = {b""}
    for first in range(0, len(index.picture_id), CHUNK):
        starts = index.path_starts[first : first + CHUNK + 1]
        text, base = index.paths[starts[0] : starts[-1]].tobytes(), int(starts[0])
        for start, end in itertools.pairwise((starts - base).tolist()):
            folder = text[start:end].rpartition(b"/")[0]
            while folder not in folders:
                folders.add(folder)
                folder = folder.rpartition(b"/")[0]
    return [[os.fsdecode(folder), _time(index.prefix + folder)] for folder in sorted(folders)]


def _time(folder: bytes) -> int:
    try:
        return os.lstat(folder or b".").st_mtime_ns
    except (OSError, ValueError):
        return -1


def _folders_are_as_noted(index: Index) -> bool:
    try:
        return all(_time(index.prefix + os.fsencode(folder)) == when for folder, when in index.notes.get("folders", []))
    except (TypeError, ValueError):  # not what is written here
        return False


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which says who does; the system lets it go when its owner ends, however it ends.

    Where the file system knows no locks, nothing is held: entries are renamed into place, so both builders are right.
    """
    try:
        import fcntl
    except ImportError:  # not POSIX
        yield
        return
    end = time.monotonic() + LOCK_SECONDS
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            held = _acquire(fcntl, handle, end)
        except BaseException:
            os.close(handle)
            raise
        if not held or _is_at(handle, path):
            break
        os.close(handle)  # its owner has deleted it since it was opened
    try:
        if held:
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()} {platform.node()}\n".encode())
        yield
    finally:
        if held:
            path.unlink(missing_ok=True)
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _acquire(fcntl: Any, handle: int, end: float) -> bool:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        except OSError:
            return False


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
