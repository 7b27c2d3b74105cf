# SPDX-License-Identifier: Apache-2.0
"""torchvision's functions by ours: results, and the exchange, on torchvision itself or a stand-in of its layout."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastdet.integrations import torchvision as ours

NAMES = ("nms", "batched_nms", "box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")

# A small torchvision: the signatures and module layout of the real one, its rules written plainly in torch.
BOXES = """
import torch
from torch import Tensor

def _sides(a, b):
    lt, rb = torch.max(a[..., :, None, :2], b[..., None, :, :2]), torch.min(a[..., :, None, 2:], b[..., None, :, 2:])
    inter = (rb - lt).clamp(min=0).prod(-1)
    area = [(c[..., 2] - c[..., 0]) * (c[..., 3] - c[..., 1]) for c in (a, b)]
    return inter, area[0][..., :, None] + area[1][..., None, :] - inter

def _outer(a, b):
    lt, rb = torch.min(a[..., :, None, :2], b[..., None, :, :2]), torch.max(a[..., :, None, 2:], b[..., None, :, 2:])
    return (rb - lt).clamp(min=0)

def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    if fmt != "xyxy":
        to = {"cxcywh": (0.5, 0.5), "xywh": (0.0, 1.0)}[fmt]
        boxes1, boxes2 = (
            torch.cat([b[..., :2] - to[0] * b[..., 2:], b[..., :2] + to[1] * b[..., 2:]], -1) for b in (boxes1, boxes2)
        )
    inter, union = _sides(boxes1, boxes2)
    return inter / union

def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    inter, union = _sides(boxes1, boxes2)
    hull = _outer(boxes1, boxes2).prod(-1)
    return inter / union - (hull - union) / hull

def _distance(a, b, eps):
    centre = [(c[..., :2] + c[..., 2:]) / 2 for c in (a, b)]
    apart = (centre[0][..., :, None, :] - centre[1][..., None, :, :]).square().sum(-1)
    return box_iou(a, b) - apart / (_outer(a, b).square().sum(-1) + eps)

def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    return _distance(boxes1, boxes2, eps)

def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    angle = [torch.atan((c[..., 2] - c[..., 0]) / (c[..., 3] - c[..., 1])) for c in (boxes1, boxes2)]
    v = (4 / torch.pi**2) * (angle[0][..., :, None] - angle[1][..., None, :]).square()
    with torch.no_grad():
        alpha = v / (1 - box_iou(boxes1, boxes2) + v + eps)
    return _distance(boxes1, boxes2, eps) - alpha * v

def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    order, keep = scores.argsort(descending=True, stable=True), []
    while len(order):
        keep.append(order[0])
        rest = order[1:]
        order = rest[box_iou(boxes[order[:1]], boxes[rest])[0] <= iou_threshold]
    return torch.stack(keep) if keep else torch.zeros(0, dtype=torch.int64)

def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for c in idxs.unique():
        at = torch.where(idxs == c)[0]
        kept[at[nms(boxes[at], scores[at], iou_threshold)]] = True
    kept = torch.where(kept)[0]
    return kept[scores[kept].argsort(descending=True, stable=True)]
"""
SOURCES = {
    "torchvision": "from . import ops",
    "torchvision.ops": f"from .boxes import {', '.join(NAMES)}\nfrom . import boxes",
    "torchvision.ops.boxes": BOXES,
    "torchvision.models": "",
    # As the detectors do it: by reference to the module, and by a name of their own.
    "torchvision.models.detection": """
from ...ops import boxes as box_ops
from ...ops.boxes import nms as suppress

def detect(boxes, scores, labels):
    return box_ops.batched_nms(boxes, scores, labels, 0.5), suppress(boxes, scores, 0.5)
