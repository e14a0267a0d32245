"""What lies deep in a brain: fluid, oedema and enhancing tissue, by what the sequences show at one place together."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.check.coarse import coarse
from ummgat.check.pairs import ranked
from ummgat.core.volume import Grid

_DEEP_MM = 8.0
"""Nearer to the surface lie fluid of the sulci, and vessels."""
_PIECE_ML = {"oedema": 0.5, "enhancing": 0.2}


def content(volumes: Mapping[str, NDArray[np.uint8]], grid: Grid) -> dict[str, float]:
    """Count what a brain contains, as far as its sequences can tell.

    Parameters
    ----------
    volumes : mapping of sequence → uint8 ndarray (plane, row, column)
        At least one. Background 0, on one grid.
    grid : Grid
        Isotropic, NIfTI order.

    Returns
    -------
    dict
        `fluid_ml` and `fluid_largest_ml` (dark in t1 and flair, bright in t2: ventricles, cavities, necrosis),
        `oedema_pieces` (bright in flair and t2, of at least 0.5 ml), `enhancing_pieces` (far brighter in t1ce than in
        t1, of at least 0.2 ml). Numbers whose sequences are missing are left out. Bright and dark go by rank within the
        brain, so that scaling does not matter.
    """
    thinned = {name: coarse(volume, grid) for name, volume in volumes.items()}
    mm = next(iter(thinned.values()))[1][0]
    seen = {name: ranked(volume) for name, (volume, _) in thinned.items()}
    brain = np.logical_and.reduce([rank > 0 for rank in seen.values()])
    deep = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=mm)[1:-1, 1:-1, 1:-1] > _DEEP_MM
    found: dict[str, float] = {}
    if {"t1", "t2", "flair"} <= set(seen):
        sizes = _pieces(deep & (seen["t1"] < 0.2) & (seen["t2"] > 0.8) & (seen["flair"] < 0.25), mm)
        found |= {"fluid_ml": float(sizes.sum()), "fluid_largest_ml": float(sizes.max(initial=0))}
    if {"t2", "flair"} <= set(seen):
        sizes = _pieces(deep & (seen["flair"] > 0.92) & (seen["t2"] > 0.75), mm)
        found["oedema_pieces"] = float((sizes >= _PIECE_ML["oedema"]).sum())
    if {"t1", "t1ce"} <= set(seen):
        sizes = _pieces(deep & (seen["t1ce"] - seen["t1"] > 0.35) & (seen["t1ce"] > 0.9), mm)
        found["enhancing_pieces"] = float((sizes >= _PIECE_ML["enhancing"]).sum())
    return found


def _pieces(where: NDArray[np.bool_], mm: float) -> NDArray[np.float64]:
    """Sizes in ml of connected pieces, threads of single voxels taken away."""
    parts, _ = ndimage.label(ndimage.binary_opening(where))
    return np.asarray(np.bincount(parts.ravel())[1:] * (mm**3 / 1000), np.float64)
