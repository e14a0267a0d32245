"""Everything about the images themselves, part by part, into the folder of an evaluation.

A part that has been written is not measured again; the files say by their settings what they belong to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ummgat.core.domain import Domain
from ummgat.core.each import Progress as EachProgress
from ummgat.core.each import each, gathered, named
from ummgat.core.files import atomic_path, exclusive, read_json, write_json
from ummgat.core.study import Study, require_spacing
from ummgat.evaluate.results import same_settings
from ummgat.evaluate.scenarios import fixed_scenarios
from ummgat.model.weights import TrainedModel
from ummgat.quality.code_figures import code_figure
from ummgat.quality.codes import collect
from ummgat.quality.directions import measure, write_rows
from ummgat.quality.distances import cell_test, distance_rows, mean_difference
from ummgat.quality.domain_features import gather
from ummgat.quality.enhancement import enhancement_rates, measure_enhancement
from ummgat.quality.features import Extractor
from ummgat.quality.gallery import overlays, stacks, with_and_without
from ummgat.quality.kept_lesions import kept_rates, measure_kept
from ummgat.quality.pictures import direction_grid
from ummgat.quality.separation import separation
from ummgat.segment.contract import Segmenter
from ummgat.segment.unseen import require_unseen

PARTS = ("directions", "distances", "enhancement", "lesions", "codes", "pictures")

FAILED = "images_failed.json"
"""Part → subjects that failed in it, and are tried again."""

PICTURED = 2
"""Subjects of whom pictures are made: the first ones, whoever they are."""

Progress = Callable[[str, int, int], None]


@dataclass
class Measured:
    """What came of `measure_images`."""

    left_out: list[str] = field(default_factory=list)
    """Parts that were left out, and why."""
    failed: dict[str, str] = field(default_factory=dict)
    """`subject, part` → why it is not in that part. Parts with failures are measured again by the next run."""


def measure_images(
    models: Mapping[str, TrainedModel],
    segmenter: Segmenter,
    studies: Sequence[Study],
    out: Path,
    settings: Mapping[str, Any],
    extractors: Sequence[Extractor],
    parts: Sequence[str] = PARTS,
    within_center: bool = True,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Measured:
    """Measure and picture what models make of studies.

    Parameters
    ----------
    models : mapping of name → TrainedModel
        The first is the one under test; others stand beside it where that is possible.
    segmenter : Segmenter
        Fed with true and generated images for enhancement and overlays; those are left out if it tells no ET.
    studies : sequence of Study
        On the model's grid, with labels and true images. A segmenter that says it trained on one of them is refused.
    out : Path
        Folder: directions.csv, distances.csv, features.json, with several models distances_compared.csv,
        enhancement.csv, enhancement_rates.csv, lesions.csv, lesions_rates.csv, separation.csv and pictures.
    settings : mapping
        What the measures depend on; kept in images.json, and a folder with others is refused.
    extractors : sequence of Extractor
        For distances.
    parts : sequence of str
        Out of `PARTS`.
    within_center : bool
        Distances of translations within a center only.
    jobs : int
        Worker processes; the result does not depend on it. Pictures are made by one.
    progress : callable, optional
        (part, done, in all).

    Returns
    -------
    Measured
        A study that fails leaves the others alone.

    Raises
    ------
    ValueError
        Unknown parts, a folder of other settings, studies on another grid than the model's, or a segmenter that trained
        on one of them.
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown or not parts:
        raise ValueError(
            f"Unknown part: --parts. Found {', '.join(unknown) or 'none'}; expected some of {', '.join(PARTS)}. "
            f"Correct it."
        )
    model = next(iter(models.values()))
    for study in studies:
        require_spacing(study, model.config.data.spacing_mm)
    require_unseen({"segmenter": segmenter}, studies)
    out.mkdir(parents=True, exist_ok=True)
    measured = Measured()

    def seen(part: str) -> EachProgress:
        return lambda done, n, _: progress(part, done, n) if progress else None

    with exclusive(out):
        same_settings(out / "images.json", dict(settings))
        before: dict[str, list[str]] = read_json(out / FAILED) if (out / FAILED).is_file() else {}

        def wanted(part: str, file: str) -> bool:
            return part in parts and (part in before or not (out / file).is_file())

        def noted(part: str, failed: Mapping[str, str]) -> None:
            measured.failed.update({f"{subject}, {part}": why for subject, why in failed.items()})
            before.pop(part, None)
            if failed:
                before[part] = list(failed)
            if before or (out / FAILED).is_file():
                write_json(out / FAILED, before)

        if wanted("directions", "directions.csv"):
            report = measure(model, studies, jobs=jobs, progress=seen("directions"))
            write_rows(out / "directions.csv", gathered(report))
            noted("directions", report.failed)
        if wanted("distances", "distances.csv"):
            noted("distances", _distances(models, studies, out, extractors, within_center, jobs, seen("distances")))
        if wanted("enhancement", "enhancement.csv"):
            if "t1ce" in segmenter.sequences and segmenter.regions == "multi":
                report = measure_enhancement(models, segmenter, studies, jobs, seen("enhancement"))
                rows = gathered(report)
                write_rows(out / "enhancement_rates.csv", enhancement_rates(rows))
                write_rows(out / "enhancement.csv", rows)
                noted("enhancement", report.failed)
            else:
                measured.left_out.append("enhancement: the segmenter takes no t1ce or tells no ET")
        if wanted("lesions", "lesions.csv"):
            report = measure_kept(models, segmenter, studies, jobs, seen("lesions"))
            rows = gathered(report)
            write_rows(out / "lesions_rates.csv", kept_rates(rows))
            write_rows(out / "lesions.csv", rows)
            noted("lesions", report.failed)
        if wanted("codes", "separation.csv"):
            found, failed = collect(model, studies, jobs=jobs, progress=seen("codes"))
            save_picture(code_figure(found), out, "codes_features")
            save_picture(code_figure(found, "codes"), out, "codes_heads")
            write_rows(out / "separation.csv", separation(found))
            noted("codes", failed)
        if "pictures" in parts:
            noted("pictures", _pictures(models, segmenter, studies, out, seen("pictures")))
    return measured


