# SPDX-License-Identifier: Apache-2.0
"""Array exchange: every way in, what comes back, what is refused, who owns the memory. `nms` stands for all."""

from __future__ import annotations

import gc
import os
import sys
import weakref

import numpy as np
import pytest
import torch

from dlpack_capsules import BFLOAT, CUDA, METAL, READ_ONLY, HostMemoryAsCuda, Unversioned, Versioned
from fastdet import ops
from fastdet.testing.ops import cuda_kind

BOXES = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 50, 50], [41, 40, 50, 50]], np.float32)
SCORES = np.array([0.6, 0.9, 0.8, 0.85], np.float32)
KEPT = [1, 3]

emulated = pytest.mark.skipif(cuda_kind() != "emulated", reason="needs the emulated CUDA library")


def kept(boxes, scores=SCORES):
    return np.asarray(ops.nms(boxes, scores, 0.5)).tolist()


def batch(boxes, scores):
    return ops.multiclass_nms(boxes, scores, iou_threshold=0.5, max_det=3)


# ---- NumPy ----------------------------------------------------------------------------------------------------------


def padded(array, axis):
    wide = np.zeros([2 * n + 1 if i == axis else n for i, n in enumerate(array.shape)], array.dtype)
    view = wide[(slice(None),) * axis + (slice(1, None, 2),)]
    view[:] = array
    return view


def record_field(array):
    """A field of packed records: neither its address nor its strides are multiples of four."""
    records = np.zeros(len(array), np.dtype([("tag", "u1"), ("box", "f4", 4)]))
    records["box"] = array
    assert records["box"].strides[0] % 4
    return records["box"]


LAYOUTS = {
    "plain": np.array,
    "rows": lambda a: padded(a, 0),
    "columns": lambda a: padded(a, 1),
    "fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "reversed-columns": lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    "record-field": record_field,
    "one-byte-off": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape),
    "from-bytes": lambda a: np.frombuffer(a.tobytes(), np.float32).reshape(a.shape),
    "matrix-subclass": lambda a: a.view(np.matrix),
    "float16": lambda a: a.astype(np.float16),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numpy_layouts(layout):
    boxes = LAYOUTS[layout](BOXES)
    before = boxes.copy()
    assert kept(boxes) == KEPT
    np.testing.assert_array_equal(boxes, before)


def test_numpy_read_only_and_broadcast():
    boxes = BOXES.copy()
    boxes.flags.writeable = False
    assert kept(boxes) == KEPT
    same = np.broadcast_to(BOXES[:1], (4, 4))  # stride 0
    assert kept(same) == [1]
    assert kept(np.broadcast_to(np.float32(3), (4, 4))) == [1, 3, 2, 0]  # empty boxes, all strides 0


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0), (0, 0, 0)])
@pytest.mark.parametrize("package", ["numpy", "torch"])
def test_zero_sizes(shape, package):
    make = np.zeros if package == "numpy" else torch.zeros
    dtype = np.float32 if package == "numpy" else torch.float32
    result = batch(make((*shape[:2], 4), dtype=dtype), make(shape, dtype=dtype))
    assert [tuple(r.shape) for r in result] == [(shape[0], 3, 4), *[(shape[0], 3)] * 3, (shape[0],)]
    assert not np.asarray(result.count).any()


def negated(a):
    """The same numbers, in memory with the other sign."""
    view = torch.complex(torch.zeros_like(a), -a).conj().imag
    assert view.is_neg() and torch.equal(view, a)
    return view


def test_negated_views():
    """torch keeps the sign of ``z.conj().imag`` beside the memory, which a reader of memory does not see."""
    boxes, scores = torch.from_numpy(BOXES), torch.from_numpy(SCORES)
    for arguments in ((boxes, negated(scores)), (negated(boxes), scores), (negated(boxes), negated(scores))):
        assert torch.equal(ops.nms(*arguments, 0.5), ops.nms(boxes, scores, 0.5))
        got, want = (batch(b[None], s[None, :, None]) for b, s in (arguments, (boxes, scores)))
        assert all(torch.equal(a, b) for a, b in zip(got, want))
    gradients = []
    for first in (boxes.clone(), negated(boxes)):
        first.requires_grad_()
        ops.generalized_box_iou(first, negated(boxes[:2])).sum().backward()
        gradients.append(first.grad)
    assert torch.equal(*gradients)
    x, weight, bias = torch.randn(1, 64, 40, 40), torch.randn(64, 64, 3, 3), torch.randn(64)
    want = ops.rep_conv2d(x, weight, bias, padding=1)
    assert torch.equal(ops.rep_conv2d(negated(x), negated(weight), negated(bias), padding=1), want)
    head = ops.HeadFormat("dfl", strides=(8,))
    logits, codes = torch.randn(1, 2, 3, 4), torch.randn(1, 8, 3, 4)
    got, want = ops.decode_boxes([negated(logits)], [negated(codes)], head), ops.decode_boxes([logits], [codes], head)
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_numpy_scalar_and_sequence_are_no_arrays():
    for wrong in (BOXES.tolist(), 3.0, None, "boxes", memoryview(BOXES)):
        with pytest.raises(TypeError, match=r"^nms: boxes must be an array .*, got \w+$"):
            ops.nms(wrong, SCORES, 0.5)


