"""Read the header of NIfTI, MetaImage and NRRD files: grid, doubts about left and right, and what keeps a file from
being used.
"""

import bz2
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ummgat.core.extras import need
from ummgat.core.placement import (
    LARGEST_MM,
    PLAUSIBLE_MM,
    SQUARE_DEGREES,
    disagreement,
    doubt,
    header_of,
    shear_degrees,
)
from ummgat.core.volume import UNREADABLE, Array, Grid, read_grid, require_square

NIFTI = (".nii", ".nii.gz")
ITK = {".mha": "MHA", ".mhd": "MHA", ".nrrd": "NRRD", ".nhdr": "NRRD"}
"""Suffix → kind of the formats that SimpleITK reads."""

_DETACHED = {".mhd": r"^ElementDataFile\s*=\s*(.+?)\s*$", ".nhdr": r"^data ?file\s*:\s*(.+?)\s*$"}
_DEFLATE_LIMIT = 1032


@dataclass
class ImageHeader:
    """What a header says. `problems` keep the file from being used; with `doubts` a person must decide."""

    kind: str
    grid: Grid | None = None
    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def kind_of(path: Path) -> str | None:
    """NIfTI, MHA or NRRD by the name's suffix; None for anything else."""
    name = path.name.lower()
    return "NIfTI" if name.endswith(NIFTI) else ITK.get(path.suffix.lower())


def stem_of(path: Path) -> str:
    """Name without the suffixes of `kind_of`."""
    return re.sub(r"\.(nii(\.gz)?|mha|mhd|nrrd|nhdr)$", "", path.name, flags=re.IGNORECASE)


def read_header(path: Path) -> ImageHeader:
    """Read and check a header; no voxels. What is wrong goes into the result, nothing is raised."""
    header = ImageHeader(kind_of(path) or "")
    try:
        if header.kind == "NIfTI":
            header.grid = read_grid(path, decided=True)
            said = header_of(path)
            unclear = doubt(said) or disagreement(said)
            header.doubts += [unclear] if unclear else []
        else:
            header.grid = read_itk_grid(path)
    except (*UNREADABLE, ValueError) as error:
        header.problems.append(str(error).replace(f"{path.parent}/", "").replace(str(path), path.name))
        return header
    off = shear_degrees(header.grid.matrix)
    if off > SQUARE_DEGREES:
        header.problems.append(f"sheared: the axes are {off:.2g}° off right angles; expected straight axes")
    if min(header.grid.shape) < 2:
        header.problems.append("a single plane, no volume")
    return header


def read_itk_grid(path: Path) -> Grid:
    """Grid of a MetaImage or NRRD file from its header, after the checks of `volume.read_grid`.

    Raises
    ------
    ValueError
        Unreadable, not 3-D, not grey, zero spacing, or more data claimed than the file can hold.
    """
    reader = need("SimpleITK", "dicom").ImageFileReader()
    voxels = data_file(path)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(
            f"File is not readable: {path}. Found a header that SimpleITK cannot read; expected MHA or NRRD. Export it "
            f"again."
        ) from error
    shape = [int(n) for n in reader.GetSize()]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"Image is not a single volume: {path}. Found shape {tuple(shape)}; expected 3 axes. Split it."
        )
    if reader.GetNumberOfComponents() != 1:
        raise ValueError(
            f"Image is not grey-scale: {path}. Found {reader.GetNumberOfComponents()} values per voxel; expected 1. "
            "Export it as grey values."
        )
    size = need("SimpleITK", "dicom").Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    claimed, on_disk = float(np.prod([float(n) for n in shape])) * size, voxels.stat().st_size
    if claimed > on_disk * _DEFLATE_LIMIT or (claimed > on_disk and _compression(path) is None):
        raise ValueError(
            f"Header claims more data than the file can hold: {path}. Found a claim of {claimed:.0f} bytes in a file "
            f"of {on_disk} bytes; expected fewer. The file is truncated or damaged: copy or export it again."
        )
    return _itk_grid(reader, shape, path)


def read_itk(path: Path) -> tuple[Array, Grid]:
    """Read a MetaImage or NRRD file: voxels of shape (x, y, z) and their grid."""
    itk = need("SimpleITK", "dicom")
    grid = read_itk_grid(path)
    require_square(path, grid.matrix)
    _check_compressed(path)
    try:
        image = itk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(
            f"Image data are truncated or damaged: {path}. Found voxels that SimpleITK cannot read; expected "
            f"{grid.shape} voxels. Copy or export it again."
        ) from error
    data = np.ascontiguousarray(itk.GetArrayFromImage(image).T).reshape(grid.shape)
    if not np.isfinite(data).all():
        raise ValueError(
            f"Image has voxels that are not numbers: {path}. Found NaN or infinite voxels; expected none. Repair it."
        )
    return data, grid


