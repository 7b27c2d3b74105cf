# SPDX-License-Identifier: Apache-2.0
"""Parameters and arithmetic of every size against what its reference counts and publishes."""

from __future__ import annotations

import pytest
import torch

from fastdet import models
from fastdet.models.complexity import complexity

# Parameters as trained and folded, GFLOPs as trained and folded: counted on the references.
COUNTED = {
    "yolo11n": (2_624_080, 2_616_248, 6.67, 6.54),
    "yolo11s": (9_458_752, 9_443_760, 21.84, 21.59),
    "yolo11m": (20_114_688, 20_091_712, 68.64, 68.1),
    "yolo11l": (25_372_160, 25_340_992, 87.85, 87.16),
    "yolo11x": (56_966_176, 56_919_424, 196.32, 195.27),
    "yolo11n-seg": (2_876_848, 2_868_664, 9.96, 9.8),
    "yolo11s-seg": (10_113_248, 10_097_776, 33.36, 33.07),
    "yolo11m-seg": (22_420_896, 22_396_992, 113.97, 113.35),
    "yolo11l-seg": (27_678_368, 27_646_272, 133.18, 132.4),
    "yolo11x-seg": (62_142_656, 62_094_528, 297.89, 296.73),
    "yolo11n-pose": (2_874_462, 2_866_468, 7.6, 7.47),
    "yolo11s-pose": (9_918_238, 9_902_940, 23.43, 23.17),
    "yolo11m-pose": (20_912_364, 20_889_004, 72.05, 71.51),
    "yolo11l-pose": (26_169_836, 26_138_284, 91.26, 90.56),
    "yolo11x-pose": (58_798_636, 58_751_308, 204.19, 203.14),
    "yolo11n-obb": (2_664_432, 2_656_648, 17.56, 17.22),
    "yolo11s-obb": (9_719_776, 9_704_592, 58.56, 57.91),
    "yolo11m-obb": (20_913_408, 20_890_048, 184.96, 183.56),
    "yolo11l-obb": (26_170_880, 26_139_328, 234.63, 232.83),
    "yolo11x-obb": (58_800_256, 58_752_928, 524.24, 521.53),
    "yolo11n-cls": (2_812_104, 2_807_024, 0.4, 0.39),
    "yolo11s-cls": (6_724_008, 6_715_128, 1.49, 1.47),
    "yolo11m-cls": (11_634_216, 11_622_632, 4.86, 4.81),
    "yolo11l-cls": (14_115_624, 14_099_432, 6.1, 6.05),
    "yolo11x-cls": (29_637_064, 29_613_416, 13.6, 13.52),
    "yolov8n": (3_157_200, 3_151_904, 8.86, 8.74),
    "yolov8s": (11_166_560, 11_156_544, 28.81, 28.6),
    "yolov8m": (25_902_640, 25_886_080, 79.31, 78.94),
    "yolov8l": (43_691_520, 43_668_288, 165.73, 165.15),
    "yolov8x": (68_229_648, 68_200_608, 258.54, 257.8),
    "yolov8n-seg": (3_409_968, 3_404_320, 12.14, 12.0),
    "yolov8s-seg": (11_821_056, 11_810_560, 40.34, 40.09),
    "yolov8m-seg": (27_285_968, 27_268_704, 104.98, 104.54),
    "yolov8l-seg": (45_997_728, 45_973_568, 211.06, 210.39),
    "yolov8x-seg": (71_827_888, 71_797_696, 329.19, 328.36),
    "yolov8n-pose": (3_295_470, 3_289_964, 9.29, 9.18),
    "yolov8s-pose": (11_626_046, 11_615_724, 30.4, 30.19),
    "yolov8m-pose": (26_464_462, 26_447_596, 81.41, 81.02),
    "yolov8l-pose": (44_489_196, 44_465_580, 169.14, 168.55),
    "yolov8x-pose": (69_491_724, 69_462_204, 263.95, 263.21),
    "yolov8n-obb": (3_085_440, 3_080_144, 21.64, 21.36),
    "yolov8s-obb": (11_427_584, 11_417_376, 75.92, 75.38),
    "yolov8m-obb": (26_425_600, 26_408_752, 208.0, 207.02),
    "yolov8l-obb": (44_490_240, 44_466_624, 433.03, 431.5),
    "yolov8x-obb": (69_493_056, 69_463_536, 675.74, 673.83),
    "yolov8n-cls": (2_719_288, 2_715_880, 0.41, 0.41),
    "yolov8s-cls": (6_361_736, 6_356_200, 1.54, 1.53),
    "yolov8m-cls": (17_053_336, 17_043_656, 5.13, 5.1),
    "yolov8l-cls": (37_480_744, 37_465_576, 12.14, 12.09),
    "yolov8x-cls": (57_422_840, 57_404_200, 18.91, 18.84),
    "yolov5nu": (2_654_816, 2_649_200, 7.84, 7.72),
    "yolov5su": (9_153_152, 9_142_496, 24.21, 24.0),
    "yolov5mu": (25_111_456, 25_091_536, 64.6, 64.21),
    "yolov5lu": (53_225_024, 53_193_088, 135.62, 134.99),
    "yolov5xu": (97_276_448, 97_229_648, 247.31, 246.39),
    "yolov5n": (1_872_157, 1_867_405, 4.56, 4.47),
    "yolov5s": (7_235_389, 7_225_885, 16.62, 16.43),
    "yolov5m": (21_190_557, 21_172_173, 49.23, 48.87),
    "yolov5l": (46_563_709, 46_533_693, 109.58, 108.99),
    "yolov5x": (86_749_405, 86_705_005, 206.31, 205.45),
    "yolov5n-seg": (1_991_549, 1_986_637, 7.19, 7.07),
    "yolov5s-seg": (7_621_277, 7_611_485, 26.58, 26.36),
    "yolov5n-cls": (2_493_000, 2_489_464, 0.37, 0.36),
    "yolov5s-cls": (5_453_480, 5_447_688, 1.29, 1.27),
}

