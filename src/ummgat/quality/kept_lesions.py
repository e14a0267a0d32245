"""Does every lesion survive translation? Segment with the generated image in place of the true one, and count.

Two settings per target and source. `others true`: only the target is generated, as in a study that lacks it; lenient,
since the other images still show the lesion. `source alone`: all images but the source are generated, as in a study
that has nothing else; strict. Lesions that the segmenter does not find in the true images are not counted against the
generator.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ummgat.core.each import Progress, Report, Skipped, each, named
from ummgat.core.study import Study
from ummgat.evaluate.scenarios import Scenario, Substitute
from ummgat.evaluate.segmentation import Substitutes
from ummgat.evaluate.statistics import wilson
from ummgat.model.weights import TrainedModel
from ummgat.quality.enhancement import pieces, require_images
from ummgat.segment.contract import Segmenter

TARGETS = ("flair", "t2")
"""Sequences that show the whole tumour."""

LEAST_ML = 1.0
"""Smaller lesions do not count."""

LEAST_SHARE = 0.1
"""A lesion of which less is found has vanished."""

Mask = NDArray[np.bool_]
Row = dict[str, Any]


def shares_found(found: Mask, lesions: Sequence[Mask]) -> list[float]:
    """Share of each lesion's voxels that `found` covers."""
    return [float(found[lesion].mean()) for lesion in lesions]


def measure_kept(
    models: Mapping[str, TrainedModel],
    segmenter: Segmenter,
    studies: Sequence[Study],
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report[list[Row]]:
    """One row per subject, model, target, source, setting and lesion of at least `LEAST_ML`.

    Parameters
    ----------
    models : mapping of name → TrainedModel
    segmenter : Segmenter
        The plain one; whole tumour is whatever label it finds.
    studies : sequence of Study
        With labels and all images the segmenter takes; others are skipped. None a network trained on.
    jobs : int
        Worker processes; the result does not depend on it.
    progress : callable, optional

    Returns
    -------
    Report
        Rows of each study: subject, center, model, target, source, setting, lesion (1, 2, … by their place in the
        volume), lesion_ml, share_true (found in the true images), share_found, vanished (0 or 1; not where share_true
        is below `LEAST_SHARE`).
    """
    return each(
        _study_rows, named(studies, lambda study: study.subject), (models, segmenter), jobs=jobs, progress=progress
    )


def _study_rows(given: tuple[Mapping[str, TrainedModel], Segmenter], study: Study) -> list[Row]:
    models, segmenter = given
    labels = study.labels()
    if labels is None:
        raise Skipped("no labels")
    require_images(study, segmenter)
    lesions = pieces(np.asarray(labels) > 0, study.grid.voxel_ml, LEAST_ML)
    if not lesions:
        raise Skipped(f"no lesion of {LEAST_ML:g} ml")
    return list(_subject_rows(models, segmenter, study, lesions))


def _subject_rows(
    models: Mapping[str, TrainedModel], segmenter: Segmenter, study: Study, lesions: Sequence[Mask]
) -> Iterator[Row]:
    true = {q: np.asarray(study.volume(q)) for q in segmenter.sequences}
    with_truth = shares_found(segmenter(true) > 0, lesions)
    for name, model in models.items():
        images = Substitutes(model, study, segmenter.sequences)
        shares: dict[
            tuple[str, tuple[str, ...]], list[float]
        ] = {}  # what source alone leaves is asked for every target
        for target, source, setting, missing in _questions(images.can_generate, segmenter.sequences):
            if (source, missing) not in shares:
                made = Substitute("generate", "single", tuple((q, source) for q in missing))
                found = segmenter(images.complete(Scenario.of(missing), made)) > 0
                shares[source, missing] = shares_found(found, lesions)
            for k, (lesion, before, after) in enumerate(zip(lesions, with_truth, shares[source, missing], strict=True)):
                yield {
                    "subject": study.subject,
                    "center": study.center,
                    "model": name,
                    "target": target,
                    "source": source,
                    "setting": setting,
                    "lesion": k + 1,
                    "lesion_ml": float(lesion.sum() * study.grid.voxel_ml),
                    "share_true": before,
                    "share_found": after,
                    "vanished": int(before >= LEAST_SHARE > after),
                }


def _questions(known: Sequence[str], sequences: Sequence[str]) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Target, source, setting, and what is missing then, of a model that knows some of the segmenter's sequences."""
    for target in (q for q in TARGETS if q in known):
        for source in (q for q in known if q != target):
            yield target, source, "others true", (target,)
            if len(known) == len(sequences) > 2:
                yield target, source, "source alone", tuple(q for q in sequences if q != source)


def kept_rates(rows: Sequence[Row]) -> list[Row]:
    """Lesions that vanished, per model, target, source and setting, of those that the true images showed the segmenter.

    Returns
    -------
    list of rows
        model, target, source, setting, k (vanished), n, value, low, high (Wilson, 95 %; lesions of one subject are
        taken as independent), median_share (found, over lesions).
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["share_true"] >= LEAST_SHARE:
            groups.setdefault(tuple(row[c] for c in ("model", "target", "source", "setting")), []).append(row)
    out = []
    for (model, target, source, setting), group in groups.items():
        k, n = sum(row["vanished"] for row in group), len(group)
        low, high = wilson(k, n)
        about = {"model": model, "target": target, "source": source, "setting": setting, "k": k, "n": n}
        share = float(np.median([row["share_found"] for row in group]))
        out.append(about | {"value": k / n, "low": low, "high": high, "median_share": share})
    return out
