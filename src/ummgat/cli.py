"""The command line. Each command parses its arguments, calls one function and prints what came back.

Exit codes: 0 done; 1 some studies failed and the rest is done, or training had to stop; 2 nothing could be done as
asked; 130 stopped with Ctrl-C. What needs torch or numpy is imported inside the commands, so that --help is quick.
"""

import functools
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ummgat import __version__

if TYPE_CHECKING:
    from ummgat.estimate import Estimate

MANY = 40
"""Rows of a table that are printed; the rest is counted."""

app = typer.Typer(
    name="ummgat",
    help="Complete missing MRI sequences and align centers with one generative model trained on unpaired data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# No markup: subjects and paths may hold square brackets.
console = Console(markup=False, highlight=False, emoji=False)
errors = Console(stderr=True, markup=False, highlight=False, emoji=False)
_debug = False


def main() -> None:
    """Run the `ummgat` script; `--debug` may stand anywhere."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without ü must not end the work
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    app(args=arguments)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command and turn the errors that users can cause into one message and an exit code."""

    @functools.wraps(function)
    def reported(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            _fail("Stopped by the user. Nothing half-written is left.", 130)
        except BrokenPipeError:
            raise  # the reader of a pipe had enough; typer ends quietly
        except FloatingPointError as error:
            _fail(str(error), 1)
        except (ValueError, OSError, MemoryError) as error:
            _fail(message_of(error), 2)

    return app.command()(reported)


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


def _fail(message: str, code: int) -> None:
    if _debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    errors.print(Text("Error: ", "bold red") if code != 130 else Text(), Text(message), sep="", soft_wrap=True)
    raise typer.Exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"ummgat {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what this command wrote there before.")]
Layout = Annotated[str, typer.Option(help="How files are named: auto, brats2018, brats2023, folder.")]


@_command
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show versions, devices, the right precision, extras, bundled weights and free room."""
    from ummgat import doctor as doctors

    found = doctors.examine()
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
    else:
        _print_table([{"what": topic, "found": text} for topic, text in doctors.rows(found)])
        for problem in found.problems:
            errors.print(problem, style="bold red", soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


@_command
def phantom(
    out: Annotated[Path, typer.Argument(help="New folder: studies/, truth/, split.json, centers.csv.")],
    preset: Annotated[Literal["demo", "tiny"], typer.Option(help="Where the other options start from.")] = "demo",
    centers: Annotated[list[str] | None, typer.Option(help="Training subjects: A=12,B=6.")] = None,
    selection: Annotated[list[str] | None, typer.Option(help="Selection subjects: A=1,B=1.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test subjects: A=3,B=1.")] = None,
    healthy: Annotated[list[str] | None, typer.Option(help="Test subjects without a tumour: A=1.")] = None,
    sequences: Annotated[
        list[str] | None, typer.Option(help="What one center scans: A=t1,t2. Once per center.")
    ] = None,
    spacing: Annotated[float | None, typer.Option(help="Voxel size in mm.")] = None,
    layout: Annotated[
        Literal["brats2018", "brats2023"] | None, typer.Option(help="Names of files and numbers of labels.")
    ] = None,
    draw: Annotated[
        Literal["strict", "all", "complete"] | None,
        typer.Option(help="A training subject has one sequence, a random part, or everything."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, other subjects.")] = None,
    align_truth: Annotated[
        bool, typer.Option("--align-truth", help="Also write every subject as the other centers would have scanned it.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write synthetic multi-center studies with tumours and known truth, to try everything without patient data."""
    from ummgat.phantom import DEMO, TINY, PhantomConfig, write_phantom
    from ummgat.phantom.write import plan_cohort

    base = (DEMO if preset == "demo" else TINY).model_dump()
    names = _counts(centers, "--centers") if centers else base["n_subjects"]
    told = {"n_subjects": centers, "n_selection": selection, "n_test": test, "n_healthy": healthy}
    for field, given in told.items():
        base[field] = _counts(given, f"--{field}") if given else {c: n for c, n in base[field].items() if c in names}
    usual = ("t1", "t1ce", "t2", "flair")
    base["sequences"] = {c: base["sequences"].get(c, usual) for c in names} | _sequences(sequences or [])
    changes = {"spacing_mm": spacing, "layout": layout, "draw": draw, "seed": seed, "align_truth": align_truth or None}
    config = PhantomConfig.model_validate(base | {k: v for k, v in changes.items() if v is not None})
    with console.status("Drawing synthetic patients"):
        write_phantom(out, config, overwrite)
    members = plan_cohort(config)
    _print_table(
        [
            {"center": c, "sequences": " ".join(config.sequences[c])}
            | {
                part: str(sum(m.center == c and m.part == part for m in members))
                for part in ("train", "selection", "test")
            }
            for c in config.n_subjects
        ]
    )
    _say(
        f"Synthetic cohort of {len(members)} subjects: {out}. The true images of every subject are in {out / 'truth'}."
    )


