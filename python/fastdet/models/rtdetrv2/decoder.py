# SPDX-License-Identifier: Apache-2.0
"""Query selection and the decoder, with its heads: encoder levels to boxes and class logits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from fastdet.models.heads import flatten_levels
from fastdet.models.rtdetrv2.attention import DeformableAttention, Mlp, SelfAttention, Shapes, join_linear
from fastdet.models.rtdetrv2.backbone import ConvNorm

if TYPE_CHECKING:
    from fastdet.models.rtdetrv2.denoising import DenoisingGroups
    from fastdet.models.rtdetrv2.specs import RtDetrSpec

CLIP = 1e-5


class Prediction(NamedTuple):
    """What a head says of its queries: logits [B, Q, C] before the sigmoid, boxes_norm [B, Q, 4] cxcywh in 0..1."""

    logits: Tensor
    boxes_norm: Tensor


class Selection(NamedTuple):
    """The tokens that become queries, best first.

    tokens: [B, Q] int64, their numbers. content: [B, Q, dim]. box_logits: [B, Q, 4], before the sigmoid.
    logits: [B, Q, C].
    """

    tokens: Tensor
    content: Tensor
    box_logits: Tensor
    logits: Tensor


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)) of x clipped to [0, 1], numerator and denominator not below 1e-5."""
    x = x.clamp(0, 1)
    return (x.clamp(min=CLIP) / (1 - x).clamp(min=CLIP)).log()


