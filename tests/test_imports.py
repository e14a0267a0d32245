"""Imports point one way, torch is loaded only where it is needed, and nothing undeclared is imported."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path

import pytest

import ummgat

ROOT = Path(ummgat.__file__).parent

README = (ROOT.parents[1] / "README.md").read_text(encoding="utf-8")


def listed(text):
    """The groups of rooms in README's list, top to bottom: (room, its sentence) for each."""
    block = text.partition("\nsrc/ummgat/\n")[2].partition("```")[0]
    groups = [re.findall(r"^  (\w+)(?:\.py|/) +(.+)$", group, re.MULTILINE) for group in block.split("\n\n")]
    assert all(groups), "a group of rooms is empty or spelled otherwise"
    return groups


LAYERS = (*(tuple(room for room, _ in group) for group in listed(README)), ("__main__",))
"""Each may import from groups above its own, and within itself. The list stands in README, and nowhere else."""

WITHOUT_TORCH = (
    "ummgat",
    "ummgat.core.study",
    "ummgat.core.draw",
    "ummgat.core.config",
    "ummgat.prepare.cohort",
    "ummgat.prepare.images",
    "ummgat.intake.sheet",
    "ummgat.intake.convert",
    "ummgat.core.metrics",
    "ummgat.core.matching",
    "ummgat.phantom",
    "ummgat.cli",
)


OPTIONAL = {
    "quality.code_figures": {"umap"},
    "segment.worker": {"onnxruntime", "nnunetv2"},
    "phantom.dicom": {"pydicom"},
    "intake.headers": {"pydicom"},
    "export.deidentify": {"pydicom"},
    "export.header": {"pydicom"},
    "export.dicom": {"pydicom"},
    "export.seg": {"pydicom"},
}
"""Module → packages of an extra that it uses if they are there; tests of their own show what happens without them."""


def sources():
    """Dotted name below ummgat → syntax tree, the package's own `__init__` left out."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    del found["__init__"]
    return found


def imported(tree):
    """Dotted names of what a module imports anywhere, also inside functions; `from a import b` gives a.b and a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_ways(trees, layers=LAYERS):
    """Every import that does not point upwards in `layers`."""
    row_of = {name: row for row, names in enumerate(layers) for name in names}
    found = []
    for module, tree in trees.items():
        own = module.partition(".")[0]
        for name in imported(tree):
            other = name.removeprefix("ummgat.").partition(".")[0]
            if name.startswith("ummgat.") and other in row_of and other != own and row_of[other] >= row_of[own]:
                found.append(f"{module} imports {name}")
    return found


