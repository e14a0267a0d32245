"""The command `ummgat prepare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ummgat.cli.findings import say_checked
from ummgat.cli.options import N4, BrainMask, Checks, Jobs, Layout, Sheet, Template
from ummgat.cli.terminal import MANY, command, fail, print_table, progress, report_failures, say

if TYPE_CHECKING:
    from ummgat.intake.layouts import RawStudy


@command(
    panel="Data", example="ummgat prepare hospital/studies cohort --spacing 2 --centers hospital/centers.csv --jobs 4"
)
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
    register_to: Annotated[
        str | None, typer.Option(help="With --raw: sequence that the others are registered to; default t1ce, else t1.")
    ] = None,
    reference: Annotated[str | None, typer.Option(hidden=True, help="What --register-to was once called.")] = None,
    brain_mask: BrainMask = None,
    n4: N4 = False,
    label_numbers: Annotated[
        Literal["brats2018", "brats2023"] | None,
        typer.Option(help="In plain folders and sheets: whether enhancing tumour is 4 (brats2018) or 3 (brats2023)."),
    ] = None,
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
        reference=register_to or reference,
        brain_mask=brain_mask,
        n4=n4,
        label_numbers=label_numbers,
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
        f"Layout {report.layout}. {f'{waiting} to prepare, {len(report.failed)} would fail' if dry_run else counts}: "
        f"{out}."
    )
    if checked is not None:
        say_checked(checked)
    report_failures(report.failed | (checked.failed if checked else {}))


def _of_sheet(
    sheet: Path | None, folder: Path, layout: str, brain_mask: str | None
) -> tuple[tuple[list["RawStudy"], str] | None, list[str]]:
    """Studies of a sheet, for `prepare_cohort`, and remarks; (None, []) without a sheet."""
    if sheet is None:
        return None, []
    from ummgat.intake.studies import LAYOUT, studies_of_sheet

    studies, remarks = studies_of_sheet(sheet, folder, brain_mask, layout)
    return (studies, LAYOUT), remarks
