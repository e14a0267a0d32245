"""False and absent enhancement where a t1ce is generated: what a segmenter believes, and what intensities alone show.

By the segmenter: ET it finds with the substitute and the true other images. It tells what software downstream would do,
and cannot tell a fault of the image from one of the segmenter; its answer to the true t1ce (method `complete`) stands
beside it. By intensity: voxels brighter than 95 % of the image's own normal brain. It needs no network and no scale
common to two images, and cannot tell uptake from anything else that is bright (vessels, blood, a bright T2-like
lesion); 5 % of normal brain is bright by definition.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.domain import Domain
from ummgat.core.each import Progress, Report, Skipped, each, named
from ummgat.core.study import REGIONS, Study
from ummgat.evaluate.scenarios import Method, Scenario, Substitute
from ummgat.evaluate.segmentation import Substitutes
from ummgat.evaluate.statistics import wilson
from ummgat.model.weights import TrainedModel
from ummgat.segment.contract import Segmenter

MIN_ML = 0.1
"""Smaller connected pieces do not count, neither of the truth nor of what is found."""

BRIGHT = 95.0
"""Percentile of normal brain above which a voxel is bright."""

TARGET = "t1ce"

Volume = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Row = dict[str, Any]

RATES = {
    "absent ET, subjects (segmenter)": ("absent", "has_et"),
    "absent ET, lesions (segmenter)": ("lesions_missed", "lesions"),
    "false ET, subjects (segmenter)": ("false", "has_no_et"),
    "false ET, found pieces (segmenter)": ("pieces_false", "pieces"),
    "absent, subjects (intensity)": ("absent_intensity", "judged_absent"),
    "false, subjects (intensity)": ("false_intensity", "judged_false"),
}
"""Name → (events, out of how many) as summed over rows."""


def pieces(mask: Mask, voxel_ml: float, least_ml: float | None = None) -> list[Mask]:
    """Connected pieces (26 neighbours) of at least `least_ml`, or `MIN_ML`."""
    least_ml = MIN_ML if least_ml is None else least_ml
    named, n = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(named.ravel(), minlength=n + 1)[1:] * voxel_ml
    return [named == i + 1 for i in np.flatnonzero(sizes >= least_ml - 1e-9)]


def by_segmenter(found: Mask, truth: Mask, voxel_ml: float) -> Row:
    """Compare enhancing tumour that was found with what is there, piece by piece.

    Parameters
    ----------
    found, truth : ndarray (plane, row, column), bool
    voxel_ml : float

    Returns
    -------
    row
        `false_et_ml`, `missed_et_ml`: volume found outside the truth, and of the truth not found. Per subject:
        `has_et`, `absent` (there, and no piece found), `has_no_et`, `false` (none there, and a piece found). Per piece:
        `lesions`, `lesions_missed` (touched by no piece found), `pieces`, `pieces_false` (touches no true voxel), all
        of at least `MIN_ML`. One touching voxel is enough, so an answer that floods the tumour misses nothing and is
        one piece: read the rates beside the volumes. A truth with less ET than `MIN_ML` but some is neither `has_et`
        nor `has_no_et`.
    """
    lesions, answers = pieces(truth, voxel_ml), pieces(found, voxel_ml)
    has_no = not truth.any()
    counted = np.any(answers, axis=0) if answers else np.zeros(truth.shape, bool)
    return {
        "true_et_ml": float(truth.sum() * voxel_ml),
        "found_et_ml": float(found.sum() * voxel_ml),
        "false_et_ml": float((found & ~truth).sum() * voxel_ml),
        "missed_et_ml": float((truth & ~found).sum() * voxel_ml),
        "has_et": int(bool(lesions)),
        "absent": int(bool(lesions) and not answers),
        "has_no_et": int(has_no),
        "false": int(has_no and bool(answers)),
        "lesions": len(lesions),
        "lesions_missed": sum(not counted[lesion].any() for lesion in lesions),
        "pieces": len(answers),
        "pieces_false": sum(not truth[piece].any() for piece in answers),
    }


def bright(image: Volume, tumour: Mask) -> Mask:
    """Voxels above the `BRIGHT` percentile of the image's own brain outside the tumour."""
    normal = image[(image > 0) & ~tumour]
    if not len(normal):
        return np.zeros(image.shape, bool)
    return np.asarray(image > np.percentile(normal, BRIGHT))


def by_intensity(image: Volume, true: Volume, labels: Volume, voxel_ml: float) -> Row:
    """Compare what is bright in an image with what is bright in the true one; each by its own normal brain.

    Parameters
    ----------
    image, true, labels : ndarray (plane, row, column), uint8
        Substitute and true t1ce; `study.LABELS`.
    voxel_ml : float

    Returns
    -------
    row
        `et_bright`, `et_bright_true`: share of ET voxels that are bright. `tumour_bright`, `tumour_bright_true`: share
        of the rest of the tumour that is. `normal_bright`: share of normal brain above the threshold of the TRUE image;
        far from 5 % where the whole image is too bright or too dark. `absent_intensity`: of the ET voxels that are
        bright in truth, less than half are bright here (`judged_absent`: those voxels make up a piece of `MIN_ML`).
        `false_intensity`: a piece of `MIN_ML` in the tumour, not touching ET, is bright here and not in truth
        (`judged_false`: the tumour has that much outside ET). Shares are NaN where there is nothing to share.
    """
    tumour, et = np.isin(labels, REGIONS["WT"]), np.isin(labels, REGIONS["ET"])
    here, there = bright(image, tumour), bright(true, tumour)
    away = tumour & ~ndimage.binary_dilation(et, np.ones((3, 3, 3)))  # an edge one voxel off is no false enhancement
    rest, normal = tumour & ~et, (true > 0) & ~tumour
    threshold = np.percentile(true[normal], BRIGHT) if normal.any() else np.inf
    enhancing = et & there
    judged = bool(pieces(enhancing, voxel_ml))
    return {
        "et_bright": _share(here, et),
        "et_bright_true": _share(there, et),
        "tumour_bright": _share(here, rest),
        "tumour_bright_true": _share(there, rest),
        "normal_bright": _share(image > threshold, normal),
        "judged_absent": int(judged),
        "absent_intensity": int(judged and _share(here, enhancing) < 0.5),
        "judged_false": int(away.sum() * voxel_ml >= MIN_ML),
        "false_intensity": int(bool(pieces(here & ~there & away, voxel_ml))),
    }


