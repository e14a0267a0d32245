"""The command `ummgat export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Jobs, Overwrite
from ummgat.cli.terminal import MANY, command, errors, print_table, progress, report_failures, say


@command(panel="Use", example="ummgat export completed dicom --to dicom --source disc --sheet sheet.csv")
def export(
    completed: Annotated[Path, typer.Argument(help="Studies that `ummgat complete` wrote. Never changed.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    to: Annotated[
        Literal["dicom", "bids"], typer.Option(help="DICOM series beside their source, or BIDS derivatives.")
    ],
    source: Annotated[
        Path | None, typer.Option(help="DICOM folder with the acquired series; needed for --to dicom.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="CSV of `ummgat inspect --out`; needed for more than one patient.")
    ] = None,
    deidentify: Annotated[
        bool,
        typer.Option("--deidentify", help="DICOM with the subject's label instead of the patient, and other UIDs."),
    ] = False,
    mark: Annotated[bool, typer.Option("--mark", help="Burn SYNTHETIC into every generated DICOM plane.")] = False,
    labels: Annotated[
        Path | None, typer.Option(help="Label map, or a folder of <subject>.nii.gz, to write as DICOM SEG.")
    ] = None,
    labels_by: Annotated[
        str | None, typer.Option(help="What drew the label maps: name and version, as 'nnU-Net 2.5'.")
    ] = None,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Write completed studies as DICOM or BIDS derivatives. Every generated image says SYNTHETIC in its header."""
    from ummgat.export.cohort import Segmentations, export_bids, export_dicom, unused_labels
    from ummgat.export.seg import Algorithm

    only_dicom = {"--source": source, "--sheet": sheet, "--deidentify": deidentify, "--mark": mark, "--labels": labels}
    if to == "bids":
        given = [name for name, value in only_dicom.items() if value]
        if given:
            raise ValueError(
                f"Options do not go together: --to bids. Found {', '.join(given)}; expected them with --to dicom only. "
                f"Leave them out: BIDS derivatives hold subject labels only."
            )
    elif source is None:
        raise ValueError(
            "Source series are unknown: --source. Found nothing; expected the DICOM folder that the studies came from. "
            "Give it: generated series refer to it."
        )
    if (labels is None) != (labels_by is None):
        raise ValueError(
            "Label maps and their maker go together: --labels, --labels-by. Found one of them; expected both or none. "
            "Give both."
        )
    segmentations = None
    if labels is not None and labels_by is not None:
        if not labels.exists():
            raise FileNotFoundError(
                f"Label map is missing: {labels}. Found nothing; expected a file or folder. Check the path."
            )
        name, _, version = labels_by.strip().rpartition(" ")
        segmentations = Segmentations(labels, Algorithm(name or version, version if name else "unknown"))
    with progress("Exporting") as show:
        if to == "bids":
            report = export_bids(completed, out, jobs=jobs, overwrite=overwrite, progress=show)
        else:
            assert source is not None
            report = export_dicom(
                completed,
                out,
                source,
                sheet=sheet,
                deidentify=deidentify,
                mark=mark,
                segmentations=segmentations,
                jobs=jobs,
                overwrite=overwrite,
                progress=show,
            )
    rows = [{"subject": s, "written": "  ".join(names)} for s, names in list(report.done.items())[:MANY]]
    print_table(rows, len(report.done))
    if to == "dicom" and not deidentify:
        errors.print(
            "These DICOM files name the patient, as their source does. --deidentify leaves that out.", soft_wrap=True
        )
    if segmentations is not None:
        others, without = unused_labels(segmentations.place, completed)
        for what, names in (("Label maps of no study", others), ("Studies without a label map", without)):
            if names:
                say(f"{what}: {', '.join(names)}.")
    say(f"{report.counts('studies exported')}: {out}.")
    report_failures(report.failed)
