# SPDX-License-Identifier: Apache-2.0
"""Curves, confusion and the split of errors, on a picture whose every detection is known, and against slow forms."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from coco_cases import pycocotools_run, random_case

from fastdet.evaluation import Evaluator, GroundTruth, Prediction, evaluate, read_coco_results, save_report
from fastdet.evaluation.errors import error_split

# Ground truths: boxes x, y, side, side; classes 0 and 1; the last is a crowd.
TRUTHS = [(0, 0, 20, 0), (50, 0, 20, 0), (100, 0, 20, 1), (150, 0, 20, 1), (0, 100, 20, 0), (200, 200, 90, 0)]
# Detections: x, y, side, class, score, kind.
FOUND = [
    (0, 0, 20, 0, 0.9, "right"),
    (1, 0, 20, 0, 0.8, "duplicate"),
    (58, 0, 20, 0, 0.7, "localization"),  # IoU 12 / 28
    (100, 0, 20, 0, 0.6, "class"),
    (158, 0, 20, 0, 0.5, "both"),
    (300, 50, 20, 1, 0.4, "background"),
    (210, 210, 20, 0, 0.3, "crowd"),
    (0, 60, 20, 0, 0.2, "background"),
]


@pytest.fixture
def known():
    """An Evaluator that holds FOUND against TRUTHS; (0, 100) and (150, 0) are missed."""
    table = np.array(TRUTHS, float)
    truth = GroundTruth(
        [7], ("a", "b"), (1, 2), np.zeros(6, int), table[:, 3].astype(int), table[:, [0, 1, 2, 2]], table[:, 2] ** 2,
        np.arange(6) == 5,
    )  # fmt: skip
    rows = np.array([row[:5] for row in FOUND])
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:3]], axis=1)
    evaluator = Evaluator(truth)
    evaluator.add({7: Prediction(boxes, rows[:, 4], rows[:, 3].astype(int))})
    return evaluator


def test_errors_are_named(known):
    split = known.error_split()
    kinds = [row[5] for row in FOUND]
    expected = {kind: kinds.count(kind) for kind in ("localization", "class", "duplicate", "background", "both")}
    assert split.count == expected | {"missed": 2}
    assert split.ap50 == known.metrics().ap50
    assert all(gain >= 0 for gain in split.gain.values())
    # Class a: the first of three truths is found by the best detection: AP 34/101; class b has nothing.
    assert split.ap50 == pytest.approx((34 / 101 + 0) / 2)
    # With (58, 0) in its place, two of three are found, the second with precision 2/3 behind the duplicate.
    assert split.gain["localization"] == pytest.approx((34 + 33 * 2 / 3) / 101 / 2 - split.ap50)
    # (100, 0) becomes class b's best: half of its two truths.
    assert split.gain["class"] == pytest.approx((34 / 101 + 51 / 101) / 2 - split.ap50)
    # Without the two missed ones a has two truths left, b one.
    assert split.gain["missed"] == pytest.approx((51 / 101 + 0) / 2 - split.ap50)


def test_confusion_of_known(known):
    assert known.confusion_matrix().tolist() == [[1, 0, 2], [1, 0, 1], [3, 1, 0]]
    assert known.confusion_matrix(score_threshold=0.65).tolist() == [[1, 0, 2], [0, 0, 2], [2, 0, 0]]
    # A score on the threshold counts.
    assert known.confusion_matrix(score_threshold=0.7).tolist() == [[1, 0, 2], [0, 0, 2], [2, 0, 0]]


def test_overlaps_on_the_thresholds(known):
    """(58, 0) has IoU 12 / 28 with its ground truth: from the lower threshold on that is localization."""
    rows, overlap = known.rows, 12 / 28
    assert error_split(known.ground_truth, rows, background_threshold=overlap).count["localization"] == 1
    above = error_split(known.ground_truth, rows, background_threshold=np.nextafter(overlap, 1)).count
    assert (above["localization"], above["background"]) == (0, 4)  # (158, 0), of the other class, overlaps as much


def test_curves_of_known(known):
    curves = known.curves()
    assert list(curves) == ["all", "a", "b"]
    a = curves["a"]
    assert a.scores.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.2]  # 0.3 found the crowd
    np.testing.assert_allclose(a.precision, 1 / np.arange(1, 7))
    np.testing.assert_allclose(a.recall, np.full(6, 1 / 3))
    assert (a.truths, a.best_score, a.best_f1) == (3, 0.9, 0.5)
    assert (curves["b"].truths, curves["b"].best_f1, curves["all"].truths) == (2, 0, 5)


@pytest.mark.parametrize("seed", range(60))
def test_curves_and_errors_agree_with_the_metrics(seed):
    """On random data: AP50 from the curve is COCO's, the split counts every wrong detection, gains are no losses."""
    truth, detections = random_case(seed)
    evaluator = Evaluator(truth)
    evaluator.add(detections)
    metrics, split, curves = evaluator.metrics(), evaluator.error_split(), evaluator.curves()
    assert split.ap50 == pytest.approx(metrics.ap50, abs=1e-12)
    counting = ~truth.crowd & (truth.areas >= 0) & (truth.areas <= 1e10)
    for k, name in enumerate(truth.names):
        curve = curves[name]
        assert curve.truths == np.sum((truth.label == k) & counting)
        if curve.truths:
            assert curve.recall[-1:].sum() == pytest.approx(max(metrics.recall[0, k, 0, -1], 0))
    run = pycocotools_run(truth, detections)
    wrong = right = 0
    for each in run.evalImgs:
        if each is not None and each["aRng"] == run.params.areaRng[0]:
            counts = ~each["dtIgnore"][0].astype(bool)
            wrong += int(np.sum(counts & (each["dtMatches"][0] == 0)))
            right += int(np.sum(counts & (each["dtMatches"][0] > 0)))
    assert sum(number for kind, number in split.count.items() if kind != "missed") == wrong
    assert split.count["missed"] <= sum(curves[name].truths for name in truth.names) - right
    if metrics.ap50 >= 0:
        assert min(split.gain.values()) >= -1e-9 or split.gain["missed"] < 0  # -1 where no class is left
    matrix = evaluator.confusion_matrix(score_threshold=0)
    np.testing.assert_array_equal(matrix[:-1].sum(1), np.bincount(truth.label[counting], minlength=len(truth.names)))


