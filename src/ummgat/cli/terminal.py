"""What all commands share: the app, errors as one message and an exit code, tables, bars.

Exit codes: 0 done; 1 some studies failed and the rest is done, or training had to stop; 2 nothing could be done as
asked; 130 stopped with Ctrl-C, 143 by SIGTERM.
"""

import functools
import io
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ummgat.core.version import __version__

MANY = 40
"""Rows of a table that are printed; the rest is counted."""

HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="ummgat",
    help="Complete missing MRI sequences and align centers with one generative model trained on unpaired data.",
    no_args_is_help=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
)
# No markup: subjects and paths may hold square brackets.
console = Console(markup=False, highlight=False, emoji=False)
errors = Console(stderr=True, markup=False, highlight=False, emoji=False)
_debug = _quiet = False
_by_sigterm = False


ANYWHERE = ("--debug", "-q", "--quiet", "-v", "--verbose")
"""Options of all commands."""


def main() -> None:
    """Run the `ummgat` script; what is in `ANYWHERE` may stand anywhere."""
    signal.signal(signal.SIGTERM, _terminated)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without ü must not end the work
    arguments = sys.argv[1:]
    anywhere = [a for a in arguments if a in ANYWHERE]
    arguments = [*anywhere, *(a for a in arguments if a not in ANYWHERE)]
    app(args=arguments)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    """End as with Ctrl-C: whatever is half written is removed, and worker processes end too."""
    global _by_sigterm
    _by_sigterm = True
    raise KeyboardInterrupt


def command(
    *, example: str, panel: str | None = None, group: typer.Typer = app
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command, and turn the errors that users can cause into one message and an exit code.

    Parameters
    ----------
    example : str
        A whole command line, shown at the end of its help.
    panel : str, optional
        Where it stands in the list of commands.
    group : Typer
        The commands it belongs to.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def reported(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except KeyboardInterrupt:
                fail("Stopped by the user. Nothing half-written is left.", 130)
            except BrokenPipeError:
                raise  # the reader of a pipe had enough; typer ends quietly
            except RuntimeError as error:
                if "worker process died" not in str(error):
                    raise
                fail(str(error), 2)
            except FloatingPointError as error:
                fail(str(error), 1)
            except (ValueError, OSError, MemoryError) as error:
                fail(message_of(error), 2)

        return group.command(epilog=f"Example:  {example}", rich_help_panel=panel, context_settings=HELP)(reported)

    return register


def message_of(error: BaseException) -> str:
    """One clean message for an expected error."""
    if isinstance(error, ValidationError):
        return " ".join(_of_field(dict(problem)) for problem in error.errors())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}. Check the path." if error.filename else error.strerror
    return str(error) or f"{type(error).__name__}. Run again with --debug for more."


def _of_field(problem: Mapping[str, Any]) -> str:
    """Say in our form what pydantic found; messages of our own validators pass through."""
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in problem["loc"])
    wanted = str(problem["msg"]).removeprefix("Input should be ")
    return f"Value is not valid: {where}. Found {problem['input']!r}; expected {wanted}. Correct it."


def fail(message: str, code: int) -> None:
    """Print an error, with a traceback under --debug, and exit with `code`."""
    if _debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if code == 130 and _by_sigterm:
        code = 143
        message = message.replace("Stopped by the user", "Stopped by a signal (SIGTERM)")
    errors.print(
        Text("Error: ", "bold red") if code not in (130, 143) else Text(), Text(message), sep="", soft_wrap=True
    )
    raise typer.Exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"ummgat {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings, failures and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print what the parts have to say.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    global _debug, _quiet
    _debug, _quiet = debug, quiet
    console.quiet = quiet
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)


def say(text: str) -> None:
    """Print without breaking lines where a terminal would: paths stay whole."""
    console.print(text, soft_wrap=True)


def print_table(rows: Sequence[Mapping[str, str]], n: int | None = None) -> None:
    """Print rows of equal keys; `n` is how many there are in all."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    # Without a terminal rich assumes 80 columns, too narrow for a file or a pipe.
    wide = console if console.is_terminal or console.quiet else Console(width=200, markup=False, highlight=False)
    wide.print(table)
    if n is not None and n > len(rows):
        console.print(f"… and {n - len(rows)} more")


def report_failures(failed: Mapping[str, str]) -> None:
    """Print every failed study, then exit with 1."""
    for subject, problem in failed.items():
        errors.print(Text(f"{subject}: ", "bold red"), Text(problem), sep="", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def duration(seconds: float) -> str:
    """Write a time span as 2 h 05 min, 7 min or 40 s."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show how far a walk over studies is; gives the callback (finished, all, what happened to the last one).

    A bar on a terminal; elsewhere, as in a log, a line now and then: at the start, at the end, and no more than one in
    `LINE_EVERY_S` between.
    """
    if _quiet or not errors.is_terminal:
        yield _Lines(what)
        return
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda finished, total, _: bar.update(task, completed=finished, total=total)


LINE_EVERY_S = 30.0
"""Lines of progress in a log come no closer than that."""


class _Lines:
    """Progress as lines; nothing is said of a walk without studies."""

    def __init__(self, what: str) -> None:
        self.what, self.began, self.said = what, time.monotonic(), 0.0

    def __call__(self, finished: int, total: int, last: str) -> None:
        now = time.monotonic()
        if finished == 0:
            self.began = now
        late = now - self.said >= LINE_EVERY_S
        if not total or _quiet or not (finished in (0, total) or late):
            return
        self.said = now
        left = (now - self.began) / finished * (total - finished) if finished else 0.0
        about = f", about {duration(left)} left" if finished and left >= 1 else ""
        errors.print(f"{self.what}: {finished} of {total}{f' ({last})' if last else ''}{about}", soft_wrap=True)


def comma_list(text: str | None) -> list[str] | None:
    """Parts of an option like t1,t2; None if it was not given."""
    return None if text is None else split([text])


def split(given: Sequence[str]) -> list[str]:
    """Split at commas, over all options given; empty parts do not count."""
    return [part.strip() for text in given for part in text.split(",") if part.strip()]
