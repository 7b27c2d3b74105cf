# SPDX-License-Identifier: Apache-2.0
"""From the modules of a fused table to a list of steps over channel slices of buffers, sizes still open."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fastdet import _core
from fastdet.models.blocks import Attention
from fastdet.models.graph_model import GraphModel

_ACTIVATIONS: Mapping[type[nn.Module], int] = {nn.ReLU: 1, nn.SiLU: 2, nn.LeakyReLU: 3}
_LARGEST = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_LINE, _FEW_SETS = 64, 2048  # bytes
_AVERAGE = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


@dataclass(eq=False)
class Buffer:
    """Memory of a map, or a run of channels of the buffer ``parent[0]`` from ``parent[1]`` on.

    ``place``: -1 for the arena, else the number of the caller's array. ``planes``: channels one behind the other.
    ``scratch``: (heads, key_dim, value_dim) of attention that it works for, else None.
    """

    channels: int
    half: bool = False
    place: int = -1
    planes: bool = False
    halo: int = 0
    parent: tuple[Buffer, int] | None = None
    scratch: tuple[int, int, int] | None = None

    @property
    def pixel(self) -> int:
        """Elements from one pixel to the next. 2048 bytes apart, pixels of a tile would share few sets of the cache."""
        if self.place >= 0 or self.planes:
            return 1 if self.planes else self.channels
        size = 2 if self.half else 4
        return self.channels + (_LINE // size if self.channels * size % _FEW_SETS == 0 else 0)

    def root(self) -> tuple[Buffer, int]:
        """The outermost buffer, and where in it this one begins."""
        buffer, first = self, 0
        while buffer.parent is not None:
            first += buffer.parent[1]
            buffer = buffer.parent[0]
        return buffer, first


@dataclass(frozen=True)
class Slice:
    """Channels [first, first + channels) of a buffer."""

    buffer: Buffer
    first: int
    channels: int


def whole(buffer: Buffer) -> Slice:
    """All channels."""
    return Slice(buffer, 0, buffer.channels)


@dataclass(frozen=True)
class StepOf:
    """One step of the program. ``window``: kernel height and width, stride, padding."""

    name: str
    kind: str
    inputs: tuple[Slice, ...]
    out: Slice
    weights: Any = None
    window: tuple[int, int, int, int] = (1, 1, 1, 0)
    activation: int = 0
    average: bool = False
    scale: int = 1
    scratch: tuple[Slice, ...] = ()
    attention: tuple[int, int, int, float] = (0, 0, 0, 0.0)

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output, from those of the input."""
        if self.kind == "enlarge":
            return size[0] * self.scale, size[1] * self.scale
        kernel_height, kernel_width, stride, padding = self.window
        height, width = (
            (side + 2 * padding - kernel) // stride + 1 for side, kernel in zip(size, (kernel_height, kernel_width))
        )
        return height, width


@dataclass
class Lowered:
    """Steps, the buffer of the picture, those of the outputs in order, and what makes the raw output of tensors."""

    source: Buffer
    steps: list[StepOf] = field(default_factory=list)
    outputs: list[Buffer] = field(default_factory=list)
    raw: Callable[[Sequence[Tensor]], Any] = tuple


def lower(module: GraphModel, *, half: bool) -> Lowered:
    """The steps of ``module``, weights packed.

    Raises:
        ValueError: a block has no native form.
    """
    return _Lowering(module, half).lowered


class _Network(nn.Module):
    """Table and head, without the check of the picture's shape, which tracing cannot follow."""

    def __init__(self, module: GraphModel):
        super().__init__()
        self.model = module.model

    def forward(self, images: Tensor) -> Any:
        """As the module's."""
        return self.model[-1](self.model(images))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Attention) or super().is_leaf_module(m, module_qualified_name)


