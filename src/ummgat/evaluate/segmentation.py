"""Does it help the segmenter? Every scenario and every substitute, one segmentation after another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ummgat.completion.fill import Request, fill
from ummgat.core.domain import Domain
from ummgat.core.each import Progress, Report
from ummgat.core.matching import match_histogram
from ummgat.core.study import LABELS, Study, require_spacing
from ummgat.evaluate.results import Row, add_each, key_of, opened_results, round_trip, scores
from ummgat.evaluate.scenarios import (
    Assignment,
    Scenario,
    Substitute,
    all_scenarios,
    method_names,
    scenario_names,
    substitutes_of,
)
from ummgat.model.translator import Translator
from ummgat.model.weights import TrainedModel
from ummgat.segment.contract import Segmenter, checked
from ummgat.segment.folds import CrossFitted
from ummgat.segment.unseen import require_unseen

Volume = NDArray[np.uint8]


def evaluate(
    segmenters: Mapping[str, Segmenter | CrossFitted],
    model: TrainedModel,
    studies: Sequence[Study],
    out: Path,
    correlated: Mapping[tuple[str, str], float],
    settings: Mapping[str, Any],
    seed: int = 0,
    scenarios: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    as_center: str | None = None,
    fine: Mapping[str, Study] | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report[None]:
    """Segment every subject in every scenario with every substitute.

    Parameters
    ----------
    segmenters : mapping of name → Segmenter
        `plain` is fed with every substitute. Any other, as one trained with sequence dropout, with all true images,
        with the available ones alone, and with what `ummgat complete` would make of them. A cross-fitted one answers
        for each subject with the network that never saw it.
    model : TrainedModel
    studies : sequence of Study
        Prepared at the model's voxel size, with labels and all true images. A segmenter that says it trained on one of
        them is refused; on whom the model was trained is for the caller to know.
    out : Path
        Folder for `results.csv` and `settings.json`.
    correlated : mapping of (target, source) → float
        See `correlations`.
    settings : mapping
        What the results depend on (hashes of weights, cohort); a folder with others is refused.
    seed : int
        Of the random scenario.
    scenarios : sequence of str, optional
        Names and groups to restrict to, see `scenario_names`, which also says the default.
    methods : sequence of str, optional
        Of `scenarios.METHODS`, to restrict to: each costs a segmentation or several. Default: all.
    as_center : str, optional
        Center of the model as whose all studies are translated, for cohorts of centers that it was not trained with. It
        is written to the settings, and to each row as `M as A`.
    fine : mapping of subject → Study, optional
        The same subjects with smaller voxels, annotated: scores are given there too, beside what the grid alone costs.
    jobs : int
        Worker processes; the result does not depend on it. A foreign segmenter has a process of its own and takes one
        job.
    progress : callable, optional
        (studies finished, studies in all, subject).

    Returns
    -------
    Report
        A subject that fails leaves the others alone.

    Raises
    ------
    ValueError
        A folder of another evaluation, an unknown scenario or method, a center that the model does not know, or a
        segmenter that trained on one of the studies.
    """
    silent = require_unseen(segmenters, studies)
    if as_center is None and any(study.center != model.only_center for study in studies):
        as_center = model.only_center
    _check_centers(model, studies, as_center)
    wanted = {name: scenario_names(segmenter.sequences, scenarios) for name, segmenter in segmenters.items()}
    if not any(wanted.values()):
        known = ", ".join(next(iter(segmenters.values())).sequences)
        raise ValueError(
            f"No scenario is left: --scenarios. Found {', '.join(scenarios or ())}; expected sequences out of {known}, "
            f"and not all of them. Correct it."
        )
    tried = method_names(methods)
    for study in studies:
        require_spacing(study, model.config.data.spacing_mm)
    told = dict(settings) | {"seed": seed} | ({"as_center": as_center} if as_center else {})
    if silent:
        told["training"] = dict.fromkeys(silent, "training subjects unknown")
    if fine:
        told["fine_mm"] = sorted({study.grid.spacing_mm[0] for study in fine.values()})
    with opened_results(out, told) as results:
        done = frozenset(results.done)
        order = _Order(segmenters, model, correlated, wanted, tried, done, seed, as_center, fine or {})
        return add_each(results, studies, _rows_of, order, jobs, progress)


@dataclass(frozen=True)
class _Order:
    segmenters: Mapping[str, Segmenter | CrossFitted]
    model: TrainedModel
    correlated: Mapping[tuple[str, str], float]
    wanted: Mapping[str, set[str]]
    methods: frozenset[str]
    done: frozenset[tuple[str, ...]]
    seed: int
    as_center: str | None
    fine: Mapping[str, Study]


def _rows_of(order: _Order, study: Study) -> Iterator[list[Row]]:
    task = Task(study, order.fine.get(study.subject), order.seed, order.as_center)
    return _subject_rows(order, task)


@dataclass(frozen=True)
class Task:
    """One subject and how it is to be evaluated."""

    study: Study
    fine: Study | None
    seed: int
    as_center: str | None


def _subject_rows(order: _Order, task: Task) -> Iterator[list[Row]]:
    """Rows of one subject that are not done, one segmentation after another."""
    model, study = order.model, task.study
    truth = study.labels()
    if truth is None:
        raise ValueError(
            f"Labels are missing: {study.subject}. Found no annotation; expected one. Leave the subject out."
        )
    if task.fine is not None:
        rows = round_trip(study, task.fine)
        if key_of(rows[0]) not in order.done:
            yield rows
    center = study.center if task.as_center is None else f"{study.center} as {task.as_center}"
    for name, given in order.segmenters.items():
        segmenter = given.of(study.subject) if isinstance(given, CrossFitted) else given
        sequences = segmenter.sequences
        absent = [q for q in sequences if q not in study.sequences]
        if absent:
            raise ValueError(
                f"True image is missing: {study.subject}. Found no {', '.join(absent)}; expected "
                f"{', '.join(sequences)} to take away and compare with. Leave the subject out."
            )
        images = Substitutes(model, study, sequences, task.as_center)
        for scenario in all_scenarios(sequences, study.subject, task.seed):
            if scenario.name not in order.wanted[name]:
                continue
            has_atlas = model.atlas is not None
            tried = substitutes_of(scenario, sequences, order.correlated, images.ranked, images.can_generate, has_atlas)
            if name != "plain":
                tried = [s for s in tried if s.method in ("complete", "empty", "fuse") or _as_completed(s, tried)]
            copies: dict[Assignment, Volume] = {}
            for substitute in (s for s in tried if s.method in order.methods):
                about = {
                    "subject": study.subject, "center": center, "scenario": scenario.name,
                    "missing": "+".join(scenario.missing), "segmenter": name, "method": substitute.method,
                    "rule": substitute.rule, "source": substitute.source,
                }  # fmt: skip
                if key_of(about) in order.done:
                    continue
                flooded = copies.get(substitute.assignment) if substitute.method == "flood" else None
                found = flooded  # what was found with the same copy in place
                if found is None:
                    found = checked(segmenter(images.complete(scenario, substitute)), study, name)
                if substitute.method == "copy":
                    copies[substitute.assignment] = found
                if substitute.method == "flood":
                    found = np.where(found > 0, LABELS["ET"], 0).astype(np.uint8)
                yield scores(about, found, study, segmenter.regions, task.fine)


def _as_completed(substitute: Substitute, tried: Sequence[Substitute]) -> bool:
    """True for what `ummgat complete` would do: generate by the stored criteria, or from the only source there is."""
    if substitute.method != "generate":
        return False
    return substitute.rule == "criteria" or not any(s.rule == "criteria" and s.method == "generate" for s in tried)


def _check_centers(model: TrainedModel, studies: Sequence[Study], as_center: str | None) -> None:
    """Refuse centers that the model does not know: which of its own they resemble is told, never guessed."""
    known = ", ".join(model.table.centers)
    if as_center is not None and as_center not in model.table.centers:
        raise ValueError(
            f"Model does not know the center to translate as: --as-center. Found {as_center!r}; expected one of "
            f"{known}. Choose one of these."
        )
    strange = sorted({s.center for s in studies} - set(model.table.centers)) if as_center is None else []
    if strange:
        raise ValueError(
            f"Model does not know the center of the studies. Found {', '.join(strange)}; expected one of {known}. Say "
            f"with --as-center which of these they resemble, or train with this center."
        )


class Substitutes:
    """The images of one study under every substitute; each translation is made once and kept."""

    def __init__(
        self, model: TrainedModel, study: Study, sequences: Sequence[str], as_center: str | None = None
    ) -> None:
        self.model, self.center = model, as_center or study.center
        self.true: dict[str, Volume] = {q: np.asarray(study.volume(q)) for q in sequences}
        self.can_generate = [q for q in sequences if Domain(self.center, q) in model.table]
        self.ranked: dict[str, list[str]] = {}
        for target in self.can_generate:
            ranked = model.criteria.get("sources", {}).get(f"{self.center}/{target}", [])
            own = [Domain.parse(name) for name in ranked]
            self.ranked[target] = [d.sequence for d in own if d.center == self.center]
        self._made: dict[tuple[str, tuple[str, ...]], Volume] = {}
        self._translators: dict[str, Translator] = {}

    def complete(self, scenario: Scenario, substitute: Substitute) -> dict[str, Volume]:
        """One image per sequence: the true one where it is available, the substitute where it is missing."""
        images = {q: volume for q, volume in self.true.items() if q not in scenario.missing}
        available = tuple(images)
        sources = dict(substitute.assignment)
        for target in scenario.missing:
            if substitute.method == "empty":
                images[target] = np.zeros_like(self.true[target])
            elif substitute.method == "fuse":
                images[target] = self._generated(target, available)
            elif substitute.method == "generate":
                images[target] = self._generated(target, (sources[target],))
            elif substitute.method == "atlas":
                images[target] = self._atlas(target, sources[target])
            elif substitute.method in ("copy", "flood"):
                images[target] = self.true[sources[target]]
            else:
                histogram = self.model.histograms[self.model.table.index(Domain(self.center, target))]
                images[target] = match_histogram(self.true[sources[target]], histogram)
        return images

    def _generated(self, target: str, sources: tuple[str, ...]) -> Volume:
        """What `fill` gives from these sources and no others."""
        known = tuple(q for q in sources if q in self.can_generate)
        if (target, known) not in self._made:
            request = Request(targets=(target,), sources=known, fuse=len(known) > 1, with_reliability=False)
            given = {q: self.true[q] for q in known}
            self._made[target, known] = fill(self.model, given, self.center, request)[0].volume
        return self._made[target, known]

    def _atlas(self, target: str, source: str) -> Volume:
        """The population's image, placed by the source alone; empty where the registration failed, as it is at use."""
        if source not in self._translators:
            self._translators[source] = Translator(self.model, {source: self.true[source]}, self.center)
        image = self._translators[source].expected(Domain(self.center, target))
        return np.zeros_like(self.true[source]) if image is None else image


def correlations(studies: Sequence[Study], sequences: Sequence[str]) -> dict[tuple[str, str], float]:
    """Median over subjects of the correlation of two true images inside the brain, for (target, source) both ways.

    For the rule "copy the most correlated": give it training or calibration subjects, never those tested on. Pairs that
    no subject has are left out.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for study in studies:
        volumes = {q: np.asarray(study.volume(q)) for q in sequences if q in study.sequences}
        for i, a in enumerate(volumes):
            for b in list(volumes)[i + 1 :]:
                brain = (volumes[a] > 0) & (volumes[b] > 0)
                if brain.sum() > 1:
                    value = float(np.corrcoef(volumes[a][brain], volumes[b][brain])[0, 1])
                    found.setdefault((a, b), []).append(value)
                    found.setdefault((b, a), []).append(value)
    return {pair: float(np.nanmedian(values)) for pair, values in found.items()}
