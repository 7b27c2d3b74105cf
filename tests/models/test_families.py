# SPDX-License-Identifier: Apache-2.0
"""What every model of every family must do; generated from FAMILIES, without private code for any of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastdet import models
from fastdet.models import RawHead, Targets

# Families with a criterion.
NAMES = list(models.FAMILIES["damo-yolo"].SPECS)
# The largest of a family runs where one run is enough; what is checked on each model does not depend on depth.
SMALL = [name for name in NAMES if name.rpartition("-")[2] not in ("l", "m", "s")]

# Trained, RepConv folded, all BatchNorm folded: counted on the reference with 80 classes; and its published figure.
PARAMETERS = {
    "damo-yolo-t": (8_875_727, 8_479_631, 8_473_911, "8.5"),
    "damo-yolo-s": (16_935_647, 16_251_631, 16_242_751, "16.3"),
    "damo-yolo-m": (29_241_727, 28_178_175, 28_164_063, "28.2"),
    "damo-yolo-l": (43_861_759, 42_058_111, 42_039_711, "42.1"),
    "damo-yolo-ns": (1_405_691, 1_405_691, 1_392_299, "1.41"),
    "damo-yolo-nm": (2_707_219, 2_707_219, 2_688_371, "2.71"),
    "damo-yolo-nl": (5_688_579, 5_688_579, 5_659_451, "5.69"),
}
STATE_ENTRIES = dict(zip(PARAMETERS, (586, 640, 844, 1114, 526, 526, 544)))


def _seeded(name: str, num_classes: int = 5, seed: int = 0) -> models.DetectionModel:
    """A model whose every parameter and statistic differs from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    module = models.build(name, num_classes)
    for block in module.modules():
        if isinstance(block, torch.nn.BatchNorm2d):
            block.running_mean.normal_(0, 0.1, generator=generator)
            block.running_var.uniform_(0.8, 1.2, generator=generator)
            torch.nn.init.uniform_(block.weight, 0.4, 0.7, generator=generator)
            torch.nn.init.normal_(block.bias, 0, 0.1, generator=generator)
        elif isinstance(block, torch.nn.Conv2d):
            fan_in = block.weight[0].numel()
            torch.nn.init.normal_(block.weight, 0, 1.3 / fan_in**0.5, generator=generator)
    return module


def _images(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _targets(*counts: int, side: float = 96.0, num_classes: int = 5, seed: int = 0) -> Targets:
    rs = np.random.RandomState(seed)
    boxes, labels = [], []
    for count in counts:
        corner = rs.uniform(0, side * 0.6, (count, 2))
        size = rs.uniform(8, side * 0.4, (count, 2))
        boxes.append(torch.from_numpy(np.concatenate([corner, corner + size], 1).astype(np.float32)))
        labels.append(torch.from_numpy(rs.randint(0, num_classes, count)))
    return Targets(boxes, labels)


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).double().norm() / want.double().norm())


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts(name):
    trained, deployed, folded, published = PARAMETERS[name]
    module = models.build(name)

    def count():
        return sum(p.numel() for p in module.parameters())

    assert count() == trained
    assert len(models.to_official(module)) == STATE_ENTRIES[name]
    module.fuse(batch_norm=False)
    assert count() == deployed
    assert f"{deployed / 1e6:.{len(published.partition('.')[2])}f}" == published
    module.fuse()
    assert count() == folded
    assert not any(isinstance(block, torch.nn.BatchNorm2d) for block in module.modules())


