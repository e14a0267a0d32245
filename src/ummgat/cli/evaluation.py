"""Commands that measure."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ummgat.cli.models import bundled
from ummgat.cli.terminal import Overwrite, comma_list, command, progress, report_failures, say

if TYPE_CHECKING:
    from ummgat.draw import Draw
    from ummgat.study import Study


@command
def directions(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort with complete subjects.")],
    out: Annotated[Path, typer.Argument(help="New folder for directions.csv, directions.md and pictures.")],
    model: Annotated[Path, typer.Option(help="Model exported by `ummgat train`.")],
    draw: Annotated[Path, typer.Option(help="Draw of the training run: it says who is a test subject.")],
    part: Annotated[
        Literal["selection", "test"], typer.Option(help="Whom to measure; choose nothing by test.")
    ] = "test",
    overwrite: Overwrite = False,
) -> None:
    """Measure every direction between sequences against the truth: generated, copied, histogram-matched, empty."""
    from ummgat.draw import load_draw
    from ummgat.evaluate.directions import count_wins, direction_table, measure, medians, write_rows
    from ummgat.evaluate.pictures import direction_grid
    from ummgat.files import require_new, write_text
    from ummgat.study import load_cohort
    from ummgat.weights import load_model

    require_new(out, overwrite)
    trained, wanted = load_model(model), load_draw(draw)
    studies = _of_part(load_cohort(cohort), wanted, part, cohort)
    with progress("measuring") as update:
        rows = measure(trained, studies, progress=lambda done, n: update(done, n, studies[done - 1].subject))
    summary = medians(rows)
    write_rows(out / "directions.csv", rows)
    centers = list(dict.fromkeys(row["center"] for row in summary))
    tables = [f"## Center {center}\n\n{direction_table(summary, center)}" for center in centers]
    write_text(out / "directions.md", "\n".join(tables))
    for study in studies[:3]:
        direction_grid(trained, study, study, out / f"{study.subject}.png")
    for metric, region in (("mae", "brain"), ("ssim", "brain"), ("correlation", "brain"), ("mae", "lesion")):
        won, lost, n = count_wins(summary, "matched", metric, region)
        say(
            f"{metric} in {region}: generated beats the matched copy in {won} of {n}; not in {', '.join(lost) or 'none'}"
        )
    say(f"Measured {len(studies)} {part} subjects: {out}")


@command
def evaluate(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort with labels and all sequences.")],
    out: Annotated[Path, typer.Argument(help="Folder for results.csv. The same command again goes on where it was.")],
    draw: Annotated[Path, typer.Option(help="File written by `ummgat draw`: it says who is a test subject.")],
    model: Annotated[Path | None, typer.Option(help="Generative model. Default: the bundled one.")] = None,
    segmenter: Annotated[
        Path | None, typer.Option(help="Segmenter that is fed with every substitute. Default: the bundled one.")
    ] = None,
    dropout: Annotated[
        Path | None,
        typer.Option(
            help="Rival trained with sequence dropout. Default: the bundled one, if --segmenter is not given."
        ),
    ] = None,
    part: Annotated[
        Literal["selection", "test"], typer.Option(help="Whom to evaluate; choose nothing by test.")
    ] = "test",
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
    seed: Annotated[int, typer.Option(help="Of the random scenario.")] = 0,
) -> None:
    """Take sequences away, put substitutes in their place, segment, and write Dice and HD95 of each."""
    from ummgat.doctor import BUNDLED_DROPOUT, BUNDLED_SEGMENTER, bundled_file
    from ummgat.draw import load_draw
    from ummgat.evaluate.scenarios import distribution, random_scenario
    from ummgat.evaluate.segmentation import correlations
    from ummgat.evaluate.segmentation import evaluate as run
    from ummgat.segment.unet import load_segmenter
    from ummgat.study import load_cohort
    from ummgat.weights import load_model

    if segmenter is None:
        segmenter, dropout = bundled_file(BUNDLED_SEGMENTER), dropout or bundled_file(BUNDLED_DROPOUT)
    if segmenter is None:
        raise FileNotFoundError(
            f"No segmenter is given: --segmenter. Found no bundled {BUNDLED_SEGMENTER}; expected weights. Give --segmenter "
            "FILE, as `ummgat train-segmenter` writes it."
        )
    wanted, generator = load_draw(draw), load_model(model or bundled())
    segmenters = {"plain": load_segmenter(segmenter)}
    if dropout is not None:
        segmenters["dropout"] = load_segmenter(dropout)
    studies = load_cohort(cohort)
    chosen = _of_part(studies, wanted, part, cohort)
    for name, own in segmenters.items():
        seen = sorted({s.subject for s in chosen} & set(own.training["subjects"]))
        if seen:
            raise ValueError(
                f"Segmenter was trained on subjects it would be tested on: {name}. Found {', '.join(seen)}; expected none. "
                "Train it on other subjects, or choose another draw."
            )
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
    settings = {
        "model": generator.hash,
        "segmenters": {name: own.hash for name, own in segmenters.items()},
        "part": part,
        "subjects": [s.subject for s in chosen],
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
            progress=lambda done, n: update(done, n, ""),
            as_center=as_center,
        )
    say(f"Evaluated {len(report.done)} {part} subjects: {out / 'results.csv'}")
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
    overwrite: Overwrite = False,
) -> None:
    """Turn an evaluation into one page with tables, tests and figures that opens without a network."""
    from ummgat.files import require_new
    from ummgat.report.page import build_report

    require_new(out, overwrite)
    say(f"Report: {build_report(results, out, calibration, None if paper == 'none' else paper)}")


def _of_part(studies: "Sequence[Study]", drawn: "Draw", part: str, cohort: Path) -> "list[Study]":
    """Selection or test subjects of the draw, at least one."""
    subjects = drawn.test if part == "test" else drawn.selection
    chosen = [study for study in studies if study.subject in subjects]
    if not chosen:
        raise ValueError(
            f"No {part} subject in the cohort: {cohort}. Found none of {', '.join(subjects) or 'an empty list'}; expected "
            "at least one. Prepare them, or choose the other --part."
        )
    return chosen
