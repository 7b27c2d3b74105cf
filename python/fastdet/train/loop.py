# SPDX-License-Identifier: Apache-2.0
"""The training loop, one readable function."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import deterministic as _deterministic

from fastdet import models
from fastdet.data import Dataset, open_dataset
from fastdet.data.augmentation import Recipe
from fastdet.data.coco import read_coco
from fastdet.data.loader import Batch, Loader, PictureCache
from fastdet.evaluation import Metrics, evaluate
from fastdet.models import DetectionModel, Targets
from fastdet.train.config import TrainConfig
from fastdet.train.depthwise import use_fast_depthwise
from fastdet.train.ema import Ema
from fastdet.train.logs import EpochLog, progress
from fastdet.train.optim import build_optimizer, learning_rate
from fastdet.train.state import Position, load_state, newest_checkpoint, save_state
from fastdet.train.validate import predict

log = logging.getLogger("fastdet.train")
MAY_CHANGE_ON_RESUME = ("data", "output", "resume", "threads", "workers", "worker_kind")


@dataclass(frozen=True)
class TrainResult:
    """``weights`` is the file of the best averaged weights, ``metrics`` what they reach on the validation pictures."""

    weights: Path
    metrics: Metrics | None  # None when a resumed training had nothing left to do
    best_epoch: int
    epochs: int


def train(config: TrainConfig, on_step: Callable[[int, dict[str, float]], None] | None = None) -> TrainResult:
    """Train a detector from scratch; deterministic for a seed, a machine and a number of threads.

    Writes into ``config.output``: ``log.csv`` and ``log.jsonl`` (a row per epoch), ``checkpoint-*.safetensors`` with
    ``checkpoints.json``, ``best.safetensors`` (averaged weights of the epoch with the highest AP on validation).
    With ``config.resume`` the training continues from the newest whole checkpoint, bit for bit as if never stopped.

    Args:
        on_step: called after every step with its number and the losses.

    Raises:
        DataError: a data set file cannot be used. FloatingPointError: the loss is not finite; names the pictures.
        ValueError: the settings contradict each other or the training to resume. RuntimeError: cannot write.
    """
    with reproducible(config), contextlib.ExitStack() as open_until_done:
        folder = prepare_output(Path(config.output), config.resume, open_until_done)
        augmentation = config.augmentation()
        polygons = isinstance(augmentation, Recipe) and augmentation.copy_paste > 0
        train_set = _without(_open(config, config.train_split, config.train_annotations, polygons), config.exclude)
        val_set = _open(config, config.val_split, config.val_annotations, polygons=False)
        if train_set.names != val_set.names:
            raise ValueError(f"train: classes differ: {train_set.names} to train on, {val_set.names} to choose on")
        if len(train_set) < config.batch_size:
            raise ValueError(f"train: batch_size {config.batch_size} is above the {len(train_set)} training pictures")
        val_cache = PictureCache(val_set.pictures)
        spec = models.spec(config.model)
        size = config.input_size or spec.input_size
        spec = dataclasses.replace(spec, input_size=size)
        module = models.build(spec, num_classes=len(train_set.names)).to(config.device)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's annotations
        module.names = list(train_set.names)
        ema = Ema(module, config.ema_decay, config.ema_tau)
        use_fast_depthwise(module)
        optimizer = build_optimizer(
            module, config.optimizer, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum
        )
        position = _resume(folder, config, module, ema, optimizer)
        history = EpochLog(folder, position.epoch)
        loader = open_until_done.enter_context(_loader(config, train_set, size))
        loader.seek(position.epoch)
        metrics = None
        for epoch in range(position.epoch, config.epochs):
            started = time.monotonic()
            calm = epoch >= config.epochs - config.calm_epochs
            step, row = _run_epoch(config, module, ema, optimizer, loader, train_set, position.step, epoch, on_step)
            best = (position.best_metric, position.best_epoch)
            if calm or (epoch + 1) % config.eval_interval == 0 or epoch + 1 == config.epochs:
                current = evaluate(predict(ema.module, val_set, val_cache), val_set)
                row |= {"val_ap": current.ap, "val_ap50": current.ap50}
                row |= {f"val_ap_{name}": value for name, value in current.class_ap.items()}
                if current.ap > best[0]:
                    best, metrics = (current.ap, epoch + 1), current
                    save_weights(folder / "best.safetensors", ema.module, config, epoch + 1, current)
            position = Position(epoch + 1, step, *best, config.to_json())
            if (epoch + 1) % config.save_interval == 0 or epoch + 1 == config.epochs:
                save_state(folder, position, module, ema, optimizer)
            row = {"epoch": epoch + 1, "step": step, "seconds": time.monotonic() - started, **row}
            history.write(row)
            log.info("%s", "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    return TrainResult(folder / "best.safetensors", metrics, position.best_epoch, position.epoch)


def _run_epoch(
    config: TrainConfig,
    module: DetectionModel,
    ema: Ema,
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    dataset: Dataset,
    step: int,
    epoch: int,
    on_step: Callable[[int, dict[str, float]], None] | None,
) -> tuple[int, dict[str, float]]:
    per_epoch = len(loader)
    schedule: dict[str, Any] = {
        "peak": config.lr,
        "warmup": round(config.warmup_epochs * per_epoch),
        "total": config.epochs * per_epoch,
        "flat": config.calm_epochs * per_epoch,
        "floor": config.lr_floor,
    }
    module.train()
    totals: dict[str, float] = {}
    rate = 0.0
    unreadable: dict[int, str] = {}
    replaced = retried = 0
    for batch in progress(loader, per_epoch, f"epoch {epoch + 1}/{config.epochs}"):
        unreadable |= batch.unreadable
        replaced += batch.replaced
        retried += batch.retried
        rate = learning_rate(step, **schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, targets = to_tensors(batch, module, config.device)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            raw = module(images)
        losses = _losses(module, raw, targets)
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not math.isfinite(values["loss"]):
            names = ", ".join(dataset.pictures[index].path.name for index in batch.indices)
            raise FloatingPointError(
                f"train: loss is not finite at epoch {epoch + 1}, step {step}, on the pictures {names}; "
                "a lower lr or float32 precision may help"
            )
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm, error_if_nonfinite=False)
        optimizer.step()
        ema.update(module)
        step += 1
        for name, value in values.items():
            totals[name] = totals.get(name, 0.0) + value / per_epoch
        if on_step is not None:
            on_step(step, values)
    for index in sorted(unreadable):
        log.warning("left out: %s", unreadable[index])
    counted = {"skip": {"bad_pictures": len(unreadable), "replaced": replaced}, "retry": {"retried": retried}}
    return step, {"lr": rate, **totals, **counted.get(config.on_bad_picture, {})}


def _loader(config: TrainConfig, dataset: Dataset, size: tuple[int, int]) -> Loader:
    return Loader(
        dataset,
        config.augmentation(),  # not the config itself: worker processes would import torch to unpickle it
        size=size,
        batch_size=config.batch_size,
        seed=config.seed,
        calm_from=config.epochs - config.calm_epochs,
        workers=config.workers,
        worker_kind=config.worker_kind,
        on_error=config.on_bad_picture,
        draft=config.draft,
        pin_memory=torch.device(config.device).type == "cuda",
    )


def _losses(module: DetectionModel, raw: models.RawHead, targets: Targets) -> dict[str, torch.Tensor]:
    """The criterion's losses, or a loss of NaN alone where it refuses what a network that is not finite gives it."""
    try:
        return module.criterion(raw, targets)
    except RuntimeError:
        if all(bool(level.isfinite().all()) for level in (*raw.cls_logits, *raw.reg_logits)):
            raise
        return {"loss": raw.cls_logits[0].new_tensor(math.nan)}


