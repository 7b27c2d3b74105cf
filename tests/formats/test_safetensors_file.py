# SPDX-License-Identifier: Apache-2.0
"""Our safetensors reader and writer against the format's own library: equal on good files, stricter on bad ones."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from fastdet.formats import FileFormatError, read_safetensors, safetensors_bytes
from fastdet.formats.safetensors_file import MAX_HEADER, MAX_TENSORS

library = pytest.importorskip("safetensors.numpy")

DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def _tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rs = np.random.RandomState(seed)
    tensors = {f"t.{d}": rs.randint(0, 2, rs.randint(1, 5, rs.randint(0, 4))).astype(d) for d in DTYPES}
    return tensors | {"empty": np.zeros((0, 3), np.float32), "größe ✓": np.arange(3.0)}


def _file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def test_the_library_reads_what_we_write(tmp_path):
    tensors, metadata = _tensors(), {"a": "1", "ü": "{}"}
    raw = safetensors_bytes(tensors, metadata)
    got = library.load(raw)
    assert set(got) == set(tensors)
    for name, value in tensors.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)
    (tmp_path / "x.safetensors").write_bytes(raw)
    from safetensors import safe_open

    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == metadata


def test_we_read_what_the_library_writes(tmp_path):
    tensors = _tensors(1)
    library.save_file(tensors, tmp_path / "x.safetensors", metadata={"k": "v"})
    got, metadata = read_safetensors(tmp_path / "x.safetensors")
    assert metadata == {"k": "v"} and set(got) == set(tensors)
    for name, value in tensors.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)


def test_bfloat16_is_widened_exactly(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    values = torch.randn(7, 3).bfloat16()
    save_file({"x": values}, tmp_path / "x.safetensors")
    got, _ = read_safetensors(tmp_path / "x.safetensors")
    assert got["x"].dtype == np.float32
    np.testing.assert_array_equal(got["x"], values.float().numpy())


def test_bytes_do_not_depend_on_the_order_of_keys():
    tensors = _tensors(2)
    backwards = dict(reversed(tensors.items()))
    assert safetensors_bytes(tensors, {"a": "1", "b": "2"}) == safetensors_bytes(backwards, {"b": "2", "a": "1"})


def test_every_tensor_is_aligned():
    raw = safetensors_bytes(_tensors(3))
    length = struct.unpack("<Q", raw[:8])[0]
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        assert (8 + length + entry["data_offsets"][0]) % _tensors(3)[name].dtype.itemsize == 0


def test_what_the_format_has_not_is_refused():
    with pytest.raises(ValueError, match="z must have a dtype and a name of the format, got complex64"):
        safetensors_bytes({"z": np.zeros(2, np.complex64)})
    with pytest.raises(ValueError, match="__metadata__ must have"):
        safetensors_bytes({"__metadata__": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="metadata must be text"):
        safetensors_bytes({}, {"a": 1})


def _entry(begin: int, end: int, shape: object = (1,), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BAD = {
    "empty file": b"",
    "short": b"\x10\0\0",
    "header past the end": _file({}, length=99),
    "header length of all ones": _file({}, length=2**64 - 1),
    "header too long": struct.pack("<Q", MAX_HEADER + 1) + b"{" + b" " * MAX_HEADER + b"}",
    "no object": _file([]),
    "leading space": _file(b" {}"),
    "not json": _file(b"{a}"),
    "not utf-8": _file(b'{"\xff": 1}'),
    "half a surrogate pair": _file(b'{"__metadata__":{"a":"\\ud800"}}'),
    "nested without end": _file(b'{"a":' * 200_000),
    "repeated tensor": _file(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"1",
    ),
    "repeated field": _file(b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"),
    "metadata of numbers": _file({"__metadata__": {"a": 1}}),
    "metadata of a list": _file({"__metadata__": []}),
    "tensor without offsets": _file({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "tensor with more": _file({"a": _entry(0, 4) | {"x": 1}}, bytes(4)),
    "tensor of text": _file({"a": "b"}),
    "unknown dtype": _file({"a": _entry(0, 4, dtype="F128")}, bytes(4)),
    "dtype of a list": _file({"a": _entry(0, 4, dtype=["F32"])}, bytes(4)),
    "shape of floats": _file({"a": _entry(0, 4, [1.0])}, bytes(4)),
    "shape of bools": _file({"a": _entry(0, 4, [True])}, bytes(4)),
    "negative shape": _file({"a": _entry(0, 4, [-1])}, bytes(4)),
    "negative zero": _file(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'),
    "not a number": _file(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'),
    "shape that wraps around": _file({"a": _entry(0, 0, [2**32, 2**32])}),
    "huge shape times zero": _file({"a": _entry(0, 0, [2**40, 2**40, 0])}),
    "huge number": _file(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'),
    "offsets backwards": _file({"a": _entry(4, 0)}, bytes(4)),
    "offsets past the end": _file({"a": _entry(0, 8, [2])}, bytes(4)),
    "three offsets": _file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, bytes(4)),
    "size and shape differ": _file({"a": _entry(0, 4, [2])}, bytes(4)),
    "gap before": _file({"a": _entry(4, 8)}, bytes(8)),
    "gap between": _file({"a": _entry(0, 4), "b": _entry(8, 12)}, bytes(12)),
    "overlap": _file({"a": _entry(0, 4), "b": _entry(2, 6)}, bytes(6)),
    "same extent": _file({"a": _entry(0, 4), "b": _entry(0, 4)}, bytes(4)),
    "same empty extent": _file({"a": _entry(0, 0, [0]), "b": _entry(0, 0, [0])}),
    "rest after the last": _file({"a": _entry(0, 4)}, bytes(5)),
    "data without tensors": _file({}, bytes(4)),
    "too many tensors": _file(
        {f"{i}": _entry(i, i + 1, [1], "U8") for i in range(MAX_TENSORS + 1)}, bytes(MAX_TENSORS + 1)
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    path.write_bytes(BAD[kind])
    with pytest.raises(FileFormatError, match=r"x\.safetensors: ") as error:
        read_safetensors(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_nothing_is_accepted_that_the_library_refuses(tmp_path):
    """Flipped bytes and cut ends: where we read a file, so does the library, to the same values."""
    from safetensors import SafetensorError

    path = tmp_path / "x.safetensors"
    good = safetensors_bytes({k: v for k, v in _tensors(4).items() if k in ("t.f2", "t.i8", "empty")}, {"a": "b"})
    header = 8 + struct.unpack("<Q", good[:8])[0]
    rs = np.random.RandomState(0)
    alphabet = np.frombuffer(b'0123456789{}[]",:-.eEFIBU \\', np.uint8)
    accepted = 0
    for _ in range(1000):
        data = bytearray(good)
        for position in rs.randint(0, header, rs.randint(1, 3)):
            data[position] = alphabet[rs.randint(len(alphabet))] if rs.rand() < 0.8 else rs.randint(256)
        path.write_bytes(data[: rs.randint(len(data))] if rs.rand() < 0.05 else data)
        try:
            got, _ = read_safetensors(path)
        except FileFormatError:
            continue
        accepted += 1
        try:
            want = library.load_file(path)
        except SafetensorError as error:
            raise AssertionError(f"accepted {bytes(data)!r}, refused by the library") from error
        except (KeyError, TypeError, AttributeError):
            continue  # a dtype that the library parses but does not hand to NumPy
        assert set(got) == set(want)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
    assert accepted > 30
