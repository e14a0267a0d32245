"""The command `ummgat inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from ummgat.cli.options import Accept, Overwrite
from ummgat.cli.terminal import MANY, command, console, print_table, say

_PRINTED = (
    "subject",
    "session",
    "series",
    "sequence",
    "proposal",
    "sure",
    "why",
    "shape",
    "spacing_mm",
    "orientation",
    "findings",
)


@command(panel="Data", example="ummgat inspect disc --out sheet.csv")
def inspect(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM, BIDS, BraTS, UCSF-PDGM, NIfTI, MHA or NRRD files.")],
    out: Annotated[Path | None, typer.Option(help="CSV to write, correct and hand on.")] = None,
    show_paths: Annotated[
        bool, typer.Option("--show-paths", help="Also print where each series lies, even if folders name patients.")
    ] = False,
    accept: Accept = "sure",
    overwrite: Overwrite = False,
) -> None:
    """List every series with the sequence it probably is, how sure that is and why, and which one of several is
    preferred.

    Writes nothing but the CSV and its key.
    """
    from ummgat.core.files import require_new
    from ummgat.intake.privacy import Key, key_path
    from ummgat.intake.scan import scan_folder
    from ummgat.intake.sheet import write_sheet

    if out is not None:
        require_new(out, overwrite)
    key = Key.read(key_path(out)) if out is not None else Key()
    with console.status("Looking at files"):
        scan = scan_folder(folder, key, accept=accept)
    if out is not None:
        write_sheet(out, scan, key, overwrite)
    table = [{name: text for name, text in row.as_dict().items() if name in _PRINTED} for row in scan.rows]
    print_table(table[:MANY], len(table))
    for remark in scan.remarks:
        say(f"  {remark}")
    if show_paths:
        for row in scan.rows:
            say(f"{row.series}: {row.path or (row.stack.first.file.parent if row.stack else '')}")
        for path in scan.damaged:
            say(f"unreadable: {path}")
    settled = sum(row.sequence not in ("", "none") for row in scan.rows)
    asked = sum(row.sequence == "" for row in scan.rows)
    say(
        f"{len(scan.subjects)} subjects, {len(scan.rows)} series: {settled} are clear, {asked} need your word, "
        f"{len(scan.rows) - settled - asked} will not be used."
    )
    if out is not None:
        say(f"Sheet: {out}. Fill or correct the column `sequence` (none = leave out). The key beside it is private.")
    else:
        say("Labels of DICOM patients are for this look only; with --out they stay the same.")
