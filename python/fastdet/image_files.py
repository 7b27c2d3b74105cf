# SPDX-License-Identifier: Apache-2.0
"""Picture files to RGB arrays, by Pillow, with limits. A bad file gives one ``ImageError(path, reason)``, never more.

A file is data from strangers: its size is read from the header before anything is allocated, and a picture that
claims far more pixels than its bytes can hold is refused (a "decompression bomb").
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastdet import fast_jpeg

__all__ = [
    "PICTURE_SUFFIXES",
    "DecodeLimits",
    "FileKind",
    "ImageError",
    "file_kind",
    "from_pil",
    "read_image",
    "read_reduced",
    "read_size",
]

PICTURE_SUFFIXES = {
    ".avif",
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".mpo",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
}
# Pillow reads far more; what is not here is either rare or starts other programs (EPS). Format -> Pillow's plugin.
FORMATS = {
    "JPEG": "Jpeg",
    "PNG": "Png",
    "WEBP": "WebP",
    "BMP": "Bmp",
    "GIF": "Gif",
    "MPO": "Mpo",
    "TIFF": "Tiff",
    "PPM": "Ppm",
    "AVIF": "Avif",
}


class ImageError(RuntimeError):
    """A picture that cannot be read. ``path`` names it, ``reason`` says why, ``str()`` is one line with both."""

    def __init__(self, path: Any, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class DecodeLimits:
    """What a picture file may claim.

    ``max_pixels`` is Pillow's own limit, and raising it needs ``PIL.Image.MAX_IMAGE_PIXELS`` raised too.
    ``max_ratio`` (pixels per byte of the file) holds for files below ``ratio_bytes``.
    """

    max_pixels: int = 178_956_970
    max_side: int = 65_500
    max_ratio: int = 20_000
    ratio_bytes: int = 1 << 20
    max_bytes: int = 1 << 30
    max_scans: int = 500  # of a progressive JPEG: each one is a pass over all pixels


DEFAULT_LIMITS = DecodeLimits()


def read_image(path: str | os.PathLike[str], limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Read a picture file as [H, W, 3] uint8 **RGB**.

    The EXIF rotation is applied; transparency is dropped; palette, grey, bilevel and CMYK become RGB; 16-bit grey is
    divided by 257; of several pictures in a camera's MPO file the first is taken. JPEGs are decoded by simplejpeg where
    that is installed (extra ``fast-jpeg``), which gives the same pixels sooner.

    Raises:
        ImageError: the file is missing, unreadable, empty, truncated, no picture, over a limit, animated, or of 32-bit
            pixels. RuntimeError: Pillow is not installed.
    """
    return read_reduced(path, None, limits)[0]


def read_reduced(
    path: str | os.PathLike[str], draft: tuple[int, int] | None, limits: DecodeLimits = DEFAULT_LIMITS
) -> tuple[np.ndarray, tuple[int, int]]:
    """As ``read_image``, but a JPEG much larger than ``draft`` (height, width) is decoded at 1/2, 1/4 or 1/8.

    The smallest of these is taken that is not below ``draft`` on either side; its sides are rounded up. The JPEG's
    cosine transform does the averaging, so this takes less time than decoding all pixels, and makes no aliases. Limits
    hold for the whole size. ``draft=None``, and any other format: all pixels.

    Returns:
        ([h, w, 3] uint8 RGB, (height, width) of the picture when it is read whole).

    Raises:
        As ``read_image``.
    """
    try:
        data = _read_bytes(path, limits)
    except (OSError, ValueError) as error:
        raise ImageError(path, os_reason(error)) from None
    return _decode(data, path, limits, draft)


