"""One series or file → one NIfTI in the voxel order of its source, with the geometry checked."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ummgat.core.extras import need
from ummgat.core.files import require_new
from ummgat.core.placement import placement_of
from ummgat.core.volume import Array, Grid, in_order_of, read_volume, write_volume
from ummgat.intake.headers import quiet
from ummgat.intake.images import kind_of, read_itk
from ummgat.intake.series import SourceInstance, SourceSeries

TOLERANCE_MM = 1e-3
"""How far any corner may lie from where the DICOM header puts it."""

Tool = Literal["dcm2niix", "SimpleITK", "pydicom"]
_SECONDS = 600


@dataclass(frozen=True)
class Converted:
    """A NIfTI file and how it came about."""

    path: Path
    grid: Grid
    tool: Tool | Literal["copy"]


class _Failed(Exception):
    """A tool could not convert; the next one is tried."""


def convert(
    source: SourceSeries | Path, out: Path, tools: tuple[Tool, ...] = ("dcm2niix", "pydicom", "SimpleITK")
) -> Converted:
    """Write a source as NIfTI.

    Of a DICOM series the result has `source.grid`: axes (column, row, plane), plane k from `source.instances[k]`,
    rescaled by the header's slope and intercept. Nothing but voxels and geometry gets into the file, and no sidecar is
    written.

    Parameters
    ----------
    source : SourceSeries or Path
        A series as `read_sheet` gives it, or a NIfTI, MHA or NRRD file.
    out : Path
        New `.nii` or `.nii.gz`.
    tools : tuple of str
        Tried in turn. A tool's result counts only if every corner lies within `TOLERANCE_MM` of the grid computed from
        the header, and its planes are those of the files.

    Raises
    ------
    ValueError
        No tool could convert, with the reason of each, or the file is not usable. Messages name the series, not its
        files.
    FileExistsError
        `out` is there already.
    """
    require_new(out, overwrite=False)
    if isinstance(source, Path):
        nifti = kind_of(source) == "NIfTI"
        data, grid = read_volume(source, decided=True) if nifti else read_itk(source)
        write_volume(out, _storable(data), grid, placement=placement_of(source) if nifti else None)
        return Converted(out, grid, "copy")
    reasons = []
    for tool in tools:
        try:
            data = _TOOLS[tool](source)
        except _Failed as error:
            reasons.append(f"{tool}: {error}")
            continue
        write_volume(out, _storable(data), source.grid)
        return Converted(out, source.grid, tool)
    raise ValueError(
        f"Series cannot be converted: {source.series_id}. Found {'; '.join(reasons)}; expected a volume on the grid of "
        f"its header. Leave it out, or export it uncompressed from the archive."
    )


def _by_dcm2niix(source: SourceSeries) -> Array:
    """Convert with dcm2niix, in a folder that holds links of invented names, so that no path matters."""
    binary = Path(need("dcm2niix", "dicom").bin)
    with tempfile.TemporaryDirectory(prefix="ummgat-") as name:
        inputs, outputs = Path(name, "in"), Path(name, "out")
        inputs.mkdir()
        outputs.mkdir()
        for number, file in enumerate(source.files):
            _link(file, inputs / f"{number:06d}.dcm")
        # -g i: the user's own defaults do not count; -b n: no sidecar; -x i: keep the planes as they are; -p n: the
        # standard's scaling, not Philips's private one; -i n: whether to use derived images is not its decision.
        options = ["-g", "i", "-b", "n", "-z", "n", "-x", "i", "-p", "n", "-i", "n", "-m", "2", "-f", "volume"]
        try:
            done = subprocess.run(
                [str(binary), *options, "-o", str(outputs), str(inputs)],
                capture_output=True,
                check=False,
                timeout=_SECONDS,
                env={"HOME": name, "PATH": ""} if sys.platform != "win32" else None,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _Failed(f"did not finish ({type(error).__name__})") from error
        results = sorted(outputs.glob("*.nii"))
        if done.returncode != 0 or len(results) != 1:  # its messages hold paths, so they are not quoted
            raise _Failed(f"ended with {done.returncode} and wrote {len(results)} volumes")
        try:
            data, grid = read_volume(results[0])
        except (ValueError, OSError) as error:
            raise _Failed("wrote a volume that cannot be used") from error
        try:
            data = np.ascontiguousarray(in_order_of(data, grid, source.grid, TOLERANCE_MM))
        except ValueError as error:
            raise _Failed("wrote another geometry than the header's") from error
    _check_planes(source, data)
    return data


def _check_planes(source: SourceSeries, data: Array) -> None:
    """Compare some planes with the files as another reader sees them: a flip that the affine hides would show."""
    for k in sorted({0, len(source.instances) // 3, len(source.instances) - 1}):
        instance = source.instances[k]
        try:
            plane = _plane(instance)
        except _Failed as error:
            if instance.frame is not None:
                raise _Failed("wrote voxels that nothing here can check") from error
            plane = _read_with_itk(instance.file)[0]  # it decodes some compressions that pydicom does not
        span = max(float(np.ptp(plane)), 1.0)
        if plane.T.shape != data.shape[:2] or np.abs(plane.T - data[:, :, k]).max() > 1e-2 * span:
            raise _Failed("wrote other voxels than the files hold")


def _by_pydicom(source: SourceSeries) -> Array:
    planes = [_plane(instance).T for instance in source.instances]
    return _stacked(planes, source)


def _plane(instance: SourceInstance) -> Array:
    """Rescaled values (rows, columns) of one plane, float64."""
    pixels, pydicom = need("pydicom.pixels", "dicom"), need("pydicom", "dicom")
    try:
        with quiet():
            data = pydicom.dcmread(instance.file, force=True)
            data.file_meta = getattr(data, "file_meta", None) or pydicom.dataset.FileMetaDataset()
            if "TransferSyntaxUID" not in data.file_meta:
                data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            stored = pixels.pixel_array(data, index=instance.frame)
            slope, intercept = _scaling(data, instance.frame)
    # Damaged pixels and missing decoders raise whatever they like, and may quote the header.
    except Exception as error:
        raise _Failed(f"cannot decode the pixels ({type(error).__name__})") from error
    return np.asarray(stored, np.float64) * slope + intercept


def _scaling(data: object, frame: int | None) -> tuple[float, float]:
    """Slope and intercept: of the frame's own group, the shared one, or the file."""
    places = [data]
    for name, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        groups = getattr(data, name, None)
        inner = (
            getattr(groups[index], "PixelValueTransformationSequence", None) if groups and index is not None else None
        )
        places += [inner[0]] if inner else []
    found = [(getattr(p, "RescaleSlope", None), getattr(p, "RescaleIntercept", None)) for p in places]
    slope, intercept = next(((s, i) for s, i in reversed(found) if s is not None), (1.0, 0.0))
    return float(slope), float(intercept or 0.0)


