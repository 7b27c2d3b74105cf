# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import fields

import pytest

from fastdet.data.augmentation import RECIPES, Augmentation
from fastdet.train.config import TrainConfig, from_json, load_config


def test_every_setting_has_a_help_text():
    assert all(each.metadata.get("help") for each in fields(TrainConfig))


def test_round_trip(tmp_path):
    config = TrainConfig(epochs=7, input_size=(64, 96), scale=(0.5, 1.5), exclude=("a.jpg",))
    path = tmp_path / "a.json"
    path.write_text(json.dumps(config.to_json()))
    assert load_config(path) == config
    assert load_config(path, epochs=30).epochs == 30


def test_integers_are_accepted_for_numbers():
    assert from_json({"lr": 1, "scale": [1, 2]}, "x") == TrainConfig(lr=1.0, scale=(1.0, 2.0))


WRONG = {
    "unknown key": ({"epoch": 3}, "unknown key 'epoch'"),
    "text for int": ({"epochs": "3"}, "epochs must be int, got '3'"),
    "float for int": ({"epochs": 3.5}, "epochs must be int"),
    "bool for int": ({"epochs": True}, "epochs must be int"),
    "int for bool": ({"resume": 1}, "resume must be bool"),
    "one size": ({"input_size": [32]}, "input_size must be a list of 2 values"),
    "size 33": ({"input_size": [32, 33]}, "input_size must be two multiples of 32"),
    "text in exclude": ({"exclude": "a.jpg"}, "exclude must be a list of any number of values"),
    "no epochs": ({"epochs": 0}, "epochs must be at least 1"),
    "calm": ({"calm_epochs": -1}, "calm_epochs must not be negative"),
    "chance": ({"mosaic": 1.5}, "mosaic must be in [0, 1], got 1.5"),
    "scale": ({"scale": [1.5, 1.0]}, "scale must be 0 < low <= high"),
    "shear": ({"shear": 90}, "shear must be in [0, 45]"),
    "rate": ({"lr": 0}, "lr must be above 0"),
    "recipe": ({"recipe": "yolov4"}, "must be one of fastdet, yolov5"),
    "recipe and own": ({"recipe": "yolov5", "mosaic": 0.1}, "recipe 'yolov5' has numbers of its own, got mosaic"),
    "precision": ({"precision": "half"}, "precision must be one of"),
}


def test_augmentation_is_the_recipe():
    assert TrainConfig(mosaic=0.2, seed=4).augmentation() == Augmentation(mosaic=0.2)
    assert TrainConfig(recipe="yolov7").augmentation() == RECIPES["yolov7"]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings(name):
    content, reason = WRONG[name]
    with pytest.raises(ValueError) as caught:
        from_json(content, "here")
    assert reason in str(caught.value)


def test_unreadable_files(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "cut.json").write_text("{")
    for name in ("list.json", "cut.json", "none.json"):
        with pytest.raises(ValueError, match=name):
            load_config(tmp_path / name)
