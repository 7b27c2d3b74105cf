# SPDX-License-Identifier: Apache-2.0
"""What is odd about a picture that can be read: reasons to look at it, or at who wrote it, once more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastdet import fast_jpeg
from fastdet.data.dataset import Problem
from fastdet.image_files import file_kind

__all__ = ["picture_notes", "unread_files"]

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".mpo", ".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
    "AVIF": (".avif",),
}
# Pillow's modes that are not RGB or plain grey: what becomes of them.
MODES = {
    "1": "black and white become grey",
    "P": "a palette becomes RGB",
    "PA": "a palette becomes RGB, transparency is dropped",
    "LA": "transparency is dropped",
    "RGBA": "transparency is dropped, what it hid shows",
    "CMYK": "CMYK becomes RGB by a plain formula, without a colour profile",
    "I": "16-bit grey becomes 8-bit",
    "I;16": "16-bit grey becomes 8-bit",
    "I;16B": "16-bit grey becomes 8-bit",
}
TURNED = "EXIF says it is to be turned (orientation {}), which is done: boxes must be those of the turned picture"
UNREAD = {".heic", ".heif", ".jp2", ".j2k", ".jxl", ".tga", ".psd", ".svg", ".dng", ".exr", ".hdr", ".dcm", ".jfif"}


def picture_notes(path: Path, data: bytes) -> Iterator[Problem]:
    """Of a picture that ``read_image`` reads: damage that decoders pass over, and what its reading changes.

    ``data`` is the whole file. Damage inside a JPEG's pixels is seen where simplejpeg is installed.
    """
    kind = file_kind(data)
    if kind.format == "JPEG":
        complaint = fast_jpeg.complaint(data)
        if complaint is not None:
            text = f"a part of the picture is lost, decoders fill it with grey or noise: {complaint}"
            yield Problem("warning", "picture-corrupt", path, "", text)
    if path.suffix.lower() not in SUFFIXES.get(kind.format, (path.suffix.lower(),)):
        yield Problem("note", "picture-suffix", path, "", f"is a {kind.format} file by its content")
    if kind.orientation in range(2, 9):
        yield Problem("note", "picture-turned", path, "", TURNED.format(kind.orientation))
    if kind.mode in MODES:
        yield Problem("note", "picture-converted", path, "", MODES[kind.mode])


def unread_files(pictures: Iterable[Path]) -> Iterator[Problem]:
    """Files beside ``pictures`` that are pictures too, of a format that is not read."""
    for folder in sorted({path.parent for path in pictures}):
        try:
            names = sorted(os.listdir(folder))
        except OSError:  # a picture of a list that is not there, which is said elsewhere
            continue
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in UNREAD:
                yield Problem("note", "picture-unread", folder / name, "", f"{suffix} files are not read")
