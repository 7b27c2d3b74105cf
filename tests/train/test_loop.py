# SPDX-License-Identifier: Apache-2.0
"""The loop on the real nano model with a tiny data set: 8 pictures, 64 x 96 input."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fastdet.data.dataset import DataError
from fastdet.train import TrainConfig, train
from fastdet.train.loop import alone_in
from fastdet.train.state import newest_checkpoint

pytest.importorskip("pycocotools")


def config(shapes, output, **options):
    return TrainConfig(
        **{
            "data": str(shapes),
            "train_annotations": "annotations/train.json",
            "val_annotations": "annotations/val.json",
            "output": str(output),
            "input_size": (64, 96),
            "batch_size": 4,
            "epochs": 3,
            "calm_epochs": 1,
            "warmup_epochs": 1.0,
            "eval_interval": 3,
            "threads": 1,
            "seed": 3,
            **options,
        }
    )


class Stop(Exception):
    """Stands for a kill."""


def stop_at(number):
    def on_step(step, _):
        if step == number:
            raise Stop

    return on_step


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_interrupted_equals_straight(shapes, tmp_path, precision):
    """Killed twice, in the middle of epochs, and resumed: every tensor of the last checkpoint has the same bits."""
    straight = config(shapes, tmp_path / "straight", precision=precision)
    first = train(straight)
    broken = config(shapes, tmp_path / "broken", precision=precision)
    with pytest.raises(Stop):
        train(broken, stop_at(3))
    resumed = replace(broken, resume=True, workers=1)
    torch.randn(5)
    with pytest.raises(Stop):
        train(resumed, stop_at(5))
    second = train(resumed)
    assert first.epochs == second.epochs == 3 and first.metrics == second.metrics
    one, two = (load_file(newest_checkpoint(tmp_path / name)) for name in ("straight", "broken"))
    assert one.keys() == two.keys() and len(one) > 1500
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    rows = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]
        for path in (tmp_path / "straight/log.jsonl", tmp_path / "broken/log.jsonl")
    ]
    assert rows[0] == rows[1] and [row["epoch"] for row in rows[0]] == [1, 2, 3]


def test_a_seed_gives_one_training_and_leaves_torch_alone(shapes, tmp_path):
    torch.manual_seed(77)
    threads, expected = torch.get_num_threads(), torch.get_rng_state()
    losses = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        seen = losses.setdefault(name, [])
        train(
            config(shapes, tmp_path / name, seed=seed, epochs=1, calm_epochs=0),
            lambda _, values, seen=seen: seen.append(values["loss"]),
        )
    assert losses["a"] == losses["b"] != losses["c"]
    assert torch.equal(torch.get_rng_state(), expected) and torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_overfits_eight_pictures(shapes, tmp_path):
    """The loss falls, the logs say so, and what was learnt is found again."""
    plain = config(
        shapes, tmp_path, epochs=48, calm_epochs=0, eval_interval=48, save_interval=48, batch_size=2, lr=0.002,
        ema_decay=0.9, ema_tau=20.0, mosaic=0.0, scale=(1.0, 1.0), stretch=0.0, translate=0.0, flip_horizontal=0.0,
        hue=0.0, saturation=0.0, brightness=0.0, val_annotations="annotations/train.json",
    )  # fmt: skip
    result = train(plain)
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "log.csv").open())]
    # It rises first: without good boxes there is little to lose, because targets are weighted by their quality.
    assert len(losses) == 48 and losses[-1] < 0.5 * max(losses)
    assert result.metrics.ap50 > 0.8 and result.best_epoch == 48
    assert result.weights.is_file()


def test_non_finite_loss_names_the_pictures(shapes, tmp_path):
    def spoil(step, values):
        if step == 1:
            for parameter in spoil.module.parameters():
                parameter.data.fill_(float("nan"))

    from fastdet import models

    build = models.build

    def catch(*arguments, **options):
        spoil.module = build(*arguments, **options)
        return spoil.module

    with pytest.MonkeyPatch.context() as patch, pytest.raises(FloatingPointError) as caught:
        patch.setattr(models, "build", catch)
        train(config(shapes, tmp_path), spoil)
    text = str(caught.value)
    assert "epoch 1, step 1" in text and text.count("train-") == 4 and ".png" in text


def test_refusals(shapes, tmp_path):
    good = config(shapes, tmp_path / "run", epochs=1, calm_epochs=0, eval_interval=9)
    train(good)
    with pytest.raises(ValueError, match="already holds a training"):
        train(good)
    with pytest.raises(ValueError, match=r"with other settings: lr, seed"):
        train(replace(good, resume=True, lr=0.5, seed=9))
    with pytest.raises(ValueError, match="nothing to resume"):
        train(replace(good, resume=True, output=str(tmp_path / "none")))
    other = replace(good, output=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="batch_size 9 is above the 8"):
        train(replace(other, batch_size=9))
    with pytest.raises(ValueError, match="exclude names pictures"):
        train(replace(other, exclude=("none.jpg",)))
    with pytest.raises(DataError, match=r"none.json: cannot be read"):
        train(replace(other, train_annotations="annotations/none.json"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="cannot be written"):
        train(replace(good, output=str(tmp_path / "file")))


def test_two_trainings_do_not_share_a_folder(shapes, tmp_path):
    save = tmp_path / ".checkpoint.1234.part"  # of the other one, at work
    save.write_bytes(b"half")
    with alone_in(tmp_path), pytest.raises(RuntimeError, match="is in use by another training"):
        train(config(shapes, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [save.name]
    with pytest.raises(ValueError, match="above the 8"):  # the folder is free again, also after an error
        train(config(shapes, tmp_path, batch_size=9))
    with alone_in(tmp_path):
        pass


def test_excluded_pictures_are_not_used(shapes, tmp_path):
    names = tuple(f"train-{number}.png" for number in range(1, 8))
    with pytest.raises(ValueError, match="above the 1 training pictures"):
        train(config(shapes, tmp_path, exclude=names))


def test_a_log_that_cannot_be_written_is_a_warning(shapes, tmp_path, caplog):
    output = tmp_path / "run"
    output.mkdir()
    (output / "log.csv").mkdir()
    with caplog.at_level(logging.WARNING, "fastdet.train"):
        assert train(config(shapes, output, epochs=1, calm_epochs=0)).epochs == 1
    assert "log.csv" in caplog.text


def test_bad_pictures_are_skipped_and_counted(shapes, tmp_path, caplog):
    """The training on what is left is the same with threads and with processes, and its log says what is missing."""
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    (root / "images" / "train-5.png").write_bytes(b"")
    rows = []
    with pytest.raises(DataError, match=r"train-5\.png: cannot be decoded: the file is empty"):
        train(config(root, tmp_path / "strict", epochs=1))
    for kind in ("thread", "process"):
        caplog.clear()
        output = tmp_path / kind
        options = {"epochs": 1, "on_bad_picture": "skip", "workers": 1, "worker_kind": kind}
        with caplog.at_level(logging.WARNING, "fastdet.train"):
            train(config(root, output, calm_epochs=0, **options))
        assert f"left out: {root / 'images' / 'train-5.png'}: cannot be decoded: the file is empty" in caplog.text
        row = json.loads((output / "log.jsonl").read_text())
        rows.append({name: value for name, value in row.items() if name != "seconds"})
        assert row["bad_pictures"] == 1 and row["replaced"] >= 1
    assert rows[0] == rows[1]