@_command
def prepare(
    source: Annotated[Path, typer.Argument(help="Folder of co-registered, skull-stripped NIfTI studies.")],
    out: Annotated[Path, typer.Argument(help="Cohort folder; may hold other prepared studies already.")],
    spacing: Annotated[float, typer.Option(help="Voxel size in mm; the preset you train says which.")] = 1.0,
    layout: Layout = "auto",
    center: Annotated[str | None, typer.Option(help="The one center that all studies come from.")] = None,
    centers: Annotated[Path | None, typer.Option(help='CSV with subject,center, or JSON with a "center" map.')] = None,
    center_pattern: Annotated[
        str | None, typer.Option(help="Regular expression on the subject name; its group is the center.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Studies at once; the result does not depend on it.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Prepare again what is prepared, also with other settings.")
    ] = False,
) -> None:
    """Bring studies into the one layout that every later command reads. Run it again to go on or to add studies."""
    from ummgat.prepare.cohort import cohort_table, plan_table, prepare_cohort
    from ummgat.prepare.settings import PrepareSettings
    from ummgat.study import load_study

    settings = PrepareSettings(
        layout=layout, spacing_mm=spacing, center=center, centers=centers, center_pattern=center_pattern
    )
    with _progress("Preparing") as show:
        try:
            report = prepare_cohort(
                source, out, settings, jobs=jobs, dry_run=dry_run, overwrite=overwrite, progress=show
            )
        except KeyboardInterrupt:
            _fail("Stopped by the user. Finished studies are kept; the same command goes on from there.", 130)
        except RuntimeError as error:  # a worker process died
            _fail(str(error), 2)
    if dry_run:
        _print_table(plan_table(report)[:MANY], len(report.planned))
    else:
        present = sorted({*report.done, *report.skipped_up_to_date})
        _print_table(cohort_table([load_study(out / subject) for subject in present[:MANY]]), len(present))
    for title, remarks in (("Remarks", report.findings), ("Files not used", report.ignored)):
        if remarks:
            _say(f"{title}:\n" + "\n".join(f"  {subject}: {'; '.join(lines)}" for subject, lines in remarks.items()))
    counts = f"{len(report.done)} prepared, {len(report.skipped_up_to_date)} up to date, {len(report.failed)} failed"
    waiting = sum(plan.status != "up to date" for plan in report.planned)
    _say(
        f"Layout {report.layout}. {f'{waiting} to prepare, {len(report.failed)} would fail' if dry_run else counts}: {out}."
    )
    _report_failures(report.failed)


