import ast
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ummgat
from ummgat.cli import app

ROOT = Path(__file__).parents[1]
PACKAGE = Path(ummgat.__file__).parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LISTED = re.findall(r"^  (\w+)(?:\.py|/) ", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
"""Modules and subpackages in the order of the README's list."""


def imports():
    """(importing, imported) top-level names inside the package, imports inside functions included."""
    for path in PACKAGE.rglob("*.py"):
        importer = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("ummgat"):
                continue
            names = [a.name for a in node.names] if node.module == "ummgat" else [node.module.split(".")[1]]
            yield from ((importer, name) for name in names if name != importer)


def test_the_readme_lists_every_module_once():
    names = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert sorted(LISTED) == sorted(names - {"__init__", "__main__"})


def test_imports_go_one_way_through_the_list():
    place = {name: i for i, name in enumerate(LISTED)}
    wrong = [f"{a} imports {b}" for a, b in imports() if a in place and b in place and place[b] > place[a]]
    assert wrong == []


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
