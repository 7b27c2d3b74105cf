# SPDX-License-Identifier: Apache-2.0
"""Reads files of ``torch.save`` as plain data, without torch and without executing anything in them."""

from __future__ import annotations

import os
from typing import Any

from fastdet.formats.archive import Archive
from fastdet.formats.errors import FileFormatError, shown
from fastdet.formats.file_kinds import kind_of, open_file
from fastdet.formats.legacy import is_legacy, read_legacy
from fastdet.formats.tensors import TensorReader
from fastdet.formats.unpickle import PickleError

_MAX_PICKLE = 32 << 20


def read_torch(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote to ``path``, as plain data.

    Tensors and parameters become NumPy arrays, those that share a storage share its memory (bfloat16 and 8-bit floats
    are widened to float32); ``OrderedDict`` becomes dict, ``torch.Size`` a tuple; lists, tuples, sets, numbers and text
    stay. An object of any other class becomes a ``Record``: its class's name, arguments and state, without behaviour.
    Nothing is imported or called.

    Args:
        path: a file written by torch: the zip archive of 1.6 and later, or the sequence of pickles before.

    Raises:
        FileFormatError: the file is something else, is damaged, lies about sizes, or asks for what no checkpoint needs;
            the message names it and says what to do.

    Memory: the arrays, and at most 64 MB besides. Time: that of reading the file and its checksums.
    """
    try:
        with open_file(path) as file:
            head = file.read(512)
            if is_legacy(head):
                return read_legacy(path, file)
            reason = kind_of(head)
        if reason is not None:
            raise FileFormatError(path, reason)
        with Archive(path) as archive:
            return _read_zip(archive)
    except PickleError as error:
        raise FileFormatError(path, f"its pickle {error}") from error
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror}") from error


def _read_zip(archive: Archive) -> Any:
    root = _find_root(archive)
    name = f"{root}/data.pkl"
    if (archive.member_size(name) or 0) > _MAX_PICKLE:
        raise PickleError(f"is larger than {_MAX_PICKLE >> 20} MB, its tensors not counted; no checkpoint's is")
    order = "little"
    if archive.member_size(f"{root}/byteorder") is not None:
        order = archive.read(f"{root}/byteorder").tobytes()[:16].decode("latin1")
        if order not in ("little", "big"):
            raise FileFormatError(archive.path, f"has byte order {shown(order)!r}, which is none")
    reader = TensorReader(
        archive.path,
        archive.size,
        lambda key: archive.member_size(f"{root}/data/{key}"),
        lambda key: archive.read(f"{root}/data/{key}"),
        big_endian=order == "big",
    )
    return reader.unpickler().load(archive.read_bytes(name))


def _find_root(archive: Archive) -> str:
    """The folder inside the archive that holds ``data.pkl``; its name is arbitrary."""
    names = archive.names()
    roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        found = "no" if not roots else "more than one"
        raise FileFormatError(archive.path, f"is a zip archive with {found} data.pkl, so no torch checkpoint")
    return roots[0]
