"""The shape of the command line: a file per command, help that shows how, one name per thing, and what a log gets."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ummgat import cli
from ummgat.cli import options, terminal
from ummgat.cli.terminal import LINE_EVERY_S, _Lines

HELPERS = {"__init__", "terminal", "options", "bars", "findings", "segmenters"}

ROOT = typer.main.get_command(cli.app)
COMMANDS = {name: command for name, command in ROOT.commands.items() if name != "rate"} | {
    f"rate {name}": command for name, command in ROOT.commands["rate"].commands.items()
}


def run(*arguments):
    return CliRunner().invoke(cli.app, [*arguments], env={"COLUMNS": "250"})


def test_every_command_has_a_file_called_like_it():
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - HELPERS
    assert files == {name.replace("-", "_") for name in ROOT.commands}


def test_commands_are_listed_in_four_groups():
    page = run("-h").stdout
    places = [page.index(f"─ {title} ─") for title in ("Use", "Data", "Train", "Measure")]
    assert places == sorted(places)
    assert {command.rich_help_panel for command in ROOT.commands.values()} == {"Use", "Data", "Train", "Measure"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_the_command_takes(name):
    page = run(*name.split(), "-h")
    assert page.exit_code == 0
    assert page.stdout == run(*name.split(), "--help").stdout
    line = re.search(r"Example: +ummgat (.+?) *$", page.stdout, re.MULTILINE)[1]
    words = shlex.split(line)
    assert words[: len(name.split())] == name.split()
    command = COMMANDS[name]
    command.make_context(name, words[len(name.split()) :])  # raises for an unknown option or a missing argument


def test_one_name_has_one_meaning():
    """Options of one name say the same or are told apart on purpose; what chooses a device is --device everywhere."""
    shown = {}
    for name, command in COMMANDS.items():
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and not parameter.hidden:
                    shown.setdefault(option, []).append(name)
    assert "--accelerator" not in shown
    assert shown["--reference"] == ["complete"]
    assert {"train", "train-segmenter", "complete", "evaluate", "quality", "cross-center"} <= set(shown["--device"])
    walkers = {
        "segment",
        "calibrate",
        "prepare",
        "check",
        "complete",
        "export",
        "evaluate",
        "cross-center",
        "quality",
        "directions",
        "compare",
    }
    assert set(shown["--jobs"]) == walkers


def test_old_names_of_options_still_work():
    for name, old in (("train", "--accelerator"), ("train-segmenter", "--accelerator"), ("prepare", "--reference")):
        (parameter,) = [p for p in COMMANDS[name].params if old in p.opts]
        assert parameter.hidden
    assert options.Accelerator


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_leaves_warnings_and_errors(flag, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal.console, "quiet", False)
    out = tmp_path / "cohort"
    loud = run("doctor")
    assert loud.stdout
    assert run(flag, "doctor").stdout == ""
    failed = run(flag, "check", str(out))
    assert failed.exit_code == 2
    assert "No prepared study found" in failed.stderr


def test_flags_of_all_commands_may_stand_anywhere(monkeypatch):
    seen = []
    monkeypatch.setattr(terminal, "app", lambda args: seen.append(args))
    monkeypatch.setattr("sys.argv", ["ummgat", "check", "cohort", "-q", "--again", "--debug"])
    monkeypatch.setattr(terminal.signal, "signal", lambda *a: None)
    terminal.main()
    assert seen == [["-q", "--debug", "check", "cohort", "--again"]]


def test_a_log_gets_the_first_and_the_last_line_and_few_between(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(terminal, "_quiet", False)
    said = []
    monkeypatch.setattr(terminal.errors, "print", lambda text, **_: said.append(text))
    lines = _Lines("Completing")
    for finished in range(11):
        lines(finished, 10, f"s{finished}" if finished else "")
        clock[0] += LINE_EVERY_S / 2.5
    assert said[0] == "Completing: 0 of 10"
    assert said[-1] == "Completing: 10 of 10 (s10)"
    assert said[1] == "Completing: 3 of 10 (s3), about 84 s left"
    assert len(said) == 5
    _Lines("Completing")(0, 0, "")
    assert len(said) == 5
