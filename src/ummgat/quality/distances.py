"""Distances between sets of slices, with intervals from subjects: formulas, cells and tests; no network.

A sample is what one cell compares: subject → features of that subject's slices.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ummgat.core.domain import Domain
from ummgat.evaluate.statistics import Friedman, cohens_d, friedman

Features = NDArray[np.float64]
Sample = Mapping[str, Features]
"""Subject → (slices, d)."""

Row = dict[str, Any]

COLUMNS = (
    "kind", "model", "source", "target", "features", "metric", "value", "low", "high", "n_slices", "n_subjects",
)  # fmt: skip

MIN_FLOOR_SUBJECTS = 4
"""Fewer give halves of one subject, which is no sample of a domain."""

MAX_SPLITS = 10
"""Split halves per domain that are averaged."""

REAL, FLOOR, GENERATED, WITHOUT_LAM = "real", "floor", "generated", "generated without LAM"


def frechet_distance(a: Features, b: Features) -> float:
    """Fréchet distance between the normal distributions fitted to two sets of features.

    |mean_a - mean_b|² + tr(S_a + S_b - 2 (S_a S_b)^½), unbiased covariances.

    Parameters
    ----------
    a, b : ndarray (n, d), (m, d)
        At least 2 rows each; n and m may be smaller than d.

    Notes
    -----
    With S_a = AᵀA and S_b = BᵀB, where A is the centered a over (n - 1)^½, the root of S_a S_b has as eigenvalues the
    singular values of A Bᵀ. Their sum needs no root of a matrix, so covariances of low rank (n < d) do no harm. Biased
    upwards for few slices: compare only at equal n.

    Source: Dowson & Landau 1982; Heusel et al. 2017, who take Inception features.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(
            f"Too few images for a Fréchet distance. Found {len(a)} and {len(b)}; expected at least 2 each. Add images."
        )
    mean = a.mean(0) - b.mean(0)
    root_a, root_b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    trace = float((root_a**2).sum() + (root_b**2).sum())
    # More rows than features: the triangle of QR has the same covariance and fewer rows.
    factor_a, factor_b = (linalg.qr(x, mode="economic")[1] if len(x) > x.shape[1] else x for x in (root_a, root_b))
    shared = float(linalg.svdvals(factor_a @ factor_b.T).sum())
    return float(mean @ mean) + trace - 2 * shared


Metric = Callable[[Features, Features], float]


@dataclass
class Samples:
    """Features of one extractor: of real slices per domain, of generated ones per (model, source, target)."""

    features: str
    real: dict[Domain, Sample]
    generated: dict[tuple[str, Domain, Domain], Sample]
    metrics: dict[str, Metric]
    """Name (as the extractor's features allow it) → function."""
    without_lam: tuple[str, ...] = field(default=())
    """Models trained without the lesion-aware module."""


