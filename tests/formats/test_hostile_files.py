# SPDX-License-Identifier: Apache-2.0
"""Several hundred hostile and broken files: each refused with the one error, in one line, and nothing ran."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import hostile_files
import pytest

from fuzz import run, seeds, targets

pytest.importorskip("torch")


def _read_all(folder: Path, canary: Path) -> dict:
    """What the reader makes of every file in ``folder``, in a process of its own that watches itself."""
    script = Path(__file__).with_name("hostile_reader.py")
    paths = [str(Path(__file__).parents[1]), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CANARY": str(canary)}
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_hostile_file_is_refused_and_nothing_runs(tmp_path):
    canary, folder = tmp_path / "canary", tmp_path / "files"
    folder.mkdir()
    shell = seeds.value(f"touch {canary}")
    made = {kind: hostile_files.make(kind, 7, shell) for kind in hostile_files.KINDS}
    for number, (_, files) in enumerate(made.items()):
        for i, data in enumerate(files):
            (folder / f"{number:02}-{i:03}.pt").write_bytes(data)
    assert len(made) >= 12 and sum(map(len, made.values())) >= 300
    found = _read_all(folder, canary)
    assert len(found["files"]) == sum(map(len, made.values()))
    kinds = list(made)
    accepted = [f"{kinds[int(name[:2])]} {name[3:6]}" for name, text in found["files"].items() if text is None]
    assert not accepted
    # Refused for what they are, not because no model is like them; these hold only inert values, and no weights.
    by_reader = {kinds[int(name[:2])] for name in found["inert"]}
    assert by_reader <= {"pickled objects", "bombs", "module trees"} and len(found["inert"]) < 20
    for name, text in found["files"].items():
        assert text.startswith(str(folder / name)) and "\n" not in text and text.isprintable(), text
    assert found["events"] == [] and found["slowest"] < 30 and not canary.exists()
    assert found["peak_mb"] < 200, "a small file took much memory"
    assert any("posix.system" in text for text in found["files"].values())


def test_the_files_would_work_on_an_ordinary_unpickler(tmp_path):
    canary = tmp_path / "canary"
    for data in (b"\x80\x02cposix\nsystem\n" + seeds.value(f"touch {canary}") + b"\x85R.",):
        pickle.loads(data)
        assert canary.exists()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_short_fuzz_finds_nothing(name, monkeypatch, tmp_path):
    """The loop of ``make fuzz``, for a moment; without its audit hook, which a process cannot take off again."""
    monkeypatch.chdir(tmp_path)
    counts = run.mutation_loop(targets.TARGETS[name], seeds.of_target(name), seconds=20, seed=3, max_runs=1500)
    assert counts["runs"] == 1500 and counts["accepted"] > 5


def test_the_watch_notices(tmp_path):
    script = "import targets, os; w = targets.Watch(); w.armed = True; os.system('true'); print(w.events)"
    folder = Path(targets.__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "os.system" in done.stdout
