"""Every direction between sequences, measured against the truth: generated, copied, histogram-matched and empty.

One row per subject, direction, substitute and region. All on the prepared grid, where the truth lives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ummgat.core.domain import Domain
from ummgat.core.each import Progress, Report, each, named
from ummgat.core.files import csv_text, write_text
from ummgat.core.matching import match_histogram
from ummgat.core.metrics import flicker, gradient_energy, image_scores, ssim_map
from ummgat.core.study import Study
from ummgat.model.translator import Translator
from ummgat.model.weights import TrainedModel

SUBSTITUTES = ("generated", "matched", "copied", "empty")
REGIONS = ("brain", "lesion", "rest")
METRICS = ("mae", "ssim", "correlation", "psnr")
HIGHER_IS_BETTER = {"mae": False, "ssim": True, "correlation": True, "psnr": True}

Row = dict[str, Any]
Volume = NDArray[np.uint8]


def translator_of(model: TrainedModel, volume: Volume, domain: Domain) -> Translator:
    """Of a single image, so that a direction is judged by what its source alone can say."""
    return Translator(model, {domain.sequence: volume}, domain.center)


def generated(translator: Translator, target: Domain, mode: str) -> Volume:
    """Translate the one image of `translator` to `target`, as `fill` would."""
    model = translator.model
    (sequence,) = translator.volumes
    code, own = (model.codes[mode][model.table.index(d)] for d in (target, Domain(translator.center, sequence)))
    return translator.translate(sequence, target, (code, own), float(model.flickers[model.table.index(target)]))


def substitutes_for(translator: Translator, target: Domain, mode: str) -> dict[str, Volume]:
    """What can stand in for a missing `target` when the one image of `translator` is there."""
    (source,) = translator.volumes.values()
    index = translator.model.table.index(target)
    found = {
        "generated": generated(translator, target, mode),
        "matched": match_histogram(source, translator.model.histograms[index]),
        "copied": source,
        "empty": np.zeros_like(source),
    }
    atlas = translator.expected(target)
    return found if atlas is None else found | {"atlas": atlas}


def measure(
    model: TrainedModel,
    studies: Sequence[Study],
    truths: Mapping[str, Study] | None = None,
    mode: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report[list[Row]]:
    """Score every direction between different sequences of the same center.

    Parameters
    ----------
    model : TrainedModel
    studies : sequence of Study
        Their acquired sequences are the sources.
    truths : mapping of subject → Study, optional
        Where the true images are. Default: the studies themselves.
    mode : str, optional
        Code mode. Default: the one validation chose.
    jobs : int
        Worker processes; the result does not depend on it.
    progress : callable, optional

    Returns
    -------
    Report
        Rows of each study: subject, center, source, target, substitute, region, mae, ssim, correlation, psnr, n_voxels;
        and, for region `brain`, flicker_ratio and gradient_ratio against the true volume.
    """
    order = _Order(model, truths, mode or model.criteria["mode"])
    return each(_study_rows, named(studies, lambda study: study.subject), order, jobs=jobs, progress=progress)


@dataclass(frozen=True)
class _Order:
    model: TrainedModel
    truths: Mapping[str, Study] | None
    mode: str


def _study_rows(order: _Order, study: Study) -> list[Row]:
    model = order.model
    rows: list[Row] = []
    truth = order.truths[study.subject] if order.truths is not None else study
    lesion = truth.lesion()
    sources = [q for q in study.acquired if Domain(study.center, q) in model.table]
    for source in sources:
        translator = translator_of(model, np.array(study.volume(source)), Domain(study.center, source))
        for target in model.table.sequences_of(study.center):
            if target == source or target not in truth.sequences:
                continue
            true = np.array(truth.volume(target))
            stand_ins = substitutes_for(translator, Domain(study.center, target), order.mode)
            for name, image in stand_ins.items():
                for row in _score(image, true, lesion):
                    about = {"subject": study.subject, "center": study.center, "source": source, "target": target}
                    rows.append(about | {"substitute": name} | row)
    return rows


def _score(image: Volume, true: Volume, lesion: NDArray[np.bool_] | None) -> Iterable[Row]:
    brain = true > 0
    regions = {"brain": brain}
    if lesion is not None:
        regions |= {"lesion": brain & lesion, "rest": brain & ~lesion}
    a, b = image.astype(np.float32), true.astype(np.float32)
    similarity = ssim_map(a, b)
    for name, region in regions.items():
        row: Row = {"region": name, **image_scores(a, b, similarity, region)._asdict(), "n_voxels": int(region.sum())}
        if name == "brain":
            row["flicker_ratio"] = flicker(a, brain) / max(flicker(b, brain), 1e-9)
            row["gradient_ratio"] = gradient_energy(a, brain) / max(gradient_energy(b, brain), 1e-9)
        yield row


def medians(rows: Sequence[Row]) -> list[Row]:
    """Median over subjects of every metric, per direction, substitute and region; `n` subjects that have the region."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("center", "source", "target", "substitute", "region"))
        groups.setdefault(key, []).append(row)
    out = []
    for key, group in groups.items():
        row = dict(zip(("center", "source", "target", "substitute", "region"), key, strict=True))
        for metric in (*METRICS, "flicker_ratio", "gradient_ratio"):
            values = np.array([r[metric] for r in group if metric in r], dtype=float)
            values = values[np.isfinite(values)]
            row[metric] = float(np.median(values)) if len(values) else float("nan")
        row["n"] = sum(1 for r in group if r["n_voxels"] > 0)
        out.append(row)
    return out