@_command
def draw(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort.")],
    out: Annotated[Path, typer.Argument(help="JSON file to write.")],
    mode: Annotated[
        Literal["strict", "all"], typer.Option(help="One sequence per training patient, or whatever a patient has.")
    ],
    split: Annotated[Path | None, typer.Option(help="JSON with train, selection and test lists.")] = None,
    domains: Annotated[str | None, typer.Option(help="Domains to keep, in order: A/t1,A/t2,B/t1.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of the strict draw.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fix, before any training, who trains with which sequence, who may choose settings, and who only tests."""
    from ummgat.domain import Domain
    from ummgat.draw import make_draw
    from ummgat.files import require_new, write_json
    from ummgat.study import load_cohort

    require_new(out, overwrite)
    studies = load_cohort(cohort)
    drawn = make_draw(studies, mode, seed, _comma_list(domains), split)
    write_json(out, drawn.model_dump(mode="json"))
    center_of = {study.subject: study.center for study in studies}
    table = []
    for name in drawn.domains:
        domain = Domain.parse(name)
        volumes = [s for s, q in drawn.train.items() if domain.sequence in q and center_of[s] == domain.center]
        table.append({"domain": name, "training volumes": str(len(volumes))})
    _print_table(table)
    parts = f"{len(drawn.train)} training, {len(drawn.selection)} selection, {len(drawn.test)} test subjects"
    _say(f"Draw {drawn.mode}, {parts}: {out}.")


@_command
def train(
    config: Annotated[str, typer.Argument(help="Preset (paper, small, tiny) or TOML file.")],
    data: Annotated[Path, typer.Option(help="Prepared cohort.")],
    draw: Annotated[Path, typer.Option(help="File written by `ummgat draw`.")],
    out: Annotated[Path, typer.Option(help="Run folder. The same command again resumes the run in it.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="One setting: train.batch=4. May be repeated.")
    ] = None,
    accelerator: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Device to train on.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and what the run would cost; train nothing.")
    ] = False,
) -> None:
    """Train one model that turns any (center, sequence) of the draw into any other."""
    console.quiet = os.environ.get("LOCAL_RANK", "0") != "0"  # further processes of one run say nothing but errors
    from ummgat import train as training
    from ummgat.config import load_config
    from ummgat.doctor import choose_device
    from ummgat.draw import load_draw
    from ummgat.overrides import as_toml, with_overrides
    from ummgat.study import load_cohort

    settings = with_overrides(load_config(config), overrides or [])
    studies, drawn = load_cohort(data), load_draw(draw)
    if accelerator != "auto":
        choose_device(accelerator)
    if dry_run:
        console.print(as_toml(settings), soft_wrap=True)
        _print_estimate(training.plan(settings, studies, drawn), settings.train.iterations)
        return
    try:
        with _training_progress(settings.train.iterations, settings.train.log_every) as on_step:
            best = training.train(
                settings,
                studies,
                drawn,
                out,
                accelerator=accelerator,
                on_estimate=lambda e: _print_estimate(e, settings.train.iterations),
                on_step=on_step,
            )
    except KeyboardInterrupt:
        kept = out / "checkpoint.safetensors"
        _fail(
            f"Stopped by the user. The same command goes on from {kept}."
            if kept.is_file()
            else "Stopped by the user before the first checkpoint. The same command starts anew.",
            130,
        )
    _say(f"Trained. Best model by validation: {best}. The run, with its logs: {out}.")


@_command
def complete(
    source: Annotated[Path, typer.Argument(help="A study or a cohort, prepared or plain NIfTI. Never changed.")],
    out: Annotated[Path, typer.Argument(help="Folder for the results, one subfolder per subject.")],
    model: Annotated[Path | None, typer.Option(help="Weights from `ummgat train`. Default: the bundled ones.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Sequence to generate. Default: all that are missing.")
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--from", help="Sequence to generate from. Default: the best by validation.")
    ] = None,
    fuse: Annotated[bool, typer.Option("--fuse", help="Generate from every available source and combine.")] = False,
    align_to: Annotated[str | None, typer.Option(help="Translate everything to this center's look instead.")] = None,
    mode: Annotated[
        Literal["auto", "mapper", "mean", "reference"], typer.Option(help="Where codes come from; auto: by validation.")
    ] = "auto",
    reference: Annotated[list[str] | None, typer.Option(help="For --mode reference: t2=FILE. May be repeated.")] = None,
    center: Annotated[str | None, typer.Option(help="Center of the studies; needed for plain NIfTI.")] = None,
    layout: Layout = "auto",
    no_reliability: Annotated[
        bool, typer.Option("--no-reliability", help="Skip the reliability maps: faster.")
    ] = False,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Device to compute on.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Fill the missing sequences of studies, or align studies to another center. Results are marked as generated."""
    from ummgat.completion import complete as fill_studies
    from ummgat.doctor import choose_device
    from ummgat.generate import Request

    request = Request(
        targets=tuple(target) if target else None,
        align_to=align_to,
        mode=mode,
        sources=tuple(sources) if sources else None,
        fuse=fuse,
        with_reliability=not no_reliability,
    )
    with _progress("Completing") as show:
        report = fill_studies(
            source,
            out,
            model or _bundled(),
            request=request,
            center=center,
            references=_references(reference or []),
            layout=layout,
            device=choose_device(device),
            overwrite=overwrite,
            progress=show,
        )
    # One sidecar per generated image, named like it.
    images = {s: [Path(f).stem for f in files if f.endswith(".json")] for s, files in report.done.items()}
    table = [
        {"subject": s, "generated": "  ".join(names) or "nothing was missing"}
        for s, names in list(images.items())[:MANY]
    ]
    _print_table(table, len(images))
    affected: dict[str, list[str]] = {}
    for subject, warnings in report.warnings.items():
        for warning in warnings:
            affected.setdefault(warning, []).append(subject)
    for warning, subjects in affected.items():
        shown = ", ".join(subjects[:MANY]) + (f" and {len(subjects) - MANY} more" if len(subjects) > MANY else "")
        if errors.is_terminal:
            errors.print(Panel(f"{warning}\nStudies: {shown}", title="Warning", style="bold yellow"))
        else:
            errors.print(f"Warning: {warning} Studies: {shown}", soft_wrap=True)
    _say(
        f"{len(images)} studies done, {sum(map(len, images.values()))} images generated, {len(report.failed)} failed: {out}."
    )
    _report_failures(report.failed)


@_command
def directions(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort with complete subjects.")],
    out: Annotated[Path, typer.Argument(help="New folder for directions.csv, directions.md and pictures.")],
    model: Annotated[Path, typer.Option(help="Model exported by `ummgat train`.")],
    draw: Annotated[Path, typer.Option(help="Draw of the training run: it says who is a test subject.")],
    part: Annotated[
        Literal["selection", "test"], typer.Option(help="Whom to measure; choose nothing by test.")
    ] = "test",
    overwrite: Overwrite = False,
) -> None:
    """Measure every direction between sequences against the truth: generated, copied, histogram-matched, empty."""
    from ummgat.draw import load_draw
    from ummgat.evaluate.directions import count_wins, direction_table, measure, medians, write_rows
    from ummgat.evaluate.pictures import direction_grid
    from ummgat.files import require_new, write_text
    from ummgat.study import load_cohort
    from ummgat.weights import load_model

    require_new(out, overwrite)
    trained, wanted = load_model(model), load_draw(draw)
    subjects = wanted.test if part == "test" else wanted.selection
    studies = [study for study in load_cohort(cohort) if study.subject in subjects]
    if not studies:
        raise ValueError(
            f"No {part} subject in the cohort: {cohort}. Found none of {', '.join(subjects) or 'an empty list'}; expected "
            "at least one. Prepare them, or choose the other --part."
        )
    with _progress("measuring") as update:
        rows = measure(trained, studies, progress=lambda done, n: update(done, n, studies[done - 1].subject))
    summary = medians(rows)
    write_rows(out / "directions.csv", rows)
    centers = list(dict.fromkeys(row["center"] for row in summary))
    tables = [f"## Center {center}\n\n{direction_table(summary, center)}" for center in centers]
    write_text(out / "directions.md", "\n".join(tables))
    for study in studies[:3]:
        direction_grid(trained, study, study, out / f"{study.subject}.png")
    for metric, region in (("mae", "brain"), ("ssim", "brain"), ("correlation", "brain"), ("mae", "lesion")):
        won, lost, n = count_wins(summary, "matched", metric, region)
        _say(
            f"{metric} in {region}: generated beats the matched copy in {won} of {n}; not in {', '.join(lost) or 'none'}"
        )
    _say(f"Measured {len(studies)} {part} subjects: {out}")


@_command
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, tables, the model and all that led to them.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed, other patients.")] = 0,
    iterations: Annotated[int | None, typer.Option(help="Training steps; default: what preset tiny says.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train on synthetic patients of two centers, complete test patients, and compare with the truth. Minutes."""
    from ummgat.demo import run_demo

    code = run_demo(out, seed=seed, iterations=iterations, overwrite=overwrite, console=Console(highlight=False))
    raise typer.Exit(code)


def _say(text: str) -> None:
    """Print without breaking lines where a terminal would: paths stay whole."""
    console.print(text, soft_wrap=True)


def _print_table(rows: Sequence[Mapping[str, str]], n: int | None = None) -> None:
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


def _report_failures(failed: Mapping[str, str]) -> None:
    """Print every failed study, then exit with 1."""
    for subject, problem in failed.items():
        errors.print(Text(f"{subject}: ", "bold red"), Text(problem), sep="", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _print_estimate(cost: "Estimate", iterations: int) -> None:
    memory = "" if cost.memory_bytes is None else f", {cost.memory_bytes / 1e9:.1f} GB of memory"
    _say(
        f"{cost.parameters / 1e6:.1f} million parameters; {cost.seconds_per_step:.2f} s per step on {cost.device} with "
        f"{cost.threads} threads; {_duration(cost.seconds)} for what is left of {iterations} steps, validation not "
        f"included{memory}."
    )


def _duration(seconds: float) -> str:
    """Write a time span as 2 h 05 min, 7 min or 40 s."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """Bar over studies; gives the callback (finished, all, what happened to the last one)."""
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda finished, total, _: bar.update(task, completed=finished, total=total)


@contextmanager
def _training_progress(iterations: int, every: int) -> Iterator[Callable[[int, dict[str, float], float], None]]:
    """Bar with loss parts and time left on a terminal, a line every `every` steps elsewhere, and the news of the loop."""
    bar = _TrainingBar(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=300,
        disable=not console.is_terminal,
    )
    task = bar.add_task("steps", total=iterations, start=False)
    recent: dict[str, float] = {}
    pace = 0.0

    def on_step(step: int, parts: dict[str, float], seconds: float) -> None:
        nonlocal pace
        recent.update(parts)  # parts computed at intervals keep their last value
        pace = seconds if pace == 0 else 0.9 * pace + 0.1 * seconds
        text = "  ".join(f"{name} {value:.3f}" for name, value in recent.items())
        if not bar.tasks[0].started:
            bar.start_task(task)
            bar.update(task, completed=step - 1)
        bar.parts = text
        bar.update(task, completed=step)
        if not console.is_terminal and (step % every == 0 or step == iterations):
            _say(f"step {step}/{iterations}  {_duration(pace * (iterations - step))} left  {text}")

    news = _News()
    logger = logging.getLogger("ummgat")
    level = logger.level
    logger.addHandler(news)
    logger.setLevel(logging.INFO)
    try:
        with bar:
            yield on_step
    finally:
        logger.removeHandler(news)
        logger.setLevel(level)


class _TrainingBar(Progress):
    """A bar with the loss parts in a line of their own."""

    parts = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Bar, then parts."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.parts)


class _News(logging.Handler):
    """Print what the training loop logs, validation scores above all, above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        _say(record.getMessage())


def _bundled() -> Path:
    from ummgat.doctor import BUNDLED_MODEL, bundled_model

    path = bundled_model()
    if path is None:
        raise FileNotFoundError(
            f"No model is given: --model. Found no bundled {BUNDLED_MODEL}; expected weights. Give --model FILE, for "
            "example model.safetensors of a run of `ummgat train`."
        )
    return path


def _counts(given: Sequence[str], option: str) -> dict[str, int]:
    """Read A=12,B=6."""
    counts = {}
    for part in _split(given):
        name, _, number = part.partition("=")
        if not number.isdecimal():
            raise ValueError(
                f"Count is not clear: {option}. Found {part!r}; expected for example A=12,B=6. Correct it."
            )
        counts[name] = int(number)
    return counts


def _sequences(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read A=t1,t2, one option per center."""
    told = {}
    for part in given:
        center, equals, names = part.partition("=")
        if not equals:
            raise ValueError(
                f"Sequences are not clear: --sequences. Found {part!r}; expected for example A=t1,t2. Correct it."
            )
        told[center] = tuple(_split([names]))
    return told


def _references(given: Sequence[str]) -> dict[str, Path]:
    """Read t2=FILE."""
    told = {}
    for part in given:
        sequence, equals, path = part.partition("=")
        if not equals:
            raise ValueError(
                f"Reference is not clear: --reference. Found {part!r}; expected for example t2=FILE.nii.gz. Correct it."
            )
        told[sequence] = Path(path)
    return told


def _comma_list(text: str | None) -> list[str] | None:
    return None if text is None else _split([text])


def _split(given: Sequence[str]) -> list[str]:
    """Split at commas, over all options given; empty parts do not count."""
    return [part.strip() for text in given for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    main()