@pytest.mark.parametrize("dtype", [">f4", "i2", "u2", "u4", "u8", "c8", "f16", "S4", "O", "M8[s]"])
def test_numpy_dtypes_no_operator_knows(dtype):
    with pytest.raises(TypeError, match=r"^nms: boxes must be of .*, got"):
        ops.nms(np.zeros((4, 4), dtype), SCORES, 0.5)


@pytest.mark.parametrize("dtype", ["f8", "i4", "i8", "u1", "?"])
def test_dtypes_this_operator_refuses(dtype):
    with pytest.raises(TypeError, match=rf"^nms: boxes must be float32, .*, got {np.dtype(dtype).name}"):
        ops.nms(np.zeros((4, 4), dtype), SCORES, 0.5)


@pytest.mark.parametrize("shape", [(), (4,), (1, 4, 4), (1, 1, 1, 1, 1, 1, 4), (1,) * 9])
def test_ranks(shape):
    for wrong in (np.zeros(shape, np.float32), torch.zeros(shape)):
        with pytest.raises(ValueError, match=r"^nms: boxes must have (2 dim|at most)"):
            ops.nms(wrong, SCORES, 0.5)


# ---- torch ----------------------------------------------------------------------------------------------------------


class Marked(torch.Tensor):
    """A subclass that changes nothing."""


TORCH = {
    "plain": torch.tensor,
    "strided": lambda a: torch.tensor(padded(a, 0)),
    "transposed": lambda a: torch.tensor(a.T.copy()).T,
    "offset": lambda a: torch.cat([torch.zeros(1, 4), torch.tensor(a)])[1:],
    "expanded": lambda a: torch.tensor(a)[None].expand(3, 4, 4)[1],
    "bfloat16": lambda a: torch.tensor(a).bfloat16(),
    "requires-grad": lambda a: torch.tensor(a, requires_grad=True),
    "computed-with-grad": lambda a: torch.tensor(a, requires_grad=True) * 1.0,
    "parameter": lambda a: torch.nn.Parameter(torch.tensor(a)),
    "subclass": lambda a: torch.tensor(a).as_subclass(Marked),
    "from-numpy": lambda a: torch.from_numpy(a.copy()),
}


@pytest.mark.parametrize("kind", TORCH)
def test_torch(kind):
    boxes = TORCH[kind](BOXES)
    keep = ops.nms(boxes, torch.tensor(SCORES), 0.5)
    assert isinstance(keep, torch.Tensor) and keep.dtype == torch.int64 and not keep.requires_grad
    assert keep.tolist() == KEPT


def test_torch_without_gradient_says_so():
    """`multiclass_nms` returns coordinates, for which a gradient could be meant."""
    boxes = torch.tensor(BOXES, requires_grad=True)[None]
    with pytest.raises(ValueError, match=r"^multiclass_nms: .*requires grad; pass \.detach\(\)"):
        batch(boxes, torch.tensor(SCORES)[None, :, None])
    with torch.no_grad():
        assert batch(boxes, torch.tensor(SCORES)[None, :, None]).count.tolist() == [2]


def test_torch_inference_mode_and_mixed_packages():
    with torch.inference_mode():
        assert ops.nms(torch.tensor(BOXES), torch.tensor(SCORES), 0.5).tolist() == KEPT
    mixed = ops.nms(torch.tensor(BOXES), SCORES, 0.5)  # the first array decides what comes back
    assert isinstance(mixed, torch.Tensor) and mixed.tolist() == KEPT
    mixed = ops.nms(BOXES, torch.tensor(SCORES), 0.5)
    assert isinstance(mixed, np.ndarray) and mixed.tolist() == KEPT


