"""The template to which subjects are brought, and the grid that every prepared image of a raw cohort shares."""

from pathlib import Path

import numpy as np

from ummgat.core.machine import template_file
from ummgat.core.volume import Array, Grid, read_volume

_SHAPE = (240, 240, 155)
"""BraTS's field of view at 1 mm."""


def load_template(path: Path | None) -> tuple[Array, Grid, Grid]:
    """Read a template and choose the common grid.

    Parameters
    ----------
    path : Path or None
        None: MNI152, which comes with the package; nothing is downloaded.

    Returns
    -------
    data : ndarray, (x, y, z)
    grid : Grid
        Of `data`.
    common : Grid
        RAS+, 1 mm. With MNI152 240 × 240 × 155 voxels around the middle of the template's brain, as in BraTS; with a
        template of the user's its own field of view.
    """
    data, grid = read_volume(template_file("t1") if path is None else Path(path))
    return data, grid, grid.canonical(1.0) if path is not None else _around(data, grid)


def _around(data: Array, grid: Grid) -> Grid:
    """The BraTS-sized grid whose middle is the middle of the box around the template's brain, in whole mm."""
    places = np.argwhere(data > 0)
    middle = grid.matrix[:3, :3] @ ((places.min(0) + places.max(0)) / 2) + grid.matrix[:3, 3]
    affine = np.eye(4)
    affine[:3, 3] = np.round(middle - (np.array(_SHAPE) - 1) / 2)
    return Grid.of(_SHAPE, affine)
