"""The command `ummgat report`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Overwrite
from ummgat.cli.terminal import command, say


@command(panel="Measure", example="ummgat report evaluation report")
def report(
    results: Annotated[Path, typer.Argument(help="Folder written by `ummgat evaluate`.")],
    out: Annotated[Path, typer.Argument(help="New folder: report.html, and every table and figure as a file.")],
    calibration: Annotated[
        Path | None, typer.Option(help="The same of the selection part: chooses the substitute `auto` per scenario.")
    ] = None,
    paper: Annotated[
        Literal["BraTS2019", "UCSF-PDGM", "BraTS2023-MEN", "none"],
        typer.Option(help="Whose published rows to print too: of other subjects, segmenters and voxels."),
    ] = "none",
    cross: Annotated[
        list[Path] | None, typer.Option(help="Folder written by `ummgat cross-center`. May be repeated.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Generative model that was evaluated: MODEL_CARD.md is written about it.")
    ] = None,
    notes: Annotated[
        Path | None, typer.Option(help="Markdown that the card holds too: licence, data, known faults. Needs --model.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn an evaluation into one page with tables, tests and figures that opens without a network."""
    from ummgat.core.files import read_json, require_new
    from ummgat.report.page import build_report

    if notes is not None and model is None:
        raise ValueError(
            f"Notes have no card: {notes}. Found --notes alone; expected --model too, which writes the card. Give both."
        )
    text = "" if notes is None else notes.read_text(encoding="utf-8")
    require_new(out, overwrite)
    page = build_report(results, out, calibration, None if paper == "none" else paper, cross or (), model, text)
    lacking = read_json(out / "facts.json")["lacking"]
    if lacking:
        say(f"UNFINISHED: rows of {lacking} subjects are missing, see missing_rows.csv. Run `ummgat evaluate` again.")
    say(f"Report: {page}")
