# SPDX-License-Identifier: Apache-2.0
"""Official checkpoints, whole: recognised by their content, in every form, with names and licence; or refused."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
import torch
from foreign_files import Writer

import fastdet
from fastdet import models
from fastdet.formats import FileFormatError, safetensors_bytes
from fastdet.models import licences
from fastdet.models.unfilled import unfilled
from fuzz import seeds

ULTRALYTICS = "ultralytics.nn.tasks.DetectionModel"
# The first of each family, and each task of one: what the key maps and heads have to tell apart.
SMALL = [next(iter(family.SPECS)) for family in models.FAMILIES.values()]
TWO_GRAPHS = ["yolov7-tiny", "gelan-t", "yolov10n", "yolo26n"]
TASKS = [spec.name for spec in models.FAMILIES["yolo11"].SPECS.values() if spec.name.startswith("yolo11n")]


@pytest.fixture(autouse=True)
def _every_note_is_new(monkeypatch):
    monkeypatch.setattr(licences, "_said", set())


def _state(name: str, num_classes: int, dtype: str = "float16", seed: int = 0) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    module = models.build(name, num_classes)
    for block in module.modules():
        if isinstance(block, torch.nn.BatchNorm2d):
            block.running_mean.uniform_(-0.1, 0.1)
    state = {key: value.detach().numpy() for key, value in models.to_official(module).items()}
    return {key: value.astype(dtype) if value.dtype == np.float32 else value for key, value in state.items()}


def _written(path, name, *, num_classes=3, root=ULTRALYTICS, place="model", old=False, more=None, seed=0, **attributes):
    """A checkpoint of a pickled tree, half precision, as the Ultralytics projects write; and its state."""
    state = _state(name, num_classes, seed=seed)
    writer = Writer(models.build(name, num_classes))
    tree = writer.tree(state, root, names=[f"kind {i}" for i in range(num_classes)], **attributes)
    writer.write(path, {"epoch": -1, place: tree, **(more or {})}, old=old)
    return state


@pytest.mark.filterwarnings("ignore::fastdet.models.licences.LicenseWarning")
@pytest.mark.parametrize("name", ["yolov5n", "yolo11n", "yolov7-tiny", "rtdetrv2-s", "damo-yolo-ns"])
def test_official_keys_in_safetensors_need_no_specification(tmp_path, name):
    state = _state(name, 3, "float16")
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(state, {"format": "pt"}))
    module = models.load(tmp_path / "x.safetensors")
    assert module.spec.name == name and module.num_classes == 3
    for key, value in models.to_official(module).items():
        np.testing.assert_array_equal(value.numpy().astype(state[key].dtype), state[key], err_msg=key)


@pytest.mark.filterwarnings("ignore::fastdet.models.licences.LicenseWarning")
@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", ["yolov5n", "yolov5nu", "yolov8n", *TASKS, *TWO_GRAPHS])
def test_a_pickled_tree_is_read_as_its_state(tmp_path, name, old):
    state = _written(tmp_path / "best.pt", name, old=old, more={"train_args": {"imgsz": 416}})
    module = models.load(tmp_path / "best.pt")
    assert module.spec.name == name and module.names == ["kind 0", "kind 1", "kind 2"]
    assert module.spec.input_size == (416, 416)
    back = models.to_official(module)
    assert list(back) == list(state)
    for key, value in state.items():
        want = value.astype(np.float32) if value.dtype == np.float16 else value
        np.testing.assert_array_equal(back[key].numpy(), want, err_msg=key)
    saved = models.save_fastdet(tmp_path / "ours.safetensors", module, dtype="float32")
    again = models.load(saved)
    assert again.spec == module.spec and again.names == module.names
    assert again.metadata["license"] == module.metadata["license"]
    assert (
        models.save_fastdet(tmp_path / "twice.safetensors", again, dtype="float32").read_bytes() == saved.read_bytes()
    )


@pytest.mark.parametrize("name", [*SMALL, "damo-yolo-l", "yolov8x"])
def test_recognition_is_quick_and_strict(name):
    with unfilled():
        state = models.to_official(models.build(name, 4))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        found = models.recognise(state)
        seconds.append(time.process_time() - start)
        assert found is not None and found[0].name == name and found[1] == 4
    assert min(seconds) < 0.5
    changed = dict(state)
    changed["one.more"] = next(iter(state.values()))
    found = models.recognise(changed)
    assert found is not None and found[0].name == name  # loading it says what is wrong
    with pytest.raises(ValueError, match=r"1 unused:\n +one\.more"), unfilled():
        models.load_official(models.build(*found), changed)


@pytest.mark.filterwarnings("ignore::fastdet.models.licences.LicenseWarning")
def test_the_average_is_preferred(tmp_path):
    first, second = _state("yolov5n", 3, seed=1), _state("yolov5n", 3, seed=2)
    writer = Writer(models.build("yolov5n", 3))
    root = "models.yolo.DetectionModel"
    entries = {"model": writer.tree(first, root), "ema": writer.tree(second, root), "updates": 7}
    back = models.to_official(models.load(writer.write(tmp_path / "last.pt", entries)))
    key = "model.0.conv.weight"
    np.testing.assert_array_equal(back[key].numpy(), second[key].astype(np.float32))


@pytest.mark.filterwarnings("ignore::fastdet.models.licences.LicenseWarning")
def test_attributes_decide_where_keys_do_not(tmp_path):
    path = tmp_path / "x.pt"
    state = _state("yolov8n", 2)
    module = models.build("yolov8n", 2)

    class Changed(Writer):
        def _attributes(self, path):
            found = super()._attributes(path)
            if path.endswith("bn"):
                found["eps"] = 1e-5
            if path == "model.9.cv1":
                found["act"] = "torch.nn.modules.linear.Identity"
            return found

    writer = Changed(module)
    writer.write(path, {"model": writer.tree(state, ULTRALYTICS, names={1: "b", 0: "a"}, stride=[8.0])})
    loaded = models.load(path)
    assert loaded.names == ["a", "b"]
    assert len(loaded.spec.epsilons) == 57 and loaded.spec.activations == (("model.9.cv1.act", "Identity"),)
    assert type(loaded.model[9].cv1.act) is torch.nn.Identity
    assert {block.eps for block in loaded.modules() if isinstance(block, torch.nn.BatchNorm2d)} == {1e-5}
    back = models.load(models.save_fastdet(tmp_path / "y.safetensors", loaded))
    assert back.spec == loaded.spec and type(back.model[9].cv1.act) is torch.nn.Identity


class _Strided(Writer):
    def _attributes(self, path):
        found = super()._attributes(path)
        if path == "model.1.conv":
            found["stride"] = (1, 1)
        return found


class _Shortcut(Writer):
    def _attributes(self, path):
        found = super()._attributes(path)
        if path == "model.2.m.0":
            found["add"] = False
        return found


@pytest.mark.parametrize(
    "writer, message",
    [
        (_Strided, r"model\.1\.conv has stride \(1, 1\), the model \(2, 2\)"),
        (_Shortcut, r"model\.2\.m\.0 .* lacks the shortcut"),
    ],
)
def test_attributes_that_contradict_are_refused(tmp_path, writer, message):
    writer = writer(models.build("yolov8n", 2))
    path = writer.write(tmp_path / "x.pt", {"model": writer.tree(_state("yolov8n", 2), ULTRALYTICS)})
    with pytest.raises(FileFormatError, match=message):
        models.load(path)


def test_contradictions_are_refused(tmp_path):
    state = _state("yolov8n", 2)
    writer = Writer(models.build("yolov8n", 2))
    stride = writer.tensor(np.array([4, 8, 16], np.float32))
    path = writer.write(tmp_path / "x.pt", {"model": writer.tree(state, ULTRALYTICS, stride=stride)})
    with pytest.raises(FileFormatError, match=r"its strides are \(4, 8, 16\), those of yolov8n are \(8, 16, 32\)"):
        models.load(path)
    writer = Writer(models.build("yolov8n", 2))
    path = writer.write(tmp_path / "x.pt", {"model": writer.tree(state, ULTRALYTICS, names=["a", "b", "c"])})
    with pytest.raises(FileFormatError, match="has 3 class names for the 2 classes of yolov8n"):
        models.load(path)


def test_foreign_architectures_are_named(tmp_path):
    rs = np.random.RandomState(0)
    state = {
        f"model.{i}.{key}": rs.rand(4, 4).astype(np.float16) for i in range(3) for key in ("qkv.weight", "pe.weight")
    }
    kinds = iter(["ultralytics.nn.modules.block.A2C2f", "ultralytics.nn.modules.block.AAttn"] * 20)
    writer = Writer(kind=lambda path: "torch.nn.modules.container.Sequential" if path == "model" else next(kinds))
    path = writer.write(tmp_path / "x.pt", {"model": writer.tree(state, ULTRALYTICS)})
    with pytest.raises(
        FileFormatError, match=r"does not know \(a ultralytics\.nn\.tasks\.DetectionModel of A2C2f, AAttn, "
    ):
        models.load(path)
    nested = seeds.module("a.B", {}, {"x": seeds.value(3)})
    with pytest.raises(FileFormatError, match="x is no module"):
        models.load(Writer().write(path, {"model": nested}))


@pytest.mark.parametrize(
    "root, more, text",
    [
        (ULTRALYTICS, {}, "AGPL-3.0 .licence of Ultralytics"),
        ("models.yolo.DetectionModel", {}, "GPL-3.0"),
        (ULTRALYTICS, {"license": "AGPL-3.0 License (https://ultralytics.com/license)"}, "stated in the file"),
    ],
)
def test_the_licence_is_said_once(tmp_path, root, more, text):
    _written(tmp_path / "x.pt", "yolov5n", root=root, more=more)
    with pytest.warns(licences.LicenseWarning, match=text):
        module = models.load(tmp_path / "x.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.load(tmp_path / "x.pt")
    ours = models.save_fastdet(tmp_path / "x.safetensors", module)
    licences._said.clear()
    with pytest.warns(licences.LicenseWarning, match=text):
        models.load(ours)


def test_a_permissive_file_is_loaded_without_a_word(tmp_path):
    state = {key: value.clone() for key, value in models.to_official(models.build("damo-yolo-ns", 2)).items()}
    torch.save({"model": state}, tmp_path / "x.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "license" not in models.load(tmp_path / "x.pth").metadata


@pytest.mark.filterwarnings("ignore::fastdet.models.licences.LicenseWarning")
def test_the_detector_loads_any_file_by_its_content(tmp_path):
    _written(tmp_path / "weights.bin", "yolov8n", num_classes=2)
    detector = fastdet.load(tmp_path / "weights.bin")
    assert detector.spec.name == "yolov8n" and detector.names == ("kind 0", "kind 1")
    with pytest.raises(FileFormatError, match=r"is a folder; give the file inside, such as a\.pt"):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a.pt").touch()
        fastdet.load(tmp_path / "folder")
