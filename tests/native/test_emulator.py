# SPDX-License-Identifier: Apache-2.0
"""The emulator's own tests: correct kernels give the right numbers in silence, planted bugs are caught.

``planted/*.cu`` hold the kernels; each mechanism must catch what it is there for: the three orders and TSan the races,
the scheduler the divergence, ASan and UBSan the bad accesses.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import build
import run_sanitized

ORDERS = ("forward", "reverse", "shuffled:1", "shuffled:2")
POISON = -842150451  # 0xCDCDCDCD
FULL = 0xFFFFFFFF
SOURCES = sorted((Path(__file__).parent / "planted").glob("*.cu"))


@pytest.fixture(scope="session")
def program():
    """Builds the program of planted kernels in a variant and returns a function that runs one case."""
    paths: dict[str, Path] = {}

    def run(case: str, variant: str = "plain", order: str = "forward") -> subprocess.CompletedProcess[str]:
        if variant not in paths:
            reason = build.available(variant)
            if reason is not None:
                pytest.skip(reason)
            paths[variant] = build.build_program("planted", SOURCES, variant)
        options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "atexit_sleep_ms=0"}
        environment = {**os.environ, **options, "FASTDET_EMU_ORDER": order}
        return subprocess.run([paths[variant], case], text=True, capture_output=True, timeout=120, env=environment)

    return run


def numbers(done: subprocess.CompletedProcess[str]) -> list[int]:
    assert done.returncode == 0, done.stdout + done.stderr
    return [int(word) for word in done.stdout.split()]


def signed(bits: int) -> int:
    return bits - (1 << 32) if bits >= 1 << 31 else bits


def lanes(members) -> int:
    return signed(sum(1 << lane for lane in members))


def shuffled(lane: int, kind: str, operand: int, width: int = 32) -> int:
    """The lane that a shuffle reads, worked out from CUDA's description, not from the emulator's code."""
    group = lane // width * width
    if kind == "idx":
        return group + operand % width
    source = {"up": lane - operand, "down": lane + operand, "xor": lane ^ operand}[kind]
    if kind == "up":
        return source if source >= group else lane
    return source if source < group + width else lane


def expected_shuffles() -> list[int]:
    rows = []
    for t in range(32):
        rows += [shuffled(t, "idx", t + 3), shuffled(t, "idx", 13, 8), shuffled(t, "up", 5), shuffled(t, "up", 3, 16)]
        rows += [shuffled(t, "down", 7), shuffled(t, "down", 2, 4), shuffled(t, "xor", 9), shuffled(t, "xor", 12, 8)]
        rows += [shuffled(t, "xor", 1), ((1 << 40) + 31) >> 10]
    return rows


def expected_votes() -> list[int]:
    rows = []
    for t in range(64):
        first = t // 32 * 32
        warp = range(first, first + 32)
        rows += [lanes(i - first for i in warp if i % 3 == 0), int(40 in warp), int(first == 0)]
        rows += [lanes(i - first for i in warp if i // 5 == t // 5), 10, 1, 1]
    return rows


def expected_lane_groups() -> list[int]:
    values = list(range(32))
    for _ in range(3):
        values[:8] = [values[t] + values[t ^ 1] for t in range(8)]
    values[8:24] = [31 - t for t in range(8, 24)]
    values[24:] = [lanes(i for i in range(24, 32) if i // 3 == t // 3) for t in range(24, 32)]
    return values


def expected_atomics() -> list[int]:
    threads = [*range(32), *range(32)]
    out = [sum(threads), -64, max(5 * t % 61 for t in threads), -31, 64, 128, 0, 0]
    return [*out, *[1] * 64, (1 << 20) - 1, 0, 64 % 7, 64 << 33, 64]


def expected_indices() -> list[int]:
    return [100 * block + 23 - thread for block in range(12) for thread in range(24)]


def expected_arithmetic() -> list[int]:
    bits = [8, 64, 4, 0, 31, 32, 63, 64, 1 << 31]  # popc, popcll, ffs, clz, clzll, brev
    conversions = [2, 4, -2, -3, 3, 2**31 - 1, 0, 0, 0x3F800000]  # to even, saturating, NaN to 0
    return [*bits, *conversions, 1, 2, 7, 3, 0x07050301, 3, 1]


CORRECT = {
    "block_sum": [sum(range(5000))],
    "broadcast": [15] * 192,
    "lane_groups": expected_lane_groups(),
    "shuffles": expected_shuffles(),
    "votes": expected_votes(),
    "atomics": expected_atomics(),
    "last_block": [10 * t for t in range(32)],
    "indices": expected_indices(),
    "arithmetic": expected_arithmetic(),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CORRECT)
def test_correct_kernels_compute_the_same_in_every_order(program, case, order):
    assert numbers(program(case, "plain", order)) == CORRECT[case]


@pytest.mark.parametrize("variant", ["O0", "asan", "tsan", "ucontext"])
def test_correct_kernels_are_silent_in_every_build(program, variant):
    for case, expected in CORRECT.items():
        done = program(case, variant, "shuffled")
        assert numbers(done) == expected, case
        assert done.stderr == "", case


@pytest.mark.parametrize(
    "case", ["missing_barrier", "one_barrier_broadcast", "warp_synchronous", "blocks_without_atomics"]
)
def test_orders_disagree_about_races(program, case):
    results = {tuple(numbers(program(case, "plain", order))) for order in ORDERS}
    assert len(results) > 1


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize(
    "case",
    ["missing_barrier", "one_barrier_broadcast", "warp_synchronous", "shuffle_as_barrier", "blocks_without_atomics"],
)
def test_tsan_reports_races_in_either_order(program, case, order):
    done = program(case, "tsan", order)
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert f"{case}_kernel" in done.stderr
    assert "races.cu" in done.stderr


DIVERGENCE = {
    "divergent_shuffle": "divergent lanes: lane",
    "skipped_shuffle": "mask 0xffffffff names",
    "shuffle_from_outside": "lane 8 reads lane 16, which is outside the mask 0x0000ffff",
    "mask_without_caller": "mask 0x0000ffff",
    "different_masks": "0xffff",
    "partial_warp": "names lane 16, which the block does not have",
    "divergent_barrier": "divergent barrier: thread (",
    "early_return": "ended",
    "deadlock": "no thread can go on",
    "odd_width": "width must be a power of two up to 32, got 12",
}


@pytest.mark.parametrize("case", DIVERGENCE)
def test_scheduler_reports_divergence_in_every_order(program, case):
    for order in ORDERS:
        done = program(case, "plain", order)
        assert done.returncode == 3, done.stdout
        assert DIVERGENCE[case] in done.stdout
        assert f"error: {case}_kernel: " in done.stdout
        for part in ("; block (", "thread (", "tests/native/planted/divergence.cu:"):
            assert part in done.stdout, f"the message must name {part}"


def test_a_failed_launch_is_reported_alike_by_instrumented_builds(program):
    for variant in ("asan", "tsan"):
        for case in ("divergent_shuffle", "early_return", "deadlock"):
            done = program(case, variant)
            assert done.returncode == 3, done.stdout + done.stderr
            assert DIVERGENCE[case] in done.stdout
            assert done.stderr == ""


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("empty_grid", "grid (0, 1, 1), block (32, 1, 1), 0 bytes of dynamic shared memory failed: the grid is empty"),
        ("huge_block", "block (64, 32, 1), 0 bytes of dynamic shared memory failed: the block is too large"),
        ("huge_shared", "the shared memory is out of range"),
        ("too_much_static", "more static shared memory than a block has"),
    ],
)
def test_impossible_launches_are_refused(program, case, message):
    done = program(case)
    assert done.returncode == 3
    assert message in done.stdout


@pytest.mark.parametrize(
    ("case", "array"),
    [
        ("dynamic_overrun", "dynamic shared memory"),
        ("static_overrun", "shared array tile"),
        ("pointer_overrun", "shared array tile"),
    ],
)
def test_plain_build_sees_writes_behind_shared_arrays(program, case, array):
    done = program(case)
    assert done.returncode == 3
    assert f"bytes behind the end of the {array} were written" in done.stdout


@pytest.mark.parametrize(
    ("case", "report"),
    [
        ("dynamic_overrun", "AddressSanitizer: use-after-poison"),
        ("dynamic_overread", "AddressSanitizer: use-after-poison"),
        ("pointer_overrun", "AddressSanitizer: use-after-poison"),
        ("global_overrun", "AddressSanitizer: heap-buffer-overflow"),
        ("static_overrun", "runtime error: index 32 out of bounds for type 'int [32]'"),
        ("misaligned_vector", "misaligned address"),
        ("index_overflow", "runtime error: signed integer overflow: 1048576 * 4096"),
    ],
)
def test_sanitizers_stop_at_bad_accesses(program, case, report):
    done = program(case, "asan")
    assert done.returncode not in (0, 3)
    assert report in done.stderr
    assert "bad_memory.cu" in done.stderr


@pytest.mark.parametrize(
    ("variant", "case", "report"),
    [
        ("tsan", "missing_barrier", "WARNING: ThreadSanitizer: data race"),
        ("tsan", "broadcast", ""),
        ("asan", "dynamic_overrun", "AddressSanitizer: use-after-poison"),
        ("asan", "index_overflow", "runtime error: signed integer overflow"),
        ("asan", "broadcast", ""),
    ],
)
def test_sanitizers_work_inside_an_ordinary_python(tmp_path, variant, case, report):
    """What run_sanitized.py relies on: bugs in the loaded library are reported, Python itself is not."""
    reason = build.available(variant)
    if reason is not None:
        pytest.skip(reason)
    library = build.build_program("libplanted.so", SOURCES, variant, shared=True)
    code = f"import ctypes, numpy; ctypes.CDLL({str(library)!r}).planted_run(b{case!r})"
    environment = run_sanitized.environment(variant, tmp_path / "report")
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=120, env=environment)
    reported = done.stderr + "".join(path.read_text() for path in tmp_path.glob("report.*"))
    assert report in reported
    assert (done.returncode != 0) == bool(report)
    if not report:
        assert reported == ""


def test_shared_memory_is_poisoned(program):
    assert numbers(program("uninitialised_shared")) == [POISON] * 32


def test_unknown_orders_are_refused(program):
    done = program("broadcast", order="sideways")
    assert done.returncode == 3
    assert "FASTDET_EMU_ORDER must be forward, reverse, shuffled or shuffled:SEED, got sideways" in done.stdout


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("out[0] = static_cast<int>(__activemask());", "deleted function"),
        ("__shared__ int tile[32]; out[0] = tile[0];", "declare shared memory with FD_SHARED"),
        ("unsigned long* wide = nullptr; atomicAdd(wide, 1ul);", "no atomicAdd of it"),
    ],
)
def test_what_a_kernel_must_not_use_does_not_compile(tmp_path, body, message):
    reason = build.available()
    if reason is not None:
        pytest.skip(reason)
    source = tmp_path / "kernel.cu"
    source.write_text(f'#include "core/launch.h"\n__global__ void kernel(int* out) {{ {body} }}\n')
    assert message in build.try_compile(source)
