# SPDX-License-Identifier: Apache-2.0
"""Makes ``harness`` and the tests' case tables importable from the benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ops"))
