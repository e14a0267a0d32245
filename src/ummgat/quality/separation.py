"""Numbers to the picture of sequence codes: how far domains lie apart, and what a neighbour's domain tells.

No slice is ever judged by slices of its own subject: those resemble it whatever was learnt.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ummgat.quality.codes import ENCODERS, Codes

NEIGHBOURS = 5

RESAMPLES = 1000

SPACES = {"features": False, "codes": True}
"""Vectors → whether separate heads separate domains by themselves, so that the number proves nothing."""

Vectors = NDArray[np.float64]
Names = NDArray[np.str_]


class Test(NamedTuple):
    """A question to the neighbours."""

    name: str
    voters: str
    """Kind of the rows that vote."""
    judged: str
    """Kind of the rows whose label is guessed."""
    label: str
    """`target`: what an image is (made to be). `source`: what it was made from."""
    of_one_center: bool
    """Only rows of the same center vote: then the same masks occur under every label, and their shape tells nothing."""


TESTS = (
    Test("real slices by real ones", "real", "real", "target", False),
    Test("generated slices by real ones", "real", "generated", "target", False),
    Test("generated slices by generated ones", "generated", "generated", "target", False),
    Test("source of generated slices by real ones", "real", "generated", "source", False),
    Test("source of generated slices by generated ones", "generated", "generated", "source", False),
    Test("same mask, other texture: real lesions", "lesion", "lesion", "target", True),
    Test("same mask, other texture: generated lesions by real ones", "lesion", "generated lesion", "target", True),
    Test("same mask, no texture", "flat lesion", "flat lesion", "target", True),
)


class Votes(NamedTuple):
    """Outcome of a test."""

    accuracy: float
    """Mean over labels of the share guessed right; NaN without a row that could be judged."""
    low: float
    high: float
    """95 % interval by bootstrap over subjects; NaN with fewer than two."""
    chance: float
    """Accuracy of guessing at random among the labels that voters of the row's group have."""
    n: int
    n_subjects: int
    n_left_out: int
    """Rows whose label no other subject has: they cannot be guessed."""


def scaled(vectors: Vectors, by: Vectors) -> Vectors:
    """Each column in standard deviations of `by` from its mean; constant columns become 0."""
    spread = by.std(0)
    return np.where(spread > 1e-9, (vectors - by.mean(0)) / np.where(spread > 1e-9, spread, 1.0), 0.0)


def vote(distances: NDArray[np.float64], labels: Names, k: int) -> dict[str, float]:
    """Shares of a vote of the `k` nearest; as near as the k-th votes, too, and labels with equal votes share the win.

    Parameters
    ----------
    distances : ndarray (voter,)
    labels : ndarray (voter,)
    k : int

    Returns
    -------
    dict of label → share
        Summing to 1: a single winner has 1.

    Examples
    --------
    >>> vote(np.array([1.0, 2.0, 2.0, 9.0]), np.array(["a", "b", "b", "a"]), 2)
    {'b': 1.0}
    """
    limit = np.partition(distances, min(k, len(distances)) - 1)[min(k, len(distances)) - 1]
    names, counts = np.unique(labels[distances <= limit + 1e-9], return_counts=True)
    winners = names[counts == counts.max()]
    return {str(name): 1 / len(winners) for name in winners}


def neighbours(
    voters: Vectors,
    judged: Vectors,
    labels: tuple[Names, Names],
    subjects: tuple[Names, Names],
    groups: tuple[Names, Names],
) -> Votes:
    """Guess the label of each judged row from the nearest rows of other subjects, leaving out one subject at a time.

    Parameters
    ----------
    voters, judged : ndarray (row, dimension)
        Scaled within each fold by its voters; distances are Euclidean.
    labels, subjects, groups : pairs of ndarrays
        Of voters and of judged rows. Only voters of a row's group vote.
    """
    right: list[tuple[str, str, float]] = []
    blind: list[tuple[str, str, float]] = []
    left_out = 0
    for subject, group in sorted({(str(s), str(g)) for s, g in zip(subjects[1], groups[1], strict=True)}):
        rows = np.flatnonzero((subjects[1] == subject) & (groups[1] == group))
        others = np.flatnonzero((subjects[0] != subject) & (groups[0] == group))
        known = np.unique(labels[0][others])
        able = rows[np.isin(labels[1][rows], known)]
        left_out += len(rows) - len(able)
        if not len(able):
            continue
        distances = cdist(scaled(judged[able], voters[others]), scaled(voters[others], voters[others]))
        for at, line in zip(able, distances, strict=True):
            label = str(labels[1][at])
            right.append((subject, label, vote(line, labels[0][others], NEIGHBOURS).get(label, 0.0)))
            blind.append((subject, label, 1 / len(known)))
    people = sorted({subject for subject, _, _ in right})
    low, high = _interval(right, people)
    return Votes(_balanced(right), low, high, _balanced(blind), len(right), len(people), left_out)


