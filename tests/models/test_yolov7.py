# SPDX-License-Identifier: Apache-2.0
"""What only YOLOv7 has: the compound-scaling rule, implicit knowledge, layouts without it, one-class scores."""

from __future__ import annotations

import pytest
import torch

from fastdet import models
from fastdet.models.blocks import Concat
from fastdet.models.graph import Graph
from fastdet.models.heads import AnchorRaw
from fastdet.models.unfilled import unfilled
from fastdet.models.yolov7 import compound_scaled, tables
from fastdet.models.yolov7.head import AuxiliaryHead, ImplicitHead, PlainHead


def _output(name: str, state: dict | None = None, images: torch.Tensor | None = None):
    torch.manual_seed(0)
    module = models.build(name, 3)
    if state is not None:
        models.load_official(module, state)
    with torch.no_grad():
        return module, module.eval().decode(module(torch.rand(1, 3, 64, 96) if images is None else images))


def test_compound_scaling_makes_x_of_the_base():
    scaled = compound_scaled(tables.BASE, 1.5)
    assert scaled.depth == 6
    assert (scaled.inner, scaled.neck_inner) == (tables.BASE.inner, tables.BASE.neck_inner)
    assert scaled.stem == (40, 80, 80, 160)
    assert scaled.stages == (320, 640, 1280, 1280)
    assert (scaled.pool, scaled.neck, scaled.lead) == (640, (320, 160, 320, 640), (320, 640, 1280))
    with unfilled():
        graphs = [Graph(rows) for rows in (tables.YOLOV7, tables.YOLOV7X)]
    joined, joined_x = ([block.c_out for block in graph if isinstance(block, Concat)] for graph in graphs)
    backbone = (0, 2, 4, 6)  # the concatenations inside blocks, four maps that become five
    assert [(joined[i], joined_x[i]) for i in backbone] == [(256, 320), (512, 640), (1024, 1280), (1024, 1280)]


@pytest.mark.parametrize(("depth", "ratio"), [(1.0, 1.0), (1.5, 1.25), (2.0, 1.5)])
def test_compound_scaling_of_the_larger_base(depth, ratio):
    scaled = compound_scaled(tables.W6, depth)
    assert scaled.stages == tuple(int(width * ratio) for width in tables.W6.stages)
    assert scaled.depth == 4 * depth and scaled.inner == tables.W6.inner


def test_a_depth_that_gives_no_even_chain_is_refused():
    with pytest.raises(ValueError, match=r"depth must give chains of an even length, got 1\.25 x 4"):
        compound_scaled(tables.BASE, 1.25)


@pytest.mark.parametrize("kind", [ImplicitHead, AuxiliaryHead])
def test_implicit_vectors_fold_exactly(kind):
    """Also far from where they start, where the order of the two operations shows."""
    torch.manual_seed(0)
    c_in = (8, 12) if kind is ImplicitHead else (8, 12, 5, 7)
    head = kind(c_in, 2, strides=(8, 16), anchors=(((1, 2), (3, 4)),) * 2).double()
    for vectors in (head.ia, head.im):
        for vector in vectors:
            torch.nn.init.normal_(vector.implicit, 0, 3)
    features = [torch.randn(2, c, 4, 3, dtype=torch.float64) for c in c_in]
    with torch.no_grad():
        want = head(features)
        head.fold_()
        got = head(features[:2])
    for a, b in zip(got.logits, want.logits):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert len(want.other_logits) == len(c_in) - 2 and not got.other_logits
    assert not [key for key in head.state_dict() if ".implicit" in key or key.startswith("m2")]


def test_the_released_layout_without_implicit_vectors_is_taken():
    images = torch.rand(1, 3, 64, 96)
    source, want = _output("yolov7-tiny", images=images)
    state = {key: value for key, value in models.to_official(source).items() if ".ia." not in key and ".im." not in key}
    for i, (add, scale) in enumerate(zip(source.head.ia, source.head.im)):
        key = f"model.77.m.{i}."
        weight, a, m = state[key + "weight"], add.implicit.flatten(), scale.implicit.flatten()
        state[key + "bias"] = (state[key + "bias"] + weight.flatten(1) @ a) * m
        state[key + "weight"] = weight * m[:, None, None, None]
    module, got = _output("yolov7-tiny", state, images)
    assert module.spec.name == "yolov7-tiny-deploy" and type(module.head) is PlainHead
    assert models.to_official(module).keys() == state.keys()
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_rep_conv_folded_by_the_authors_is_taken():
    torch.manual_seed(0)
    with unfilled():
        layout = models.to_official(models.build("yolov7", 2))
    state = {key: value for key, value in layout.items() if ".rbr_" not in key}
    for i in (102, 103, 104):
        shape = layout[f"model.{i}.rbr_dense.0.weight"].shape
        state[f"model.{i}.rbr_reparam.weight"] = 0.1 * torch.randn(shape)
        state[f"model.{i}.rbr_reparam.bias"] = torch.randn(shape[0])
    with unfilled():
        module = models.load_official(models.build("yolov7", 2), state).eval().fuse()
    for i in (102, 103, 104):
        conv = module.model[i].conv
        torch.testing.assert_close(conv.weight, state[f"model.{i}.rbr_reparam.weight"], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(conv.bias, state[f"model.{i}.rbr_reparam.bias"], rtol=1e-6, atol=1e-7)


def test_one_class_scores_are_the_objectness():
    head = PlainHead((4,), 1, strides=(8,), anchors=(((1, 2), (3, 4)),))
    raw = AnchorRaw((torch.randn(1, 12, 2, 3),))
    _, scores = head.decode(raw)
    torch.testing.assert_close(scores[..., 0], raw.logits[0].unflatten(1, (2, 6))[:, :, 4].flatten(1).sigmoid())
