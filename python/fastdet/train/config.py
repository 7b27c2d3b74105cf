# SPDX-License-Identifier: Apache-2.0
"""Settings of a training: one dataclass, one JSON file, no parents."""

from __future__ import annotations

import json
import typing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fastdet.data.augmentation import Augmentation, Recipe, recipe_named
from fastdet.data.loader import ON_ERROR, WORKER_KINDS

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Augmentation):
    """Everything a training depends on, the fields of ``Augmentation`` included.

    ``data`` may be in any format of ``fastdet.data.open_dataset``; ``images`` and ``*_annotations`` are relative to it.
    """

    data: str = field(default=".", metadata={"help": "the data set: folder, data YAML (COCO, YOLO, VOC)"})
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    val_split: str = field(default="val", metadata={"help": "split to choose on"})
    allow_outside: bool = field(default=False, metadata={"help": "accept files outside the data set's folder"})
    images: str = field(default="images", metadata={"help": "folder of the pictures of the two COCO files below"})
    train_annotations: str | None = field(
        default=None, metadata={"help": "COCO file to train on, instead of a split", "metavar": "FILE"}
    )
    val_annotations: str | None = field(
        default=None, metadata={"help": "COCO file to choose on, instead of a split", "metavar": "FILE"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "file names of pictures not to train on"})
    output: str = field(default="runs/train", metadata={"help": "folder for checkpoints, logs and weights"})
    resume: bool = field(default=False, metadata={"help": "continue the training found in the output folder"})
    model: str = field(default="damo-yolo-ns", metadata={"help": "name of the model"})
    input_size: tuple[int, int] | None = field(
        default=None, metadata={"help": "height and width of the network input; the model's own by default"}
    )
    epochs: int = field(default=100, metadata={"help": "passes over the training pictures"})
    calm_epochs: int = field(
        default=10, metadata={"help": "last epochs, with flips and colour only, at the floor rate"}
    )
    recipe: str = field(
        default="fastdet", metadata={"help": "augmentation: fastdet, by the settings here, or as of yolov5, ... (docs)"}
    )
    batch_size: int = field(default=8, metadata={"help": "pictures a step"})
    optimizer: str = field(default="adamw", metadata={"help": "adamw or sgd"})
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    lr_floor: float = field(default=0.05, metadata={"help": "final learning rate, as a fraction of the peak"})
    warmup_epochs: float = field(default=3.0, metadata={"help": "epochs of rising learning rate"})
    weight_decay: float = field(default=0.01, metadata={"help": "not applied to biases and normalisation layers"})
    momentum: float = field(default=0.9, metadata={"help": "momentum of SGD, first beta of AdamW"})
    clip_norm: float = field(default=30.0, metadata={"help": "limit of the gradient's norm"})
    ema_decay: float = field(default=0.998, metadata={"help": "decay of the average of the weights"})
    ema_tau: float = field(default=500.0, metadata={"help": "steps over which the decay is approached"})
    eval_interval: int = field(default=5, metadata={"help": "epochs between evaluations; every calm epoch has one"})
    save_interval: int = field(default=1, metadata={"help": "epochs between checkpoints"})
    seed: int = field(default=0, metadata={"help": "seed of weights, order and augmentation"})
    device: str = field(default="cpu", metadata={"help": "torch device"})
    precision: str = field(default="float32", metadata={"help": "float32, or bfloat16 inside the network"})
    threads: int = field(default=0, metadata={"help": "threads of torch; 0 leaves torch's choice"})
    workers: int = field(default=0, metadata={"help": "threads or processes that prepare batches ahead"})
    worker_kind: str = field(default="thread", metadata={"help": "what workers are: thread or process"})
    draft: bool = field(
        default=True, metadata={"help": "decode JPEGs at a fraction of their size where that is large enough"}
    )
    on_bad_picture: str = field(
        default="error", metadata={"help": "a picture that cannot be read: error, skip to the next, retry"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch_size", "eval_interval", "save_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip_norm", "ema_tau"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TrainConfig: {name} must be above 0, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"TrainConfig: precision must be one of {PRECISIONS}, got {self.precision!r}")
        for name, words in (("worker_kind", WORKER_KINDS), ("on_bad_picture", ON_ERROR)):
            if getattr(self, name) not in words:
                raise ValueError(f"TrainConfig: {name} must be one of {words}, got {getattr(self, name)!r}")
        changed = [each.name for each in fields(Augmentation) if getattr(self, each.name) != each.default]
        if isinstance(recipe_named(self.recipe), Recipe) and changed:
            raise ValueError(f"TrainConfig: recipe {self.recipe!r} has numbers of its own, got {', '.join(changed)}")
        if self.workers < 0:
            raise ValueError(f"TrainConfig: workers must not be negative, got {self.workers}")
        if self.calm_epochs < 0:
            raise ValueError(f"TrainConfig: calm_epochs must not be negative, got {self.calm_epochs}")
        if self.input_size is not None and (
            len(self.input_size) != 2 or any(s % 32 or s < 32 for s in self.input_size)
        ):
            raise ValueError(f"TrainConfig: input_size must be two multiples of 32, got {self.input_size}")

    def augmentation(self) -> Augmentation | Recipe:
        """What ``recipe`` names; for "fastdet" the settings here, without all else."""
        own = Augmentation(**{each.name: getattr(self, each.name) for each in fields(Augmentation)})
        return own if self.recipe == "fastdet" else recipe_named(self.recipe)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, tuples as lists."""
        return json.loads(json.dumps(asdict(self)))


def load_config(path: str | Path, **overrides: Any) -> TrainConfig:
    """Read a TrainConfig from a JSON object; ``overrides`` replace entries of the file.

    Raises:
        ValueError: unreadable file, unknown key, or a value of the wrong type; names the file and the key.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"load_config: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"load_config: {path} must hold a JSON object, got {type(content).__name__}")
    return from_json({**content, **overrides}, f"load_config: {path}")


def from_json(content: dict[str, Any], where: str) -> TrainConfig:
    """TrainConfig from plain JSON values. Raises ValueError beginning with ``where``."""
    types = typing.get_type_hints(TrainConfig)
    known = {each.name for each in fields(TrainConfig)}
    values = {}
    for key, value in content.items():
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}")
        values[key] = _convert(value, types[key], f"{where}: {key}")
    return TrainConfig(**values)


def _convert(value: Any, kind: Any, where: str) -> Any:
    options = typing.get_args(kind) if typing.get_origin(kind) is not tuple else ()
    if type(None) in options:
        if value is None:
            return None
        kind = next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        length = None if inner[-1] is Ellipsis else len(inner)
        if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
            raise ValueError(f"{where} must be a list of {length or 'any number of'} values, got {value!r}")
        return tuple(_convert(each, inner[0], where) for each in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} must be {kind.__name__}, got {value!r}")
    return value
