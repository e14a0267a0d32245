"""What a NIfTI header says about where voxels are, and whether that can be trusted. The one place that decides it."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Placement = dict[str, list[float]]
"""The fields of a header that place its voxels, as they stand: sform, qform, their codes, voxel sizes, the unit."""

_FIELDS = (
    "pixdim",
    "xyzt_units",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)
_UNITS_MM = {1: 1000.0, 3: 0.001}
_UNIT_NAMES = {0: "no unit", 1: "metres", 2: "mm", 3: "micrometres"}

PLAUSIBLE_MM = (0.05, 50.0)
"""Voxel sizes of images of a head, with room on either side: smaller or larger ones are a wrong unit or a damaged
header."""

LARGEST_MM = 1500.0
"""Field of view of a head, with room."""

SQUARE_DEGREES = 0.5
"""How far axes may be off right angles before a grid counts as sheared."""


def raw_header(path: Path) -> nib.Nifti1Header:
    """Header as the file has it: nibabel silently takes 1 mm for voxel sizes of zero."""
    with gzip.open(path) if Path(path).suffix.lower() == ".gz" else Path(path).open("rb") as file:
        return nib.Nifti1Header.from_fileobj(file, check=False)


def header_of(path: Path) -> nib.Nifti1Header:
    """Header of a file that has been found readable, put right where nibabel knows how."""
    return nib.Nifti1Image.from_filename(path).header


def unit_mm(header: nib.Nifti1Header) -> float:
    """Millimetres in a unit of the header's lengths; one without a unit means mm, as everybody's does."""
    return _UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)


def unit_name(header: nib.Nifti1Header) -> str:
    """The header's unit of length in words."""
    return _UNIT_NAMES.get(int(header["xyzt_units"]) & 7, "an unknown unit")


def doubt(header: nib.Nifti1Header) -> str | None:
    """Why nobody can tell from this header which side is left; None if it says."""
    try:
        sform, s_code = header.get_sform(coded=True)
        qform, q_code = header.get_qform(coded=True)
    except (ValueError, nib.spatialimages.HeaderDataError):
        return "the qform is no rotation, so the header is damaged where it says which side is left"
    if not s_code and not q_code:
        return "the header does not say which side is left (neither sform nor qform is set)"
    if s_code and q_code and np.sign(np.linalg.det(sform[:3, :3])) != np.sign(np.linalg.det(qform[:3, :3])):
        return "sform and qform are mirror images of each other, so left and right are in doubt"
    return None


def disagreement(header: nib.Nifti1Header) -> str | None:
    """Say that sform and qform place the voxels differently, which programs settle differently; None if they agree.

    For headers that leave no `doubt`.
    """
    sform, s_code = header.get_sform(coded=True)
    qform, q_code = header.get_qform(coded=True)
    if not s_code or not q_code:
        return None
    corners = np.array(np.meshgrid(*[(0, max(int(n) - 1, 0)) for n in header["dim"][1:4]])).reshape(3, -1)
    points = np.vstack([corners, np.ones((1, corners.shape[1]))])
    apart = float(np.linalg.norm(((sform - qform) @ points)[:3], axis=0).max()) * unit_mm(header)
    smallest = float(np.linalg.norm(sform[:3, :3], axis=0).min()) * unit_mm(header)
    if apart <= 0.5 * smallest:
        return None
    return f"sform and qform disagree by up to {apart:.3g} mm; the sform is used"


def shear_degrees(matrix: NDArray[np.float64]) -> float:
    """How far the axes of a (4, 4) affine are off right angles, degrees."""
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    cosine = max(abs(float(axes[:, a] @ axes[:, b])) for a, b in ((0, 1), (0, 2), (1, 2)))
    return float(np.degrees(np.arcsin(min(cosine, 1.0))))


def placement_of(path: Path) -> Placement | None:
    """The fields of a readable file that place its voxels, to be carried into what is made from it; None where they are
    in doubt.
    """
    header = header_of(path)
    if doubt(header):
        return None
    return {name: np.atleast_1d(np.asarray(header[name], np.float64)).tolist() for name in _FIELDS}


def placed_image(data: NDArray[Any], placement: Placement) -> nib.Nifti1Image:
    """An image of these voxels with exactly these fields in its header."""
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    for name in _FIELDS:
        values = placement[name]
        header[name] = values if len(values) > 1 else values[0]
    return nib.Nifti1Image(data, None, header)