def _check_compressed(path: Path) -> None:
    """Unpack compressed voxels to the end of their stream, where the checksum stands; ITK stops when it has enough.

    Raises
    ------
    ValueError
        The checksum differs, or the stream ends early.
    """
    way = _compression(path)
    if way is None:
        return
    voxels = data_file(path)
    try:
        with voxels.open("rb") as file:
            if voxels == path:
                _skip_header(file, path)
            while True:
                packer = zlib.decompressobj(47) if way != "bz" else bz2.BZ2Decompressor()
                rest = _run_through(packer, file) or file.read(1)
                if not rest:
                    return
                file.seek(-len(rest), 1)  # another stream follows, as gzip allows
    except (zlib.error, OSError, EOFError) as error:
        raise ValueError(
            f"Image data are truncated or damaged: {path}. Found {error}; expected compressed voxels whose checksum "
            f"fits. Copy or export it again."
        ) from error


def _run_through(packer: Any, file: IO[bytes]) -> bytes:
    """Unpack one stream, keeping nothing; what follows it in the block read last."""
    while not packer.eof:
        block = file.read(1 << 16)
        if not block:
            raise EOFError("the compressed voxels end early")
        if isinstance(packer, bz2.BZ2Decompressor):
            packer.decompress(block)
            continue
        while block:
            packer.decompress(block, 1 << 24)
            block = packer.unconsumed_tail
    return bytes(packer.unused_data).lstrip(b"\0\r\n")


def _skip_header(file: IO[bytes], path: Path) -> None:
    """Go to the first byte of the voxels of a file that holds its own header."""
    if path.suffix.lower() == ".mha":
        for line in file:
            if line.partition(b"=")[0].strip() == b"ElementDataFile":
                return
    else:
        for line in file:
            if not line.strip():
                return
    raise EOFError("there are no voxels after the header")


def _compression(path: Path) -> str | None:
    """How voxels are packed: zlib, gz, bz; None if they are not."""
    if re.search(r"^CompressedData\s*=\s*True", _head(path), re.MULTILINE | re.IGNORECASE):
        return "zlib"
    match = re.search(r"^encoding\s*:\s*(gz|bz)", _head(path), re.MULTILINE | re.IGNORECASE)
    return match[1].lower() if match else None


def _itk_grid(reader: Any, shape: list[int], path: Path) -> Grid:
    n = reader.GetDimension()
    direction = np.array(reader.GetDirection()).reshape(n, n)[:3, :3]
    spacing = np.array(reader.GetSpacing())[:3]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, np.array(reader.GetOrigin())[:3]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    if not np.isfinite(affine).all() or spacing.min() < 1e-3 or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(
            f"Image has no usable geometry: {path}. Found voxel size {tuple(spacing.tolist())} mm; expected three "
            f"positive sizes and axes that are not parallel. Repair the header."
        )
    low, high = PLAUSIBLE_MM
    if spacing.min() < low or spacing.max() > high or (spacing * shape[:3]).max() > LARGEST_MM:
        raise ValueError(
            f"Image has implausible voxel sizes: {path}. Found {tuple(spacing.tolist())} mm; expected {low} to "
            f"{high:g} mm, at most {LARGEST_MM:g} in all. Repair the header's sizes: they are in mm."
        )
    return Grid.of(tuple(shape), affine + 0.0)


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(16384).decode("latin-1")


def data_file(path: Path) -> Path:
    """Where the voxels are: the file itself, or the one a detached header names, which must lie beside it."""
    pattern = _DETACHED.get(path.suffix.lower())
    if pattern is None:
        return path
    match = re.search(pattern, _head(path), re.MULTILINE | re.IGNORECASE)
    name = match[1] if match else ""
    if not name or name.upper() in ("LOCAL", "LIST") or Path(name).name != name or not path.with_name(name).is_file():
        raise ValueError(
            f"Voxels of a detached header are missing: {path}. Found no such file beside it; expected one data file in "
            f"the same folder. Copy both, or convert to one file."
        )
    return path.with_name(name)
