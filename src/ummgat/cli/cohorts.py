"""Commands that make, prepare and divide cohorts, and look at the machine."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ummgat.cli.checking import Checks, say_checked
from ummgat.cli.scan_options import N4, BrainMask, Sheet, Template
from ummgat.cli.terminal import (
    MANY,
    Jobs,
    Layout,
    Overwrite,
    comma_list,
    command,
    console,
    errors,
    fail,
    print_table,
    progress,
    report_failures,
    say,
    split,
)

if TYPE_CHECKING:
    from ummgat.intake.layouts import RawStudy


@command
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show versions, devices, the right precision, extras, bundled weights and free room."""
    from ummgat import doctor as doctors

    found = doctors.examine()
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
    else:
        print_table([{"what": topic, "found": text} for topic, text in doctors.rows(found)])
        for problem in found.problems:
            errors.print(problem, style="bold red", soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


@command
def phantom(
    out: Annotated[Path, typer.Argument(help="New folder: studies/, truth/, split.json, centers.csv.")],
    preset: Annotated[
        Literal["demo", "tiny", "ten-domain", "meningioma"], typer.Option(help="Where the other options start from.")
    ] = "demo",
    centers: Annotated[list[str] | None, typer.Option(help="Training subjects: A=12,B=6.")] = None,
    selection: Annotated[list[str] | None, typer.Option(help="Selection subjects: A=1,B=1.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test subjects: A=3,B=1.")] = None,
    healthy: Annotated[list[str] | None, typer.Option(help="Test subjects without a tumour: A=1.")] = None,
    sequences: Annotated[
        list[str] | None, typer.Option(help="What one center scans: A=t1,t2. Once per center.")
    ] = None,
    spacing: Annotated[float | None, typer.Option(help="Voxel size in mm.")] = None,
    layout: Annotated[
        Literal["brats2018", "brats2023", "ucsf-pdgm"] | None,
        typer.Option(help="Names of files and numbers of labels."),
    ] = None,
    draw: Annotated[
        Literal["strict", "all", "complete"] | None,
        typer.Option(help="A training subject has one sequence, a random part, or everything."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, other subjects.")] = None,
    align_truth: Annotated[
        bool, typer.Option("--align-truth", help="Also write every subject as the other centers would have scanned it.")
    ] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="As scanned: heads, a grid per sequence, thick slices; with the true transforms."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write synthetic multi-center studies with tumours and known truth, to try everything without patient data."""
    from ummgat.phantom import PRESETS, PhantomConfig, write_phantom
    from ummgat.phantom.write import plan_cohort

    base = PRESETS[preset].model_dump()
    names = _counts(centers, "--centers") if centers else base["n_subjects"]
    told = {"n_subjects": centers, "n_selection": selection, "n_test": test, "n_healthy": healthy}
    for field, given in told.items():
        base[field] = _counts(given, f"--{field}") if given else {c: n for c, n in base[field].items() if c in names}
    usual = ("t1", "t1ce", "t2", "flair")
    base["sequences"] = {c: base["sequences"].get(c, usual) for c in names} | _sequences(sequences or [])
    base["layouts"] = {c: name for c, name in base["layouts"].items() if c in names and layout is None}
    changes = {
        "spacing_mm": spacing,
        "layout": layout,
        "draw": draw,
        "seed": seed,
        "align_truth": align_truth or None,
        "raw": raw or None,
    }
    config = PhantomConfig.model_validate(base | {k: v for k, v in changes.items() if v is not None})
    with console.status("Drawing synthetic patients"):
        write_phantom(out, config, overwrite)
    members = plan_cohort(config)
    print_table(
        [
            {"center": c, "sequences": " ".join(config.sequences[c])}
            | {
                part: str(sum(m.center == c and m.part == part for m in members))
                for part in ("train", "selection", "test")
            }
            for c in config.n_subjects
        ]
    )
    say(f"Synthetic cohort of {len(members)} subjects: {out}. The true images of every subject are in {out / 'truth'}.")


@command
def prepare(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of NIfTI studies, co-registered and skull-stripped; or see --raw and --sheet."),
    ],
    out: Annotated[Path, typer.Argument(help="Cohort folder; may hold other prepared studies already.")],
    spacing: Annotated[float, typer.Option(help="Voxel size in mm; the preset you train says which.")] = 1.0,
    layout: Layout = "auto",
    center: Annotated[str | None, typer.Option(help="The one center that all studies come from.")] = None,
    centers: Annotated[Path | None, typer.Option(help='CSV with subject,center, or JSON with a "center" map.')] = None,
    center_pattern: Annotated[
        str | None, typer.Option(help="Regular expression on the subject name; its group is the center.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Studies come as scanned: register, strip and resample them first.")
    ] = False,
    sheet: Sheet = None,
    template: Template = None,
    reference: Annotated[
        str | None, typer.Option(help="With --raw: sequence that the others are registered to; default t1ce, else t1.")
    ] = None,
    brain_mask: BrainMask = None,
    n4: N4 = False,
    checks: Checks = None,
    no_checks: Annotated[bool, typer.Option("--no-checks", help="Leave quality control to `ummgat check`.")] = False,
    jobs: Jobs = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Prepare again what is prepared, also with other settings.")
    ] = False,
) -> None:
    """Bring studies into the one layout that every later command reads. Run it again to go on or to add studies."""
    from ummgat.core.study import load_study
    from ummgat.prepare.cohort import cohort_table, plan_table, prepare_cohort
    from ummgat.prepare.settings import PrepareSettings

    found, remarks = _of_sheet(sheet, source, layout, brain_mask)
    settings = PrepareSettings(
        layout=layout,
        spacing_mm=spacing,
        raw=raw or sheet is not None,
        template=template,
        reference=reference,
        brain_mask=brain_mask,
        n4=n4,
        center=center,
        centers=centers,
        center_pattern=center_pattern,
    )
    checked = None
    with progress("Preparing" if dry_run or no_checks else "Preparing, checking") as show:
        try:
            if dry_run or no_checks:
                report = prepare_cohort(
                    source, out, settings, jobs=jobs, dry_run=dry_run, overwrite=overwrite, progress=show, found=found
                )
            else:
                from ummgat.check.prepared import prepare_and_check  # needs torch, which mere preparing does not

                report, checked = prepare_and_check(
                    source,
                    out,
                    settings,
                    checks=checks,
                    jobs=jobs,
                    overwrite=overwrite,
                    found=found,
                    on_prepared=show,
                    on_checked=show,
                )
        except KeyboardInterrupt:
            fail("Stopped by the user. Finished studies are kept; the same command goes on from there.", 130)
        except RuntimeError as error:  # a worker process died
            fail(str(error), 2)
    present = report.present
    if dry_run:
        print_table(plan_table(report)[:MANY], len(report.planned))
    else:
        print_table(cohort_table([load_study(out / subject) for subject in present[:MANY]]), len(present))
    for remark in remarks:
        say(remark)
    for title, said in (("Remarks", report.findings), ("Files not used", report.ignored)):
        if said:
            say(f"{title}:\n" + "\n".join(f"  {subject}: {'; '.join(lines)}" for subject, lines in said.items()))
    counts = report.counts("prepared")
    waiting = sum(plan.status != "up to date" for plan in report.planned)
    say(
        f"Layout {report.layout}. {f'{waiting} to prepare, {len(report.failed)} would fail' if dry_run else counts}: {out}."
    )
    if checked is not None:
        say_checked(checked)
    report_failures(report.failed | (checked.failed if checked else {}))


@command
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
    from ummgat.core.domain import Domain
    from ummgat.core.draw import make_draw
    from ummgat.core.files import require_new, write_json
    from ummgat.core.study import load_cohort

    require_new(out, overwrite)
    studies = load_cohort(cohort)
    drawn = make_draw(studies, mode, seed, comma_list(domains), split)
    write_json(out, drawn.model_dump(mode="json"))
    center_of = {study.subject: study.center for study in studies}
    table = []
    for name in drawn.domains:
        domain = Domain.parse(name)
        volumes = [s for s, q in drawn.train.items() if domain.sequence in q and center_of[s] == domain.center]
        table.append({"domain": name, "training volumes": str(len(volumes))})
    print_table(table)
    parts = f"{len(drawn.train)} training, {len(drawn.selection)} selection, {len(drawn.test)} test subjects"
    say(f"Draw {drawn.mode}, {parts}: {out}.")


def _of_sheet(
    sheet: Path | None, folder: Path, layout: str, brain_mask: str | None
) -> tuple[tuple[list["RawStudy"], str] | None, list[str]]:
    """Studies of a sheet, for `prepare_cohort`, and remarks; (None, []) without a sheet."""
    if sheet is None:
        return None, []
    from ummgat.intake.studies import LAYOUT, studies_of_sheet

    studies, remarks = studies_of_sheet(sheet, folder, brain_mask, layout)
    return (studies, LAYOUT), remarks


def _counts(given: Sequence[str], option: str) -> dict[str, int]:
    """Read A=12,B=6."""
    counts = {}
    for part in split(given):
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
        told[center] = tuple(split([names]))
    return told
