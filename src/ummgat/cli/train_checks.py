"""The command `ummgat train-checks`."""

from pathlib import Path
from typing import Annotated

import typer

from ummgat.cli.options import Overwrite
from ummgat.cli.terminal import command, fail, print_table, progress, say


@command(panel="Train", example="ummgat train-checks cohort checks.safetensors --draw draw.json")
def train_checks(
    cohort: Annotated[
        Path, typer.Argument(help="Prepared cohort with t1, t1ce, t2 and flair, in which nothing is wrong.")
    ],
    out: Annotated[Path, typer.Argument(help="New file, e.g. checks.safetensors.")],
    draw: Annotated[
        Path | None, typer.Option(help="Draw of which only training subjects are used. Default: all.")
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="Further cohort for the looks of sequences only, such as phantoms.")
    ] = None,
    called: Annotated[str, typer.Option(help="How findings name this cohort.")] = "the cohort of the checks",
    iterations: Annotated[int, typer.Option(min=2, help="Steps of each of the five trainings.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Teach the learnt checks on a cohort of one's own; limits come from subjects held out in turn. Half an hour on one
    core.
    """
    from ummgat.check.checker import save_checker
    from ummgat.check.learning import teach
    from ummgat.check.training import TrainingSettings
    from ummgat.core.draw import load_draw
    from ummgat.core.files import require_new
    from ummgat.core.study import load_cohort

    require_new(out, overwrite)
    studies = load_cohort(cohort)
    if draw is not None:
        wanted = load_draw(draw).train
        studies = [study for study in studies if study.subject in wanted]
    further = [study for folder in also or [] for study in load_cohort(folder)]
    settings = TrainingSettings(iterations=iterations, seed=seed)
    try:
        with progress("Teaching") as show:
            checker, held = teach(
                studies,
                further,
                called,
                settings,
                lambda which, done, loss: show(done, iterations, f"{which}: loss {loss:.3f}"),
            )
    except KeyboardInterrupt:
        fail("Stopped by the user. Nothing was written.", 130)
    save_checker(out, checker)
    reference = checker.reference
    print_table([{"what": name, "share of held-out": f"{rate:.1%}"} for name, rate in reference.rates.items()])
    say(f"Checks taught on {len(studies)} subjects, {len(held.stated)} held-out images: {out}.")
