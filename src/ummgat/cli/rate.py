"""The commands `ummgat rate make` and `ummgat rate score` of a blinded reading."""

import functools
from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Device, Overwrite
from ummgat.cli.terminal import app, command, errors, print_table, progress, say

group = typer.Typer(help="Real or generated? A blinded page for readers, and its scoring.", no_args_is_help=True)
app.add_typer(group, name="rate", rich_help_panel="Measure")
rate_command = functools.partial(command, group=group)


@rate_command(example="ummgat rate make cohort rating --draw draw.json --n 40")
def make(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort.")],
    out: Annotated[Path, typer.Argument(help="New folder for rate.html (for readers) and key.csv (not for them).")],
    draw: Annotated[Path, typer.Option(help="File written by `ummgat draw`: it says who is a test subject.")],
    model: Annotated[Path | None, typer.Option(help="Generative model. Default: the bundled one.")] = None,
    part: Annotated[Literal["selection", "test"], typer.Option(help="Whose images to show.")] = "test",
    n: Annotated[int, typer.Option("--n", help="Images on the page, half of them real. Even.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the choice and the order.")] = 0,
    sources: Annotated[
        Literal["best", "each", "fuse"],
        typer.Option(help="What is generated from: the best source by validation, each in turn, or all combined."),
    ] = "best",
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Make one page on which readers say of each image whether it is real or generated, and how good it is."""
    import torch

    from ummgat.core.draw import load_draw
    from ummgat.core.files import require_new, write_text
    from ummgat.core.machine import BUNDLED_MODEL, choose_device, given_or_bundled
    from ummgat.core.study import load_cohort
    from ummgat.model.weights import load_model
    from ummgat.quality.directions import write_rows
    from ummgat.rate.make import select_images
    from ummgat.rate.page import rate_page

    require_new(out, overwrite)
    trained = load_model(given_or_bundled(model, BUNDLED_MODEL), torch.device(choose_device(device)))
    studies = load_draw(draw).studies(load_cohort(cohort), part, cohort)
    with progress("making images") as update:
        chosen = select_images(trained, studies, n, seed, sources, progress=lambda done, all_: update(done, all_, ""))
    write_rows(out / "key.csv", chosen.key)
    write_text(out / "rate.html", rate_page(chosen.images))
    say(f"Page for the readers, {len(chosen.images)} images: {out / 'rate.html'}")
    errors.print(
        f"Warning: {out / 'key.csv'} says which images are real. Do not hand it, nor this folder, to the readers; keep "
        f"it for `ummgat rate score`.",
        soft_wrap=True,
    )


@rate_command(example="ummgat rate score rating/key.csv ann.csv ben.csv --out scores")
def score(
    key: Annotated[Path, typer.Argument(help="key.csv that `ummgat rate make` wrote.")],
    answers: Annotated[list[Path], typer.Argument(help="Files that readers sent back, CSV or JSON, one per reader.")],
    out: Annotated[
        Path, typer.Option(help="New folder for readers.csv, agreement.csv, answers.csv, summary.json and .md.")
    ],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Score readers: accuracy, sensitivity, specificity, quality, and agreement beyond chance."""
    from ummgat.core.files import require_new, write_json, write_text
    from ummgat.quality.directions import write_rows
    from ummgat.rate.score import (
        agreement_rows,
        answer_rows,
        check_readers,
        read_answers,
        read_key,
        reader_rows,
        summary_json,
        summary_text,
    )

    require_new(out, overwrite)
    truth = read_key(key)
    readings = [read_answers(path, truth) for path in answers]
    check_readers(readings, answers)
    readers, agreement = reader_rows(truth, readings), agreement_rows(truth, readings, seed)
    write_rows(out / "readers.csv", readers)
    write_rows(out / "agreement.csv", agreement)
    write_rows(out / "answers.csv", answer_rows(truth, readings))
    write_json(out / "summary.json", summary_json(truth, readers, agreement))
    write_text(out / "summary.md", summary_text(truth, readers, agreement))
    print_table(
        [
            {
                "reader": row["reader"],
                "accuracy": f"{row['accuracy']:.2f} ({row['accuracy_low']:.2f} to {row['accuracy_high']:.2f})",
                "quality real, generated": f"{row['quality_real']:g}, {row['quality_generated']:g}",
            }
            for row in readers
            if row["sequence"] == "all"
        ]
    )
    say(f"Scored {len(readings)} readers: {out / 'summary.md'}")
