# SPDX-License-Identifier: Apache-2.0
"""What is special to RT-DETRv2: queries, denoising, its training outputs, and the names of four projects."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastdet import Detector, models
from fastdet.formats import safetensors_bytes
from fastdet.models import Targets, rtdetrv2
from fastdet.models.rtdetrv2.decoder import inverse_sigmoid, token_anchors
from fastdet.models.rtdetrv2.denoising import group_shape
from fastdet.models.rtdetrv2.encoder import position_table
from fastdet.models.unfilled import unfilled
from fastdet.testing import run_vector, shared_dir
from fastdet.trace import Trace

TINY = dataclasses.replace(
    models.spec("rtdetrv2-s"),
    depths=(1, 1, 2, 1),
    stem=(8, 8, 16),
    widths=(16, 32, 48, 64),
    encoder_dim=32,
    encoder_ffn=40,
    decoder_dim=48,
    decoder_ffn=56,
    heads=4,
    queries=30,
    decoder_layers=3,
    eval_layer=1,
    query_pos=(96,),
    denoising=20,
)
VARIANTS = {
    "plain": TINY,
    "bottleneck": dataclasses.replace(TINY, bottleneck=True, frozen=True, expansion=1.0),
    "ragged": dataclasses.replace(TINY, points=(3, 6, 3)),
    "discrete": dataclasses.replace(TINY, sampling="discrete"),
    "deim": dataclasses.replace(TINY, act=nn.SiLU, query_pos=(48, 48)),
}
# Parameters as trained and deployed, GFLOPs at 640 x 640 likewise: the published tables, counted on the reference.
PUBLISHED = {
    "rtdetrv2-s": ((20_184_464, 19_911_856), (61.05, 60.06)),
    "rtdetrv2-m-r34": ((31_441_668, 31_144_788), (93.06, 92.08)),
    "rtdetrv2-m": ((36_593_772, 32_905_584), (100.16, 99.18)),
    "rtdetrv2-l": ((42_891_372, 41_994_204), (137.06, 133.13)),
    "rtdetrv2-x": ((76_556_268, 74_695_644), (259.77, 250.93)),
}
# The reference runs the box network of the selection on all 8400 tokens, fastdet on the 300 selected.
SAVED = 8100 * 2 * (2 * 256 * 256 + 256 * 4)


def _seeded(spec: rtdetrv2.RtDetrSpec, num_classes: int = 7, seed: int = 0) -> rtdetrv2.RtDetr:
    """A model whose every weight and statistic differs from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    module = models.build(spec, num_classes)
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if not value.is_floating_point() or "points_scale" in key:
                continue
            if key.endswith(("running_var", "bn.weight")) or (".norm" in key and key.endswith("weight")):
                value.uniform_(0.8, 1.2, generator=generator)
            elif value.ndim > 1:
                value.normal_(0, value[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(0, 0.1, generator=generator)
    return module


def _images(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _close(got: torch.Tensor, want: torch.Tensor, limit: float = 1e-5) -> None:
    assert got.shape == want.shape
    assert float((got - want).double().norm() / want.double().norm()) < limit


def _targets(*counts: int, num_classes: int = 7) -> Targets:
    rs = np.random.RandomState(0)
    corners = [rs.uniform(0, 60, (n, 2)) for n in counts]
    boxes = [np.concatenate((low, low + rs.uniform(5, 30, low.shape)), 1) for low in corners]
    labels = [torch.from_numpy(rs.randint(0, num_classes, n)) for n in counts]
    return Targets([torch.from_numpy(b.astype(np.float32)) for b in boxes], labels)


@pytest.mark.parametrize("deployed", [False, True], ids=["trained", "deployed"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_flops_of_the_published_tables(name, deployed):
    parameters, gflops = (each[deployed] for each in PUBLISHED[name])
    with unfilled():
        module = models.build(name).eval()
    if deployed:
        module.fuse()
    assert sum(p.numel() for p in module.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.to("meta")(torch.empty(1, 3, 640, 640, device="meta"))
    counts = counter.get_flop_counts()["Global"]
    linear = sum(counts[kind] for kind in (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm))
    assert f"{(linear + SAVED) / 1e9:.2f}" == f"{gflops:.2f}"


@pytest.mark.parametrize("name", VARIANTS)
def test_deployed_graph_equals_training_graph(name):
    module = _seeded(VARIANTS[name]).eval()
    images = _images(2, 96, 128)
    with torch.no_grad():
        want = module(images)
        for _ in range(2):
            module.fuse()
            got = module(images)
            _close(got.logits, want.logits)
            _close(got.boxes_norm, want.boxes_norm)
    assert len(module.decoder.layers) == 2 and len(module.decoder.score) == 1
    assert not any(isinstance(block, nn.BatchNorm2d) for block in module.modules())


@pytest.mark.parametrize("shape", [(128, 64), (64, 192), (32, 32)], ids=str)
def test_decode_on_any_shape(shape):
    module = _seeded(TINY).eval()
    with torch.no_grad():
        raw = module(_images(2, *shape))
        boxes, scores = module.decode(raw)
        one = module(_images(2, *shape)[1:])
    tokens = sum((shape[0] // stride) * (shape[1] // stride) for stride in (8, 16, 32))
    assert raw.logits.shape == (2, min(30, tokens), 7) and raw.image_size == shape
    assert boxes.dtype == scores.dtype == torch.float32 and (scores > 0).all() and (scores < 1).all()
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 / torch.tensor(shape[::-1])
    _close(centre, raw.boxes_norm[..., :2])
    _close(one.logits[0], raw.logits[1])


def test_training_outputs_and_gradients():
    module = _seeded(TINY).train()
    targets = _targets(3, 0, 2)
    raw = module(_images(3, 96, 128), targets)
    groups = raw.denoising
    assert groups.groups == 20 // 3 and groups.labels.shape == (3, 2 * 3 * 6)
    assert raw.logits.shape == (3, 30, 7) and raw.selected.logits.shape == (3, 30, 7)
    assert len(raw.auxiliary) == 2 and len(raw.denoised) == 3
    assert all(each.logits.shape == (3, 36, 7) for each in raw.denoised)
    predictions = [(raw.logits, raw.boxes_norm), *raw.auxiliary, raw.selected, *raw.denoised]
    sum(value.sum() for each in predictions for value in each).backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


def test_selected_queries_do_not_see_the_denoising_ones():
    module = _seeded(TINY).train()
    for block in module.modules():
        if isinstance(block, nn.BatchNorm2d):
            block.eval()
    images = _images(2, 96, 128)
    with torch.no_grad():
        want, got = module(images), module(images, _targets(2, 4))
        module.eval()
        middle = module(images)
    assert want.denoising is None and got.denoising is not None
    _close(got.logits, want.logits)
    _close(got.boxes_norm, want.boxes_norm)
    _close(middle.logits, want.auxiliary[1].logits)  # evaluation stops at layer 1
    _close(middle.boxes_norm, want.auxiliary[1].boxes_norm)


def test_boxes_look_forward_twice():
    """From the second layer on a box depends on the box head before it; its value does not show that."""
    module = _seeded(TINY).train()
    raw = module(_images(1, 64, 64))
    raw.boxes_norm.sum().backward()
    before, first = (module.decoder.box[i].layers[-1].bias.grad for i in (1, 0))
    assert before is not None and before.abs().sum() > 0 and first is None


def test_equal_scores_are_selected_by_rising_token():
    module = _seeded(TINY).eval()
    nn.init.zeros_(module.decoder.token_score.weight)
    with torch.no_grad():
        memory, shapes = module.decoder.memory(module.encoder(module.backbone(_images(2, 96, 128))))
        selection = module.decoder.select(memory, shapes)
    assert torch.equal(selection.tokens, torch.arange(30).expand(2, -1))


def test_tokens_near_the_border_are_out():
    logits, valid = token_anchors(((80, 80), (40, 40), (20, 20)), torch.device("cpu"))
    assert logits.shape == (1, 8400, 4) and int((~valid).sum()) == 316
    assert torch.isinf(logits[~valid[..., 0]]).all() and torch.isfinite(logits[valid[..., 0]]).all()
    inside = logits[0, 80 * 5 + 7].sigmoid()
    torch.testing.assert_close(inside, torch.tensor([7.5 / 80, 5.5 / 80, 0.05, 0.05]))
    module = _seeded(TINY).eval()
    with torch.no_grad():  # 0.5 / 64 < 0.01
        memory, shapes = module.decoder.memory(module.encoder(module.backbone(_images(1, 512, 32))))
        content, _ = module.decoder.tokens(memory, shapes)
    out = content[0, ~token_anchors(shapes, torch.device("cpu"))[1][0, :, 0]]
    assert len(out) == 8 and (out == out[0]).all() and torch.isfinite(content).all()


def test_position_table_is_row_major():
    table = position_table(3, 5, 8, torch.device("cpu"))[0]
    y, x = 2, 4
    frequencies = torch.tensor([1.0, 0.01])
    want = torch.cat([f(p * frequencies) for p in (y, x) for f in (torch.sin, torch.cos)])
    torch.testing.assert_close(table[y * 5 + x], want)


def test_inverse_sigmoid_is_clipped():
    x = torch.tensor([-1.0, 0.0, 1e-6, 0.3, 1.0, 2.0])
    edge = float(np.log(1e-5))
    want = torch.tensor([edge, edge, edge, float(np.log(0.3 / 0.7)), -edge, -edge])
    torch.testing.assert_close(inverse_sigmoid(x), want)


def test_half_precision_keeps_boxes_in_float32():
    module, images = _seeded(TINY).eval().fuse(), _images(1, 64, 96)
    with torch.no_grad():
        want = module(images)
        got = module.to(torch.bfloat16)(images.bfloat16())
        boxes, scores = module.decode(got)
    assert got.boxes_norm.dtype == boxes.dtype == scores.dtype == torch.float32
    assert torch.isfinite(boxes).all() and want.logits.shape == got.logits.shape


# ---- denoising ------------------------------------------------------------------------------------------------------


def test_number_of_groups():
    assert group_shape([3, 0, 5], 100) == (5, 20) and group_shape([7], 5) == (7, 1)
    assert group_shape([0, 0], 100) == group_shape([], 100) == (1, 1)


def test_denoising_is_repeatable_and_stays_inside_the_picture():
    targets, embedding = _targets(4, 1), torch.randn(8, 6)
    boxes = [torch.cat(((b[:, :2] + b[:, 2:]) / 192, (b[:, 2:] - b[:, :2]) / 96), 1) for b in targets.boxes]
    draws = [rtdetrv2.draw_random([4, 1], 7, 50, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    first, second = (
        rtdetrv2.denoising_groups(boxes, targets.labels, embedding, each, queries=9, nominal=50) for each in draws
    )
    assert torch.equal(first.box_logits, second.box_logits) and torch.equal(first.labels, second.labels)
    noisy = first.box_logits.sigmoid()
    assert (noisy >= 0).all() and (noisy <= 1).all()
    assert first.groups == 12 and len(first.positives[0]) == 48 and len(first.positives[1]) == 12
    kept = (first.labels[0][first.positives[0]] == targets.labels[0].repeat(12)).float().mean()
    assert 0.6 < kept < 0.95  # a quarter is replaced, a seventh of those by the same


def test_denoising_agrees_with_the_reference():
    if shared_dir() is None:
        pytest.skip("no shared parity data (set FASTDET_SHARED)")
    with np.load(shared_dir() / "parity" / "assign" / "rtdetr_denoising.npz") as file:
        arrays = {key: file[key] for key in file.files}
    outputs = run_vector("rtdetr_denoising", arrays)
    words = ("class_ids", "query_content", "box_unact", "attn_mask", "num_group", "num_split", "positive", "match")
    assert set(outputs) == {key for key in arrays if any(word in key for word in words)}
    for key, got in outputs.items():
        want = arrays[key]
        assert got.dtype == want.dtype and got.shape == want.shape, key
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-3 if "box_unact" in key else 0, err_msg=key)


# ---- names ----------------------------------------------------------------------------------------------------------


def _first_version(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict as RT-DETR's first version writes it, whose networks are the same."""
    renamed = {}
    for key, value in state.items():
        if key.endswith(("anchors", "valid_mask", "num_points_scale")):
            continue
        key = re.sub(r"(input_proj\.\d)\.conv\.", r"\1.0.", key)
        key = re.sub(r"(input_proj\.\d)\.norm\.", r"\1.1.", key)
        renamed[key.replace("enc_output.proj", "enc_output.0").replace("enc_output.norm", "enc_output.1")] = value
    return renamed


def _on_the_hub(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of transformers as its files on the Hub have it: older names, tied heads once."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("model."):
            key = key.replace("self_attn.o_proj", "self_attn.out_proj").replace(".mlp.fc", ".fc")
            renamed[key.replace("model.encoder.aifi.", "model.encoder.encoder.")] = value
    return renamed


@pytest.mark.parametrize("layout", [_first_version, rtdetrv2.to_huggingface, _on_the_hub], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["rtdetrv2-s", "rtdetrv2-m", "deim-rtdetrv2-s"])
def test_other_layouts_are_recognised_and_load(name, layout):
    source = models.build(name, 5)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.uniform_(0.5, 1.0)
    state = models.to_official(source) if layout is _first_version else rtdetrv2.to_huggingface(source)
    if layout is not rtdetrv2.to_huggingface:
        state = layout(state)
    spec, num_classes = models.recognise(state)
    assert (spec.name, num_classes) == (name, 5)
    target = models.load_official(models.build(spec, num_classes), state)
    got, want = target.state_dict(), source.state_dict()
    assert all(torch.equal(got[key], want[key]) for key in got)
    missing = dict(state)
    missing.pop(next(key for key in state if key.endswith("enc_score_head.bias")))
    with pytest.raises(ValueError, match=r"1 missing:\n.*enc_score_head\.bias"):
        models.load_official(target, missing)
    with pytest.raises(ValueError, match=r"1 unused:\n +model\.nothing"):
        models.load_official(target, {**state, "model.nothing": torch.zeros(1)})


def test_a_file_from_the_hub_loads(tmp_path):
    source = models.build("rtdetrv2-m", 80)
    layers = re.compile(r"model\.decoder\.(layers|class_embed|bbox_embed)\.[345]\.")  # what does not run is not there
    state = {key: value for key, value in _on_the_hub(rtdetrv2.to_huggingface(source)).items() if not layers.match(key)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({key: value.detach().numpy() for key, value in state.items()}, {"format": "pt"}))
    loaded = models.load(path).eval()
    assert loaded.spec.name == "rtdetrv2-m" and loaded.spec.decoder_layers == 3 and loaded.names[0] == "person"
    images = _images(1, 64, 64)
    with torch.no_grad():
        _close(loaded(images).logits, source.eval()(images).logits)
    again = models.load(models.save_fastdet(tmp_path / "ours.safetensors", loaded.fuse(), dtype="float32"))
    with torch.no_grad():
        _close(again.eval()(images).logits, loaded(images).logits)


@pytest.mark.parametrize(
    "change",
    [
        {"eval_layer": 3},
        {"decoder_layers": 65, "eval_layer": 0},
        {"points": (4, 4)},
        {"points": (4, 0, 4)},
        {"sampling": "nearest"},
        {"queries": 0},
        {"resize": "lanczos"},
    ],
    ids=str,
)
def test_specifications_of_no_network_are_refused(change):
    with pytest.raises(ValueError, match=f"rtdetrv2-s: {list(change)[-1]} must be"):
        dataclasses.replace(TINY, **change)


def test_anchors_of_another_input_size_load():
    source = models.build(dataclasses.replace(TINY, input_size=(320, 256)), 7)
    state = models.to_official(source)
    assert state["decoder.anchors"].shape == (1, 40 * 32 + 20 * 16 + 10 * 8, 4)
    target = models.load_official(models.build(TINY, 7), state)
    back = models.to_official(target)
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)


def test_files_keep_what_tells_a_variant(tmp_path):
    spec = dataclasses.replace(models.spec("rtdetrv2-s"), sampling="discrete", queries=50)
    module = models.build(spec, 3).fuse()
    loaded = models.load_file(models.save_fastdet(tmp_path / "x.safetensors", module, dtype="float32"))
    assert loaded.spec == spec and loaded.fused
    for key, value in module.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


# ---- prediction -----------------------------------------------------------------------------------------------------


def test_prediction_is_that_of_the_reference(tmp_path):
    spec = dataclasses.replace(TINY, input_size=(96, 128))
    module = _seeded(spec).eval().fuse()
    rs = np.random.RandomState(0)
    pictures = [rs.randint(0, 256, (*size, 3)).astype(np.uint8) for size in ((60, 200), (150, 90))]
    found = Detector(module).predict(
        pictures, score_threshold=0.55, max_det=40, batch=2, on_stage=_trace(tmp_path, spec)
    )
    several = 0
    for picture, result in zip(pictures, found):
        height, width = picture.shape[:2]
        small = Image.fromarray(picture).resize((128, 96), Image.Resampling.BILINEAR)
        images = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            raw = module(images)
        scores, pair = raw.logits.sigmoid().flatten().topk(40)
        cx, cy, w, h = (raw.boxes_norm[0][pair // 7] * torch.tensor([width, height, width, height])).unbind(-1)
        boxes = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)
        boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        kept = (scores > 0.55) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        assert 5 < int(kept.sum()) == len(result)
        several += len(pair[kept]) - len((pair[kept] // 7).unique())
        np.testing.assert_array_equal(result.labels, (pair % 7)[kept])
        np.testing.assert_allclose(result.scores, scores[kept], rtol=1e-5)
        np.testing.assert_allclose(result.boxes, boxes[kept], atol=2e-3)
    assert several > 0  # a query under two labels
    only = Detector(module).predict(pictures[0], score_threshold=0.0, max_det=1000, classes=[2, 5])[0]
    assert set(only.labels) == {2, 5}
    assert (tmp_path / "0001_array" / "2_head.png").exists()


def _trace(folder, spec):
    return Trace(folder, spec, [str(i) for i in range(7)], 0.5)


def test_another_number_of_classes_keeps_all_but_the_scores(tmp_path):
    source = models.build("rtdetrv2-s", 3)
    path = models.save_fastdet(tmp_path / "x.safetensors", source, dtype="float32")
    other = models.load(path, 5)
    got, want = other.state_dict(), source.state_dict()
    differ = {key.split(".")[1] for key in got if got[key].shape != want[key].shape}
    assert other.num_classes == 5 and differ == {"token_score", "score", "denoising_embed"}
    assert all(torch.equal(got[key], want[key]) for key in got if key.split(".")[1] not in differ)
