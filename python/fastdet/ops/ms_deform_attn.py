# SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention: samples of several feature maps at given places, weighted and summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import real, whole
from fastdet.ops._backend import Op, kept_inputs

METHODS = ("default", "discrete")


def ms_deform_attn(
    value: Any,
    spatial_shapes: Any,
    level_start_index: Any,
    sampling_locations: Any,
    attention_weights: Any,
    *,
    num_points: Sequence[int] | None = None,
    method: str = "default",
    deterministic: bool = True,
) -> Any:
    """Deformable attention over several feature maps (Deformable DETR, arXiv 2010.04159), with gradients.

    Each query and head reads T = P_1 + ... + P_L samples of its channels, P_l of them from level l, and returns their
    weighted sum. A location (x, y) lies in [0, 1] over the map, 0 and 1 being its outer edges. ``"default"`` reads
    bilinearly with zeros around the map; ``"discrete"`` (RT-DETRv2) reads the pixel the location lies in, or the
    nearest of the map, each axis by itself.

    Args:
        value: (B, S, M, D) tokens of all levels, M heads of D channels; float32, float16, bfloat16 or float64.
        spatial_shapes: (L, 2) height and width of each level, int32 or int64; up to 16 levels.
        level_start_index: (L,) first token of each level: the sum of H W of those before, int32 or int64.
        sampling_locations: (B, Q, M, L, P, 2), or (B, Q, M, T, 2) by level; float32, float64 where value is. T up to
            1024.
        attention_weights: (B, Q, M, L, P) or (B, Q, M, T) of the same dtype, softmax already applied.
        num_points: P_l of each level; needed for the flat form with more than one level where not all are equal.
        method: ``"default"`` or ``"discrete"``.
        deterministic: CUDA's gradient of value: sorted sums, the same bits in every run, or faster float atomics.

    Returns:
        (B, Q, M D), contiguous, of value's dtype. Coordinates, products and sums are float32 (float64 for float64).

    A sample contributes nothing, and has no gradient, where no pixel is in its reach or its location is NaN; in
    ``"discrete"`` an infinite location is that of the border. Locations of any size are safe.

    Raises:
        ValueError: shapes do not agree; sizes that do not add up to S (not looked at on a CUDA device: a level that
        does not fit contributes nothing). TypeError: dtype not listed.

    Gradients: value, sampling_locations (zero in ``"discrete"``), attention_weights; once. The same bits on CPU and
    CUDA. Cost: O(B Q M T D) time; no memory forward, 40 bytes per sample and 8 per token and head backward.
    """
    weights, locations = attention_weights, sampling_locations
    if getattr(locations, "ndim", 0) == 6 and getattr(weights, "ndim", 0) == 5:
        batch, queries, heads, levels, points = weights.shape
        if tuple(locations.shape) != (batch, queries, heads, levels, points, 2):
            raise ValueError(
                f"ms_deform_attn: sampling_locations must be {(*weights.shape, 2)} for attention_weights "
                f"{tuple(weights.shape)}, got {tuple(locations.shape)}"
            )
        if num_points is None:
            num_points = (points,) * levels
        locations = locations.reshape(batch, queries, heads, levels * points, 2)
        weights = weights.reshape(batch, queries, heads, levels * points)
    points_of = _num_points("ms_deform_attn", num_points, spatial_shapes, weights)
    arrays = (value, spatial_shapes, level_start_index, locations, weights)
    return MS_DEFORM_ATTN(*arrays, points_of, _discrete("ms_deform_attn", method), bool(deterministic))


