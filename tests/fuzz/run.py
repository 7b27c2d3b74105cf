# SPDX-License-Identifier: Apache-2.0
"""Fuzzes readers of weights and labels: ``python tests/fuzz/run.py TARGET --seconds 60`` (targets: see targets.py).

With Atheris installed (``pip install atheris``) inputs are chosen by coverage; without it they are mutations of the
seeds and of each other. A find is written to ``fuzz-find-<hash>`` and ends the run with 1; else counts are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
import traceback
from pathlib import Path

import numpy as np

TARGETS = ["zip", "zip-crc", "opcodes", "safetensors", "labels", "voc", "yaml", "coco"]
TARGETS += ["labels-native", "coco-native", "header", "index"]
TOKENS = [
    b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"\xff\xff\xff\xff", b"\x00" * 8, b"data.pkl", b"cos\nsystem\n",
    b"\x80\x02", b"R", b"b", b"\x81", b"Q", b"(", b"t", b"}", b"]", b"u", b"e", b"h\x00", b"q\x00", b"\x93", b"\x94",
    b"2", b"0", b".", b"c__builtin__\neval\n", b"ccollections\nOrderedDict\n", b"c__builtin__\nset\n",
    b"ctorch\nSize\n", b"\x8a\x09", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nBFloat16Storage\n",
    b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f",
    b"<!DOCTYPE a>", b"<!ENTITY a 'b'>", b"&a;", b"<![CDATA[", b"&a ", b"*a", b"<<: ", b"!!python/name:os ", b"!!int ",
    b"1:1", b"NaN", b"1e999", b"\n", b" ", b"-1", b"[", b"{", b"null", b"true", b'"id": ',
    b"\\ud83d", b"\\u0061", b"\xc3\xa9", b"-0", b"1E+2", b"Exif\0\0", b"\xff\xe1", b"\xff\xc2", b"eXIf",
]  # fmt: skip


def mutate(data: bytes, random: np.random.RandomState, pool: list[bytes]) -> bytes:
    """``data`` with one to four changes: bytes, bits, cuts, repeats, tokens, or a piece of another input."""
    out = bytearray(data)
    for _ in range(random.randint(1, 5)):
        kind = random.randint(7)
        at = random.randint(len(out) + 1)
        length = random.randint(1, 1 + min(16, max(len(out), 1)))
        if kind == 0 and out:
            out[at % len(out)] = random.randint(256)
        elif kind == 1 and out:
            out[at % len(out)] ^= 1 << random.randint(8)
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[at : at + length]
        elif kind == 4:
            token = TOKENS[random.randint(len(TOKENS))]
            out[at : at + (len(token) if random.rand() < 0.5 else 0)] = token
        elif kind == 5:
            other = pool[random.randint(len(pool))]
            start = random.randint(len(other) + 1)
            out[at : at + length] = other[start : start + length]
        else:
            del out[at : len(out) if random.rand() < 0.2 else at + 1]
    return bytes(out[: 1 << 16])


def mutation_loop(check, seeds: list[bytes], seconds: float, seed: int, max_runs: int | None = None) -> dict[str, int]:
    """Run ``check`` on mutations until time or runs are over; inputs that are still accepted join the pool."""
    random = np.random.RandomState(seed)
    pool, counts = list(seeds), {"runs": 0, "accepted": 0}
    end = time.monotonic() + seconds
    while time.monotonic() < end and counts["runs"] != max_runs:
        source = seeds if random.rand() < 0.5 else pool  # what is accepted tends to become short and dull
        data = mutate(source[random.randint(len(source))], random, pool)
        counts["runs"] += 1
        try:
            accepted = check(data) is not None
        except BaseException:
            save(data)
            raise
        if accepted:
            counts["accepted"] += 1
            if len(pool) < 500:
                pool.append(data)
            else:
                pool[random.randint(len(seeds), len(pool))] = data
    return counts


def save(data: bytes) -> Path:
    """Write a find beside where the fuzzer was started."""
    path = Path(f"fuzz-find-{hashlib.sha256(data).hexdigest()[:12]}")
    path.write_bytes(data)
    return path


def _with_atheris(name: str, seconds: int, seed: int, corpus: Path | None) -> None:
    """Does not return: libFuzzer ends the process."""
    import tempfile

    import atheris

    with atheris.instrument_imports(include=["fastdet.formats", "fastdet.data"]):
        import seeds
        import targets
    folder = corpus or Path(tempfile.mkdtemp(prefix="fastdet-corpus-"))
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(seeds.of_target(name)):
        (folder / f"seed{i}").write_bytes(data)
    dictionary = folder.with_name(f"{folder.name}.dict")
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"' for token in TOKENS)
    dictionary.write_text("\n".join(lines) + "\n")
    watch = targets.Watch()
    arguments = [
        f"-max_total_time={seconds}",
        f"-seed={seed or 1}",
        "-max_len=65536",
        "-rss_limit_mb=1024",
        "-timeout=5",
    ]
    arguments += [f"-dict={dictionary}", "-print_final_stats=1", str(folder)]
    atheris.Setup([sys.argv[0], *arguments], lambda data: targets.check(watch, targets.TARGETS[name], data) and None)
    atheris.Fuzz()


def main() -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["auto", "atheris", "loop"], default="auto")
    parser.add_argument(
        "--corpus", type=Path, help="folder that Atheris keeps its inputs in; a temporary one by default"
    )
    given = parser.parse_args()
    engine = given.engine
    if engine == "auto":
        try:
            import atheris  # noqa: F401

            engine = "atheris"
        except ImportError:
            engine = "loop"
    print(f"fuzz {given.target}: {engine}, {given.seconds} s, seed {given.seed}", flush=True)
    if engine == "atheris":
        _with_atheris(given.target, given.seconds, given.seed, given.corpus)
    import seeds
    import targets

    watch = targets.Watch()
    start = time.monotonic()
    try:
        counts = mutation_loop(
            lambda data: targets.check(watch, targets.TARGETS[given.target], data),
            seeds.of_target(given.target),
            given.seconds,
            given.seed,
        )
    except Exception:
        traceback.print_exc()
        print(f"fuzz {given.target}: a find after {time.monotonic() - start:.0f} s, written to fuzz-find-*", flush=True)
        return 1
    print(f"fuzz {given.target}: {counts['runs']} inputs, {counts['accepted']} accepted, no find", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