""",
}


class _Finder:
    """Imports the stand-in."""

    def find_spec(self, name, path=None, target=None):
        if name in SOURCES:
            return importlib.util.spec_from_loader(name, self, is_package=name != "torchvision.ops.boxes")
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(SOURCES[module.__name__], module.__name__, "exec"), module.__dict__)


def forget():
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


@pytest.fixture
def stand_in(monkeypatch):
    saved = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"}
    forget()
    monkeypatch.setattr(sys, "meta_path", [_Finder(), *sys.meta_path])
    yield importlib.import_module("torchvision")
    forget()
    sys.modules.update(saved)


@pytest.fixture
def real():
    try:
        module = importlib.import_module("torchvision")
        module.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:
        forget()
        pytest.skip(f"torchvision is not installed, or does not load beside this torch: {error}")
    return module


def boxes_of(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 40 + 1], 1)
    scores = (torch.rand(count, generator=generator) * 50).round() / 50  # with ties
    return boxes, scores, torch.randint(0, 5, (count,), generator=generator)


def functions_of(module: types.ModuleType) -> list[object]:
    return [getattr(place, name) for place in (module.ops, module.ops.boxes) for name in NAMES]


def same_results(module: types.ModuleType) -> None:
    for count in (0, 1, 7, 300):
        boxes, scores, labels = boxes_of(count, count)
        other = boxes_of(11, 99)[0]
        for threshold in (0.0, 0.3, 0.5, 1.0):
            assert torch.equal(ours.nms(boxes, scores, threshold), module.ops.nms(boxes, scores, threshold))
            arguments = (boxes, scores, labels, threshold)
            assert torch.equal(ours.batched_nms(*arguments), module.ops.batched_nms(*arguments))
        for name in NAMES[2:]:
            for cast in (Tensor.float, Tensor.double, Tensor.int) if name == "box_iou" else (Tensor.float,):
                pair = (cast(boxes), cast(other))
                got, want = getattr(ours, name)(*pair), getattr(module.ops, name)(*pair)
                assert got.dtype == want.dtype
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def exchange(module: types.ModuleType) -> None:
    before = functions_of(module)
    with ours.patched():
        assert functions_of(module) == [getattr(ours, name) for name in NAMES] * 2
        with ours.patched():
            pass
        assert module.ops.nms is ours.nms
    assert all(a is b for a, b in zip(functions_of(module), before))

    with pytest.raises(KeyError), ours.patched():
        raise KeyError
    assert all(a is b for a, b in zip(functions_of(module), before))

    ours.patch()
    assert module.ops.boxes.batched_nms is ours.batched_nms
    ours.unpatch()
    ours.unpatch()
    assert all(a is b for a, b in zip(functions_of(module), before))


def signatures(module: types.ModuleType) -> None:
    for name in NAMES:
        got, want = (inspect.signature(getattr(each, name)).parameters for each in (ours, module.ops))
        assert list(got)[: len(want)] == list(want)
        assert all(got[key].default == want[key].default for key in want), name


def test_stand_in_results(stand_in):
    same_results(stand_in)


def test_stand_in_exchange(stand_in):
    exchange(stand_in)


def test_stand_in_signatures(stand_in):
    signatures(stand_in)


def test_references_of_other_modules(stand_in):
    """Those a detector holds before patching, and those of a module that is loaded while patched."""
    boxes, scores, labels = boxes_of(60, 4)
    detection = importlib.import_module("torchvision.models.detection")
    theirs, want = detection.suppress, detection.detect(boxes, scores, labels)
    with ours.patched():
        assert detection.suppress is ours.nms and detection.box_ops.batched_nms is ours.batched_nms
        assert all(map(torch.equal, detection.detect(boxes, scores, labels), want))
        del sys.modules["torchvision.models.detection"]
        later = importlib.import_module("torchvision.models.detection")
        assert later.suppress is ours.nms
    assert later.suppress is theirs


def test_gradients_and_subtleties(stand_in):
    boxes, other = boxes_of(9, 1)[0].requires_grad_(), boxes_of(5, 2)[0]
    for name in NAMES[2:]:
        got, want = (torch.autograd.grad(getattr(m, name)(boxes, other).sum(), boxes) for m in (ours, stand_in.ops))
        torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-5)
    labels = torch.tensor([0.5, 0.5, 0.25])
    same = torch.tensor([[0.0, 0, 2, 2]] * 3)
    assert ours.batched_nms(same, torch.tensor([0.1, 0.2, 0.3]), labels, 0.5).tolist() == [2, 1]
    assert ours.nms(same.double(), torch.tensor([0.1, 0.2, 0.3]).double(), 0.5).tolist() == [2]
    assert ours.box_iou(same[None], same[None], "cxcywh").shape == (1, 3, 3)


def test_the_page_of_the_documentation(stand_in):
    """What it shows with torchvision itself."""
    page = Path(__file__).parents[2] / "docs" / "integrations.md"
    codes = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    shown = [code for code in codes if "import torchvision\n" in code]
    assert len(shown) == 1
    exec(compile(shown[0], page.name, "exec"), {})


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError), ours.patched():
        pass
    ours.unpatch()


def test_real_results(real):
    same_results(real)


def test_real_exchange(real):
    exchange(real)


def test_real_signatures(real):
    signatures(real)
