"""Phantom DICOM: a volume as a series with plausible headers, and with a patient in them, to test what happens to both.

Everything is invented, and UIDs follow from the patient's ID and the numbers given, so that the same call writes the
same files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ummgat.core.extras import need
from ummgat.core.volume import Array

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PATIENT = {
    "PatientName": "Phantom^Petra",
    "PatientID": "PH-4711",
    "PatientBirthDate": "19610203",
    "PatientSex": "F",
    "PatientAge": "059Y",
}
"""The patient if none is given."""

_PRIMARY = ["ORIGINAL", "PRIMARY", "M", "ND"]
_HEADERS: dict[str, dict[str, Any]] = {
    "t1": {"SeriesDescription": "t1_se_tra_nativ", "ScanningSequence": "SE", "RepetitionTime": 550, "EchoTime": 12},
    "t1ce": {
        "SeriesDescription": "t1_se_tra_KM",
        "ScanningSequence": "SE",
        "RepetitionTime": 550,
        "EchoTime": 12,
        "ContrastBolusAgent": "Gadobutrol",
        "ContrastBolusVolume": 7.5,
    },
    "t2": {"SeriesDescription": "t2_tse_tra", "ScanningSequence": "SE", "RepetitionTime": 4500, "EchoTime": 95},
    "flair": {
        "SeriesDescription": "t2_tirm_tra_dark-fluid",
        "ScanningSequence": ["SE", "IR"],
        "RepetitionTime": 9000,
        "EchoTime": 110,
        "InversionTime": 2500,
    },
    "swi": {"SeriesDescription": "SWI_tra", "ScanningSequence": "GR", "RepetitionTime": 28, "EchoTime": 20},
    "dwi": {
        "SeriesDescription": "ep2d_diff_b1000_TRACEW",
        "ScanningSequence": "EP",
        "RepetitionTime": 5200,
        "EchoTime": 95,
        "DiffusionBValue": 1000.0,
        "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"],
    },
    "asl": {
        "SeriesDescription": "pcasl_3d_CBF",
        "ScanningSequence": "GR",
        "RepetitionTime": 4600,
        "EchoTime": 15,
        "ImageType": ["DERIVED", "PRIMARY", "ASL", "CBF"],
    },
    "hardi": {
        "SeriesDescription": "DTI_FA",
        "ScanningSequence": "EP",
        "RepetitionTime": 7000,
        "EchoTime": 90,
        "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "FA"],
    },
}


def write_series(
    image: Array,
    affine: Array,
    out: Path,
    patient: Mapping[str, str] | None = None,
    sequence: str = "t1",
    *,
    study: int = 1,
    series: int = 1,
    changes: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a volume as one MR series, a file per plane, names in no order of position.

    Parameters
    ----------
    image : ndarray of shape (x, y, z), values rounded to 0…65535
        x becomes columns, y rows, z planes: no axis is flipped.
    affine : (4, 4) ndarray
        Voxel index → RAS+ mm. The first two axes must be at right angles, else DICOM cannot say it; the third may be
        sheared or mirrored, which gives what a broken or tilted series has.
    out : Path
        Folder for the files; made if missing.
    patient : mapping of DICOM keyword → text, optional
        Fields of the patient; `PATIENT` where not given.
    sequence : str
        A name in `ummgat.core.domain.SEQUENCES`: decides the sequence's header fields.
    study, series : int
        Exam of the patient and series within it, from 1: decide UIDs, dates and numbers.
    changes : mapping of DICOM keyword → value, optional
        Fields that differ; None leaves the field out.

    Returns
    -------
    list of Path
        In the order of planes.
    """
    pydicom = need("pydicom", "dicom")
    out.mkdir(parents=True, exist_ok=True)
    voxels, lps = _stored(image), np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, np.float64)
    paths = []
    for plane in range(image.shape[2]):
        data = _header(dict(PATIENT) | dict(patient or {}), sequence, study, series)
        data.SOPInstanceUID = _uid(data, study, series, plane + 1)
        data.InstanceNumber = plane + 1
        _place(data, lps, plane)
        _add_pixels(data, voxels[:, :, plane].T)
        _change(data, changes or {})
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        paths.append(out / f"IM{(plane * 7919) % 10007:05d}")  # without suffix, as on a hospital's disc
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_enhanced(
    image: Array,
    affine: Array,
    path: Path,
    patient: Mapping[str, str] | None = None,
    sequence: str = "t1",
    *,
    study: int = 1,
    series: int = 1,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a volume as one enhanced multi-frame MR file; parameters as in `write_series`, one frame per plane."""
    pydicom = need("pydicom", "dicom")
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, np.float64)
    data = _header(dict(PATIENT) | dict(patient or {}), sequence, study, series)
    data.SOPClassUID = pydicom.uid.EnhancedMRImageStorage
    data.SOPInstanceUID = _uid(data, study, series, 1)
    data.NumberOfFrames = image.shape[2]
    timing, spacing = pydicom.Dataset(), pydicom.Dataset()
    timing.RepetitionTime = data.RepetitionTime
    flat = pydicom.Dataset()
    _place(flat, lps, 0)
    spacing.PixelSpacing, spacing.SliceThickness = flat.PixelSpacing, flat.SliceThickness
    orientation = pydicom.Dataset()
    orientation.ImageOrientationPatient = flat.ImageOrientationPatient
    echo = pydicom.Dataset()
    echo.EffectiveEchoTime = float(data.EchoTime)
    shared = pydicom.Dataset()
    shared.MRTimingAndRelatedParametersSequence = [timing]
    shared.MREchoSequence = [echo]
    shared.PixelMeasuresSequence = [spacing]
    shared.PlaneOrientationSequence = [orientation]
    frames = []
    for plane in range(image.shape[2]):
        _place(flat, lps, plane)
        position, content, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = flat.ImagePositionPatient
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", plane + 1, [1, plane + 1]
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frames.append(frame)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], frames
    for keyword in ("RepetitionTime", "EchoTime"):
        delattr(data, keyword)
    _add_pixels(data, np.ascontiguousarray(_stored(image).transpose(2, 1, 0)))
    _change(data, changes or {})
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)
    return path


def _stored(image: Array) -> Array:
    return np.clip(np.rint(np.asarray(image, np.float64)), 0, 65535).astype(np.uint16)


def _header(patient: Mapping[str, str], sequence: str, study: int, series: int) -> "Dataset":
    """Everything but geometry and pixels."""
    pydicom = need("pydicom", "dicom")
    data: Dataset = pydicom.Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in patient.items():
        setattr(data, keyword, value)
    data.SOPClassUID = pydicom.uid.MRImageStorage
    data.Modality, data.ImageType = "MR", _PRIMARY
    data.StudyInstanceUID = _uid(data, study)
    data.SeriesInstanceUID = _uid(data, study, series)
    data.FrameOfReferenceUID = _uid(data, study, 9999)
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = f"202{study % 10}0315"
    data.StudyTime = "081500"
    data.SeriesTime = data.AcquisitionTime = data.ContentTime = f"08{15 + series % 40:02d}00"
    data.AccessionNumber, data.StudyID = f"ACC{study:05d}", str(study)
    data.InstitutionName, data.ReferringPhysicianName = "Phantom Hospital", "Referrer^Rita"
    data.StationName, data.DeviceSerialNumber = "PHMR1", "12345"
    data.Manufacturer, data.ManufacturerModelName = "PHANTOM", "Synthetic 3T"
    data.MagneticFieldStrength, data.MRAcquisitionType, data.BodyPartExamined = 3.0, "2D", "HEAD"
    data.PatientPosition, data.StudyDescription = "HFS", "MR Schaedel"
    data.SeriesNumber, data.AcquisitionNumber = series, 1
    data.SequenceVariant, data.ScanOptions = "SK", ""
    for keyword, value in _HEADERS[sequence].items():
        setattr(data, keyword, value)
    data.ProtocolName = data.SeriesDescription
    block = data.private_block(0x0029, "PHANTOM HEADER", create=True)
    block.add_new(0x01, "LO", str(patient["PatientName"]))  # scanners repeat the patient in private fields
    return data


def _uid(data: "Dataset", *numbers: int) -> str:
    pydicom = need("pydicom", "dicom")
    return str(pydicom.uid.generate_uid(entropy_srcs=[str(data.PatientID), *(str(n) for n in numbers)]))


def _place(data: "Dataset", lps: Array, plane: int) -> None:
    """Write the geometry of one plane, with as many digits as a decimal string holds."""
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    normal = np.cross(lps[:3, 0], lps[:3, 1]) / (spacing[0] * spacing[1])
    across = abs(float(normal @ lps[:3, 2]))
    data.ImageOrientationPatient = [_decimal(v) for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
    data.ImagePositionPatient = [_decimal(v) for v in lps[:3, 3] + plane * lps[:3, 2]]
    data.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    data.SliceThickness = data.SpacingBetweenSlices = _decimal(across)


def _decimal(value: float) -> str:
    return f"{value:.12f}"[:16] if abs(value) < 1e6 else f"{value:.8e}"


def _add_pixels(data: "Dataset", planes: Array) -> None:
    """Write `planes` of shape (rows, columns) or (frames, rows, columns), uint16."""
    data.Rows, data.Columns = planes.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    top = int(planes.max())
    data.WindowCenter, data.WindowWidth = top // 2, max(top, 1)
    data.PixelData = np.ascontiguousarray(planes).astype("<u2").tobytes()


def _change(data: "Dataset", changes: Mapping[str, Any]) -> None:
    for keyword, value in changes.items():
        if value is None:
            if keyword in data:
                delattr(data, keyword)
        else:
            setattr(data, keyword, value)
