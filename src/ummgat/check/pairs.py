"""What two sequences of one study tell about each other: copies, and whether they lie on one another."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from ummgat.check.coarse import coarse
from ummgat.core.volume import Grid

_BINS = 32
_FAR_MM = 8.0
_FEW = 500


def compare(a: NDArray[np.uint8], b: NDArray[np.uint8], grid: Grid) -> dict[str, float]:
    """Numbers of a pair of prepared sequences on one grid.

    Parameters
    ----------
    a, b : uint8 ndarray (plane, row, column)
        Background 0.
    grid : Grid
        Of both, NIfTI order.

    Returns
    -------
    dict
        `dice` of the two brains; `correlation` of ranks where both show brain, so that no rescaling hides a copy;
        `information`, mutual information there in nats, of 32 equally filled bins; `peak`, the
        information over its mean at shifts of 8 mm along each axis: noise and blur lower both, a wrong place only the
        first. All but `dice` are 0 where less than 500 voxels overlap.
    """
    (a, spacing), (b, _) = coarse(a, grid), coarse(b, grid)
    both = (a > 0) & (b > 0)
    found = {"dice": 2 * float(both.sum()) / max(float((a > 0).sum() + (b > 0).sum()), 1.0)}
    if both.sum() < _FEW:
        return found | {"correlation": 0.0, "information": 0.0, "peak": 0.0}
    ranked_a, ranked_b = ranked(a), ranked(b)
    correlation = float(np.corrcoef(ranked_a[both], ranked_b[both])[0, 1])
    bins_a, bins_b = _binned(ranked_a), _binned(ranked_b)
    here = _information(bins_a, bins_b)
    far = [
        _information(bins_a, np.roll(bins_b, sign * max(1, round(_FAR_MM / spacing[axis])), axis))
        for axis, sign in product(range(3), (-1, 1))
    ]
    return found | {
        "correlation": correlation,
        "information": here,
        "peak": here / max(float(np.mean(far)), 1e-9),
    }


def ranked(volume: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Intensity → its mean rank among the brain's, above 0 and below 1; 0 outside. Of uint8 of any shape, background
    0.
    """
    counts = np.bincount(volume.ravel(), minlength=256).astype(float)
    counts[0] = 0
    table = (np.cumsum(counts) - counts / 2) / counts.sum()
    table[0] = 0
    return np.asarray(table[volume])


def _binned(ranked: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bins 1 to 32 in the brain, 0 outside."""
    return np.where(ranked > 0, 1 + np.minimum((ranked * _BINS).astype(np.int64), _BINS - 1), 0)


def _information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Mutual information where both are brain, nats."""
    table = np.bincount((a * (_BINS + 1) + b).ravel(), minlength=(_BINS + 1) ** 2).reshape(_BINS + 1, -1)[1:, 1:]
    total = table.sum()
    if total < _FEW:
        return 0.0
    joint = table / total
    alone = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / alone[filled])).sum())
