# SPDX-License-Identifier: Apache-2.0
"""Safetensors files (https://github.com/huggingface/safetensors) read with limits and written reproducibly."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdet.formats.errors import FileFormatError
from fastdet.formats.strict_json import unique

MAX_HEADER = 8 << 20
MAX_TENSORS = 100_000
_MAX_INTEGER = 1 << 62
_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "I16": "<i2",
    "U16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "U64": "<u8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items() if name != "BF16"}


def safetensors_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file as bytes. The same input gives the same bytes, whatever the order of its keys.

    Args:
        tensors: arrays of a bool, integer or float dtype by name. metadata: text by name.

    Raises:
        ValueError: a dtype that the format has not, the name ``__metadata__``, or metadata that is not text.
    """
    metadata = dict(sorted((metadata or {}).items()))
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise ValueError("safetensors_bytes: metadata must be text by name")
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    parts, end = [], 0
    # Wider items first, so that every tensor is aligned to its own item size.
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        array = np.asarray(tensors[name])
        kind = _NAMES.get(array.dtype.newbyteorder("<"))
        if kind is None or name == "__metadata__":
            raise ValueError(f"safetensors_bytes: {name} must have a dtype and a name of the format, got {array.dtype}")
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, *parts))


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; bfloat16 is widened to float32.

    Stricter than the format: a header of at most 8 MB and 100 000 tensors, no repeated key, tensors that fill the
    file without gap, overlap or rest.

    Raises:
        FileFormatError: the file breaks a rule; the message names it.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
            if length is None or length > min(MAX_HEADER, size - 8):
                raise FileFormatError(path, "is not a safetensors file, or one that broke off in its header")
            entries, metadata = _parse_header(path, file.read(length))
            _check_extents(path, entries, size - 8 - length)
            tensors = {}
            for name, (kind, shape, (begin, end)) in entries.items():
                data = np.empty(end - begin, np.uint8)
                file.seek(8 + length + begin)
                if file.readinto(memoryview(data)) != len(data):  # type: ignore[arg-type]
                    raise FileFormatError(path, f"ends inside tensor {name!r}; download it again")
                tensors[name] = _typed(data, kind).reshape(shape)
    except OSError as error:
        raise FileFormatError(path, f"cannot be read: {error.strerror}") from error
    return tensors, metadata


_Entry = tuple[str, tuple[int, ...], tuple[int, int]]


def _typed(data: np.ndarray, kind: str) -> np.ndarray:
    if kind == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return np.not_equal(data, 0) if kind == "BOOL" else data.view(_DTYPES[kind])


def _parse_header(path: str | os.PathLike[str], raw: bytes) -> tuple[dict[str, _Entry], dict[str, str]]:
    def reject(value: str) -> None:
        raise ValueError(f"the number {value}")

    def natural(text: str) -> int:
        if text.startswith("-") or len(text) > 19:
            reject(text[:20])
        return int(text)

    try:
        text = raw.decode()
        if not text.startswith("{"):
            raise ValueError("no object")
        header = json.loads(
            text, object_pairs_hook=unique, parse_int=natural, parse_constant=reject, parse_float=reject
        )
        json.dumps(header, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, f"has a safetensors header that is not valid ({error})") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileFormatError(path, "has metadata that is not text by name")
    if len(header) > MAX_TENSORS:
        raise FileFormatError(path, f"has {len(header)} tensors; at most {MAX_TENSORS} are read")
    return {name: _parse_entry(path, name, entry) for name, entry in header.items()}, metadata


def _parse_entry(path: str | os.PathLike[str], name: str, entry: Any) -> _Entry:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FileFormatError(path, f"has an entry {name!r} that describes no tensor")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    whole = all(isinstance(part, list) and all(type(item) is int for item in part) for part in (shape, offsets))
    if not isinstance(kind, str) or kind not in _DTYPES or not whole or len(offsets) != 2 or len(shape) > 32:
        raise FileFormatError(path, f"has a tensor {name!r} of dtype {kind!r} and shape {shape!r}, which is not read")
    size = np.dtype(_DTYPES[kind]).itemsize
    for item in shape:
        size *= item
        if size > _MAX_INTEGER or item > _MAX_INTEGER:
            raise FileFormatError(path, f"has a tensor {name!r} of an impossible shape")
    if offsets[1] - offsets[0] != size:
        raise FileFormatError(path, f"has a tensor {name!r} of {size} bytes at offsets {offsets}")
    return kind, tuple(shape), (offsets[0], offsets[1])


def _check_extents(path: str | os.PathLike[str], entries: Mapping[str, _Entry], length: int) -> None:
    """Tensors lie one behind the other from the first to the last byte, and no two have the same extent."""
    position, previous = 0, None
    for extent in sorted(extent for _, _, extent in entries.values()):
        if extent[0] != position or extent == previous:
            raise FileFormatError(path, f"has tensors with a gap or an overlap at byte {position}")
        position, previous = extent[1], extent
    if position != length:
        raise FileFormatError(
            path, f"has {length} bytes of data where its header describes {position}; download it again"
        )