def test_torch_devices_and_layouts_that_are_refused():
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        ops.nms(torch.tensor(BOXES).to_sparse(), torch.tensor(SCORES), 0.5)
    with pytest.raises(TypeError, match="nms: boxes must be float32"):
        ops.nms(torch.tensor(BOXES).double(), torch.tensor(SCORES), 0.5)


# ---- DLPack ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("producer", [Versioned, Unversioned])
def test_dlpack(producer):
    boxes = producer(BOXES.copy())
    result = ops.nms(boxes, SCORES, 0.5)
    assert isinstance(result, np.ndarray) and result.tolist() == KEPT
    assert boxes.deleted == 1
    assert all(name.startswith("used_dltensor") for name in boxes.names()) and boxes.names()


@pytest.mark.parametrize("producer", [Versioned, Unversioned])
def test_dlpack_layouts(producer):
    assert kept(producer(BOXES.copy(), strides=None)) == KEPT  # null: compact
    assert kept(producer(padded(BOXES, 0))) == KEPT
    assert kept(producer(np.ascontiguousarray(BOXES[::-1])[::-1])) == KEPT
    assert kept(producer(BOXES.copy(), free=False)) == KEPT  # no deleter: nothing to free
    shifted = np.concatenate([np.zeros((1, 4), np.float32), BOXES])
    boxes = producer(shifted, byte_offset=16)
    boxes._shape[0] = 4
    assert kept(boxes) == KEPT
    assert kept(producer(np.zeros((0, 4), np.float32), data=None), SCORES[:0]) == []


def test_dlpack_bfloat16():
    bits = (BOXES.view(np.uint32) >> 16).astype(np.uint16)
    assert kept(Versioned(bits, code=BFLOAT, bits=16)) == KEPT


def test_dlpack_read_only_is_read():
    assert kept(Versioned(BOXES.copy(), flags=READ_ONLY)) == KEPT


