# SPDX-License-Identifier: Apache-2.0
"""Contrastive denoising (arXiv 2203.03605, 2304.08069): noisy copies of the ground truth as additional queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdet.models.rtdetrv2.decoder import inverse_sigmoid


class DenoisingRandom(NamedTuple):
    """The random numbers of the groups, N = 2 m G queries: groups after one another, positives before negatives.

    flip: [B, N] in [0, 1); a label is replaced where it is below half the label noise. new_label: [B, N] class ids.
    sign: [B, N, 4], below 0.5 (0 and 1 do) for minus. part: [B, N, 4] in [0, 1), of the half width or height.
    """

    flip: Tensor
    new_label: Tensor
    sign: Tensor
    part: Tensor


class DenoisingGroups(NamedTuple):
    """Queries to put before the selected ones.

    labels: [B, N] int64 with noise, C where there is no object. content: [B, N, dim]. box_logits: [B, N, 4].
    blocked: [N + Q, N + Q] bool, True where a query (row) may not see another. groups: their number G.
    positives: per picture, the [G * n] indices of noisy copies; objects 0..n-1 of group 0, then of group 1, ...
    """

    labels: Tensor
    content: Tensor
    box_logits: Tensor
    blocked: Tensor
    groups: int
    positives: list[Tensor]

    def matches(self) -> list[tuple[Tensor, Tensor]]:
        """Per picture the (query, object) pairs of the loss: ``positives`` and which object each one copies."""
        pairs = []
        for queries in self.positives:
            count = len(queries) // self.groups
            pairs.append((queries, torch.arange(count, device=queries.device).repeat(self.groups)))
        return pairs


def group_shape(counts: Sequence[int], nominal: int) -> tuple[int, int]:
    """Objects per group m and number of groups G for pictures with ``counts`` objects and ``nominal`` queries.

    Without any object there is one group of one dummy, so that the network is the same in every process.
    """
    most = max(counts, default=0)
    return (most, max(1, nominal // most)) if most else (1, 1)


def draw_random(
    counts: Sequence[int],
    num_classes: int,
    nominal: int,
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> DenoisingRandom:
    """Fresh random numbers for ``denoising_groups``; from ``generator``, or torch's own."""
    objects, groups = group_shape(counts, nominal)
    shape = (len(counts), 2 * objects * groups)
    return DenoisingRandom(
        torch.rand(shape, device=device, generator=generator),
        torch.randint(0, num_classes, shape, device=device, generator=generator),
        torch.randint(0, 2, (*shape, 4), device=device, generator=generator),
        torch.rand((*shape, 4), device=device, generator=generator),
    )


def denoising_groups(
    boxes_norm: Sequence[Tensor],
    labels: Sequence[Tensor],
    embedding: Tensor,
    random: DenoisingRandom,
    *,
    queries: int,
    nominal: int = 100,
    label_noise: float = 0.5,
    box_noise: float = 1.0,
) -> DenoisingGroups:
    """Noisy copies of every object: of each group's 2 m, the first m stay near their object, the others do not.

    Args:
        boxes_norm: [n_i, 4] cxcywh in 0..1 per picture. labels: [n_i] class ids per picture.
        embedding: [C + 1, dim], the content of a label; the last row is that of no object.
        random: see there. queries: Q, number of selected queries.
        nominal: denoising queries aimed at; the number of groups is nominal over the largest n_i, at least 1.
        label_noise: a label is replaced with half this probability. box_noise: corners move by at most this many
            half sides (copies that are to be rejected: by one to two times as many).
    """
    counts = [len(each) for each in labels]
    objects, groups = group_shape(counts, nominal)
    num_classes, device = len(embedding) - 1, embedding.device
    label = torch.full((len(counts), objects), num_classes, dtype=torch.int64, device=device)
    box = torch.zeros(len(counts), objects, 4, device=device)
    for i, count in enumerate(counts):
        label[i, :count] = labels[i].to(label)
        box[i, :count] = boxes_norm[i].to(box)
    if not any(counts):
        box[:] = torch.tensor([0.5, 0.5, 0.1, 0.1], device=device)
    real = torch.arange(objects, device=device) < torch.tensor(counts, device=device)[:, None]
    label, box, real = label.repeat(1, 2 * groups), box.repeat(1, 2 * groups, 1), real.repeat(1, 2 * groups)
    position = torch.arange(2 * objects * groups, device=device)
    negative = position // objects % 2 == 1

    label = torch.where(real & (random.flip < 0.5 * label_noise), random.new_label.to(label), label)
    half = (0.5 * box[..., 2:]).repeat(1, 1, 2)
    corners = torch.cat((box[..., :2] - half[..., :2], box[..., :2] + half[..., :2]), -1)
    part = (random.part + negative[:, None]) * torch.where(random.sign < 0.5, -1.0, 1.0)
    corners = (corners + part * half * box_noise).clamp(0, 1)
    centre, size = (corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]

    return DenoisingGroups(
        label,
        torch.nn.functional.embedding(label, embedding, padding_idx=num_classes),
        inverse_sigmoid(torch.cat((centre, size), -1)),
        _blocked(len(position), 2 * objects, queries, device),
        groups,
        [(row & ~negative).nonzero()[:, 0] for row in real],
    )


def _blocked(total: int, per_group: int, queries: int, device: torch.device) -> Tensor:
    """Selected queries see each other alone; a denoising query sees them and its own group."""
    group = torch.arange(total, device=device) // per_group
    blocked = torch.zeros(total + queries, total + queries, dtype=torch.bool, device=device)
    blocked[:total, :total] = group[:, None] != group
    blocked[total:, :total] = True
    return blocked
