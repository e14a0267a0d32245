"""Commands that measure."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ummgat.cli.segmenters import ChannelOrder, Interpreter, Orientation, Timeout, Trust, open_segmenter
from ummgat.cli.terminal import Jobs, Overwrite, comma_list, command, progress, report_failures, say

if TYPE_CHECKING:
    from ummgat.core.study import Study


@command
def directions(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort with complete subjects.")],
    out: Annotated[Path, typer.Argument(help="New folder for directions.csv, directions.md and pictures.")],
    model: Annotated[Path, typer.Option(help="Model exported by `ummgat train`.")],
    draw: Annotated[Path, typer.Option(help="Draw of the training run: it says who is a test subject.")],
    part: Annotated[
        Literal["selection", "test"], typer.Option(help="Whom to measure; choose nothing by test.")
    ] = "test",
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Measure every direction between sequences against the truth: generated, copied, histogram-matched, empty."""
    from ummgat.core.draw import load_draw
    from ummgat.core.each import gathered
    from ummgat.core.files import require_new, write_text
    from ummgat.core.study import load_cohort
    from ummgat.model.weights import load_model
    from ummgat.quality.directions import count_wins, direction_table, measure, medians, write_rows
    from ummgat.quality.pictures import direction_grid

    require_new(out, overwrite)
    trained, wanted = load_model(model), load_draw(draw)
    studies = wanted.studies(load_cohort(cohort), part, cohort)
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
            f"{metric} in {region}: generated beats the matched copy in {won} of {n}; not in {', '.join(lost) or 'none'}"
        )
    say(f"Subjects of {part}: {measured.counts('measured')}: {out}")
    report_failures(measured.failed)


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


@command
def evaluate(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort with labels and all sequences.")],
    out: Annotated[Path, typer.Argument(help="Folder for results.csv. The same command again goes on where it was.")],
    draw: Annotated[Path, typer.Option(help="File written by `ummgat draw`: it says who is a test subject.")],
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
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Device to compute on.")] = "auto",
) -> None:
    """Take sequences away, put substitutes in their place, segment, and write Dice and HD95 of each."""
    import torch

    from ummgat.core.draw import load_draw
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
    wanted, generator = load_draw(draw), load_model(given_or_bundled(model, BUNDLED_MODEL), on)
    studies = load_cohort(cohort)
    chosen = wanted.studies(studies, part, cohort)
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
            f"{len(seen)} of {len(chosen)} subjects are in the draw's training part: a model of this draw has seen their images."
        )
    settings = {
        "model": generator.hash,
        "segmenters": {name: own.hash for name, own in segmenters.items()},
        "part": part,
        "subjects": [s.subject for s in chosen],
        "in_training_part": seen,
        "correlations": {f"{a} {b}": round(value, 4) for (a, b), value in correlated.items()},
    }
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
            as_center=as_center,
            fine=None if fine is None else _same_subjects(load_cohort(fine), chosen, fine),
            jobs=jobs,
            progress=update,
        )
    write_rows(out / "cohort.csv", table)
    say(f"Subjects of {part}: {report.counts('evaluated')}: {out / 'results.csv'}")
    report_failures(report.failed)


@command
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
    jobs: Jobs = 1,
) -> None:
    """Segment other centers' images with one center's segmenter: as they are, histogram-matched, aligned by the model."""
    from ummgat.core.draw import load_draw
    from ummgat.core.machine import BUNDLED_MODEL, BUNDLED_T2, given_or_bundled
    from ummgat.core.study import load_cohort
    from ummgat.evaluate.cross_center import cross_center as run
    from ummgat.model.weights import load_model
    from ummgat.segment.unet import load_segmenter

    path = given_or_bundled(segmenter, BUNDLED_T2)
    wanted, generator, own = load_draw(draw), load_model(given_or_bundled(model, BUNDLED_MODEL)), load_segmenter(path)
    homes = own.training.get("centers", [])
    if len(homes) != 1:
        raise ValueError(
            f"Segmenter is not of one center: {path}. Found {', '.join(homes) or 'none told'}; expected one. Train it with "
            "`ummgat train-segmenter --centers NAME`."
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


@command
def report(
    results: Annotated[Path, typer.Argument(help="Folder written by `ummgat evaluate`.")],
    out: Annotated[Path, typer.Argument(help="New folder: report.html, and every table and figure as a file.")],
    calibration: Annotated[
        Path | None, typer.Option(help="The same of the selection part: chooses the substitute `auto` per scenario.")
    ] = None,
    paper: Annotated[
        Literal["BraTS2019", "UCSF-PDGM", "BraTS2023-MEN", "none"],
        typer.Option(help="Whose published rows to print too."),
    ] = "BraTS2019",
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
    from ummgat.core.files import require_new
    from ummgat.report.page import build_report

    if notes is not None and model is None:
        raise ValueError(
            f"Notes have no card: {notes}. Found --notes alone; expected --model too, which writes the card. Give both."
        )
    text = "" if notes is None else notes.read_text(encoding="utf-8")
    require_new(out, overwrite)
    page = build_report(results, out, calibration, None if paper == "none" else paper, cross or (), model, text)
    say(f"Report: {page}")


def _same_subjects(studies: "Sequence[Study]", chosen: "Sequence[Study]", folder: Path) -> "dict[str, Study]":
    """The finer study of every chosen subject, annotated and with smaller voxels."""
    found = {s.subject: s for s in studies}
    for study in chosen:
        there = found.get(study.subject)
        if there is None or there.labels() is None or there.grid.spacing_mm[0] >= study.grid.spacing_mm[0]:
            raise ValueError(
                f"Finer cohort does not fit: {folder}, subject {study.subject}. Found "
                f"{'nobody' if there is None else 'no labels, or voxels that are not smaller'}; expected the same subjects, "
                "annotated, with smaller voxels. Prepare the same studies with a smaller --spacing."
            )
    return {study.subject: found[study.subject] for study in chosen}
