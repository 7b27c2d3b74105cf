# SPDX-License-Identifier: Apache-2.0
"""``load`` a detector, call it on pictures, get ``Detections``."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdet import ops
from fastdet.detections import Detections
from fastdet.ops._attributes import real, whole
from fastdet.sources import ImageError, Picture, expand
from fastdet.sources import load as load_picture

if TYPE_CHECKING:
    import torch

    from fastdet.models.detection_model import DetectionModel

__all__ = ["Detector", "PredictOptions", "load"]

WEIGHTS = Path(__file__).parent / "weights"
FILE_SUFFIXES = (".safetensors", ".pth", ".pt")

# Tasks whose results are no upright boxes: what such a model does.
_OTHER_TASKS = {
    "obb": "finds rotated boxes, which module.head.decode_rotated(raw) gives for the raw output",
    "classify": "classifies whole pictures, for which softmax(raw.logits) of the raw output gives the scores",
}

# What ``on_stage`` is called with: the stage, its pictures, and its arrays, each with one row per picture.
OnStage = Callable[[str, "list[Picture]", Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What decides which boxes are kept; the defaults of ``Detector.predict`` and of the command line."""

    score_threshold: float = field(default=0.25, metadata={"help": "keep scores above this"})
    iou_threshold: float | None = field(
        default=None,
        metadata={"help": "drop a box that overlaps a better one by more [0.7; YOLOv5, YOLOv7: 0.45; without NMS: 1]"},
    )
    max_det: int | None = field(default=None, metadata={"help": "most detections a picture [300; YOLOv5: 1000]"})
    classes: tuple[str, ...] | None = field(
        default=None, metadata={"help": "only these classes, names or numbers", "metavar": "CLASS"}
    )
    batch: int = field(default=1, metadata={"help": "pictures that go through the network together"})
    rect: bool = field(default=True, metadata={"help": "fill the whole input, never the smallest rectangle"})

    def __post_init__(self) -> None:
        if self.score_threshold is None:
            raise TypeError("predict: score_threshold must be a number, got None")
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= real("predict", name, value) <= 1:
                raise ValueError(f"predict: {name} must be in [0, 1], got {value}")
        for name in ("max_det", "batch"):
            value = getattr(self, name)
            if value is not None and whole("predict", name, value) < 1:
                raise ValueError(f"predict: {name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class ValOptions:
    """What is evaluated; the defaults of ``Detector.val`` and of the command line."""

    split: str = field(default="val", metadata={"help": "train, val, test, or the data set's own word"})
    images: str | None = field(
        default=None, metadata={"help": "folder of the pictures of a COCO file", "metavar": "DIR"}
    )
    allow_outside: bool = field(default=False, metadata={"help": "accept files outside the data set's folder"})
    batch: int = field(default=8, metadata={"help": "pictures that go through the network together"})


class Detector:
    """A model with its preprocessing and postprocessing. Calling it does not change it, so threads may share it.

    Attributes:
        module: the torch module, in eval mode. spec: its ``ModelSpec``. names: class names, a tuple.
        device, dtype: of the weights. source: what it was loaded from.

    Args:
        module: a module of ``fastdet.models``; it is moved and put in eval mode, in place.
        device: torch device, "cpu", "cuda", "cuda:1". dtype: torch dtype or its name; None keeps the module's.
        source: kept as the attribute.
    """

    def __init__(self, module: DetectionModel, *, device: Any = "cpu", dtype: Any = None, source: str = "") -> None:
        self.device: torch.device = _device(device)
        self.dtype: torch.dtype = _dtype(dtype) or next(module.parameters()).dtype
        self.module = module.to(device=self.device, dtype=self.dtype).eval()
        self.spec = module.spec
        self.names: tuple[str, ...] = tuple(module.names)
        self.source = str(source)
        self._cpu_network: Any = None
        if self.device.type == "cpu":
            from fastdet.models.cpu_graph import CpuNetwork

            self._cpu_network = CpuNetwork(self.module)
        self._on_device = self.device.type != "cuda" or ops.cuda_available()[0]
        if not self._on_device:
            why = ops.cuda_available()[1]
            warnings.warn(f"Detector: letterbox and suppression run on the host ({why}), which is slower", stacklevel=2)

    def __repr__(self) -> str:
        height, width = self.spec.input_size
        return f"Detector({self.spec.name}, {len(self.names)} classes, {width}x{height}, {self.device}, {self.dtype})"

    def predict(
        self,
        images: Any,
        *,
        score_threshold: float = PredictOptions.score_threshold,
        iou_threshold: float | None = PredictOptions.iou_threshold,
        max_det: int | None = PredictOptions.max_det,
        classes: Any = PredictOptions.classes,
        batch: int = PredictOptions.batch,
        rect: bool = PredictOptions.rect,
        stream: bool = False,
        on_error: Callable[[ImageError], None] | None = None,
        on_stage: OnStage | None = None,
    ) -> Any:
        """Find objects on pictures.

        Args:
            images: path, folder, glob, ``.txt`` list, NumPy array [H, W, 3] uint8 **RGB**, torch tensor [3, H, W]
                **RGB**, PIL image, or a list of them; see ``fastdet.sources.expand``.
            score_threshold: detections with a score not greater than this are left out. The published evaluation of a
                model uses its own, lower value (``spec.score_threshold``), as ``val`` does.
            iou_threshold: of two boxes of a class that overlap by more than this the better one is kept.
            max_det: most detections a picture. Both: None for what the model's reference predicts with
                (``spec.predict_iou_threshold``, ``spec.predict_max_det``): 0.7 and 300, for YOLOv5 0.45 and 1000,
                for those that need no suppression (``spec.nms_free``) none of it, and 300.
            classes: only these, a list of names or ids; None for all.
            batch: pictures that go through the network together.
            rect: as the model's reference (``spec.rect``): pictures of one size go through the network on the smallest
                rectangle of whole strides, others on the whole input. False: always the whole input.
            stream: return an iterator that works as it is read, instead of a list.
            on_error: called with the ImageError of each picture that cannot be read, which is then left out; by
                default the error is raised.
            on_stage: called with (stage, pictures, arrays) after each of "letterbox", "head", "decoded", "kept" and
                "image", for a look inside; see ``fastdet.trace.Trace``.

        Returns:
            One ``Detections`` per picture, in order, best score first, boxes in pixels of the picture and clipped to
            it. As in the references, a box of which clipping leaves nothing (in the border of the letterbox) stays.
            (Those of DAMO-YOLO and RT-DETRv2 do not clip at all.)

        Raises:
            ImageError: a picture cannot be read (without ``on_error``). ValueError, TypeError: a bad argument, or a
                model that finds no upright boxes.
        """
        if self.spec.task in _OTHER_TASKS:
            raise ValueError(
                f"predict: {self.spec.name} must be a model that finds upright boxes, got one that "
                f"{_OTHER_TASKS[self.spec.task]}; detector.module(images [B, 3, H, W]) works"
            )
        options = PredictOptions(
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_det=max_det,
            batch=batch,
            rect=rect,
        )
        chosen = self._class_ids(classes)
        results = self._stream(expand(images), options, chosen, on_error, on_stage)
        return results if stream else list(results)

    __call__ = predict

    def _stream(
        self,
        items: list[Any],
        options: PredictOptions,
        classes: list[int] | None,
        on_error: Callable[[ImageError], None] | None,
        on_stage: OnStage | None,
    ) -> Iterator[Detections]:
        waiting: list[Picture] = []
        for item in items:
            try:
                waiting.append(load_picture(item))
            except ImageError as error:
                if on_error is None:
                    raise
                on_error(error)
            if len(waiting) == options.batch:
                yield from self._detect(waiting, options, classes, on_stage)
                waiting = []
        if waiting:
            yield from self._detect(waiting, options, classes, on_stage)

    def _detect(
        self,
        pictures: list[Picture],
        options: PredictOptions,
        classes: list[int] | None = None,
        on_stage: OnStage | None = None,
    ) -> list[Detections]:
        """The pipeline: letterbox, network, decode, suppress, back to the pictures."""
        torch, spec = _torch(), self.spec
        rect = options.rect and spec.rect and len({picture.size for picture in pictures}) == 1
        images: list[Any] = [picture.image for picture in pictures]
        if self.device.type == "cuda" and self._on_device:  # bytes travel to the device, not the floats made of them
            images = [torch.tensor(np.ascontiguousarray(image)).to(self.device) for image in images]
        with torch.inference_mode(), ExitStack() as stack:
            if not self._on_device:
                stack.enter_context(ops.backend("cpu"))
            batch, mapping = ops.letterbox(
                images, spec.input_size, stride=spec.strides[-1] if rect else None, **spec.preprocessing
            )
            if on_stage is not None:
                on_stage("letterbox", pictures, {"input": batch})
            raw = stack.enter_context(self._raw(torch.as_tensor(batch), keep=on_stage is not None))
            maps = self.module.head_maps(raw) if hasattr(self.module, "head_maps") else None
            if maps is None or classes is not None or on_stage is not None:
                boxes, scores = self.module.decode(raw) if maps is None else ops.decode_boxes(*maps)
                if on_stage is not None:
                    on_stage("head", pictures, _levels(self.module, raw, spec.strides))
                    on_stage("decoded", pictures, {"boxes": boxes, "scores": scores})
                kept = self._keep(boxes, scores, options, classes)
            elif spec.nms_free and options.iou_threshold is None:  # the same bits in one step, here and below
                most = spec.predict_max_det if options.max_det is None else options.max_det
                kept = self.module.best_candidates(maps, score_threshold=options.score_threshold, max_det=most)
            else:
                kept = ops.detect(*maps, multi_label=spec.nms_free, **self._suppression(options))
            if on_stage is not None:
                on_stage("kept", pictures, kept._asdict())
        kept = ops.Kept(*(value.cpu().numpy() for value in kept))
        boxes_im = mapping.to_image(kept.boxes, ideal=spec.ideal_ratio)
        found = [self._result(picture, boxes_im[i], kept, i) for i, picture in enumerate(pictures)]
        if on_stage is not None:
            on_stage("image", pictures, {"detections": found})
        return found

    def _raw(self, batch: torch.Tensor, *, keep: bool) -> AbstractContextManager[Any]:
        """What the network returns; without ``keep`` its memory may be used again after the ``with``."""
        if self._cpu_network is not None:
            network: AbstractContextManager[Any] = self._cpu_network.run(batch, keep=keep)
            return network
        return nullcontext(self.module(batch.to(device=self.device, dtype=self.dtype)))

    def _keep(self, boxes: torch.Tensor, scores: torch.Tensor, options: PredictOptions, classes: Any) -> ops.Kept:
        """The detections among decoded boxes: the best pairs as they are, or what suppression leaves."""
        spec = self.spec
        max_det = spec.predict_max_det if options.max_det is None else options.max_det
        if spec.nms_free and options.iou_threshold is None:
            kept: ops.Kept = self.module.best_pairs(
                boxes, scores, score_threshold=options.score_threshold, max_det=max_det, classes=classes
            )
            return kept
        if classes is not None:
            scores = _only(scores, classes, spec.nms_free)
        return ops.multiclass_nms(boxes, scores, multi_label=spec.nms_free, **self._suppression(options))

    def _suppression(self, options: PredictOptions) -> dict[str, Any]:
        """What ``options`` or else the specification say of suppression."""
        spec = self.spec
        return {
            "score_threshold": options.score_threshold,
            "iou_threshold": spec.predict_iou_threshold if options.iou_threshold is None else options.iou_threshold,
            "max_det": spec.predict_max_det if options.max_det is None else options.max_det,
        }

    def _result(self, picture: Picture, boxes_im: np.ndarray, kept: Any, i: int) -> Detections:
        count = int(kept.count[i])
        return Detections(
            boxes_im[:count],
            kept.scores[i][:count],
            kept.labels[i][:count],
            self.names,
            picture.size,
            path=picture.path,
            image=None if picture.path else picture.image,
        )

    def _class_ids(self, classes: Any) -> list[int] | None:
        """Ids of ``classes`` (names, ids, or ids as text), rising. ValueError, with the nearest names, for others."""
        if classes is None:
            return None
        ids = set()
        for each in [classes] if isinstance(classes, (str, int)) else classes:
            if isinstance(each, str) and each in self.names:
                ids.add(self.names.index(each))
                continue
            try:
                label = int(each)
            except (TypeError, ValueError):
                label = -1
            if not 0 <= label < len(self.names):
                hint = _near(str(each), self.names) or f"; it has {', '.join(self.names):.200}"
                raise ValueError(f"predict: classes must be of this model, got {each!r}{hint}")
            ids.add(label)
        return sorted(ids)

    def val(
        self,
        data: str | os.PathLike[str],
        *,
        split: str = ValOptions.split,
        images: str | os.PathLike[str] | None = ValOptions.images,
        allow_outside: bool = ValOptions.allow_outside,
        batch: int = ValOptions.batch,
        output: str | os.PathLike[str] | None = None,
    ) -> Any:
        """COCO metrics on a data set, with the thresholds of the model's published evaluation (``spec``).

        Args:
            data: folder or file in any format of ``fastdet.data.open_dataset``: COCO, YOLO, VOC.
            split, images, allow_outside: as ``open_dataset`` has them; ``images`` is needed with a COCO file.
            batch: pictures that go through the network together.
            output: folder for ``metrics.json``, ``predictions.json`` (COCO results, unrounded) and plots; see
                ``fastdet.evaluation.save_report``.

        Returns:
            ``fastdet.evaluation.Metrics``, with the milliseconds a picture spent in each stage.

        Raises:
            ValueError: the data set cannot be used, or its classes are not those of this model.
        """
        from fastdet.data import open_dataset
        from fastdet.data.loader import PictureCache
        from fastdet.evaluation import Evaluator, save_report
        from fastdet.train.validate import predict

        dataset = open_dataset(data, split, images=images, names=self.names, allow_outside=allow_outside)
        if tuple(dataset.names) != self.names:
            raise ValueError(
                f"val: classes of {dataset.path} are {list(dataset.names)}, the model has {list(self.names)}"
            )
        cache = PictureCache(dataset.pictures, limit_mb=0)
        seconds: dict[str, float] = {}
        size = self.spec.input_size
        found = predict(self.module, dataset, cache, input_size=size, batch_size=batch, seconds=seconds)
        evaluator = Evaluator(dataset)
        evaluator.add(found)
        spent = {stage: 1e3 * value / max(len(dataset), 1) for stage, value in seconds.items()}
        metrics = replace(evaluator.metrics(), milliseconds=spent)
        if output is not None:
            save_report(output, evaluator, metrics)
        return metrics

    def train(self, data: str | os.PathLike[str], **settings: Any) -> Any:
        """Train this architecture from scratch on ``data``, then be the detector with the best weights.

        Args:
            data: folder or file of the data set, as ``val`` takes it.
            settings: fields of ``fastdet.train.TrainConfig``.

        Returns:
            ``fastdet.train.TrainResult``.

        Raises:
            ValueError, TypeError: a bad setting or data set.
        """
        from fastdet import models
        from fastdet.train import TrainConfig, train

        settings.setdefault("model", self.spec.name)
        settings.setdefault("device", str(self.device))
        result = train(TrainConfig(data=os.fspath(data), **settings))
        best = models.load(str(result.weights)).eval().fuse()
        vars(self).update(vars(Detector(best, device=self.device, dtype=self.dtype, source=str(result.weights))))
        return result

    def fuse(self) -> Detector:
        """Fold BatchNorm and parallel branches into single convolutions, in place; what ``load`` has done already."""
        self.module.fuse()
        return self

    def info(self) -> dict[str, Any]:
        """What this is, as plain values.

        Returns:
            model, task, source, classes, input_size (height, width), device, dtype, license; layers, parameters and
            gflops of the graph that runs, and ``trained`` with the same of the training graph; ``stages``, a list of
            {name, block, output, parameters, gflops}. See ``fastdet.models.complexity.Complexity`` for what is counted.
        """
        from fastdet import models
        from fastdet.models.complexity import complexity
        from fastdet.models.unfilled import unfilled

        spec = self.spec
        runs = complexity(self.module, spec.input_size)
        with unfilled():
            trained = complexity(models.build(spec, len(self.names)), spec.input_size)
        return {
            "model": spec.name,
            "task": spec.task,
            "source": self.source,
            "classes": list(self.names),
            "input_size": tuple(spec.input_size),
            "layers": runs.layers,
            "parameters": runs.parameters,
            "gflops": runs.gflops,
            "trained": {"layers": trained.layers, "parameters": trained.parameters, "gflops": trained.gflops},
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "license": spec.license,
            "stages": [stage._asdict() for stage in runs.stages],
        }


def load(
    source: str | os.PathLike[str] = "default",
    *,
    device: Any = "cpu",
    dtype: Any = None,
    num_classes: int | None = None,
    nms_free: bool | None = None,
) -> Detector:
    """Load a detector, ready to predict (folded, eval mode).

    Args:
        source: "default" (the detector inside the package: blood cells), a model name ("damo-yolo-s": random weights,
            with a warning), a fastdet file (``.safetensors``), or an official checkpoint (``.pt``, ``.pth``, read
            without executing anything).
        device: "cpu", "cuda", "cuda:1", or such a torch device. dtype: torch dtype or its name; None for float32.
        num_classes: C of a model with random weights, by default that of the published ones; of a file it is checked.
        nms_free: of YOLOv10 and YOLO26, which have a head for either, which one predicts; None for ``spec.nms_free``.

    Returns:
        Detector.

    Raises:
        ValueError: no such file or model (with the nearest names), or a file that is not what it claims; a device that
        is neither CPU nor CUDA. TypeError: source is no path.
        RuntimeError: torch is not installed, or sees no CUDA device.
    """
    torch = _torch()
    from fastdet import models

    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"load: source must be a path or the name of a model, got {type(source).__name__}")
    name = os.fspath(source)
    if name == "default":
        name = str(default_weights())
    if Path(name).suffix.lower() in FILE_SUFFIXES or os.path.isfile(name) or (os.path.isdir(name) and os.sep in name):
        module = models.checkpoint.load_file(name)  # says what the file is if it is none of these
        if num_classes not in (None, len(module.names)):
            raise ValueError(f"load: num_classes must be {len(module.names)} as in {name}, got {num_classes}")
    else:
        classes = None if num_classes is None else whole("load", "num_classes", num_classes)
        module = models.build(_known_model(name), classes)
        warnings.warn(
            f"load: {name} has random weights and finds nothing real; give a file (.safetensors, .pt, .pth) instead",
            stacklevel=2,
        )
    if nms_free is not None:
        module.choose_head(nms_free=nms_free)
    return Detector(module.eval().fuse(), device=device, dtype=dtype or torch.float32, source=name)