def read_size(path: str | os.PathLike[str], limits: DecodeLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """(height, width) of what ``read_image`` returns, from the header: damage behind it is not noticed.

    Raises:
        ImageError: as ``read_image``, as far as the header tells. RuntimeError: Pillow is not installed.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode) and status.st_size <= limits.max_bytes:
                with open(handle, "rb", closefd=False) as file:
                    if file.read(2) == b"\xff\xd8":  # a JPEG, of which the first bytes are enough
                        file.seek(0)
                        return _header(file, status.st_size, path, limits)
        finally:
            os.close(handle)
        data = _read_bytes(path, limits)
    except (OSError, ValueError) as error:
        raise ImageError(path, os_reason(error)) from None
    claimed = _webp_size(data)
    if claimed:
        _check_size(claimed, len(data), path, limits)
    return _header(io.BytesIO(_without_text(data)), len(data), path, limits)


def _header(file: Any, file_bytes: int, path: Any, limits: DecodeLimits) -> tuple[int, int]:
    Image = _pillow()
    try:
        with Image.open(file, formats=_formats()) as picture:
            _check_size((picture.height, picture.width), file_bytes, path, limits)
            try:
                across = picture.getexif().get(0x0112, 1) in range(5, 9)
            except Exception:
                across = False  # as in from_pil
            if across and picture.format == "TIFF":  # whether Pillow has turned it by now depends on its version
                turned = from_pil(picture, path)
                return turned.shape[0], turned.shape[1]
            return (picture.width, picture.height) if across else (picture.height, picture.width)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        file.seek(0)
        raise ImageError(path, _what_is(file.read(2048))) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(path, "claims more pixels than Pillow's limit; refused as a decompression bomb") from None
    except Exception as error:  # as in _decode
        raise ImageError(path, f"is damaged: {error or type(error).__name__}".splitlines()[0]) from None


class FileKind(NamedTuple):
    """``format`` ("JPEG"), Pillow's ``mode`` of the pixels ("CMYK"), EXIF's ``orientation``, 1 where none is said."""

    format: str
    mode: str
    orientation: int


def file_kind(data: bytes) -> FileKind:
    """What the header of a picture that ``read_image`` reads says of it. Raises ImageError when it says nothing."""
    Image = _pillow()
    try:
        with Image.open(io.BytesIO(_without_text(data)), formats=_formats()) as picture:
            try:
                orientation = int(picture.getexif().get(0x0112, 1))
            except Exception:
                orientation = 1  # as in from_pil
            return FileKind(str(picture.format), picture.mode, orientation)
    except Exception as error:  # as in _decode
        raise ImageError("data", f"is damaged: {error or type(error).__name__}".splitlines()[0]) from None


def _read_bytes(path: Any, limits: DecodeLimits) -> bytes:
    # Without O_NONBLOCK opening a named pipe would wait for a writer for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(path, "is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "is not a regular file")
        if status.st_size > limits.max_bytes:
            raise ImageError(path, f"the file is larger than {limits.max_bytes >> 20} MB")
        with open(handle, "rb", closefd=False) as file:
            data = file.read(status.st_size)  # not the limit: so much memory would be taken first
    finally:
        os.close(handle)
    if not data:
        raise ImageError(path, "the file is empty")
    return data


def os_reason(error: Exception) -> str:
    """What the system said about a file, in lower case and without its number."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (getattr(error, "strerror", None) or str(error)).lower()


def _decode(
    data: bytes, path: Any, limits: DecodeLimits, draft: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    Image = _pillow()
    claimed = _webp_size(data)  # Pillow's WebP decoder allocates before the size can be asked for
    if claimed:
        _check_size(claimed, len(data), path, limits)
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > limits.max_scans:
        raise ImageError(path, f"the JPEG has more than {limits.max_scans} scans")
    try:
        with Image.open(io.BytesIO(_without_text(data)), formats=_formats()) as picture:
            _check_size((picture.height, picture.width), len(data), path, limits)
            if getattr(picture, "is_animated", False) and picture.format != "MPO":
                raise ImageError(path, f"holds {picture.n_frames} frames; animated and multi-page files are not read")
            if picture.format == "JPEG":
                return _decode_jpeg(data, picture, path, draft)
            image = from_pil(picture, path)
            return image, (image.shape[0], image.shape[1])
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(path, _what_is(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(path, "claims more pixels than Pillow's limit; refused as a decompression bomb") from None
    except MemoryError:
        raise ImageError(path, "there is not enough memory to decode it") from None
    except Exception as error:  # a decoder may fail in any way on a broken file, and all of them mean the same
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ImageError(path, "is truncated" if "truncated" in text.lower() else f"is damaged: {text}") from None


def _decode_jpeg(
    data: bytes, picture: Any, path: Any, draft: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels of a JPEG that Pillow has opened, reduced towards ``draft``, and its whole size as it is shown."""
    height, width = picture.height, picture.width
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except Exception:
        orientation = 1  # as in from_pil
    shown = (width, height) if orientation in range(5, 9) else (height, width)
    scale = 1
    if draft is not None:
        scale = next((s for s in (8, 4, 2) if shown[0] // s >= draft[0] and shown[1] // s >= draft[1]), 1)
    pixels = fast_jpeg.decode(data, (height, width), scale) if picture.mode in ("RGB", "L") else None
    if pixels is None:
        if scale > 1:
            picture.draft(None, (width // scale, height // scale))
        return from_pil(picture, path), shown
    if orientation in TURNS:
        pixels = np.ascontiguousarray(TURNS[orientation](pixels))
    return pixels, shown


# EXIF's orientations: how the rows and columns of a file become those of the picture.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}


@functools.cache
def _formats() -> list[str]:
    """The formats above that this Pillow can read, their plugins loaded (``Image.init`` would load all of Pillow's)."""
    from PIL import Image

    for plugin in FORMATS.values():
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(size: tuple[int, int], file_bytes: int, path: Any, limits: DecodeLimits) -> None:
    height, width = size
    pixels = height * width
    if pixels <= 0:
        raise ImageError(path, f"has no pixels ({width} x {height})")
    if max(size) > limits.max_side:
        raise ImageError(path, f"is {width} x {height}, more than {limits.max_side} pixels on a side")
    if pixels > limits.max_pixels:
        raise ImageError(path, f"is {width} x {height}, more than {limits.max_pixels} pixels")
    if file_bytes < limits.ratio_bytes and pixels > limits.max_ratio * file_bytes:
        raise ImageError(
            path, f"claims {width} x {height} pixels in {file_bytes} bytes; refused as a decompression bomb"
        )


def from_pil(picture: Any, path: Any) -> np.ndarray:
    """A PIL image as [H, W, 3] uint8 RGB, turned by its EXIF rotation. ``path`` is what an ImageError names."""
    from PIL import ImageOps

    mode = picture.mode
    if mode in ("F", "LAB", "HSV") or (mode == "I" and picture.format != "PNG"):
        raise ImageError(path, f"has pixels of kind {mode!r}, which have no one meaning as 8-bit RGB")
    picture.load()
    try:
        turned = picture.getexif().get(0x0112, 1) in range(2, 9)
    except Exception:
        turned = False  # broken EXIF says nothing about the pixels, which are whole
    if turned:
        picture = ImageOps.exif_transpose(picture)
    if mode.startswith("I"):
        wide = np.asarray(picture).astype(np.uint32)
        grey = ((wide + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    # np.array, because np.asarray of a PIL image is read-only.
    return np.array(picture.convert("RGB"))


def _without_text(data: bytes) -> bytes:
    """``data`` without the text and profile chunks of a PNG: Pillow would unpack them, a thousandfold if it must."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(data[at:end])
        at = end
    kept.append(data[at:])
    return b"".join(kept)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that a WebP header claims, None when it is no WebP (RFC 9649, sections 2.5 to 2.7)."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF
    return None


APPLE_DOUBLE = b"\x00\x05\x16\x07"


def _what_is(data: bytes) -> str:
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] == b"<":
        return "is an HTML or XML file, not a picture"
    if head.startswith(b"version https://git-lfs"):
        return "is a text file, not a picture: a pointer of Git LFS; git lfs pull fetches the picture"
    if data.startswith(APPLE_DOUBLE):
        return "is not a picture: macOS keeps notes of another file in it (AppleDouble); it may be deleted"
    try:
        text = data[:2048].decode("utf-8", errors="strict" if len(data) <= 2048 else "ignore")
        if all(letter.isprintable() or letter in "\r\n\t" for letter in text):
            return "is a text file, not a picture"
    except UnicodeDecodeError:
        pass
    return "is damaged or not a picture of a known format (" + ", ".join(FORMATS) + ")"


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise RuntimeError("reading pictures needs Pillow; pip install 'fastdet[images]'") from error
    return Image