def cycles(trees):
    """Modules that import each other, directly or not."""
    edges = {
        m: {n.removeprefix("ummgat.") for n in imported(t) if n.startswith("ummgat.")} & set(trees)
        for m, t in trees.items()
    }
    done, found = set(), []

    def visit(module, path):
        if module in path:
            found.append(" → ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for other in sorted(edges[module] - {module}):
                visit(other, [*path, module])
            done.add(module)

    for module in trees:
        visit(module, [])
    return found


def loaded_by(modules, watched):
    """Which of `modules`, imported in turn in a fresh interpreter, is the first to load `watched`; None if none
    does.
    """
    code = (
        "import importlib, sys\n"
        f"for name in {list(modules)!r}:\n"
        "    importlib.import_module(name)\n"
        f"    if {watched!r} in sys.modules:\n"
        "        print(name)\n"
        "        break\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return result.stdout.strip() or None


def declared():
    """Import names of the required dependencies in pyproject.toml."""
    text = (ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    projects = {re.split(r"[<>=!~ \[]", line)[0].lower() for line in tomllib.loads(text)["project"]["dependencies"]}
    return {
        name
        for name, distributions in packages_distributions().items()
        if any(re.sub(r"[-_.]+", "-", d).lower() in projects for d in distributions)
    }


# ---------------------------------------------------------------- one way


def test_imports_point_one_way():
    trees = sources()
    known = [name for names in LAYERS for name in names]
    assert sorted(known) == sorted({module.partition(".")[0] for module in trees}), "README lists each room once"
    assert wrong_ways(trees) == []
    assert cycles(trees) == []


def test_the_package_itself_imports_nothing_of_its_own():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module for node in at_once} == {"importlib", "typing", "ummgat.core.version"}
    assert not list(imported(sources()["core.version"]))


def test_readme_says_of_each_room_what_it_says_itself():
    for room, sentence in (entry for group in listed(README) for entry in group):
        path = ROOT / f"{room}.py" if (ROOT / f"{room}.py").is_file() else ROOT / room / "__init__.py"
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert " ".join(docstring.partition("\n\n")[0].split()) == sentence, room


def test_the_root_holds_almost_no_modules():
    """New code goes into a room."""
    assert len(list(ROOT.glob("*.py"))) <= 4


def test_training_and_completion_do_not_know_each_other():
    closure, waiting, trees = set(), ["completion.scans", "completion.cohort"], sources()
    while waiting:
        module = waiting.pop()
        if module in trees and module not in closure:
            closure.add(module)
            waiting += [name.removeprefix("ummgat.") for name in imported(trees[module]) if name.startswith("ummgat.")]
    assert "model.translate" in closure
    assert not {module for module in closure if module.startswith("train")}
    assert not [n for m, t in trees.items() if m.startswith("train") for n in imported(t) if ".completion" in n]


def test_the_check_of_directions_can_fail():
    study = ast.parse("from pathlib import Path\ndef f():\n    from ummgat.train.loop import train\n")
    wrong = ["core.study imports ummgat.train.loop", "core.study imports ummgat.train.loop.train"]
    assert wrong_ways({"core.study": study}) == wrong
    assert wrong_ways({"phantom": ast.parse("import ummgat.segment")}) == ["phantom imports ummgat.segment"]
    assert wrong_ways({"train": ast.parse("from ummgat import segment")}) == [
        "train imports ummgat.segment"
    ]  # same row
    assert wrong_ways({"train.loop": ast.parse("from ummgat.core.study import Study")}) == []


def test_the_check_of_the_list_can_fail():
    with pytest.raises(AssertionError, match="empty"):
        listed("\nsrc/ummgat/\n  core/ one\n\n  - check\n```")


def test_the_check_of_cycles_can_fail():
    trees = {a: ast.parse(f"import ummgat.model.{b}") for a, b in (*pairwise("abc"), ("c", "a"))}
    trees = {f"model.{name}": tree for name, tree in trees.items()}
    assert cycles(trees) == ["model.a → model.b → model.c → model.a"]


# ---------------------------------------------------------------- without torch


def test_data_can_be_prepared_and_measured_without_torch():
    assert loaded_by(WITHOUT_TORCH, "torch") is None


def test_the_check_of_torch_can_fail():
    """Shown with a package that is quicker to load."""
    assert (
        loaded_by(["ummgat", "ummgat.core.domain", "ummgat.core.study", "ummgat.core.draw"], "nibabel")
        == "ummgat.core.study"
    )


# ---------------------------------------------------------------- required dependencies only


def test_only_required_dependencies_are_imported():
    """Also inside functions: whoever installs without extras must not meet a missing package."""
    allowed = declared() | set(sys.stdlib_module_names) | {"ummgat"}
    for module, tree in sources().items():
        foreign = {name.partition(".")[0] for name in imported(tree)} - allowed - OPTIONAL.get(module, set())
        assert not foreign, f"{module} imports {foreign}"


def test_the_check_of_dependencies_can_fail():
    assert {"torch", "skimage", "lightning_fabric", "nibabel"} <= declared()
    absent = {"pytest", "hypothesis", "xdist", "joblib", "pandas", "nilearn", "sklearn", "tensorboard"}
    assert not absent & declared()


def test_every_module_imports():
    """In a fresh interpreter, where only the dependencies of the dependencies have been imported before."""
    names = [f"ummgat.{name}" for name in sources() if name != "__main__"]
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\nprint('all')"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=600)
    assert result.stdout.strip() == "all", result.stderr


@pytest.mark.parametrize("name", ["complete", "Request", "CompletionReport", "__version__"])
def test_what_the_package_promises_is_there(name):
    assert name in ummgat.__all__
    assert getattr(ummgat, name)