# Published: millions of parameters, GFLOPs (None: not published, or, for YOLO11 classifiers, not of this graph).
# The figures are of the folded graph without the products inside attention; YOLOv5's partly count BatchNorm, 2 a value.
PUBLISHED = {
    "yolo11": {
        "n": ("2.6", "6.5"),
        "s": ("9.4", "21.5"),
        "m": ("20.1", "68.0"),
        "l": ("25.3", "86.9"),
        "x": ("56.9", "194.9"),
    },
    "yolo11-seg": {
        "n": ("2.9", "9.7"),
        "s": ("10.1", "33.0"),
        "m": ("22.4", "113.2"),
        "l": ("27.6", "132.2"),
        "x": ("62.1", "296.4"),
    },
    "yolo11-pose": {
        "n": ("2.9", "7.4"),
        "s": ("9.9", "23.1"),
        "m": ("20.9", "71.4"),
        "l": ("26.1", "90.3"),
        "x": ("58.8", "202.8"),
    },
    "yolo11-obb": {
        "n": ("2.7", "16.8"),
        "s": ("9.7", "57.1"),
        "m": ("20.9", "182.8"),
        "l": ("26.1", "231.2"),
        "x": ("58.8", "519.1"),
    },
    "yolo11-cls": {
        "n": ("2.8", None),
        "s": ("6.7", None),
        "m": ("11.6", None),
        "l": ("14.1", None),
        "x": ("29.6", None),
    },
    "yolov8": {
        "n": ("3.2", "8.7"),
        "s": ("11.2", "28.6"),
        "m": ("25.9", "78.9"),
        "l": ("43.7", "165.2"),
        "x": ("68.2", "257.8"),
    },
    "yolov5u": {
        "n": ("2.6", "7.7"),
        "s": ("9.1", "24.0"),
        "m": ("25.1", "64.2"),
        "l": ("53.2", "135.0"),
        "x": ("97.2", "246.4"),
    },
    "yolov5": {
        "n": ("1.9", "4.5"),
        "s": ("7.2", "16.5"),
        "m": ("21.2", "49.0"),
        "l": ("46.5", "109.1"),
        "x": ("86.7", "205.7"),
    },
    "yolov5-seg": {
        "n": ("2.0", "7.1"),
        "s": ("7.6", "26.4"),
        "m": ("22.0", "70.8"),
        "l": ("47.9", "147.7"),
        "x": ("88.8", "265.7"),
    },
    "yolov5-cls": {
        "n": ("2.5", None),
        "s": ("5.4", None),
        "m": ("12.9", None),
        "l": ("26.5", None),
        "x": ("48.1", None),
    },
    "yolov56": {
        "n": ("3.2", None),
        "s": ("12.6", None),
        "m": ("35.7", None),
        "l": ("76.8", None),
        "x": ("140.7", None),
    },
}


def _published(name):
    return PUBLISHED.get(name[:6] + name[7:], {}).get(name[6])  # every name is a family of six letters, a size, a task


NAMES = sorted({*COUNTED, *(f[:6] + size + f[6:] for f, sizes in PUBLISHED.items() for size in sizes)})


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_arithmetic(name):
    spec = models.spec(name)
    with torch.device("meta"):
        module = models.build(spec)
    trained = complexity(module, spec.input_size)
    # Folding makes one bias of scale and shift; that it really does is seen on smaller models below.
    channels = sum(layer.num_features for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    folded_parameters, folded = trained.parameters - channels, trained.gflops - trained.norm_gflops
    if name in COUNTED:
        # The counter of the reference knows the convolution that takes the mean over the bins of a distance, too.
        cells = sum((spec.input_size[0] // stride) ** 2 for stride in spec.strides)
        bins = 2 * 4 * 16 * cells / 1e9 if hasattr(module.head, "dfl") else 0
        want = COUNTED[name]
        assert (trained.parameters, folded_parameters) == want[:2]
        assert abs(trained.gflops + bins - want[2]) < 0.0075 and abs(folded + bins - want[3]) < 0.0075
    if _published(name) is not None:
        parameters, gflops = _published(name)
        assert parameters in {f"{count / 1e6:.1f}" for count in (folded_parameters, trained.parameters)}
        if gflops is not None:
            norm = trained.norm_gflops / 4 if name.startswith("yolov5") and name[-1] != "u" else 0
            published = folded - trained.product_gflops
            assert published - 0.053 < float(gflops) < published + norm + 0.053


@pytest.mark.parametrize("name", ["yolo11n", "yolov5n-seg"])
def test_folding_takes_what_is_counted_for_it(name):
    module = models.build(name)
    trained = complexity(module)
    channels = sum(layer.num_features for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    folded = complexity(module.fuse())
    assert folded.parameters == trained.parameters - channels and folded.norm_gflops == 0
    assert folded.gflops == pytest.approx(trained.gflops - trained.norm_gflops)
    assert folded.layers == trained.layers - sum(
        isinstance(layer, torch.nn.BatchNorm2d) for layer in models.build(name).modules()
    )


@pytest.mark.parametrize("name", ["yolo11n", "damo-yolo-ns", "rtdetrv2-s"])
def test_stages_add_up_and_nothing_is_touched(name):
    module = models.build(name, 3)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    trained = complexity(module, (128, 192))
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in before.items()) and module.training
    assert sum(stage.parameters for stage in trained.stages) == trained.parameters
    assert sum(stage.gflops for stage in trained.stages) == pytest.approx(trained.gflops)
