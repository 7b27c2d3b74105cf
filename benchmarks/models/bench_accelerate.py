# SPDX-License-Identifier: Apache-2.0
"""Detectors of Hugging Face transformers as they come and after ``fastdet.accelerate``, on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

import fastdet
from harness import compare

pytest.importorskip("transformers", reason="transformers is not installed")

from bench_rtdetrv2 import huggingface_model, same


@pytest.mark.parametrize("name", ["rtdetrv2-s", "rtdetrv2-l"])
def bench_accelerate(benchmark, name):
    """Their RT-DETRv2-r18 and -r50, random weights."""
    theirs = huggingface_model(name)
    attention = fastdet.accelerate(copy.deepcopy(theirs), fold=False)
    everything = fastdet.accelerate(copy.deepcopy(theirs))
    images = torch.rand(1, 3, 640, 640, generator=torch.Generator().manual_seed(0))

    def forward(model):
        @torch.inference_mode()
        def run():
            found = model(images)
            return found.logits, found.pred_boxes

        return run

    setting = f"{name}, 640 x 640, batch 1, float32, {torch.get_num_threads()} threads"
    runs = {"fastdet": forward(everything), "attention only": forward(attention), "transformers": forward(theirs)}
    compare(benchmark, "accelerate", setting, runs, same=same, rounds=10)