def _share(what: Mask, of: Mask) -> float:
    return float(what[of].mean()) if of.any() else float("nan")


def measure_enhancement(
    models: Mapping[str, TrainedModel],
    segmenter: Segmenter,
    studies: Sequence[Study],
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report[list[Row]]:
    """Replace the t1ce of every subject by each substitute and look for enhancement that is not there, or no longer.

    Parameters
    ----------
    models : mapping of name → TrainedModel
        Side by side, as trained with and without the lesion-aware module. Copied and matched images come from the
        first.
    segmenter : Segmenter
        The plain one, fed with the substitute and the true other images.
    studies : sequence of Study
        With labels of NCR, ED and ET and all images the segmenter takes; others are skipped. None a network trained on.
    jobs : int
        Worker processes; the result does not depend on it.
    progress : callable, optional

    Returns
    -------
    Report
        Rows of each study: subject, center, model (empty for the true image and copies), method, source, and what
        `by_segmenter` and `by_intensity` say.

    Raises
    ------
    ValueError
        If the segmenter takes no t1ce or tells no ET.
    """
    if TARGET not in segmenter.sequences or segmenter.regions != "multi":
        raise ValueError(
            f"Segmenter cannot judge enhancement. Found sequences {', '.join(segmenter.sequences)}, regions "
            f"{segmenter.regions}; expected t1ce among them, and multi. Give another segmenter."
        )
    return each(
        _study_rows, named(studies, lambda study: study.subject), (models, segmenter), jobs=jobs, progress=progress
    )


def _study_rows(given: tuple[Mapping[str, TrainedModel], Segmenter], study: Study) -> list[Row]:
    models, segmenter = given
    labels = study.labels()
    if labels is None or study.record.labels_regions != "multi":
        raise Skipped("no labels of NCR, ED and ET")
    require_images(study, segmenter)
    return list(_subject_rows(models, segmenter, study, np.asarray(labels)))


def require_images(study: Study, segmenter: Segmenter) -> None:
    """Skip a study that lacks an image that the segmenter takes."""
    absent = [q for q in segmenter.sequences if q not in study.sequences]
    if absent:
        raise Skipped(f"no {', '.join(absent)}")


def _subject_rows(
    models: Mapping[str, TrainedModel], segmenter: Segmenter, study: Study, labels: Volume
) -> Iterator[Row]:
    voxel_ml = study.grid.voxel_ml
    truth, true = np.isin(labels, REGIONS["ET"]), np.asarray(study.volume(TARGET))
    missing = Scenario.of((TARGET,))
    sources = [q for q in segmenter.sequences if q != TARGET]
    for k, (name, model) in enumerate(models.items()):
        images = Substitutes(model, study, segmenter.sequences)
        knows = Domain(study.center, TARGET) in model.table
        tried = [Substitute("complete")] if k == 0 else []
        for source in sources:
            methods: list[Method] = ["copy"] if k == 0 else []
            methods += ["matched"] if k == 0 and knows else []
            methods += ["generate"] if knows and source in images.can_generate else []
            tried += [Substitute(method, "single", ((TARGET, source),)) for method in methods]
        if knows and sum(q in images.can_generate for q in sources) > 1:
            tried.append(Substitute("fuse"))
        for substitute in tried:
            given = images.complete(Scenario.of(()) if substitute.method == "complete" else missing, substitute)
            found = np.isin(segmenter(given), REGIONS["ET"])
            yield {
                "subject": study.subject,
                "center": study.center,
                "model": name if substitute.method in ("generate", "fuse") else "",
                "method": substitute.method,
                "source": substitute.source,
                **by_segmenter(found, truth, voxel_ml),
                **by_intensity(np.asarray(given[TARGET]), true, labels, voxel_ml),
            }


def enhancement_rates(rows: Sequence[Row]) -> list[Row]:
    """Rates with 95 % Wilson intervals, per model, method, source and name in `RATES`.

    Returns
    -------
    list of rows
        model, method, source, rate, k, n, value, low, high (NaN for n = 0), n_subjects. Intervals of lesions and pieces
        take those of one subject as independent, which makes them too narrow where one subject has many.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["method"], row["source"]), []).append(row)
    out = []
    for (model, method, source), group in groups.items():
        for name, (events, of) in RATES.items():
            k, n = (sum(row[column] for row in group) for column in (events, of))
            low, high = wilson(k, n)
            about = {"model": model, "method": method, "source": source, "rate": name, "k": k, "n": n}
            value = k / n if n else float("nan")
            out.append(about | {"value": value, "low": low, "high": high, "n_subjects": len(group)})
    return out
