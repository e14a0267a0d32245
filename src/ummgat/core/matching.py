"""Histogram matching: the substitute that any translation must beat.

Quantiles of a brain are mapped to those of a domain's training brains; no network, no torch.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def intensity_histogram(volumes: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Share of brain voxels at each intensity: (256,), sums to 1, bin 0 (background) is 0."""
    counts = np.zeros(256)
    for volume in volumes:
        counts += np.bincount(np.asarray(volume).ravel(), minlength=256)
    counts[0] = 0
    return counts / max(counts.sum(), 1)


def match_histogram(volume: NDArray[np.uint8], histogram: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Map the brain's quantiles to those of `histogram`.

    Parameters
    ----------
    volume : ndarray, uint8
        Brain 1–255, background 0.
    histogram : ndarray (256,)
        Of the target domain.

    Returns
    -------
    ndarray like `volume`
        Background stays 0. Monotone: it cannot invert a contrast.
    """
    own = intensity_histogram([volume])
    # The middle of each bin's quantile range, so that a volume of the target distribution maps onto itself.
    own_middle = np.cumsum(own) - own / 2
    table = np.interp(own_middle, np.cumsum(histogram) - histogram / 2, np.arange(256))
    lookup = np.clip(np.rint(table), 1, 255).astype(np.uint8)
    lookup[0] = 0
    return lookup[volume]
