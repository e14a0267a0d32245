"""Everything about the images themselves, part by part, into the folder of an evaluation.

A part that has been written is not measured again; the files say by their settings what they belong to.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ummgat.core.domain import Domain
from ummgat.core.files import atomic_path, exclusive, write_json
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

PICTURED = 2
"""Subjects of whom pictures are made: the first ones, whoever they are."""

Progress = Callable[[str, int, int], None]


def measure_images(
    models: Mapping[str, TrainedModel],
    segmenter: Segmenter,
    studies: Sequence[Study],
    out: Path,
    settings: Mapping[str, Any],
    extractors: Sequence[Extractor],
    parts: Sequence[str] = PARTS,
    within_center: bool = True,
    progress: Progress | None = None,
) -> list[str]:
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
        Folder: directions.csv, distances.csv, features.json, with several models distances_compared.csv, enhancement.csv,
        enhancement_rates.csv, lesions.csv, lesions_rates.csv, separation.csv and pictures.
    settings : mapping
        What the measures depend on; kept in images.json, and a folder with others is refused.
    extractors : sequence of Extractor
        For distances.
    parts : sequence of str
        Out of `PARTS`.
    within_center : bool
        Distances of translations within a center only.
    progress : callable, optional
        (part, done, in all).

    Returns
    -------
    list of str
        Parts that were left out, and why.

    Raises
    ------
    ValueError
        Unknown parts, a folder of other settings, studies on another grid than the model's, or a segmenter that trained on
        one of them.
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown or not parts:
        raise ValueError(
            f"Unknown part: --parts. Found {', '.join(unknown) or 'none'}; expected some of {', '.join(PARTS)}. Correct it."
        )
    model = next(iter(models.values()))
    for study in studies:
        require_spacing(study, model.config.data.spacing_mm)
    require_unseen({"segmenter": segmenter}, studies)
    out.mkdir(parents=True, exist_ok=True)
    left_out = []

    def seen(part: str) -> Callable[[int, int], None]:
        return lambda done, n: progress(part, done, n) if progress else None

    with exclusive(out):
        same_settings(out / "images.json", dict(settings))
        if "directions" in parts and not (out / "directions.csv").is_file():
            write_rows(out / "directions.csv", measure(model, studies, progress=seen("directions")))
        if "distances" in parts and not (out / "distances.csv").is_file():
            _distances(models, studies, out, extractors, within_center, seen("distances"))
        if "enhancement" in parts and not (out / "enhancement.csv").is_file():
            if "t1ce" in segmenter.sequences and segmenter.regions == "multi":
                rows = measure_enhancement(models, segmenter, studies, progress=seen("enhancement"))
                write_rows(out / "enhancement_rates.csv", enhancement_rates(rows))
                write_rows(out / "enhancement.csv", rows)
            else:
                left_out.append("enhancement: the segmenter takes no t1ce or tells no ET")
        if "lesions" in parts and not (out / "lesions.csv").is_file():
            rows = measure_kept(models, segmenter, studies, progress=seen("lesions"))
            write_rows(out / "lesions_rates.csv", kept_rates(rows))
            write_rows(out / "lesions.csv", rows)
        if "codes" in parts and not (out / "separation.csv").is_file():
            found = collect(model, studies, progress=seen("codes"))
            save_picture(code_figure(found), out, "codes_features")
            save_picture(code_figure(found, "codes"), out, "codes_heads")
            write_rows(out / "separation.csv", separation(found))
        if "pictures" in parts:
            _pictures(models, segmenter, studies, out, seen("pictures"))
    return left_out


def _distances(
    models: Mapping[str, TrainedModel],
    studies: Sequence[Study],
    out: Path,
    extractors: Sequence[Extractor],
    within_center: bool,
    progress: Callable[[int, int], None],
) -> None:
    """All cells, and what they come to: the paper's test beside intervals that redraw subjects."""
    first, *others = models
    without_lam = [name for name, model in models.items() if model.config.loss.lesion == 0]
    rows: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    for samples in gather(studies, models, extractors, without_lam, within_center=within_center, progress=progress):
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


def _pictures(
    models: Mapping[str, TrainedModel],
    segmenter: Segmenter,
    studies: Sequence[Study],
    out: Path,
    progress: Callable[[int, int], None],
) -> None:
    model = next(iter(models.values()))
    complete = [
        s
        for s in studies
        if s.labels() is not None
        and all(Domain(s.center, q) in model.table and q in s.acquired for q in segmenter.sequences)
    ]
    for i, study in enumerate(complete[:PICTURED]):
        name = study.subject
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
        progress(i + 1, min(PICTURED, len(complete)))


def _there(out: Path, name: str) -> bool:
    return (out / "pictures" / f"{name}.png").is_file()


def save_picture(figure: Figure, out: Path, name: str) -> None:
    """Write a figure into the folder's pictures as PNG, atomically."""
    with atomic_path(out / "pictures" / f"{name}.png") as temporary:
        figure.savefig(temporary, dpi=120)
