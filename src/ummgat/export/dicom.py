"""A generated volume as a DICOM MR series beside the series it was generated from, which nobody can take for
acquired.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ummgat.core.extras import need
from ummgat.core.volume import Array, Grid, in_order_of
from ummgat.export.deidentify import Alias, deidentify
from ummgat.export.header import code, inherited, new_uid, read_header, save
from ummgat.export.mark import burn_in
from ummgat.export.wording import MARK, Wording
from ummgat.intake.headers import quiet
from ummgat.intake.series import SourceInstance, SourceSeries

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_TOP = 65535


@dataclass(frozen=True)
class WrittenSeries:
    """A series on disk."""

    series_uid: str
    files: list[Path]
    """In the order of planes of the series it lies on."""


@quiet()  # what pydicom warns of, it quotes
def write_generated(
    volume: Array,
    grid: Grid,
    place: SourceSeries,
    provenance: Mapping[str, Any],
    out: Path,
    *,
    sources: Sequence[SourceSeries] | None = None,
    mark: bool = False,
    alias: Alias | None = None,
    series_number: int = 9001,
) -> WrittenSeries:
    """Write a generated volume as one classic MR series, a file per plane of the series it lies on.

    Position, orientation and voxel size are that series', to its last digit. New are the UIDs of series and instances;
    patient, study and frame of reference stay (replaced under `alias`). The type is DERIVED, SECONDARY, OTHER,
    SYNTHETIC, the pulse sequence is given as RM (research mode) with no echo or repetition time, and there is no
    contrast agent, whatever the source had.

    Parameters
    ----------
    volume : ndarray of shape grid.shape, (x, y, z), numbers
        Whole numbers 0…65535 are stored as they are, anything else as 16 bit with a slope and intercept: exact to half
        of the range divided by 65535.
    grid : Grid
        That of `place`, its axes possibly flipped or swapped, as converters do.
    place : SourceSeries
        Acquired series in whose grid the volume lies, as a rule the one it was generated from.
    provenance : mapping
        The sidecar of the image, see `completion.cohort`.
    out : Path
        Folder for `IM0001.dcm` and so on; made if missing.
    sources : sequence of SourceSeries, optional
        Acquired series that it was generated from; `place` alone if not told.
    mark : bool
        Burn the word SYNTHETIC into every plane. BurnedInAnnotation stays NO: it is about what identifies the patient.
    alias : Alias, optional
        Write this label instead of the patient, see `deidentify`.
    series_number : int

    Raises
    ------
    ValueError
        Volume on another grid, with values that are no numbers, no provenance, or a source that cannot be read again.
    """
    wording = Wording.of(provenance)
    try:
        volume = in_order_of(volume, grid, place.grid)
    except ValueError as error:
        raise ValueError(
            f"Volume does not lie on its source series: {place.series_id}. Found {_brief(grid)}; expected "
            f"{_brief(place.grid)}. Export the image in the original grid, and name its own series."
        ) from error
    planes, slope, intercept = stored(np.ascontiguousarray(volume.transpose(2, 1, 0)))
    window = _window(planes, slope, intercept)
    if mark:
        planes = burn_in(planes)
    common = _common(read_header(place), place, wording, series_number)
    common.RescaleSlope, common.RescaleIntercept, common.RescaleType = _decimal(slope), _decimal(intercept), "US"
    common.WindowCenter, common.WindowWidth = map(_decimal, window)
    series_uid, files = str(common.SeriesInstanceUID), []
    for k, instance in enumerate(place.instances):
        data = copy.deepcopy(common)
        data.SOPInstanceUID, data.InstanceNumber = new_uid(), k + 1
        data.ImagePositionPatient = [_decimal(v) for v in instance.position_mm]
        _refer(data, place, instance, [place] if sources is None else sources)
        _add_pixels(data, planes[k])
        if alias is not None:
            deidentify(data, alias)
            series_uid = str(data.SeriesInstanceUID)
        files.append(out / f"IM{k + 1:04d}.dcm")
        save(data, files[-1])
    return WrittenSeries(series_uid, files)


def stored(values: Array) -> tuple[Array, float, float]:
    """Give uint16 numbers n with slope and intercept, so that values = n * slope + intercept.

    Raises
    ------
    ValueError
        If there is no value, or one that is not a finite number.

    Examples
    --------
    >>> stored(np.array([0.0, 3.0]))[1:], stored(np.array([-1.0, 0.5]))[1:]
    ((1.0, 0.0), (2.288854e-05, -1.0))
    """
    values = np.asarray(values, np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"Volume cannot be stored. Found {values.size} values, {int((~np.isfinite(values)).sum())} of them not "
            f"finite; expected numbers. Generate it again."
        )
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= _TOP and np.array_equal(values, np.rint(values)):
        return values.astype(np.uint16), 1.0, 0.0
    low = float(_decimal(min(low, 0.0)))
    slope = float(f"{max((high - low) / _TOP, 1e-30) * (1 + 1e-7):.6e}")  # few digits, which every reader keeps
    return np.clip(np.rint((values - low) / slope), 0, _TOP).astype(np.uint16), slope, low


def _common(header: "Dataset", place: SourceSeries, wording: Wording, series_number: int) -> "Dataset":
    """Everything that the planes share."""
    pydicom = need("pydicom", "dicom")
    data = inherited(header)
    data.SOPClassUID = pydicom.uid.MRImageStorage
    data.Modality, data.SyntheticData = "MR", "YES"
    data.StudyInstanceUID, data.SeriesInstanceUID = place.study_uid, new_uid()
    data.FrameOfReferenceUID = place.frame_of_reference_uid or new_uid()
    data.SeriesNumber, data.AcquisitionNumber = series_number, None
    data.ImageType = ["DERIVED", "SECONDARY", "OTHER", MARK]
    data.SeriesDescription, data.ProtocolName = wording.short, f"{MARK} (not acquired)"
    data.DerivationDescription, data.ImageComments = wording.long, wording.short
    data.ContentQualification, data.BurnedInAnnotation = "RESEARCH", "NO"
    # Type 1 of an MR image: RM, research mode, is the only term that names no way of scanning.
    data.ScanningSequence, data.SequenceVariant = "RM", "NONE"
    data.ScanOptions = data.MRAcquisitionType = data.RepetitionTime = data.EchoTime = data.EchoTrainLength = None
    data.setdefault("PatientPosition", "")
    data.setdefault("PositionReferenceIndicator", "")
    data.setdefault("LossyImageCompression", "00")
    now = datetime.now()
    data.InstanceCreationDate = data.ContentDate = now.strftime("%Y%m%d")
    data.InstanceCreationTime = data.ContentTime = now.strftime("%H%M%S")
    data.ImageOrientationPatient = [_decimal(v) for v in place.orientation]
    across, down, step = place.grid.spacing_mm
    data.PixelSpacing, data.SpacingBetweenSlices = [_decimal(down), _decimal(across)], _decimal(step)
    data.SliceThickness = header.get("SliceThickness") or _decimal(step)
    data.ImagesInAcquisition = len(place.instances)
    return data


def _refer(data: "Dataset", place: SourceSeries, instance: SourceInstance, sources: Sequence[SourceSeries]) -> None:
    """Name the images that this plane was generated from: of `place` the same plane, of a series elsewhere all of
    them.
    """
    dataset = need("pydicom", "dicom").Dataset
    data.SourceImageSequence, data.ReferencedSeriesSequence = [], []
    for series in sources if place in sources else [*sources, place]:
        instances = (instance,) if series == place else series.instances
        item = dataset()
        item.SeriesInstanceUID = series.series_uid
        item.ReferencedInstanceSequence = [_reference(i) for i in instances]
        data.ReferencedSeriesSequence.append(item)
        for i in instances if series in sources else ():
            reference = _reference(i)
            reference.SpatialLocationsPreserved = "YES" if series == place else "NO"
            purpose = code("121322", "DCM", "Source image for image processing operation")
            reference.PurposeOfReferenceCodeSequence = [purpose]
            data.SourceImageSequence.append(reference)


def _reference(instance: SourceInstance) -> "Dataset":
    item: Dataset = need("pydicom", "dicom").Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    if instance.frame is not None:
        item.ReferencedFrameNumber = instance.frame + 1
    return item


def _add_pixels(data: "Dataset", plane: Array) -> None:
    data.Rows, data.Columns = plane.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = plane.astype("<u2").tobytes()
    data["PixelData"].VR = "OW"


def _window(planes: Array, slope: float, intercept: float) -> tuple[float, float]:
    """Center and width that show what is not background, from its 1st to its 99.5th percentile."""
    values = planes[planes > planes.min()]
    low, high = np.percentile(values, (1, 99.5)) * slope + intercept if values.size else (0.0, 1.0)
    return round(float(low + high) / 2, 6), max(round(float(high - low), 6), 1e-6 if slope < 1 else 1.0)


def _decimal(value: float) -> str:
    """Write as a decimal string of at most 16 characters, with as many digits as fit."""
    return str(need("pydicom.valuerep", "dicom").format_number_as_ds(float(value) + 0.0))


def _brief(grid: Grid) -> str:
    origin = ", ".join(f"{v:.4g}" for v in grid.matrix[:3, 3])
    shape, spacing = "x".join(map(str, grid.shape)), " x ".join(f"{v:.4g}" for v in grid.spacing_mm)
    return f"{shape} voxels of {spacing} mm from ({origin})"
