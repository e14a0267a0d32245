"""Measure a model's errors on complete patients that it did not train on, so that it knows how far to trust itself.

Two things are learnt: by what share each direction had better lean on the atlas (`ummgat.model.lean`), and what share
of voxels is right where they look as they do (`ummgat.model.trust`). Both are settings, so test subjects take no part.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ummgat.core.domain import Domain
from ummgat.core.each import Progress, Report, each, named
from ummgat.core.metrics import gradient_energy, rank_correlation
from ummgat.core.study import Study, require_spacing
from ummgat.core.tensors import load_tensors, save_tensors
from ummgat.model.atlas import Placed
from ummgat.model.combined import Answered, answered
from ummgat.model.lean import leant
from ummgat.model.signs import columns, n_columns
from ummgat.model.translator import Translator
from ummgat.model.trust import LEVEL, STEPS, Trust, probability
from ummgat.model.weights import FORMAT, OLDER, TrainedModel, calibration_tensors

SHARES = (0.0, 0.15, 0.3, 0.45, 0.6)
"""Of leaning, tried."""

LEAST_DETAIL = 0.65
"""Gradient energy over that of the true image, below which leaning is not taken further: flat images fool no
segmenter."""

PLANES = 20
"""Evenly spaced planes of each study that are looked at."""

VOXELS = 4000
"""Drawn from each image."""

LEAST_SUBJECTS = 3
"""Fewer say nothing of a further one."""

PENALTY = 1e-3
"""Of the squared weights of the regression."""

Volume = NDArray[np.uint8]
Floats = NDArray[np.float64]
Placements = dict[tuple[str, str], Placed]

_Row = tuple[int, int, Floats]
"""Source, target, and (share, [sum of errors, voxels, energy, energy of the true image])."""


class Calibration(NamedTuple):
    """What was learnt."""

    leanings: NDArray[np.float32]
    """(n_domains, n_domains), of source and target."""
    trust: Trust
    facts: dict[str, Any]
    """Level, subjects, and per direction how well errors were ranked and how far shares were off, out of fold.
    JSON-ready."""


class Sample(NamedTuple):
    """Voxels of one generated image."""

    subject: str
    sources: tuple[str, ...]
    target: int
    values: NDArray[np.float32]
    """(voxel, column)."""
    errors: NDArray[np.float32]
    """(voxel,): absolute, grey levels."""


def calibrate(
    model: TrainedModel, studies: Sequence[Study], jobs: int = 1, progress: Progress | None = None
) -> tuple[Calibration, Report[Any]]:
    """Learn from complete studies of the model's centers.

    Parameters
    ----------
    model : TrainedModel
        What it knew of its errors before is put aside. One without an atlas leans on nothing.
    studies : sequence of Study
        Prepared at the model's voxel size, none of which it trained on. Each direction is learnt from those that have
        both sequences.
    jobs : int
        Worker processes; the result does not depend on it.
    progress : callable, optional

    Returns
    -------
    calibration : Calibration
    report : Report
        What became of the studies.

    Raises
    ------
    ValueError
        Fewer than `LEAST_SUBJECTS` studies have a pair of sequences that it knows, or one has another voxel size.
    """
    for study in studies:
        require_spacing(study, model.config.data.spacing_mm)
    bare = replace(model, leanings=None, trust=None)
    of = named(sorted(studies, key=lambda study: study.subject), lambda study: study.subject)
    first = each(_tried_shares, of, bare, jobs=jobs, progress=progress)
    leanings = _chosen_shares([row for rows, _ in first.done.values() for row in rows], len(model.table))
    settled = replace(bare, leanings=leanings)
    rest = {name: (of[name], placements) for name, (_, placements) in first.done.items()}
    second = each(_samples, rest, settled, jobs=jobs, progress=progress)
    samples = [sample for own in second.done.values() for sample in own]
    subjects = sorted({sample.subject for sample in samples})
    if len(subjects) < LEAST_SUBJECTS:
        raise ValueError(
            f"Too few complete studies to calibrate on. Found {len(subjects)} with two sequences of the model's "
            f"({', '.join(subjects) or 'none'}); expected at least {LEAST_SUBJECTS}. Add some."
        )
    trust, facts = fitted(samples, model, subjects)
    facts["leanings"] = {
        f"{model.table.names[s]} → {model.table.names[t]}": round(float(leanings[s, t]), 2)
        for s, t in np.argwhere(leanings > 0)
    }
    second.failed = first.failed | second.failed
    return Calibration(leanings, trust, facts), second


def add_to_file(path: Path, out: Path, found: Calibration) -> None:
    """Write the model in `path` to `out` with what was learnt; everything else stays as it is, D too."""
    tensors, metadata = load_tensors(path, FORMAT, OLDER)
    tensors |= calibration_tensors(found.leanings, found.trust)
    metadata["criteria"] = metadata["criteria"] | {"reliability": found.facts}
    save_tensors(out, tensors, metadata)


# ---------------------------------------------------------------- translations


def _planes(volume: Volume) -> list[int]:
    """Up to `PLANES` evenly spaced ones with enough brain."""
    area = np.asarray(volume > 0).sum((1, 2))
    own = np.flatnonzero(area >= 0.2 * area.max())
    return np.unique(own[np.linspace(0, len(own) - 1, PLANES).round().astype(int)]).tolist()


def _known(model: TrainedModel, study: Study) -> dict[str, Volume]:
    """Acquired images that the model knows; at least a pair."""
    found = {q: np.array(study.volume(q)) for q in study.acquired if Domain(study.center, q) in model.table}
    if len(found) < 2:
        raise ValueError(
            f"Study has no pair. Found {', '.join(found) or 'no image'} that the model knows; expected two."
        )
    return found


def _answer(translator: Translator, target: Domain, planes: list[int]) -> Answered:
    """What all sources of `translator` say together, at `planes`; nothing is settled between planes that are apart."""
    model, mode = translator.model, translator.model.criteria["mode"]
    codes = {q: model.pair_of_codes(Domain(translator.center, q), target, mode) for q in translator.volumes}
    return answered(translator, target, codes, mode, np.inf, planes).at(planes)


def _tried_shares(model: TrainedModel, study: Study) -> tuple[list[_Row], Placements]:
    """Of each direction, and where the atlas lies."""
    volumes = _known(model, study)
    rows: list[_Row] = []
    placements: Placements = {}
    for source, volume in volumes.items():
        planes = _planes(volume)
        translator = Translator(model, {source: volume}, study.center, placements=placements)
        for target in volumes:
            if target == source:
                continue
            domain = Domain(study.center, target)
            made = _answer(translator, domain, planes)
            image, healthy = made.image, None if made.posterior is None else made.posterior[0]
            expected = translator.expected(domain, planes)
            if expected is None:
                continue
            true = volumes[target][planes]
            brain = (image > 0) & (true > 0)
            found, energy = np.zeros((len(SHARES), 4)), gradient_energy(true.astype(np.float32), brain)
            for i, share in enumerate(SHARES):
                tried = leant(image, expected, healthy, share)
                error = np.abs(tried.astype(np.float32) - true)[brain].sum()
                found[i] = error, brain.sum(), gradient_energy(tried.astype(np.float32), brain), energy
            rows.append((translator.domain(source), model.table.index(domain), found))
    return rows, placements


def _chosen_shares(rows: Sequence[_Row], n_domains: int) -> NDArray[np.float32]:
    """The least error, of what keeps enough detail; 0 where nothing is known."""
    out = np.zeros((n_domains, n_domains), np.float32)
    for source, target in {(s, t) for s, t, _ in rows}:
        found = np.stack([f for s, t, f in rows if (s, t) == (source, target)])
        errors = (found[..., 0] / np.maximum(found[..., 1], 1)).mean(0)
        detail = (found[..., 2] / np.maximum(found[..., 3], 1e-6)).mean(0)
        allowed = [i for i in range(len(SHARES)) if i == 0 or detail[i] >= LEAST_DETAIL]
        out[source, target] = SHARES[min(allowed, key=lambda i: errors[i])]
    return out


def _samples(model: TrainedModel, placed_study: tuple[Study, Placements]) -> list[Sample]:
    """Of each direction, and of all sources together."""
    study, placements = placed_study
    volumes = _known(model, study)
    rng = np.random.default_rng(sum(study.subject.encode()))
    found = []
    singles = {q: Translator(model, {q: v}, study.center, placements=placements) for q, v in volumes.items()}
    for target in volumes:
        others = {q: v for q, v in volumes.items() if q != target}
        translators = [singles[q] for q in others]
        if len(others) > 1:
            translators.append(Translator(model, others, study.center, placements=placements))
        for translator in translators:
            found += _sample(translator, study, Domain(study.center, target), volumes[target], rng)
    return found


def _sample(
    translator: Translator, study: Study, target: Domain, true: Volume, rng: np.random.Generator
) -> list[Sample]:
    sources = list(translator.volumes)
    planes = _planes(translator.volumes[sources[0]])
    made = _answer(translator, target, planes)
    values = columns(translator, made, planes)
    if values is None:
        return []
    truth = true[planes]
    places = np.flatnonzero((made.image > 0) & (truth > 0))
    places = rng.choice(places, min(VOXELS, len(places)), replace=False)
    errors = np.abs(made.image.astype(np.float32) - truth).ravel()[places]
    own = values.reshape(len(values), -1)[:, places].T
    return [Sample(study.subject, tuple(sources), translator.model.table.index(target), own, errors)]


# ---------------------------------------------------------------- regression


def fitted(samples: Sequence[Sample], model: TrainedModel, subjects: Sequence[str]) -> tuple[Trust, dict[str, Any]]:
    """Regression per target on all subjects; what it shows and how good it is, by leaving out one subject at a time."""
    n = len(model.table)
    weights = np.zeros((n, n_columns(n)), np.float32)
    shown = np.tile(np.linspace(0, 1, STEPS, dtype=np.float32), (n, 1))
    directions = []
    for target in range(n):
        own = [sample for sample in samples if sample.target == target]
        if len({sample.subject for sample in own}) < LEAST_SUBJECTS:
            continue
        weights[target] = _regression(own)
        said: dict[int, NDArray[np.float32]] = {}
        for subject in subjects:
            rest = [sample for sample in own if sample.subject != subject]
            fold = _regression(rest)
            said |= {id(s): probability(s.values @ fold) for s in own if s.subject == subject}
        right = np.concatenate([s.errors < LEVEL for s in own])
        shown[target] = shares_by_step(np.concatenate([said[id(s)] for s in own]), right)
        for sources in sorted({s.sources for s in own}):
            same = [s for s in own if s.sources == sources]
            expected = [
                np.interp(said[id(s)], np.linspace(0, 1, STEPS), shown[target]).astype(np.float32) for s in same
            ]
            directions.append(_facts(sources, model.table.names[target], same, expected))
    facts = {"level": LEVEL, "subjects": len(subjects), "out_of_fold": directions}
    return Trust(weights, shown), facts


def _facts(
    sources: Sequence[str], target: str, samples: Sequence[Sample], expected: Sequence[NDArray[np.float32]]
) -> dict[str, Any]:
    """Means over images of one direction: share right, rank correlation with the error, distance of expected and true
    share.
    """
    right = [float((s.errors < LEVEL).mean()) for s in samples]
    ranks = [rank_correlation(-e, s.errors) for e, s in zip(expected, samples, strict=True)]
    off = [abs(float(e.mean()) - r) for e, r in zip(expected, right, strict=True)]
    return {
        "sources": list(sources),
        "target": target,
        "right": round(float(np.mean(right)), 3),
        "rank_correlation": round(float(np.nanmean(ranks)), 3),
        "off_per_image": round(float(np.mean(off)), 3),
    }


def _regression(samples: Sequence[Sample]) -> NDArray[np.float32]:
    """Logistic, every image counting alike."""
    x = np.concatenate([s.values for s in samples]).astype(np.float64)
    right = np.concatenate([s.errors < LEVEL for s in samples]).astype(np.float64)
    counts = np.concatenate([np.full(len(s.errors), 1 / len(s.errors)) for s in samples])
    counts /= counts.sum()

    def loss(w: Floats) -> tuple[float, Floats]:
        score = x @ w
        value = (counts * (np.logaddexp(0, score) - right * score)).sum() + PENALTY * (w[1:] ** 2).sum()
        gradient = x.T @ (counts * (1 / (1 + np.exp(-score)) - right))
        gradient[1:] += 2 * PENALTY * w[1:]
        return float(value), gradient

    found = optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return np.asarray(found.x, np.float32)


def shares_by_step(said: NDArray[np.floating], right: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The share of right voxels at each of `STEPS` equally spaced values of what was said, never falling: (STEPS,).

    Steps that few voxels reach keep what was said, or what their neighbour shows.
    """
    steps = np.linspace(0, 1, STEPS)
    nearest = np.rint(said * (STEPS - 1)).astype(int)
    n = np.bincount(nearest, minlength=STEPS)
    share = np.bincount(nearest, weights=right, minlength=STEPS) / np.maximum(n, 1)
    share = np.where(n >= max(50, len(said) // 2000), share, steps)
    fit = optimize.isotonic_regression(share, weights=np.maximum(n, 1.0))
    return np.asarray(np.clip(fit.x, 0, 1), np.float32)
