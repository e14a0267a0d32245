"""The command `ummgat directions`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Device, Jobs, Overwrite, TestDraw
from ummgat.cli.terminal import command, progress, report_failures, say


@command(panel="Measure", example="ummgat directions cohort directions --model run/model.safetensors --draw draw.json")
def directions(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort with complete subjects.")],
    out: Annotated[Path, typer.Argument(help="New folder for directions.csv, directions.md and pictures.")],
    model: Annotated[Path, typer.Option(help="Model exported by `ummgat train`.")],
    draw: TestDraw = None,
    part: Annotated[
        Literal["selection", "test"], typer.Option(help="Whom to measure; choose nothing by test.")
    ] = "test",
    device: Device = "auto",
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Measure every direction between sequences against the truth: generated, copied, histogram-matched, empty."""
    import torch

    from ummgat.core.draw import NO_DRAW, given_or_all_test
    from ummgat.core.each import gathered
    from ummgat.core.files import require_new, write_text
    from ummgat.core.machine import choose_device
    from ummgat.core.study import load_cohort
    from ummgat.model.weights import load_model
    from ummgat.quality.directions import count_wins, direction_table, measure, medians, write_rows
    from ummgat.quality.pictures import direction_grid

    require_new(out, overwrite)
    trained, everybody = load_model(model, torch.device(choose_device(device))), load_cohort(cohort)
    studies = given_or_all_test(draw, everybody).studies(everybody, part, cohort)
    if draw is None:
        say(NO_DRAW.format(n=len(studies)))
    with progress("measuring") as update:
        measured = measure(trained, studies, jobs=jobs, progress=update)
    rows = gathered(measured)
    summary = medians(rows)
    write_rows(out / "directions.csv", rows)
    centers = list(dict.fromkeys(row["center"] for row in summary))
    tables = [f"## Center {center}\n\n{direction_table(summary, center)}" for center in centers]
    write_text(out / "directions.md", "\n".join(tables))
    for study in [s for s in studies if s.subject in measured.done][:3]:
        direction_grid(trained, study, study, out / f"{study.subject}.png")
    for metric, region in (("mae", "brain"), ("ssim", "brain"), ("correlation", "brain"), ("mae", "lesion")):
        won, lost, n = count_wins(summary, "matched", metric, region)
        say(
            f"{metric} in {region}: generated beats the matched copy in {won} of {n}; not in "
            f"{', '.join(lost) or 'none'}"
        )
    say(f"Subjects of {part}: {measured.counts('measured')}: {out}")
    report_failures(measured.failed)
