# SPDX-License-Identifier: Apache-2.0
"""The augmentation of published detectors as data: one frozen dataclass, one row for each detector."""

from __future__ import annotations

from dataclasses import dataclass, replace

MIXUP_WITH = ("mosaic", "any", "picture")
COPY_PASTE_RULES = ("drawn", "filtered", "ranked")
COPY_PASTE_MODES = ("flip", "mixup")
LAST_EPOCHS = ("affine", "stretch")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is done to a sample, in this order; the input size is (H, W).

    1. Mosaic with chance ``mosaic`` on a canvas of 2H x 2W: four pictures around a centre in its middle half; a share
       ``mosaic9`` of them shows a window of nine pictures instead. Otherwise the letterboxed picture alone. Pictures
       are first scaled to fit H x W (side lengths rounded ``fit_rounding``, "down" or "up"), or with
       ``stretch_tiles`` stretched to it; ``shuffle_tiles`` puts the sample in any of the four places.
    2. Copy-paste: a part ``copy_paste`` of the objects, mirrored together with the canvas (mode "flip") or taken from
       another view (mode "mixup", then with that chance a picture and after step 3), lands where it covers less than
       0.3 of each object that is there. Rule "drawn" (on mosaics): objects are drawn, then tested; "filtered" (on
       mosaics): tested, then drawn; "ranked" (always): tested, then those that cover least. Needs polygons; with
       ``copy_paste_boxes`` objects without polygons are pasted as rectangles.
    3. One affine map, centre to centre: perspective, rotation by ``degrees`` with a factor from ``scale``, ``shear`` in
       degrees, shift by ``translate`` of the size, all to either side. Objects are kept by ``candidates``
       (``min_side``, ``min_area``, with polygons ``min_area_polygons``, ``max_aspect``).
    4. Mixup with chance ``mixup``: the mean weighted by Beta(``mixup_beta``), of two mosaics ("mosaic"), of whatever
       steps 1 to 3 gave ("any"); or of one half each with a single picture ("picture", scaled by 0.5 to 1.5, mirrored
       with chance 0.5). Then with chance ``cutmix`` a rectangle of another view, where it covers no object.
    5. Colours by ``hsv`` (see ``hsv_tables``; ``additive_hue``). 6. Flips with chance ``flip_vertical``,
       ``flip_horizontal``.

    In the last epochs there is no mosaic, copy-paste, mixup or cutmix; ``last_epochs`` "stretch" also replaces
    letterbox and affine map by the stretch to the input.
    """

    mosaic: float = 1.0
    mosaic9: float = 0.0
    stretch_tiles: bool = False
    shuffle_tiles: bool = True
    fit_rounding: str = "down"
    copy_paste: float = 0.0
    copy_paste_rule: str = "drawn"
    copy_paste_mode: str = "flip"
    copy_paste_boxes: bool = False
    degrees: float = 0.0
    translate: float = 0.1
    scale: tuple[float, float] = (0.5, 1.5)
    shear: float = 0.0
    perspective: float = 0.0
    min_side: float = 2.0
    min_area: float = 0.1
    min_area_polygons: float = 0.01
    max_aspect: float = 100.0
    mixup: float = 0.0
    mixup_with: str = "mosaic"
    mixup_beta: tuple[int, int] = (32, 32)
    cutmix: float = 0.0
    hsv: tuple[float, float, float] = (0.015, 0.7, 0.4)
    additive_hue: bool = False
    flip_horizontal: float = 0.5
    flip_vertical: float = 0.0
    last_epochs: str = "affine"

    def __post_init__(self) -> None:
        chances = ("mosaic", "mosaic9", "copy_paste", "mixup", "cutmix", "flip_horizontal", "flip_vertical")
        limits = dict.fromkeys((*chances, "translate", "min_area", "min_area_polygons"), 1.0)
        limits |= {"degrees": 180.0, "shear": 45.0, "perspective": 0.001, "min_side": 1e9, "max_aspect": 1e9}
        for name, high in limits.items():
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"Recipe: {name} must be in [0, {high:g}], got {getattr(self, name)}")
        if len(self.hsv) != 3 or not all(0 <= gain <= 1 for gain in self.hsv):
            raise ValueError(f"Recipe: hsv must be three gains in [0, 1], got {self.hsv}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"Recipe: scale must be 0 < low <= high, got {self.scale}")
        if len(self.mixup_beta) != 2 or not all(isinstance(each, int) and 0 < each <= 1000 for each in self.mixup_beta):
            raise ValueError(f"Recipe: mixup_beta must be two integers in 1 .. 1000, got {self.mixup_beta}")
        choices = {
            "fit_rounding": ("down", "up"),
            "copy_paste_rule": COPY_PASTE_RULES,
            "copy_paste_mode": COPY_PASTE_MODES,
            "mixup_with": MIXUP_WITH,
            "last_epochs": LAST_EPOCHS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"Recipe: {name} must be one of {known}, got {getattr(self, name)!r}")

    @property
    def largest_zoom(self) -> float:
        """The largest size at which a picture is read, in sizes of the input: pictures are fitted before all else."""
        return 1.5 if self.mixup_with == "picture" else 1.0


YOLOV5 = Recipe()
YOLOV7 = Recipe(
    mosaic9=0.2,
    shuffle_tiles=False,
    translate=0.2,
    scale=(0.1, 2.0),
    max_aspect=20.0,
    mixup=0.15,
    mixup_beta=(8, 8),
)
DAMO_YOLO = Recipe(
    stretch_tiles=True,
    shuffle_tiles=False,
    degrees=10.0,
    translate=0.2,
    scale=(0.1, 2.0),
    shear=2.0,
    max_aspect=20.0,
    mixup=0.15,
    mixup_with="picture",
    hsv=(0.0, 0.0, 0.0),
    last_epochs="stretch",
)

# Numbers of the published trainings, described in docs/data.md together with what is left out.
FAMILY_RECIPES: dict[str, Recipe] = {
    "yolov5": YOLOV5,  # n, s
    "yolov5-high": replace(YOLOV5, scale=(0.1, 1.9), mixup=0.1, copy_paste=0.1),  # m, l, x
    "yolov7": YOLOV7,
    "yolov7-tiny": replace(YOLOV7, translate=0.1, scale=(0.5, 1.6), mixup=0.05),
    "yolov8": Recipe(
        shuffle_tiles=False, fit_rounding="up", copy_paste_rule="ranked", mixup_with="any", additive_hue=True
    ),
    "yolov9": replace(YOLOV5, scale=(0.1, 1.9), mixup=0.15, copy_paste=0.3, copy_paste_rule="filtered"),
    "damo-yolo": DAMO_YOLO,
    "damo-yolo-ns": replace(DAMO_YOLO, scale=(0.75, 1.25), shear=0.2),
}
