"""What the learnt checks look at: axial planes of one size, whatever the voxels of the study were."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ummgat.core.crop import crop
from ummgat.core.volume import Grid, resample, resample_inside
from ummgat.model.masked import BACKGROUND

SPACING_MM = 3.0
"""Fine enough for ventricles, cortex and vessels; what is finer differs by scanner more than by sequence."""
SIDE = 72
"""Pixels of a plane: 216 mm, longer than any brain."""
_HEIGHTS = (0.2, 0.9)
"""Part of the brain from bottom to top that is looked at: below lie eyes' remains and neck, above is cortex only."""
_EVERY = 2


def standard_slices(volume: NDArray[np.uint8], grid: Grid) -> Tensor:
    """Axial planes of a prepared volume at `SPACING_MM`, the brain in the middle.

    Parameters
    ----------
    volume : uint8 ndarray (plane, row, column)
        Brain 1–255, background 0.
    grid : Grid
        RAS+, isotropic, of `volume` in NIfTI order.

    Returns
    -------
    float32 Tensor (n, 1, SIDE, SIDE)
        In [-1, 1], background exactly -1; n ≥ 1.

    Raises
    ------
    ValueError
        There is no brain.
    """
    inside = volume.T > 0
    if not inside.any():
        raise ValueError("Image is empty. Found no brain; expected some. Leave the image out.")
    target = grid.canonical(SPACING_MM)
    values = resample_inside(volume.T, inside, grid, target)
    brain = resample(inside.astype(np.float32), grid, target) >= 0.5
    if not brain.any():
        raise ValueError(
            f"Image is too small. Found {int(inside.sum())} voxels of brain; expected a head. Leave it out."
        )
    places = [np.flatnonzero(brain.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    low, high = int(places[2][0]), int(places[2][-1])
    first, last = (round(low + part * (high - low)) for part in _HEIGHTS)
    heights = np.arange(first, last, _EVERY)
    heights = heights if heights.size else np.array([(low + high) // 2])
    # The network was taught on images scaled by these percentiles, and a cohort may be scaled in another way.
    darkest, brightest = np.percentile(values[brain], (0.5, 99.5))
    scaled = np.clip((values - darkest) / max(brightest - darkest, 1.0), 0, 1) * 1.99 - 0.99
    # Not `crop_window`: it rounds the other way, and the bundled network was taught on these windows.
    row, column = (round((int(places[a][0]) + int(places[a][-1]) + 1) / 2 - SIDE / 2) for a in (1, 0))
    shown, planes = (crop(v.transpose(2, 1, 0)[heights], (row, column), SIDE, SIDE) for v in (brain, scaled))
    return torch.from_numpy(np.where(shown, planes, BACKGROUND).astype(np.float32)[:, None])