def ms_deform_attn_fused(
    value: Any,
    spatial_shapes: Any,
    level_start_index: Any,
    reference_points: Any,
    offsets: Any,
    logits: Any,
    *,
    num_points: Sequence[int] | None = None,
    offset_scale: float = 0.5,
    method: str = "default",
    deterministic: bool = True,
) -> Any:
    """``ms_deform_attn`` from what a decoder's linear layers give: locations, softmax and sampling in one pass.

    With references of four numbers (cx, cy, w, h) a sample lies at c + offset / P_l * (w, h) * ``offset_scale``, with
    two (x, y) at (x, y) + offset / (W_l, H_l): the rules of Deformable DETR and RT-DETRv2 (1 / P_l is a float32, as
    detectors keep it). Weights are the softmax of the T logits of a query and head. Other arguments, layouts and
    errors as for ``ms_deform_attn``.

    Args:
        value, spatial_shapes, level_start_index, method, deterministic: as for ``ms_deform_attn``.
        reference_points: (B, Q, 4), (B, Q, 1 or L, 4) or (B, Q, 1 or L, 2) in [0, 1]; float32, float64 where value is.
        offsets: (B, Q, M, T, 2), float32, float16 or bfloat16, float64 where value is; read as they are.
        logits: (B, Q, M, T), likewise.
        num_points: P_l of each level; may be left out where all are equal.
        offset_scale: of boxes as references.

    Returns:
        (B, Q, M D), contiguous, of value's dtype. A level without points is passed over; T = 0 gives zeros.

    Gradients: value, offsets, logits; once. reference_points are taken as constants, as RT-DETR detaches them. The
    same bits on CPU and CUDA: the exponential is our own.
    """
    if getattr(reference_points, "ndim", 0) == 3:
        reference_points = reference_points[:, :, None]
    points_of = _num_points("ms_deform_attn_fused", num_points, spatial_shapes, logits)
    arrays = (value, spatial_shapes, level_start_index, reference_points, offsets, logits)
    discrete = _discrete("ms_deform_attn_fused", method)
    scale = real("ms_deform_attn_fused", "offset_scale", offset_scale)
    return MS_DEFORM_ATTN_FUSED(*arrays, points_of, scale, discrete, bool(deterministic))