def to_tensors(batch: Batch, module: DetectionModel, device: str) -> tuple[torch.Tensor, Targets]:
    """Batch as the module wants it: images [B, 3, H, W] float32 in the units of its specification, and targets."""
    spec = module.spec
    pixels = torch.from_numpy(batch.images).to(device, non_blocking=True)
    images = pixels.contiguous(memory_format=torch.channels_last).float()
    if spec.color == "BGR":
        images = images.flip(1)
    if spec.scale:
        images = images / 255
    if spec.mean is not None:
        images = images - torch.tensor(spec.mean, device=device).view(3, 1, 1)
    if spec.std is not None:
        images = images / torch.tensor(spec.std, device=device).view(3, 1, 1)
    boxes = [torch.from_numpy(each) for each in batch.boxes]
    return images, Targets(boxes, [torch.from_numpy(each) for each in batch.labels])


def prepare_output(folder: Path, resume: bool, held: contextlib.ExitStack) -> Path:
    """Make the output folder, check that it can be written and holds no other training, and keep others out of it.

    Raises RuntimeError where it cannot be written or another process trains into it, ValueError where one has.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(alone_in(folder))
        for leftover in folder.glob(".*.part"):  # of a save that was killed
            leftover.unlink()
        probe = folder / ".probe.part"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise RuntimeError(f"train: output {folder} cannot be written: {error.strerror}") from error
    if not resume and newest_checkpoint(folder) is not None:
        raise ValueError(f"train: output {folder} already holds a training; set resume, or choose another folder")
    return folder


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against other trainings; leaves no file. Raises RuntimeError where another one holds it."""
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"train: output {folder} is in use by another training; choose another folder") from None
        except OSError as error:  # some network file systems lock no folders
            log.debug("%s is not locked: %s", folder, error)
        yield
    finally:
        os.close(place)


