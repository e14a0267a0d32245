"""How intensities of one domain relate to those of another, learnt from different subjects: which contrasts invert.

Brains of two subjects, stretched to one frame, roughly overlap. What is dark in the T1 of one is, on average, bright in
the T2 of others at the same place. That average as a function of the source's intensity, and of how close the brain's
rim is, is a surface per pair of domains, and it needs no subject that has both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from ummgat.core.metrics import flicker
from ummgat.train.slices import TrainingVolume

BINS = 32
"""Bins of source intensity that a curve is learnt in."""

KNOTS = 33
"""Evenly spaced source intensities, 0 to 255, at which a curve is given."""

FRAME = (48, 60, 48)
"""Points of the common frame (plane, row, column) that every brain's bounding box is stretched to."""

RIMS = 8
"""Evenly spaced shares of brain around a voxel, 0 to 1, at which a curve is given. Fluid at the rim and fluid in the
ventricles, grey matter of the cortex and of the nuclei: intensity alone mixes what this keeps apart."""

RIM_MM = 30.0
"""Side of the square, in plane, in which the share of brain is taken."""

SHELL_MM = 6.0
"""How far around a lesion healthy brain weighs more in the relation loss."""

FEW_PAIRS = 2000
"""Pairs of voxels by which the curve of all rims weighs in that of one."""

LEAST_OVERLAP = 1 / 3
"""Slopes below this are noise: a curve is never steepened more than threefold."""

MOST_BRAINS = 60
"""Volumes per domain that are looked at, evenly spaced over the cohort: more would not change a curve."""

LEAST_COUNT = 200
"""Pairs of voxels below which a bin of a curve is filled from its neighbours."""


class _Brain(NamedTuple):
    """One volume in the common frame, flattened."""

    subject: str
    values: NDArray[np.uint8]
    healthy: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    """Of the annotation inside the brain; 0 where there is none."""
    rims: NDArray[np.float32]
    """Share of brain around each voxel, see `RIM_MM`."""
    flicker: float


class _Sums(NamedTuple):
    """Over brains, at each point of the frame, healthy voxels only."""

    n: NDArray[np.float32]
    values: NDArray[np.float32]
    squares: NDArray[np.float32]

    def without(self, brain: _Brain) -> "_Sums":
        """Take one brain out."""
        values = np.where(brain.healthy, brain.values, 0).astype(np.float32)
        return _Sums(self.n - brain.healthy, self.values - values, self.squares - values**2)


class Relations(NamedTuple):
    """What the training cohort knows about its domains, without any pair."""

    curves: NDArray[np.float32]
    """(n_domains, n_domains, RIMS, KNOTS): [source, target, rim, knot], expected target intensity in healthy brain,
    1…255. As `ummgat.model.tone.along_surface` takes them once scaled to [-1, 1]. The diagonal is the identity. NaN
    where no two subjects show the two domains."""
    spreads: NDArray[np.float32]
    """(n_domains, n_domains, KNOTS): standard deviation of target intensities that go with a source intensity. Where it
    is large, the source's intensity leaves open what the target shows. NaN as in `curves`; 0 on the diagonal."""
    lesions: NDArray[np.float32]
    """(n_domains, n_labels): mean intensity inside each label (1, 2, …) of the annotation, 1…255; NaN where it is not
    annotated."""
    lesion_spreads: NDArray[np.float32]
    """(n_domains, n_labels): standard deviation of intensity inside each label of one subject, mean over subjects."""
    flickers: NDArray[np.float32]
    """(n_domains,): median difference of neighbouring planes, grey levels, see `ummgat.core.metrics.flicker`."""


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
    brains = [_brains([volume for volume in volumes if volume.domain == domain]) for domain in range(n_domains)]
    centers = (np.arange(BINS) + 0.5) * 256 / BINS
    curves = np.full((n_domains, n_domains, RIMS, BINS), np.nan)
    spreads, counts = np.full((n_domains, n_domains, BINS), np.nan), np.zeros_like(curves)
    flat = spreads.copy()
    for target in range(n_domains):
        sums = _sums(brains[target])
        for source in range(n_domains):
            pair = source, target
            flat[pair], spreads[pair], curves[pair], counts[pair] = _curve(brains[source], brains[target], sums)
    overlap = np.array([_slope(centers, flat[i, i], counts[i, i].sum(0)) for i in range(n_domains)])
    for target in range(n_domains):
        most = _spread(brains[target])
        for source in range(n_domains):
            gain = 1 / max(overlap[source], LEAST_OVERLAP)
            curves[source, target] = _steepened(curves[source, target], counts[source, target], gain, most)
    knots = np.linspace(0, 255, KNOTS)
    curves, spreads = (
        np.apply_along_axis(lambda curve: np.interp(knots, centers, curve), -1, values) for values in (curves, spreads)
    )
    curves[range(n_domains), range(n_domains)] = np.clip(knots, 1, 255)
    spreads[range(n_domains), range(n_domains)] = 0
    n_labels = max(1, *(int(brain.labels.max()) for own in brains for brain in own))
    inside = [[_lesion(own, label + 1) for label in range(n_labels)] for own in brains]
    lesions, lesion_spreads = np.moveaxis(np.array(inside), -1, 0)
    flickers = np.array([np.median([brain.flicker for brain in own]) for own in brains])
    return Relations(*(values.astype(np.float32) for values in (curves, spreads, lesions, lesion_spreads, flickers)))


