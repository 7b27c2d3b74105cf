# SPDX-License-Identifier: Apache-2.0
"""Detectors of Hugging Face transformers with their slow parts replaced, in place and reversibly."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastdet import ops
from fastdet.integrations.folded import folded_form
from fastdet.integrations.in_place import Changed, change, change_back
from fastdet.models.rtdetrv2.attention import level_tables


def accelerate(model: nn.Module, *, fold: bool = True) -> nn.Module:
    """Replace the slow parts of a detector of transformers by fastdet's operators, in place; ``restore`` undoes it.

    RT-DETR, RT-DETRv2, D-FINE, Deformable DETR and Grounding DINO are tested; others built of the same parts work.

    Deformable attention runs through ``fastdet.ops.ms_deform_attn``, forward and backward, in training and inference,
    on CPU and CUDA; results agree to 1e-5 in float32. Parameters, names, hooks, ``state_dict`` and ``isinstance`` stay
    as they are: each replaced module becomes an instance of a subclass of its own class.

    With ``fold``, in eval mode without gradients (``torch.no_grad``, ``torch.inference_mode``), a convolution, its
    BatchNorm (frozen or not) and its activation run as one convolution, a RepVGG block as one 3x3, a residual block's
    sum inside its last one. Folded weights are kept beside the model's own, which are never written: memory grows by
    the convolutions' weights. They are made anew when the model's change (in place, by ``load_state_dict``, ``to``) and
    at every ``train()`` and ``eval()``; writes through ``.data`` are seen only then. Training, autocast,
    ``torch.compile``, tracing and hooks on a block's parts run the author's code for that block.

    A deep copy is accelerated too; a pickle or ``save_pretrained`` holds the model as it was. Call ``restore`` before
    exporting to ONNX.

    Args:
        model: a detector of transformers, or any module that holds one. A part replaced already is left alone.
        fold: fold convolutions too.

    Returns:
        ``model``.

    Raises:
        TypeError: model is no ``torch.nn.Module``. ValueError: nothing in it can be replaced; it is left as it was.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: model must be a torch.nn.Module, got {type(model).__name__}")
    # Inner modules first: whether a block can be folded depends on its parts.
    for module in reversed(list(model.modules())):
        if isinstance(module, Changed):
            continue
        part = _attention_form(module) or (folded_form(module) if fold else None)
        if part is not None:
            change(module, part)
    if not accelerated(model):
        raise ValueError(
            f"accelerate: model must have deformable attention or foldable convolutions of transformers, and "
            f"{type(model).__name__} has none"
        )
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo ``accelerate``: every module is of its own class again, no weight has changed. Returns ``model``.

    Args:
        model: what ``accelerate`` was given, a part or a copy of it; one that was not accelerated stays as it is.
    """
    for module in model.modules():
        change_back(module)
    return model


def accelerated(model: nn.Module) -> dict[str, int]:
    """How many parts of ``model`` are replaced, by kind; empty if none is.

    Args:
        model: any module.
    """
    found = Counter(_kind(module) for module in model.modules() if isinstance(module, Changed))
    return dict(sorted(found.items()))


# ---- deformable attention ------------------------------------------------------------------------------------------


class _Sampling(Changed):
    """The part that Deformable DETR and its descendants share: sampling alone, without its linear layers."""

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: Sequence[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """(B, S, M, D) values, (B, Q, M, L, P, 2) locations, (B, Q, M, L, P) weights -> (B, Q, M D)."""
        tables = (value_spatial_shapes, level_start_index)
        if not _can_run(value, sampling_locations, attention_weights):
            arguments = (sampling_locations, attention_weights, im2col_step)
            original = super().forward  # type: ignore[misc]
            return original(value, value_spatial_shapes, value_spatial_shapes_list, level_start_index, *arguments)
        return ops.ms_deform_attn(value, *tables, *_wide(value, sampling_locations, attention_weights))


class _CoreAttention(Changed):
    """D-FINE and DEIMv2: the module calls its attribute ``ms_deformable_attn_core``."""

    @property
    def ms_deformable_attn_core(self) -> Any:
        """Sampling, weights (B, Q, M, T) and locations (B, Q, M, T, 2) by level."""
        theirs = self.__dict__["ms_deformable_attn_core"]

        def core(
            value: Tensor,
            value_spatial_shapes: Sequence[tuple[int, int]],
            sampling_locations: Tensor,
            attention_weights: Tensor,
            num_points_list: Sequence[int],
            method: str = "default",
        ) -> Tensor:
            if not _can_run(value, sampling_locations, attention_weights):
                arguments = (sampling_locations, attention_weights, num_points_list, method)
                return cast(Tensor, theirs(value, value_spatial_shapes, *arguments))
            return _sample(value, value_spatial_shapes, sampling_locations, attention_weights, num_points_list, method)

        return core


class _V2Attention(Changed):
    """RT-DETRv2: sampling is a function of its file, so that the whole module is written here."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        spatial_shapes_list: Sequence[tuple[int, int]] | None = None,
        level_start_index: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, Q, C] -> (mixed values [B, Q, C], weights [B, Q, M, T])."""
        its, memory, boxes = cast(Any, self), encoder_hidden_states, reference_points
        if memory is None or boxes is None or boxes.shape[-1] != 4 or not _can_run(memory):
            return cast(
                tuple[Tensor, Tensor],
                super().forward(  # type: ignore[misc]
                    hidden_states,
                    attention_mask=attention_mask,
                    encoder_hidden_states=memory,
                    encoder_attention_mask=encoder_attention_mask,
                    position_embeddings=position_embeddings,
                    reference_points=boxes,
                    spatial_shapes=spatial_shapes,
                    spatial_shapes_list=spatial_shapes_list,
                    level_start_index=level_start_index,
                    **options,
                ),
            )
        query = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        value = its.value_proj(memory)
        if attention_mask is not None:
            value = value.masked_fill(~attention_mask[..., None], 0.0)
        samples = sum(its.n_points_list)
        offsets = its.sampling_offsets(query).unflatten(-1, (its.n_heads, samples, 2))
        weights = its.attention_weights(query).unflatten(-1, (its.n_heads, samples)).softmax(-1)
        scale = its.n_points_scale.to(query.dtype)[:, None]
        centre, size = boxes[:, :, None].split(2, -1)
        places = centre + offsets * scale * size * its.offset_scale
        shapes = spatial_shapes.tolist() if spatial_shapes_list is None else spatial_shapes_list  # type: ignore[union-attr]
        mixed = _sample(value.unflatten(-1, (its.n_heads, -1)), shapes, places, weights, its.n_points_list, its.method)
        return its.output_proj(mixed), weights


_SAMPLING = "value value_spatial_shapes value_spatial_shapes_list level_start_index sampling_locations"
_SAMPLING += " attention_weights im2col_step"
_CORE = "value value_spatial_shapes sampling_locations attention_weights num_points_list method"


def _attention_form(module: nn.Module) -> type[Changed] | None:
    """The replacement of ``module``, if it is a deformable attention whose arguments are those known here."""
    name = type(module).__name__
    if not type(module).__module__.startswith("transformers.models.") or not name.endswith("DeformableAttention"):
        return None
    if name == "MultiScaleDeformableAttention" and _arguments(type(module).forward)[1:] == _SAMPLING.split():
        return _Sampling
    core = module.__dict__.get("ms_deformable_attn_core")
    if core is not None and _arguments(core) == _CORE.split():
        return _CoreAttention
    if name == "RTDetrV2MultiscaleDeformableAttention":
        return _V2Attention
    return None


def _arguments(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def _kind(module: nn.Module) -> str:
    attention = isinstance(module, (_Sampling, _CoreAttention, _V2Attention))
    return "deformable attention" if attention else "folded block"


def _can_run(*arrays: Tensor) -> bool:
    """Whether our operator exists where the arrays lie, and whoever reads the graph will know it."""
    known = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    runs = all(a.device.type in ("cpu", "cuda", "meta") and a.dtype in known for a in arrays)
    return runs and not torch.jit.is_tracing()


def _wide(value: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
    """Locations and weights as the operator takes them: at half precision they move by parts of a pixel."""
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    return tuple(a.to(dtype) for a in arrays)


def _sample(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    num_points: Sequence[int],
    method: str,
) -> Tensor:
    levels = tuple((int(h), int(w)) for h, w in shapes)
    if torch.compiler.is_compiling():
        sizes = torch.tensor(levels, device=value.device)
        starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
    else:
        sizes, starts = level_tables(levels, value.device)
    if method == "discrete":
        locations = locations.detach()  # no gradient, as theirs have it, and not one of zeros for weight decay to use
    wide = _wide(value, locations, weights)
    return cast(Tensor, ops.ms_deform_attn(value, sizes, starts, *wide, num_points=num_points, method=method))
