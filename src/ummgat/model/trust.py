"""How far to trust each voxel of a generated image: the share of voxels like it whose error is below a stated level.

A logistic regression per target, on what can be seen without the truth, see `ummgat.model.signs`. It is fitted and
calibrated on complete patients that no network trained on, see `ummgat.train.calibrate`; a model without such patients
says nothing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 20.0
"""Grey levels of absolute error below which a voxel counts as right: nearly one standard deviation of ordinary
tissue."""

Maps = NDArray[np.float32]


class Trust(NamedTuple):
    """What was learnt of a model's errors."""

    weights: NDArray[np.float32]
    """(n_domains, columns), for `ummgat.model.signs.columns` of each target; 0 throughout where nothing is known."""
    shown: NDArray[np.float32]
    """(n_domains, STEPS): the share found right, out of fold, where the regression said 0 … 1 in equal steps;
    rising."""

    def knows(self, target: int) -> bool:
        """Whether anything was learnt of a target."""
        return bool(self.weights[target].any())

    def share(self, target: int, values: Maps) -> Maps:
        """Expected share of right voxels, 0 to 1: `values` (columns, …) → (…)."""
        said = probability(np.tensordot(self.weights[target], values, 1))
        return np.interp(said, np.linspace(0, 1, self.shown.shape[1]), self.shown[target]).astype(np.float32)


STEPS = 21


def probability(score: Maps) -> Maps:
    """Of a logistic score."""
    return np.asarray(1 / (1 + np.exp(-np.clip(score, -30, 30))), np.float32)
