"""Rigid transforms as (4, 4) arrays of world millimetres, RAS+, and what they do to grids.

A transform M says where a point p of one world lies in another: M @ p. An image is brought over by moving its grid, so
that any chain of transforms is one product and voxels are interpolated once, by `ummgat.core.volume.resample`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ummgat.core.files import write_text
from ummgat.core.volume import Array, Grid

Matrix = NDArray[np.float64]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Between RAS+, as NIfTI counts, and LPS+, as ITK and DICOM do; its own inverse."""


def moved(grid: Grid, matrix: Matrix) -> Grid:
    """The same voxels, at `matrix` times where they were."""
    return Grid.of(grid.shape, matrix @ grid.matrix)


def rotation_deg(matrix: Matrix) -> float:
    """Angle of the rotation of a rigid transform, 0 to 180 degrees."""
    return float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))


def displacement_mm(a: Matrix, b: Matrix, points: Array) -> NDArray[np.float64]:
    """How far apart two transforms put each of `points`, shape (n, 3), world mm."""
    difference = a - b
    out: NDArray[np.float64] = np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1)
    return out


def voxels_to_world(grid: Grid, index: Array) -> NDArray[np.float64]:
    """World mm of voxel positions, shape (n, 3), (x, y, z)."""
    out: NDArray[np.float64] = index @ grid.matrix[:3, :3].T + grid.matrix[:3, 3]
    return out


def require_rigid(matrix: Matrix, where: str) -> Matrix:
    """Return `matrix` if it is a rotation and a shift; ValueError for anything else, mirroring included."""
    turn = np.asarray(matrix, float)[:3, :3] if np.shape(matrix) == (4, 4) else np.zeros((3, 3))
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or np.linalg.det(turn) < 0:
        raise ValueError(
            f"Transform is not rigid: {where}. Found {np.round(matrix, 4).tolist()}; expected a (4, 4) matrix of a "
            f"rotation without mirroring and a shift. Give such a transform."
        )
    return np.asarray(matrix, float)


def write_itk(path: Path, matrix: Matrix) -> None:
    """Write a transform as ITK text, which 3D Slicer, ANTs and SimpleITK read.

    ITK's transforms lead from points of the output to points of the input, in LPS+; so the file holds the inverse.
    """
    back = LPS @ np.linalg.inv(matrix) @ LPS
    numbers = " ".join(f"{v:.12g}" for v in [*back[:3, :3].ravel(), *back[:3, 3]])
    write_text(
        path,
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n",
    )