def thinned(sample: Sample, n: int) -> dict[str, Features]:
    """`n` rows, the same number (or one more) of every subject, evenly spaced over its slices; fewer where it has
    fewer.
    """
    out = {}
    for i, (subject, features) in enumerate(sample.items()):
        share = min(len(features), n // len(sample) + (i < n % len(sample)))
        out[subject] = features[np.linspace(0, len(features) - 1, share).round().astype(int)]
    return out


def _rows_of(sample: Sample) -> int:
    return sum(len(features) for features in sample.values())


def _stacked(sample: Sample, subjects: Sequence[str] | None = None) -> Features:
    return np.concatenate([sample[s] for s in (sample if subjects is None else subjects)])


def halves(sample: Sample) -> list[tuple[dict[str, Features], dict[str, Features]]]:
    """Splits by subject into two equally large sets, no subject in both: every one, or the first ten; none below four
    subjects.

    Of an odd number the last ones in turn stay out.
    """
    subjects, size = sorted(sample), len(sample) // 2
    if len(subjects) < MIN_FLOOR_SUBJECTS:
        return []
    found = []
    for first in itertools.combinations(subjects, size):
        for second in itertools.combinations([s for s in subjects if s not in first], size):
            if first < second:
                found.append(tuple({s: sample[s] for s in half} for half in (first, second)))
    every = np.linspace(0, len(found) - 1, min(MAX_SPLITS, len(found))).round().astype(int)
    return [(found[i][0], found[i][1]) for i in every]


def common_n(samples: Samples) -> int:
    """Slices that every cell can have: those of the smallest half or whole set."""
    sizes = [_rows_of(s) for s in (*samples.real.values(), *samples.generated.values())]
    for sample in samples.real.values():
        sizes += [_rows_of(half) for pair in halves(sample) for half in pair]
    return min(sizes)


def redraw(groups: Sequence[Sequence[str]], rng: np.random.Generator) -> list[str]:
    """Subjects with replacement, as many as there are, within each group."""
    return [str(s) for group in groups if len(group) for s in rng.choice(list(group), len(group))]


def interval(value: float, draws: Sequence[float]) -> tuple[float, float]:
    """95 % interval about `value` from bootstrap draws, moved so that their mean is `value`.

    Draws hold some subjects twice, which by itself makes two sets look further apart; that shift is taken out. What
    stays is how far the value would spread with other subjects, as few as these; it may reach below 0. (nan, nan)
    without draws.
    """
    if not draws:
        return float("nan"), float("nan")
    low, high = np.percentile(draws, (2.5, 97.5)) - np.mean(draws) + value
    return float(low), float(high)


def _bootstrap(metric: Metric, a: Sample, b: Sample, resamples: int, seed: int) -> list[float]:
    """Distances of redrawn subjects: one draw for both sets where they share subjects. None below three subjects."""
    both, only_a, only_b = sorted(set(a) & set(b)), sorted(set(a) - set(b)), sorted(set(b) - set(a))
    if min(len(a), len(b)) < 3:
        return []
    rng, draws = np.random.default_rng(seed), []
    for _ in range(resamples):
        shared = redraw([both], rng)
        draws.append(metric(_stacked(a, shared + redraw([only_a], rng)), _stacked(b, shared + redraw([only_b], rng))))
    return draws


def distance_rows(
    samples: Samples,
    resamples: int = 200,
    seed: int = 0,
    n: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Distance, interval and numbers of every cell, all with the same number of slices.

    Parameters
    ----------
    samples : Samples
    resamples : int
        Bootstrap draws of subjects per cell.
    seed : int
    n : int, optional
        Slices per set. Default: as many as every set has, see `common_n`.
    progress : callable, optional
        (cells done, cells in all).

    Returns
    -------
    list of rows
        `COLUMNS`. Kind `real`: two domains, each pair once. `floor`: a domain against itself, halves of its subjects;
        value the mean over splits, low and high their 2.5 and 97.5 percentiles; `n_subjects` per half. `generated` and
        `generated without LAM`: generated from every source domain against the real target. `n_slices` of each set;
        `n_subjects` in both sets together.

    Notes
    -----
    A generated image and the real target of the same subject share anatomy, and so do two real sequences of a subject,
    while the halves of the floor do not: a distance below the floor is possible and no proof of anything.
    """
    n = n or common_n(samples)
    real = {d: thinned(s, n) for d, s in samples.real.items()}
    cells: list[tuple[str, str, Domain, Domain, Sample, Sample]] = [
        (REAL, "", a, b, real[a], real[b]) for a, b in itertools.combinations(real, 2)
    ]
    for (model, source, target), sample in samples.generated.items():
        kind = WITHOUT_LAM if model in samples.without_lam else GENERATED
        cells.append((kind, model, source, target, thinned(sample, n), real[target]))
    rows = []
    for domain, sample in samples.real.items():
        splits = [tuple(thinned(half, n) for half in pair) for pair in halves(sample)]
        for name, metric in samples.metrics.items():
            values = [metric(_stacked(a), _stacked(b)) for a, b in splits]
            if values:
                low, high = np.percentile(values, (2.5, 97.5))
                found = (float(np.mean(values)), float(low), float(high))
                per_half = (_rows_of(splits[0][0]), len(splits[0][0]))
                rows.append(_row(FLOOR, "", domain, domain, samples.features, name, found, per_half))
    for i, (kind, model, source, target, a, b) in enumerate(cells):
        for name, metric in samples.metrics.items():
            value = metric(_stacked(a), _stacked(b))
            low, high = interval(value, _bootstrap(metric, a, b, resamples, seed))
            sizes = (min(_rows_of(a), _rows_of(b)), len({*a, *b}))
            rows.append(_row(kind, model, source, target, samples.features, name, (value, low, high), sizes))
        if progress is not None:
            progress(i + 1, len(cells))
    return rows


def _row(
    kind: str,
    model: str,
    source: Domain,
    target: Domain,
    features: str,
    metric: str,
    found: tuple[float, float, float],
    sizes: tuple[int, int],
) -> Row:
    values = (kind, model, str(source), str(target), features, metric, *found, *sizes)
    return dict(zip(COLUMNS, values, strict=True))


class Difference(NamedTuple):
    """Mean over cells of one model's distance minus another's."""

    mean: float
    low: float
    high: float
    """95 % interval, whole subjects redrawn, the same ones in all cells; see `interval`."""
    n_cells: int
    n_subjects: int


def mean_difference(
    samples: Samples, model: str, other: str, metric: str, resamples: int = 200, seed: int = 0, n: int | None = None
) -> Difference:
    """Mean over the cells that both models have of the distance of `model` minus that of `other`; below 0: `model` is
    closer.

    Subjects are what could have been others, so they are redrawn (within those who have the same domains), with all
    their slices and in all cells at once. Interval (nan, nan) where a group has fewer than three subjects.

    Raises
    ------
    ValueError
        If they have no cell in common.
    """
    n = n or common_n(samples)
    cells = [(s, t) for m, s, t in samples.generated if m == model and (other, s, t) in samples.generated]
    if not cells:
        raise ValueError(
            f"Models have no cell in common: {model} and {other}. Found none; expected at least 1. Give both the same "
            f"studies."
        )
    real = {d: thinned(s, n) for d, s in samples.real.items()}
    made = {(m, *c): thinned(samples.generated[m, *c], n) for m in (model, other) for c in cells}
    groups: dict[tuple[Domain, ...], list[str]] = {}
    for subject in sorted({s for sample in real.values() for s in sample}):
        groups.setdefault(tuple(d for d in real if subject in real[d]), []).append(subject)

    def difference(subjects: Sequence[str]) -> float:
        def value(m: str, source: Domain, target: Domain) -> float:
            a, b = made[m, source, target], real[target]
            chosen = [[s for s in subjects if s in sample] for sample in (a, b)]
            return samples.metrics[metric](_stacked(a, chosen[0]), _stacked(b, chosen[1]))

        return float(np.mean([value(model, *c) - value(other, *c) for c in cells]))

    mean = difference([s for group in groups.values() for s in group])
    rng = np.random.default_rng(seed)
    enough = all(len(group) >= 3 for group in groups.values())
    draws = [difference(redraw(list(groups.values()), rng)) for _ in range(resamples if enough else 0)]
    return Difference(mean, *interval(mean, draws), len(cells), sum(map(len, groups.values())))


class CellTest(NamedTuple):
    """The paper's test over cells; see `cell_test` for why its p means little."""

    friedman: Friedman | None
    means: dict[str, float]
    differences: dict[tuple[str, str], float]
    effects: dict[tuple[str, str], float]
    """Cohen's d, with the standard deviation pooled over all groups."""
    n_cells: int


def cell_test(rows: Sequence[Row], models: Sequence[str], metric: str) -> CellTest:
    """Friedman over (source, target) cells of real-real and each of `models`, post-hoc by ranks with Bonferroni,
    Cohen's d.

    It treats cells as independent, as the paper does. They are not: cells of one row come from the same images, cells
    of one column are compared with the same images, and every cell with the same subjects. Its p is far too small;
    print it beside `mean_difference`, never alone.

    Source: paper, Fig. 4; its d divides by the standard deviation pooled over its three groups.
    """
    tables: dict[str, dict[tuple[str, str], float]] = {REAL: {}, **{m: {} for m in models}}
    for row in rows:
        if row["metric"] != metric:
            continue
        if row["kind"] == REAL:
            for pair in ((row["source"], row["target"]), (row["target"], row["source"])):
                tables[REAL][pair] = row["value"]
        elif row["kind"] in (GENERATED, WITHOUT_LAM) and row["model"] in tables:
            tables[row["model"]][row["source"], row["target"]] = row["value"]
    common = sorted(set.intersection(*(set(t) for t in tables.values())))
    values = {name: [table[c] for c in common] for name, table in tables.items()}
    means = {name: float(np.mean(v)) if v else float("nan") for name, v in values.items()}
    spreads = [float(np.std(v, ddof=1)) if len(v) > 1 else float("nan") for v in values.values()]
    differences = {(b, a): means[b] - means[a] for a, b in itertools.combinations(values, 2)}
    known = np.isfinite(spreads).all() and max(spreads) > 0
    effects = {pair: cohens_d(d, spreads) if known else float("nan") for pair, d in differences.items()}
    return CellTest(friedman(values), means, differences, effects, len(common))
