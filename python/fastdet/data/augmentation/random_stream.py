# SPDX-License-Identifier: Apache-2.0
"""Random numbers that are a function of (seed, epoch, index): Philox 4x32-10, a counter through a keyed bijection.

Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011). Integer arithmetic and exact
conversions only, so a stream is the same on every platform and with every version of NumPy.
"""

from __future__ import annotations

import numpy as np

from fastdet import _core

# Multipliers of a round and what the key grows by between rounds (golden ratio, sqrt(3) - 1), from the paper.
MULTIPLY = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
BLOCKS_AHEAD = 16

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox 4x32-10 of ``counter`` [N, 4] (values below 2^32) with ``key`` (two words): [N, 4] uint32.

    The reference of ``_core.philox_words``, which streams take their words from.
    """
    words = np.array(counter, dtype=np.uint64).reshape(-1, 2, 2)
    even, odd = words[:, :, 0].T, words[:, :, 1].T  # [2, N]: words 0 and 2, words 1 and 3
    keys = [[(k + turn * w) & 0xFFFFFFFF for k, w in zip(key, WEYL, strict=True)] for turn in range(ROUNDS)]
    for key_of_round in np.array(keys, np.uint64)[:, :, None]:
        products = (MULTIPLY * even)[::-1]
        even, odd = (products >> HALF) ^ odd ^ key_of_round, products & LOW
    return np.stack([even, odd], axis=1).reshape(4, -1).T.astype(np.uint32)


class Stream:
    """The random numbers of one sample. Two streams with different arguments are independent.

    Args:
        seed: 0 to 2^64 - 1, the key. epoch, index: 0 to 2^32 - 1. purpose: what the numbers are for, 0 for a sample.
    """

    def __init__(self, seed: int, epoch: int, index: int, *, purpose: int = 0) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"Stream: seed must be in 0 .. 2^64 - 1, got {seed}")
        for name, value in (("epoch", epoch), ("index", index), ("purpose", purpose)):
            if not 0 <= value < 2**32:
                raise ValueError(f"Stream: {name} must be in 0 .. 2^32 - 1, got {value}")
        self._key = seed
        self._place = (purpose, epoch, index)
        self._block = 0
        self._ready: list[int] = []
        self._next = 0

    def words(self, count: int) -> list[int]:
        """The next ``count`` words, each below 2^32."""
        missing = count - (len(self._ready) - self._next)
        if missing > 0:
            blocks = max(BLOCKS_AHEAD, -(-missing // 4))
            fresh = _core.philox_words(self._key, self._block, *self._place, blocks)
            self._block += blocks
            self._ready = self._ready[self._next :] + fresh
            self._next = 0
        self._next += count
        return self._ready[self._next - count : self._next]

    def uniforms(self, count: int) -> np.ndarray:
        """``count`` multiples of 2^-53 in [0, 1), float64; each takes two words."""
        pairs = np.array(self.words(2 * count), np.int64).reshape(count, 2)
        return ((pairs[:, 0] >> 5) * 2.0**26 + (pairs[:, 1] >> 6)) * 2.0**-53

    def _fraction(self) -> float:
        place = self._next
        if place + 2 <= len(self._ready):  # most draws: without a call and a list
            self._next = place + 2
            first, second = self._ready[place], self._ready[place + 1]
        else:
            first, second = self.words(2)
        return ((first >> 5 << 26) + (second >> 6)) * 2.0**-53

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._fraction()

    def around_zero(self, reach: float) -> float:
        """A number in [-reach, reach)."""
        return self.uniform(-reach, reach)

    def chance(self, probability: float) -> bool:
        """True with ``probability``; takes a draw even where the answer is certain."""
        return self._fraction() < probability

    def integer(self, count: int) -> int:
        """An integer in 0 .. count - 1, all equally likely: a word that would favour some is drawn again (Lemire)."""
        if not 0 < count <= 2**32:
            raise ValueError(f"Stream: integers must be below a number in 1 .. 2^32, got {count}")
        unfair = 2**32 % count
        while True:
            product = self.words(1)[0] * count
            if product & 0xFFFFFFFF >= unfair:
                return product >> 32

    def integers(self, count: int, size: int) -> list[int]:
        """``size`` integers in 0 .. count - 1, repetitions among them."""
        return [self.integer(count) for _ in range(size)]

    def beta(self, first: int, second: int) -> float:
        """A number of the Beta distribution with integer parameters.

        It is the ``first``-th smallest of ``first + second - 1`` uniform numbers: comparisons only, no library's
        logarithm, so the same everywhere.
        """
        return float(np.sort(self.uniforms(first + second - 1))[first - 1])

    def permutation(self, count: int) -> np.ndarray:
        """[count] int64, 0 .. count - 1 in random order: sorted by 64 random bits each, equal ones by rising value."""
        pairs = np.array(self.words(2 * count), np.uint64).reshape(count, 2)
        return np.argsort(pairs[:, 0] << HALF | pairs[:, 1], kind="stable")

    def choice(self, count: int, size: int) -> list[int]:
        """``size`` different integers in 0 .. count - 1, in random order. Raises ValueError when there are fewer."""
        if not 0 <= size <= count:
            raise ValueError(f"Stream: choice needs at most {count} different integers, got {size}")
        moved: dict[int, int] = {}  # a Fisher-Yates shuffle of which only the touched places are kept
        taken = []
        for last in range(count - 1, count - 1 - size, -1):
            place = self.integer(last + 1)
            taken.append(moved.get(place, place))
            moved[place] = moved.get(last, last)
        return taken
