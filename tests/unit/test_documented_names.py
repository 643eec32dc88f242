"""Paths, links and modules that the documentation and docstrings name are there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("aihub", "pipelines", "deployments", "training", "tests", "docs", "configs", "scripts", "benchmarks", "examples")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(
    path
    for top in FOLDERS
    for suffix in ("*.py", "*.yaml", "*.sh")
    for path in (ROOT / top).rglob(suffix)
    if path.name != Path(__file__).name
)
PATH = re.compile(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]*[\w/])(?![\w*{{<])")
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)")
MODULE = re.compile(r"`((?:aihub|pipelines|deployments|training)(?:\.[a-z]\w*)+)`")


def names_of(page: Path) -> Iterator[str]:
    """What a page or a source names and is not there."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        yield from (link for link in LINK.findall(text) if not (page.parent / link).exists())
    yield from (path for path in PATH.findall(text) if not (ROOT / path).exists())
    yield from (name for name in MODULE.findall(text) if not is_module(name))


def is_module(name: str) -> bool:
    """Whether a dotted name is a module, a package, or a name inside a module."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    module = path.parent / "__init__.py" if path.parent.is_dir() else path.parent.with_suffix(".py")
    return module.exists() and re.search(rf"\b{path.name}\b", module.read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    assert list(names_of(page)) == []


def test_what_sources_name_exists() -> None:
    missing = {str(path.relative_to(ROOT)): found for path in SOURCES if (found := list(names_of(path)))}
    assert missing == {}


def test_what_is_missing_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("See [it](gone.md), `aihub/gone.py`, `docs/adr`, `aihub.core.files` and `aihub.gone.part`.", encoding="utf-8")
    assert list(names_of(page)) == ["gone.md", "aihub/gone.py", "aihub.gone.part"]