def default_weights() -> Path:
    """The weights inside the package. RuntimeError when this installation lacks them."""
    files = sorted(WEIGHTS.glob("*.safetensors"))
    if len(files) != 1:
        raise RuntimeError(f"load: there must be one weight file in {WEIGHTS}, got {len(files)}; install fastdet anew")
    return files[0]


def default_pictures() -> list[Path]:
    """The pictures inside the package, by name. RuntimeError when this installation lacks them."""
    files = sorted(path for path in WEIGHTS.glob("*") if path.suffix in (".jpg", ".png"))
    if not files:
        raise RuntimeError(f"predict: there is no picture in {WEIGHTS}; install fastdet anew")
    return files


def _known_model(name: str) -> str:
    from fastdet import models

    known = [spec.name for family in models.FAMILIES.values() for spec in family.SPECS.values()]
    try:
        return models.spec(name).name
    except ValueError:
        if os.sep in name or Path(name).exists():
            kinds = ", ".join(FILE_SUFFIXES)
            raise ValueError(f"load: {name} must be a file ending in {kinds}, or a model name") from None
        if Path(name).suffix.lower() in (".onnx", ".engine", ".xml", ".torchscript", ".tflite"):
            what = f"exported models are not read, only {', '.join(FILE_SUFFIXES)}"
            raise ValueError(f"load: there is no file {name!r}, and {what}") from None
        hint = _near(name, known) or f"; there are default, {', '.join(known)}"
        raise ValueError(f"load: there is no model or file {name!r}{hint}") from None


