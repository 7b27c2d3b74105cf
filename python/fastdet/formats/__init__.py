# SPDX-License-Identifier: Apache-2.0
"""Readers and writers of weight files, on NumPy alone. Nothing found in a file is ever imported or called."""

from __future__ import annotations

from fastdet.formats.errors import FileFormatError, shown
from fastdet.formats.file_kinds import kind_of, open_file
from fastdet.formats.legacy import is_legacy
from fastdet.formats.module_tree import ModuleNode, ModuleTree, attributes_of, flatten, is_module, value_of
from fastdet.formats.safetensors_file import read_safetensors, safetensors_bytes
from fastdet.formats.strict_json import strict_json
from fastdet.formats.torch_file import read_torch
from fastdet.formats.unpickle import Global, Record

__all__ = [
    "FileFormatError",
    "Global",
    "ModuleNode",
    "ModuleTree",
    "Record",
    "attributes_of",
    "flatten",
    "is_legacy",
    "is_module",
    "kind_of",
    "open_file",
    "read_safetensors",
    "read_torch",
    "safetensors_bytes",
    "shown",
    "strict_json",
    "value_of",
]
