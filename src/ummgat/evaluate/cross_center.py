"""A segmenter of one center on another center's images: as they are, histogram-matched, and aligned.

The rows have the columns of every evaluation: `scenario` is `B to A`, `method` what was done to the images of B before
A's segmenter got them: `complete` (nothing), `matched` (histogram of A), `generate` (aligned to A), `scanned` (as A
would have scanned the same subject, which only a phantom knows). A's own subjects are the scenario `A at home`.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ummgat.completion.fill import Request, fill
from ummgat.core.domain import Domain
from ummgat.core.each import Progress, Report
from ummgat.core.matching import match_histogram
from ummgat.core.study import Study, require_spacing
from ummgat.evaluate.results import Row, Volume, add_each, key_of, opened_results, scores
from ummgat.model.weights import TrainedModel
from ummgat.segment.contract import Segmenter, checked
from ummgat.segment.unseen import require_unseen


def cross_center(
    segmenter: Segmenter,
    home: str,
    model: TrainedModel,
    studies: Sequence[Study],
    out: Path,
    settings: Mapping[str, Any],
    scanned: Mapping[str, Study] | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report[None]:
    """Segment subjects of every center with the segmenter of `home`.

    Parameters
    ----------
    segmenter : Segmenter
        Trained on subjects of `home` alone.
    home : str
        Its center; the model must know the segmenter's sequences there.
    model : TrainedModel
        Aligns; its intensity histograms of `home` are what images are matched to.
    studies : sequence of Study
        Annotated subjects of `home` and of other centers, on the model's grid. A segmenter that says it trained on one
        of them is refused.
    out : Path
        Folder for `results.csv` and `settings.json`; a killed run goes on.
    settings : mapping
        What the results depend on.
    scanned : mapping of subject → Study, optional
        Subjects of other centers as `home` would have scanned them.
    jobs : int
        Worker processes; the result does not depend on it.
    progress : callable, optional
        (studies finished, studies in all, subject).

    Returns
    -------
    Report
        A subject that fails leaves the others alone.

    Raises
    ------
    ValueError
        A home that the model does not know, studies at another spacing, a folder of another evaluation, or a segmenter
        that trained on one of the studies.
    """
    require_unseen({"cross-center": segmenter}, studies)
    unknown = [str(d) for d in (Domain(home, q) for q in segmenter.sequences) if d not in model.table]
    if unknown:
        raise ValueError(
            f"Model cannot align to the segmenter's center. Found no {', '.join(unknown)}; expected domains of "
            f"{', '.join(model.table.names)}. Choose another segmenter, or train a model with this center."
        )
    for study in studies:
        require_spacing(study, model.config.data.spacing_mm)
    with opened_results(out, settings) as results:
        order = _Order(segmenter, home, model, scanned or {}, frozenset(results.done))
        return add_each(results, studies, _rows_of, order, jobs, progress)


@dataclass(frozen=True)
class _Order:
    segmenter: Segmenter
    home: str
    model: TrainedModel
    scanned: Mapping[str, Study]
    done: frozenset[tuple[str, ...]]


def _rows_of(order: _Order, study: Study) -> Iterator[list[Row]]:
    return _subject_rows(order.segmenter, order.home, order.model, study, order.scanned.get(study.subject), order.done)


def _subject_rows(
    segmenter: Segmenter,
    home: str,
    model: TrainedModel,
    study: Study,
    scanned: Study | None,
    done: Container[tuple[str, ...]],
) -> Iterator[list[Row]]:
    if study.labels() is None:
        raise ValueError(
            f"Labels are missing: {study.subject}. Found no annotation; expected one. Leave the subject out."
        )
    absent = [q for q in segmenter.sequences if q not in study.acquired]
    if absent:
        raise ValueError(
            f"Image is missing: {study.subject}. Found no acquired {', '.join(absent)}; expected "
            f"{', '.join(segmenter.sequences)}. Leave the subject out."
        )
    away = study.center != home
    for method in ("complete", *(("matched", "generate") if away else ()), *(("scanned",) if away and scanned else ())):
        about = {
            "subject": study.subject, "center": study.center,
            "scenario": f"{study.center} to {home}" if away else f"{home} at home", "missing": "",
            "segmenter": "plain", "method": method, "rule": "", "source": "",
        }  # fmt: skip
        if key_of(about) in done:
            continue
        images = looking_like(
            model, study if method != "scanned" or scanned is None else scanned, home, method, segmenter
        )
        yield scores(about, checked(segmenter(images), study, f"segmenter of {home}"), study, segmenter.regions)


def looking_like(model: TrainedModel, study: Study, home: str, method: str, segmenter: Segmenter) -> dict[str, Volume]:
    """What the segmenter is given: acquired images as they are, matched to the histogram of `home`, or aligned to
    it.
    """
    given = {q: np.asarray(study.volume(q)) for q in segmenter.sequences}
    if method == "matched":
        index = model.table.index
        return {q: match_histogram(image, model.histograms[index(Domain(home, q))]) for q, image in given.items()}
    if method == "generate":
        request = Request(targets=tuple(given), align_to=home, with_reliability=False)
        return {g.target.sequence: g.volume for g in fill(model, given, study.center, request)}
    return given
