# SPDX-License-Identifier: Apache-2.0
"""Models in files: what is saved comes back, and files that are wrong are refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastdet import models
from fastdet.formats import FileFormatError, read_safetensors, safetensors_bytes
from fastdet.models import checkpoint
from fastdet.models.unfilled import unfilled
from fastdet.testing import shared_dir

NAME = "damo-yolo-ns"
NAMES = ["red cell", "weiße Zelle", "platelet"]


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    model = models.build(NAME, 3)
    for block in model.modules():
        if isinstance(block, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(block.running_var, 0.5, 1e6)  # beyond the range of float16
    model.spec = dataclasses.replace(model.spec, input_size=(320, 416), score_threshold=0.1)
    return model


def _entries(path):
    tensors, metadata = read_safetensors(path)
    return tensors, json.loads(metadata["fastdet"])


def _rewrite(path, change, tensors=None):
    old, content = _entries(path)
    change(content)
    path.write_bytes(safetensors_bytes(tensors or old, {"fastdet": json.dumps(content)}))


@pytest.mark.parametrize("fused", [False, True], ids=["training", "deployed"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_saved_model_comes_back(tmp_path, module, dtype, fused):
    path = tmp_path / "new folder" / "x.safetensors"
    original = checkpoint._with_fresh_head(module, 3)
    original.load_state_dict(module.state_dict())
    if fused:
        original.fuse()
    assert models.save_fastdet(path, original, names=NAMES, dtype=dtype, metadata={"seed": "7"}) == path
    random_state = torch.get_rng_state()
    back = models.load(path)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert back.spec == module.spec and back.names == NAMES and back.num_classes == 3
    assert back.metadata == {"seed": "7"} and back.fused is fused
    want = original.state_dict()
    assert list(back.state_dict()) == list(want)
    for key, value in back.state_dict().items():
        if dtype == "float16" and value.ndim >= 2:
            assert torch.equal(value, want[key].half().float()), key
        else:
            assert torch.equal(value, want[key]), key


def test_the_same_model_gives_the_same_bytes(tmp_path, module):
    first = models.save_fastdet(tmp_path / "a.safetensors", module, metadata={"a": "1", "b": "2"}).read_bytes()
    script = (
        "import sys, torch; from fastdet import models; m = models.load(sys.argv[1]);"
        "models.save_fastdet(sys.argv[2], m, dtype='float16', metadata=dict(reversed(m.metadata.items())))"
    )
    again = tmp_path / "b.safetensors"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", script, tmp_path / "a.safetensors", again], check=True, env=environment)
    assert again.read_bytes() == first


def test_another_class_count_keeps_all_but_the_head(tmp_path, module):
    path = models.save_fastdet(tmp_path / "x.safetensors", module, dtype="float32")
    back = models.load(path, 7)
    assert back.num_classes == len(back.names) == 7 and back.spec == module.spec
    want = module.state_dict()
    for key, value in back.state_dict().items():
        if not key.startswith("head."):
            assert torch.equal(value, want[key]), key
    assert back.head.cls[0].weight.shape[0] == 7
    models.save_fastdet(path, models.load(path).fuse())
    with pytest.raises(FileFormatError, match="is folded for 3 classes and cannot be given 7"):
        models.load(path, 7)


def test_a_name_gives_a_fresh_model():
    assert models.load(NAME).num_classes == 80 and models.load(NAME).names[0] == "person"
    assert models.load("DAMO_YOLO_NS", 2).num_classes == 2
    with pytest.raises(ValueError, match="name must be one of"):
        models.load("no-such-model")


def test_what_cannot_be_saved_is_refused(tmp_path, module):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"names must be 3 texts, got \['a'\]"):
        models.save_fastdet(path, module, names=["a"])
    with pytest.raises(ValueError, match="dtype must be 'float16' or 'float32', got 'int8'"):
        models.save_fastdet(path, module, dtype="int8")
    broken = checkpoint._with_fresh_head(module, 3)
    with torch.no_grad():
        broken.head.cls[0].weight[0, 0, 0, 0] = 1e5
    models.save_fastdet(path, broken, dtype="float32")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"head\.cls\.0\.weight must be finite in torch\.float16"):
        models.save_fastdet(path, broken, dtype="float16")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.safetensors"]


WRONG = {
    "no format": lambda c: c.pop("format"),
    "newer format": lambda c: c.update(format=99),
    "unknown model": lambda c: c.update(model="yolo-zero"),
    "model of a number": lambda c: c.update(model=3),
    "other model": lambda c: c.update(model="damo-yolo-nm"),
    "names of numbers": lambda c: c.update(names=[1, 2, 3]),
    "names too few": lambda c: c.update(names=["a"]),
    "names too many": lambda c: c.update(names=["a"] * 100_000),
    "names no list": lambda c: c.update(names="abc"),
    "spec no dict": lambda c: c.update(spec=[]),
    "unknown field": lambda c: c["spec"].update(name="x"),
    "size of texts": lambda c: c["spec"].update(input_size=["a", "b"]),
    "size of zero": lambda c: c["spec"].update(input_size=[0, 32]),
    "huge size": lambda c: c["spec"].update(input_size=[1 << 40, 32]),
    "mean of text": lambda c: c["spec"].update(mean="abc"),
    "colour": lambda c: c["spec"].update(color="CMYK"),
    "threshold": lambda c: c["spec"].update(iou_threshold=2),
    "switch of a number": lambda c: c["spec"].update(scale=1),
    "negative max_det": lambda c: c["spec"].update(max_det=-1),
    "deployed, with the weights of training": lambda c: c.update(graph="deployed"),
    "record no dict": lambda c: c.update(training=3),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_specifications_are_refused(tmp_path, module, kind):
    path = models.save_fastdet(tmp_path / "x.safetensors", module)
    _rewrite(path, WRONG[kind])
    with pytest.raises(FileFormatError, match=r"x\.safetensors: "):
        models.load(path)


def test_foreign_and_broken_fastdet_files_are_refused(tmp_path, module):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes({"a": np.zeros(3, np.float32)}))
    with pytest.raises(FileFormatError, match="without fastdet's specification"):
        models.load(path)
    for text in ("not json", "[]", "3", "null"):
        path.write_bytes(safetensors_bytes({}, {"fastdet": text}))
        with pytest.raises(FileFormatError, match="specification or weights that cannot be used"):
            models.load(path)
    models.save_fastdet(path, module)
    text = read_safetensors(path)[1]["fastdet"]
    for bad in (text.replace("0.1", "NaN"), text.replace("0.1", "1e999"), '{"format":1,' + text[1:], "[" * 100_000):
        path.write_bytes(safetensors_bytes(_entries(models.save_fastdet(path, module))[0], {"fastdet": bad}))
        with pytest.raises(FileFormatError, match="specification or weights that cannot be used"):
            models.load(path)
    models.save_fastdet(path, module)
    tensors, _ = _entries(path)
    tensors["head.cls.0.wait"] = tensors.pop("head.cls.0.weight")
    _rewrite(path, lambda c: None, tensors)
    with pytest.raises(FileFormatError, match=r"head\.cls\.0\.weight \(nearest: head\.cls\.0\.wait"):
        models.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match="download it again"):
        models.load(path)


def test_every_model_is_recognised_by_its_official_layout():
    for family in models.FAMILIES.values():
        for name in family.SPECS:
            with unfilled():
                state = models.to_official(models.build(name, 80))
            found = models.recognise(state)
            assert found is not None and found[0].name == name and found[1] == 80


@pytest.mark.parametrize("name", ["damo-yolo-t", "damo-yolo-ns"])
@pytest.mark.parametrize("wrap", [lambda s: {"model": s}, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_official_layouts_are_recognised(tmp_path, name, wrap):
    torch.manual_seed(1)
    source = models.build(name, 5)
    torch.save(wrap({key: value.clone() for key, value in models.to_official(source).items()}), tmp_path / "any.pth")
    back = models.load(tmp_path / "any.pth")
    assert back.spec.name == name and back.num_classes == 5
    for key, value in back.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key


def test_official_files_that_do_not_fit_are_explained(tmp_path):
    path = tmp_path / "x.pth"
    state = {key: value.clone() for key, value in models.to_official(models.build(NAME, 5)).items()}
    del state["neck.merge_3.conv1.bn.bias"]
    torch.save({"model": state}, path)
    with pytest.raises(
        FileFormatError, match=r"looks like damo-yolo-ns, but: .*\n  1 missing:\n +neck.merge_3.conv1.bn.bias"
    ):
        models.load(path)
    torch.save({"model": {"fc.weight": torch.zeros(3, 3)}}, path)
    with pytest.raises(FileFormatError, match=r"model that fastdet does not know \(first keys: 'fc\.weight'\)"):
        models.load(path)
    torch.save({"model": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(FileFormatError, match=r"does not know \(a torch\.nn\.modules\.linear\.Linear\); it knows damo"):
        models.load(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(FileFormatError, match="holds no weights at ema, model, state_dict or the top"):
        models.load(path)
    with pytest.raises(FileFormatError, match="cannot be opened"):
        models.load(tmp_path / "none.pth")


def test_the_shared_official_file():
    shared = shared_dir()
    path = shared and shared / "weights" / "damoyolo_tinynasL20_T-bccd.pth"
    if not path or not path.is_file():
        pytest.skip("no shared weights (set FASTDET_SHARED)")
    module = models.load(path)
    assert module.spec.name == "damo-yolo-t" and module.num_classes == 3
    want = torch.load(path, weights_only=True)["model"]
    for key, value in models.to_official(module).items():
        assert torch.equal(value, want[key]), key


def test_formats_need_no_torch():
    script = (
        "import sys; sys.modules['torch'] = None; import fastdet.formats as f;"
        "import numpy; f.safetensors_bytes({'a': numpy.zeros(3)}); print('read_torch' in dir(f))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert run.stdout == "True\n", run.stderr
