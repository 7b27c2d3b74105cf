# SPDX-License-Identifier: Apache-2.0
"""The command line as a person or a script meets it: outputs, exit codes, errors, interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastdet
from broken_pictures import pattern, write_broken
from fastdet.cli import COMMANDS, main
from small_models import coco_folder, random_module

SCORE = ["--score-threshold", "0.02"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    from fastdet.models import checkpoint

    module = random_module()
    checkpoint.save_fastdet(path, module, names=module.names, dtype="float32", metadata={})
    return str(path)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, (height, width) in enumerate([(120, 160), (64, 200), (96, 96)]):
        Image.fromarray(pattern(height, width, seed)).save(folder / f"{'abc'[seed]}.png")
    return folder


def call(capfd, *words):
    """(exit code, lines of standard output, lines of standard error)"""
    code = main([str(word) for word in words])
    out, err = capfd.readouterr()
    return code, out.splitlines(), err.splitlines()


def start(*words, **options):
    """The command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FASTDET_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    command = [sys.executable, "-m", "fastdet", *map(str, words)]
    # A suite started in the background ignores SIGINT, and so would every process it starts.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, **{**pipes, **options})
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_one_screen_and_has_an_example(capfd, command):
    code, out, err = call(capfd, *([command] if command else []), "--help")
    assert code == 0 and err == [] and len(out) <= 40 and max(map(len, out)) <= 100
    assert re.search(r"^example: fastdet|^Example: fastdet", "\n".join(out), re.MULTILINE)


