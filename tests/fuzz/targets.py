# SPDX-License-Identifier: Apache-2.0
"""What the fuzzers call: one function of bytes per reader. Anything but a result or a reader's own error is a find."""

from __future__ import annotations

import hashlib
import importlib
import os
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastdet import _core
from fastdet.data import coco as coco_reader
from fastdet.data import yolo
from fastdet.data.coco import read_coco
from fastdet.data.dataset import DataError, strict
from fastdet.data.file_names import texts_of
from fastdet.data.index import HEADER, SECTIONS, Index, IndexFileError, open_index
from fastdet.data.index_rows import Annotations, Pictures
from fastdet.data.voc import read_voc_file
from fastdet.data.yolo import read_labels
from fastdet.data.yolo_yaml import read_yaml
from fastdet.formats import FileFormatError, read_safetensors, read_torch
from fastdet.formats.module_tree import flatten, is_module
from fastdet.formats.tensors import TensorReader
from fastdet.formats.unpickle import PickleError
from fastdet.image_files import read_size

sys.path.insert(0, str(Path(__file__).parent))  # whether run as a script or imported by a test
import seeds

SECONDS = 5.0  # a single input that takes longer is a find
# Audit events that mean that something ran, was loaded or was sent (https://docs.python.org/3/library/audit_events.html).
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "os.putenv",
    "os.remove", "os.rename", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate", "os.kill",
    "subprocess.Popen", "socket.connect", "socket.bind", "socket.__new__", "socket.getaddrinfo", "exec", "compile",
    "import", "pickle.find_class", "marshal.loads", "ctypes.dlopen", "pty.spawn", "shutil.", "webbrowser.open",
    "urllib.Request", "code.__new__", "builtins.input", "builtins.breakpoint", "cpython.run_", "tempfile.",
    "setopencodehook",
)  # fmt: skip


