"""From raw intensities to uint8: brain 1–255, background exactly 0."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.volume import Array

_BOX_SHARE = 0.85
"""Brains fill 41–47 % of their bounding box, a slab of one at most π/4; noise around a head fills 93–100 % (BraTS,
LGG)."""


LEVEL = 100.0
"""Grey level that the mean of ordinary tissue becomes."""

SPREAD = 22.0
"""Grey levels that its standard deviation becomes: fluid of a T1 lies 4 below the mean, that of a T2 and the brightest
tumours of T1ce and FLAIR lie 5 to 8 above."""

_TISSUE = (2.0, 90.0)
"""Percentiles of the brain between which tissue is ordinary."""


@dataclass(frozen=True)
class Scaled:
    """A scaled volume and how to undo it, as far as clipping allows."""

    data: NDArray[np.uint8]
    low: float
    """Raw intensity that became 1."""
    high: float
    """Raw intensity that became 255."""
    clipped_fraction: float
    """Share of brain voxels outside [low, high]."""


def brain_mask(data: Array, where: str) -> NDArray[np.bool_]:
    """Mask of a skull-stripped volume: voxels other than 0, holes filled in each axial plane.

    Parameters
    ----------
    data : ndarray of shape (x, y, z), axes along RAS+
        Negative values inside the brain are fine (z-scored exports); the background must be exactly 0.
    where : str
        The file, for messages.

    Returns
    -------
    bool ndarray of the same shape, a copy

    Raises
    ------
    ValueError
        All zeros, a constant, or a background that is not 0. A head on a background of exactly 0 cannot be told from a
        brain and passes.
    """
    mask = np.asarray(data != 0)
    inside = data[mask]
    if inside.size == 0:
        raise ValueError(
            f"Image is empty: {where}. Found zeros only; expected a brain. Remove the file to treat the sequence as "
            f"missing."
        )
    if inside.min() == inside.max():
        raise ValueError(
            f"Image is constant: {where}. Found {inside.min()} in every voxel that is not 0; expected a brain image. "
            "Remove the file to treat the sequence as missing."
        )
    box = _bounding_box(mask)
    filled = _fill_holes(mask, box)
    share = float(filled[box].mean())
    if share > _BOX_SHARE:
        raise ValueError(
            f"Image is not skull-stripped: {where}. Found voxels other than 0 in {share:.0%} of the box that holds "
            f"them; expected a brain, which fills less than {_BOX_SHARE:.0%}, on a background of exactly 0. Strip the "
            f"skull first, for example with HD-BET or SynthStrip."
        )
    return filled


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Smallest box that holds every True voxel of a mask that has some."""
    box = []
    for axis in range(3):
        found = np.flatnonzero(np.any(mask, axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def _fill_holes(mask: NDArray[np.bool_], box: tuple[slice, ...]) -> NDArray[np.bool_]:
    """Fill what the background cannot reach within its axial plane; `binary_fill_holes` plane by plane, but faster."""
    padded = np.pad(mask[box], ((1, 1), (1, 1), (0, 0)))
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[:, 1, 1] = in_plane[1, :, 1] = True
    parts, n = ndimage.label(~padded, in_plane)
    outside = np.zeros(n + 1, bool)
    outside[np.unique(parts[0])] = True  # the padding joins all background at the border of a plane
    filled = mask.copy()
    filled[box] = ~outside[parts][1:-1, 1:-1]
    return filled


def scale_to_uint8(data: Array, brain: NDArray[np.bool_], where: str) -> Scaled:
    """Map the level and spread of ordinary tissue to `LEVEL` and `SPREAD` linearly, clip, round; the background becomes
    0.

    Source: the paper scales each series to 0–255 and does not say how; see docs/decisions/0014. Ordinary tissue is what
    lies between two percentiles of the brain that leave out the fluid at one end and tumour, vessels and fluid at the
    other: whatever these do, white and grey matter keep their grey levels from patient to patient.

    Parameters
    ----------
    data : ndarray of shape (x, y, z)
    brain : bool ndarray of the same shape
    where : str
        The file, for messages.

    Raises
    ------
    ValueError
        If ordinary tissue has one intensity only.
    """
    values = data[brain]
    if values.size == 0:
        raise ValueError(
            f"No brain is left: {where}. Found 0 voxels after resampling; expected a brain. Check the voxel size."
        )
    first, last = (float(v) for v in np.percentile(values, _TISSUE))
    tissue = values[(values >= first) & (values <= last)].astype(np.float64)
    level, spread = float(tissue.mean()), float(tissue.std())
    if not spread > 1e-6 * max(abs(level), 1e-30):
        raise ValueError(
            f"Image has no contrast: {where}. Found {first} at the {_TISSUE[0]:g}th and {last} at the {_TISSUE[1]:g}th "
            "percentile of the brain; expected a range. Check the export, or remove the file."
        )
    low, high = (level + (grey - LEVEL) / SPREAD * spread for grey in (1.0, 255.0))
    scaled = np.zeros(data.shape, np.uint8)
    scaled[brain] = np.rint(np.clip(1 + (values - low) * (254 / (high - low)), 1, 255)).astype(np.uint8)
    clipped = float(np.mean((values < low) | (values > high)))
    return Scaled(scaled, low, high, clipped)
