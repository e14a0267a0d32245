"""How intensities of one domain relate to those of another, learnt from different subjects: which contrasts invert.

Brains of two subjects, stretched to one frame, roughly overlap. What is dark in the T1 of one is, on average, bright in
the T2 of others at the same place. That average as a function of the source's intensity is a curve per pair of domains,
and it needs no subject that has both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ummgat.slices import TrainingVolume

BINS = 32
"""Bins of source intensity that a curve is learnt in."""

KNOTS = 33
"""Evenly spaced source intensities, 0 to 255, at which a curve is given."""

FRAME = (48, 60, 48)
"""Points of the common frame (plane, row, column) that every brain's bounding box is stretched to."""

LEAST_OVERLAP = 1 / 3
"""Slopes below this are noise: a curve is never steepened more than threefold."""

LEAST_COUNT = 200
"""Pairs of voxels below which a bin of a curve is filled from its neighbours."""


class _Brain(NamedTuple):
    """One volume in the common frame, flattened."""

    subject: str
    values: NDArray[np.float32]
    healthy: NDArray[np.bool_]
    lesion: NDArray[np.bool_]


class Relations(NamedTuple):
    """What the training cohort knows about its domains, without any pair."""

    curves: NDArray[np.float32]
    """(n_domains, n_domains, KNOTS): [source, target, knot], expected target intensity in healthy brain, 1…255.
    As `ummgat.model.tone.along_curve` takes them once scaled to [-1, 1]. The diagonal is the identity. NaN where no two
    subjects show the two domains."""
    lesions: NDArray[np.float32]
    """(n_domains,): mean intensity inside lesions, 1…255; NaN where none is annotated."""


def relations(volumes: Sequence[TrainingVolume], n_domains: int) -> Relations:
    """Learn the curve of every ordered pair of domains, and how bright lesions are in each.

    Only healthy brain, and only different subjects, are compared. Overlap is imperfect, which flattens a curve: by how
    much is known from how well a domain predicts itself across subjects, and is undone (Spearman's correction for
    attenuation, 1904), up to the spread of intensities that the target domain has.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
    n_domains : int
    """
    brains: list[list[_Brain]] = [[] for _ in range(n_domains)]
    for volume in volumes:
        brains[volume.domain].append(_in_frame(volume))
    centers = (np.arange(BINS) + 0.5) * 256 / BINS
    curves = np.full((n_domains, n_domains, BINS), np.nan)
    counts = np.zeros((n_domains, n_domains, BINS))
    for target in range(n_domains):
        total, present = _sums(brains[target])
        for source in range(n_domains):
            curves[source, target], counts[source, target] = _curve(brains[source], brains[target], total, present)
    overlap = np.array([_slope(centers, curves[i, i], counts[i, i]) for i in range(n_domains)])
    for source in range(n_domains):
        for target in range(n_domains):
            gain = 1 / max(overlap[source], LEAST_OVERLAP)
            spread = _spread(brains[target])
            curves[source, target] = _steepened(curves[source, target], counts[source, target], gain, spread)
    knots = np.linspace(0, 255, KNOTS)
    known = np.apply_along_axis(lambda curve: np.interp(knots, centers, curve), 2, curves)
    known[range(n_domains), range(n_domains)] = np.clip(knots, 1, 255)
    lesions = [_lesion_mean(own) for own in brains]
    return Relations(known.astype(np.float32), np.array(lesions, np.float32))


def _in_frame(volume: TrainingVolume) -> _Brain:
    """Nearest voxels of the brain's bounding box, stretched to `FRAME`."""
    values = np.asarray(volume.study.volume(volume.sequence))
    brain = values > 0
    labels = volume.study.labels()
    axes = []
    for axis, n in enumerate(FRAME):
        occupied = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = occupied[0], occupied[-1] + 1
        axes.append((low + (np.arange(n) + 0.5) / n * (high - low)).astype(np.int64))
    grid = np.ix_(*axes)
    inside, lesion = brain[grid].ravel(), np.zeros(int(np.prod(FRAME)), bool)
    if labels is not None:
        lesion = inside & (np.asarray(labels)[grid].ravel() > 0)
    return _Brain(volume.study.subject, values[grid].ravel().astype(np.float32), inside & ~lesion, lesion)


def _sums(brains: Sequence[_Brain]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sum of healthy intensities at each point of the frame, and the number of brains in it."""
    total = np.zeros(np.prod(FRAME), np.float32)
    present = np.zeros_like(total)
    for brain in brains:
        total += brain.values * brain.healthy
        present += brain.healthy
    return total, present


def _curve(
    sources: Sequence[_Brain], targets: Sequence[_Brain], total: NDArray[np.float32], present: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean target intensity in other subjects, and the number of pairs, per bin of source intensity."""
    sums, counts = np.zeros(BINS), np.zeros(BINS)
    for source in sources:
        # What this very subject shows in the target domain is taken out: it would be a paired image.
        others, n = total, present
        for own in targets:
            if own.subject == source.subject:
                others, n = others - own.values * own.healthy, n - own.healthy
        both = source.healthy & (n > 0)
        bins = (source.values[both] * (BINS / 256)).astype(np.int64)
        sums += np.bincount(bins, others[both], BINS)
        counts += np.bincount(bins, n[both], BINS)
    known = counts >= LEAST_COUNT
    if not known.any():
        return np.full(BINS, np.nan), counts
    return np.interp(np.arange(BINS), np.flatnonzero(known), sums[known] / counts[known]), counts


def _slope(x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Slope of the weighted line through (x, y); 1 where nothing is known."""
    if np.isnan(y).any():
        return 1.0
    x_mean, y_mean = np.average(x, weights=weight), np.average(y, weights=weight)
    return float(
        np.average((x - x_mean) * (y - y_mean), weights=weight) / np.average((x - x_mean) ** 2, weights=weight)
    )


def _lesion_mean(brains: Sequence[_Brain]) -> float:
    """Mean over subjects of the mean inside their lesion, so that a large one does not speak for all."""
    means = [float(brain.values[brain.lesion].mean()) for brain in brains if brain.lesion.any()]
    return float(np.mean(means)) if means else float("nan")


def _spread(brains: Sequence[_Brain]) -> float:
    """Standard deviation of healthy intensities."""
    values = np.concatenate([brain.values[brain.healthy] for brain in brains])
    return float(values.std()) if values.size else 0.0


def _steepened(
    curve: NDArray[np.float64], weight: NDArray[np.float64], gain: float, spread: float
) -> NDArray[np.float64]:
    """Stretch a curve about its mean by `gain`, or less if it would then vary more than the target domain does."""
    if np.isnan(curve).any():
        return curve
    mean = np.average(curve, weights=weight)
    own = np.sqrt(np.average((curve - mean) ** 2, weights=weight))
    return np.clip(mean + (curve - mean) * min(gain, spread / max(own, 1e-6)), 1, 255)