def count_wins(summary: Sequence[Row], rival: str, metric: str, region: str) -> tuple[int, list[str], int]:
    """Directions in which generated beats `rival`: how many, which it loses, and of how many."""

    def value(substitute: str) -> dict[tuple[str, str, str], float]:
        return {
            (r["center"], r["source"], r["target"]): r[metric]
            for r in summary
            if r["substitute"] == substitute and r["region"] == region and np.isfinite(r[metric])
        }

    ours, theirs = value("generated"), value(rival)
    better = {
        k: (ours[k] > theirs[k]) == HIGHER_IS_BETTER[metric] and ours[k] != theirs[k] for k in ours if k in theirs
    }
    lost = [f"{source}→{target} ({center})" for (center, source, target), won in better.items() if not won]
    return sum(better.values()), lost, len(better)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, atomically."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    rounded = [{k: (round(v, 5) if isinstance(v, float) else v) for k, v in row.items()} for row in rows]
    write_text(path, csv_text(rounded, names))


def _three(summary: Sequence[Row], direction: tuple[str, str, str], metric: str, region: str, digits: int) -> str:
    """`generated / matched / copied` of one direction (center, source, target)."""
    found = []
    for substitute in ("generated", "matched", "copied"):
        values = [
            r[metric]
            for r in summary
            if (r["center"], r["source"], r["target"], r["substitute"], r["region"]) == (*direction, substitute, region)
        ]
        found.append(f"{values[0]:.{digits}f}" if values else "-")
    return " / ".join(found)


def direction_table(summary: Sequence[Row], center: str) -> str:
    """Markdown table of one center: per direction MAE and SSIM in brain, MAE in lesion, correlation; ours / matched /
    copied.
    """
    lines = [
        "Generated / histogram-matched copy / copy.",
        "",
        "| direction | MAE brain | SSIM brain | correlation brain | MAE lesion | MAE rest | flicker | gradient |",
        "|---|---|---|---|---|---|---|---|",
    ]
    pairs = list(dict.fromkeys((r["source"], r["target"]) for r in summary if r["center"] == center))
    for source, target in pairs:
        extra = [
            next(
                f"{r[k]:.2f}"
                for r in summary
                if (r["center"], r["source"], r["target"], r["substitute"], r["region"])
                == (center, source, target, "generated", "brain")
            )
            for k in ("flicker_ratio", "gradient_ratio")
        ]
        cells = [
            _three(summary, (center, source, target), "mae", "brain", 1),
            _three(summary, (center, source, target), "ssim", "brain", 3),
            _three(summary, (center, source, target), "correlation", "brain", 2),
            _three(summary, (center, source, target), "mae", "lesion", 1),
            _three(summary, (center, source, target), "mae", "rest", 1),
            *extra,
        ]
        lines.append(f"| {source} → {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


QUALITY = (("mae", "MAE", 1), ("ssim", "SSIM", 3), ("psnr", "PSNR", 1), ("correlation", "correlation", 2))


def quality_table(summary: Sequence[Row]) -> list[dict[str, str]]:
    """Rows for a report from `medians`: per direction every metric as `generated / matched / copied`, in lesion and
    rest of the brain.

    `n` counts the subjects whose lesion could be scored; medians over them (lesion) or over all (rest).
    """
    rows = []
    for center, source, target in dict.fromkeys((r["center"], r["source"], r["target"]) for r in summary):
        counts = [
            r["n"]
            for r in summary
            if (r["center"], r["source"], r["target"], r["substitute"], r["region"])
            == (center, source, target, "generated", "lesion")
        ]
        row = {"direction": f"{source} → {target}", "center": center, "n": str(counts[0] if counts else 0)}
        for metric, name, digits in QUALITY:
            for region in ("lesion", "rest"):
                row[f"{name} {region}"] = _three(summary, (center, source, target), metric, region, digits)
        rows.append(row)
    return rows
