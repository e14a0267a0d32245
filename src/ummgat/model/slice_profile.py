"""How much neighbouring planes differ is a mark of a domain: thick slices are smooth from plane to plane.

The generator sees one plane at a time. A FLAIR of 5 mm slices made from a thin T1 would inherit the T1's changes from
plane to plane, and add some of its own.
"""

import numpy as np
from numpy.typing import NDArray

from ummgat.core.metrics import flicker

MOST = 1 / 3
"""Of each neighbour in a blend: the mean of three planes."""

ROUNDS = 6
"""Halvings of the search: a weight is found to 0.005."""


def settled(volume: NDArray[np.uint8], level: float) -> NDArray[np.uint8]:
    """Blend each plane with its neighbours, just enough that planes differ no more than the target domain's do.

    Parameters
    ----------
    volume : ndarray (plane, row, column), uint8
        Generated; brain 1–255, background 0.
    level : float
        Mean absolute difference of neighbouring planes to go down to, grey levels (`ummgat.core.metrics.flicker`); NaN
        or infinite changes nothing.

    Returns
    -------
    ndarray like `volume`
        The same brain. `volume` itself where it is smooth enough already; with the most blending allowed
        (a third of each neighbour) where that is not enough.
    """
    brain = volume > 0
    if not np.isfinite(level) or not (brain[1:] & brain[:-1]).any() or flicker(volume, brain) <= level:
        return volume
    low, high = 0.0, MOST
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        if flicker(_blended(volume, brain, middle), brain) > level:
            low = middle
        else:
            high = middle
    return np.where(brain, np.clip(np.rint(_blended(volume, brain, high)), 1, 255), 0).astype(np.uint8)


def _blended(volume: NDArray[np.uint8], brain: NDArray[np.bool_], weight: float) -> NDArray[np.float32]:
    """Weighted mean with the planes above and below, of brain only."""
    ends = ((1, 1), (0, 0), (0, 0))
    values, inside = np.pad(volume.astype(np.float32), ends), np.pad(brain.astype(np.float32), ends)

    def mix(t: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.float32(1 - 2 * weight) * t[1:-1] + np.float32(weight) * (t[2:] + t[:-2])

    blend = mix(values) / np.maximum(mix(inside), np.float32(1e-6))
    return np.where(brain, blend, np.float32(0))