def rim_window(spacing_mm: float) -> int:
    """`RIM_MM` as an odd number of voxels."""
    return 2 * round((RIM_MM / spacing_mm - 1) / 2) + 1


def _brains(own: Sequence[TrainingVolume]) -> list[_Brain]:
    """Those of one domain, or `MOST_BRAINS` of them."""
    chosen = np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST_BRAINS)).round().astype(int))
    return [_in_frame(own[i]) for i in chosen]


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
    inside, own = brain[grid].ravel(), np.zeros(int(np.prod(FRAME)), np.uint8)
    if labels is not None:
        own = np.where(inside, np.asarray(labels)[grid].ravel(), 0).astype(np.uint8)
    window = rim_window(min(volume.study.grid.spacing_mm))
    rims = uniform_filter(brain.astype(np.float32), (1, window, window), mode="constant")[grid].ravel()
    subject, plain = volume.study.subject, values[grid].ravel()
    return _Brain(subject, plain, inside & (own == 0), own, rims, flicker(values, brain))


def _sums(brains: Sequence[_Brain]) -> _Sums:
    """Of all brains of a domain."""
    n, values, squares = (np.zeros(np.prod(FRAME), np.float32) for _ in range(3))
    for brain in brains:
        healthy = np.where(brain.healthy, brain.values, 0).astype(np.float32)
        n += brain.healthy
        values += healthy
        squares += healthy**2
    return _Sums(n, values, squares)


def _curve(sources: Sequence[_Brain], targets: Sequence[_Brain], sums: _Sums) -> tuple[NDArray[np.float64], ...]:
    """Target intensity in other subjects by bin of source intensity: mean, standard deviation; mean by rim too, and
    pairs.
    """
    shape = RIMS, BINS
    values, squares, counts = (np.zeros(shape) for _ in range(3))
    for source in sources:
        others = sums
        for own in targets:
            if own.subject == source.subject:  # what this very subject shows in the target would be a paired image
                others = others.without(own)
        both = source.healthy & (others.n > 0)
        rims = np.rint(source.rims[both] * (RIMS - 1)).astype(np.int64)
        bins = rims * BINS + source.values[both] // (256 // BINS)
        for total, seen in ((counts, others.n), (values, others.values), (squares, others.squares)):
            total += np.bincount(bins, seen[both], RIMS * BINS).reshape(shape)
    n = counts.sum(0)
    known = np.flatnonzero(n >= LEAST_COUNT)
    if not len(known):
        unknown = np.full(BINS, np.nan)
        return unknown, unknown, np.full(shape, np.nan), counts
    mean = values.sum(0)[known] / n[known]
    deviation = np.sqrt(np.maximum(squares.sum(0)[known] / n[known] - mean**2, 0))
    every = np.arange(BINS)
    flat = np.interp(every, known, mean)
    # Neighbouring bins speak for each other, and where a rim has few pairs all rims speak for it.
    near, pairs = gaussian_filter(values, 0.8, mode="nearest"), gaussian_filter(counts, 0.8, mode="nearest")
    by_rim = (near + FEW_PAIRS * flat) / (pairs + FEW_PAIRS)
    return flat, np.interp(every, known, deviation), by_rim, counts


def _slope(x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Slope of the weighted line through (x, y); 1 where nothing is known."""
    if np.isnan(y).any():
        return 1.0
    x_mean, y_mean = np.average(x, weights=weight), np.average(y, weights=weight)
    return float(
        np.average((x - x_mean) * (y - y_mean), weights=weight) / np.average((x - x_mean) ** 2, weights=weight)
    )


def _lesion(brains: Sequence[_Brain], label: int) -> tuple[float, float]:
    """Mean and standard deviation inside their `label`; means over subjects, so that a large one does not speak for
    all.
    """
    inside = [brain.values[brain.labels == label] for brain in brains]
    each = [(values.mean(), values.std()) for values in inside if values.size]
    mean, spread = np.mean(each, axis=0) if each else (np.nan, np.nan)
    return float(mean), float(spread)


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