def _distances(
    models: Mapping[str, TrainedModel],
    studies: Sequence[Study],
    out: Path,
    extractors: Sequence[Extractor],
    within_center: bool,
    jobs: int,
    progress: EachProgress,
) -> dict[str, str]:
    """All cells, and what they come to: the paper's test beside intervals that redraw subjects."""
    first, *others = models
    without_lam = [name for name, model in models.items() if model.config.loss.lesion == 0]
    rows: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    everything, failed = gather(
        studies, models, extractors, without_lam, within_center=within_center, jobs=jobs, progress=progress
    )
    for samples in everything:
        own = distance_rows(samples)
        rows += own
        for metric in samples.metrics if others else ():
            tested = cell_test(own, list(models), metric)
            for other in others:
                difference = mean_difference(samples, first, other, metric)
                compared.append(
                    {
                        "features": samples.features,
                        "metric": metric,
                        "model": first,
                        "other": other,
                        **difference._asdict(),
                        "friedman_p_over_cells": tested.friedman.p if tested.friedman else None,
                        "cohens_d_over_cells": next(
                            (
                                d * (1 if pair == (first, other) else -1)
                                for pair, d in tested.effects.items()
                                if set(pair) == {first, other}
                            ),
                            None,
                        ),
                    }
                )
    write_rows(out / "distances.csv", rows)
    if compared:
        write_rows(out / "distances_compared.csv", compared)
    write_json(out / "features.json", {e.name: e.description for e in extractors})
    return failed


def _pictures(
    models: Mapping[str, TrainedModel],
    segmenter: Segmenter,
    studies: Sequence[Study],
    out: Path,
    progress: EachProgress,
) -> dict[str, str]:
    known = next(iter(models.values())).table
    complete = [
        s
        for s in studies
        if s.labels() is not None and all(Domain(s.center, q) in known and q in s.acquired for q in segmenter.sequences)
    ]
    shown = named(complete[:PICTURED], lambda study: study.subject)
    return each(_picture, shown, (models, segmenter, out), progress=progress).failed


def _picture(given: tuple[Mapping[str, TrainedModel], Segmenter, Path], study: Study) -> None:
    models, segmenter, out = given
    model, name = next(iter(models.values())), study.subject
    known = [q for q in model.table.sequences_of(study.center) if q in study.acquired]
    if not _there(out, f"translations_{name}"):
        direction_grid(model, study, study, out / "pictures" / f"translations_{name}.png")
    if len(known) > 1:
        if not _there(out, f"stacks_{name}"):
            save_picture(stacks(model, study, known[0], known[-1]), out, f"stacks_{name}")
        if len(models) > 1 and not _there(out, f"models_{name}"):
            pairs = [(a, b) for a in known for b in known if a != b][:: max(1, len(known) - 1)]
            save_picture(with_and_without(dict(models), study, pairs), out, f"models_{name}")
    single = [s for s in fixed_scenarios(segmenter.sequences) if len(s.missing) == 1]
    if len(segmenter.sequences) > 1 and not _there(out, f"overlays_{name}"):
        save_picture(overlays(model, segmenter, study, single[:4]), out, f"overlays_{name}")


def _there(out: Path, name: str) -> bool:
    return (out / "pictures" / f"{name}.png").is_file()


def save_picture(figure: Figure, out: Path, name: str) -> None:
    """Write a figure into the folder's pictures as PNG, atomically."""
    with atomic_path(out / "pictures" / f"{name}.png") as temporary:
        figure.savefig(temporary, dpi=120)
