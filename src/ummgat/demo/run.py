"""The main job from nothing, in minutes: phantom → prepare → train → complete → measure → report → masks.

The phantom knows the truth that the training never sees: one sequence per patient, two centers, nothing paired.
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ummgat.completion.cohort import complete
from ummgat.completion.fill import Request
from ummgat.core.config import Config, load_config
from ummgat.core.domain import Domain
from ummgat.core.draw import make_draw
from ummgat.core.each import gathered
from ummgat.core.files import require_new, write_json, write_text
from ummgat.core.metrics import rank_correlation
from ummgat.core.study import Study, load_cohort, write_study
from ummgat.demo.masks import demo_masks
from ummgat.demo.report import demo_report
from ummgat.model.weights import TrainedModel, load_model
from ummgat.phantom import PhantomConfig, write_phantom
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings
from ummgat.quality.directions import (
    Row,
    count_wins,
    direction_table,
    measure,
    medians,
    substitutes_for,
    translator_of,
    write_rows,
)
from ummgat.quality.pictures import best_plane, comparison, direction_grid
from ummgat.train.calibrate import add_to_file, calibrate
from ummgat.train.loop import train

PHANTOM = PhantomConfig(
    n_subjects={"A": 12, "B": 6},
    n_selection={"A": 3, "B": 1},
    n_test={"A": 3, "B": 1},
    sequences={"A": ("t1", "t1ce", "t2", "flair"), "B": ("t1", "t2")},
    spacing_mm=3.0,
)
"""18 training patients with one sequence each; the selection and test patients keep theirs, and the truth is kept
aside."""

INVERTING = (("t1", "t2"), ("t2", "t1"))


def run_demo(
    out: Path, *, seed: int = 0, iterations: int | None = None, overwrite: bool = False, console: Console
) -> int:
    """Run the demo into `out`; returns 0 if generated beat the histogram-matched copy as promised, 1 if not.

    Parameters
    ----------
    out : Path
        New folder; gets phantom/, cohort/, truth/, run/, completed/, evaluation/, report/, masks/, pictures and tables.
    seed : int
    iterations : int, optional
        Of training; default as preset `tiny` says.
    overwrite : bool
        Use `out` even if it holds something: its demo files are replaced.
    console : Console
    """
    require_new(out, overwrite)
    for name in (
        "run",
        "incomplete",
        "completed",
        "segmenter",
        "evaluation",
        "report",
        "gaps",
        "masks",
    ):  # a run of other settings could not be gone on with
        shutil.rmtree(out / name, ignore_errors=True)
    began = time.monotonic()
    config = load_config("tiny")
    update = {"seed": seed} | ({"iterations": iterations} if iterations else {})
    config = config.model_copy(update={"train": config.train.model_copy(update=update)})
    console.print("[bold]1/7[/] Writing a phantom cohort: two centers, 18 training patients with one sequence each")
    write_phantom(out / "phantom", PhantomConfig(**(PHANTOM.model_dump() | {"seed": seed})), overwrite=overwrite)
    console.print("[bold]2/7[/] Preparing it")
    cohort, truth = _prepare(out, config, overwrite)
    console.print("[bold]3/7[/] Training without pairs")
    split = json.loads((out / "phantom" / "split.json").read_text())
    truths = {study.subject: study for study in truth}
    complete_ones = [truths[s] for s in split["selection"] if truths[s].center == "A"]
    model = _train(out, config, cohort, complete_ones, seed, console)
    console.print("[bold]4/7[/] Completing a test patient of whom only the T1 is left")
    tests = [study for study in cohort if study.subject in split["test"]]
    trust = _complete_one(out, model, tests[0], truths[tests[0].subject], overwrite)
    console.print("[bold]5/7[/] Measuring against the truth that training never saw")
    rows = gathered(measure(model, tests, truths))
    summary = medians(rows)
    write_rows(out / "directions.csv", rows)
    write_text(out / "directions.md", direction_table(summary, "A"))
    _pictures(out, model, tests[0], truths[tests[0].subject])
    console.print(_table(summary))
    console.print("[bold]6/7[/] Does it help a segmenter? One sequence missing, or all but one, and every substitute")
    parts = {"training": split["train"], "test": split["test"]}
    with _bar(console) as progress:
        task = progress.add_task("", total=1)
        write_rows(out / "evaluation" / "directions.csv", rows)
        page = demo_report(
            out,
            model,
            {name: [truths[s] for s in subjects] for name, subjects in parts.items()},
            seed,
            lambda what, done, n: progress.update(task, description=what, completed=done, total=n),
        )
    console.print(f"Report, with every table and figure: {page}")
    console.print("[bold]7/7[/] From what three test patients have left to masks, by the real command")
    masks = demo_masks(out, model, [truths[study.subject] for study in tests if study.center == "A"])
    console.print(f"Masks, volumes and pages: {masks}")
    return _verdict(summary, trust, out, time.monotonic() - began, console)


def _prepare(out: Path, config: Config, overwrite: bool) -> tuple[list[Study], list[Study]]:
    settings = PrepareSettings(spacing_mm=config.data.spacing_mm, centers=out / "phantom" / "split.json")
    for source, target in (("studies", "cohort"), ("truth", "truth")):
        report = prepare_cohort(out / "phantom" / source, out / target, settings, overwrite=overwrite)
        if report.failed:
            raise ValueError(
                f"Phantom could not be prepared: {out}. Found {report.failed}; expected none. This is a bug."
            )
    return load_cohort(out / "cohort"), load_cohort(out / "truth")


def _train(
    out: Path, config: Config, cohort: list[Study], complete_ones: list[Study], seed: int, console: Console
) -> TrainedModel:
    """Train on one sequence per patient; how far to trust the result is learnt from a few complete ones beside them."""
    draw = make_draw(cohort, "strict", seed, split_file=out / "phantom" / "split.json")
    with _bar(console) as progress:
        task = progress.add_task("training", total=config.train.iterations)
        train(
            config,
            cohort,
            draw,
            out / "run",
            accelerator="cpu",
            on_step=lambda step, parts, seconds: progress.update(task, completed=step),
        )
    model = out / "run" / "model.safetensors"
    found, _ = calibrate(load_model(model), complete_ones)
    add_to_file(model, out / "run" / "calibrated.safetensors", found)
    return load_model(out / "run" / "calibrated.safetensors")


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def _complete_one(out: Path, model: TrainedModel, study: Study, truth: Study, overwrite: bool) -> dict[str, float]:
    """Take all but the T1 away from a test patient, complete it by the real command, and see whether reliability tells
    the error.
    """
    only_t1 = out / "incomplete" / study.subject
    record = study.record.model_copy(deep=True)
    record.images = {"t1": record.images["t1"]}
    write_study(
        only_t1,
        record,
        {"t1": np.array(study.volume("t1"))},
        None if study.labels() is None else np.array(study.labels()),
    )
    report = complete(only_t1, out / "completed", model, request=Request(sources=("t1",)), overwrite=overwrite)
    if report.failed:
        raise ValueError(f"Completion failed: {only_t1}. Found {report.failed}; expected none. This is a bug.")
    done = load_cohort(out / "completed")[0]
    trust = {}
    for name, image in done.record.images.items():
        if image.kind != "acquired":
            error = np.abs(done.volume(name).astype(np.float32) - truth.volume(name))
            percent = done.companion(image.file.replace(".nii", "_reliability.nii"))
            trust[name] = rank_correlation(100.0 - percent[percent > 0], error[percent > 0])
    return trust


def _pictures(out: Path, model: TrainedModel, study: Study, truth: Study) -> None:
    direction_grid(model, study, truth, out / "translations.png")
    rows = []
    for source, target in (("t1", "t2"), ("t2", "t1"), ("t1", "flair"), ("flair", "t1ce")):
        translator = translator_of(model, np.array(study.volume(source)), Domain(study.center, source))
        found = substitutes_for(translator, Domain(study.center, target), model.criteria["mode"])
        rows.append(
            (
                f"{source} → {target}",
                found["copied"],
                found["matched"],
                found["generated"],
                np.array(truth.volume(target)),
            )
        )
    title = f"{study.subject} (phantom): generated images are not scans"
    comparison(rows, best_plane(truth), out / "comparison.png", title)


def _table(summary: list[Row]) -> Table:
    table = Table(title="Median over test phantoms of center A, brain: generated / matched copy / copy / empty")
    for name in ("direction", "MAE (of 255)", "SSIM", "correlation"):
        table.add_column(name)
    own = [r for r in summary if r["center"] == "A" and r["region"] == "brain"]
    for pair in dict.fromkeys((r["source"], r["target"]) for r in own):
        values = {r["substitute"]: r for r in own if (r["source"], r["target"]) == pair}
        cells = []
        for metric, digits in (("mae", 1), ("ssim", 2), ("correlation", 2)):
            found = (values[s][metric] for s in ("generated", "matched", "copied", "empty"))
            cells.append(" / ".join("-" if not np.isfinite(v) else f"{v:.{digits}f}" for v in found))
        table.add_row(f"{pair[0]} → {pair[1]}", *cells)
    return table


def _verdict(summary: list[Row], trust: dict[str, float], out: Path, seconds: float, console: Console) -> int:
    own = [r for r in summary if r["center"] == "A"]
    ok = True
    result: dict[str, object] = {"seconds": round(seconds, 1), "reliability_rank_correlation": trust}
    for metric in ("mae", "ssim", "correlation"):
        n, lost, total = count_wins(own, "matched", metric, "brain")
        result[f"{metric}_wins"] = f"{n} of {total}"
        console.print(
            f"Generated beats the matched copy in {metric}: {n} of {total}"
            + (f"; loses {', '.join(lost)}" if lost else "")
        )
        inverted = [f"{a}→{b} (A)" for a, b in INVERTING]
        ok &= n > total / 2 and not any(direction in lost for direction in inverted)
    for name, value in trust.items():
        console.print(f"Reliability of generated {name}: rank correlation with the true error {value:.2f}")
    result["promise_kept"] = bool(ok)
    write_json(out / "summary.json", result)
    console.print(f"Pictures and tables: {out}. Took {seconds / 60:.1f} minutes.")
    if not ok:
        console.print("[red]The demo did not keep its promise: generated is not clearly ahead of the matched copy.[/]")
    return 0 if ok else 1
