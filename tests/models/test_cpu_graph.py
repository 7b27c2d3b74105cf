# SPDX-License-Identifier: Apache-2.0
"""The native form of a network on the CPU against the module that it stands for."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch

from fastdet import Detector, _core, models, ops
from fastdet.models.cpu_graph import CpuGraph, CpuNetwork, obstacle

NEEDS = pytest.mark.skipif(bool(_core.network_unsupported(False)), reason=_core.network_unsupported(False) or "-")
NEEDS_HALF = pytest.mark.skipif(bool(_core.network_unsupported(True)), reason=_core.network_unsupported(True) or "-")
NAMES = (
    "yolo11n", "yolo26n", "yolov10n", "yolov9t", "yolov8n", "yolov5n", "yolov5nu", "yolov7-tiny",
    "yolo11n-pose", "yolo11n-obb",
)  # fmt: skip


def lively(name: str, num_classes: int | None = None) -> models.DetectionModel:
    """A fused model whose maps keep their size from layer to layer, so that no fault is multiplied away."""
    torch.manual_seed(0)
    module = models.build(name, num_classes).eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.Conv2d) and part.weight.requires_grad:
                part.weight.normal_(0, (2.0 / part.weight[0].numel()) ** 0.5)
            elif isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.3)
    return module.fuse()


def picture(height: int, width: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(seed))


def levels(raw) -> list[torch.Tensor]:
    return [level for part in raw for level in part]


def difference(raw, expected) -> float:
    """Largest difference of a map, as a part of what the map spans."""
    pairs = list(zip(levels(raw), levels(expected), strict=True))
    assert pairs and all(a.shape == b.shape and a.dtype == torch.float32 for a, b in pairs)
    return max(float((a - b.float()).abs().max() / b.float().abs().max().clamp(min=1)) for a, b in pairs)


@NEEDS
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_equals_the_module(name):
    module = lively(name)
    graph, step = CpuGraph(module), module.spec.strides[-1]
    for height, width in ((3 * step, 2 * step), (step, 5 * step)):
        images = picture(height, width)
        expected = module(images)
        assert type(graph(images)) is type(expected)
        assert max(float(level.std()) for level in levels(expected)) > 0.1
        assert difference(graph(images), expected) < 2e-5


@NEEDS
@torch.inference_mode()
def test_batches_and_odd_numbers_of_classes():
    module = lively("yolo11n", 3)
    images = picture(64, 96, batch=3)
    assert difference(CpuGraph(module)(images), module(images)) < 2e-5
    with pytest.raises(ValueError, match="multiples of 32"):
        CpuGraph(module)(picture(64, 90))


@NEEDS_HALF
@pytest.mark.parametrize("name", ("yolo11n", "yolov9t", "yolov5n"))
@torch.inference_mode()
def test_bfloat16_is_as_close_as_its_format(name):
    module = lively(name)
    images = picture(96, 64)
    expected = module(images)
    torch_half = difference(
        [[x.float() for x in part] for part in copy.deepcopy(module).bfloat16()(images.bfloat16())], expected
    )
    assert difference(CpuGraph(module, torch.bfloat16)(images), expected) < max(1.5 * torch_half, 0.01)


@NEEDS
@torch.inference_mode()
def test_borders_are_zero_whatever_the_arena_held():
    graph = CpuGraph(lively("yolo11n"))
    first = levels(graph(picture(64, 64)))
    graph(picture(64, 64, seed=1) * torch.inf)  # infinities and NaN everywhere
    again = levels(graph(picture(64, 64)))
    assert all(torch.equal(a, b) for a, b in zip(first, again))


@NEEDS
@torch.inference_mode()
def test_threads_and_their_number_do_not_change_bits():
    graph = CpuGraph(lively("yolo11n"))
    pictures = [picture(64, 64 + 32 * (i % 2), seed=i) for i in range(4)]
    threads = _core.num_threads()
    try:
        _core.set_num_threads(1)
        wanted = [levels(graph(each)) for each in pictures]
        _core.set_num_threads(3)
        wrong = []

        def work() -> None:
            for each, expected in zip(pictures * 2, wanted * 2):
                with torch.inference_mode(), graph.lend(each) as raw:
                    if not all(torch.equal(a, b) for a, b in zip(levels(raw), expected)):
                        wrong.append(each)

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong
    finally:
        _core.set_num_threads(threads)


@NEEDS
def test_sizes_are_remembered_up_to_a_limit():
    graph = CpuGraph(lively("yolov8n"))
    with torch.inference_mode():
        for i in range(12):
            graph(picture(32, 32 * (i + 1)))
    assert len(graph._plans) == 8


@NEEDS
def test_follows_changed_weights_and_steps_aside():
    module = lively("yolov8n")
    network, images = CpuNetwork(module), picture(64, 64)

    def run():
        with torch.inference_mode(), network.run(images, keep=True) as raw:
            return levels(raw)

    before = run()
    assert network.why_not() == ""
    with torch.no_grad():
        module.model[0].conv.weight.mul_(0.5)
    after = run()
    assert not torch.equal(before[0], after[0])
    with torch.inference_mode():
        assert difference([after], [levels(module(images))]) < 2e-5
    seen = []
    hook = module.model[3].register_forward_hook(lambda *_: seen.append(1))
    run()
    assert seen and "hook" in network.why_not()
    hook.remove()
    with ops.backend("cpu"):
        assert "backend" in network.why_not()
    assert copy.deepcopy(network).why_not() == ""


@NEEDS
def test_what_has_no_native_form_is_said():
    assert "ConvTranspose2d" in CpuNetwork(lively("yolo11n-seg")).why_not()
    assert "no table" in obstacle(models.build("damo-yolo-ns").eval().fuse(), torch.float32)
    assert "float16" in obstacle(lively("yolov8n"), torch.float16)
    with pytest.raises(ValueError, match="not fused"):
        CpuGraph(models.build("yolov8n").eval())


@NEEDS
def test_detector_finds_what_the_module_finds():
    module = lively("yolo11n", 4)
    with torch.no_grad():
        for branch in module.head.cv3:
            branch[-1].bias.zero_()
    detector = Detector(module)
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    assert detector._cpu_network.why_not() == ""
    for rect in (True, False):
        found = detector(image, score_threshold=0.3, rect=rect)[0]
        detector._cpu_network, kept = None, detector._cpu_network
        expected = detector(image, score_threshold=0.3, rect=rect)[0]
        detector._cpu_network = kept
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-2)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
