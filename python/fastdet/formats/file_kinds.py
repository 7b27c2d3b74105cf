# SPDX-License-Identifier: Apache-2.0
"""What a file is that is no checkpoint, told from its first bytes or from the names in it, and what to do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from fastdet.formats.errors import FileFormatError, shown

# First bytes -> what the file is. What to do, unless it says: find the checkpoint that it was made from.
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull` or download the file"),
    (b"\x1f\x8b", "gzip-compressed; unpack it first (gunzip, or tar xzf)"),
    (b"BZh", "bzip2-compressed; unpack it first"),
    (b"\xfd7zXZ\x00", "xz-compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes; load the PyTorch checkpoint of the model"),
    (b"ftrt", "a TensorRT engine; load the checkpoint it was built from"),
    (b"ptrt", "a TensorRT engine; load the checkpoint it was built from"),
    (b"\x93NUMPY", "a NumPy array; load the checkpoint it came from"),
    (b"GGUF", "a GGUF file; load the PyTorch checkpoint of the model"),
    (b"7767517\n", "an ncnn model; load the checkpoint it was exported from"),
    (b"\x7fELF", "a program; download the checkpoint again"),
    (b"MZ", "a program; download the checkpoint again"),
    (b"%PDF", "a PDF document; download the checkpoint again"),
    (b"\x89PNG", "a picture; give it to predict, and a checkpoint here"),
    (b"\xff\xd8\xff", "a picture; give it to predict, and a checkpoint here"),
)
_CHECKPOINT = "load the checkpoint it was exported from"
_ONNX = re.compile(rb"\x08[\x01-\x20](\x12[\x00-\x40][\x20-\x7e]|[\x1a\x22\x32\x3a\x42])", re.DOTALL)
_NESTED = (".pt", ".pth", ".ckpt", ".zip", ".safetensors", ".tar", ".gz", ".onnx")


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """``path`` opened for reading; FileFormatError for what is no file, with a hint for a folder."""
    try:
        if os.path.isdir(path):
            raise FileFormatError(path, _folder_kind(Path(path)))
        return open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(path, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def _folder_kind(folder: Path) -> str:
    """Why a folder is no checkpoint. Raises OSError where it cannot be listed."""
    names = {entry.name for entry in os.scandir(folder)}
    if "saved_model.pb" in names:
        return f"is a TensorFlow SavedModel; {_CHECKPOINT}"
    if "data.pkl" in names:
        return "is the unpacked content of a checkpoint; give the file that it was unpacked from"
    if any(name.endswith(".xml") for name in names) and any(name.endswith(".bin") for name in names):
        return f"is the folder of an OpenVINO model; {_CHECKPOINT}"
    inside = sorted(name for name in names if name.endswith((".pt", ".pth", ".safetensors")))
    return "is a folder; give the file" + (f" inside, such as {shown(inside[0])}" if inside else "")


def kind_of(head: bytes) -> str | None:
    """Why a file that begins with ``head`` (512 bytes, or all of it) is no checkpoint; None if it is a zip archive."""
    if head[:2] == b"PK":
        return None
    if not head:
        return "is empty; download it again"
    if not head.strip(b"\0"):
        return "holds nothing but zeros; download it again"
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return f"is {what}"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if (text.startswith(b"<?xml") and b"<net" in text) or text.startswith(b"<net"):
        return f"is an OpenVINO model; {_CHECKPOINT}"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not a checkpoint; download it with the link to the file itself"
    if head[257:262] == b"ustar":
        return _tar_kind(head)
    return _binary_kind(head)


def _tar_kind(head: bytes) -> str:
    first = head[:100].rstrip(b"\0").removeprefix(b"./").rstrip(b"/")
    if first in (b"sys_info", b"pickle", b"storages", b"tensors"):
        return (
            "is a tar archive, the form that torch wrote before 0.1.10; load it with torch and save it again "
            "(torch.save(torch.load(path), new_path))"
        )
    return "is a tar archive; unpack it and give the checkpoint inside"


def _binary_kind(head: bytes) -> str:
    if head[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model; {_CHECKPOINT}"
    if head[8:9] == b"{":
        return "is a safetensors file; it is read under the name ending in .safetensors"
    if head[4:5] == b"{" and b"\0" in head[:4]:
        return f"is a TensorRT engine with a header; {_CHECKPOINT}"
    if _ONNX.match(head):
        return f"is an ONNX model; {_CHECKPOINT}"
    if head[:1] == b"\x80" and head[1:2] in b"\x01\x02\x03\x04\x05":
        return "is a bare pickle, as PaddlePaddle or scikit-learn write; torch.save makes checkpoints"
    if head[:1] == b"{":
        return "is a JSON text, not a checkpoint; download it again"
    if len(head) >= 12 and head[:4] in (b"\0\0\0\0", b"\1\0\0\0") and head[4:8] in (b"\1\0\0\0", b"\2\0\0\0"):
        return "is a Darknet weights file; load a PyTorch checkpoint of the model"
    return "is not a torch checkpoint (a zip archive, or a pickle of torch before 1.6)"


def archive_kind(names: Sequence[str]) -> str | None:
    """Why a zip archive of these members is no checkpoint, or None."""
    inner = [name for name in names if not name.endswith("/")]
    if not inner:
        return "is an empty zip archive; download it again"
    if any(name.endswith("/constants.pkl") or "/code/__torch__" in name for name in inner):
        return f"is a TorchScript program; {_CHECKPOINT}"
    if any(name.endswith("data.pkl") for name in inner):
        return None
    if any(name.endswith((".data/extern_modules", "/.data/extern_modules")) for name in inner):
        return "is a torch.package, which holds code; a checkpoint with weights is needed"
    if any("serialized_exported_program" in name or name.endswith("/archive_format") for name in inner):
        return f"is a program of torch.export; {_CHECKPOINT}"
    if "config.json" in inner and any(name.endswith(".h5") for name in inner):
        return "is a Keras model; load the PyTorch checkpoint of the model"
    if all(name.endswith(".npy") for name in inner):
        return "is a NumPy archive; load the checkpoint its arrays came from"
    nested = [name for name in inner if name.lower().endswith(_NESTED)]
    if nested:
        return f"is a zip archive that holds {shown(nested[0])}; unpack it and give that file"
    return "is a zip archive with no data.pkl, so no torch checkpoint"
