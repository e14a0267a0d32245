import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ummgat.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://doi.org/") or (page.parent / target).exists(), target


def documented_commands():
    found = []
    for page in PAGES:
        for line in re.findall(r"^ {4}(?:\.venv/bin/)?ummgat (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            found.append(pytest.param(line.split("#")[0].strip(), id=f"{page.stem}: {line[:40]}"))
    return found


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands_have_the_options_they_show(line):
    command, *rest = line.split()
    page = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert page.exit_code == 0
    for word in rest:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", page.stdout), word


def test_contributing_names_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/[\w/]+\.py)`", text)
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / "src" / "ummgat" / name).is_file()] == []
