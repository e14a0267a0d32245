"""The template to which subjects are brought, and the grid that every prepared image of a raw cohort shares."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ummgat.core.volume import Array, Grid, read_volume

_SHAPE = (240, 240, 155)
"""BraTS's field of view at 1 mm."""


def mni152() -> tuple[Array, Grid]:
    """MNI152 T1 of nilearn's wheel, skull-stripped (ICBM 2009a symmetric, Fonov et al. 2011); nothing is downloaded.

    Returns
    -------
    data : ndarray, uint8, (x, y, z)
    grid : Grid
        1 mm, world = MNI mm.

    Raises
    ------
    FileNotFoundError
        nilearn lacks the file.
    """
    found = find_spec("nilearn")
    folder = Path(found.origin or "").parent if found is not None else Path("nilearn")
    path = folder / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise FileNotFoundError(
            f"Template is missing: {path}. Found no file; expected the MNI152 map of nilearn 0.12 or later. "
            "Install such a version, or give a template of your own."
        )
    return read_volume(path)


def load_template(path: Path | None) -> tuple[Array, Grid, Grid]:
    """Read a template and choose the common grid.

    Parameters
    ----------
    path : Path or None
        None: MNI152.

    Returns
    -------
    data : ndarray, (x, y, z)
    grid : Grid
        Of `data`.
    common : Grid
        RAS+, 1 mm. With MNI152 240 × 240 × 155 voxels around the middle of the template's brain, as in BraTS; with a template of
        the user's its own field of view.
    """
    data, grid = mni152() if path is None else read_volume(Path(path))
    return data, grid, grid.canonical(1.0) if path is not None else _around(data, grid)


def _around(data: Array, grid: Grid) -> Grid:
    """The BraTS-sized grid whose middle is the middle of the box around the template's brain, in whole mm."""
    places = np.argwhere(data > 0)
    middle = grid.matrix[:3, :3] @ ((places.min(0) + places.max(0)) / 2) + grid.matrix[:3, 3]
    affine = np.eye(4)
    affine[:3, 3] = np.round(middle - (np.array(_SHAPE) - 1) / 2)
    return Grid.of(_SHAPE, affine)
