# SPDX-License-Identifier: Apache-2.0
"""A written file is the old one or the whole new one."""

from __future__ import annotations

import os
import stat

import pytest

from fastdet.files import write_atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "deep" / "er" / "a.bin"
    assert write_atomic(path, b"one") == path and path.read_bytes() == b"one"
    assert write_atomic(str(path), b"two") == path and path.read_bytes() == b"two"
    assert names(path.parent) == ["a.bin"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    data = b"new"
    if broken == "write":
        data = None  # what a file cannot write fails in the middle
    else:
        monkeypatch.setattr(os, broken, fail)
    with pytest.raises((OSError, TypeError)) as caught:
        write_atomic(path, data)
    assert getattr(caught.value, "filename", str(path)) == str(path)  # not that of the temporary file, nor none
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_links_and_special_files(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("there/real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "real").read_bytes() == b"new"
    write_atomic("/dev/null", b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError):
        write_atomic(tmp_path / "there", b"a folder")
    assert names(tmp_path) == ["link", "there"]


def test_long_names(tmp_path):
    name = "n" * 250
    write_atomic(tmp_path / name, b"x")
    assert names(tmp_path) == [name]