class _Lowering:
    def __init__(self, module: GraphModel, half: bool):
        self.half = half
        network = _Network(module).eval()
        try:
            graph = _Tracer().trace(network)
        except (fx.proxy.TraceError, TypeError) as error:
            raise ValueError(f"CpuGraph: {module.spec.name} must have a fixed course, but {error}") from error
        self.parts = dict(network.named_modules())
        for node in list(graph.nodes):
            if isinstance(self._part(node), (nn.Identity, nn.Dropout)):
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
        self.values: dict[fx.Node, Slice | tuple[Slice, ...]] = {}
        source = Buffer(3, place=0, planes=True)
        self.lowered = Lowered(source)
        nodes = list(graph.nodes)
        self.result = nodes[-1].args[0]
        self.out_nodes: list[fx.Node] = []
        if not isinstance(self.result, fx.Node) or self.result.op != "call_function":
            raise ValueError(f"CpuGraph: {module.spec.name} must return its maps by level")
        fx.node.map_arg((self.result.args, self.result.kwargs), self.out_nodes.append)
        for node in nodes[:-1]:
            if node not in self.values and node is not self.result:
                self._lower(node)
        self._finish()

    def _part(self, node: fx.Node) -> nn.Module | None:
        return self.parts[str(node.target)] if node.op == "call_module" else None

    def _refuse(self, node: fx.Node, why: str = "has no native form") -> ValueError:
        what = type(self._part(node)).__name__ if node.op == "call_module" else node.target
        return ValueError(f"CpuGraph: every block must have a native form, but {node.name} ({what}) {why}")

    def _slice(self, node: Any) -> Slice:
        value = self.values.get(node)
        if not isinstance(value, Slice):
            raise ValueError(f"CpuGraph: every block must have a native form, but an input is {node}")
        return value

    def _new(self, channels: int) -> Slice:
        return whole(Buffer(channels, half=self.half))

    def _finish(self) -> None:
        for node in self.out_nodes:
            part = self._slice(node)
            root = part.buffer.root()[0]
            if root.place >= 0 or part != whole(root) or root.halo:
                part = self._copied(part, Buffer(part.channels), node.name)
                root = part.buffer
            root.place = len(self.lowered.outputs) + 1
            self.lowered.outputs.append(root)
        for step in self.lowered.steps:
            root, *others = (each.buffer.root()[0] for each in step.inputs)
            if (root.planes and step.kind != "convolution") or any(other.planes for other in others):
                raise ValueError(f"CpuGraph: convolutions alone read the picture, but {step.name} does")
            if step.kind in ("convolution", "depthwise") and not root.planes and step.window[3] > root.halo:
                raise ValueError(f"CpuGraph: {step.name} must read a map with a border")
        result, order = self.result, {node: i for i, node in enumerate(self.out_nodes)}

        def raw(tensors: Sequence[Tensor]) -> Any:
            args, kwargs = fx.node.map_arg((result.args, result.kwargs), lambda node: tensors[order[node]])
            return result.target(*args, **kwargs)

        self.lowered.raw = raw

    def _lower(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.values[node] = whole(self.lowered.source)
            return
        part = self._part(node)
        if isinstance(part, nn.Conv2d):
            self._convolution(node, node.args[0], part)
        elif isinstance(part, Attention):
            self._attention(node, part)
        elif isinstance(part, nn.MaxPool2d):
            self._pool(node, part.kernel_size, part.stride, part.padding, plain=_plain(part))
        elif isinstance(part, nn.Upsample):
            self._enlarge(node, part.scale_factor, part.mode)
        elif part is not None:
            raise self._refuse(node)
        else:
            self._function(node)

    def _function(self, node: fx.Node) -> None:
        target, args = node.target, node.args
        if target is torch.cat:
            self._concatenate(node, cast(Any, args[0]), args[1] if len(args) > 1 else node.kwargs.get("dim", 0))
        elif target == "chunk" and len(args) == 3 and args[2] == 1:
            whole_map, count = self._slice(args[0]), cast(int, args[1])
            if whole_map.channels % count:
                raise self._refuse(node, "does not divide the channels")
            each = whole_map.channels // count
            self.values[node] = tuple(Slice(whole_map.buffer, whole_map.first + i * each, each) for i in range(count))
        elif target is operator.getitem and isinstance(self.values.get(cast(Any, args[0])), tuple):
            self.values[node] = cast(Any, self.values[cast(Any, args[0])])[args[1]]
        elif target in (operator.add, torch.add) and not node.kwargs and all(isinstance(a, fx.Node) for a in args):
            a, b = (self._slice(each) for each in args)
            self.values[node] = out = self._new(a.channels)
            self._step(node.name, "add", (a, b), out)
        elif target is F.max_pool2d or target is F.avg_pool2d:
            average = target is F.avg_pool2d
            given: dict[str, Any] = {**dict(zip(_AVERAGE if average else _LARGEST, args)), **node.kwargs}
            kernel, padding = given["kernel_size"], given.get("padding", 0)
            plain = not given.get("ceil_mode") and not given.get("return_indices") and not (average and padding)
            plain = plain and given.get("dilation", 1) == 1 and given.get("divisor_override") is None
            self._pool(node, kernel, given.get("stride") or kernel, padding, plain=plain, average=average)
        elif target is F.interpolate:
            options = dict(node.kwargs)
            self._enlarge(node, options.get("scale_factor"), str(options.get("mode")))
        else:
            raise self._refuse(node)

    def _step(self, name: str, kind: str, inputs: tuple[Slice, ...], out: Slice, **options: Any) -> None:
        self.lowered.steps.append(StepOf(name, kind, inputs, out, **options))

    def _copied(self, part: Slice, buffer: Buffer, name: str) -> Slice:
        if part.buffer.half != buffer.half:
            raise ValueError(f"CpuGraph: {name} must be the result of a convolution")
        self._step(name, "enlarge", (part,), whole(buffer))
        return whole(buffer)

    def _pool(
        self, node: fx.Node, kernel: Any, stride: Any, padding: Any, *, plain: bool, average: bool = False
    ) -> None:
        kernels, strides, paddings = _pair(kernel), _pair(stride), _pair(padding)
        if not plain or strides[0] != strides[1] or paddings[0] != paddings[1]:
            raise self._refuse(node, "has options that are not supported")
        part = self._slice(node.args[0])
        self.values[node] = out = self._new(part.channels)
        self._step(node.name, "pool", (part,), out, window=(*kernels, strides[0], paddings[0]), average=average)

    def _enlarge(self, node: fx.Node, scale: Any, mode: str) -> None:
        if not isinstance(scale, (int, float)) or scale != int(scale) or mode != "nearest":
            raise self._refuse(node, "is no nearest neighbour by a whole factor")
        part = self._slice(node.args[0])
        self.values[node] = out = self._new(part.channels)
        self._step(node.name, "enlarge", (part,), out, scale=int(scale))

    def _concatenate(self, node: fx.Node, inputs: Sequence[fx.Node], dim: Any) -> None:
        if dim != 1:
            raise self._refuse(node, "joins something else than channels")
        parts = [self._slice(each) for each in inputs]
        joined = Buffer(sum(part.channels for part in parts), half=self.half)
        starts = [sum(part.channels for part in parts[:i]) for i in range(len(parts))]
        for part, start in zip(parts, starts):
            buffer = part.buffer
            if buffer.parent is not None and buffer.parent[0] is joined and buffer.parent[1] + part.first == start:
                continue
            if _covered(buffer, start - part.first, parts, starts):
                buffer.parent = (joined, start - part.first)
                joined.halo = max(joined.halo, buffer.halo)
            else:
                self._step(node.name, "enlarge", (part,), Slice(joined, start, part.channels))
        self.values[node] = whole(joined)

    def _convolution(self, node: fx.Node, source: Any, conv: nn.Conv2d, part: Slice | None = None) -> None:
        """A convolution with the activation and the addition that follow it."""
        if conv.padding_mode != "zeros" or conv.dilation != (1, 1) or isinstance(conv.padding, str):
            raise self._refuse(node, "has options that are not supported")
        if conv.stride[0] != conv.stride[1] or conv.padding[0] != conv.padding[1]:
            raise self._refuse(node, "has options that are not supported")
        part = self._slice(source) if part is None else part
        covered, code = [node], 0
        after = _only_user(node)
        if after is not None and type(self._part(after)) in _ACTIVATIONS:
            act = cast(Any, self._part(after))
            if isinstance(act, nn.LeakyReLU) and act.negative_slope != 0.1:
                raise self._refuse(after, "has a slope other than 0.1")
            code = _ACTIVATIONS[type(act)]
            covered.append(after)
        after, other = _only_user(covered[-1]), None
        if after is not None and after.target is operator.add and len(after.args) == 2:
            other = next((each for each in after.args if each is not covered[-1]), None)
            if isinstance(self.values.get(cast(Any, other)), Slice):
                covered.append(after)
            else:
                other = None
        is_output = covered[-1] in self.out_nodes and len(covered[-1].users) == 1
        out = whole(Buffer(conv.out_channels, half=self.half and not is_output))
        residual = () if other is None else (self._slice(other),)
        self._windows(node.name, conv, part, out, residual, code)
        for each in covered:
            self.values[each] = out

    def _windows(
        self, name: str, conv: nn.Conv2d, part: Slice, out: Slice, residual: tuple[Slice, ...], activation: int
    ) -> None:
        padding = cast(int, conv.padding[0])
        root = part.buffer.root()[0]
        if not root.planes:
            root.halo = max(root.halo, padding)
        elif conv.groups != 1:
            raise ValueError(f"CpuGraph: what reads the picture must have one group, got {conv.groups} in {name}")
        window = (*conv.kernel_size, conv.stride[0], padding)
        weight = conv.weight.detach().float()
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float()
        if conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1:
            packed = _core.network_weights(weight.flatten(1).numpy(), bias.numpy(), False, True)
            options = {"weights": packed, "window": window, "activation": activation}
            self._step(name, "depthwise", (part, *residual), out, **options)
            return
        if not root.planes:
            weight = weight.permute(0, 2, 3, 1)
        half = root.half
        if half and (conv.in_channels // conv.groups % 2 or root.channels % 2):
            raise ValueError(f"CpuGraph: channels must be even for bfloat16, got {root.channels} before {name}")
        c_in, c_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
        for g in range(conv.groups):
            rows = slice(g * c_out, (g + 1) * c_out)
            packed = _core.network_weights(weight[rows].flatten(1).numpy(), bias[rows].numpy(), half, False)
            inputs = (
                Slice(part.buffer, part.first + g * c_in, c_in),
                *(Slice(r.buffer, r.first + g * c_out, c_out) for r in residual),
            )
            options = {"weights": packed, "window": window, "activation": activation}
            self._step(name, "convolution", inputs, Slice(out.buffer, out.first + g * c_out, c_out), **options)

    def _attention(self, node: fx.Node, part: Attention) -> None:
        source = self._slice(node.args[0])
        channels, heads = source.channels, part.heads
        qkv, mixed = self._new(part.qkv.c_out), self._new(channels)
        self._windows(f"{node.name}_qkv", part.qkv.conv, source, qkv, (), 0)
        scratch = whole(Buffer(1, scratch=(heads, part.key_dim, part.value_dim)))
        sizes = (heads, part.key_dim, part.value_dim, part.scale)
        self._step(node.name, "attention", (qkv,), mixed, scratch=(scratch,), attention=sizes)
        # Values of a head follow its queries and keys, so their position code is made head by head.
        qkv.buffer.halo = max(qkv.buffer.halo, cast(int, part.pe.conv.padding[0]))
        weight, bias = part.pe.conv.weight.detach().float().flatten(1), cast(Tensor, part.pe.conv.bias).detach().float()
        window = (*part.pe.conv.kernel_size, 1, part.pe.conv.padding[0])
        for head in range(heads):
            rows = slice(head * part.value_dim, (head + 1) * part.value_dim)
            values = Slice(qkv.buffer, (head + 1) * 2 * part.key_dim + head * part.value_dim, part.value_dim)
            own = Slice(mixed.buffer, head * part.value_dim, part.value_dim)
            packed = _core.network_weights(weight[rows].numpy(), bias[rows].numpy(), False, True)
            self._step(f"{node.name}_pe", "depthwise", (values, own), own, weights=packed, window=window)
        self._convolution(node, None, part.proj.conv, mixed)


def _covered(buffer: Buffer, start: int, parts: Sequence[Slice], starts: Sequence[int]) -> bool:
    """Whether ``buffer``, laid at channel ``start``, is made of parts only, each where it belongs."""
    if buffer.parent is not None or buffer.place >= 0 or buffer.planes or start < 0:
        return False
    covered = sum(p.channels for p, s in zip(parts, starts) if p.buffer is buffer and s - p.first == start)
    return covered == buffer.channels


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _plain(pool: nn.MaxPool2d) -> bool:
    return pool.dilation in (1, (1, 1)) and not pool.ceil_mode and not pool.return_indices