@contextlib.contextmanager
def reproducible(config: TrainConfig) -> Iterator[None]:
    """Seed torch and make its algorithms deterministic for a while; everything is put back afterwards."""
    strictness: Any = _deterministic  # its switch is a property of the module, unknown to annotations
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = strictness.fill_uninitialized_memory
    generator = torch.get_rng_state()
    try:
        torch.use_deterministic_algorithms(True)
        strictness.fill_uninitialized_memory = False
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        yield
    finally:
        torch.set_rng_state(generator)
        torch.set_num_threads(threads)
        strictness.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(strict)


def _open(config: TrainConfig, split: str, annotations: str | None, polygons: bool) -> Dataset:
    data = Path(config.data)
    if annotations is None:
        return open_dataset(data, split, allow_outside=config.allow_outside, polygons=polygons)
    images = data / config.images
    return read_coco(data / annotations, images, allow_outside=config.allow_outside, polygons=polygons)


def _without(dataset: Dataset, exclude: tuple[str, ...]) -> Dataset:
    if not exclude:
        return dataset
    unknown = set(exclude) - {picture.path.name for picture in dataset.pictures}
    if unknown:
        raise ValueError(f"train: exclude names pictures that {dataset.path} does not have: {sorted(unknown)}")
    keep = np.array([picture.path.name not in exclude for picture in dataset.pictures])
    return dataclasses.replace(dataset, pictures=dataset.pictures.where(keep))


def _resume(
    folder: Path, config: TrainConfig, module: DetectionModel, ema: Ema, optimizer: torch.optim.Optimizer
) -> Position:
    if not config.resume:
        return Position(0, 0, -1.0, 0, config.to_json())
    path = newest_checkpoint(folder)
    if path is None:
        raise ValueError(f"train: nothing to resume in {folder}")
    position = load_state(path, module, ema, optimizer)
    now = config.to_json()
    changed = [k for k, v in now.items() if k not in MAY_CHANGE_ON_RESUME and position.config.get(k) != v]
    if changed:
        raise ValueError(f"train: cannot resume {path} with other settings: {', '.join(changed)}")
    log.info("resumed %s after epoch %d", path, position.epoch)
    return position


def save_weights(path: Path, module: DetectionModel, config: TrainConfig, epoch: int, metrics: Metrics) -> None:
    """Averaged weights in float16, half the size for the same AP, with what one needs to use and to judge them."""
    models.checkpoint.save_fastdet(
        path,
        module,
        names=module.names,
        dtype="float16",
        metadata={"epoch": str(epoch), "val_ap": f"{metrics.ap:.4f}", "val_ap50": f"{metrics.ap50:.4f}"},
    )