def _by_itk(source: SourceSeries) -> Array:
    """Read the voxels plane by plane with SimpleITK, whose decoders differ; the geometry is the header's."""
    planes = [plane.T for file in source.files for plane in _read_with_itk(file)]
    if len(source.files) == 1 and len(planes) == len(source.instances):
        # GDCM sorts the frames of a multi-frame file by position, in one direction or the other: not to be relied on.
        raise _Failed("does not keep the order of frames")
    return _stacked(planes, source)


def _read_with_itk(file: Path) -> Array:
    """Rescaled values (frames, rows, columns) of one file, float64."""
    itk = need("SimpleITK", "dicom")
    try:
        return np.asarray(itk.GetArrayFromImage(itk.ReadImage(str(file))), np.float64)
    except (RuntimeError, ValueError) as error:  # the message holds the path
        raise _Failed("cannot decode the pixels") from error


def _stacked(planes: list[Array], source: SourceSeries) -> Array:
    if len(planes) != len(source.instances) or any(plane.shape != source.grid.shape[:2] for plane in planes):
        raise _Failed("read planes of other sizes or numbers than the header says")
    return np.stack(planes, axis=2)


def _storable(data: Array) -> Array:
    """Whole numbers that fit as int16, everything else as float32."""
    if data.dtype.kind == "f" and not (np.abs(data).max(initial=0) < 2**24 and np.array_equal(data, np.rint(data))):
        return data.astype(np.float32)
    low, high = (float(data.min()), float(data.max())) if data.size else (0.0, 0.0)
    return data.astype(np.int16 if low >= -32768 and high <= 32767 else np.float32)


def _link(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file.resolve())
    except OSError:  # not allowed here, as on Windows
        shutil.copyfile(file, link)


_TOOLS: dict[Tool, Callable[[SourceSeries], Array]] = {
    "dcm2niix": _by_dcm2niix,
    "pydicom": _by_pydicom,
    "SimpleITK": _by_itk,
}
