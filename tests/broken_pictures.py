# SPDX-License-Identifier: Apache-2.0
"""Pictures that are broken, odd or hostile, made on the fly for the tests of sources, detector and command line."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def pattern(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth coloured picture with a few discs, [H, W, 3] uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = np.stack([x / width, y / height, (x + y) / (width + height)], -1) * 120 + 90
    for _ in range(4):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(4, 12)
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    return image.astype(np.uint8)


def write_broken(folder: Path) -> dict[str, str]:
    """Twelve kinds of files that look like pictures by their names and cannot be read: name -> part of the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pattern())
    image.save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    image.save(folder / "whole.png")
    png = (folder / "whole.png").read_bytes()
    (folder / "whole.png").unlink()

    (folder / "empty.jpg").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "truncated.png").write_bytes(png[: len(png) // 2])
    (folder / "text.jpg").write_text("these are my notes, not a picture\n" * 20)
    (folder / "page.jpg").write_text("<!DOCTYPE html><html><body>404 not found</body></html>")
    (folder / "noise.jpg").write_bytes(np.random.default_rng(1).bytes(5000))
    (folder / "bomb.png").write_bytes(bomb("png", 20_000, 20_000))
    frames = [Image.fromarray(pattern(seed=seed)) for seed in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "float.tif")
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return {
        "empty.jpg": "empty",
        "truncated.jpg": "truncated",
        "truncated.png": "truncated",
        "text.jpg": "text file",
        "page.jpg": "HTML",
        "noise.jpg": "not a picture",
        "bomb.png": "bomb",
        "animated.gif": "3 frames",
        "float.tif": "'F'",
        "folder.jpg": "folder",
        "loop.jpg": "symbolic links",
        "gone.jpg": "no such file",
        "pipe.jpg": "not a regular file",
    }


def bomb(kind: str, width: int, height: int) -> bytes:
    """A file of below 200 bytes whose header claims ``width`` x ``height`` pixels."""
    return {
        "png": _png,
        "jpeg": _jpeg,
        "gif": _gif,
        "bmp": _bmp,
        "ppm": lambda w, h: f"P6 {w} {h} 255\n".encode() + b"\0" * 60,
        "tiff": _tiff,
        "webp_vp8x": _webp_vp8x,
        "webp_vp8l": _webp_vp8l,
        "webp_vp8": _webp_vp8,
    }[kind](width, height)


def text_bomb() -> bytes:
    """A PNG of 8 x 8 pixels that is whole, with 60 texts that unpack to 1 MB each, before and after the pixels."""
    text = _chunk(b"zTXt", b"note\0\0" + zlib.compress(b"a" * 1_000_000))
    profile = _chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"a" * 1_000_000))
    pixels = _chunk(b"IDAT", zlib.compress((b"\0" + b"\x80" * 24) * 8))
    body = [_png_header(8, 8), profile, text * 30, pixels, text * 30, _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_header(width: int, height: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def _png(width: int, height: int) -> bytes:
    pixels = _chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + _png_header(width, height) + pixels + _chunk(b"IEND", b"")


def _jpeg(width: int, height: int) -> bytes:
    frame = struct.pack(">HBHHB", 17, 8, height & 0xFFFF, width & 0xFFFF, 3) + bytes(
        [1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0]
    )
    scan = struct.pack(">HB", 12, 3) + bytes([1, 0, 2, 0, 3, 0, 0, 63, 0])
    return b"\xff\xd8\xff\xc0" + frame + b"\xff\xda" + scan + b"\0" * 20 + b"\xff\xd9"


def _gif(width: int, height: int) -> bytes:
    size = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return b"GIF89a" + size + b"\x80\0\0" + b"\0\0\0\xff\xff\xff" + b"," + b"\0" * 4 + size + b"\0\x02\x02L\x01\0;"


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, height)]
    tags += [(279, 4, 10)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def _webp(kind: bytes, payload: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _webp_vp8x(width: int, height: int) -> bytes:
    return _webp(
        b"VP8X", b"\x02\0\0\0" + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3] + b"\0" * 20
    )


def _webp_vp8l(width: int, height: int) -> bytes:
    return _webp(
        b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14) + b"\0" * 20
    )


def _webp_vp8(width: int, height: int) -> bytes:
    return _webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width & 0x3FFF, height & 0x3FFF) + b"\0" * 20)