REFUSED = {
    "version": ({"version": (2, 0)}, TypeError, "exported in DLPack version 2"),
    "device": ({"device_type": METAL}, TypeError, "must lie on the CPU or a CUDA device, got DLPack device type 8"),
    "lanes": ({"lanes": 4}, TypeError, "must be of float16, "),
    "bits": ({"bits": 8}, TypeError, "must be of float16, "),
    "dimensions": ({"ndim": 9}, ValueError, "at most 6 dimensions, got 9"),
    "negative-dimensions": ({"ndim": -1}, ValueError, "at most 6 dimensions, got -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_dlpack_refused(case):
    fields, error, message = REFUSED[case]
    boxes = Versioned(BOXES.copy(), **fields)
    with pytest.raises(error, match=message):
        ops.nms(boxes, SCORES, 0.5)
    assert boxes.deleted == 1, "a capsule that was taken is freed, whatever is wrong with it"


def test_dlpack_errors_of_the_producer_pass():
    class Broken:
        def __dlpack__(self, *, max_version=None):
            raise BufferError("cannot be exported")

    with pytest.raises(BufferError, match="cannot be exported"):
        ops.nms(Broken(), SCORES, 0.5)

    class Nothing:
        def __dlpack__(self, *, max_version=None):
            return 3

    with pytest.raises(TypeError, match="nms: boxes gave no DLPack capsule"):
        ops.nms(Nothing(), SCORES, 0.5)


# ---- CUDA -----------------------------------------------------------------------------------------------------------


@emulated
def test_cuda_array_interface():
    boxes, scores = HostMemoryAsCuda(BOXES[None].copy()), HostMemoryAsCuda(SCORES[None, :, None].copy())
    result = batch(boxes, scores)
    assert {type(array).__name__ for array in result} == {"DeviceArray"}
    expected = batch(boxes.array, scores.array)
    for got, want in zip(result, expected, strict=True):
        interface = got.__cuda_array_interface__
        assert interface["version"] == 3 and interface["strides"] is None and interface["shape"] == want.shape
        assert interface["typestr"] == want.dtype.str and got.dtype == want.dtype.name and got.shape == want.shape
        assert got.__dlpack_device__() == (CUDA, 0)
        np.testing.assert_array_equal(on_host(got), want)


def on_host(array):
    """A copy of emulated device memory, which is host memory."""
    interface = array.__cuda_array_interface__
    pointer, _ = interface["data"]
    view = {"shape": interface["shape"], "typestr": interface["typestr"], "data": (pointer, False), "version": 3}
    return np.array(type("Host", (), {"__array_interface__": view})())


@emulated
def test_cuda_results_of_dynamic_length():
    keep = ops.nms(HostMemoryAsCuda(BOXES.copy()), HostMemoryAsCuda(SCORES.copy()), 0.5)
    assert keep.shape == (2,) and on_host(keep).tolist() == KEPT


@emulated
def test_cuda_layouts_and_streams():
    scores = HostMemoryAsCuda(SCORES[None, :, None].copy())
    for boxes in (padded(BOXES, 0)[None], np.asfortranarray(BOXES)[None], BOXES[None].astype(np.float16)):
        assert on_host(batch(HostMemoryAsCuda(boxes), scores).count).tolist() == [2]
    for stream in (None, 1, 2):
        assert on_host(batch(HostMemoryAsCuda(BOXES[None].copy(), stream=stream), scores).count).tolist() == [2]
    empty = HostMemoryAsCuda(np.zeros((1, 0, 4), np.float32), data=(0, False))
    assert on_host(batch(empty, HostMemoryAsCuda(np.zeros((1, 0, 1), np.float32))).count).tolist() == [0]


@emulated
def test_cuda_refusals():
    device, scores = HostMemoryAsCuda(BOXES.copy()), HostMemoryAsCuda(SCORES.copy())
    with pytest.raises(ValueError, match="nms: scores must lie on CUDA device 0 like boxes, got the CPU"):
        ops.nms(device, SCORES, 0.5)
    with pytest.raises(ValueError, match="nms: scores must lie on the CPU like boxes, got CUDA device 0"):
        ops.nms(BOXES, scores, 0.5)
    with pytest.raises(TypeError, match=r"nms: boxes must be of .*, got <c8"):
        ops.nms(HostMemoryAsCuda(np.zeros((4, 4), np.complex64)), scores, 0.5)
    with pytest.raises(ValueError, match=r"nms: boxes must have at most . dimensions, got 7"):
        ops.nms(HostMemoryAsCuda(np.zeros((1,) * 7, np.float32)), scores, 0.5)
    with pytest.raises(ValueError, match=r"nms: boxes must have strides"):
        ops.nms(HostMemoryAsCuda(BOXES.copy(), strides=(18, 4)), scores, 0.5)


@emulated
def test_device_array_shares_its_memory_with_consumers():
    result = batch(HostMemoryAsCuda(BOXES[None].copy()), HostMemoryAsCuda(SCORES[None, :, None].copy()))
    capsule = result.boxes.__dlpack__()
    interface = result.boxes.__cuda_array_interface__
    assert interface["data"][0] and "dltensor_versioned" in repr(capsule)
    del result
    gc.collect()
    unused = capsule  # a capsule nobody takes frees its share when it goes
    del unused, capsule
    gc.collect()


# ---- lifetimes ------------------------------------------------------------------------------------------------------


def test_inputs_are_released():
    boxes, scores = BOXES.copy(), SCORES.copy()
    tensor = torch.tensor(BOXES)
    counts = sys.getrefcount(boxes), sys.getrefcount(scores), sys.getrefcount(tensor)
    for _ in range(50):
        ops.nms(boxes, scores, 0.5)
        ops.nms(tensor, scores, 0.5)
        with pytest.raises(ValueError):
            ops.nms(boxes, scores[:2], 0.5)
    assert (sys.getrefcount(boxes), sys.getrefcount(scores), sys.getrefcount(tensor)) == counts
    gone = weakref.ref(boxes)
    del boxes
    assert gone() is None


@pytest.mark.parametrize("producer", [Versioned, Unversioned])
def test_capsules_are_freed_once(producer):
    boxes = producer(BOXES.copy())
    for _ in range(20):
        ops.nms(boxes, SCORES, 0.5)
        with pytest.raises(ValueError):
            ops.nms(boxes, SCORES[:2], 0.5)
    assert boxes.deleted == 40


def test_results_own_their_memory():
    results = [ops.nms(BOXES.copy(), SCORES.copy(), 0.5) for _ in range(100)]
    results += [ops.nms(torch.tensor(BOXES), torch.tensor(SCORES), 0.5) for _ in range(100)]
    gc.collect()
    assert all(result.tolist() == KEPT for result in results)


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("package", ["numpy", "torch"])
def test_memory_does_not_grow(package):
    """An input or result kept by mistake would cost 16 MB a call: 1 GB here."""
    make = torch.tensor if package == "torch" else np.array
    before = resident_bytes()
    for _ in range(60):
        boxes = make(np.broadcast_to(np.array([0, 0, 9, 9], np.float32), (1_000_000, 4)))
        assert len(ops.nms(boxes[:100], make(SCORES[[0] * 100]), 0.5)) == 1
    assert resident_bytes() - before < 128 << 20
