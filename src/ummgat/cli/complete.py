"""The command `ummgat complete`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.panel import Panel

from ummgat.cli.findings import say_checked
from ummgat.cli.options import N4, BrainMask, Checks, Device, Jobs, Layout, Overwrite, Sheet, Template
from ummgat.cli.terminal import MANY, command, errors, print_table, progress, report_failures, say

if TYPE_CHECKING:
    from ummgat.completion.cohort import CompletionReport
    from ummgat.completion.fill import Request


@command(panel="Use", example="ummgat complete hospital/studies completed --center A")
def complete(
    source: Annotated[
        Path, typer.Argument(help="A study or a cohort, prepared, plain NIfTI, or see --raw. Never changed.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the results, one subfolder per subject.")],
    model: Annotated[Path | None, typer.Option(help="Weights from `ummgat train`. Default: the bundled ones.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Sequence to generate. Default: all that are missing.")
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--from", help="Sequence to generate from. Default: the best by validation.")
    ] = None,
    fuse: Annotated[
        bool | None,
        typer.Option(
            "--fuse/--no-fuse",
            help="Generate from every available source and combine. Default: if the model sees lesions.",
        ),
    ] = None,
    enhancement: Annotated[
        Literal["none", "expected"],
        typer.Option(help="In a T1ce without contrast-enhanced source: as bright as it is likely, or none."),
    ] = "expected",
    align_to: Annotated[str | None, typer.Option(help="Translate everything to this center's look instead.")] = None,
    mode: Annotated[
        Literal["auto", "mapper", "mean", "reference"], typer.Option(help="Where codes come from; auto: by validation.")
    ] = "auto",
    reference: Annotated[list[str] | None, typer.Option(help="For --mode reference: t2=FILE. May be repeated.")] = None,
    center: Annotated[
        str | None, typer.Option(help="Center of the studies; needed for plain NIfTI if the model has several.")
    ] = None,
    layout: Layout = "auto",
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Studies as scanned: prepare them into OUT/prepared, complete into OUT/completed."),
    ] = False,
    sheet: Sheet = None,
    template: Template = None,
    brain_mask: BrainMask = None,
    n4: N4 = False,
    checks: Checks = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="File beside the others that is no missing sequence (name or pattern). May be repeated."),
    ] = None,
    no_reliability: Annotated[
        bool, typer.Option("--no-reliability", help="Skip the reliability maps: faster.")
    ] = False,
    device: Device = "auto",
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Fill the missing sequences of studies, or align studies to another center. Results are marked as generated."""
    from ummgat.completion.cohort import complete as fill_studies
    from ummgat.completion.fill import Request
    from ummgat.core.machine import BUNDLED_MODEL, choose_device, given_or_bundled

    request = Request(
        targets=tuple(target) if target else None,
        align_to=align_to,
        mode=mode,
        sources=tuple(sources) if sources else None,
        fuse=fuse,
        enhancement=enhancement,
        with_reliability=not no_reliability,
    )
    only_raw = {"--template": template, "--brain-mask": brain_mask, "--n4": n4, "--checks": checks}
    if not raw and sheet is None and any(only_raw.values()):
        raise ValueError(
            f"Setting needs --raw: {', '.join(name for name, value in only_raw.items() if value)}. Found it without; "
            f"expected it with --raw, which registers, strips and checks. Add --raw, or leave it out."
        )
    if raw or sheet is not None:
        if reference:
            raise ValueError(
                "Scans cannot be completed like this: --raw. Found --reference; expected none. Prepare first and "
                "complete then."
            )
        report, failed = _complete_scans(
            source,
            out,
            model,
            request,
            center,
            sheet,
            template,
            brain_mask,
            n4,
            checks,
            layout,
            choose_device(device),
            jobs,
            overwrite,
            leave_out or [],
        )
    else:
        with progress("Completing") as show:
            report = fill_studies(
                source,
                out,
                given_or_bundled(model, BUNDLED_MODEL),
                request=request,
                center=center,
                references=_references(reference or []),
                layout=layout,
                device=choose_device(device),
                jobs=jobs,
                overwrite=overwrite,
                progress=show,
                leave_out=leave_out or [],
            )
        failed = report.failed
    # One sidecar per generated image, named like it; those in the grid of the scan are the same once more.
    images = {
        s: [Path(f).stem for f in files if f.endswith(".json") and Path(f).parent.name != "native"]
        for s, files in report.done.items()
    }
    table = [
        {"subject": s, "generated": "  ".join(names) or "nothing was missing"}
        for s, names in list(images.items())[:MANY]
    ]
    print_table(table, len(images))
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
    say(f"{report.counts('studies done')}; {sum(map(len, images.values()))} images generated: {out}.")
    report_failures(failed)


def _complete_scans(
    source: Path,
    out: Path,
    model: Path | None,
    request: "Request",
    center: str | None,
    sheet: Path | None,
    template: Path | None,
    brain_mask: str | None,
    n4: bool,
    checks: Path | None,
    layout: str,
    device: str,
    jobs: int,
    overwrite: bool,
    leave_out: Sequence[str],
) -> "tuple[CompletionReport, dict[str, str]]":
    """Prepare, check and complete scans; remarks of the first two are printed. Returns (report, all failures)."""
    from ummgat.completion.scans import complete_scans
    from ummgat.core.machine import BUNDLED_MODEL, given_or_bundled

    with progress("Preparing, checking, completing") as show:
        done = complete_scans(
            source,
            out,
            given_or_bundled(model, BUNDLED_MODEL),
            center=center,
            sheet=sheet,
            template=template,
            brain_mask=brain_mask,
            n4=n4,
            checks=checks,
            request=request,
            layout=layout,
            device=device,
            jobs=jobs,
            overwrite=overwrite,
            on_prepared=show,
            on_checked=show,
            on_completed=show,
            leave_out=leave_out,
        )
    for remark in done.remarks:
        say(remark)
    for subject, findings in done.prepared.findings.items():
        say(f"{subject}: {' '.join(findings)}")
    if done.checked is not None:
        say_checked(done.checked)
    return done.completed, done.failed


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