@lru_cache(maxsize=32)
def token_anchors(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Box logits [1, A, 4] float32 of the tokens' own boxes, and which tokens may become queries, [1, A, 1] bool.

    A token's box is centred on its cell and 0.05 * 2^level wide and high, in parts of the picture. Where one of the
    four numbers is not within (0.01, 0.99) the token is out, and its logits are infinite.
    """
    with torch.inference_mode(False):
        boxes = []
        for level, (height, width) in enumerate(shapes):
            y, x = (torch.arange(side, dtype=torch.float32, device="cpu") + 0.5 for side in (height, width))
            centre = torch.stack(((x / width).expand(height, -1), (y / height)[:, None].expand(-1, width)), -1)
            side = torch.ones_like(centre) * 0.05 * 2.0**level
            boxes.append(torch.cat((centre, side), -1).flatten(0, 1))
        every = torch.cat(boxes)[None]
        valid = ((every > 0.01) & (every < 0.99)).all(-1, keepdim=True)
        logits = (every / (1 - every)).log().masked_fill(~valid, torch.inf)
        return logits.to(device), valid.to(device)


class TokenOutput(nn.Module):
    """The linear map and norm behind which tokens are judged."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, A, dim] -> [B, A, dim]."""
        return self.norm(self.proj(x))


class DecoderLayer(nn.Module):
    """Self attention of the queries, deformable attention to the memory, two linear maps; norms after the sums."""

    def __init__(self, spec: RtDetrSpec):
        super().__init__()
        dim = spec.decoder_dim
        self.attn = SelfAttention(dim, heads=spec.heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross = DeformableAttention(dim, heads=spec.heads, points=spec.points, sampling=spec.sampling)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, spec.decoder_ffn)
        self.linear2 = nn.Linear(spec.decoder_ffn, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.act = spec.act()
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        value: Tensor,
        shapes: Shapes,
        blocked: Tensor | None = None,
    ) -> Tensor:
        """Queries and their positions [B, Q, dim], boxes [B, Q, 4], values [B, S, dim] -> queries [B, Q, dim]."""
        x = self.norm1(x + self.attn(x, position, blocked))
        x = self.norm2(x + self.cross(x + position, reference, value, shapes))
        return self.norm3(x + self.linear2(self.act(self.linear1(x))))


class RtDetrDecoder(nn.Module):
    """From encoder levels to predictions.

    In training mode every layer predicts; else the loop ends at layer ``eval_layer`` and only that one does.
    ``anchors`` and ``valid`` are entries of the reference's files and are not read: they hold for one input size.
    """

    anchors: Tensor
    valid: Tensor

    def __init__(self, spec: RtDetrSpec, num_classes: int):
        super().__init__()
        dim, layers, act = spec.decoder_dim, spec.decoder_layers, spec.act
        self.queries = spec.queries
        self.eval_layer = spec.eval_layer
        height, width = spec.input_size
        shapes = tuple((height // stride, width // stride) for stride in spec.strides)
        anchors, valid = token_anchors(shapes, torch.device("cpu"))
        self.register_buffer("anchors", anchors.clone().to(torch.get_default_device()), persistent=False)
        self.register_buffer("valid", valid.clone().to(torch.get_default_device()), persistent=False)
        self.input_proj = nn.ModuleList(ConvNorm(spec.encoder_dim, dim, act=None) for _ in spec.strides)
        self.layers = nn.ModuleList(DecoderLayer(spec) for _ in range(layers))
        self.denoising_embed: nn.Embedding | None = nn.Embedding(num_classes + 1, dim, padding_idx=num_classes)
        self.query_pos = Mlp(4, *spec.query_pos, dim, act=act)
        self.token_output = TokenOutput(dim)
        self.token_score = nn.Linear(dim, num_classes)
        self.token_box = Mlp(dim, dim, dim, 4, act=act)
        self.score: nn.ModuleList = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(layers))
        self.box: nn.ModuleList = nn.ModuleList(Mlp(dim, dim, dim, 4, act=act) for _ in range(layers))
        self.joined_values: nn.Linear | None = None
        self._initialise()

    def _initialise(self) -> None:
        """Every class starts at a score of 0.01, every box where its reference is."""
        for head in (self.token_score, *self.score):
            nn.init.constant_(head.bias, -log(99))
        for head in (self.token_box, *self.box):
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
        for layer in (*self.query_pos.layers, *(project.conv for project in self.input_proj)):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self, levels: Sequence[Tensor], denoising: DenoisingGroups | None = None
    ) -> tuple[list[Prediction], Selection]:
        """[B, encoder_dim, H_i, W_i] per level -> predictions of the layers, the last being the result, and selection.

        With ``denoising``, its queries stand before the selected ones in every prediction.
        """
        memory, shapes = self.memory(levels)
        selection = self.select(memory, shapes)
        content, box_logits, blocked = selection.content.detach(), selection.box_logits.detach(), None
        if denoising is not None:
            content = torch.cat((denoising.content.to(content.dtype), content), 1)
            box_logits = torch.cat((denoising.box_logits, box_logits), 1)
            blocked = denoising.blocked
        return self.decode(content, box_logits, memory, shapes, blocked), selection

    def queries_of(self, size: tuple[int, int], strides: Sequence[int]) -> int:
        """Queries that are selected on an input of ``size`` (height, width): all tokens where it has too few."""
        return min(self.queries, sum((size[0] // stride) * (size[1] // stride) for stride in strides))

    def memory(self, levels: Sequence[Tensor]) -> tuple[Tensor, Shapes]:
        """The tokens of all levels, [B, A, dim], and the levels' (height, width)."""
        projected = [project(x) for project, x in zip(self.input_proj, levels, strict=True)]
        shapes = tuple((x.shape[-2], x.shape[-1]) for x in projected)
        return flatten_levels(projected), shapes

    def tokens(self, memory: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
        """Content [B, A, dim] and class logits [B, A, C] of all tokens."""
        valid = token_anchors(shapes, memory.device)[1]
        content = self.token_output(torch.where(valid, memory, 0))
        return content, self.token_score(content)

    def box_logits(self, content: Tensor, shapes: Shapes, index: Tensor | None = None) -> Tensor:
        """Box logits [B, K, 4] float32 of tokens with ``content`` [B, K, dim]: those at ``index`` [B, K], or all."""
        anchors = token_anchors(shapes, content.device)[0]
        if index is not None:
            anchors = anchors[0][index]
        return self.token_box(content).float() + anchors

    def select(self, memory: Tensor, shapes: Shapes) -> Selection:
        """The ``queries`` tokens with the largest class logit; of equal ones those with the smaller index.

        The network for boxes runs on the selected tokens only, which changes nothing: it looks at one token at a time.
        """
        content, logits = self.tokens(memory, shapes)
        order = logits.detach().amax(-1).sort(stable=True, dim=1, descending=True).indices
        index = order[:, : self.queries]
        content, logits = (t.gather(1, index[..., None].expand(-1, -1, t.shape[-1])) for t in (content, logits))
        return Selection(index, content, self.box_logits(content, shapes, index), logits)

    def decode(
        self, content: Tensor, box_logits: Tensor, memory: Tensor, shapes: Shapes, blocked: Tensor | None = None
    ) -> list[Prediction]:
        """Predictions of the layers that have a say: in training mode all, else the one at ``eval_layer``."""
        x, reference = content, box_logits.float().sigmoid()
        previous = None  # the box before, as a function of the weights: gradients reach one layer further back
        predictions = []
        running = self.layers if self.training else self.layers[: self.eval_layer + 1]
        values = self._values(memory, running)
        for i, layer in enumerate(running):
            position = self.query_pos(reference.to(x.dtype))
            x = layer(x, position, reference, values[i], shapes, blocked)
            change = self.box[i](x).float()
            boxes = (change + inverse_sigmoid(reference)).sigmoid()
            if self.training or i == self.eval_layer:
                seen = boxes if previous is None else (change + inverse_sigmoid(previous)).sigmoid()
                predictions.append(Prediction(self.score[-1 if len(self.score) == 1 else i](x), seen))
            previous, reference = boxes if self.training else None, boxes.detach()
        return predictions

    def _values(self, memory: Tensor, layers: nn.ModuleList) -> Sequence[Tensor]:
        if self.joined_values is not None:
            return self.joined_values(memory).chunk(len(layers), -1)
        return [layer.cross.value_proj(memory) for layer in layers]  # type: ignore[union-attr, operator]

    def fold_(self, *, batch_norm: bool = True) -> None:
        """Drop what only training needs; project the memory for all layers at once. ``batch_norm`` has no say here."""
        if self.denoising_embed is None:
            return
        self.denoising_embed = None
        del self.anchors, self.valid
        self.layers, self.box = self.layers[: self.eval_layer + 1], self.box[: self.eval_layer + 1]
        self.score = self.score[self.eval_layer : self.eval_layer + 1]
        attentions = [layer.get_submodule("cross") for layer in self.layers]
        self.joined_values = join_linear([cross.get_submodule("value_proj") for cross in attentions])
        for cross in attentions:
            cross.value_proj = None  # type: ignore[assignment]
