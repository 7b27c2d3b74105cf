# SPDX-License-Identifier: Apache-2.0
"""Numbers among the arguments of operators, read off their signatures: what is none is refused by operator and name."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

import fastdet.ops as ops

SCORES = np.full((2, 3, 2), 0.5, np.float32)
BOXES = np.tile(np.array([0, 0, 8, 8], np.float32), (2, 3, 1))
ROTATED = np.concatenate([BOXES, SCORES[..., :1]], 2)
POINTS, STRIDES = np.full((3, 2), 4, np.float32), np.full(3, 8, np.float32)
TRUTHS = (BOXES[:, :1], np.zeros((2, 1), np.int64), np.ones(2, np.int64))
MAPS = ([np.zeros((1, 2, 2, 2), np.float32)], [np.zeros((1, 8, 2, 2), np.float32)], ops.HeadFormat("dfl", strides=(8,)))
GRID = {"points": POINTS, "strides": STRIDES}

CALLS = {
    "nms": ((BOXES[0], SCORES[0, :, 0]), {"iou_threshold": 0.5}),
    "batched_nms": ((BOXES[0], SCORES[0, :, 0], np.arange(3)), {"iou_threshold": 0.5}),
    "multiclass_nms": ((BOXES, SCORES), {}),
    "rotated_nms": ((ROTATED[0], SCORES[0, :, 0]), {"iou_threshold": 0.5}),
    "rotated_multiclass_nms": ((ROTATED, SCORES), {}),
    "soft_nms": ((BOXES[0], SCORES[0, :, 0]), {}),
    "matrix_nms": ((BOXES[0], SCORES[0, :, 0]), {}),
    "topk_detections": ((SCORES, BOXES), {"score_threshold": 0.1}),
    "decode_candidates": (MAPS, {}),
    "detect": (MAPS, {}),
    "aligned_ota_assign": ((SCORES, BOXES, POINTS, STRIDES, *TRUTHS), {}),
    "aligned_ota_cost": ((SCORES, BOXES, POINTS, STRIDES, *TRUTHS), {}),
    "sim_ota_assign": ((SCORES, SCORES[..., 0], BOXES, *TRUTHS), GRID),
    "sim_ota_cost": ((SCORES, SCORES[..., 0], BOXES, *TRUTHS), GRID),
    "task_aligned_assign": ((SCORES, BOXES, POINTS, *TRUTHS), {"second_topk": 1}),
    "task_aligned_cost": ((SCORES, BOXES, POINTS, *TRUTHS), {}),
    "hungarian_assign": ((SCORES, BOXES, *TRUTHS), {}),
    "hungarian_cost": ((SCORES, BOXES, *TRUTHS), {}),
}


def numbers_of(name: str, kind: type) -> dict[str, object]:
    """Arguments of one kind, with what the call above or the signature says."""
    given = CALLS[name][1]
    defaults = {key: given.get(key, p.default) for key, p in inspect.signature(getattr(ops, name)).parameters.items()}
    return {key: value for key, value in defaults.items() if type(value) is kind}


REALS = [(name, key) for name in CALLS for key in numbers_of(name, float)]
WHOLES = [(name, key) for name in CALLS for key in numbers_of(name, int)]


def call(name: str, **changed: object) -> object:
    arrays, given = CALLS[name]
    return getattr(ops, name)(*arrays, **(given | changed))


def same(a: object, b: object) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b)) if isinstance(a, tuple) else np.array_equal(a, b)


def test_no_number_is_left_out():
    assert len(REALS) >= 40 and len(WHOLES) >= 12
    assert ("hungarian_assign", "giou_weight") in REALS and ("task_aligned_assign", "second_topk") in WHOLES


@pytest.mark.parametrize("wrong", ["0.5", b"1", [0.5], {}, 1 + 2j, 10**400, np.array([0.5, 0.5]), object], ids=repr)
@pytest.mark.parametrize(("name", "key"), REALS)
def test_not_a_number(name, key, wrong):
    with pytest.raises(TypeError, match=f"^{name}: {key} must be a number, got "):
        call(name, **{key: wrong})


@pytest.mark.parametrize("wrong", ["1", None, [1], 1 + 2j, np.array([1, 1]), object], ids=repr)
@pytest.mark.parametrize(("name", "key"), WHOLES)
def test_not_a_whole_number(name, key, wrong):
    if wrong is None and key == "second_topk":
        return
    with pytest.raises(TypeError, match=f"^{name}: {key} must be a whole number, got "):
        call(name, **{key: wrong})


@pytest.mark.parametrize("wrong", [2.5, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("name", "key"), WHOLES)
def test_not_whole(name, key, wrong):
    with pytest.raises(ValueError, match=f"^{name}: {key} must be a whole number, got {wrong}$"):
        call(name, **{key: wrong})


@pytest.mark.parametrize(("name", "key"), WHOLES)
def test_beyond_64_bits(name, key):
    for wrong in (2**63, -(2**63) - 1, 10**30, 1e30):
        with pytest.raises(ValueError, match=f"^{name}: {key} must be a number of 64 bits, got {int(wrong)}$"):
            call(name, **{key: wrong})


@pytest.mark.parametrize(("name", "key"), REALS + WHOLES)
def test_numbers_of_any_kind(name, key):
    """Python's, NumPy's, and those in arrays without dimensions are the same number."""
    value = {**numbers_of(name, float), **numbers_of(name, int)}[key]
    want = call(name, **{key: value})
    kinds = [np.float64(value), np.array(value), torch.tensor(value, dtype=torch.float64), np.float64(value).item()]
    kinds += [np.int16(value), torch.tensor(value)] if (name, key) in WHOLES else [value]
    for each in kinds:
        assert same(call(name, **{key: each}), want)


def test_words_that_are_none():
    for key in ("iou_kind", "conflict", "target_score"):
        for wrong in (None, 3, ["ciou"]):
            with pytest.raises(ValueError, match=f"^task_aligned_assign: {key} must be .*, got "):
                call("task_aligned_assign", **{key: wrong})


def test_letterbox():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(TypeError, match=r"^letterbox: format must be one name or one for each picture, got 3"):
        ops.letterbox(image, 8, format=3)
    for key in ("mode", "matrix", "layout"):
        with pytest.raises(ValueError, match=rf"^letterbox: {key} must be one of .*, got \['cv2'\]"):
            ops.letterbox(image, 8, **{key: ["cv2"]})
    with pytest.raises(TypeError, match=r"^letterbox: fill must be one or three numbers, got inf"):
        ops.letterbox(image, 8, fill=float("inf"))


@pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="torch is older than DLPack's exchange"
)
def test_tensors_without_memory():
    """What torch says of them is passed on, with the argument's name."""
    with pytest.raises(TypeError, match=r"^nms: boxes must be dense, .*, got \w+Error: "):
        ops.nms(torch.from_numpy(BOXES[0]).to_sparse(), torch.from_numpy(SCORES[0, :, 0].copy()), 0.5)
