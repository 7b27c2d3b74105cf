# SPDX-License-Identifier: Apache-2.0
"""From a picture to its detections: geometry, colours, order, options, errors, and a look inside."""

from __future__ import annotations

import copy
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastdet
from broken_pictures import pattern, write_broken
from fastdet import Detections, Detector, ImageError, models
from fastdet.trace import STAGES, Trace
from small_models import RedBox, coco_folder, random_module


def scene(height, width, red, green=None):
    image = np.full((height, width, 3), 60, np.uint8)
    for box, colour in ((red, (255, 0, 0)), (green, (0, 255, 0))):
        if box is not None:
            x1, y1, x2, y2 = box
            image[y1:y2, x1:x2] = colour
    return image


@pytest.fixture(scope="module")
def random_detector():
    return Detector(random_module().fuse())


@pytest.mark.parametrize("keep_ratio", [False, True])
@pytest.mark.parametrize("size", [(480, 640), (100, 70), (33, 500), (416, 416)])
def test_boxes_come_back_to_the_picture(keep_ratio, size):
    height, width = size
    red = (width // 8, height // 4, width // 2, height - 3)
    green = (width // 2 + 4, 0, width, height // 3)
    found = Detector(RedBox(keep_ratio=keep_ratio))(scene(height, width, red, green))[0]
    assert [name for *_, name in found] == ["red", "green"] and found.image_size == size
    pixel = max(height, width) / 416 if keep_ratio else np.array([width, height, width, height]) / 416
    assert (np.abs(found.boxes - np.float32([red, green])) <= 1 + 1.5 * pixel).all()


@pytest.mark.parametrize(
    "spec", [{}, {"color": "BGR"}, {"scale": True, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}]
)
def test_colours_are_rgb_as_the_model_wants_them(spec):
    module = RedBox(**spec)
    inputs = []
    Detector(module)(
        scene(60, 80, (0, 0, 80, 60)),
        on_stage=lambda stage, pictures, arrays: inputs.append(arrays["input"]) if stage == "letterbox" else None,
    )
    value = np.float32([255, 0, 0])
    if spec.get("color") == "BGR":
        value = value[::-1]
    if spec.get("scale"):
        value = (value / 255 - np.float32(spec["mean"])) / np.float32(spec["std"])
    assert module.seen == [(1, 3, 416, 416)] and inputs[0].dtype == np.float32
    assert np.allclose(inputs[0][0].transpose(1, 2, 0), value, atol=1e-5)


def test_every_kind_of_source_gives_the_same(tmp_path):
    image = scene(90, 120, (10, 20, 50, 60), (60, 10, 110, 80))
    Image.fromarray(image).save(tmp_path / "a.png")
    detector = Detector(RedBox())
    wanted = detector(image)[0]
    assert len(wanted) == 2
    sources = [
        str(tmp_path / "a.png"),
        tmp_path,
        str(tmp_path / "*.png"),
        [image],
        image[None],
        torch.from_numpy(image).permute(2, 0, 1),
        torch.from_numpy(image).permute(2, 0, 1)[None] / 255,
        Image.fromarray(image),
        np.ascontiguousarray(image[..., ::-1])[..., ::-1],
    ]
    for source in sources:
        (found,) = detector(source)
        assert np.array_equal(found.boxes, wanted.boxes) and np.array_equal(found.plot(), wanted.plot())
    assert detector(tmp_path)[0].path == tmp_path / "a.png" and detector(tmp_path)[0].image is None
    assert detector([]) == []


def test_exif_rotation_is_in_the_boxes(tmp_path):
    stored = Image.fromarray(scene(90, 120, (0, 0, 40, 30)))
    exif = stored.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    stored.save(tmp_path / "a.png", exif=exif)
    found = Detector(RedBox())(tmp_path / "a.png")[0]
    assert found.image_size == (120, 90) and np.abs(found.boxes[0] - [60, 0, 90, 40]).max() < 1


def test_results_of_a_real_network_are_well_formed(random_detector):
    images = [pattern(120, 160, 1), pattern(64, 300, 2), pattern(200, 90, 3)]
    found = random_detector(images, score_threshold=0.02, max_det=50)
    assert [type(each) for each in found] == [Detections] * 3
    for each, image in zip(found, images):
        height, width = image.shape[:2]
        assert 0 < len(each) <= 50 and each.image_size == (height, width)
        assert (np.diff(each.scores) <= 0).all() and (each.scores > 0.02).all()
        x1, y1, x2, y2 = each.boxes.T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
        assert (x2 >= x1).all() and (y2 >= y1).all()


def test_options(random_detector):
    image = pattern(120, 160, 1)
    every = random_detector(image, score_threshold=0)[0]
    assert len(every) > 20 and len(set(every.labels.tolist())) > 1
    few = random_detector(image, score_threshold=0, max_det=5)[0]
    assert np.array_equal(few.boxes, every.boxes[:5])
    middle = float(every.scores[len(every) // 2])
    assert (random_detector(image, score_threshold=middle)[0].scores > middle).all()
    assert len(random_detector(image, score_threshold=0, iou_threshold=0.1)[0]) < len(every)
    label = int(every.labels[0])
    for classes in ([label], label, ["abc"[label]], "abc"[label], [str(label)]):
        only = random_detector(image, score_threshold=0, classes=classes)[0]
        assert np.array_equal(only.boxes, every[every.labels == label].boxes) and set(only.labels) == {label}
    assert len(random_detector(image, score_threshold=0, classes=[])[0]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold"),
        ({"iou_threshold": -0.1}, "iou_threshold"),
        ({"score_threshold": float("nan")}, "score_threshold"),
        ({"max_det": 0}, "max_det"),
        ({"batch": 0}, "batch"),
        ({"classes": ["d"]}, "classes must be of this model"),
        ({"classes": [3]}, "classes must be of this model"),
    ],
)
def test_bad_options_fail_before_any_work(random_detector, options, message):
    for stream in (False, True):
        with pytest.raises(ValueError, match=message):
            random_detector("missing.jpg", stream=stream, **options)


@pytest.mark.parametrize(
    "options", [{"score_threshold": "0.5"}, {"score_threshold": None}, {"max_det": [2]}, {"batch": "4"}]
)
def test_options_of_another_kind(random_detector, options):
    with pytest.raises(TypeError, match=f"predict: {next(iter(options))} must be a (whole )?number, got "):
        random_detector("missing.jpg", **options)


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_batches_equal_single_pictures(random_detector, batch):
    images = [pattern(60 + 10 * seed, 100, seed) for seed in range(5)]
    single = random_detector(images, score_threshold=0.02)
    together = random_detector(images, score_threshold=0.02, batch=batch)
    for a, b in zip(single, together):
        assert a.image_size == b.image_size and len(a) == len(b)
        assert np.allclose(a.scores, b.scores, atol=1e-4) and np.allclose(
            np.sort(a.boxes, 0), np.sort(b.boxes, 0), atol=0.1
        )


def test_stream_works_as_it_is_read():
    module = RedBox()
    stream = Detector(module)([scene(40, 40, (0, 0, 20, 20))] * 3, stream=True)
    assert module.seen == []
    next(stream)
    assert len(module.seen) == 1 and len(list(stream)) == 2 and len(module.seen) == 3


def test_bad_pictures_among_good_ones(tmp_path):
    reasons = write_broken(tmp_path)
    for name in ("aa.png", "zz.png"):
        Image.fromarray(scene(40, 40, (5, 5, 20, 20))).save(tmp_path / name)
    detector = Detector(RedBox())
    with pytest.raises(ImageError, match=r"animated\.gif"):
        detector(tmp_path)
    for batch in (1, 3):
        errors: list[ImageError] = []
        found = detector(tmp_path, on_error=errors.append, batch=batch)
        assert [each.path.name for each in found] == ["aa.png", "zz.png"]
        assert [error.path.name for error in errors] == sorted(reasons)


def test_reference_backend_gives_the_same_boxes(random_detector):
    image = pattern(120, 160, 4)
    native = random_detector(image, score_threshold=0.02)[0]
    with fastdet.backend("reference"):
        slow = random_detector(image, score_threshold=0.02)[0]
    assert np.array_equal(native.boxes, slow.boxes) and np.array_equal(native.labels, slow.labels)


def test_threads_share_a_detector(random_detector):
    images = [pattern(60, 80, seed) for seed in range(4)]
    wanted = random_detector(images, score_threshold=0.02)
    wrong: list[int] = []

    def work() -> None:
        for _ in range(3):
            for i, (each, expected) in enumerate(zip(random_detector(images, score_threshold=0.02), wanted)):
                if not np.array_equal(each.boxes, expected.boxes):
                    wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_trace_shows_every_stage(tmp_path, random_detector):
    image = pattern(120, 160, 1)
    Image.fromarray(image).save(tmp_path / "a.png")
    trace = Trace(tmp_path / "out", random_detector.spec, random_detector.names, 0.02)
    found = random_detector([tmp_path / "a.png", image], score_threshold=0.02, batch=2, on_stage=trace)
    folders = sorted((tmp_path / "out").iterdir())
    assert [folder.name for folder in folders] == ["0001_a", "0002_array"]
    for folder, result in zip(folders, found):
        files = [f"{number}_{stage}{suffix}" for number, stage in enumerate(STAGES, 1) for suffix in (".npz", ".png")]
        assert sorted(path.name for path in folder.iterdir()) == [*files, "trace.txt"]
        assert np.array_equal(np.load(folder / "5_image.npz")["boxes"], result.boxes)
        assert np.array_equal(np.load(folder / "4_kept.npz")["scores"], result.scores)
        assert np.load(folder / "1_letterbox.npz")["input"].shape == (3, 96, 128)
        assert np.array_equal(np.asarray(Image.open(folder / "5_image.png")), result.plot())
        shown = np.asarray(Image.open(folder / "1_letterbox.png")).transpose(2, 0, 1)
        assert np.array_equal(shown, np.load(folder / "1_letterbox.npz")["input"])
        text = (folder / "trace.txt").read_text()
        for stage in STAGES:
            assert f"\n{stage} " in text
        assert "3x96x128" in text and "float32" in text and "cls_logits_s8" in text


def test_load_by_name_says_that_weights_are_random():
    with pytest.warns(UserWarning, match="random weights"):
        detector = fastdet.load("DAMO_YOLO_Ns", num_classes=2)
    assert detector.spec.name == "damo-yolo-ns" and len(detector.names) == 2 and not detector.module.training
    about = detector.info()
    assert about["model"] == "damo-yolo-ns" and about["parameters"] > 1e6 and about["dtype"] == "float32"
    assert "damo-yolo-ns" in repr(detector)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("damo-yolo-x", "did you mean damo-yolo-"),
        ("something", "there are default, damo-yolo-t"),
        ("missing.safetensors", "missing.safetensors"),
        ("missing.pth", "missing.pth"),
        ("folder/", "is a folder; give the file"),
    ],
)
def test_load_of_nothing(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises((ValueError, RuntimeError, OSError), match=message):
        fastdet.load(source)


@pytest.mark.parametrize("source", [None, 5, b"best.pt"])
def test_load_of_what_is_no_path(source):
    with pytest.raises(TypeError, match="load: source must be a path or the name of a model, got "):
        fastdet.load(source)


def test_load_of_exported_models():
    for name in ("best.onnx", "best.engine"):
        with pytest.raises(ValueError, match=f"no file '{name}', and exported models are not read"):
            fastdet.load(name)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "tpu"}, ValueError),
        ({"device": "meta"}, ValueError),
        ({"dtype": "int8"}, ValueError),
        ({"dtype": "x"}, ValueError),
        ({"num_classes": "many"}, TypeError),
    ],
)
def test_load_with_bad_options(options, error):
    with warnings.catch_warnings(), pytest.raises(error, match=next(iter(options))):
        warnings.simplefilter("ignore")
        fastdet.load("damo-yolo-ns", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_device_is_an_error():
    for device in ("cuda", "cuda:1", "0", 0):
        with pytest.raises(RuntimeError, match="no CUDA device"):
            Detector(RedBox(), device=device)


def test_files_round_trip(tmp_path, random_detector):
    module = models.build("damo-yolo-ns", 3)
    module.names = ["a", "b", "c"]
    from fastdet.models import checkpoint

    checkpoint.save_fastdet(tmp_path / "m.safetensors", module, names=module.names, dtype="float32", metadata={})
    detector = fastdet.load(tmp_path / "m.safetensors")
    assert detector.names == ("a", "b", "c") and detector.source.endswith("m.safetensors")
    image = pattern(64, 64)
    wanted = Detector(module.eval().fuse())(image, score_threshold=0)[0]
    assert np.array_equal(detector(image, score_threshold=0)[0].boxes, wanted.boxes)
    with pytest.raises(ValueError, match="num_classes must be 3"):
        fastdet.load(tmp_path / "m.safetensors", num_classes=4)


def test_training_makes_it_another_detector(tmp_path, random_detector):
    detector = Detector(copy.copy(random_detector.module))
    settings = {"epochs": 1, "calm_epochs": 1, "batch_size": 2, "input_size": (64, 64)}
    result = detector.train(coco_folder(tmp_path / "data"), output=str(tmp_path / "run"), **settings)
    assert detector.source == str(result.weights) and detector.spec.input_size == (64, 64)
    image = pattern(64, 64)
    again = fastdet.load(result.weights)(image, score_threshold=0)[0]
    assert np.array_equal(detector(image, score_threshold=0)[0].boxes, again.boxes)
    assert detector.val(tmp_path / "data").ap == result.metrics.ap
    with pytest.raises(TypeError, match="epoch"):
        detector.train(tmp_path / "data", epoch=3)


def test_half_precision(random_detector):
    image = pattern(96, 128, 1)
    full = random_detector(image, score_threshold=0.02)[0]
    half = Detector(copy.deepcopy(random_detector.module), dtype="bfloat16")(image, score_threshold=0.02)[0]
    assert half.boxes.dtype == np.float32 and len(half) and abs(float(half.scores[0]) - float(full.scores[0])) < 0.2


def test_boxes_in_the_border_of_the_letterbox_are_kept_empty(tmp_path):
    class Below(RedBox):
        def decode(self, raw):
            boxes, scores = super().decode(raw)
            boxes[:, 1] = torch.tensor([10.0, 1.0, 90.0, 30.0])  # above the picture, which fills the middle
            scores[:, 1, 1] = 0.5
            return boxes, scores

    image = scene(40, 160, (20, 10, 60, 30))
    (found,) = Detector(Below(keep_ratio=True))(image)
    assert found.counts() == {"red": 1, "green": 1} and found.boxes[1, 1] == found.boxes[1, 3] == 0
    assert found.to_coco()[1]["bbox"][3] == 0 and found.to_dict()["detections"][1]["name"] == "green"
    assert np.array_equal(found.plot(), found[:1].plot()) and not np.array_equal(found.plot(), image)
    assert found.save(tmp_path / "a.png").exists()