@pytest.mark.parametrize("seed", range(10))
def test_results_come_back(seed, tmp_path):
    """Scores and labels return exactly, boxes but for the last digit; pycocotools reads the file."""
    from fastdet.evaluation import write_coco_results

    truth, detections = random_case(seed)
    write_coco_results(tmp_path / "found.json", detections, truth)
    again = read_coco_results(tmp_path / "found.json", truth)
    for identity, each in detections.items():
        if len(each.scores):
            got = again[identity]
            np.testing.assert_array_equal(got.scores, each.scores.astype(float))
            np.testing.assert_array_equal(got.labels, each.labels)
            np.testing.assert_allclose(got.boxes, each.boxes, rtol=1e-12, atol=1e-9)
    rows = json.loads((tmp_path / "found.json").read_text())
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in rows)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not valid JSON"),
        ("{}", "must hold a list of detections, got dict"),
        ('[{"image_id": 1}]', "entry 0 must have"),
        ('[{"image_id": 7, "category_id": 9, "bbox": [0, 0, 1, 1], "score": 1}]', "entry 0 must have"),
        ('[{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1], "score": 1}]', "entry 0 must have"),
        ('[{"image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "entry 0 must have"),
    ],
)
def test_broken_results_are_refused(text, reason, tmp_path, known):
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        read_coco_results(path, known.ground_truth)
    assert str(caught.value).startswith(str(path))


def test_report(known, tmp_path):
    pytest.importorskip("matplotlib")
    paths = save_report(tmp_path / "new" / "folder", known)
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert {path.suffix for path in paths} == {".json", ".png"} and len(paths) == 6
    numbers = json.loads((tmp_path / "new" / "folder" / "metrics.json").read_text())
    assert numbers["ap50"] == known.metrics().ap50 and numbers["errors"]["count"]["missed"] == 2
    assert numbers["best_threshold"]["a"] == {"score": 0.9, "f1": 0.5}
    again = read_coco_results(tmp_path / "new" / "folder" / "predictions.json", known.ground_truth)
    assert evaluate(again, known.ground_truth) == known.metrics()