def _near(word: str, known: Any) -> str:
    lower = {each.lower(): each for each in known}
    near = [lower[match] for match in difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.5)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _levels(module: Any, raw: Any, strides: Any) -> dict[str, Any]:
    """The raw head as flat names: ``cls_logits_s8`` and so on; what is there once for all levels keeps its name."""
    maps = module.named_maps(raw) if hasattr(module, "named_maps") else raw._asdict()
    arrays: dict[str, Any] = {}
    for name, levels in maps.items():
        if isinstance(levels, (tuple, list)) and len(levels) == len(strides):
            arrays |= {f"{name}_s{stride}": level for stride, level in zip(strides, levels)}
        elif len(levels):
            arrays[name] = levels[0] if isinstance(levels, (tuple, list)) else levels
    return arrays


def _only(scores: torch.Tensor, classes: list[int], multi_label: bool) -> torch.Tensor:
    """``scores`` [B, N, C] with 0 for what is no candidate: other classes, or boxes whose best class is another one."""
    wanted = scores.new_zeros(scores.shape[-1])
    wanted[classes] = 1
    return scores * (wanted if multi_label else wanted[scores.argmax(-1)][..., None])


def _device(device: Any) -> torch.device:
    torch = _torch()
    if str(device).isdigit():
        device = f"cuda:{device}"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"load: device must be one of torch's, as cpu, cuda or cuda:1, got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"load: device must be cpu or cuda, got {str(chosen)!r}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"load: device {chosen} was asked for, but torch sees no CUDA device")
    return chosen


def _dtype(dtype: Any) -> torch.dtype | None:
    torch = _torch()
    if dtype is None:
        return None
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if chosen not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"load: dtype must be float32, float16 or bfloat16, got {dtype!r}")
    return chosen


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise RuntimeError("the detectors need torch; pip install 'fastdet[torch,images]'") from error
    return torch
