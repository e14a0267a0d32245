"""The command `ummgat evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ummgat.cli.options import Device, Jobs, TestDraw
from ummgat.cli.segmenters import ChannelOrder, Interpreter, Orientation, Timeout, Trust, open_segmenter
from ummgat.cli.terminal import comma_list, command, progress, report_failures, say

if TYPE_CHECKING:
    from ummgat.core.study import Study

Part = Annotated[
    Literal["selection", "test", "all"],
    typer.Option(help="Whom to evaluate; choose nothing by test. all: needs a cross-fitted segmenter."),
]


Segmenter = Annotated[
    Path | None,
    typer.Option(
        help="Segmenter that is fed with every substitute: own, folds of own, MONAI bundle, nnU-Net folder, ONNX. "
        "Default: the bundled."
    ),
]


@command(panel="Measure", example="ummgat evaluate cohort evaluation --draw draw.json --jobs 4")
def evaluate(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort with labels and all sequences.")],
    out: Annotated[Path, typer.Argument(help="Folder for results.csv. The same command again goes on where it was.")],
    draw: TestDraw = None,
    model: Annotated[Path | None, typer.Option(help="Generative model. Default: the bundled one.")] = None,
    segmenter: Segmenter = None,
    dropout: Annotated[
        Path | None,
        typer.Option(
            help="Rival trained with sequence dropout. Default: the bundled one, if --segmenter is not given."
        ),
    ] = None,
    part: Part = "test",
    scenarios: Annotated[
        str | None,
        typer.Option(
            help="Only these: names as t1 and t1+flair, groups none, single, double, triple, fixed, random. "
            "Default: none,fixed,random; none,single,random with more than four sequences."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Only these substitutes, of complete, empty, copy, matched, atlas, generate, fuse, flood: each costs "
            "a segmentation or several. Default: all."
        ),
    ] = None,
    as_center: Annotated[
        str | None, typer.Option(help="Translate all studies as if they came from this center of the model.")
    ] = None,
    fine: Annotated[
        Path | None, typer.Option(help="The same cohort prepared with smaller voxels, to judge labels there too.")
    ] = None,
    demographics: Annotated[
        Path | None, typer.Option(help="CSV with subject,age,sex for the cohort table; prepared studies hold neither.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random scenario.")] = 0,
    trust: Trust = False,
    segmenter_sequences: ChannelOrder = None,
    segmenter_orientation: Orientation = None,
    segmenter_timeout: Timeout = 600,
    segmenter_python: Interpreter = None,
    jobs: Jobs = 1,
    device: Device = "auto",
) -> None:
    """Take sequences away, put substitutes in their place, segment, and write Dice and HD95 of each."""
    import torch

    from ummgat.core.draw import NO_DRAW, given_or_all_test
    from ummgat.core.machine import (
        BUNDLED_DROPOUT,
        BUNDLED_MODEL,
        BUNDLED_SEGMENTER,
        bundled_file,
        choose_device,
        given_or_bundled,
    )
    from ummgat.core.study import load_cohort
    from ummgat.evaluate.cohort_table import cohort_rows, read_demographics
    from ummgat.evaluate.scenarios import distribution, random_scenario
    from ummgat.evaluate.segmentation import correlations
    from ummgat.evaluate.segmentation import evaluate as run
    from ummgat.model.weights import load_model
    from ummgat.quality.directions import write_rows
    from ummgat.segment.unet import load_segmenter

    if segmenter is None:
        dropout = dropout or bundled_file(BUNDLED_DROPOUT)
    on = torch.device(choose_device(device))
    studies = load_cohort(cohort)
    wanted, generator = given_or_all_test(draw, studies), load_model(given_or_bundled(model, BUNDLED_MODEL), on)
    chosen = wanted.studies(studies, part, cohort)
    if draw is None:
        say(NO_DRAW.format(n=len(chosen)))
    foreign = (trust, segmenter_sequences, segmenter_orientation, segmenter_timeout, segmenter_python, on)
    segmenters = {"plain": open_segmenter(given_or_bundled(segmenter, BUNDLED_SEGMENTER), chosen, *foreign)}
    if dropout is not None:
        segmenters["dropout"] = load_segmenter(dropout, on)
    parts = {"training": wanted.train, "selection": wanted.selection, "test": wanted.test}
    # Read now: a bad file is refused before hours of work.
    told = None if demographics is None else read_demographics(demographics)
    table = cohort_rows({name: [s for s in studies if s.subject in of] for name, of in parts.items()}, told)
    sequences = segmenters["plain"].sequences
    correlated = correlations([s for s in studies if s.subject in wanted.train], sequences)
    for target in sequences:
        best = max(
            (s for s in sequences if (target, s) in correlated), key=lambda s: correlated[target, s], default=None
        )
        if best:
            say(f"Most correlated with {target} on training subjects: {best} ({correlated[target, best]:.2f})")
    if len(sequences) > 1:
        counts = distribution([random_scenario(sequences, s.subject, seed) for s in chosen])
        say("Random scenario: " + ", ".join(f"{what} {n}" for what, n in counts.items()))
    seen = [s.subject for s in chosen if s.subject in wanted.train]
    if seen:
        say(
            f"{len(seen)} of {len(chosen)} subjects are in the draw's training part: a model of this draw has seen "
            f"their images."
        )
    settings = {
        "model": generator.hash,
        "segmenters": {name: own.hash for name, own in segmenters.items()},
        "part": part,
        "subjects": [s.subject for s in chosen],
        "in_training_part": seen,
        "correlations": {f"{a} {b}": round(value, 4) for (a, b), value in correlated.items()},
    }
    if draw is None:
        settings["draw"] = "none: all are taken for test subjects"
    with progress("evaluating") as update:
        report = run(
            segmenters,
            generator,
            chosen,
            out,
            correlated,
            settings,
            seed,
            comma_list(scenarios),
            comma_list(methods),
            as_center=as_center,
            fine=None if fine is None else _same_subjects(load_cohort(fine), chosen, fine),
            jobs=jobs,
            progress=update,
        )
    write_rows(out / "cohort.csv", table)
    say(f"Subjects of {part}: {report.counts('evaluated')}: {out / 'results.csv'}")
    report_failures(report.failed)


def _same_subjects(studies: "Sequence[Study]", chosen: "Sequence[Study]", folder: Path) -> "dict[str, Study]":
    """The finer study of every chosen subject, annotated and with smaller voxels."""
    found = {s.subject: s for s in studies}
    for study in chosen:
        there = found.get(study.subject)
        if there is None or there.labels() is None or there.grid.spacing_mm[0] >= study.grid.spacing_mm[0]:
            raise ValueError(
                f"Finer cohort does not fit: {folder}, subject {study.subject}. Found "
                f"{'nobody' if there is None else 'no labels, or voxels that are not smaller'}; expected the same "
                f"subjects, annotated, with smaller voxels. Prepare the same studies with a smaller --spacing."
            )
    return {study.subject: found[study.subject] for study in chosen}