def test_nothing_at_all():
    """No ground truth, no detections: every part stands it."""
    nothing = np.zeros(0)
    truth = GroundTruth(
        [1], ("a",), (1,), nothing.astype(int), nothing.astype(int), np.zeros((0, 4)), nothing, nothing > 0
    )
    evaluator = Evaluator(truth)
    assert evaluator.metrics().ap == -1 and evaluator.error_split().ap50 == -1
    assert evaluator.confusion_matrix().sum() == 0 and evaluator.curves()["all"].best_score == 1
    evaluator.add({1: Prediction(np.array([[0, 0, 5, 5.0]]), np.array([0.5]), np.array([0]))})
    assert evaluator.error_split().count["background"] == 1
    assert evaluator.confusion_matrix().tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"picture": np.array([3])}, r"picture must lie in 0\.\.0, got 3\.\.3"),
        ({"label": np.array([-1])}, r"label must lie in 0\.\.1, got -1\.\.-1"),
        ({"boxes": np.zeros((2, 4))}, r"boxes \(1, 4\)"),
        ({"category_ids": (2, 1)}, "category_ids must rise"),
        ({"image_ids": [1, 1]}, "image_ids must rise"),
        ({"names": ("a",)}, "1 names for 2"),
    ],
)
def test_bad_ground_truth(change, reason):
    columns = {
        "image_ids": [1], "names": ("a", "b"), "category_ids": (1, 2), "picture": np.array([0]), "label": np.array([0]),
        "boxes": np.ones((1, 4)), "areas": np.ones(1), "crowd": np.zeros(1, bool),
    }  # fmt: skip
    with pytest.raises(ValueError, match=reason):
        GroundTruth(**columns | change)


def test_nan_is_refused(known):
    fresh = Evaluator(known.ground_truth)
    with pytest.raises(ValueError, match=r"got NaN in detections\[7\]"):
        fresh.add({7: Prediction(np.full((1, 4), np.nan), np.ones(1), np.zeros(1, int))})
    fresh.add({7: Prediction(np.zeros((0, 4)), np.ones(0), np.zeros(0, int))})  # nothing was taken in before


def test_infinite_boxes_are_refused(known):
    """The side of an infinite box may be NaN; an infinite score is a number like others."""
    fresh, box = Evaluator(known.ground_truth), np.array([[0.0, 0, 5, np.inf]])
    with pytest.raises(ValueError, match=r"got an infinite box in detections\[7\]"):
        fresh.add({7: Prediction(box, np.ones(1), np.zeros(1, int))})
    fresh.add({7: Prediction(np.ones((1, 4)), np.full(1, np.inf), np.zeros(1, int))})


def test_other_kinds_are_refused(known):
    truth = known.ground_truth
    one = Prediction([[0, 0, 5, 5]], [0.5], [0])
    for found, reason in (
        ([one], "must map picture ids"),
        ({7: dict(one._asdict())}, r"detections\[7\] must be a Pred"),
    ):
        with pytest.raises(TypeError, match=reason):
            evaluate(found, truth)
    with pytest.raises(TypeError, match="must be a GroundTruth or a data set"):
        evaluate({7: one}, "annotations.json")
    assert evaluate({7: Prediction([], [], [])}, truth) == evaluate({}, truth)


def test_states_come_back_from_json(known):
    for evaluator in (known, Evaluator(known.ground_truth)):
        again = Evaluator(known.ground_truth)
        again.merge(json.loads(json.dumps({name: column.tolist() for name, column in evaluator.state().items()})))
        assert again.metrics() == evaluator.metrics()


@pytest.mark.parametrize(("name", "value"), [("seen", [9]), ("picture", [-1]), ("label", [2])])
def test_states_of_other_data_sets_are_refused(known, name, value):
    fresh = Evaluator(known.ground_truth)
    one = {"picture": [0], "label": [0], "box": [[0, 0, 1, 1]], "score": [0.5], "seen": [0]}
    with pytest.raises(ValueError, match=f"{name} of the state must lie in 0.."):
        fresh.merge({**one, name: value})
    fresh.merge(one)


def test_tensors_in(known):
    torch = pytest.importorskip("torch")
    rows = np.array([row[:5] for row in FOUND])
    boxes = torch.from_numpy(np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:3]], axis=1))
    scores, labels = torch.from_numpy(rows[:, 4]), torch.from_numpy(rows[:, 3]).to(torch.int32)
    assert evaluate({7: Prediction(boxes, scores, labels)}, known.ground_truth) == known.metrics()
    half = Prediction(boxes.bfloat16(), scores.bfloat16(), labels)
    assert evaluate({7: half}, known.ground_truth).ap50 > 0


def test_classes_of_one_name_have_rows_of_their_own(known):
    truth = dataclasses.replace(known.ground_truth, names=("all", "all"))
    again = Evaluator(truth)
    again.merge(known.state())
    metrics, expected = again.metrics(), known.metrics()
    assert list(metrics.class_ap) == ["all", "all (2)"]
    assert list(metrics.class_ap.values()) == list(expected.class_ap.values())
    assert list(metrics.class_ap50.values()) == list(expected.class_ap50.values())
    curves = again.curves()
    assert list(curves) == ["all", "all (2)", "all (3)"]  # the first is that of all classes
    assert [curve.truths for curve in curves.values()] == [curve.truths for curve in known.curves().values()]
