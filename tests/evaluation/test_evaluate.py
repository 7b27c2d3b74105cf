# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest

from fastdet.data.coco import read_coco
from fastdet.evaluation import Evaluator, Prediction, evaluate

pytest.importorskip("pycocotools")


@pytest.fixture
def crowded(tmp_path):
    """12 pictures, 3 classes with gaps in their ids, all sizes, some crowds; ids are not contiguous."""
    rng = np.random.default_rng(3)
    images = [{"id": 10 * k, "file_name": f"{k}.jpg", "height": 400, "width": 500} for k in range(1, 13)]
    annotations = []
    for image in images:
        for _ in range(int(rng.integers(0, 9))):
            w, h = np.exp(rng.uniform(np.log(8), np.log(200), 2))
            box = [float(rng.uniform(0, 500 - w)), float(rng.uniform(0, 400 - h)), float(w), float(h)]
            crowd = int(rng.random() < 0.1)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image["id"], "category_id": int(rng.choice([2, 5, 11])),
                 "bbox": box, "area": box[2] * box[3] * 0.8, "iscrowd": crowd}
            )  # fmt: skip
    categories = [{"id": k, "name": f"class {k}"} for k in (2, 5, 11)]
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return read_coco(path, tmp_path)


def noisy(data, seed):
    """Detections near the truth, with wrong classes, doubles and strays among them."""
    rng = np.random.default_rng(seed)
    result = {}
    for picture in data.pictures:
        boxes = np.repeat(picture.boxes, 2, axis=0)
        boxes = boxes + rng.normal(0, 4, boxes.shape)
        labels = np.where(rng.random(len(boxes)) < 0.8, np.repeat(picture.labels, 2), rng.integers(0, 3, len(boxes)))
        stray = np.sort(rng.uniform(0, 400, (3, 2, 2)), axis=1).reshape(3, 4)
        boxes, labels = np.concatenate([boxes, stray]), np.concatenate([labels, [0, 1, 2]])
        result[picture.id] = Prediction(boxes.astype(np.float32), rng.random(len(boxes)), labels)
    return result


def test_equals_pycocotools_from_files(crowded, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = noisy(crowded, 0)
    got = evaluate(found, crowded)
    rows = [
        {"image_id": identity, "category_id": crowded.category_ids[label], "score": float(score),
         "bbox": [float(b[0]), float(b[1]), float(b[2]) - float(b[0]), float(b[3]) - float(b[1])]}
        for identity, each in found.items()
        for b, score, label in zip(each.boxes, each.scores, each.labels)
    ]  # fmt: skip
    (tmp_path / "found.json").write_text(json.dumps(rows))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(crowded.path))
        run = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    numbers = [got.ap, got.ap50, got.ap75, got.ap_small, got.ap_medium, got.ap_large]
    numbers += [got.ar_1, got.ar_10, got.ar_100, got.ar_small, got.ar_medium, got.ar_large]
    np.testing.assert_array_equal(numbers, run.stats)
    assert 0.05 < got.ap < 0.9
    assert np.mean(list(got.class_ap.values())) == pytest.approx(got.ap, abs=1e-12)
    assert np.mean(list(got.class_ap50.values())) == pytest.approx(got.ap50, abs=1e-12)


def test_the_truth_scores_one(crowded):
    perfect = {
        p.id: Prediction(p.boxes, np.linspace(1, 0.5, len(p.boxes)), p.labels) for p in crowded.pictures
    }  # fmt: skip
    metrics = evaluate(perfect, crowded)
    assert metrics.ap == pytest.approx(1) and metrics.ar_100 == pytest.approx(1)
    assert set(metrics.class_ap) == {"class 2", "class 5", "class 11"}


def test_order_of_detections_does_not_matter(crowded):
    found = noisy(crowded, 1)
    turned = {k: Prediction(*(each[::-1] for each in v)) for k, v in reversed(found.items())}
    assert evaluate(turned, crowded) == evaluate(found, crowded)


def test_nothing_found_scores_zero(crowded):
    assert evaluate({}, crowded).ap == 0.0


def test_annotation_id_zero_counts(tmp_path):
    """pycocotools by itself takes a match with annotation id 0 for no match."""
    content = {
        "images": [{"id": 0, "file_name": "a.jpg", "height": 50, "width": 50}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}],
        "categories": [{"id": 0, "name": "x"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = read_coco(tmp_path / "a.json", tmp_path)
    found = {0: Prediction(np.array([[5, 5, 25, 25]]), np.array([0.9]), np.array([0]))}
    assert evaluate(found, data).ap == pytest.approx(1)


def test_bad_predictions(crowded):
    box = np.zeros((1, 4))
    with pytest.raises(ValueError, match="picture id 7"):
        evaluate({7: Prediction(box, np.ones(1), np.zeros(1, int))}, crowded)
    with pytest.raises(ValueError, match=r"labels must lie in 0..2, got 3"):
        evaluate({10: Prediction(box, np.ones(1), np.full(1, 3))}, crowded)
    with pytest.raises(ValueError, match=r"must be \(D, 4\)"):
        evaluate({10: Prediction(box, np.ones(2), np.zeros(2, int))}, crowded)


def test_objects_of_another_kind(crowded):
    box = np.zeros((1, 4))
    with pytest.raises(TypeError, match=r"detections\[10\] must be a Prediction or Detections, got tuple"):
        evaluate({10: (box, np.ones(1), np.zeros(1, int))}, crowded)
    with pytest.raises(TypeError, match="detections must map picture ids to predictions, got list"):
        evaluate([Prediction(box, np.ones(1), np.zeros(1, int))], crowded)
    for wrong in (None, {}, "bccd"):
        with pytest.raises(TypeError, match="ground_truth must be a GroundTruth or a data set"):
            evaluate({}, wrong)
    evaluator = Evaluator(crowded)
    for wrong in (None, {}, [evaluator.state()]):
        with pytest.raises(TypeError, match="merge: state must be what state"):
            evaluator.merge(wrong)
