# SPDX-License-Identifier: Apache-2.0
"""Every detector with a published AP: ``Detector`` from a 1080p array to boxes, deployed graph, batch 1, float32.

Weights are random: what is timed is letterbox, network, decoding, and a suppression that finds little to do. Models of
similar cost take turns, the heavy ones fewer. Without timing (``--benchmark-disable``) two small ones run.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import published
from fastdet import Detector, models
from harness import take_turns

TOGETHER = 4
SMALL = ("damo-yolo-ns", "yolo26n")
# Rounds up to this many input pixels times parameters of the heaviest model of a group; two beyond the last.
ROUNDS = ((2e12, 10), (1e13, 6), (3e13, 3))
GROUPS = range(-(-len(published.AP) // TOGETHER))


@functools.cache
def by_cost() -> list[tuple[float, str]]:
    """Names with input pixels times parameters, which say closely enough what costs alike."""
    costs = []
    for name in published.AP:
        with torch.device("meta"):
            module = models.build(name)
        height, width = module.spec.input_size
        costs.append((float(height * width * sum(p.numel() for p in module.parameters())), name))
    return sorted(costs)


def detector(name: str, device: str) -> Detector:
    """A detector whose signals live in every layer: as initialised they fade, and vanishing numbers are slow."""
    torch.manual_seed(0)
    module = models.build(name)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.uniform_(0.8, 1.2)
                layer.bias.normal_(0, 0.1)
    return Detector(module.eval().fuse(), device=device)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def bench_detectors(benchmark, device, group):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if benchmark.enabled:
        chosen = by_cost()[group * TOGETHER : (group + 1) * TOGETHER]
        names, heaviest = [name for _, name in chosen], chosen[-1][0]
        rounds = next((rounds for limit, rounds in ROUNDS if heaviest <= limit), 2)
    elif group > 0:
        pytest.skip("heavy: runs where it is timed, make bench")
    else:
        names, rounds = list(SMALL), 1
    picture = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    contenders = {}
    for name in names:
        contenders[name] = functools.partial(detector(name, device).predict, picture)
    for name, run in contenders.items():
        assert len(run()) == 1, name
    take_turns(benchmark, "detectors", contenders, rounds=rounds, device=device)
