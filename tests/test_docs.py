# SPDX-License-Identifier: Apache-2.0
"""Documentation: links lead somewhere, and Python shown is Python that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "csrc/*.md", "benchmarks/*.md", "third_party/*.md")
    for path in ROOT.glob(pattern)
)


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_is_found():
    page = ROOT / "README.md"
    assert broken_links(page, "[a](docs/none.md) [b](#nowhere) [c](Makefile) [d](docs/install.md#cuda)") == [
        "docs/none.md",
        "#nowhere",
    ]


def snippets() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)):
            found.append((f"{page.relative_to(ROOT)}-{number}", code))
    return found


@pytest.mark.parametrize(("name", "code"), snippets(), ids=[name for name, _ in snippets()])
def test_python_runs(name, code, tmp_path, monkeypatch):
    """What cannot run here, for want of a data set or a device, is marked ``py`` in the page."""
    monkeypatch.chdir(tmp_path)
    if re.search(r"\btorch\b", code):
        pytest.importorskip("torch")
    for package in re.findall(r"^(?:import|from) (transformers|torchvision)\b", code, flags=re.M):
        pytest.importorskip(package, reason=f"{package} is not installed, or does not load beside this torch")
    exec(compile(code, name, "exec"), {"__name__": name})


def test_every_variable_is_documented():
    text = (ROOT / "docs" / "backends.md").read_text()
    sources = [*ROOT.glob("python/**/*.py"), *ROOT.glob("csrc/**/*.cpp"), ROOT / "pyproject.toml"]
    used = {name for path in sources for name in re.findall(r'["\'](FASTDET_[A-Z_]+)["\']', path.read_text())}
    used -= {"FASTDET_EMULATED"}
    assert used and all(f"`{name}`" in text for name in used), used
