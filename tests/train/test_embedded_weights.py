# SPDX-License-Identifier: Apache-2.0
"""The weights inside the package keep what their model card promises."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastdet
from fastdet import testing
from fastdet.data.coco import read_coco
from fastdet.data.loader import PictureCache
from fastdet.evaluation import evaluate, write_coco_results
from fastdet.models import load_file
from fastdet.train import load_config
from fastdet.train.validate import predict

FOLDER = Path(fastdet.__file__).parent / "weights"
WEIGHTS = FOLDER / "damo-yolo-ns-bccd.safetensors"
CARD = (FOLDER / "damo-yolo-ns-bccd.md").read_text()


def card_rows(split: str) -> dict[str, tuple[float, float]]:
    """Class -> (AP50-95, AP50) of one split in the card."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in CARD.splitlines() if line.startswith("|")]
    start = next(number for number, row in enumerate(rows) if row[0].startswith(split))
    return {row[1]: (float(row[2]), float(row[3])) for row in rows[start : start + 4]}


def test_file_is_the_one_on_the_card():
    data = WEIGHTS.read_bytes()
    assert len(data) < 6e6 and f"{len(data):,}".replace(",", " ") in CARD
    assert hashlib.sha256(data).hexdigest() in CARD


def test_settings_fit_the_weights():
    config = load_config(FOLDER / "damo-yolo-ns-bccd.json")
    module = load_file(WEIGHTS)
    assert module.spec.name == config.model and module.spec.input_size == config.input_size == (320, 416)
    assert module.names == ["RBC", "WBC", "Platelets"] and not module.spec.keep_ratio
    assert f"{sum(p.numel() for p in module.parameters()):,}".replace(",", " ") in CARD


def test_card_reaches_the_mark():
    ap, ap50 = card_rows("test")["all"]
    assert ap >= 0.55 and ap50 >= 0.87


def test_white_cells_of_the_embedded_pictures_are_found():
    """One white cell in each of the three; where it lies was read off the picture."""
    centres = {
        "BloodImage_00296.jpg": (300, 120),
        "BloodImage_00365.jpg": (75, 183),
        "BloodImage_00385.jpg": (325, 390),
    }
    detector = fastdet.load(str(WEIGHTS))
    for name, (x, y) in centres.items():
        found = detector(np.asarray(Image.open(FOLDER / name)), score_threshold=0.5)[0]
        white = np.asarray(found.boxes)[np.asarray(found.labels) == 1]
        assert len(white) == 1
        x1, y1, x2, y2 = white[0]
        assert abs((x1 + x2) / 2 - x) < 40 and abs((y1 + y2) / 2 - y) < 40
        assert (np.asarray(found.labels) == 0).sum() >= 10


@pytest.fixture(scope="module")
def on_bccd():
    """BCCD's test split and what the embedded weights find on it, picture by picture."""
    shared = testing.shared_dir()
    if shared is None or not (shared / "data/bccd").is_dir():
        pytest.skip("the BCCD pictures are not at hand (set FASTDET_SHARED)")
    root = shared / "data/bccd"
    dataset = read_coco(root / "annotations/instances_test.json", root / "images")
    return dataset, predict(load_file(WEIGHTS).eval().fuse(), dataset, PictureCache(dataset.pictures))


@pytest.mark.slow
def test_results_are_those_on_the_card(on_bccd):
    dataset, found = on_bccd
    metrics = evaluate(found, dataset)
    promised = card_rows("test")
    assert (metrics.ap, metrics.ap50) == pytest.approx(promised["all"], abs=1e-3)
    for name, ap in metrics.class_ap.items():
        assert (ap, metrics.class_ap50[name]) == pytest.approx(promised[name], abs=2e-3)


@pytest.mark.slow
def test_metrics_are_those_of_pycocotools(on_bccd, tmp_path):
    """All arrays and the twelve numbers bit by bit, by way of the annotations and a file of results."""
    COCO = pytest.importorskip("pycocotools.coco").COCO
    COCOeval = pytest.importorskip("pycocotools.cocoeval").COCOeval
    dataset, found = on_bccd
    write_coco_results(tmp_path / "found.json", found, dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.path))
        run = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    metrics = evaluate(found, dataset)
    for name in ("precision", "recall", "scores"):
        ours = getattr(metrics, name)
        assert ours.shape == run.eval[name].shape and ours.tobytes() == run.eval[name].tobytes(), name
    twelve = "ap ap50 ap75 ap_small ap_medium ap_large ar_1 ar_10 ar_100 ar_small ar_medium ar_large"
    assert [getattr(metrics, name) for name in twelve.split()] == run.stats.tolist()
    assert len(dataset.pictures) == 72 and sum(len(each.scores) for each in found.values()) > 1000
