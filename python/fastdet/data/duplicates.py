# SPDX-License-Identifier: Apache-2.0
"""Pictures that are the same: by their bytes, or nearly, by a perceptual hash confirmed on small copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

__all__ = ["groups_of_equal", "near_pairs", "thumbnail"]

SIDE = 16  # of the small grey copies
MAX_BITS = 4  # of the 64 bits of two hashes that may differ
MAX_MEAN = 3.0  # mean difference of two small copies, in grey levels of 256
MAX_CELL = 12  # the most that one cell of them may differ: beyond it an object came or went
MIN_SPREAD = 2.0  # standard deviation below which a picture shows nothing that could be compared
BANDS = MAX_BITS + 1
BUCKET = 2048  # pairs are looked for in blocks of so many rows


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] uint8 as [16, 16] uint8 grey means, whatever its proportions."""
    from PIL import Image

    grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey)


def groups_of_equal(keys: Sequence[Hashable]) -> list[list[int]]:
    """Places of equal keys, each group rising, of two or more."""
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return [group for group in places.values() if len(group) > 1]


def near_pairs(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of small copies [N, 16, 16] uint8 that show the same.

    Two pictures are near when at most 4 bits of their 64-bit difference hashes differ (every such pair is found: one
    of five parts of the hash is then equal) and their copies differ by at most 3 grey levels on average, 12 in any
    cell. Pictures of one colour are near to none.
    """
    if not len(thumbnails):
        return []
    small = thumbnails.reshape(-1, SIDE, SIDE)
    hashes = _hashes(small)
    rows = np.flatnonzero(small.reshape(len(small), -1).std(axis=1) >= MIN_SPREAD)
    flat = small.reshape(len(small), -1).astype(np.int16)
    found: set[tuple[int, int]] = set()
    for part in np.array_split(np.arange(64, dtype=np.uint64), BANDS):
        mask = np.bitwise_or.reduce(np.uint64(1) << part)
        order = rows[np.argsort(hashes[rows] & mask, kind="stable")]
        keys = hashes[order] & mask
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        for start, stop in zip(starts, np.append(starts[1:], len(keys)), strict=True):
            if stop - start > 1:
                found.update(_near(np.sort(order[start:stop]), hashes, flat))
    return sorted(found)


def _hashes(small: np.ndarray) -> np.ndarray:
    """[N] uint64: whether each of 8 x 9 means of 2 x 2 cells, columns over the whole width, is darker than the next."""
    cells = small.astype(np.float32).reshape(-1, 8, 2, SIDE).mean(axis=2)
    places = np.linspace(0, SIDE - 1, 9)
    low = np.floor(places).astype(int).clip(0, SIDE - 2)
    columns = cells[:, :, low] + (cells[:, :, low + 1] - cells[:, :, low]) * (places - low).astype(np.float32)
    bits = (columns[:, :, 1:] > columns[:, :, :-1]).reshape(-1, 64)
    packed: np.ndarray = (bits.astype(np.uint64) << np.arange(64, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    return packed


def _near(rows: np.ndarray, hashes: np.ndarray, flat: np.ndarray) -> Iterable[tuple[int, int]]:
    for start in range(0, len(rows), BUCKET):
        mine = rows[start : start + BUCKET]
        differing = _bits(hashes[mine][:, None] ^ hashes[rows][None])
        first, second = np.nonzero((differing <= MAX_BITS) & (mine[:, None] < rows[None]))
        for i, j in zip(mine[first].tolist(), rows[second].tolist(), strict=True):
            difference = np.abs(flat[i] - flat[j])
            if difference.mean() <= MAX_MEAN and difference.max() <= MAX_CELL:
                yield i, j


def _bits(values: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set."""
    words = np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, 8)
    counts: np.ndarray = _COUNTS[words].sum(axis=-1)
    return counts


_COUNTS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)
