"""Where the brain is: seen that it is stripped already, given as a mask, or found by deepbet on a T1."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.volume import Array, Grid

_BACKGROUND = 0.98
"""Share of the outermost voxels that a stripped image holds at one value."""
_FILLED = (0.03, 0.65)
"""Share of the field of view that a brain may fill."""
_RIM = 1.6
"""Scalp fat over inside; stripped brains have nothing that bright all around."""
_BRAIN_ML = (600.0, 2200.0)
"""Adults' brains with fluid, and room for what deepbet errs."""


@dataclass(frozen=True)
class Stripped:
    """Whether an image is stripped, and why that is said."""

    stripped: bool
    reason: str


def is_stripped(data: Array, grid: Grid) -> Stripped:
    """Tell a stripped brain from a head, by the image alone.

    A stripped image is exactly constant around the brain, the brain fills a part of the field of view as brains do, and
    its outermost layer is not a bright rim of fat. In doubt it is a head, since then somebody looks.

    Parameters
    ----------
    data : ndarray of shape grid.shape
    grid : Grid

    Returns
    -------
    Stripped
    """
    border = np.concatenate([face.ravel() for axis in range(3) for face in (data.take(0, axis), data.take(-1, axis))])
    values, counts = np.unique(border, return_counts=True)
    value, share = values[counts.argmax()], float(counts.max()) / border.size
    if share < _BACKGROUND:
        return Stripped(False, f"{1 - share:.0%} of the border differs from the background")
    inside = np.asarray(data != value)
    if not inside.any():
        return Stripped(False, "the image is constant")
    filled = np.stack([ndimage.binary_fill_holes(inside[..., k]) for k in range(inside.shape[2])], -1)
    part = float(filled.mean())
    if not _FILLED[0] <= part <= _FILLED[1]:
        return Stripped(False, f"{part:.0%} of the field of view is not background")
    ml = float(filled.sum()) * grid.voxel_ml
    if ml > _BRAIN_ML[1]:
        return Stripped(False, f"{ml:.0f} ml are not background, more than a brain")
    steps = [max(1, int(2 / s)) for s in grid.spacing_mm]
    every = tuple(slice(None, None, step) for step in steps)  # voxels of 2 mm are enough to tell a rim
    apart = [step * s for step, s in zip(steps, grid.spacing_mm, strict=True)]
    depth = ndimage.distance_transform_edt(np.pad(filled[every], 1), sampling=apart)[1:-1, 1:-1, 1:-1]
    values = data[every]
    rim, core = values[(depth > 0) & (depth <= 6.0)], values[depth > 12.0]
    if core.size and float(np.percentile(rim, 90)) > _RIM * float(np.percentile(core, 90)) > 0:
        return Stripped(False, "the outermost 6 mm are much brighter than the inside, as scalp is")
    return Stripped(True, f"exactly {value:g} around {ml:.0f} ml, no bright rim")


def check_mask(mask: Array, grid: Grid, where: str) -> NDArray[np.bool_]:
    """Return a mask as bool; ValueError if it is empty or on another grid."""
    inside = np.asarray(mask) != 0
    if inside.shape != grid.shape or not inside.any():
        raise ValueError(
            f"Brain mask does not fit: {where}. Found {int(inside.sum())} voxels of shape {inside.shape}; expected "
            f"some, on the image's grid of {grid.shape}. Give the mask of this image."
        )
    return inside


def odd_volume(mask: Array, grid: Grid) -> str | None:
    """A remark if a mask is smaller or larger than brains are."""
    ml = float(np.asarray(mask, bool).sum()) * grid.voxel_ml
    low, high = _BRAIN_ML
    return None if low <= ml <= high else f"The brain mask holds {ml:.0f} ml, not {low:.0f} to {high:.0f}: look at it."


def deepbet_mask(data: Array, grid: Grid, where: str) -> NDArray[np.bool_]:
    """Find the brain in a T1 or T1ce by the networks of deepbet, on the CPU.

    Source: Fisch et al. 2024, trained on T1 only. It stretches the image to 256³ and needs no registration.

    Parameters
    ----------
    data : ndarray of shape grid.shape
        In RAS+ order.
    grid : Grid
    where : str
        The file, for messages.

    Returns
    -------
    bool ndarray of the same shape

    Raises
    ------
    ValueError
        It found no brain.
    FileNotFoundError
        This package came without the networks' weights.
    """
    from ummgat.prepare.deepbet import brain_of  # torch is needed for this step only

    try:
        return check_mask(brain_of(data), grid, where)
    except ValueError as error:
        raise ValueError(
            f"No brain found: {where}. Found {error}; expected a T1 of a whole head. Look at the image, or give a "
            f"brain mask."
        ) from error
