# SPDX-License-Identifier: Apache-2.0
"""House rules for Python, as functions of a path and a text; each returns what it found broken."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePath

# Each line may import from those above it and from itself. What stands left of no line is no module of ours.
LAYERS = (
    # files, formats, command line arguments, progress: standard library and NumPy
    ("_core", "__version__", "files", "formats", "arguments", "progress"),
    ("ops",),
    # pictures and results
    ("boxes", "detections", "drawing", "fast_jpeg", "image_files", "sources", "trace"),
    ("assign", "losses"),
    ("models",),
    ("data", "evaluation", "train"),
    # adapters for other people's detectors: nothing imports them, the package itself shows two of their functions
    ("integrations",),
    # the one object that ties a model to pictures
    ("detector",),
    ("commands", "cli", "__main__"),
    # for tests, inside and outside: may look at everything
    ("testing",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# The package itself (`from fastdet import Detector`) is what users see of the detector.
LEVEL["__init__"] = LEVEL["detector"]

# Where a library of weight may be imported at module level; elsewhere inside the function that needs it.
AT_MODULE_LEVEL = {
    "torch": (
        "ops/_torch.py",
        "ops/_torch_rep_conv.py",
        "ops/_torch_rep_conv_train.py",
        "assign.py",
        "losses.py",
        "models/",
        "train/",
        "integrations/",
    ),
    "PIL": ("data/",),
    "safetensors": ("train/",),
}
HEAVY = (*AT_MODULE_LEVEL, *"pycocotools scipy tqdm onnx onnxruntime tensorrt cupy".split())
HEAVY += ("torchvision", "transformers", "mmcv")
NEVER = {
    "cv2": "OpenCV is for tests and benchmarks only",
    "pickle": "files are data, never code",
    "marshal": "files are data, never code",
    "shelve": "files are data, never code",
    "dill": "files are data, never code",
    **dict.fromkeys(
        "socket socketserver ssl urllib http ftplib smtplib xmlrpc webbrowser requests httpx aiohttp".split(),
        "the package opens no connection",
    ),
    "subprocess": "the package starts no process",
}
PRINTING = ("commands/", "cli.py", "__main__.py", "progress.py")
# Modules of `models` that belong to all families; whatever else lies there is one.
SHARED_BY_FAMILIES = (
    "__init__ blocks c3k2_tables heads two_head anchor_head classify_head distance_head task_specs fuse graph"
    " cpu_graph cpu_lowering graph_model complexity keys model_spec detection_model checkpoint licences recognition"
    " refine registry rep_conv unfilled"
).split()
FORBIDDEN_NAMES = ("utils", "misc", "helpers", "common")

MAX_FUNCTION = 80


def layers(path: PurePath, text: str) -> list[str]:
    """Imports go down the table of layers only; families of models do not import each other."""
    here = path.parts[0].removesuffix(".py")
    if here not in LEVEL:
        return [f"{path}: {here} has no place in LAYERS of tests/house_python.py"]
    faults = []
    for line, target, _ in _imports(ast.parse(text), path):
        parts = target.split(".")
        if parts[0] != "fastdet" or len(parts) == 1:
            continue
        there = parts[1] if parts[1] in LEVEL else "__init__"
        if LEVEL[there] > LEVEL[here]:
            faults.append(f"{path}:{line}: {here} may not import {target}, which lies above it")
        if there == "integrations" and here not in ("integrations", "__init__", "testing"):
            faults.append(f"{path}:{line}: {here} may not import {target}: nothing knows the adapters")
        family, other = _family(path.parts), _family(parts[1:])
        if family and other and family != other:
            faults.append(f"{path}:{line}: family {family} may not import {target}; share it in blocks.py or heads.py")
    return faults


def imports(path: PurePath, text: str) -> list[str]:
    """Nothing forbidden is imported; heavy libraries at module level only where LAYERS expects them."""
    faults = []
    for line, target, at_module_level in _imports(ast.parse(text), path):
        root = target.split(".")[0]
        if root in NEVER:
            faults.append(f"{path}:{line}: imports {root}: {NEVER[root]}")
        allowed = any(str(path).startswith(place) for place in AT_MODULE_LEVEL.get(root, ()))
        if root in HEAVY and at_module_level and not allowed:
            faults.append(f"{path}:{line}: {root} must be imported inside the function that needs it")
    return faults


def calls(path: PurePath, text: str) -> list[str]:
    """The library does not print, exit, assert, run text, read pickles, or call what is known to be broken."""
    faults = []
    for node in ast.walk(ast.parse(text)):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Assert) and path.parts[0] != "testing":
            faults.append(f"{where}: assert; raise ValueError, TypeError or RuntimeError")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ("eval", "exec", "compile", "__import__", "breakpoint", "os.system", "os.popen", "torch.load"):
            faults.append(f"{where}: calls {name}")
        if name == "np.einsum":
            faults.append(f"{where}: np.einsum reads outside of arrays where it sums nothing; write * and sum, or @")
        if name == "print" and not str(path).startswith(PRINTING):
            faults.append(f"{where}: prints; only the command line does")
        if name in ("exit", "quit", "sys.exit", "os._exit") and path.name not in ("__main__.py", "cli.py"):
            faults.append(f"{where}: calls {name}")
        if any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords):
            faults.append(f"{where}: reads pickles")
    return faults


def functions(path: PurePath, text: str) -> list[str]:
    """No function is longer than 80 lines, its docstring not counted."""
    faults = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1 - _docstring_lines(node)
            if lines > MAX_FUNCTION:
                faults.append(
                    f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {MAX_FUNCTION} are allowed"
                )
    return faults


def documented(path: PurePath, text: str) -> list[str]:
    """Modules, public classes and functions have docstrings; annotations are postponed in every module."""
    tree = ast.parse(text)
    faults = [] if ast.get_docstring(tree) else [f"{path}: the module has no docstring"]
    if len(tree.body) > 1 and "from __future__ import annotations" not in text and path.name != "__main__.py":
        only_text = all(isinstance(node, (ast.Expr, ast.Assign)) for node in tree.body)
        if not only_text:
            faults.append(f"{path}: from __future__ import annotations is missing")
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                faults.append(f"{path}:{node.lineno}: {node.name} has no docstring")
            if isinstance(node, ast.FunctionDef) and not _annotated(node):
                faults.append(f"{path}:{node.lineno}: {node.name} has arguments or a result without a type")
    return faults


def names(path: PurePath, _: str) -> list[str]:
    """A file is named after what it holds."""
    parts = [part.removesuffix(".py").strip("_") for part in path.parts]
    return [f"{path}: {part} says nothing about what is in it" for part in parts if part in FORBIDDEN_NAMES]


def standard_library_only(path: PurePath, text: str) -> list[str]:
    """The first layer knows the standard library and NumPy; more only inside the function that needs it."""
    if path.parts[0].removesuffix(".py") not in LAYERS[0]:
        return []
    found = _imports(ast.parse(text), path)
    roots = {(line, target.split(".")[0]) for line, target, at_module_level in found if at_module_level}
    known = {*sys.stdlib_module_names, *dir(builtins), "fastdet", "numpy"}
    return [f"{path}:{line}: imports {root}" for line, root in sorted(roots) if root not in known]


def _imports(tree: ast.Module, path: PurePath) -> Iterator[tuple[int, str, bool]]:
    """Line, dotted target and whether it runs at import, of every import; ``TYPE_CHECKING`` blocks do not run."""
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        for inner in ast.walk(node)
    }
    package = ("fastdet", *path.parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) not in lazy
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                deep = module == "fastdet" or module.endswith(".models")
                yield node.lineno, f"{module}.{alias.name}" if deep else module, id(node) not in lazy


def _family(parts: Sequence[str]) -> str | None:
    """The family a module belongs to: what lies under ``models`` and is not shared."""
    name = parts[1].removesuffix(".py") if len(parts) > 1 and parts[0] == "models" else ""
    return name if name and not name.startswith("_") and name not in SHARED_BY_FAMILIES else None


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return (first.end_lineno or 0) - first.lineno + 1


def _annotated(node: ast.FunctionDef) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return node.returns is not None and all(a.annotation is not None for a in arguments)
