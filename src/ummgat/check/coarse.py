"""Fewer voxels: what outlines, shifts and pieces are judged by needs none finer than 2 mm."""

from typing import Any

from numpy.typing import NDArray

from ummgat.core.volume import Grid

_COARSE_MM = 2.0


def coarse(volume: NDArray[Any], grid: Grid) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Take every so many voxels that they are about 2 mm apart.

    Parameters
    ----------
    volume : ndarray (plane, row, column)
    grid : Grid
        Of `volume`, NIfTI order.

    Returns
    -------
    ndarray (plane, row, column)
        A view.
    (float, float, float)
        How far apart its planes, rows and columns are, mm.
    """
    z, y, x = (max(1, int(_COARSE_MM / s)) for s in reversed(grid.spacing_mm))
    sx, sy, sz = grid.spacing_mm
    return volume[::z, ::y, ::x], (sz * z, sy * y, sx * x)
