"""Volumes on grids: checked NIfTI reading, resampling from grid to grid, and atomic writing.

Two index orders occur, and only here do they meet: NIfTI arrays are (x, y, z) = (column, row, plane);
everything else in UMMGAT is (plane, row, column), the transpose, in which an axial slice is contiguous.
`Grid.shape` and `Grid.affine` always speak NIfTI order.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.files import atomic_path
from ummgat.core.placement import (
    LARGEST_MM,
    PLAUSIBLE_MM,
    SQUARE_DEGREES,
    Placement,
    doubt,
    placed_image,
    raw_header,
    shear_degrees,
    unit_mm,
    unit_name,
)

Array = NDArray[Any]
_DEFLATE_LIMIT = 1032  # deflate cannot shrink data by more than this factor (zlib technical details)
_PADDING = 1 << 16
"""Bytes after the voxels that are let pass: some writers fill up to a block."""

FACES = (("left", "right"), ("back", "front"), ("bottom", "top"))
"""Low and high end of each axis of a grid in RAS+ order."""

UNREADABLE = (
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
    OSError,
    EOFError,
    zlib.error,
)
"""What nibabel raises on foreign, truncated and empty files."""


@dataclass(frozen=True)
class Grid:
    """Where voxels are: NIfTI shape (x, y, z) and the affine from voxel index to world mm (RAS+)."""

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], affine: Array) -> "Grid":
        """Build from an array's shape and a (4, 4) affine."""
        x, y, z = (int(n) for n in shape)
        rows = tuple(tuple(float(v) for v in row) for row in np.asarray(affine))
        return cls((x, y, z), rows)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The affine as a (4, 4) array."""
        return np.array(self.affine, dtype=np.float64)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along x, y, z."""
        x, y, z = np.linalg.norm(self.matrix[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000

    def matches(self, other: "Grid", tolerance_mm: float = 1e-2) -> bool:
        """True if every voxel of both grids lies at the same place within `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1)
        points = np.vstack([corners, np.ones((1, corners.shape[1]))])
        return bool(np.abs((self.matrix - other.matrix) @ points).max() <= tolerance_mm)

    def canonical(self, spacing_mm: float) -> "Grid":
        """The RAS+ grid with isotropic `spacing_mm` over the same field of view, along the same (possibly oblique)
        axes.

        Voxel edges, not centers, of both grids start at the same corner, so halving the resolution averages
        neighbours instead of picking every other voxel.
        """
        orientation = nib.orientations.io_orientation(self.matrix)
        back = nib.orientations.inv_ornt_aff(orientation, self.shape)
        order = np.argsort(orientation[:, 0])
        shape = np.array(self.shape)[order]
        affine = self.matrix @ back
        old = np.linalg.norm(affine[:3, :3], axis=0)
        new_shape = np.maximum(np.ceil(shape * old / spacing_mm - 1e-3), 1).astype(int)
        new = affine.copy()
        new[:3, :3] = affine[:3, :3] * (spacing_mm / old)
        new[:3, 3] = affine[:3, 3] + affine[:3, :3] @ (0.5 * spacing_mm / old - 0.5)
        return Grid.of(tuple(int(n) for n in new_shape), new)


def read_volume(path: Path, *, decided: bool = False) -> tuple[Array, Grid]:
    """Read a 3-D NIfTI file after checking that it can be what it says.

    Parameters
    ----------
    path : Path
        `.nii` or `.nii.gz`. A trailing axis of length 1 is dropped. Lengths in metres or micrometres become mm.
    decided : bool
        A person has seen what the header leaves open about left and right: see `placement.doubt`.

    Returns
    -------
    data : ndarray of shape `grid.shape`, (x, y, z)
        Scaled values as stored (float64 if the file has a scale factor). A copy.
    grid : Grid

    Raises
    ------
    FileNotFoundError, ValueError
        Missing, truncated or foreign file, not 3-D, zero, implausible or non-finite spacing or voxels, sheared axes, a
        header that claims more data than the file can hold or leaves open which side is left.
    """
    image, grid = _open(path, decided)
    try:
        if Path(path).suffix.lower() == ".gz":
            # Read to the trailer: only there stands the checksum, which nibabel never reaches.
            stored: Any = image.dataobj
            held = stored.offset + _claimed(image) + _PADDING
            with gzip.open(path) as file:
                image = nib.Nifti1Image.from_bytes(unpacked(file, int(held), Path(path)))
        data = np.asanyarray(image.dataobj).reshape(grid.shape)
    except (*UNREADABLE, ValueError) as error:
        raise ValueError(
            f"Image data are truncated or damaged: {path}. Found {error}; expected {grid.shape} voxels. Copy or export "
            f"it again."
        ) from error
    if data.dtype.kind not in "iuf":
        raise ValueError(
            f"Image is not grey-scale: {path}. Found data type {data.dtype}; expected integers or floats. Export it as "
            f"such."
        )
    if not np.isfinite(data).all():
        bad = int(data.size - np.isfinite(data).sum())
        raise ValueError(
            f"Image has voxels that are not numbers: {path}. Found {bad} NaN or infinite voxels; expected none. "
            "Repair or leave out the file."
        )
    return data, grid


def read_grid(path: Path, *, decided: bool = False) -> Grid:
    """Grid of a NIfTI file, from its header alone; the checks of `read_volume` that need no voxels apply."""
    return _open(path, decided)[1]


def _open(path: Path, decided: bool) -> tuple[nib.Nifti1Image, Grid]:
    """Read and check a header: readable, 3-D, usable geometry, no more data claimed than the file can hold."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Image is missing: {path}. Found no file; expected a NIfTI file. Check the path.")
    try:
        image = nib.Nifti1Image.from_filename(path)
        sizes = _sizes_in_file(path, image)
    except UNREADABLE as error:
        raise ValueError(
            f"File is not readable as NIfTI: {path}. Found {error}; expected a NIfTI-1 image. Export it again."
        ) from error
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"Image is not a single volume: {path}. Found shape {shape}; expected 3 axes. "
            "Split the series and keep the volume you need."
        )
    _check_size(path, image)
    affine = np.asarray(image.affine, dtype=np.float64)
    affine = np.vstack([affine[:3] * unit_mm(image.header), affine[3:]])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes is not None and not (np.isfinite(sizes).all() and (sizes >= 1e-3).all()):
        spacing = sizes
    if not np.isfinite(affine).all() or not (spacing >= 1e-3).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(
            f"Image has no usable geometry: {path}. Found voxel size {tuple(spacing.round(4).tolist())} mm; "
            "expected three positive sizes and axes that are not parallel. Repair the header."
        )
    _check_plausible(path, image.header, shape, spacing)
    if not decided:
        _require_sides(path, image.header)
        require_square(path, affine)
    return image, Grid.of(shape, affine)


