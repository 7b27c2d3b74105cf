# SPDX-License-Identifier: Apache-2.0
"""Runs the project on parity cases (whole networks) and parity vectors (assigners, losses, kernels)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastdet.testing.vector_aligned_ota import damo_aligned_ota
from fastdet.testing.vector_damo import damo_losses
from fastdet.testing.vector_letterbox import letterbox_vectors
from fastdet.testing.vector_msda import msda
from fastdet.testing.vector_nms import nms_scenarios
from fastdet.testing.vector_rtdetr import rtdetr_denoising, rtdetr_matcher
from fastdet.testing.vector_sim_ota import yolov7_assignments
from fastdet.testing.vector_tal import task_aligned_groups, yolov9_assignments

Arrays = dict[str, np.ndarray]

# Stem of a file in the parity data -> what computes its outputs from its inputs.
VECTORS: dict[str, Callable[[Mapping[str, np.ndarray]], Arrays]] = {
    "damo_aligned_ota": damo_aligned_ota,
    "damo_losses": damo_losses,
    "msda": msda,
    "nms": nms_scenarios,
    "letterbox": letterbox_vectors,
    "rtdetr_denoising": rtdetr_denoising,
    "tal": task_aligned_groups,
    "yolov7_ota": yolov7_assignments,
    "yolov9_tal": yolov9_assignments,
    "rtdetr_matcher": rtdetr_matcher,
}


def shared_dir() -> Path | None:
    """The folder of shared parity data, or None where there is none.

    It is ``$FASTDET_SHARED``, else a folder named ``shared`` beside the checkout that holds this file (or the
    current directory), or beside the main checkout when that one is a linked git worktree.
    """
    chosen = os.environ.get("FASTDET_SHARED")
    if chosen:
        return Path(chosen) if Path(chosen).is_dir() else None
    for start in (Path(__file__).resolve(), Path.cwd()):
        root = next((folder for folder in (start, *start.parents) if (folder / ".git").exists()), None)
        for checkout in (root, root and _main_checkout(root)):
            if checkout and (checkout.parent / "shared" / "parity").is_dir():
                return checkout.parent / "shared"
    return None


def _main_checkout(root: Path) -> Path | None:
    """The main checkout of a linked worktree: its ``.git`` is a file naming ``<main>/.git/worktrees/<name>``."""
    link = root / ".git"
    if not link.is_file():
        return None
    target = Path(link.read_text().removeprefix("gitdir:").strip())
    return target.parents[2] if len(target.parents) > 2 else None


def run_case(case: Mapping[str, Any], state: Mapping[str, Any], image: np.ndarray, *, deployed: bool = False) -> Arrays:
    """Run the model that a parity case names.

    Args:
        case: the case; ``case["model"]`` names the model. Its outputs are not looked at.
        state: the reference's own state dict, NumPy arrays by the reference's keys; gives the class count.
        image: [B, 3, H, W] float32, handed to the network as it is.
        deployed: run the deployed graph instead of the training graph.

    Returns:
        Every output under the case's names, float32, computed in eval mode on the CPU.

    Raises:
        ValueError: unknown model, or a state that does not fit it.
    """
    import torch

    from fastdet import models
    from fastdet.models.unfilled import unfilled

    spec = models.spec(case["model"])
    family = models.FAMILIES[spec.family]
    num_classes = family.num_classes_of(state)
    if num_classes is None:
        raise ValueError(f"run_case: state must be one of {spec.name}'s reference, got keys {list(state)[:3]}")
    with unfilled():  # all of it is overwritten
        module = models.build(models.fit(spec, state), num_classes)
        models.load_official(module, state).eval()
    if deployed:
        module.fuse()
    known = case.get("input", {})
    extra = {"image_size_wh": tuple(known["orig_size_wh"])} if "orig_size_wh" in known else {}
    with torch.no_grad():
        outputs = family.case_outputs(module, torch.from_numpy(np.ascontiguousarray(image, np.float32)), **extra)
    if "top_rows" in case:  # past these rows scores tie
        outputs["final.top"] = outputs["final.top"][:, : case["top_rows"]]
    return {name: value.numpy() for name, value in outputs.items()}


def run_vector(name: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Compute the outputs of the parity file whose stem is ``name`` from its inputs ``arrays``.

    ``arrays`` may hold more than the inputs; the rest is not looked at. Raises ValueError for an unknown name.
    """
    if name not in VECTORS:
        raise ValueError(f"run_vector: name must be one of {', '.join(VECTORS)}; got {name!r}")
    return VECTORS[name](arrays)
