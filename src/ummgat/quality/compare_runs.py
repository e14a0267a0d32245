"""Training runs side by side: what differs in their settings, and what came of it on the same subjects."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ummgat.core.each import Progress, gathered
from ummgat.core.files import csv_text, read_json, write_text
from ummgat.core.study import Study
from ummgat.evaluate.results import read_results
from ummgat.evaluate.segmentation import evaluate
from ummgat.evaluate.tables import cells
from ummgat.model.weights import load_model
from ummgat.quality.directions import Row as DirectionRow
from ummgat.quality.directions import measure, medians, write_rows
from ummgat.quality.distances import distance_rows
from ummgat.quality.domain_features import gather
from ummgat.quality.features import Extractor
from ummgat.segment.contract import Segmenter
from ummgat.segment.unseen import require_unseen

Row = dict[str, str]

MODES = ("mean", "mapper")

SCENARIOS = ("none", "single")


def compare_runs(
    runs: Mapping[str, Path],
    studies: Sequence[Study],
    segmenter: Segmenter,
    extractor: Extractor,
    out: Path,
    settings: Mapping[str, Any],
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Row], dict[str, str]]:
    """Measure every run on the same subjects and tabulate.

    Parameters
    ----------
    runs : mapping of name → folder of `ummgat train`
    studies : sequence of Study
        With labels and true images; if they are test subjects, nothing may be chosen by the table.
    segmenter : Segmenter
        Fed with what each run generates for single missing sequences.
    extractor : Extractor
        For the Fréchet distance within centers; the mean over all directions.
    out : Path
        Folder: comparison.csv, differences.csv, and a folder per run with its segmentations, which a killed comparison
        keeps.
    settings : mapping
        What the segmentations depend on.
    jobs : int
        Worker processes; the result does not depend on it.
    progress : callable, optional
        (what, done, in all).

    Returns
    -------
    (list of rows, dict)
        One row per run and code mode; Dice and distances by the mode that the run's validation chose. And subjects that
        failed in something, with why: rows are over the others.

    Raises
    ------
    FileNotFoundError, ValueError
        A folder that is no finished run, runs that do not share their domains, or a segmenter that trained on one of
        the studies.
    """
    require_unseen({"segmenter": segmenter}, studies)
    models = {name: load_model(folder / "model.safetensors") for name, folder in runs.items()}
    configs = {name: _flat(read_json(folder / "config.json")) for name, folder in runs.items()}
    tables = {name: model.table.names for name, model in models.items()}
    if len(set(map(tuple, tables.values()))) > 1:
        raise ValueError(f"Runs have other domains. Found {tables}; expected the same. Compare runs of one draw.")
    differing = different(configs)
    write_text(out / "differences.csv", csv_text(differing, list(differing[0]) if differing else ["setting"]))

    def seen(what: str) -> Progress:
        return lambda done, n, _: progress(what, done, n) if progress else None

    (samples,), failed = gather(
        studies, models, [extractor], within_center=True, jobs=jobs, progress=seen(extractor.frechet)
    )
    distances = distance_rows(samples, resamples=0)
    rows = []
    for name, model in models.items():
        failed |= evaluate(
            {"plain": segmenter},
            model,
            studies,
            out / name,
            {},
            {**settings, "model": model.hash},
            0,
            SCENARIOS,
            jobs=jobs,
            progress=seen(f"{name}: Dice"),
        ).failed
        overlap = _dice(out / name)
        own = [float(r["value"]) for r in distances if r["model"] == name and r["metric"] == extractor.frechet]
        for mode in MODES:
            chosen = mode == model.criteria["mode"]
            report = measure(model, studies, mode=mode, jobs=jobs, progress=seen(f"{name}: {mode}"))
            failed |= report.failed
            row = {
                "run": name,
                "differs in": "; ".join(f"{d['setting']} = {d[name]}" for d in differing) or "nothing",
                "iterations": str(configs[name].get("train.iterations")),
                "code mode": mode + (" (chosen)" if chosen else ""),
                **_errors(gathered(report)),
                f"{extractor.frechet} ({extractor.name})": f"{np.mean(own):.2f}" if chosen and own else "",
            }
            rows.append(row | {f"Dice {region}": text if chosen else "" for region, text in overlap.items()})
    write_rows(out / "comparison.csv", rows)
    return rows, failed


def different(configs: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Settings in which runs differ: a row each, a column per run. Where results were written to does not count."""
    keys = list(dict.fromkeys(key for config in configs.values() for key in config))
    return [
        {"setting": key} | {name: str(config.get(key, "not set")) for name, config in configs.items()}
        for key in keys
        if len({str(config.get(key, "not set")) for config in configs.values()}) > 1
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _errors(rows: Sequence[DirectionRow]) -> dict[str, str]:
    """Mean over directions of the median over subjects."""
    summary = [r for r in medians(rows) if r["substitute"] == "generated"]
    found = {}
    for metric, region, digits in (
        ("mae", "brain", 1), ("mae", "lesion", 1), ("ssim", "brain", 3), ("correlation", "brain", 2),
        ("flicker_ratio", "brain", 2), ("gradient_ratio", "brain", 2),
    ):  # fmt: skip
        values = [r[metric] for r in summary if r["region"] == region and np.isfinite(r[metric])]
        found[f"{metric} {region}".replace("_ratio brain", " ratio")] = (
            f"{np.mean(values):.{digits}f}" if values else ""
        )
    return found


def _dice(folder: Path) -> dict[str, str]:
    """Mean over single missing sequences and their sources of the median Dice, generated / copied / complete."""
    table = cells(read_results(folder / "results.csv"))
    found = {}
    for region in dict.fromkeys(c.region for c in table):
        means = []
        for method in ("generate", "copy", "complete"):
            own = [c.summary.median for c in table if c.region == region and c.treatment.method == method]
            means.append(f"{np.mean(own):.3f}" if own else "-")
        found[region] = " / ".join(means)
    return found
