"""Lesion-wise Dice and HD95: every lesion counts alike, found, missed or invented. Source: Saluja et al., BraTS 2023
metrics.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.metrics import dice, hd95

MERGE_MM = 3.0
"""Pieces of the truth within twice this distance of each other are one lesion."""

LEAST_ML = 0.05
"""True lesions smaller than this are not asked for; what covers one is not held against the segmenter either."""

PENALTY_MM = 374.0
"""Distance of a lesion that was missed or invented: the diagonal of a BraTS volume."""

_FACES_AND_EDGES = ndimage.generate_binary_structure(3, 2)
_ALL = ndimage.generate_binary_structure(3, 3)


class LesionScores(NamedTuple):
    """Means over lesions: true ones above `LEAST_ML`, and false ones."""

    dice: float
    """1 where there is neither."""
    hd95_mm: float
    """0 where there is neither."""
    n_true: int
    n_missed: int
    n_false: int


def lesion_wise(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> LesionScores:
    """Score each true lesion with the pieces that touch its surroundings, and each piece that touches none as an
    invention.

    Parameters
    ----------
    found, truth : ndarray (plane, row, column), bool
    spacing_mm : (float, float, float)
        Along plane, row and column.

    Notes
    -----
    On 1 mm voxels as published: the truth is dilated three times (18 neighbours) to say which pieces are one lesion and
    which answers are meant for it, components have 26 neighbours, and lesions of less than 50 voxels are left out.
    Coarser voxels are dilated by as many steps as come nearest to 3 mm, at least one.
    """
    rounds = max(1, round(MERGE_MM / float(np.mean(spacing_mm))))
    least = LEAST_ML * 1000 / float(np.prod(spacing_mm))
    near = ndimage.binary_dilation(truth, _FACES_AND_EDGES, rounds) if truth.any() else truth
    lesions, n_lesions = ndimage.label(near, _ALL)
    pieces, n_pieces = ndimage.label(found, _ALL)
    scores, claimed, missed, counted = [], set(), 0, 0
    for lesion in range(1, n_lesions + 1):
        around = lesions == lesion
        own = around & truth
        touching = [int(i) for i in np.unique(pieces[around]) if i]
        claimed.update(touching)
        if own.sum() <= least:
            continue
        counted += 1
        answer = np.isin(pieces, touching) if touching else np.zeros_like(found)
        missed += not touching
        distance = hd95(answer, own, spacing_mm)
        scores.append((dice(answer, own), PENALTY_MM if np.isnan(distance) else distance))
    n_false = n_pieces - len(claimed)
    scores += [(0.0, PENALTY_MM)] * n_false
    if not scores:
        return LesionScores(1.0, 0.0, 0, 0, 0)
    means = np.mean(scores, axis=0)
    return LesionScores(float(means[0]), float(means[1]), counted, missed, n_false)
