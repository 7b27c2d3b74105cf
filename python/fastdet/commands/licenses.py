# SPDX-License-Identifier: Apache-2.0
"""``fastdet licenses``: the licence of every part, and whether one of them is not wanted."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

from fastdet import __version__
from fastdet.arguments import Parser
from fastdet.progress import aligned

EXAMPLE = """\
example: fastdet licenses best.pt --fail-on gpl    (exit code 1 when one is GPL, LGPL or AGPL)

The licence of a package is what its metadata says; of a weight file, what it says or its
origin implies."""

# Names of libraries under the GPL that wheels of video packages carry.
GPL_LIBRARIES = ("x264", "x265", "xvidcore", "postproc", "vidstab", "rubberband", "davs2", "xavs", "frei0r")


def run(words: list[str]) -> int:
    """Run the command with ``words``; returns the exit code."""
    parser = Parser(prog="fastdet licenses", description="Licences of fastdet and of what it runs on.", epilog=EXAMPLE)
    parser.add_argument("weights", nargs="*", metavar="W", help="weight files to list too")
    parser.add_argument("--fail-on", metavar="TEXT", help="exit with 1 when a licence contains TEXT (any case)")
    parser.add_argument("--full", action="store_true", help="print the texts of fastdet's own licence and notices too")
    given = parser.parse_args(words)
    rows = [("fastdet", __version__, "Apache-2.0"), *_embedded(), *map(_weights, given.weights), *_packages()]
    print("\n".join(aligned([("part", "version", "licence"), *rows])))
    if given.full:
        for path in _own_texts():
            print(f"\n---- {path.name}\n{path.read_text(encoding='utf-8')}")
    if given.fail_on:
        bad = [name for name, _, licence in rows if given.fail_on.lower() in licence.lower()]
        if bad:
            print(f"fastdet licenses: {given.fail_on!r} is in the licence of {', '.join(bad)}", file=sys.stderr)
            return 1
    return 0


def _embedded() -> list[tuple[str, str, str]]:
    """The weights and pictures inside the package."""
    from fastdet.detector import WEIGHTS

    weights = [(f"weights/{path.name}", "", "Apache-2.0") for path in sorted(WEIGHTS.glob("*.safetensors"))]
    pictures = [(f"weights/{path.name}", "", "MIT (LICENSE-BCCD)") for path in sorted(WEIGHTS.glob("*.jpg"))]
    return weights + pictures


def _weights(path: str) -> tuple[str, str, str]:
    """A weight file: what it says, what its origin implies, or what its architecture is published under."""
    import warnings

    from fastdet import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", models.LicenseWarning)  # the table says it
        module = models.load_file(path)
    licence = module.metadata.get("license", "")
    return path, module.spec.name, licence or f"not stated (published weights: {module.spec.license})"


def _packages() -> list[tuple[str, str, str]]:
    """Packages that fastdet or one of its extras needs, directly or through others, as far as they are installed."""
    try:
        needed = importlib.metadata.requires("fastdet") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        needed = ["numpy", "torch", "safetensors", "pillow", "tqdm", "pyyaml"]
    waiting, found = [_name(requirement) for requirement in needed], {"fastdet": None}
    rows = []
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = None
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        rows.append((name, package.version, _licence(package.metadata)))
        rows += [(f"{name}: {library}", "", "GPL") for library in _gpl_libraries(package)]
        waiting += [_name(each) for each in package.requires or [] if "extra ==" not in each]
    return sorted(rows)


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _gpl_libraries(package: importlib.metadata.Distribution) -> list[str]:
    """Shared libraries inside a package whose name is that of a project under the GPL."""
    names = {file.name for file in package.files or [] if re.search(r"\.(so|dll|dylib)(\.|$)", file.name)}
    return sorted(name for name in names if name.removeprefix("lib").startswith(GPL_LIBRARIES))


def _licence(metadata: importlib.metadata.PackageMetadata) -> str:
    """The shortest statement that the metadata makes: expression, classifiers, first line of the free text."""
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    kinds = [
        line.rsplit(" :: ", 1)[-1] for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    text = metadata["License"].strip().splitlines() if "License" in metadata else []
    return "; ".join(kinds) or (text[0][:80] if text else "not stated")


def _own_texts() -> list[Path]:
    """LICENSE and NOTICE as installed, or in the checkout, and the licence of the pictures."""
    from fastdet.detector import WEIGHTS

    try:
        files = importlib.metadata.files("fastdet") or []
        found = [Path(str(each.locate())) for each in files if each.name in ("LICENSE", "NOTICE")]
    except importlib.metadata.PackageNotFoundError:
        found = []
    root = Path(__file__).resolve().parents[3]
    texts = [*(found or [root / "LICENSE", root / "NOTICE"]), *sorted(WEIGHTS.glob("LICENSE*"))]
    return [path for path in texts if path.is_file()]