class Watch:
    """An audit hook that remembers forbidden events while it is armed, files opened for writing among them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.armed = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if not self.armed:
            return
        writes = event == "open" and isinstance(args[1], str) and args[1][:1] in "wax" and args[0] != str(_PATH)
        if writes or event.startswith(FORBIDDEN):
            self.armed = False
            self.events.append(f"{event}{args!r:.200}")


for _name in ("encodings.utf_8_sig", "yaml"):  # what readers import on first use; any other import is a find
    importlib.import_module(_name)
_FOLDER = tempfile.mkdtemp(prefix="fastdet-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
_PATH = Path(_FOLDER) / "input"


def _on_file(read: Callable[[Path], Any], data: bytes) -> Any:
    _PATH.write_bytes(data)
    try:
        return read(_PATH)
    except FileFormatError as error:
        if "\n" in str(error) or len(error.reason) > 1000:
            raise AssertionError(f"not one short line: {error}") from error
        return None


def archive(data: bytes) -> Any:
    """``data`` as a torch file of any form, from the first byte on."""
    return _on_file(read_torch, data)


def archive_with_checksums(data: bytes) -> Any:
    """The same with the checksums made right, so that changes reach what stands behind them."""
    return _on_file(read_torch, with_checksums(data))


def safetensors(data: bytes) -> Any:
    """``data`` as a safetensors file."""
    return _on_file(read_safetensors, data)


def opcodes(data: bytes) -> Any:
    """``data`` as the pickle of a checkpoint whose every storage is there, with 64 bytes; module trees are walked."""
    reader = TensorReader("input", 1 << 20, lambda key: 64, lambda key: np.zeros(64, np.uint8))
    try:
        value = reader.unpickler().load(data)
        if is_module(value):
            flatten(value)
    except PickleError:
        return None
    except ValueError:  # of ``flatten``: a tree that is none
        return None
    return value


def _on_labels(read: Callable[[Path], Any], data: bytes) -> Any:
    _PATH.write_bytes(data)
    try:
        return read(_PATH)
    except DataError as error:
        if "\n" in str(error) or len(str(error)) > 1000 or not str(error).startswith(str(_PATH)):
            raise AssertionError(f"not one short line that names the file: {error}") from error
        return None


def labels(data: bytes) -> Any:
    """``data`` as a label file of the YOLO ecosystem, with three classes."""
    return _on_labels(lambda path: read_labels(path, 3), data)


def voc(data: bytes) -> Any:
    """``data`` as the XML of a picture."""
    return _on_labels(read_voc_file, data)


def data_yaml(data: bytes) -> Any:
    """``data`` as the YAML of a data set."""
    return _on_labels(read_yaml, data)


def coco(data: bytes) -> Any:
    """``data`` as a COCO annotation file."""
    return _on_labels(lambda path: read_coco(path, _FOLDER, polygons=True), data)


def coco_native(data: bytes) -> Any:
    """The native reader of COCO files against the one in Python: what the first takes, both read alike."""
    _PATH.write_bytes(data)
    options = coco_reader.CocoOptions(allow_outside=False, polygons=True)
    clean = coco_reader._clean_index(_PATH, Path(_FOLDER), options, strict)
    if clean is None:
        return None
    checked = coco_reader._checked_index(_PATH, Path(_FOLDER), options, strict)
    for name in SECTIONS:
        if name not in ("about", "paths", "path_starts"):
            one, other = getattr(clean, name), getattr(checked, name)
            if one.shape != other.shape or one.tobytes() != other.tobytes():
                raise AssertionError(f"{name}: {one} natively, {other} in Python")
    if [*_paths(clean), clean.names, clean.category_ids] != [*_paths(checked), checked.names, checked.category_ids]:
        raise AssertionError("paths or categories differ")
    return clean


def _paths(index: Index) -> list[Path]:
    return [index.path(row) for row in range(len(index.height))]


def labels_native(data: bytes) -> Any:
    """The native reader of label files against the one in Python."""
    _PATH.write_bytes(data)
    found = _core.dataset_read_yolo(b"", *_PICTURE_TEXTS, b"", *_PATH_TEXTS, np.zeros(1, np.uint8), 3, 0, True)
    if found["unclean"][0]:
        return None
    problems: list[Any] = []
    rows = yolo.read_labels(_PATH, 3, report=problems.append)
    boxes = np.array([yolo._pixels(row, (48, 64), _PATH, problems.append) for row in rows]).reshape(-1, 4)
    polygons = [yolo._polygon(row, (48, 64)) for row in rows]
    point = np.concatenate([np.zeros((0, 2), np.float32), *polygons])
    same = found["corners"].tolist() == [len(polygon) for polygon in polygons]
    same = same and point.tobytes() == found["point"].tobytes() and boxes.tobytes() == found["box"].tobytes()
    if problems or not same or found["label"].tolist() != [row.label for row in rows]:
        raise AssertionError(f"{found} natively, {rows} {problems} in Python")
    return rows


def picture_header(data: bytes) -> Any:
    """The native reader of picture headers against ``read_size``."""
    _PATH.write_bytes(data)
    found = _core.dataset_read_yolo(b"", *_PATH_TEXTS, b"", *texts_of([]), np.zeros(1, np.uint8), 0, 0, False)
    if found["unclean"][0]:
        return None
    size = int(found["height"][0]), int(found["width"][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if read_size(_PATH) != size:
            raise AssertionError(f"{size} natively, {read_size(_PATH)} by Pillow")
    return size


def index(data: bytes) -> Any:
    """``data`` as an index file, its checksum put right so that changes reach what stands behind it."""
    if len(data) >= HEADER.size:
        head = data[: HEADER.size - 40] + len(data).to_bytes(8, "little")
        digest = hashlib.sha256(head + bytes(32) + data[HEADER.size :]).digest()
        data = head + digest + data[HEADER.size :]
    _PATH.write_bytes(data)
    try:
        opened = open_index(_PATH)
    except IndexFileError:
        return None
    return len(list(Pictures(opened))) + len(list(Annotations(opened)))


_PICTURE = Path(_FOLDER) / "picture.png"
_PICTURE.write_bytes(seeds.of_target("header")[0])
_PICTURE_TEXTS, _PATH_TEXTS = texts_of([str(_PICTURE)]), texts_of([str(_PATH)])
for _data in seeds.of_target("header"):  # Pillow imports what it needs on first use
    picture_header(_data)
TARGETS = {
    "zip": archive,
    "zip-crc": archive_with_checksums,
    "opcodes": opcodes,
    "safetensors": safetensors,
    "labels": labels,
    "voc": voc,
    "yaml": data_yaml,
    "coco": coco,
    "labels-native": labels_native,
    "coco-native": coco_native,
    "header": picture_header,
    "index": index,
}


def with_checksums(data: bytes) -> bytes:
    """``data`` with the checksum of each member that its zip directory names put right, as far as it can be read."""
    out = bytearray(data)
    position = out.find(b"PK\x01\x02")
    while 0 <= position <= len(out) - 46:
        size, name_length, extra, comment = struct.unpack_from("<IHHH", out, position + 24)
        (header,) = struct.unpack_from("<I", out, position + 42)
        if header <= len(out) - 30:
            start = header + 30 + sum(struct.unpack_from("<HH", out, header + 26))
            checksum = struct.pack("<I", zlib.crc32(out[start : start + size]))
            out[position + 16 : position + 20] = checksum
            if out[header + 14 : header + 18] != bytes(4):
                out[header + 14 : header + 18] = checksum
        position = out.find(b"PK\x01\x02", position + 46 + name_length + extra + comment)
    return bytes(out)


def check(watch: Watch, target: Callable[[bytes], Any], data: bytes) -> Any:
    """Run ``target`` on ``data`` under ``watch``. AssertionError for a forbidden event or for taking too long."""
    start = time.monotonic()
    watch.armed = True
    try:
        result = target(data)
    finally:
        watch.armed = False
    if watch.events:
        raise AssertionError(f"something ran: {watch.events}")
    taken = time.monotonic() - start
    if taken > SECONDS:
        raise AssertionError(f"took {taken:.1f} s")
    return result
