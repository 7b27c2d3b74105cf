# SPDX-License-Identifier: Apache-2.0
"""Parity vectors of multi-scale deformable attention: samples, gradients, and RT-DETRv2's attention module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdet import ops

Arrays = dict[str, np.ndarray]


def msda(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Results of every set in the file, named by its prefix, in the precision of its inputs."""
    out: Arrays = {}
    for key in arrays:
        name, _, field = key.rpartition("_")
        if f"{name}_points" not in arrays:
            continue
        if field == "value":
            out |= {f"{name}_{k}": v for k, v in _samples(_part(arrays, name)).items()}
        elif field == "query":
            out |= {f"{name}_{k}": v for k, v in _module(_part(arrays, name)).items()}
    return out


def _part(arrays: Mapping[str, np.ndarray], name: str) -> Arrays:
    return {key.removeprefix(f"{name}_"): array for key, array in arrays.items() if key.startswith(f"{name}_")}


def _starts(shapes: np.ndarray) -> np.ndarray:
    sizes = shapes.astype(np.int64).prod(1)
    return np.cumsum(sizes) - sizes


def _samples(given: Arrays) -> Arrays:
    points = tuple(int(n) for n in given["points"])
    inputs = (given["value"], given["shapes"], given["level_start"], given["loc"], given["weight"])
    out: Arrays = {}
    for prefix, method in (("", "default"), ("discrete_", "discrete")):
        if method == "discrete" and "grad_out" not in given:
            continue
        out[f"{prefix}out"] = ops.ms_deform_attn(*inputs, num_points=points, method=method)
        if "grad_out" in given:
            grads = ops.ms_deform_attn_backward(given["grad_out"], *inputs, num_points=points, method=method)
            names = ("grad_value", "grad_loc", "grad_weight")
            out |= {f"{prefix}{n}": g for n, g in zip(names, grads) if (prefix, n) != ("discrete_", "grad_loc")}
    return out


def _module(given: Arrays) -> Arrays:
    """Attention with its four linear layers; differentiated by torch, but for the operator."""
    import torch
    from torch.nn import functional

    points = [int(n) for n in given["points"]]
    leaves: dict[str, Any] = {"query": torch.tensor(given["query"]), "memory": torch.tensor(given["memory"])}
    leaves |= {key.removeprefix("p_"): torch.tensor(a) for key, a in given.items() if key.startswith("p_")}
    for leaf in leaves.values():
        leaf.requires_grad_()

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, leaves[f"{name}.weight"], leaves[f"{name}.bias"])

    batch, queries, width = leaves["query"].shape
    heads = leaves["attention_weights.weight"].shape[0] // sum(points)
    value = linear(leaves["memory"], "value_proj").view(batch, -1, heads, width // heads)
    offsets = linear(leaves["query"], "sampling_offsets").view(batch, queries, heads, sum(points), 2)
    logits = linear(leaves["query"], "attention_weights").view(batch, queries, heads, sum(points))
    boxes = torch.tensor(given["ref_boxes"])
    shapes = torch.tensor(given["shapes"])
    starts = torch.from_numpy(_starts(given["shapes"]))
    attended = ops.ms_deform_attn_fused(value, shapes, starts, boxes, offsets, logits, num_points=points)
    result = linear(attended, "output_proj")
    share = (1 / torch.tensor(points, dtype=torch.float32)).to(boxes.dtype)  # detectors keep it in float32
    share = share.repeat_interleave(torch.tensor(points))[:, None]
    with torch.no_grad():
        box = boxes[:, :, None, None]
        out = {"loc": box[..., :2] + offsets * share * box[..., 2:] * 0.5, "weight": logits.softmax(-1)}
    out["out"] = result.detach()
    if "grad_out" in given:
        result.backward(torch.tensor(given["grad_out"]))
        out |= {f"grad_{name}": leaf.grad for name, leaf in leaves.items()}
    return {name: tensor.numpy() for name, tensor in out.items()}
