"""The command `ummgat compare`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Jobs
from ummgat.cli.terminal import command, print_table, progress, report_failures, say


@command(panel="Measure", example="ummgat compare with-lam without-lam --data cohort --draw draw.json --out comparison")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `ummgat train`, two or more, of one draw.")],
    data: Annotated[Path, typer.Option(help="Prepared cohort with labels and all sequences.")],
    draw: Annotated[Path, typer.Option(help="File written by `ummgat draw`: it says who is who.")],
    out: Annotated[Path, typer.Option(help="Folder for comparison.csv. The same command again goes on where it was.")],
    segmenter: Annotated[Path | None, typer.Option(help="Own segmenter. Default: the bundled one.")] = None,
    part: Annotated[
        Literal["selection", "test"], typer.Option(help="Whom to measure; choose nothing by test.")
    ] = "selection",
    jobs: Jobs = 1,
) -> None:
    """Tabulate runs that differ in settings: errors, distances and Dice on the same subjects, for ablations."""
    from ummgat.core.draw import load_draw
    from ummgat.core.machine import BUNDLED_SEGMENTER, given_or_bundled
    from ummgat.core.study import load_cohort
    from ummgat.quality.compare_runs import compare_runs
    from ummgat.quality.features import segmenter_bottleneck
    from ummgat.segment.unet import load_segmenter

    names = [run.resolve().name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"Runs cannot be compared. Found {', '.join(names)}; expected two or more folders with names of their own. "
            "Rename them."
        )
    own = load_segmenter(given_or_bundled(segmenter, BUNDLED_SEGMENTER))
    chosen = load_draw(draw).studies(load_cohort(data), part, data)
    settings = {"segmenter": own.hash, "part": part, "subjects": [s.subject for s in chosen]}
    with progress("comparing") as update:
        rows, failed = compare_runs(
            dict(zip(names, runs, strict=True)),
            chosen,
            own,
            segmenter_bottleneck(own),
            out,
            settings,
            jobs,
            lambda what, done, n: update(done, n, what),
        )
    print_table(rows)
    say(
        f"Dice: generated / copied / complete, single sequences missing. n = {len(chosen)} {part} subjects: "
        f"{out / 'comparison.csv'}"
    )
    report_failures(failed)
