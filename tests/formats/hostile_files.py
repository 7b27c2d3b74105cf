# SPDX-License-Identifier: Apache-2.0
"""Hostile and broken checkpoints by kind, made from a seed: none of them may be accepted, or do anything."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable

import numpy as np

from fuzz import seeds

# What an attacker calls; each is given one text.
GLOBALS = [
    "os.system", "posix.system", "nt.system", "os.popen", "subprocess.Popen", "subprocess.check_output",
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "builtins.open", "__builtin__.eval",
    "__builtin__.execfile", "runpy.run_path", "importlib.import_module", "pty.spawn", "commands.getoutput",
    "webbrowser.open", "shutil.rmtree", "ctypes.CDLL", "code.interact", "timeit.timeit", "pdb.run", "cProfile.run",
    "pydoc.pipepager", "platform.popen", "socket.create_connection", "urllib.request.urlopen", "operator.attrgetter",
    "marshal.loads", "pickle.loads", "torch.hub.load", "torch.load", "torch.serialization.load",
    "torch.utils.cpp_extension.load", "numpy.load", "numpy.testing._private.utils.runstring", "pip.main",
    "setuptools.setup", "tempfile.mktemp", "logging.config.listen",
]  # fmt: skip


class _Act:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def _state(extra: bytes = b"") -> bytes:
    """A checkpoint with true weights, and ``extra`` instructions under another key."""
    items = {"model": seeds.dictionary({"a.weight": seeds.tensor()})} | ({"extra": extra} if extra else {})
    return b"\x80\x02" + seeds.dictionary(items) + b"."


def _named(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def _reduces(random, shell):
    """A call by REDUCE: alone, or beside true weights."""
    alone = [b"\x80\x02" + _named(name) + shell + b"\x85R." for name in GLOBALS]
    return [seeds.torch_zip(each) for each in alone + [_state(_named(n) + shell + b"\x85R") for n in GLOBALS]]


def _pickled(random, shell):
    """Real objects with ``__reduce__``, in every protocol and nesting."""
    command = pickle.loads(b"\x80\x02" + shell + b".")
    made = [
        _Act(os.system, (command,)),
        {"model": _Act(eval, (f"open({command!r}, 'w')",))},
        [_Act(subprocess.call, (["sh", "-c", command],))],
        {"x": {"y": (1, _Act(os.popen, (command,)))}},
        _Act(dict, (), {"a": 1}, None, iter([("k", _Act(os.system, (command,)))])),
    ]
    return [seeds.torch_zip(pickle.dumps(each, protocol)) for each in made for protocol in range(6)]


def _other_calls(random, shell):
    """INST, OBJ, NEWOBJ, NEWOBJ_EX, STACK_GLOBAL, copyreg and chains of getattr."""
    system, text = _named("os.system"), seeds.value
    importer = _named("builtins.__import__") + text("os") + b"\x85R"
    found = [
        b"(" + shell + b"ios\nsystem\n.",
        b"(cos\nsystem\n" + shell + b"o.",
        b"\x80\x02" + system + shell + b"\x85\x81.",
        b"\x80\x04" + system + shell + b"\x85}\x92.",
        b"\x80\x04" + system + b")}" + text("command") + shell + b"s\x92.",
        b"\x80\x04" + text("os") + text("system") + b"\x93" + shell + b"\x85R.",
        b"\x80\x04" + text("os") + text("path.os.system") + b"\x93" + shell + b"\x85R.",
        b"\x80\x02" + _named("copyreg.__newobj__") + system + shell + b"\x86R.",
        b"\x80\x02" + _named("copy_reg._reconstructor") + system + _named("builtins.object") + shell + b"\x87R.",
        b"\x80\x02" + _named("builtins.getattr") + importer + text("system") + b"\x86R" + shell + b"\x85R.",
        b"\x80\x02" + _named("builtins.getattr") + _named("os.path") + text("os") + b"\x86R.",
        b"\x80\x02" + _named("builtins.getattr") + _named("a.B") + text("__class__") + b"\x86R.",
        b"\x80\x02" + _named("builtins.getattr") + _named("a.B") + text("c") + b"\x86R" + shell + b"\x85R.",
        b"\x80\x02" + _named("functools.partial") + system + shell + b"\x86R.",
        b"\x80\x02" + _named("builtins.map") + system + b"]" + shell + b"a\x86R.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02\x83\x01\x00.",
        b"\x80\x02\x84\x01\x00\x00\x00.",
    ]
    return [seeds.torch_zip(each) for each in found]


def _builds(random, shell):
    """BUILD, SETITEM and APPEND on what has no state."""
    state = b"}" + seeds.value("__class__") + _named("os.system") + b"s"
    targets = [
        _named("os.system"),
        _named("torch.nn.Module"),
        b"]",
        b")",
        seeds.value("x"),
        seeds.value(3),
        seeds.tensor(),
    ]
    found = [b"\x80\x02" + target + state + b"b." for target in targets]
    found += [b"\x80\x02" + target + b"N" + state + b"\x86b." for target in targets]
    found += [b"\x80\x02" + _named("os.system") + seeds.value("k") + b"Ns.", b"\x80\x02)Na.", b"\x80\x02}Na."]
    return [seeds.torch_zip(each) for each in found]


def _persistent(random, shell):
    """Persistent ids that are no storage, or a storage of something else."""
    text = seeds.value
    head = b"\x80\x02(" + text("storage")
    ids = [
        b"P" + b"0\n.",
        b"\x80\x02" + shell + b"Q.",
        b"\x80\x02NQ.",
        b"\x80\x02)Q.",
        head + b"tQ.",
        head + _named("torch.FloatStorage") + text("../../etc/passwd") + text("cpu") + text(16) + b"tQ.",
        head + _named("torch.FloatStorage") + text("0") + text("cpu") + text(-16) + b"tQ.",
        head + _named("torch.FloatStorage") + text("0") + text("cpu") + text(2**70) + b"tQ.",
        head + _named("torch.FloatStorage") + text("0") + text("cpu") + text(1.5) + b"tQ.",
        head + _named("torch.FloatStorage") + text(0) + text("cpu") + text(16) + b"tQ.",
        head + _named("os.system") + text("0") + text("cpu") + text(16) + b"tQ.",
        head + _named("torch.QInt8Storage") + text("0") + text("cpu") + text(64) + b"tQ.",
        head + _named("os.system") + shell + b"\x85R" + text("0") + text("cpu") + text(16) + b"tQ.",
        b"\x80\x02(" + text("module") + _named("os.system") + text("f.py") + shell + b"tQ.",
    ]
    return [seeds.torch_zip(each) for each in ids]


def _bombs(random, shell):
    """Little files that would take much memory or time: memo, nesting, sets, integers, lengths, instructions."""
    doubling = b"".join(b"q\x00h\x00\x86" for _ in range(70))
    found = [
        b"\x80\x02}N" + doubling[0:0] + b"N" + doubling + b"s0.",
        b"\x80\x02}" + b"N" + doubling + b"K\x01s.",
        b"\x80\x02" + b"}" * 1_500_000 + b".",
        b"\x80\x04" + b"\x8f" * 400_000 + b".",
        b"\x80\x02" + b"(" * 1_000_000,
        b"\x80\x02" + b"]" * 900_000 + b"a" * 899_999 + b".",
        b"\x80\x04" + b"N\x94" * 600_000 + b".",
        b"\x80\x02N" + b"\x85" * 900_000 + b".",
        b"\x80\x02" + b"N0" * 1_100_000 + b"N.",
        b"\x80\x02](" + b"N" * 300_000 + b"eq\x000" + b"c__builtin__\nset\nh\x00\x85R0" * 500 + b"N.",
        b"\x80\x02](" + b"N" * 300_000 + b"eq\x000" + b"](h\x00e0" * 500 + b"N.",
        b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
        b"\x80\x02\x8b\x00\x08\x00\x00" + b"\xff" * 2048 + b".",
        b"\x80\x02X\xff\xff\xff\xff" + b"a" * 99 + b".",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xffa.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02h\x00.",
        b"\x80\x02c" + b"a" * 100_000 + b"\nb\n.",
    ]
    return [seeds.torch_zip(each) for each in found]


def _lies(random, shell):
    """Tensors and storages that claim other sizes than there are."""

    def tensor(offset=0, size=(4, 4), stride=(4, 1), elements=16, kind="FloatStorage", key="0"):
        value = seeds.value
        storage = (
            b"(" + value("storage") + f"ctorch\n{kind}\n".encode() + value(key) + value("cpu") + value(elements) + b"tQ"
        )
        body = b"".join(map(value, (offset, size, stride, False, None)))
        return b"\x80\x02" + seeds.dictionary({"model": seeds.dictionary(
            {"w": b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + body + b"tR"})}) + b"."  # fmt: skip

    claims = [
        {"elements": 15}, {"elements": 17}, {"elements": -16}, {"elements": 2**62}, {"elements": 2**64 + 16},
        {"offset": 1}, {"offset": -1}, {"offset": 2**63}, {"stride": (5, 1)}, {"stride": (-4, 1)}, {"stride": (4, -1)},
        {"size": (-4, 4)}, {"size": (2**40, 2**40)}, {"size": (2**32, 2**32), "stride": (0, 0)}, {"stride": (0, 1)},
        {"stride": (1, 1)}, {"size": (16,)}, {"size": [4, 4]}, {"size": (4.0, 4.0)}, {"size": (True, True)},
        {"key": "9"},
        {"size": (1,) * 40, "stride": (1,) * 40}, {"kind": "HalfStorage"}, {"kind": "NoStorage"}, {"key": "../0"},
    ]  # fmt: skip
    claims += [{"offset": int(n)} for n in random.randint(1, 2**40, 10)]
    claims += [{"stride": (int(n), 1)} for n in random.randint(5, 2**40, 10)]
    claims += [{"elements": int(n)} for n in random.randint(17, 2**40, 10)]
    return [seeds.torch_zip(tensor(**claim)) for claim in claims]


def _good() -> bytearray:
    return bytearray(seeds.torch_zip(_state()))


def _structures(random, shell):
    """Zip directories and headers that lie: offsets, sizes, counts, overlaps, zip64, checksums, prepended data."""
    found = []
    for offset in (8, 10, 16, 20, 24, 28, 30, 32, 42):  # fields of an entry of the directory
        for value in (b"\xff\xff", b"\x01\x7f"):
            data = _good()
            at = data.index(b"PK\x01\x02") + offset
            data[at : at + 2] = value
            found.append(bytes(data))
    for offset in (4, 6, 8, 10, 12, 16):  # fields of the end record
        data = _good()
        at = data.rindex(b"PK\x05\x06") + offset
        data[at : at + 2] = b"\x05\x03"
        found.append(bytes(data))
    data = _good()
    last = data.rindex(b"PK\x01\x02") + 42
    data[last : last + 4] = bytes(4)
    found += [
        bytes(data),
        b"MZ" + bytes(_good()),
        bytes(_good()) + b"more",
        bytes(_good()).replace(b"PK\x01\x02", b"PK\x01\x03"),
    ]
    for _ in range(10):  # a wrong checksum: one bit of a storage or of the pickle
        data = _good()
        at = data.index(b"}(") + int(random.randint(40))
        data[at] ^= 1 << int(random.randint(8))
        found.append(bytes(data))
    data = bytes(_good())
    end = data.rindex(b"PK\x05\x06")
    _, _, _, count, length, start, _ = struct.unpack("<HHHHIIH", data[end + 4 :])
    for lie in (
        (count + 1, length, start),
        (count, length + 4, start),
        (count, length, start + 4),
        (2**40, length, start),
    ):
        entries, size, begin = lie
        record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, entries, entries, size, begin)
        found.append(data[:end] + record + b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1) + data[end:])
    return found


def _names(random, shell):
    """Members with names that lead elsewhere, come twice, or are packed or hidden."""
    found = []
    for name in ("../data.pkl", "/etc/data.pkl", "a/../../data.pkl", "a\\..\\data.pkl", "..", "a/./../b/data.pkl"):
        found.append(seeds.archive({"best/data.pkl": _state(), "best/data/0": bytes(64), name: b"x"}))
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        found.append(seeds.archive({"best/data.pkl": _state(), "best/data/0": bytes(10**7)}, compression))
    found.append(seeds.archive({"a/data.pkl": _state(), "b/data.pkl": _state()}))
    found.append(seeds.archive({"a/data.pkl": _state(), "a/a/data.pkl": _state()}))
    found.append(seeds.archive({f"a/{i}": b"" for i in range(3)}))
    found.append(seeds.archive({"inner.pt": bytes(_good())}))
    found.append(seeds.archive({"model.zip": bytes(_good())}))
    found.append(seeds.archive({"a/data.pkl": _state(), "a/constants.pkl": b"x"}))
    found.append(seeds.archive({"a/data.pkl": _state(), "a/data/0": bytes(64), "a/byteorder": b"middle"}))
    twice = bytes(_good()).replace(b"best/data/1", b"best/data/0")
    return [*found, twice]


def _broken_off(random, shell):
    """Downloads that broke off, at any place, of both forms."""
    old = seeds.legacy(_state())
    cuts = [bytes(_good())[: int(at)] for at in random.randint(4, len(_good()) - 1, 15)]
    return cuts + [old[: int(at)] for at in random.randint(1, len(old) - 1, 15)] + [old + b"more"]


def _old_form(random, shell):
    """The form before 1.6 with lists, lengths and content that lie, and with calls."""
    pickled = [_state(_named(name) + shell + b"\x85R") for name in GLOBALS[:10]]
    found = [seeds.legacy(each) for each in pickled]
    for count in (15, 17, -1, 2**40, 2**62):
        found.append(seeds.legacy(_state(), {"0": (count, bytes(64))}))
    found.append(seeds.legacy(_state(), {"1": (16, bytes(64))}))
    found.append(seeds.legacy(_state(), {"0": (16, bytes(64)), "2": (16, bytes(64))}))
    found.append(seeds.legacy(_state(), {}))
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    return [
        *found,
        magic,
        magic + pickle.dumps(1, 2),
        magic + pickle.dumps(1001, 2) + _named("os.system") + shell + b"\x85R.",
    ]


def _trees(random, shell):
    """Module trees that have no end, no names, or other things in the place of weights."""
    empty = {"_parameters": b"}", "_buffers": b"}", "_modules": b"}", "training": b"\x89"}

    def module(**parts: bytes) -> bytes:
        return b"ca\nB\n)\x81" + seeds.dictionary({**empty, **parts}) + b"b"

    cyclic = b"\x80\x02ca\nB\n)\x81q\x01" + seeds.dictionary(
        {**empty, "_modules": seeds.dictionary({"x": b"h\x01", "y": b"h\x01"})}) + b"b."  # fmt: skip
    number = seeds.dictionary({"w": seeds.value(3)})
    trees = [
        cyclic,
        b"\x80\x02" + module() + b".",
        b"\x80\x02" + module(_parameters=number) + b".",
        b"\x80\x02" + module(_modules=number) + b".",
        b"\x80\x02" + module(_modules=b"}K\x01" + module() + b"s") + b".",
        b"\x80\x02" + module(_parameters=seeds.dictionary({"w": b"cos\nsystem\n"})) + b".",
        b"\x80\x02" + module(_parameters=seeds.dictionary({"w": b"cos\nsystem\n" + shell + b"\x85R"})) + b".",
    ]
    return [seeds.torch_zip(each) for each in trees]


def _other_kinds(random, shell):
    """Files of other kinds under the name of a checkpoint."""
    noise = random.bytes(300)
    heads = [
        b"", b"\0" * 500, b"hello", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"<!DOCTYPE html><html>", b'<?xml version="1.0"?><net name="m">', b"\x89HDF\r\n\x1a\n" + noise, b"ftrt" + noise,
        b"\x08\x08\x12\x07pytorch" + noise, b"\x1c\0\0\0TFL3" + noise, b"\x93NUMPY\x01\x00" + noise, b"\x7fELF" + noise,
        gzip.compress(bytes(_good())), b"BZh9" + noise, b"\xfd7zXZ\x00" + noise, b"7z\xbc\xaf\x27\x1c" + noise,
        pickle.dumps({"a": np.zeros(3)}, 4), b"{}", b'{"error": "not found"}', b"GGUF" + noise, b"7767517\n75 83\n",
        b"\0\0\0\0\2\0\0\0\5\0\0\0" + noise, b"sys_info" + bytes(249) + b"ustar\0" + bytes(300), noise, noise[:3],
        b"\x08\0\0\0\0\0\0\0{\"a\": 1}", b"\xff" * 8 + b"{}", b"\x02\0\0\0\0\0\0\0{}" + noise,
    ]  # fmt: skip
    return [*heads, *(random.bytes(int(n)) for n in random.randint(1, 2000, 10))]


KINDS: dict[str, Callable] = {
    "calls by REDUCE": _reduces, "pickled objects": _pickled, "other calls": _other_calls, "BUILD": _builds,
    "persistent ids": _persistent, "bombs": _bombs, "sizes that lie": _lies, "zip structure": _structures,
    "zip names": _names, "broken off": _broken_off, "before 1.6": _old_form, "module trees": _trees,
    "other kinds of file": _other_kinds,
}  # fmt: skip


def make(kind: str, seed: int, shell: bytes) -> list[bytes]:
    """The files of a kind; ``shell``: instructions that put the command on the stack which would leave a trace."""
    return KINDS[kind](np.random.RandomState(seed), shell)
