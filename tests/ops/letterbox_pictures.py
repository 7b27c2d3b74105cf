# SPDX-License-Identifier: Apache-2.0
"""Pictures and calls for the tests of letterbox."""

from __future__ import annotations

import numpy as np

from fastdet.ops.letterbox import CHANNELS, LETTERBOX, TWO_ROWS, _attributes, _place, _size_of
from fastdet.testing.ops import Case

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def picture(*shape, seed=0):
    """Noise, and stripes of black and white pixels, so that rounding errors and saturation show."""
    rng = np.random.default_rng([*shape, seed])
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    image[::3] = np.where(image[::3] > 127, 255, 0)
    return image


def picture_of(name, height, width, seed=0):
    """A picture of a named format."""
    if name in TWO_ROWS:
        return picture(height * 3 // 2, width, seed=seed)
    channels = CHANNELS.get(name, 2)
    return picture(height, width, channels, seed=seed) if channels > 1 else picture(height, width, seed=seed)


def arguments(*images, size=(64, 64), dtype="float32", layout="nchw", mean=None, std=None, **options):
    """Positional arguments of the operator for pictures given as shapes."""
    options = {"mode": "cv2", "matrix": "bt601", "fill": 114, "swap_rb": False, "scale": True, "channels": 3} | options
    formats = options.pop("format", "")
    formats = [formats] * len(images) if isinstance(formats, str) else list(formats)
    placing = {"scale_up": True, "center": True, "stride": None, "keep_ratio": True}
    placing |= {name: options.pop(name) for name in list(options) if name in placing}
    pictures = [picture_of(name, *shape) if name else picture(*shape) for name, shape in zip(formats, images)]
    size = (size, size) if isinstance(size, int) else size
    sizes = [_size_of(p, i, name) for i, (p, name) in enumerate(zip(pictures, formats))]
    input_size, placements = _place(sizes, size, *placing.values())
    before = (options[name] for name in ("mode", "matrix", "fill", "swap_rb"))
    attributes = _attributes(*before, mean, std, options["scale"], dtype, layout, options["channels"])
    return pictures, formats, [int(n) for p in placements for n in p], *input_size, *attributes


def case(name, *images, **options):
    return Case(name, LETTERBOX, lambda: arguments(*images, **options))
