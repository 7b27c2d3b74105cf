# SPDX-License-Identifier: Apache-2.0
"""What importing fastdet does, and above all what it does not; what the extension links and exports."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from fastdet import _core

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = sorted({Path(_core.__file__), *Path(_core.__file__).parent.glob("lib/*.so")})
EXPORTS = {"_core": {"PyInit__core"}, "libfastdet_cuda": {"fastdet_cuda_table"}}
# The C and C++ runtimes and nothing else; ld-linux is part of the C library.
NEEDED = r"(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux-[\w-]+)\.so\.\d+"


def python(code: str, **environment: str) -> str:
    """What ``code`` prints in a fresh interpreter; fails the test if it fails."""
    env = {**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_neither_frameworks_nor_cuda():
    loaded = python(
        "import sys, fastdet, fastdet.ops\n"
        "heavy = {'torch', 'PIL', 'cv2', 'cupy', 'scipy', 'safetensors', 'pycocotools', 'tqdm'}\n"
        "mapped = open('/proc/self/maps').read()\n"
        "print(sorted(heavy & set(sys.modules)), [n for n in ('libcuda', 'fastdet_cuda', 'emulated') if n in mapped])"
    )
    assert loaded == "[] []"


def test_numpy_alone_is_enough_for_operators():
    code = (
        "import sys\n"
        "for name in ('torch', 'PIL', 'cv2', 'cupy', 'scipy', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np, fastdet.ops as ops\n"
        "print(ops.nms(np.array([[0, 0, 4, 4], [0, 0, 4, 4]], np.float32), np.ones(2, np.float32), 0.5))"
    )
    assert python(code) == "[0]"


def test_import_starts_nothing():
    code = (
        "import os, sys, numpy\n"
        "events = []\n"
        "watched = ('socket', 'subprocess', 'os.system', 'os.exec', 'os.fork', 'os.posix_spawn', 'urllib', 'shutil')\n"
        "def hook(name, args):\n"
        "    writes = name == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+')\n"
        "    if name.startswith(watched) or writes:\n"
        "        events.append((name, str(args)))\n"
        "sys.addaudithook(hook)\n"
        "threads = len(os.listdir('/proc/self/task'))\n"
        "import fastdet, fastdet.ops\n"
        "print(events, len(os.listdir('/proc/self/task')) - threads)"
    )
    assert python(code) == "[] 0"


def test_import_takes_under_100_ms_beyond_numpy():
    code = (
        "import time, numpy\n"
        "start = time.process_time()\n"
        "import fastdet, fastdet.ops\n"
        "print(time.process_time() - start)"
    )
    assert statistics.median(float(python(code)) for _ in range(5)) < 0.1


def test_the_first_call_may_be_compiled():
    """torch attaches itself while torch.compile traces, and the trace stays valid."""
    pytest.importorskip("torch")
    code = (
        "import fastdet.ops as ops, torch\n"
        "compiled = torch.compile(lambda b, s: ops.nms(b, s, 0.5), fullgraph=True, backend='aot_eager')\n"
        "print(compiled(torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4.0]]), torch.ones(2)).tolist())"
    )
    assert python(code) == "[0]"


NMS_IN_CHILD = """
import os, numpy as np, fastdet.ops as ops
rng = np.random.default_rng(0)
corners = rng.uniform(0, 4000, (20000, 2))
boxes = np.concatenate([corners, corners + 20], 1).astype(np.float32)
scores = rng.random(20000).astype(np.float32)
expected = {before}
child = os.fork()
found = ops.nms(boxes, scores, 0.5)
right = len(found) > 1000 and (expected is None or (found == expected).all())
if child == 0:
    os._exit(0 if right else 1)
print(right, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(os.listdir("/proc/self/task")) > 1)
"""


@pytest.mark.parametrize("before", ["None", "ops.nms(boxes, scores, 0.5)"], ids=["after-import", "after-use"])
def test_fork(before):
    """A child works, whether or not its parent had threads; the parent goes on."""
    assert python(NMS_IN_CHILD.format(before=before), FASTDET_NUM_THREADS="3") == "True 0 True"


def test_pool_ends_with_the_process():
    code = NMS_IN_CHILD.format(before="ops.nms(boxes, scores, 0.5)") + "import sys; sys.stdout.flush()"
    for _ in range(3):
        python(code, FASTDET_NUM_THREADS="4")


def readelf(*arguments: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("readelf (binutils) is not installed")
    return subprocess.run(["readelf", "-W", *arguments], text=True, capture_output=True, check=True).stdout


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_links_only_the_runtimes_of_the_compiler(library):
    dynamic = readelf("-d", str(library))
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert needed and all(re.fullmatch(NEEDED, name) for name in needed), needed
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_exports_and_imports(library):
    symbols = [line.split() for line in readelf("--dyn-syms", str(library)).splitlines() if re.match(r"\s*\d+:", line)]
    named = [(words[-2] if words[-1].startswith("(") else words[-1], words) for words in symbols if len(words) > 7]
    exported = {name.split("@")[0] for name, words in named if words[4] != "LOCAL" and words[6] != "UND"}
    allowed = next(names for prefix, names in EXPORTS.items() if library.name.startswith(prefix))
    assert exported == allowed
    foreign = [name for name, _ in named if re.match(r"_ZNK?(2at|3c10|5torch)|_?omp_|GOMP_|cuda", name)]
    assert not foreign, foreign


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_no_path_of_the_build_inside(library):
    content = library.read_bytes()
    assert str(ROOT).encode() not in content
    assert not re.findall(rb"/[\w./-]*/(?:csrc|pybind11|build)/[\w./-]+", content)
