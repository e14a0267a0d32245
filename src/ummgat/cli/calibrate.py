"""The command `ummgat calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from ummgat.cli.options import Device, Jobs, Overwrite
from ummgat.cli.terminal import command, progress, report_failures, say


@command(panel="Train", example="ummgat calibrate run/model.safetensors cohort calibrated.safetensors --draw draw.json")
def calibrate(
    model: Annotated[Path, typer.Argument(help="Generative model.")],
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort of complete studies, at the model's voxel size.")],
    out: Annotated[Path, typer.Argument(help="New file: the model, with what was learnt.")],
    draw: Annotated[
        Path | None,
        typer.Option(
            help="File of `ummgat draw`: selection subjects count. Without: all, so none the model trained on."
        ),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    jobs: Jobs = 1,
) -> None:
    """Teach a model how far to trust its images, on complete patients that it did not train on; reliability maps need
    it.
    """
    import torch

    from ummgat.core.draw import load_draw
    from ummgat.core.files import require_new
    from ummgat.core.machine import BUNDLED_MODEL, choose_device, given_or_bundled
    from ummgat.core.study import load_cohort
    from ummgat.model.weights import load_model
    from ummgat.train.calibrate import add_to_file
    from ummgat.train.calibrate import calibrate as learn

    require_new(out, overwrite)
    path = given_or_bundled(model, BUNDLED_MODEL)
    trained = load_model(path, torch.device(choose_device(device)))
    studies = load_cohort(cohort)
    if draw is not None:
        studies = load_draw(draw).studies(studies, "selection", cohort)
    with progress("calibrating") as update:
        found, report = learn(trained, studies, jobs, update)
    add_to_file(path, out, found)
    say(f"Calibrated on {found.facts['subjects']} subjects: {out}")
    for row in found.facts["out_of_fold"]:
        say(
            f"{'+'.join(row['sources'])} to {row['target']}: {100 * row['right']:.0f} % of voxels within "
            f"{found.facts['level']:.0f} grey levels, rank correlation with the error {row['rank_correlation']:.2f}"
        )
    report_failures(report.failed)