@pytest.mark.parametrize("name", NAMES)
def test_deployed_graph_equals_training_graph(name):
    module = _seeded(name).eval()
    images = _images(1, 64, 96)
    with torch.no_grad():
        raw = module(images)
        want = (*raw.cls_logits, *raw.reg_logits, *module.decode(raw))
        for options in ({"batch_norm": False}, {}, {}):
            module.fuse(**options)
            raw = module(images)
            got = (*raw.cls_logits, *raw.reg_logits, *module.decode(raw))
            assert max(map(_relative, got, want)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_decode_shapes_and_ranges(name):
    module = _seeded(name, num_classes=3).eval()
    height, width = 64, 128
    with torch.no_grad():
        boxes, scores = module.decode(module(_images(2, height, width)))
    points = sum((height // stride) * (width // stride) for stride in module.spec.strides)
    assert boxes.shape == (2, points, 4) and scores.shape == (2, points, 3)
    assert boxes.dtype == scores.dtype == torch.float32
    assert (boxes[..., 2:] >= boxes[..., :2]).all() and (scores >= 0).all() and (scores <= 1).all()


@pytest.mark.parametrize("name", SMALL)
def test_batch_equals_single(name):
    module = _seeded(name).eval()
    images = torch.cat([_images(1, 96, 64, seed=i) for i in range(3)])
    with torch.no_grad():
        together = module.decode(module(images))
        for i in range(3):
            for got, want in zip(module.decode(module(images[i : i + 1])), together):
                assert _relative(got[0], want[i]) < 1e-5


@pytest.mark.parametrize("shape", [(96, 96), (64, 128)], ids=["square", "wide"])
@pytest.mark.parametrize("name", SMALL)
def test_one_training_step(name, shape):
    module = _seeded(name)
    values = module.criterion(module(_images(2, *shape)), _targets(3, 1, side=min(shape)))
    assert set(values) == {"loss", "loss_cls", "loss_bbox", "loss_dfl", "num_pos"}
    assert int(values["num_pos"]) >= 2
    parts = values["loss_cls"] + values["loss_bbox"] + values["loss_dfl"]
    torch.testing.assert_close(values["loss"], parts)
    values["loss"].backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    assert sum(float(p.grad.abs().sum()) > 0 for p in module.parameters()) > 0.95 * len(list(module.parameters()))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("far_away", [False, True], ids=["no ground truth", "no positive"])
def test_loss_without_positives(name, far_away):
    module = _seeded(name)
    box = torch.tensor([[5000.0, 5000.0, 5100.0, 5100.0]])
    rows = 1 if far_away else 0
    targets = Targets([box[:rows]] * 2, [torch.zeros(rows, dtype=torch.int64)] * 2)
    raw = module(_images(2, 64, 64))
    leaves = [tensor for level in raw for tensor in level]
    for tensor in leaves:
        tensor.retain_grad()
    values = module.criterion(raw, targets)
    values["loss"].backward()
    assert int(values["num_pos"]) == 0 and torch.isfinite(values["loss"])
    assert float(values["loss_bbox"]) == float(values["loss_dfl"]) == 0 < float(values["loss_cls"])
    assert all(torch.isfinite(tensor.grad).all() for tensor in leaves)
    assert all((tensor.grad == 0).all() for tensor in raw.reg_logits)


@pytest.mark.parametrize("name", SMALL)
def test_the_loss_is_computed_in_float32_inside_autocast(name):
    module, targets = _seeded(name), _targets(3, 1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        raw = module(_images(2, 96, 96))
        inside = module.criterion(raw, targets), module.decode(raw)
    with torch.no_grad():
        outside = module.criterion(raw, targets), module.decode(raw)
    assert raw.cls_logits[0].dtype == torch.bfloat16
    for got, want in zip((*inside[0].values(), *inside[1]), (*outside[0].values(), *outside[1])):
        assert got.dtype == want.dtype and torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_half_precision_models_decode_to_float32(name, dtype):
    module, images = _seeded(name).eval().fuse(), _images(1, 64, 64)
    with torch.no_grad():
        want = module.decode(module(images))
        got = module.to(dtype).decode(module(images.to(dtype)))
    for a, b in zip(got, want):
        assert a.dtype == torch.float32 and _relative(a, b) < 0.1


@pytest.mark.parametrize("name", SMALL)
def test_saturated_logits_give_finite_gradients(name):
    module = _seeded(name)
    with torch.no_grad():
        raw = module(_images(2, 64, 64))
    raw = RawHead(*(tuple((t.sign() * 200).requires_grad_() for t in level) for level in raw))
    values = module.criterion(raw, _targets(4, 0, side=64))
    values["loss"].backward()
    assert torch.isfinite(values["loss"])
    assert all(torch.isfinite(t.grad).all() for level in raw for t in level)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_is_kept_and_changes_nothing(name):
    module, images = _seeded(name).eval(), _images(2, 64, 96)
    with torch.no_grad():
        want = module(images)
        module.to(memory_format=torch.channels_last)
        for _ in range(2):
            got = module(images.contiguous(memory_format=torch.channels_last))
            for a, b in zip((*got[0], *got[1]), (*want[0], *want[1])):
                assert a.is_contiguous(memory_format=torch.channels_last)
                assert _relative(a, b) < 1e-5
            module.fuse()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_a_model_finds_it(name):
    spec = models.spec(name)
    for alias in (name.upper(), name.replace("-", "_"), *spec.reference_names):
        assert models.spec(alias) is spec


def test_key_map_is_a_bijection_for_every_model():
    for name in NAMES:
        with torch.device("meta"):
            module = models.build(name, 3)
        keys = models.FAMILIES[module.spec.family].key_map(module.spec)
        for ours in module.state_dict():
            official = keys.to_official(ours)
            assert official != ours and keys.to_ours(official) == ours


def test_load_official_lists_what_does_not_fit_and_changes_nothing():
    module = models.build("damo-yolo-ns", 3)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = {key: np.full(tuple(value.shape), 7, np.float32) for key, value in models.to_official(module).items()}
    state["head.gfl_cls.1.weigth"] = state.pop("head.gfl_cls.1.weight")
    state["head.gfl_cls.2.bias"] = np.zeros(4, np.float32)
    with pytest.raises(
        ValueError, match=r"1 missing:\n +head.gfl_cls.1.weight \(nearest: head.gfl_cls.1.weigth"
    ) as error:
        models.load_official(module, state)
    assert "1 unused:\n    head.gfl_cls.1.weigth" in str(error.value)
    assert "head.gfl_cls.2.bias has shape (4,), the model wants (3,)" in str(error.value)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_load_official_accepts_the_prefix_of_data_parallel_training():
    source, target = _seeded("damo-yolo-ns"), models.build("damo-yolo-ns", 5)
    models.load_official(target, {f"module.{key}": value for key, value in models.to_official(source).items()})
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key]), key


def test_a_fused_model_has_no_official_form():
    module = models.build("damo-yolo-ns", 3)
    state = models.to_official(module)
    module.fuse()
    with pytest.raises(ValueError, match="to_official: module must be in its training graph"):
        models.to_official(module)
    with pytest.raises(ValueError, match="load_official: module must be in its training graph"):
        models.load_official(module, state)


@pytest.mark.parametrize("shape", [(1, 3, 64, 65), (3, 64, 64), (1, 4, 64, 64)])
def test_wrong_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\) with H and W multiples of 32, got"):
        models.build("damo-yolo-ns", 3)(torch.zeros(shape))


def test_wrong_names_and_counts_are_refused():
    with pytest.raises(ValueError, match=r"name must be one of damo-yolo-t, .*; got 'yolo-zero'"):
        models.build("yolo-zero")
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        models.build("damo-yolo-t", 0)


def test_wrong_targets_are_refused():
    module = models.build("damo-yolo-ns", 3)
    raw = module(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), picture 0 has \[3\]"):
        module.criterion(raw, Targets([torch.tensor([[0.0, 0, 9, 9]])], [torch.tensor([3])]))
    with pytest.raises(ValueError, match="one entry per picture, got 1, 0"):
        module.criterion(raw, Targets([torch.zeros(0, 4)], []))
    with pytest.raises(ValueError, match=r"picture 0 must have boxes \(M, 4\) and labels \(M,\)"):
        module.criterion(raw, Targets([torch.zeros(2, 4)], [torch.tensor([1])]))