def _check_plausible(
    path: Path, header: nib.Nifti1Header, shape: tuple[int, ...], spacing: NDArray[np.float64]
) -> None:
    """Refuse sizes that no image of a head has: a wrong unit, or a damaged header, before memory is taken for them."""
    low, high = PLAUSIBLE_MM
    extent = float((spacing * np.array(shape)).max())
    if spacing.min() < low or spacing.max() > high or extent > LARGEST_MM:
        raise ValueError(
            f"Image has implausible voxel sizes: {path}. Found {tuple(spacing.round(6).tolist())} mm (the header "
            f"speaks of {unit_name(header)}) and up to {extent:.4g} mm in all; expected {low} to {high:g} mm, at most "
            f"{LARGEST_MM:g} in all. Repair the header's unit or sizes."
        )


def _require_sides(path: Path, header: nib.Nifti1Header) -> None:
    unclear = doubt(header)
    if unclear:
        raise ValueError(
            f"Left and right are in doubt: {path}. Found: {unclear}; expected an sform or qform that says it, and no "
            f"two that contradict. Convert it again from the scanner's files, repair the header, or decide in a sheet "
            f"of `ummgat inspect`."
        )


def require_square(path: Path, affine: NDArray[np.float64]) -> None:
    """Raise ValueError for a (4, 4) affine whose axes are not at right angles."""
    off = shear_degrees(affine)
    if off > SQUARE_DEGREES:
        raise ValueError(
            f"Image has a sheared grid: {path}. Found axes {off:.2g}° off right angles; expected 90° between them. "
            f"Export it without gantry tilt, or resample it to an upright grid."
        )


