"""Statistics of readers: shares with intervals, and how far readers agree beyond chance."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ummgat.evaluate.statistics import wilson

Ratings = NDArray[np.int64]

RESAMPLES = 2000


class Share(NamedTuple):
    """k of n, with a 95 % interval (Wilson 1927); NaN where n is 0."""

    value: float
    low: float
    high: float
    k: int
    n: int


class Estimate(NamedTuple):
    """A statistic with a 95 % percentile interval by bootstrap; None where it does not exist."""

    value: float | None
    low: float | None
    high: float | None
    n_defined: int
    """Resamples in which the statistic exists; the interval rests on these."""


def share(k: int, n: int) -> Share:
    """Share with its Wilson interval, without continuity correction.

    Source: Wilson 1927; Newcombe 1998, method 3.

    Examples
    --------
    >>> [round(v, 4) for v in share(81, 263)[1:3]]
    [0.2553, 0.3662]
    """
    if n == 0:
        return Share(float("nan"), float("nan"), float("nan"), 0, 0)
    return Share(k / n, *wilson(k, n), k, n)


def guessing_p(k: int, n: int) -> float | None:
    """Two-sided exact binomial p of k right answers of n under pure guessing; None without an answer."""
    return float(stats.binomtest(k, n, 0.5).pvalue) if n else None


def crossed(a: Ratings, b: Ratings, categories: int) -> NDArray[np.float64]:
    """Count how often the first reader said i and the second j: (categories, categories)."""
    table = np.zeros((categories, categories))
    np.add.at(table, (a, b), 1)
    return table


def kappa_of(table: NDArray[np.float64], disagreement: NDArray[np.float64] | None = None) -> float | None:
    """Cohen's kappa of a table of two readers, weighted if `disagreement` is given.

    Parameters
    ----------
    table : ndarray (category, category)
        Counts or shares.
    disagreement : ndarray (category, category), optional
        How much it weighs to say i and j; 0 on the diagonal. Default: 1 off the diagonal.

    Returns
    -------
    float or None
        None where it is 0/0: both readers said one and the same thing throughout.

    Notes
    -----
    Source: Cohen 1960, 1968: 1 - observed / expected disagreement.
    """
    n = len(table)
    weights = 1.0 - np.eye(n) if disagreement is None else disagreement
    total = table.sum()
    if total == 0:
        return None
    shares = table / total
    expected = float((weights * np.outer(shares.sum(1), shares.sum(0))).sum())
    if expected <= 1e-12:
        return None
    return 1.0 - float((weights * shares).sum()) / expected


def squared(categories: int) -> NDArray[np.float64]:
    """Quadratic disagreement (i - j)², for ordered categories."""
    i = np.arange(categories, dtype=float)
    return np.asarray((i[:, None] - i[None]) ** 2)


def fleiss_kappa(ratings: Ratings, categories: int) -> float | None:
    """Agreement of any number of readers.

    Parameters
    ----------
    ratings : ndarray (image, reader), 0 … categories - 1
        Every reader rated every image; at least two readers.
    categories : int

    Returns
    -------
    float or None
        None where all said one and the same thing throughout.

    Notes
    -----
    Source: Fleiss 1971.
    """
    counts = np.stack([(ratings == c).sum(1) for c in range(categories)], axis=1).astype(float)
    readers = ratings.shape[1]
    observed = float(((counts**2).sum(1) - readers).mean() / (readers * (readers - 1)))
    expected = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return None if 1 - expected <= 1e-12 else (observed - expected) / (1 - expected)


def icc(scores: NDArray[np.float64]) -> float | None:
    """Intraclass correlation ICC(2,1): two-way random, absolute agreement, a single reader.

    Parameters
    ----------
    scores : ndarray (image, reader)
        At least two of each.

    Returns
    -------
    float or None
        None where all scores are equal.

    Notes
    -----
    Source: Shrout & Fleiss 1979.
    """
    n, k = scores.shape
    if n < 2 or k < 2:
        return None
    mean = scores.mean()
    between = k * ((scores.mean(1) - mean) ** 2).sum() / (n - 1)
    readers = n * ((scores.mean(0) - mean) ** 2).sum() / (k - 1)
    rest = scores - scores.mean(1, keepdims=True) - scores.mean(0) + mean
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    below = between + (k - 1) * error + k * (readers - error) / n
    return None if abs(below) <= 1e-12 else float((between - error) / below)


def bootstrap(
    values: NDArray[np.generic], statistic: Callable[..., float | None], seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """A statistic of `values` (image, …) and its interval over resampled images."""
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    found = [v for v in (statistic(values[chosen]) for chosen in draws) if v is not None and np.isfinite(v)]
    value = statistic(values)
    if value is None or not found:
        return Estimate(value, None, None, len(found))
    low, high = np.percentile(found, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high), len(found))


class Shift(NamedTuple):
    """Two independent groups of scores, first minus second."""

    p: float | None
    """Two-sided Mann-Whitney; None where a group is empty or all scores are equal."""
    superiority: float
    """Chance that a score of the first group is higher than one of the second, ties counted half; NaN without."""


def mann_whitney(a: NDArray[np.float64], b: NDArray[np.float64]) -> Shift:
    """Compare scores of different images (they are no pairs)."""
    if not len(a) or not len(b):
        return Shift(None, float("nan"))
    result = stats.mannwhitneyu(a, b, alternative="two-sided")
    superiority = float(result.statistic / (len(a) * len(b)))
    return Shift(None if len(np.unique(np.concatenate([a, b]))) == 1 else float(result.pvalue), superiority)
