"""The Python examples in docs/*.md run, in order, each file with one set of names, and their asserts hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if "```python\n" in page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[str]:
    """The code, each block with empty lines before it so that errors name the line of the page."""
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * (text[: match.start()].count("\n") + 1) + match.group(1)
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def test_there_are_examples() -> None:
    assert "engine.md" in [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), names)
