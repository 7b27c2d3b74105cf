# SPDX-License-Identifier: Apache-2.0
"""Models for tests that need detections but no training, and a data set of four pictures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from broken_pictures import pattern
from fastdet import models, ops
from fastdet.models import RawHead


class RedBox(torch.nn.Module):
    """A detector that can be checked by hand: class 0 is the tight box of all red pixels, class 1 of all green."""

    def __init__(self, **spec) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.spec = dataclasses.replace(models.spec("damo-yolo-ns"), **spec)
        self.names = ["red", "green"]
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        red, green, _ = images.unbind(1)
        top = images.amax()
        masks = torch.stack([(red > 0.6 * top) & (green < 0.4 * top), (green > 0.6 * top) & (red < 0.4 * top)], 1)
        return RawHead((masks.float() * self.weight,), (images,))

    def decode(self, raw):
        masks = raw.cls_logits[0] > 0
        boxes = torch.zeros(len(masks), 2, 4)
        scores = torch.zeros(len(masks), 2, 2)
        for b in range(len(masks)):
            for c in range(2):
                y, x = masks[b, c].nonzero(as_tuple=True)
                if len(x):
                    boxes[b, c] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
                    scores[b, c, c] = 0.9 - 0.2 * c
        return boxes, scores


def random_module():
    """A DAMO-YOLO-Ns in its training graph, classes a, b, c, input 96 x 128, whose random scores and boxes differ."""
    torch.manual_seed(0)
    module = models.build("damo-yolo-ns", 3)
    for conv in (*module.head.cls, *module.head.reg):  # as they start all scores and boxes are nearly equal
        torch.nn.init.normal_(conv.weight, 0, 0.5)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # running statistics become those of the pictures below
    images = np.stack([pattern(96, 128, 100 + seed) for seed in range(8)])
    with torch.no_grad():
        module.train()(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    module.names = ["a", "b", "c"]
    module.spec = dataclasses.replace(module.spec, input_size=(96, 128))
    return module.eval()


def lively_module(name, pictures, num_classes=4, size=(160, 160)):
    """A table model whose random weights answer ``pictures`` with many boxes of different sizes, scores and classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = models.build(name, num_classes)
    images = torch.from_numpy(ops.letterbox(list(pictures), size)[0])
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: _level(layer, *inputs))
        for layer in module.modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
    ]
    hooks += [
        conv.register_forward_hook(lambda conv, _, out, key=key: _spread(conv, out, key))
        for key, conv in module.head.named_modules()
        if isinstance(conv, torch.nn.Conv2d) and conv.bias is not None
    ]
    with torch.no_grad():
        module.eval()(images)
    for hook in hooks:
        hook.remove()
    module.spec = dataclasses.replace(module.spec, input_size=size)
    return module


def _level(layer, x):
    """Make a BatchNorm divide by one number, the size of its input, so that pictures keep what tells them apart."""
    layer.running_var.fill_(float(x.square().mean()))


def _spread(conv, out, key):
    """Scale a last convolution so that its outputs have a spread of 1.5, scores mostly low."""
    scale = 1.5 / out.std((0, 2, 3))
    if key.startswith("m."):
        scale.view(3, -1)[:, 2:4] *= 0.2  # width and height: no boxes thinner than the steps of float32
    conv.weight *= scale[:, None, None, None]
    conv.bias[:] = (conv.bias - out.mean((0, 2, 3))) * scale - (1.5 if key.startswith("cv3") else 0)


def coco_folder(folder: Path, names=("a", "b", "c")) -> Path:
    """A folder as ``fastdet train`` takes it: four pictures with one box of class 0 each; returns it."""
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for i in range(4):
        Image.fromarray(pattern(96, 128, i)).save(folder / "images" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 96, "width": 128})
        box = [10 + i, 20, 40, 30]
        annotations.append({"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": box, "area": 1200, "iscrowd": 0})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    content = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(content)
    return folder