def _balanced(right: list[tuple[str, str, float]]) -> float:
    """Mean over labels of the mean share guessed right."""
    by_label: dict[str, list[float]] = {}
    for _, label, share in right:
        by_label.setdefault(label, []).append(share)
    return float(np.mean([np.mean(shares) for shares in by_label.values()])) if by_label else float("nan")


def _interval(right: list[tuple[str, str, float]], people: list[str]) -> tuple[float, float]:
    if len(people) < 2:
        return float("nan"), float("nan")
    labels = sorted({label for _, label, _ in right})
    sums, counts = np.zeros((len(people), len(labels))), np.zeros((len(people), len(labels)))
    for subject, label, share in right:
        at = people.index(subject), labels.index(label)
        sums[at] += share
        counts[at] += 1
    draws = np.random.default_rng(0).integers(0, len(people), (RESAMPLES, len(people)))
    drawn = counts[draws].sum(1)
    shares = np.where(drawn > 0, sums[draws].sum(1) / np.maximum(drawn, 1), np.nan)
    low, high = np.percentile(np.nanmean(shares, axis=1), (2.5, 97.5))
    return float(low), float(high)


def silhouette(vectors: Vectors, labels: Names) -> float:
    """Mean silhouette width of labels (Rousseeuw 1987), Euclidean on scaled columns; NaN where it does not exist.

    Examples
    --------
    >>> round(silhouette(np.array([[0.0], [1.0], [9.0], [10.0]]), np.array(["a", "a", "b", "b"])), 4)
    0.8885
    """
    names = np.unique(labels)
    if not 2 <= len(names) < len(labels):
        return float("nan")
    vectors = scaled(vectors, vectors)
    groups = [vectors[labels == name] for name in names]
    widths: list[NDArray[np.float64]] = []
    for at, group in enumerate(groups):
        # Sums of distances to each group: a row's own counts one row less, itself.
        sums = np.stack([cdist(group, other).sum(1) for other in groups])
        sizes = np.array([len(other) for other in groups])
        within = sums[at] / max(sizes[at] - 1, 1)
        nearest = (np.delete(sums, at, 0) / np.delete(sizes, at)[:, None]).min(0)
        larger = np.maximum(within, nearest)
        width = np.where(larger > 0, (nearest - within) / np.where(larger > 0, larger, 1.0), 0.0)
        widths.append(width if len(group) > 1 else np.zeros(1))  # alone in its group: 0 by definition
    return float(np.concatenate(widths).mean())


def separation(found: Codes) -> list[dict[str, Any]]:
    """Every test, in both spaces, with both encoders.

    Returns
    -------
    list of rows
        encoder, space, confounded_by_heads, test, and the fields of `Votes`; `silhouette` of the judged rows by the
        test's label (within a center where the test is; then the mean over centers).
    """
    return [row for encoder in ENCODERS for space in SPACES for row in _tests(found, encoder, space)]


def _tests(found: Codes, encoder: str, space: str) -> Iterator[dict[str, Any]]:
    vectors = getattr(found, space)
    for test in TESTS:
        if test.label == "source" and SPACES[space]:
            continue  # a code is read under the target's head: of the source it cannot speak in a comparable way
        at = [found.chosen(encoder=encoder, kind=kind) for kind in (test.voters, test.judged)]
        labels, subjects, targets, sources = (
            [found.column(name, rows) for rows in at] for name in (test.label, "subject", "target", "source")
        )
        if test.of_one_center:
            # The mask is the source subject's: a lesion made to look like another center's is judged by its own
            # center's.
            own = [
                np.array([_center(s) == _center(t) for s, t in zip(*pair, strict=True)], bool)
                for pair in zip(sources, targets, strict=True)
            ]
            at, labels, subjects, sources = (
                [part[mask] for part, mask in zip(parts, own, strict=True)] for parts in (at, labels, subjects, sources)
            )
        groups = [np.array([_center(s) if test.of_one_center else "" for s in part], str) for part in sources]
        votes = neighbours(
            vectors[at[0]], vectors[at[1]], (labels[0], labels[1]), (subjects[0], subjects[1]), (groups[0], groups[1])
        )
        widths = [silhouette(vectors[at[1][groups[1] == g]], labels[1][groups[1] == g]) for g in np.unique(groups[1])]
        known = [w for w in widths if np.isfinite(w)]
        yield {
            "encoder": encoder,
            "space": space,
            "confounded_by_heads": SPACES[space],
            "test": test.name,
            **votes._asdict(),
            "silhouette": float(np.mean(known)) if known else float("nan"),
        }


def _center(domain: str) -> str:
    return domain.rpartition("/")[0]
