# SPDX-License-Identifier: Apache-2.0
"""Raw maps of heads for tests: every kind, any sizes, with faults; arguments as the operators take them."""

from __future__ import annotations

import numpy as np

from fastdet.ops import HeadFormat
from fastdet.ops.decode import decode_boxes_reference

LEVELS = ((5, 4), (3, 2), (2, 1))


def head_of(kind, levels, priors=3, seed=0, offset=0.5):
    rng = np.random.default_rng(seed)
    strides = tuple(float(8 * 2**i) for i in range(len(levels)))
    anchors = tuple(tuple((float(a), float(b)) for a, b in rng.integers(5, 90, (priors, 2))) for _ in levels)
    if kind == "cxcywh":
        return HeadFormat(kind, image_size=(96.0, 128.0))
    return HeadFormat(kind, strides, offset, anchors if kind == "anchors" else ())


def maps_of(kind, b=2, c=3, levels=LEVELS, *, bins=4, priors=3, objectness=True, seed=0, ties=0, bad=0, low=-2.0):
    """Logits and codes of all levels. ``ties`` rounds to that many steps; ``bad`` non-finite values of each sort."""
    rng = np.random.default_rng(seed)
    if kind == "cxcywh":
        queries = sum(h * w for h, w in levels)
        logits, codes = [rng.normal(low, 2, (b, queries, c))], [rng.uniform(0.05, 0.9, (b, queries, 4))]
    else:
        p = (priors,) if kind == "anchors" else ()
        k = {"dfl": 4 * bins, "distance": 4, "anchors": 5 if objectness else 4}[kind]
        logits = [rng.normal(low, 2, (b, *p, c, h, w)) for h, w in levels]
        codes = [rng.normal(0, 2, (b, *p, k, h, w)) for h, w in levels]
        if kind == "distance":
            codes = [np.abs(a) for a in codes]
    if ties:
        logits = [np.round(a * ties / 4) * 4 / ties for a in logits]
    logits, codes = ([a.astype(np.float32) for a in maps] for maps in (logits, codes))
    for i, value in enumerate((np.nan, np.inf, -np.inf, 80.0, -80.0) * bad):
        for maps, skip in ((logits, 3), (codes, 11)):
            flat = maps[i % len(maps)].reshape(-1)
            if flat.size and (i + skip) % 2:
                flat[(7 * i + skip) % flat.size] = value
    return logits, codes


def arguments(kind, *options, offset=0.5, **kw):
    """Positional arguments of an operator: maps, description, ``options``."""
    levels = kw.get("levels", LEVELS)
    head = head_of(kind, levels, kw.get("priors", 3), offset=offset)
    return (*maps_of(kind, **kw), *head.arguments(), *options)


def backward_arguments(kind, **kw):
    args = arguments(kind, **kw)
    logits = args[0]
    if kind == "cxcywh":
        rows = logits[0].shape[1]
    elif kind == "anchors":
        rows = sum(a.shape[1] * a.shape[3] * a.shape[4] for a in logits)
    else:
        rows = sum(a.shape[2] * a.shape[3] for a in logits)
    b, c = logits[0].shape[0], logits[0].shape[-1 if kind == "cxcywh" else -3]
    rng = np.random.default_rng(9)
    grads = (rng.normal(size=(b, rows, k)).astype(np.float32) for k in (4, c))
    return (*grads, decode_boxes_reference(*args)[1], *args)
