# SPDX-License-Identifier: Apache-2.0
"""What only YOLOv9 has: three layouts of one network, and class branches as wide as the file says."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from fastdet import models
from fastdet.models.distance_head import DistanceHead
from fastdet.models.unfilled import unfilled
from fastdet.models.yolov9.head import DualHead, MainHead


def _seeded(name, num_classes=3):
    torch.manual_seed(0)
    module = models.build(name, num_classes)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.8, 1.2)
            torch.nn.init.normal_(layer.bias, 0, 0.1)
    return module.eval()


def _converted(state, head, deployed_head, dropped, shift):
    """The deployed layout of a training state dict, as the authors convert it."""
    renamed = {"cv4": "cv2", "cv5": "cv3", "dfl2": "dfl"}
    converted = {}
    for key, value in state.items():
        row, rest = re.fullmatch(r"model\.(\d+)\.(.*)", key).groups()
        if int(row) == head:
            part, _, tail = rest.partition(".")
            if part in renamed:
                converted[f"model.{deployed_head}.{renamed[part]}.{tail}"] = value
        elif int(row) not in dropped:
            converted[f"model.{int(row) - shift(int(row))}.{rest}"] = value
    return converted


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("yolov9t", (29, 22, range(22, 29), lambda row: 0)),
        ("yolov9m", (38, 22, range(23, 38), lambda row: 1)),
        ("yolov9e", (49, 42, range(29, 36), lambda row: 7 if row >= 36 else 0)),
    ],
)
def test_the_authors_conversion_gives_the_deployed_model(name, layout):
    images = torch.rand(1, 3, 64, 96)
    source = _seeded(name)
    state = _converted(models.to_official(source), *layout)
    with unfilled():
        module = models.build(name, 3)
    models.load_official(module, state)
    assert module.spec.name == name.replace("yolov9", "gelan-") and type(module.head) is MainHead
    assert models.to_official(module).keys() == state.keys()
    with torch.no_grad():
        want = source.decode(source(images))
        got = module.eval().decode(module(images))
        folded = source.fuse().decode(source(images))
    for a, b, c in zip(want, got, folded):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("depthwise", [False, True])
def test_the_port_is_told_by_its_box_branches(depthwise):
    spec = dataclasses.replace(models.spec("yolov9tu"), depthwise=depthwise)
    with unfilled():
        state = models.to_official(models.build(spec, 3))
        module = models.load_official(models.build("yolov9t", 3), state)
    assert module.spec == spec and type(module.head) is DistanceHead
    assert models.recognise(state) == (spec, 3)


@pytest.mark.parametrize("name", ["yolov9t", "gelan-t"])
@pytest.mark.parametrize(("classes", "width", "wanted"), [(80, 128, ""), (80, 80, "-w80"), (3, 72, "")])
def test_the_width_of_the_class_branches_is_that_of_the_file(tmp_path, name, classes, width, wanted):
    spec = dataclasses.replace(models.spec(name), class_width=width)
    with unfilled():
        state = models.to_official(models.build(spec, classes))
        module = models.load_official(models.build(name, classes), state)
    key = f"model.{29 if name[0] == 'y' else 22}.{'cv5' if name[0] == 'y' else 'cv3'}.0.0.conv.weight"
    assert models.to_official(module)[key].shape[0] == width
    found, _ = models.recognise(state)
    assert found == module.spec and found.name == name + wanted
    path = tmp_path / "wide.safetensors"
    for parameter in module.parameters():
        parameter.data.zero_()
    assert models.load(models.save_fastdet(path, module)).spec == module.spec


def test_a_module_that_already_has_the_layout_stays_itself():
    source, module = _seeded("yolov9t"), models.build("yolov9t", 3)
    module.spec = dataclasses.replace(module.spec, input_size=(320, 320))
    before = dict(module.named_parameters())
    models.load_official(module, models.to_official(source))
    assert module.spec.input_size == (320, 320) and type(module.head) is DualHead
    assert all(parameter is before[key] for key, parameter in module.named_parameters())


def test_a_state_that_fits_no_layout_changes_nothing():
    module = models.build("yolov9t", 3)
    spec, before = module.spec, dict(module.named_parameters())
    with unfilled():
        state = models.to_official(models.build("gelan-t", 3))
    state.pop("model.4.cv1.conv.weight")
    with pytest.raises(ValueError, match=r"1 missing:\n +model\.4\.cv1\.conv\.weight"):
        models.load_official(module, state)
    assert module.spec is spec and dict(module.named_parameters()).keys() == before.keys()
