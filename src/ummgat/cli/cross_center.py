"""The command `ummgat cross-center`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Device, Jobs
from ummgat.cli.terminal import command, progress, report_failures, say


@command(panel="Measure", example="ummgat cross-center cohort across --draw draw.json")
def cross_center(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort of several centers, with labels.")],
    out: Annotated[Path, typer.Argument(help="Folder for results.csv. The same command again goes on where it was.")],
    draw: Annotated[Path, typer.Option(help="File written by `ummgat draw`: it says who is a test subject.")],
    segmenter: Annotated[
        Path | None,
        typer.Option(help="Own segmenter, trained on subjects of one center. Default: the bundled one for T2."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Generative model. Default: the bundled one.")] = None,
    part: Annotated[
        Literal["selection", "test", "unseen"],
        typer.Option(help="Whom to evaluate; unseen: all whom the segmenter did not train on (the model may have)."),
    ] = "test",
    scanned: Annotated[
        Path | None, typer.Option(help="Prepared: the same subjects as the segmenter's center would have scanned them.")
    ] = None,
    device: Device = "auto",
    jobs: Jobs = 1,
) -> None:
    """Segment other centers' images with one center's segmenter: as they are, histogram-matched, aligned by the
    model.
    """
    import torch

    from ummgat.core.draw import load_draw
    from ummgat.core.machine import BUNDLED_MODEL, BUNDLED_T2, choose_device, given_or_bundled
    from ummgat.core.study import load_cohort
    from ummgat.evaluate.cross_center import cross_center as run
    from ummgat.model.weights import load_model
    from ummgat.segment.unet import load_segmenter

    path = given_or_bundled(segmenter, BUNDLED_T2)
    on = torch.device(choose_device(device))
    wanted, generator = load_draw(draw), load_model(given_or_bundled(model, BUNDLED_MODEL), on)
    own = load_segmenter(path, on)
    homes = own.training.get("centers", [])
    if len(homes) != 1:
        raise ValueError(
            f"Segmenter is not of one center: {path}. Found {', '.join(homes) or 'none told'}; expected one. Train it "
            f"with `ummgat train-segmenter --centers NAME`."
        )
    studies = load_cohort(cohort)
    if part == "unseen":
        known = set(own.training["subjects"])
        chosen = [s for s in studies if s.subject in wanted.subjects and s.subject not in known]
    else:
        chosen = wanted.studies(studies, part, cohort)
    settings = {
        "home": homes[0],
        "sequences": list(own.sequences),
        "model": generator.hash,
        "segmenter": own.hash,
        "part": part,
        "subjects": [s.subject for s in chosen],
        "in_training_part": [s.subject for s in chosen if s.subject in wanted.train],
        "scanned": scanned is not None,
    }
    there = None if scanned is None else {s.subject: s for s in load_cohort(scanned)}
    with progress("evaluating") as update:
        report = run(own, homes[0], generator, chosen, out, settings, there, jobs, update)
    say(f"With the segmenter of {homes[0]}: {report.counts('evaluated')}: {out / 'results.csv'}")
    report_failures(report.failed)