def _sizes_in_file(path: Path, image: nib.Nifti1Image) -> NDArray[np.float64] | None:
    """Voxel sizes as the file has them where its geometry rests on them; nibabel silently takes 1 mm for zero."""
    if int(image.header["sform_code"]) > 0:
        return None  # the sform says it all
    header = raw_header(path)
    return np.abs(np.asarray(header["pixdim"][1:4], np.float64)) * unit_mm(header)


def _check_size(path: Path, image: nib.Nifti1Image) -> None:
    """Refuse a header that claims more bytes than the file can hold, before any memory is asked for."""
    claimed = _claimed(image)
    on_disk = path.stat().st_size
    can_hold = on_disk * _DEFLATE_LIMIT if path.suffix.lower() == ".gz" else on_disk
    if claimed > can_hold:
        raise ValueError(
            f"Header claims more data than the file can hold: {path}. Found a claim of {claimed:.0f} bytes in a file "
            f"of {on_disk} bytes; expected at most {can_hold}. The file is truncated or damaged: copy or export it "
            f"again."
        )


def _claimed(image: nib.Nifti1Image) -> float:
    """Bytes of voxels that a header announces."""
    return float(np.prod([float(n) for n in image.shape]) * image.header.get_data_dtype().itemsize)


def unpacked(file: gzip.GzipFile, at_most: int, path: Path) -> bytes:
    """Everything that a compressed stream holds, to its end, so that its checksum is compared.

    Parameters
    ----------
    file : GzipFile
    at_most : int
        Bytes that the header accounts for. A few kilobytes of zeros can unpack to gigabytes, so no more is read.
    path : Path
        For the message.

    Raises
    ------
    ValueError
        The stream holds more.
    OSError, EOFError, zlib.error
        The stream is damaged.
    """
    content = file.read(at_most)
    more = file.read(1)  # at the end this compares the checksum, also where the stream is exactly as long as allowed
    if more:
        raise ValueError(
            f"File holds more than its header says: {path}. Found more than {at_most} bytes unpacked; expected no "
            f"more. The header or the file is damaged: copy or export it again."
        )
    return content


def write_volume(
    path: Path, data: Array, grid: Grid, description: str = "", placement: Placement | None = None
) -> None:
    """Write `data` of shape (x, y, z) as NIfTI-1 in its own dtype, atomically. Units are set to mm.

    `description` goes into the header's `descrip`, which holds 79 ASCII characters. `placement` is that of a file on
    the very same grid: sform, qform and their codes are then as there, so that every reader puts both at one place.
    """
    if tuple(data.shape) != grid.shape:
        raise ValueError(
            f"Data do not fit the grid: {path}. Found shape {data.shape}; expected {grid.shape}. This is a bug."
        )
    if placement is None:
        image = nib.Nifti1Image(data, grid.matrix)
        image.header.set_xyzt_units("mm")
    else:
        image = placed_image(data, placement)
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def same_voxels(a: Grid, b: Grid) -> bool:
    """Whether two grids have the same voxels, in whatever order each stores them."""
    try:
        in_order_of(np.broadcast_to(np.False_, a.shape), a, b)
    except ValueError:
        return False
    return True


