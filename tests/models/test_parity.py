# SPDX-License-Identifier: Apache-2.0
"""Whole networks and losses against numbers of the reference, generated from the files in the parity folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fastdet import models
from fastdet.models.unfilled import unfilled
from fastdet.testing import run_case, run_vector, shared_dir

SHARED = shared_dir()
if SHARED is None:
    pytest.skip("no shared parity data (set FASTDET_SHARED)", allow_module_level=True)


def _load_fill():
    found = importlib.util.spec_from_file_location("fill", SHARED / "parity" / "fill.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


fill = _load_fill()


def _known(path: Path) -> bool:
    try:
        models.spec(fill.load_case(path.stem)["model"])
    except ValueError:
        return False
    return True


CASES = sorted(path.stem for path in (SHARED / "parity" / "cases").glob("*.json") if _known(path))


@pytest.fixture(scope="module", params=CASES)
def case_and_state(request):
    case = fill.load_case(request.param)
    return case, fill.state_dict(case)


@pytest.mark.parametrize("deployed", [False, True], ids=["training", "deployed"])
def test_outputs_agree_with_the_reference(case_and_state, deployed):
    case, state = case_and_state
    outputs = run_case(case, state, fill.image(case["input"]["shape"]), deployed=deployed)
    kept = [output for output in case["outputs"] if output["name"] in outputs]
    assert len(kept) == len(case["outputs"]) or deployed  # one of two heads is no part of it then
    assert len(kept) >= len(case["outputs"]) / 3
    errors = fill.compare({"outputs": kept}, outputs)
    assert max(errors.values()) < 1e-4, errors


def test_key_map_round_trip_is_the_identity(case_and_state):
    case, state = case_and_state
    spec = models.spec(case["model"])
    with unfilled():
        module = models.build(spec, models.FAMILIES[spec.family].num_classes_of(state))
    assert sum(p.numel() for p in module.parameters()) == case["params"]
    back = models.to_official(models.load_official(module, state))
    assert list(back) == [key for key, _, _ in case["state"]]
    for key, value in state.items():
        assert value.dtype == back[key].numpy().dtype
        np.testing.assert_array_equal(value, back[key].numpy(), err_msg=key)
    if "params_deployed" in case:  # the references count before or after folding plain BatchNorms
        counts = [sum(p.numel() for p in module.fuse(batch_norm=bn).parameters()) for bn in (False, True)]
        assert case["params_deployed"] in counts


def test_damo_losses():
    with np.load(SHARED / "parity" / "assign" / "damo_losses.npz") as file:
        arrays = {key: file[key] for key in file.files}
    outputs = run_vector("damo_losses", arrays)
    groups = ("per_row", "loss", "grad", "distance", "head_labels", "head_label_scores", "targets", "num_pos")
    wanted = {key for key in arrays if any(word in key for word in groups)}
    assert set(outputs) == wanted
    for key, got in outputs.items():
        want = arrays[key]
        assert got.dtype == want.dtype and got.shape == want.shape, key
        if np.issubdtype(want.dtype, np.integer):
            np.testing.assert_array_equal(got, want, err_msg=key)
        else:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max(), err_msg=key)
