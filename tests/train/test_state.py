# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from fastdet.train.ema import Ema
from fastdet.train.optim import build_optimizer
from fastdet.train.state import INDEX, Position, load_state, newest_checkpoint, save_state, write_atomically


def training(kind="adamw", width=4, steps=3):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    ema = Ema(module, 0.9, 5)
    optimizer = build_optimizer(module, kind, lr=0.01, weight_decay=0.1)
    run(module, ema, optimizer, steps)
    return module, ema, optimizer


def run(module, ema, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        ema.update(module)


def position(epoch):
    return Position(epoch, 10 * epoch, 0.25, 1, {"epochs": 9, "scale": [0.5, 1.5]})


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_continues_with_the_same_bits(tmp_path, kind):
    module, ema, optimizer = training(kind)
    save_state(tmp_path, position(1), module, ema, optimizer)
    run(module, ema, optimizer, 4)  # with random inputs, from torch's generator

    again, ema_again, optimizer_again = training(kind, steps=0)
    path = newest_checkpoint(tmp_path)
    assert load_state(path, again, ema_again, optimizer_again) == position(1)
    run(again, ema_again, optimizer_again, 4)
    assert ema_again.updates == ema.updates == 7
    for one, two in ((module, again), (ema.module, ema_again.module)):
        assert all(torch.equal(one.state_dict()[k], v) for k, v in two.state_dict().items())


def test_keeps_two_and_finds_the_newest_whole_one(tmp_path):
    parts = training()
    paths = [save_state(tmp_path, position(epoch), *parts) for epoch in (1, 2, 3)]
    assert [path.exists() for path in paths] == [False, True, True]
    assert newest_checkpoint(tmp_path) == paths[2]
    content = bytearray(paths[2].read_bytes())
    content[-1] ^= 1
    paths[2].write_bytes(content)
    assert newest_checkpoint(tmp_path) == paths[1]
    paths[1].unlink()
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "none") is None


def test_the_index_cannot_lead_elsewhere(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "x").write_bytes(b"")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "run" / INDEX).write_text(json.dumps([{"file": "../x", "sha256": digest}]))
    assert newest_checkpoint(tmp_path / "run") is None
    (tmp_path / "run" / INDEX).write_text("[3]")
    with pytest.raises(ValueError, match="is damaged"):
        newest_checkpoint(tmp_path / "run")


def test_wrong_files_are_refused(tmp_path):
    parts = training()
    path = save_state(tmp_path, position(1), *parts)
    with pytest.raises(ValueError, match="does not fit the model"):
        load_state(path, *training(width=5))
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(ValueError, match="is not a training checkpoint"):
        load_state(tmp_path / "text", *parts)


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_keeps_the_last_good_file(tmp_path, monkeypatch, call):
    parts = training()
    path = save_state(tmp_path, position(1), *parts)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "write":
        real = open

        class Full:
            def __init__(self, *arguments):
                self.file = real(*arguments)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, data):
                self.file.write(data[: len(data) // 2])
                full()

        monkeypatch.setattr("builtins.open", Full)
    else:
        monkeypatch.setattr(os, call, full)
    with pytest.raises(RuntimeError, match="No space left on device"):
        save_state(tmp_path, position(2), *parts)
    monkeypatch.undo()
    assert newest_checkpoint(tmp_path) == path and path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, INDEX]


KILLED = """
import os, signal, sys, time
from pathlib import Path
from fastdet.train.state import write_atomically
target = Path(sys.argv[1])
write_atomically(target, b"0" * 3_000_000)
for kill in range(25):
    child = os.fork()
    if not child:
        number = 0
        while True:
            number += 1
            write_atomically(target, bytes([number % 256]) * 3_000_000)
    time.sleep(0.003 + 0.0017 * kill)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    content = target.read_bytes()
    if len(content) != 3_000_000 or len(set(content)) != 1:
        sys.exit(f"torn after kill {kill}")
"""


def test_killed_while_writing(tmp_path):
    """SIGKILL at 25 different times: the file is always one whole version."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_write_replaces(tmp_path):
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(RuntimeError, match="cannot write"):
        write_atomically(tmp_path / "none" / "a", b"")
