# SPDX-License-Identifier: Apache-2.0
"""The detector that ships in the package: it is there, it is small, and it finds cells on the pictures beside it.

Nothing here may be skipped: a package without its weights is broken.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastdet
from fastdet.cli import main
from fastdet.detector import default_pictures, default_weights


@pytest.fixture(scope="module")
def detector():
    return fastdet.load("default")


def test_files_are_there_and_small(detector):
    weights = default_weights()
    assert weights.stat().st_size < 6_000_000
    card = weights.with_suffix(".md").read_text()
    for word in ("MIT", "Seed", "AP50", "BCCD", "fastdet train"):
        assert word in card, f"the model card does not mention {word}"
    assert detector.names == ("RBC", "WBC", "Platelets") and detector.info()["source"] == str(weights)
    assert len(default_pictures()) >= 1 and sum(path.stat().st_size for path in default_pictures()) < 500_000


def test_finds_cells_of_every_kind_on_its_pictures(detector):
    found = detector(default_pictures())
    counts = {name: sum(each.counts().get(name, 0) for each in found) for name in detector.names}
    assert counts["RBC"] >= 5 * len(found) and counts["WBC"] >= 1 and counts["Platelets"] >= 1
    for each in found:
        assert len(each) <= 60 and each.scores[0] > 0.6
        area = np.prod(each.boxes[:, 2:] - each.boxes[:, :2], axis=1)
        for label, (least, most) in enumerate(
            [(2_000, 40_000), (8_000, 120_000), (200, 9_000)]
        ):  # median sizes, widely
            if (each.labels == label).any():
                assert least < np.median(area[each.labels == label]) < most


def test_turned_pictures_have_turned_boxes(detector):
    from fastdet.sources import read_image

    image = read_image(default_pictures()[0])
    upright = detector(image, score_threshold=0.5)[0]
    mirrored = detector(image[:, ::-1], score_threshold=0.3)[0]
    back = mirrored.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [image.shape[1], 0, image.shape[1], 0]
    found = 0
    for box, label in zip(upright.boxes, upright.labels):
        corner = np.maximum(box[:2], back[:, :2]), np.minimum(box[2:], back[:, 2:])
        shared = np.prod(np.clip(corner[1] - corner[0], 0, None), axis=1)
        union = np.prod(box[2:] - box[:2]) + np.prod(back[:, 2:] - back[:, :2], axis=1) - shared
        found += bool(((shared / union > 0.5) & (mirrored.labels == label)).any())
    assert found >= 0.8 * len(upright) > 0


def test_the_command_without_arguments(capfd, tmp_path):
    assert main(["predict", "--save", str(tmp_path), "--json", str(tmp_path / "found.json")]) == 0
    out, err = capfd.readouterr()
    names = [path.name for path in default_pictures()]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "found.json"])
    rows = json.loads((tmp_path / "found.json").read_text())
    assert len(out.splitlines()) == 1 + len(rows) and "warning" not in err
    assert max(map(len, out.splitlines())) <= 80  # their names, not where the package lies