def in_order_of(data: Array, source: Grid, target: Grid, tolerance_mm: float = 1e-2) -> Array:
    """Put voxels into the order of another grid that has the same voxels, its axes flipped or swapped; nothing is
    resampled.

    Parameters
    ----------
    data : ndarray of shape source.shape
    source, target : Grid
    tolerance_mm : float
        How far apart the same voxel may lie.

    Returns
    -------
    ndarray of shape target.shape
        A view where possible.

    Raises
    ------
    ValueError
        If the grids do not have the same voxels.
    """
    here, there = (nib.orientations.io_orientation(grid.matrix) for grid in (source, target))
    turn = nib.orientations.ornt_transform(here, there)
    turned = nib.orientations.apply_orientation(data, turn)
    affine = source.matrix @ nib.orientations.inv_ornt_aff(turn, source.shape)
    if not Grid.of(turned.shape, affine).matches(target, tolerance_mm):
        raise ValueError(
            f"Grids differ. Found {source.shape} voxels of {source.spacing_mm} mm; expected the voxels of a grid of "
            f"{target.shape} of {target.spacing_mm} mm at the same places. Resample first."
        )
    return np.asarray(turned)


def resample(data: Array, source: Grid, target: Grid, order: int = 1) -> Array:
    """Resample `data` from `source` to `target` grid; outside is 0.

    Parameters
    ----------
    data : ndarray of shape source.shape
        `order` 0 keeps the dtype (labels, masks); `order` 1 (linear) returns float32.
    source, target : Grid
    order : int
        0 nearest, 1 linear.

    Returns
    -------
    ndarray of shape target.shape
        A copy, also when the grids match.
    """
    dtype = data.dtype if order == 0 else np.float32
    if source.matches(target):
        return data.astype(dtype, copy=True)
    mapping = np.linalg.inv(source.matrix) @ target.matrix
    matrix, offset = mapping[:3, :3], mapping[:3, 3]
    if order == 1 and np.abs(matrix - np.diag(np.diag(matrix))).max() * max(target.shape) < 1e-6:
        out: Array = np.ascontiguousarray(data, np.float32)
        for axis in range(3):
            out = _linear_along(out, axis, offset[axis] + matrix[axis, axis] * np.arange(target.shape[axis]))
        return out
    out = ndimage.affine_transform(
        np.ascontiguousarray(data, dtype),  # in Fortran order, as read, it is several times slower
        matrix,
        offset=offset,
        output_shape=target.shape,
        order=order,
        mode="grid-constant",
        cval=0,
    )
    return out


def _linear_along(data: Array, axis: int, position: NDArray[np.float64]) -> NDArray[np.float32]:
    """Linear interpolation at `position` (in voxels) along one axis, 0 beyond the ends.

    Grids with the same axes need no more than this three times, an order of magnitude faster than the general
    transform.
    """
    low = np.floor(position).astype(int)
    share = position - low
    last = data.shape[axis] - 1
    parts = []
    for index, weight in ((low, 1 - share), (low + 1, share)):
        weight = np.where((index >= 0) & (index <= last), weight, 0).astype(np.float32)
        taken = data.take(index.clip(0, last), axis=axis)
        parts.append(taken * np.expand_dims(weight, tuple(a for a in range(3) if a != axis)))
    out: NDArray[np.float32] = (parts[0] + parts[1]).astype(np.float32, copy=False)
    return out


def resample_inside(data: Array, mask: Array, source: Grid, target: Grid) -> NDArray[np.float32]:
    """Linear resampling that lets only voxels inside `mask` speak, so background never bleeds into the edge of the
    brain.

    Parameters
    ----------
    data : ndarray of shape source.shape
    mask : bool ndarray of shape source.shape
        Where `data` means something.

    Returns
    -------
    ndarray of shape target.shape, float32
        Weighted mean of the masked neighbours; 0 where there is none.
    """
    weight = resample(mask.astype(np.float32), source, target)
    value = resample(np.where(mask, data, 0).astype(np.float32), source, target)
    inside = weight > 1e-3
    return np.where(inside, value / np.where(inside, weight, 1), 0).astype(np.float32)
