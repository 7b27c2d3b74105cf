# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet import _core
from fastdet.data.augmentation.random_stream import Stream, philox

# Known answers of Philox 4x32-10 that the authors publish with Random123 (kat_vectors): counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
WORD = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert tuple(philox(np.array([counter], np.uint64), key)[0].tolist()) == expected


@given(st.integers(0, 2**64 - 1), st.lists(WORD, min_size=4, max_size=4), st.integers(0, 70))
def test_native_words_are_those_of_the_reference(key, counter, count):
    first, *place = counter
    counters = [[(first + i) % 2**32, *place] for i in range(count)]
    expected = philox(np.array(counters, np.uint64), (key % 2**32, key >> 32)).ravel().tolist()
    assert _core.philox_words(key, first, *place, count) == expected


def slow_philox(counter: list[int], key: list[int]) -> list[int]:
    """The paper's text, with Python's integers."""
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


@given(st.integers(0, 2**64 - 1), WORD, WORD, WORD, st.lists(st.integers(1, 300), min_size=1, max_size=5))
@settings(max_examples=30)
def test_words_are_the_blocks_of_the_counter_in_order(seed, epoch, index, purpose, portions):
    stream = Stream(seed, epoch, index, purpose=purpose)
    got = [word for portion in portions for word in stream.words(portion)]
    blocks = itertools.count()
    expected: list[int] = []
    while len(expected) < len(got):
        expected += slow_philox([next(blocks), purpose, epoch, index], [seed % 2**32, seed >> 32])
    assert got == expected[: len(got)]


FIRST = [0.8063465735154611, 2.78005191378867, 0.422779260320861]
WHOLE = [0, 695, 86, 356]
CHOSEN = [0, 13, 9, 15, 10]
ORDER = [4, 0, 5, 7, 1, 6, 2, 3]


def test_streams_do_not_change():
    """The same on every platform and with every version: other numbers here are other trainings everywhere."""
    stream = Stream(7, 3, 11)
    assert [stream.uniform(), stream.uniform(-2, 3), stream.beta(8, 8)] == FIRST
    assert [stream.integer(10), *stream.integers(1000, 3)] == WHOLE
    assert stream.choice(20, 5) == CHOSEN
    assert stream.permutation(8).tolist() == ORDER


def test_neighbours_differ():
    words = {
        tuple(Stream(seed, epoch, index, purpose=purpose).words(4))
        for seed, epoch, index, purpose in itertools.product(range(3), repeat=4)
    }
    assert len(words) == 81


def test_uniforms_fill_the_interval():
    values = Stream(0, 0, 0).uniforms(20000)
    assert values.min() >= 0 and values.max() < 1
    assert np.abs(np.histogram(values, 10, (0, 1))[0] - 2000).max() < 5 * 2000**0.5
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03
    assert (values * 2.0**53 == np.floor(values * 2.0**53)).all()


def test_integers_have_no_favourites():
    """At 3 * 2^30 a remainder would favour the first third: half of all draws instead of a third."""
    draws = Stream(5, 0, 0).integers(3 * 2**30, 3000)
    thirds = np.bincount(np.array(draws) // 2**30, minlength=3)
    assert np.abs(thirds - 1000).max() < 130
    assert set(Stream(1, 0, 0).integers(6, 200)) == set(range(6))
    assert Stream(1, 0, 0).integer(1) == 0


@pytest.mark.parametrize(("a", "b"), [(1, 1), (8, 8), (32, 32), (2, 5)])
def test_beta_has_its_moments(a, b):
    stream = Stream(2, 0, a)
    values = np.array([stream.beta(a, b) for _ in range(2000)])
    variance = a * b / ((a + b) ** 2 * (a + b + 1))
    assert abs(values.mean() - a / (a + b)) < 4 * (variance / 2000) ** 0.5
    assert values.var() == pytest.approx(variance, rel=0.15)


@given(st.integers(0, 40), st.data())
@settings(max_examples=50)
def test_choices_and_permutations_are_without_repetition(count, data):
    size = data.draw(st.integers(0, count))
    stream = Stream(data.draw(WORD), 0, 0)
    chosen = stream.choice(count, size)
    assert len(set(chosen)) == size and set(chosen) <= set(range(count))
    assert sorted(stream.permutation(count).tolist()) == list(range(count))


def test_all_orders_are_equally_likely():
    stream = Stream(3, 0, 0)
    for draw in (lambda: tuple(stream.choice(3, 3)), lambda: tuple(stream.permutation(3).tolist())):
        counts = dict.fromkeys(itertools.permutations(range(3)), 0)
        for _ in range(1200):
            counts[draw()] += 1
        assert max(abs(count - 200) for count in counts.values()) < 70


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Stream(-1, 0, 0), r"seed must be in 0 .. 2\^64 - 1, got -1"),
        (lambda: Stream(0, 2**32, 0), "epoch must be in"),
        (lambda: Stream(0, 0, -1), "index must be in"),
        (lambda: Stream(0, 0, 0).integer(0), "integers must be below a number"),
        (lambda: Stream(0, 0, 0).choice(3, 4), "needs at most 3 different integers, got 4"),
    ],
)
def test_wrong_arguments(call, text):
    with pytest.raises(ValueError, match=text):
        call()
