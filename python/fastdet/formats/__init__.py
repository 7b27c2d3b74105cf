# SPDX-License-Identifier: Apache-2.0
"""Readers and writers of weight files, on NumPy alone. Nothing found in a file is ever imported or called."""

from __future__ import annotations

from fastdet.formats.errors import FileFormatError
from fastdet.formats.module_tree import ModuleNode, ModuleTree, flatten, is_module, value_of
from fastdet.formats.safetensors_file import read_safetensors, safetensors_bytes
from fastdet.formats.torch_zip import read_torch_zip
from fastdet.formats.unpickle import Record

__all__ = [
    "FileFormatError",
    "ModuleNode",
    "ModuleTree",
    "Record",
    "flatten",
    "is_module",
    "read_safetensors",
    "read_torch_zip",
    "safetensors_bytes",
    "value_of",
]