def ms_deform_attn_backward(
    grad_out: Any,
    value: Any,
    spatial_shapes: Any,
    level_start_index: Any,
    sampling_locations: Any,
    attention_weights: Any,
    *,
    num_points: Sequence[int] | None = None,
    method: str = "default",
    deterministic: bool = True,
    wanted: Sequence[bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of ``ms_deform_attn``, for callers without torch's autograd.

    Args:
        grad_out: (B, Q, M D) gradient of the result, of value's dtype, any strides.
        wanted: which gradients to compute; the others come back with shape (0,).

    The other arguments of ``ms_deform_attn``, in the flat form. Returns the gradients of value, sampling_locations and
    attention_weights. Second derivatives are not available.
    """
    points_of = _num_points("ms_deform_attn_backward", num_points, spatial_shapes, attention_weights)
    arrays = (grad_out, value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    discrete = _discrete("ms_deform_attn_backward", method)
    return MS_DEFORM_ATTN_BACKWARD(*arrays, points_of, discrete, bool(deterministic), [bool(w) for w in wanted])


def ms_deform_attn_fused_backward(
    grad_out: Any,
    value: Any,
    spatial_shapes: Any,
    level_start_index: Any,
    reference_points: Any,
    offsets: Any,
    logits: Any,
    *,
    num_points: Sequence[int] | None = None,
    offset_scale: float = 0.5,
    method: str = "default",
    deterministic: bool = True,
    wanted: Sequence[bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of ``ms_deform_attn_fused`` for value, offsets and logits; grad_out and wanted as for
    ``ms_deform_attn_backward``, the other arguments of ``ms_deform_attn_fused``.
    """
    if getattr(reference_points, "ndim", 0) == 3:
        reference_points = reference_points[:, :, None]
    op = "ms_deform_attn_fused_backward"
    points_of = _num_points(op, num_points, spatial_shapes, logits)
    arrays = (grad_out, value, spatial_shapes, level_start_index, reference_points, offsets, logits)
    scale = real(op, "offset_scale", offset_scale)
    attributes = (scale, _discrete(op, method), bool(deterministic), [bool(w) for w in wanted])
    return MS_DEFORM_ATTN_FUSED_BACKWARD(*arrays, points_of, *attributes)


def _num_points(op: str, num_points: Sequence[int] | None, shapes: Any, weights: Any) -> list[int]:
    if not hasattr(shapes, "shape"):
        raise TypeError(f"{op}: spatial_shapes must be an array (L, 2), got {type(shapes).__name__}")
    if num_points is not None:
        if not isinstance(num_points, Iterable):
            raise TypeError(f"{op}: num_points must be one number for each level, got {num_points!r}")
        return [whole(op, "num_points", n) for n in num_points]
    if getattr(shapes, "ndim", 0) != 2 or getattr(weights, "ndim", 0) != 4:
        raise ValueError(
            f"{op}: num_points can be left out for spatial_shapes (L, 2) and weights (B, Q, M, T), got "
            f"{tuple(getattr(shapes, 'shape', ()))} and {tuple(getattr(weights, 'shape', ()))}"
        )
    levels, samples = int(shapes.shape[0]), int(weights.shape[3])
    if samples % max(levels, 1):
        raise ValueError(f"{op}: num_points must be given: {samples} samples are not equal shares of {levels} levels")
    return [samples // levels] * levels if levels else []


def _discrete(op: str, method: str) -> bool:
    if method not in METHODS:
        raise ValueError(f"{op}: method must be one of {', '.join(METHODS)}, got {method!r}")
    return method == "discrete"


# ---- the rule in NumPy ---------------------------------------------------------------------------------------------


class _Taps:
    """Where all samples read: for each corner its token (b, q, m, t), its share, and whether it is inside."""

    def __init__(self, shapes: Any, starts: Any, locations: Any, points: Sequence[int], discrete: bool) -> None:
        wide = locations.dtype.type
        level = np.repeat(np.arange(len(points)), points)
        shapes = np.asarray(shapes, np.int64).reshape(-1, 2)
        self.height, self.width = shapes[level, 0], shapes[level, 1]  # [T]
        start = np.asarray(starts, np.int64)[level]
        size = np.stack([self.width, self.height], -1).astype(wide)
        self.size = size
        with np.errstate(invalid="ignore", over="ignore"):
            if discrete:
                at = locations * size + wide(0.5)
                self.counts = ~np.isnan(at).any(-1) & (self.width > 0) & (self.height > 0)
                at = np.trunc(np.clip(np.where(self.counts[..., None], at, 0), 0, np.maximum(size - 1, 0)))
            else:
                at = locations * size - wide(0.5)
                self.counts = ((at > -1) & (at < size)).all(-1)
                at = np.where(self.counts[..., None], at, 0)
        floor = np.floor(at)
        self.fx, self.fy = (at - floor)[..., 0], (at - floor)[..., 1]
        x0, y0 = floor[..., 0].astype(np.int64), floor[..., 1].astype(np.int64)
        self.corners = []
        one = wide(1)
        for j, i in ((0, 0), (0, 1), (1, 0), (1, 1)):
            x, y = x0 + i, y0 + j
            inside = self.counts & (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
            inside &= not discrete or i + j == 0
            share = (self.fy if j else one - self.fy) * (self.fx if i else one - self.fx)
            self.corners.append((np.where(inside, start + y * self.width + x, 0), share, inside))

    def pixels(self, value: np.ndarray, corner: int) -> np.ndarray:
        """[B, Q, M, T, D] of one corner, 0 outside."""
        token, _, inside = self.corners[corner]
        if value.shape[1] == 0:
            return np.zeros((*token.shape, value.shape[3]), value.dtype)
        batch, head = np.arange(token.shape[0])[:, None, None, None], np.arange(token.shape[2])[:, None]
        return np.where(inside[..., None], value[batch, token, head], value.dtype.type(0))


def _wide(value: np.ndarray) -> np.ndarray:
    return value if value.dtype == np.float64 else value.astype(np.float32)


def ms_deform_attn_reference(
    value: np.ndarray,
    spatial_shapes: np.ndarray,
    level_start_index: np.ndarray,
    sampling_locations: np.ndarray,
    attention_weights: np.ndarray,
    num_points: Sequence[int],
    discrete: bool,
    deterministic: bool,
) -> np.ndarray:
    """The rule of ``ms_deform_attn`` in NumPy, for the flat form."""
    wide = _wide(value)
    batch, queries, heads, _ = attention_weights.shape
    taps = _Taps(spatial_shapes, level_start_index, sampling_locations, num_points, discrete)
    total = np.zeros((batch, queries, heads, value.shape[3]), wide.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for c, (_, share, inside) in enumerate(taps.corners):
            weight = np.where(inside, attention_weights * share, wide.dtype.type(0))
            total += (weight[..., None] * taps.pixels(wide, c)).sum(3)
        return total.reshape(batch, queries, heads * value.shape[3]).astype(value.dtype)


def ms_deform_attn_backward_reference(
    grad_out: np.ndarray,
    value: np.ndarray,
    spatial_shapes: np.ndarray,
    level_start_index: np.ndarray,
    sampling_locations: np.ndarray,
    attention_weights: np.ndarray,
    num_points: Sequence[int],
    discrete: bool,
    deterministic: bool,
    wanted: Sequence[bool],
) -> tuple[np.ndarray, ...]:
    """Gradients of ``ms_deform_attn_reference``; an empty array for one that is not wanted."""
    wide, weights = _wide(value), attention_weights
    batch, queries, heads, _ = weights.shape
    taps = _Taps(spatial_shapes, level_start_index, sampling_locations, num_points, discrete)
    grad = _wide(grad_out).reshape(batch, queries, heads, value.shape[3])
    zero, one = wide.dtype.type(0), wide.dtype.type(1)
    grad_value, dots = np.zeros(wide.shape, wide.dtype), []
    with np.errstate(invalid="ignore", over="ignore"):
        for c, (token, share, inside) in enumerate(taps.corners):
            dots.append(np.where(inside, (grad[:, :, :, None] * taps.pixels(wide, c)).sum(-1), zero))
            part = (weights * share)[..., None] * grad[:, :, :, None]
            b, q, m, t = np.nonzero(inside)
            np.add.at(grad_value, (b, token[b, q, m, t], m), part[b, q, m, t])
        d00, d01, d10, d11 = dots
        shares = [share for _, share, _ in taps.corners]
        grad_weights = sum((s * d for s, d in zip(shares, dots)), np.zeros(weights.shape, wide.dtype))
        right = (one - taps.fy) * (d01 - d00) + taps.fy * (d11 - d10)
        down = (one - taps.fx) * (d10 - d00) + taps.fx * (d11 - d01)
        grad_locations = np.stack([right, down], -1) * (taps.size * weights[..., None])
        grad_locations = np.where(taps.counts[..., None] & (not discrete), grad_locations, zero)
    results = (grad_value.astype(value.dtype), grad_locations, grad_weights)
    return tuple(r if use else np.zeros(0, r.dtype) for r, use in zip(results, wanted))


def _softmax(logits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(logits - np.max(logits, -1, keepdims=True, initial=-np.inf))
        return powers / powers.sum(-1, keepdims=True)


def _placed(
    reference_points: np.ndarray, offsets: np.ndarray, shapes: Any, num_points: Sequence[int], scale: float, wide: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Locations (B, Q, M, T, 2) and what an offset is multiplied with."""
    level = np.repeat(np.arange(len(num_points)), num_points)
    references = reference_points.astype(wide)
    references = references[:, :, np.zeros_like(level) if references.shape[2] == 1 else level][:, :, None]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if references.shape[-1] == 4:
            # A float32 in float64 too, as detectors keep it.
            share = (np.float32(1) / np.repeat(num_points, num_points).astype(np.float32)).astype(wide)[:, None]
            factor = share * references[..., 2:] * wide(scale)
            locations = references[..., :2] + offsets * share * references[..., 2:] * wide(scale)
        else:
            size = np.asarray(shapes, np.int64).reshape(-1, 2)[level, ::-1].astype(wide)
            factor = np.where(size > 0, wide(1) / size, wide(0))
            locations = references + offsets * factor
    return locations, np.broadcast_to(factor, locations.shape)


def ms_deform_attn_fused_reference(
    value: np.ndarray,
    spatial_shapes: np.ndarray,
    level_start_index: np.ndarray,
    reference_points: np.ndarray,
    offsets: np.ndarray,
    logits: np.ndarray,
    num_points: Sequence[int],
    offset_scale: float,
    discrete: bool,
    deterministic: bool,
) -> np.ndarray:
    """The rule of ``ms_deform_attn_fused`` in NumPy."""
    wide = _wide(value).dtype.type
    offsets, logits = offsets.astype(wide), logits.astype(wide)
    locations, _ = _placed(reference_points, offsets, spatial_shapes, num_points, offset_scale, wide)
    arrays = (value, spatial_shapes, level_start_index, locations, _softmax(logits))
    return ms_deform_attn_reference(*arrays, num_points, discrete, deterministic)


def ms_deform_attn_fused_backward_reference(
    grad_out: np.ndarray,
    value: np.ndarray,
    spatial_shapes: np.ndarray,
    level_start_index: np.ndarray,
    reference_points: np.ndarray,
    offsets: np.ndarray,
    logits: np.ndarray,
    num_points: Sequence[int],
    offset_scale: float,
    discrete: bool,
    deterministic: bool,
    wanted: Sequence[bool],
) -> tuple[np.ndarray, ...]:
    """Gradients of ``ms_deform_attn_fused_reference``; an empty array for one that is not wanted."""
    wide = _wide(value).dtype.type
    locations, factor = _placed(reference_points, offsets.astype(wide), spatial_shapes, num_points, offset_scale, wide)
    weights = _softmax(logits.astype(wide))
    arrays = (grad_out, value, spatial_shapes, level_start_index, locations, weights)
    grad_value, grad_locations, grad_weights = ms_deform_attn_backward_reference(
        *arrays, num_points, discrete, deterministic, (wanted[0], True, True)
    )
    with np.errstate(invalid="ignore", over="ignore"):
        grad_offsets = (grad_locations * factor).astype(offsets.dtype)
        inner = (weights * grad_weights).sum(-1, keepdims=True)
        grad_logits = (weights * (grad_weights - inner)).astype(logits.dtype)
    results = (grad_value, grad_offsets, grad_logits)
    return tuple(r if use else np.zeros(0, r.dtype) for r, use in zip(results, wanted))


# ---- torch ---------------------------------------------------------------------------------------------------------


def _fake(value: Any, *arguments: Any) -> Any:
    weights = next(a for a in reversed(arguments) if hasattr(a, "shape"))
    batch, queries, heads, _ = weights.shape
    return value.new_empty((batch, queries, heads * value.shape[3]))


def _fake_backward(grad_out: Any, value: Any, *arguments: Any) -> tuple[Any, ...]:
    *_, locations, weights = (a for a in arguments if hasattr(a, "shape"))
    return tuple(a.new_empty(a.shape if use else (0,)) for a, use in zip((value, locations, weights), arguments[-1]))


def _pair(
    name: str,
    arguments: str,
    references: tuple[Callable[..., Any], Callable[..., Any]],
    differentiable: tuple[int, ...],
) -> tuple[Op, Op]:
    """An operator and its gradient for the arguments at the given places, of which value is the first."""
    backward = Op(
        name=f"{name}_backward",
        schema=f"(Tensor grad_out, {arguments}, bool[] wanted) -> (Tensor, Tensor, Tensor)",
        native=getattr(_core, f"{name}_backward"),
        reference=references[1],
        fake=_fake_backward,
        dtypes_of=tuple(1 + i for i in differentiable),
    )

    def gradients(ctx: Any, grad_out: Any) -> tuple[Any, ...]:
        inputs = kept_inputs(ctx)
        wanted = [bool(ctx.needs_input_grad[i]) for i in differentiable]
        grads: list[Any] = [None] * len(inputs)
        for i, grad, use in zip(differentiable, backward(grad_out, *inputs, wanted), wanted):
            grads[i] = grad if use else None
        return tuple(grads)

    forward = Op(
        name=name,
        schema=f"({arguments}) -> Tensor",
        native=getattr(_core, name),
        reference=references[0],
        fake=_fake,
        backward=gradients,
        dtypes_of=(0,),
    )
    return forward, backward


MS_DEFORM_ATTN, MS_DEFORM_ATTN_BACKWARD = _pair(
    "ms_deform_attn",
    "Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor sampling_locations, "
    "Tensor attention_weights, SymInt[] num_points, bool discrete, bool deterministic",
    (ms_deform_attn_reference, ms_deform_attn_backward_reference),
    (0, 3, 4),
)
MS_DEFORM_ATTN_FUSED, MS_DEFORM_ATTN_FUSED_BACKWARD = _pair(
    "ms_deform_attn_fused",
    "Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor reference_points, Tensor offsets, "
    "Tensor logits, SymInt[] num_points, float offset_scale, bool discrete, bool deterministic",
    (ms_deform_attn_fused_reference, ms_deform_attn_fused_backward_reference),
    (0, 4, 5),
)