def test_help_all_shows_every_setting_of_train(capfd):
    from dataclasses import fields

    from fastdet.train.config import TrainConfig

    _, brief, _ = call(capfd, "train", "--help")
    code, full, _ = call(capfd, "train", "--help-all")
    text = "\n".join(full)
    assert code == 0 and len(full) > len(brief)
    for each in fields(TrainConfig):
        flag = each.name.replace("_", "-")
        assert f"--{flag} " in text or f"--no-{flag}" in text, each.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--iou-treshold", "0.5"], "did you mean --iou-threshold"),
        (["predict", "--score", "0.5"], "did you mean --score-threshold"),
        (["predict", "--score-threshold", "2"], "score_threshold must be in [0, 1]"),
        (["predict", "--max-det", "many"], "invalid int value"),
        (["predict", "https://example.org/a.jpg"], "must be local"),
        (["pretict"], "did you mean predict"),
        (["frobnicate"], "there are predict, train"),
        (["val"], "DATA"),
        (["train"], "--data"),
        (["train", "--data", "x", "--epochs", "0"], "epochs must be at least 1"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(capfd, words, message):
    code, out, err = call(capfd, *words)
    assert code == 2 and out == [] and len(err) == 1 and message in err[0] and err[0].startswith("fastdet")


@pytest.mark.parametrize("words", [[], ["--version"], ["-V"]])
def test_no_command_and_version(capfd, words):
    code, out, err = call(capfd, *words)
    assert code == (0 if words else 2) and err == []
    assert out == [f"fastdet {fastdet.__version__}"] if words else "usage" in out[0]


def test_table_and_json_say_what_python_says(capfd, pictures, weights, tmp_path):
    code, out, err = call(capfd, "predict", pictures, "--weights", weights, "--json", tmp_path / "deep/f.json", *SCORE)
    found = fastdet.load(weights)(pictures, score_threshold=0.02)
    assert code == 0 and len(err) == 1 and re.match(r"\d+ detections on 3 pictures in [\d.]+ s; written to", err[0])
    assert out[0].split() == ["picture", "class", "score", "x1", "y1", "x2", "y2"]
    rows = [line.split() for line in out[1:]]
    wanted = [(each.path, *detection) for each in found for detection in each]
    assert len(rows) == len(wanted) > 10
    for row, (path, box, score, _, name) in zip(rows, wanted):
        assert row == [str(path), name, f"{score:.2f}", *(f"{side:.1f}" for side in box)]
    assert len({len(line) for line in out}) == 1  # aligned
    results = json.loads((tmp_path / "deep/f.json").read_text())
    assert [Path(row.pop("file_name")) for row in results] == [row[0] for row in wanted]
    assert results == [row for number, each in enumerate(found) for row in each.to_coco(number)]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["f.json"]


def test_json_is_read_by_pycocotools(capfd, pictures, weights, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    assert call(capfd, "predict", pictures, "--weights", weights, "--json", tmp_path / "f.json", *SCORE)[0] == 0
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": i} for i in range(3)], "categories": [{"id": i} for i in range(3)]}
    truth.dataset["annotations"] = []
    truth.createIndex()
    assert len(truth.loadRes(str(tmp_path / "f.json")).anns) == len(json.loads((tmp_path / "f.json").read_text()))


def test_nothing_found_is_said(capfd, pictures, weights, tmp_path):
    words = ["predict", pictures, "--weights", weights, "--score-threshold", "1", "--json", tmp_path / "f.json"]
    code, out, err = call(capfd, *words)
    assert code == 0 and [line.split()[1:] for line in out[1:]] == [["-"] * 6] * 3
    assert err[0].startswith("0 detections on 3 pictures") and json.loads((tmp_path / "f.json").read_text()) == []


@pytest.mark.parametrize("batch", ["1", "4"])
def test_broken_pictures_among_good_ones(capfd, pictures, weights, tmp_path, batch):
    reasons = write_broken(pictures)
    words = ["--weights", weights, "--save", tmp_path / "out", "--json", tmp_path / "f.json", "--batch", batch, *SCORE]
    code, out, err = call(capfd, "predict", pictures, tmp_path / "missing.jpg", tmp_path / "*.xyz", *words)
    assert code == 1
    for name, reason in {
        **{f"in/{name}": reason for name, reason in reasons.items()},
        "missing.jpg": "no such",
        "*.xyz": "no file matches",
    }.items():
        lines = [line for line in err if line.startswith(f"fastdet predict: {tmp_path / name}: ")]
        assert len(lines) == 1 and reason in lines[0]
    assert len(err) == len(reasons) + 3 and f"{len(reasons) + 2} could not be read" in err[-1]
    assert {Path(line.split()[0]).name for line in out[1:]} == {"a.png", "b.png", "c.png"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "c.png"]
    names = [path.name for path in sorted(pictures.iterdir())]  # numbers count the broken ones too
    assert {
        (row["image_id"], Path(row["file_name"]).name) for row in json.loads((tmp_path / "f.json").read_text())
    } == {(names.index(name), name) for name in ("a.png", "b.png", "c.png")}


def test_only_broken_pictures(capfd, weights, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    code, out, err = call(capfd, "predict", tmp_path, "--weights", weights)
    assert code == 1 and out == [] and "the file is empty" in err[0] and "0 detections on 0 pictures" in err[1]


def test_saved_pictures_are_those_of_plot(capfd, pictures, weights, tmp_path):
    (tmp_path / "more").mkdir()
    Image.fromarray(pattern(50, 60, 7)).save(tmp_path / "more" / "A.png")
    (tmp_path / "more" / "b.gif").write_bytes((pictures / "b.png").read_bytes())
    words = [
        "predict",
        pictures,
        tmp_path / "more",
        pictures / "a.png",
        "--weights",
        weights,
        "--save",
        tmp_path / "out",
    ]
    assert call(capfd, *words, *SCORE)[0] == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["A_2.png", "a.png", "b.png", "b_2.png", "c.png"]
    found = fastdet.load(weights)(pictures / "a.png", score_threshold=0.02)[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), found.plot())


def test_sources_are_never_overwritten(capfd, pictures, weights, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    monkeypatch.chdir(pictures)
    for words in ([pictures, "--save", pictures], [".", "--save", "../in"], ["a.png", "--save", "."]):
        code, _, err = call(capfd, "predict", *words, "--weights", weights, *SCORE)
        assert code == 2 and "would overwrite" in err[0]
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before


@pytest.mark.parametrize(
    "words", [["--save", "file"], ["--json", "."], ["--json", "file/a.json"], ["--trace", "file/t"]]
)
def test_what_cannot_be_written_is_known_before_the_work(capfd, pictures, weights, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    code, out, err = call(capfd, "predict", pictures, "--weights", weights, *words)
    assert code == 1 and out == [] and len(err) == 1 and words[1].split("/")[0] in err[0]
    assert Path("file").read_text() == "mine"


def test_trace(capfd, pictures, weights, tmp_path):
    code, _, err = call(capfd, "predict", pictures / "a.png", "--weights", weights, "--trace", tmp_path / "t", *SCORE)
    assert code == 0 and str(tmp_path / "t") in err[-1]
    assert (tmp_path / "t" / "0001_a" / "trace.txt").read_text().count("\n") > 10
    assert len(list((tmp_path / "t" / "0001_a").glob("*.png"))) == 5


def test_classes(capfd, pictures, weights):
    _, out, _ = call(capfd, "predict", pictures, "--weights", weights, "--classes", "b", "2", *SCORE)
    assert {line.split()[1] for line in out[1:]} <= {"b", "c", "-"} and len(out) > 3
    code, out, err = call(capfd, "predict", pictures, "--weights", weights, "--classes", "bb")
    assert code == 2 and out == [] and "did you mean b?" in err[0]


@pytest.mark.parametrize(
    ("weights_given", "message"),
    [
        ("damo-yolo-nn", "did you mean damo-yolo-n"),
        ("missing.safetensors", "missing.safetensors"),
        ("cut.safetensors", "cut.safetensors"),
        ("text.pth", "text.pth"),
    ],
)
def test_bad_weights_are_one_line_and_code_1(capfd, pictures, weights, tmp_path, monkeypatch, weights_given, message):
    monkeypatch.chdir(tmp_path)
    data = Path(weights).read_bytes()
    Path("cut.safetensors").write_bytes(data[: len(data) // 2])
    Path("text.pth").write_text("not weights")
    code, out, err = call(capfd, "predict", pictures, "--weights", weights_given)
    assert code == 1 and out == [] and len(err) == 1 and message in err[0] and err[0].startswith("fastdet predict: ")


def test_random_weights_are_a_warning(capfd, pictures):
    code, _, err = call(capfd, "predict", pictures / "a.png", "--weights", "damo-yolo-ns")
    assert code == 0 and "warning" in err[0] and "random weights" in err[0]


def test_backend_of_the_environment(pictures, weights, tmp_path, monkeypatch):
    results = {}
    for backend in ("cpu", "reference", "nonsense"):
        monkeypatch.setenv("FASTDET_BACKEND", backend)
        process = start("predict", pictures, "--weights", weights, "--json", tmp_path / f"{backend}.json", *SCORE)
        results[backend] = (*process.communicate(timeout=60), process.returncode)
    assert results["cpu"][2] == results["reference"][2] == 0
    assert (tmp_path / "cpu.json").read_bytes() == (tmp_path / "reference.json").read_bytes()
    assert results["nonsense"][2] == 1 and results["nonsense"][1].count("\n") == 1
    assert "FASTDET_BACKEND" in results["nonsense"][1]


def many(folder: Path, weights: str) -> list[object]:
    """Words of a command that takes some minutes."""
    listed = folder / "many.txt"
    listed.write_text("a.png\nb.png\nc.png\n" * 4000)
    return ["predict", listed, "--weights", weights, "--json", folder.parent / "f.json", *SCORE]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_cleanly(pictures, weights, number):
    process = start(*many(pictures, weights))
    assert "picture" in process.stdout.readline()
    started = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 5 and process.returncode == 130
    assert err.splitlines()[-1] == "fastdet predict: interrupted" and "Traceback" not in err
    assert list(pictures.parent.glob("*f.json*")) == []


def test_a_closed_pipe_ends_quietly(pictures, weights):
    process = start(*many(pictures, weights))
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 1 and "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_info_and_licenses(capfd, weights):
    code, out, err = call(capfd, "info", weights)
    text = "\n".join(out)
    assert code == 0 and err == [] and fastdet.__version__ in out[0]
    for word in ("numpy", "backend", "damo-yolo-ns", "3: a, b, c", "96 x 128", "parameters"):
        assert word in text
    code, out, err = call(capfd, "licenses")
    assert code == 0 and any(line.split()[0] == "fastdet" and "Apache-2.0" in line for line in out)
    assert any(line.startswith("numpy") and "BSD" in line for line in out)
    code, out, _ = call(capfd, "licenses", "--full")
    assert code == 0 and any("Apache License" in line for line in out)
    code, _, err = call(capfd, "licenses", "--fail-on", "bsd")
    assert code == 1 and "numpy" in err[0]
    assert call(capfd, "licenses", "--fail-on", "gpl")[0] == 0
    code, out, err = call(capfd, "licenses", str(weights))
    assert code == 0
    assert any(re.search(r"damo-yolo-ns +not stated \(published weights: Apache-2\.0\)", line) for line in out)


def test_licences_of_weights_that_have_one(capfd, tmp_path):
    from fastdet import models

    module = models.build("yolov5n", 2)
    module.metadata["license"] = "AGPL-3.0 License (stated in the file)"
    path = models.save_fastdet(tmp_path / "x.safetensors", module)
    code, out, err = call(capfd, "licenses", str(path), "--fail-on", "gpl")
    assert code == 1 and any("AGPL-3.0 License" in line for line in out)
    assert err == [f"fastdet licenses: 'gpl' is in the licence of {path}"]


def test_val(capfd, weights, tmp_path):
    data = coco_folder(tmp_path / "data")
    options = ("--weights", weights, "--json", tmp_path / "m.json", "--output", tmp_path / "val")
    code, out, _ = call(capfd, "val", data, *options)
    first = [line.split()[0] if line else "" for line in out]
    assert code == 0 and first == [*["AP"] * 6, *["AR"] * 6, "", "class", "a", "b", "c", "", "milliseconds"]
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert float(out[0].split()[-1]) == pytest.approx(metrics["ap"], abs=1e-4)
    assert set(metrics["class_ap"]) == set("abc")
    assert set(metrics["milliseconds"]) == {"read", "prepare", "network", "keep"}
    assert json.loads((tmp_path / "val" / "metrics.json").read_text())["ap"] == metrics["ap"]
    assert isinstance(json.loads((tmp_path / "val" / "predictions.json").read_text()), list)
    file = data / "annotations" / "instances_val.json"
    again = call(capfd, "val", file, "--images", data / "images", "--weights", weights)
    assert (again[0], again[1][:-1]) == (0, out[:-1])  # the last line is times
    for words, message in (([file], "images must be given"), ([data, "--split", "test"], "no split 'test'")):
        code, _, err = call(capfd, "val", *words, "--weights", weights)
        assert code == 1 and len(err) == 1 and message in err[0]
    other = coco_folder(tmp_path / "other", ("x", "y", "z"))
    code, _, err = call(capfd, "val", other, "--weights", weights)
    assert code == 1 and "the model has ['a', 'b', 'c']" in err[0]


def test_train_then_predict(capfd, tmp_path):
    data, output = coco_folder(tmp_path / "data"), tmp_path / "run"
    sizes = ["--input-size", "64", "64", "--epochs", "1", "--calm-epochs", "1", "--batch-size", "2"]
    code, out, _ = call(capfd, "train", "--data", data, "--output", output, *sizes)
    assert code == 0 and out[0].split() == ["weights", "epoch", "AP", "AP50"]
    best = out[1].split()[0]
    assert Path(best) == output / "best.safetensors"
    code, out, _ = call(capfd, "predict", data / "images", "--weights", best, "--score-threshold", "0")
    assert code == 0 and {line.split()[1] for line in out[1:]} <= {"a", "b", "c"} and len(out) > 4
    assert fastdet.load(best).info()["input_size"] == (64, 64)
    code, _, err = call(capfd, "train", "--data", data, "--output", output, *sizes)
    assert code == 1 and "already holds a training" in err[-1]


def test_import_costs_nothing():
    script = """
        import sys, time
        import numpy
        start = time.perf_counter()
        import fastdet
        seconds = time.perf_counter() - start
        heavy = [name for name in ("torch", "PIL", "cv2", "fastdet._core", "tqdm", "socket") if name in sys.modules]
        assert not heavy, heavy
        assert seconds < 0.1, seconds
        assert {"load", "Detector", "Detections", "backend", "ops"} <= set(dir(fastdet))
        fastdet.ops.nms
        assert "torch" not in sys.modules and "PIL" not in sys.modules
        fastdet.Detections
        assert "torch" not in sys.modules and "PIL" not in sys.modules
        try: fastdet.nothing
        except AttributeError as error: assert "nothing" in str(error)
        else: raise SystemExit("an unknown attribute exists")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
