"""Paired tests on few subjects, said with everything a reader needs to judge them.

Pairs are subjects. Nothing here prints a p where none exists: with one subject, or when all pairs are equal, it is
None.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Summary(NamedTuple):
    """Median [quartiles] of n subjects."""

    median: float
    q25: float
    q75: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.q25:.3f}, {self.q75:.3f}]"


class Comparison(NamedTuple):
    """A paired comparison of two treatments, a minus b."""

    n: int
    median_difference: float
    low: float
    high: float
    """95 % interval of the median difference, by bootstrap over subjects."""
    p: float | None
    """Two-sided Wilcoxon signed-rank; None where no test is possible."""
    effect: float | None
    """Matched-pairs rank-biserial correlation, -1 … 1: positive where a is larger."""
    smallest_p: float | None
    """What p cannot go below with this many non-zero differences."""


class Friedman(NamedTuple):
    """Friedman test of several treatments on the same subjects, and which pairs differ."""

    chi2: float
    p: float
    mean_ranks: dict[str, float]
    pairs: dict[tuple[str, str], float]
    """p of each pair by rank sums (Siegel & Castellan 1988, with ties as in the test), Bonferroni-corrected."""


def summarise(values: Sequence[float]) -> Summary:
    """Median and quartiles of the finite values (linear interpolation, as NumPy)."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return Summary(float("nan"), float("nan"), float("nan"), 0)
    q25, median, q75 = np.percentile(finite, (25, 50, 75))
    return Summary(float(median), float(q25), float(q75), len(finite))


def smallest_p(n: int) -> float:
    """Smallest two-sided p of a Wilcoxon signed-rank test on n non-zero differences: 2^(1 - n)."""
    return 2.0 ** (1 - n)


def compare(a: Sequence[float], b: Sequence[float], seed: int = 0, resamples: int = 2000) -> Comparison:
    """Compare paired values, subject by subject.

    Pairs in which either value is not finite are left out; equal pairs say nothing about the sign and are left out of
    the test (Wilcoxon's rule). Exact distribution where no differences tie, else the normal approximation, which SciPy
    corrects for ties.

    Raises
    ------
    ValueError
        If the sequences are not equally long: then they are not pairs.
    """
    if len(a) != len(b):
        raise ValueError(f"Values are not pairs. Found {len(a)} and {len(b)}; expected as many. Match them by subject.")
    d = np.asarray(a, float) - np.asarray(b, float)
    d = d[np.isfinite(d)]
    n = len(d)
    if n == 0:
        return Comparison(0, float("nan"), float("nan"), float("nan"), None, None, None)
    draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    low, high = np.percentile(np.median(d[draws], axis=1), (2.5, 97.5))
    nonzero = d[d != 0]
    median = float(np.median(d))
    if n < 2 or not len(nonzero):
        return Comparison(n, median, float(low), float(high), None, None, None)
    ties = len(np.unique(np.abs(nonzero))) < len(nonzero)
    result = stats.wilcoxon(nonzero, method="approx" if ties else "exact")
    ranks = stats.rankdata(np.abs(nonzero))
    effect = float((ranks[nonzero > 0].sum() - ranks[nonzero < 0].sum()) / ranks.sum())
    return Comparison(n, median, float(low), float(high), float(result.pvalue), effect, smallest_p(len(nonzero)))


def friedman(treatments: Mapping[str, Sequence[float]]) -> Friedman | None:
    """Compare three or more treatments on the same subjects.

    Parameters
    ----------
    treatments : mapping of name → values
        Equally long, in the same order of subjects.

    Returns
    -------
    Friedman or None
        None with fewer than three treatments or two subjects, or when all values are equal.

    Notes
    -----
    The post-hoc compares mean ranks within subjects, |R_i - R_j| / sqrt(k (k + 1) / 6 n), against the normal
    distribution. `posthoc_dunn`, often used here, ranks all values together as if groups were independent, which paired
    data are not.
    """
    names = list(treatments)
    table = np.array([treatments[name] for name in names], float).T
    table = table[np.isfinite(table).all(1)]
    n, k = table.shape
    if k < 3 or n < 2 or np.ptp(table, axis=1).max() == 0:
        return None
    chi2, p = stats.friedmanchisquare(*table.T)
    means = stats.rankdata(table, axis=1).mean(0)
    error = np.sqrt(k * (k + 1) / (6 * n))
    count = k * (k - 1) // 2
    pairs = {
        (names[i], names[j]): float(min(1.0, count * 2 * stats.norm.sf(abs(means[i] - means[j]) / error)))
        for i in range(k)
        for j in range(i + 1, k)
    }
    return Friedman(float(chi2), float(p), dict(zip(names, means.tolist(), strict=True)), pairs)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Step-down correction (Holm 1979) across cells; cells without a test stay without."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    out: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        out[i] = largest
    return out


def cohens_d(mean_difference: float, standard_deviations: Sequence[float]) -> float:
    """Mean difference over the standard deviation pooled over all groups given, equally large.

    The paper's Fig. 4 divides by the one pooled over its three groups, also when two are compared.
    """
    return mean_difference / float(np.sqrt(np.mean(np.square(standard_deviations))))


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % interval of a rate of k in n (Wilson 1927); (nan, nan) for n = 0."""
    if n == 0:
        return float("nan"), float("nan")
    interval = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
