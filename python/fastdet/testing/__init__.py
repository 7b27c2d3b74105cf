# SPDX-License-Identifier: Apache-2.0
"""Checks of fastdet against numbers computed elsewhere, for its own tests and for anybody else's."""

from __future__ import annotations

from fastdet.testing.parity import VECTORS, run_case, run_vector, shared_dir

__all__ = ["VECTORS", "run_case", "run_vector", "shared_dir"]
