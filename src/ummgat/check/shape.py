"""What the outline of a brain tells about its strip and its field of view; no learning."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.check.coarse import coarse
from ummgat.core.volume import FACES, Grid

_DEEP_MM = 12.0
_RIM_MM = 4.0


def outline(brain: NDArray[np.bool_], grid: Grid) -> dict[str, float]:
    """Numbers of one brain mask.

    Parameters
    ----------
    brain : bool ndarray of shape grid.shape, (x, y, z), RAS+
        Not empty.
    grid : Grid

    Returns
    -------
    dict
        `brain_ml`; `pieces`, the share of the brain outside its largest piece; `holes`, the share of its filled volume
        that is empty inside; `mirror`, Dice of the brain with its mirror image, left for right about its middle;
        `cut_<face>`, area of its outermost planes at that end over its largest cross-section: a whole brain tapers, a
        truncated one does not.
    """
    turned, apart = coarse(brain.T, grid)
    brain, steps = turned.T, apart[::-1]
    parts, n = ndimage.label(brain)
    total = float(brain.sum())
    sizes = np.bincount(parts.ravel())[1:]
    filled = ndimage.binary_fill_holes(brain)
    found = {
        "brain_ml": total * float(np.prod(steps)) / 1000,
        "pieces": 1 - float(sizes.max()) / total if n else 0.0,
        "holes": 1 - total / float(filled.sum()),
        "mirror": _mirror(brain),
    }
    for axis in range(3):
        areas = brain.sum(tuple(a for a in range(3) if a != axis)).astype(float)
        held = np.flatnonzero(areas)
        planes = max(1, round(_RIM_MM / steps[axis]))
        for face, end in zip(FACES[axis], (held[:planes], held[-planes:]), strict=True):
            found[f"cut_{face}"] = float(areas[end].mean() / areas.max())
    return found


def rim(volume: NDArray[np.uint8], grid: Grid) -> float:
    """90th percentile of the outermost 4 mm of a stripped image over that of what lies deeper than 12 mm; scalp is
    bright.

    Parameters
    ----------
    volume : uint8 ndarray (plane, row, column)
        Background 0.
    grid : Grid
        Of `volume`, NIfTI order.

    Returns
    -------
    float
        0 if the brain is too small to have a depth of 12 mm.
    """
    turned, apart = coarse(volume, grid)
    data, steps = turned.T, apart[::-1]
    inside = np.stack([ndimage.binary_fill_holes(data[..., k] > 0) for k in range(data.shape[2])], -1)
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=steps)[1:-1, 1:-1, 1:-1]
    outer, deep = data[(depth > 0) & (depth <= _RIM_MM)], data[depth > _DEEP_MM]
    return float(np.percentile(outer, 90) / max(np.percentile(deep, 90), 1)) if deep.size else 0.0


def _mirror(brain: NDArray[np.bool_]) -> float:
    """Dice with the mirror image about the plane that fits best, within 8 voxels of the box's middle."""
    places = np.flatnonzero(brain.any((1, 2)))
    cut = brain[places[0] : places[-1] + 1]
    best = 0.0
    for shift in range(-8, 9):
        padded = np.pad(cut, ((max(shift, 0), max(-shift, 0)), (0, 0), (0, 0)))
        best = max(best, float((padded & padded[::-1]).sum()) / float(padded.sum()))
    return best
