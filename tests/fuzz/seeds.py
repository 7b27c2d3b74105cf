# SPDX-License-Identifier: Apache-2.0
"""Small honest files of every form, from which the fuzzers start. Made here, from NumPy and the standard library."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import tempfile
import zipfile
from typing import Any

import numpy as np

from fastdet.formats import safetensors_bytes


def value(item: Any, protocol: int = 2) -> bytes:
    """The instructions that put a plain value on the stack."""
    return pickle.dumps(item, protocol)[2:-1] if protocol < 4 else pickle.dumps(item, protocol)[11:-1]


def tensor(key: str = "0", size: tuple = (4, 4), kind: str = "FloatStorage", elements: int = 16) -> bytes:
    """The instructions that make a contiguous tensor."""
    stride, step = [], 1
    for length in reversed(size):
        stride.insert(0, step)
        step *= length
    storage = b"(" + value("storage") + f"ctorch\n{kind}\n".encode() + value(key) + value("cpu") + value(elements)
    rest = value(0) + value(size) + value(tuple(stride)) + b"\x89" + value(collections.OrderedDict())
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + rest + b"tR"


def parameter(data: bytes) -> bytes:
    """The instructions that make a parameter of a tensor."""
    return b"ctorch._utils\n_rebuild_parameter\n(" + data + b"\x88" + value(collections.OrderedDict()) + b"tR"


def dictionary(items: dict[str, bytes]) -> bytes:
    """The instructions that make a dict of what other instructions make."""
    return b"}(" + b"".join(value(key) + item for key, item in items.items()) + b"u"


def module(
    kind: str,
    parameters: dict[str, bytes],
    children: dict[str, bytes],
    *,
    buffers: dict[str, bytes] | None = None,
    **attributes: Any,
) -> bytes:
    """The instructions that make a torch module of class ``kind``, which need not exist."""
    package, _, name = kind.rpartition(".")
    state = {"training": value(False), "_parameters": dictionary({k: parameter(v) for k, v in parameters.items()})}
    state |= {"_buffers": dictionary(buffers or {}), "_modules": dictionary(children)}
    state |= {"_non_persistent_buffers_set": b"c__builtin__\nset\n]\x85R"}
    state |= {key: item if isinstance(item, bytes) else value(item) for key, item in attributes.items()}
    return f"c{package}\n{name}\n)\x81".encode("latin1") + dictionary(state) + b"b"


def pickles() -> list[bytes]:
    """Whole pickles of the shapes that checkpoints have."""
    conv = module("torch.nn.modules.conv.Conv2d", {"weight": tensor(), "bias": tensor("1", (4,), elements=16)}, {})
    model = module("models.yolo.Model", {}, {"model": module("torch.nn.modules.container.Sequential", {}, {"0": conv})},
                   names=["a", "b"], yaml={"nc": 2})  # fmt: skip
    plain = {"epoch": -1, "best_fitness": 0.5, "date": "2024", "flags": (True, None, 2**70), "opt": {"imgsz": 640}}
    found = [pickle.dumps(plain, protocol) for protocol in range(2, 6)]
    found.append(b"\x80\x02" + dictionary({"model": model, "ema": b"N", "epoch": value(-1)}) + b".")
    found.append(b"\x80\x02" + dictionary({"state_dict": dictionary({"a.weight": tensor()})}) + b".")
    half = tensor("0", (2, 8), "HalfStorage", 32)
    found.append(b"\x80\x02" + dictionary({"w": half, "s": b"ctorch\nSize\n" + value((2, 3)) + b"\x85R"}) + b".")
    return found


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of the members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def torch_zip(data: bytes, **storages: bytes) -> bytes:
    """A torch file of the zip form around a pickle; storages 0 and 1 have 64 bytes unless given."""
    members = {"best/data.pkl": data, "best/byteorder": b"little"}
    stored = {"0": bytes(range(64)), "1": bytes(64), **storages}
    return archive(members | {f"best/data/{key}": each for key, each in stored.items()} | {"best/version": b"3\n"})


def legacy(data: bytes, sizes: dict[str, tuple[int, bytes]] | None = None) -> bytes:
    """A torch file of the form before 1.6 around a pickle; ``sizes``: elements and bytes by key of each storage."""
    sizes = {"0": (16, bytes(64))} if sizes is None else sizes
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, machine))
    body = b"".join(struct.pack("<q", count) + raw for count, raw in sizes.values())
    return head + data + pickle.dumps(list(sizes), 2) + body


_BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8.5</ymax></bndbox>"
_OBJECT = f"<object><name>a</name><difficult>0</difficult>{_BOX}<part><name>b</name>{_BOX}</part></object>"
_SIZE = "<size><width>20</width><height>10</height><depth>3</depth></size>"
# What the readers of labels start from.
LABEL_FILES = {
    "labels": [
        "0 0.5 0.5 0.25 0.5\n2 0.1 0.1 0.1 0.1\n",
        "1 0.1 0.1 0.2 0.1 0.2 0.2\n",
        "0 0.1 0.1 0.9 0.2 0.5 0.8\n2 0 0 1 0 1 1 0 1\n0 1.01 -0.01 0.3 0.25 0.125 1e-3 0.2 0.5\n",
        "\ufeff1.0\t.5 5e-1 nan inf\r\n",
    ],
    "voc": [f'<?xml version="1.0"?>\n<annotation><filename>a.jpg</filename>{_SIZE}{_OBJECT * 2}</annotation>'],
    "yaml": [
        "path: .\ntrain: images/train\nval: [images/val, list.txt]\nnames: {0: a, 1: b}\nnc: 2\nkpt_shape: [2, 3]\n",
        "train: &t images\nval: *t\nnames:\n- a\n- 'b'\ndownload: |\n  import os\nx: &x {<<: {y: 1:30}}\n",
        "train: a\nnc: 3\nz: 2001-01-01\n",
    ],
    "coco": [
        '{"images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 20}],'
        ' "categories": [{"id": 3, "name": "a"}],'
        ' "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3.5, 4], "iscrowd": 0}]}',
        '{"images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 20}],'
        ' "categories": [{"id": 3, "name": "a"}], "annotations": ['
        '{"segmentation": [[1, 2, 4.5, 2, 4.5, 6.25], [1, 1, 1e1, 1, -0, 3.5, 2, 9]], "id": 1, "image_id": 1,'
        ' "category_id": 3, "bbox": [1, 2, 3.5, 4]},'
        '{"id": 2, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": []},'
        '{"id": 3, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 1,'
        ' "segmentation": {"counts": [3, 5], "size": [2, 4]}}]}',
        '{"info": {"a": [1e3, true, null, "\\u00e9\\ud83d\\ude00"]}, "annotations": [], "images": ['
        '{"width": 9, "height": 8, "id": 2, "file_name": "a/\u00fc.jpg"}], "categories": [{"id": 0, "name": "\\n"}]}',
    ],
}


def of_target(name: str) -> list[bytes]:
    """The files that a target of ``targets.TARGETS`` starts from."""
    name = name.removesuffix("-native")
    if name == "header":
        return _pictures()
    if name == "index":
        return _indexes()
    if name in LABEL_FILES:
        return [text.encode() for text in LABEL_FILES[name]]
    if name == "opcodes":
        return pickles()
    if name == "safetensors":
        tensors = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.zeros((0, 3), np.float32)}
        return [safetensors_bytes(tensors, {"fastdet": "{}"}), safetensors_bytes({})]
    one = b"\x80\x02" + dictionary({"model": dictionary({"a.weight": tensor()})}) + b"."
    return [*(torch_zip(each) for each in pickles()), legacy(one), legacy(pickle.dumps({"a": 1}, 2), {})]


def _pictures() -> list[bytes]:
    """The first is 48 pixels high and 64 wide."""
    from PIL import Image

    pixels = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    turned = Image.Exif()
    turned[0x010F], turned[0x0112] = "maker of it", 6
    found = []
    for form, mode, options in (
        ("PNG", "RGB", {}),
        ("PNG", "P", {"dpi": (72, 72), "transparency": 3}),
        ("JPEG", "RGB", {"exif": turned.tobytes()}),
        ("JPEG", "L", {"progressive": True, "comment": b"a", "icc_profile": b"bcd"}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
        found.append(buffer.getvalue())
    return found


def _indexes() -> list[bytes]:
    from fastdet.data.index import write_index
    from fastdet.data.index_rows import IndexBuilder

    found = []
    for pictures, boxes in ((0, 0), (1, 0), (3, 4), (2, 5)):
        builder = IndexBuilder()
        for row in range(pictures):
            builder.picture(row, f"/set/{row}.jpg", (40, 60))
        for row in range(boxes):
            rings = [(1, 2, 4, 2, 4, 6), (1, 2, 3, 4, 5, 6, 7, 8)][: row - 1] if boxes > 4 else []
            builder.annotation(row, row % pictures, row % 2, (1.0, 2.0, 3.0, 4.0), 12.0, 0, rings)
        with tempfile.TemporaryDirectory() as folder:
            found.append(write_index(f"{folder}/x", builder.index(("a", "b"), (1, 2))).read_bytes())
    return found
