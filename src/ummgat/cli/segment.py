"""The command `ummgat segment`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import N4, Accept, BrainMask, Checks, Device, Jobs, Layout, Overwrite, Sheet, Template
from ummgat.cli.segmenters import ChannelOrder, Interpreter, Orientation, Timeout, Trust
from ummgat.cli.terminal import MANY, comma_list, command, print_table, progress, report_failures, say


@command(panel="Use", example="ummgat segment hospital/studies masks")
def segment(
    source: Annotated[
        Path,
        typer.Argument(
            help="A study or a cohort: prepared; NIfTI, co-registered and skull-stripped, or see --raw; or DICOM. "
            "Never changed."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the results, one subfolder per subject.")],
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="Own segmenter or folds of own, MONAI bundle, nnU-Net folder, ONNX, or the name of an installed one. "
            "Default: the bundled one that suits the policy."
        ),
    ] = None,
    policy: Annotated[
        Literal["generate", "empty", "copy"],
        typer.Option(
            help="What stands in for a missing sequence: a generated image; nothing, for a segmenter trained so; or "
            "a copy of the scan nearest in contrast."
        ),
    ] = "generate",
    model: Annotated[
        Path | None, typer.Option(help="Weights from `ummgat train`, to generate with. Default: the bundled ones.")
    ] = None,
    center: Annotated[
        str | None, typer.Option(help="Center of the studies; needed to generate if the model has several.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="NIfTI as scanned: register and strip it into OUT/prepared first.")
    ] = False,
    sheet: Sheet = None,
    accept: Accept = "sure",
    layout: Layout = "auto",
    template: Template = None,
    brain_mask: BrainMask = None,
    n4: N4 = False,
    checks: Checks = None,
    spacing: Annotated[
        float | None, typer.Option(help="Voxel size in mm for a foreign segmenter; own ones know theirs.")
    ] = None,
    reliability: Annotated[
        bool, typer.Option("--reliability", help="Also map how far to trust generated voxels; several times as slow.")
    ] = False,
    trust: Trust = False,
    segmenter_sequences: ChannelOrder = None,
    segmenter_orientation: Orientation = None,
    segmenter_timeout: Timeout = 600,
    segmenter_python: Interpreter = None,
    device: Device = "auto",
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Segment tumours: label maps, volumes, previews and a page per study, also where sequences are missing."""
    from ummgat.front.cohort import segment as segment_studies
    from ummgat.front.networks import Foreign
    from ummgat.front.record import row_of

    with progress("Segmenting") as show:
        report = segment_studies(
            source,
            out,
            segmenter,
            policy=policy,
            model=model,
            center=center,
            raw=raw,
            sheet=sheet,
            accept=accept,
            layout=layout,
            template=template,
            brain_mask=brain_mask,
            n4=n4,
            checks=checks,
            spacing_mm=spacing,
            with_reliability=reliability,
            foreign=Foreign(
                trust,
                comma_list(segmenter_sequences),
                segmenter_orientation,
                segmenter_timeout,
                segmenter_python,
            ),
            device=device,
            jobs=jobs,
            overwrite=overwrite,
            on_prepared=show,
            on_checked=show,
            on_segmented=show,
        )
    for remark in report.remarks:
        say(remark)
    rows = [row_of(record) for record in report.done.values()]
    shown = ("subject", "wt_ml", "tc_ml", "et_ml", "acquired", "generated", "copied", "empty")
    print_table([{name: row.get(name, "") for name in shown} for row in rows[:MANY]], len(rows))
    for subject, record in list(report.done.items())[:MANY]:
        if record.findings:
            say(f"{subject}: {' '.join(record.findings)}")
    gaps = sum(any(c.kind != "acquired" for c in record.channels.values()) for record in report.done.values())
    if gaps:
        say(f"Policy for missing sequences: {policy}, in {gaps} {'study' if gaps == 1 else 'studies'}.")
    say(f"{report.counts('segmented')}: {out}.")
    if report.table is not None:
        say(f"Volumes: {report.table}. Page: {report.page}.")
    report_failures(report.failed)
