"""A line that is exempt from a check says why."""

import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("aihub", "pipelines", "deployments", "training", "scripts", "examples", "tests")
_EXEMPTION = re.compile(r"#\s*(noqa(:\s*[A-Z0-9, ]*[A-Z0-9])?|type:\s*ignore(\[[a-z, -]+\])?)")


def without_reason(path: Path) -> list[int]:
    """Lines whose exemption ends the comment."""
    with tokenize.open(path) as file:
        comments = [token for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.COMMENT]
    return [
        comment.start[0]
        for comment in comments
        if _EXEMPTION.match(comment.string) and not re.search(r"\w", _EXEMPTION.sub("", comment.string))
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_exemptions_have_a_reason(folder: str) -> None:
    found = {path: without_reason(path) for path in sorted((ROOT / folder).rglob("*.py"))}
    assert {str(path.relative_to(ROOT)): lines for path, lines in found.items() if lines} == {}


def test_a_missing_reason_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "a = 1  # noqa: S101\nb = 2  # type: ignore[misc]\nc = 3  # noqa: S608, E501 - constants\n"
        "d = 4  # type: ignore[misc]  # Serve awaits it\ne = 5  # type: ignore[misc]  # noqa: S101\n"
        'f = "# noqa: S101"\ng = 6  # noqa\n',
        encoding="utf-8",
    )
    assert without_reason(module) == [1, 2, 5, 7]
