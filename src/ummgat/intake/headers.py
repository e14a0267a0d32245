"""Read the header of a DICOM file into planes: geometry, facts, UIDs. Pixels are not touched, but their size is
checked.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ummgat.core.extras import need
from ummgat.intake.privacy import Identity
from ummgat.intake.propose import SCANNING, Facts

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_READ = """
SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate StudyTime AccessionNumber Modality
ReferringPhysicianName SeriesDescription PatientName PatientID PatientBirthDate OtherPatientIDs OtherPatientNames
BodyPartExamined ScanningSequence RepetitionTime EchoTime InversionTime SequenceName ProtocolName ContrastBolusAgent
DiffusionBValue PulseSequenceName StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID SeriesNumber InstanceNumber
ImagesInAcquisition TemporalPositionIdentifier ImagePositionPatient ImageOrientationPatient PixelSpacing SamplesPerPixel
PhotometricInterpretation NumberOfFrames Rows Columns BitsAllocated RescaleSlope RescaleIntercept ContentQualification
SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence AcquisitionContrast
"""
_GE_CREATOR, _GE_COMPONENT = (0x0043, 0x0010), (0x0043, 0x102F)
_GE_PARTS = {1: "PHASE", 2: "REAL", 3: "IMAGINARY"}
_TAGS: list[Any] = [*_READ.split(), "ComplexImageComponent", _GE_CREATOR, _GE_COMPONENT]
_DICOMDIR = "1.2.840.10008.1.3.10"
_MAX_COMPRESSION = 2000  # images of nothing but background compress that much; a damaged header claims far more


@dataclass(frozen=True)
class Plane:
    """One plane of one file, and what is needed to sort it."""

    file: Path = field(repr=False)
    frame: int | None
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str | None
    identity: Identity = field(repr=False)
    started: str = field(repr=False)
    """Date and time of the study, to sort exams; never shown."""
    facts: Facts = field(repr=False)
    modality: str
    generated: bool
    series_number: int
    n_expected: int | None
    """ImagesInAcquisition."""
    rows: int
    columns: int
    spacing: tuple[float, ...]
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    volume: tuple[Any, ...]
    """Echo time, b-value, time point: differ between volumes of one series that share their positions."""
    scaling: tuple[float, float]
    colour: str
    """Photometric interpretation if the image is not plain grey, else empty."""
    transfer_syntax: str
    problem: str
    """Why the pixels cannot be used, else empty."""


@dataclass(frozen=True)
class NotImage:
    """A DICOM file without pixels of its own to use (DICOMDIR, report, presentation state), or one that cannot be
    read.
    """

    file: Path = field(repr=False)
    reason: str
    damaged: bool


def looks_like_dicom(path: Path) -> bool:
    """Whether the first bytes are DICOM's, with or without the preamble that old writers leave out."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or start[:4] in (b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def read_planes(path: Path) -> list[Plane] | NotImage:
    """Read every plane of a DICOM file; NotImage if there is none, with a reason that quotes nothing from the
    header.
    """
    pydicom = need("pydicom", "dicom")
    try:
        with quiet(), path.open("rb") as file:
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            meta = data.file_meta if hasattr(data, "file_meta") else {}
            if str(meta.get("MediaStorageSOPClassUID", "")) == _DICOMDIR:
                return NotImage(path, "DICOMDIR", damaged=False)
            if not data.get("SOPClassUID") or not data.get("SeriesInstanceUID"):
                return NotImage(path, "the header lacks its class or series", damaged=True)
            if "Rows" not in data or not data.get("Rows"):
                return NotImage(path, f"{data.SOPClassUID.name} holds no image", damaged=False)
            syntax = str(meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))
            left = path.stat().st_size - file.tell()
            return list(_planes(data, path, syntax, left))
    # A damaged file can raise anything. The message may quote the patient, the type does not.
    except Exception as error:  # noqa: BLE001
        return NotImage(path, f"the header is damaged ({type(error).__name__})", damaged=True)


def _planes(data: "Dataset", path: Path, syntax: str, left: int) -> Iterator[Plane]:
    frames = int(data.get("NumberOfFrames") or 1)
    groups = data.get("PerFrameFunctionalGroupsSequence")
    problem = _pixel_problem(data, syntax, left, frames)
    if groups is None and frames > 1:
        problem = problem or f"{frames} frames without a position each"
    if groups is not None and len(groups) != frames:
        problem = problem or f"{frames} frames, but positions for {len(groups)}"
    shared = (data.get("SharedFunctionalGroupsSequence") or [None])[0]
    for index in range(len(groups) if groups else 1):
        sources = [s for s in ((groups[index] if groups else None), shared, data) if s is not None]
        image_type = tuple(str(part).upper() for part in _many(_get(sources, "MRImageFrameTypeSequence", "FrameType")))
        echo = _number(_get(sources, "MREchoSequence", "EffectiveEchoTime")) or _number(_get(sources, None, "EchoTime"))
        b_value = _number(_get(sources, "MRDiffusionSequence", "DiffusionBValue"))
        b_value = _number(data.get("DiffusionBValue")) if b_value is None else b_value
        inversion = _number(_get(sources, "MRModifierSequence", "InversionTimes")) or _number(data.get("InversionTime"))
        words = [
            str(data.get(k) or "") for k in ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
        ]
        facts = Facts(
            description=" ".join(dict.fromkeys(word for word in words if word)),
            contrast_agent=None if "ContrastBolusAgent" not in data else str(data.ContrastBolusAgent or ""),
            repetition_ms=_number(_get(sources, "MRTimingAndRelatedParametersSequence", "RepetitionTime")),
            echo_ms=echo,
            inversion_ms=inversion,
            scanning=tuple(part for part in map(str, _many(data.get("ScanningSequence"))) if part in SCANNING),
            image_type=(image_type or tuple(str(part).upper() for part in _many(data.get("ImageType"))))
            + _component(data, sources),
            b_value=b_value,
            body_part=str(data.get("BodyPartExamined") or "").upper(),
        )
        slope = _number(_get(sources, "PixelValueTransformationSequence", "RescaleSlope"))
        colour = str(data.get("PhotometricInterpretation") or "")
        yield Plane(
            file=path,
            frame=index if groups else None,
            sop_class_uid=str(data.SOPClassUID),
            sop_instance_uid=str(data.get("SOPInstanceUID") or ""),
            study_uid=str(data.get("StudyInstanceUID") or ""),
            series_uid=str(data.SeriesInstanceUID),
            frame_of_reference_uid=str(data.get("FrameOfReferenceUID") or "") or None,
            identity=_identity(data),
            started=f"{data.get('StudyDate') or ''}{data.get('StudyTime') or ''}",
            facts=facts,
            modality=str(data.get("Modality") or "none"),
            generated=_generated(data),
            series_number=int(data.get("SeriesNumber") or 0),
            n_expected=int(data.get("ImagesInAcquisition") or 0) or None,
            rows=int(data.Rows),
            columns=int(data.get("Columns") or 0),
            spacing=_numbers(_get(sources, "PixelMeasuresSequence", "PixelSpacing")),
            orientation=_numbers(_get(sources, "PlaneOrientationSequence", "ImageOrientationPatient")),
            position=_numbers(_get(sources, "PlanePositionSequence", "ImagePositionPatient")),
            volume=(echo, b_value, _number(data.get("TemporalPositionIdentifier")), inversion),
            scaling=(
                1.0 if slope is None else slope,
                _number(_get(sources, "PixelValueTransformationSequence", "RescaleIntercept")) or 0.0,
            ),
            colour="" if colour == "MONOCHROME2" and int(data.get("SamplesPerPixel") or 1) == 1 else colour or "none",
            transfer_syntax=syntax,
            problem=problem,
        )


def _component(data: "Dataset", sources: "list[Dataset]") -> tuple[str, ...]:
    """PHASE, REAL or IMAGINARY where a field beside the image type says it; GE says it in a private one only."""
    said = str(_get(sources, "MRImageFrameTypeSequence", "ComplexImageComponent") or "").upper()
    if said in _GE_PARTS.values():
        return (said,)
    creator = data.get(_GE_CREATOR)
    element = data.get(_GE_COMPONENT)
    if creator is None or element is None or "GEMS_PARM_01" not in str(creator.value):
        return ()
    value = element.value
    if isinstance(value, bytes):  # without its dictionary, two bytes in the order of the file
        value = int.from_bytes(value[:2], "little" if data.is_little_endian is not False else "big")
    number = _number(value)
    part = None if number is None else _GE_PARTS.get(int(number))
    return () if part is None else (part,)


def _pixel_problem(data: "Dataset", syntax: str, left: int, frames: int) -> str:
    """Compare what the header claims with what the file can hold; `left` is the bytes from the pixel element on."""
    pydicom = need("pydicom", "dicom")
    claimed = int(data.Rows) * int(data.get("Columns") or 0) * int(data.get("SamplesPerPixel") or 1) * max(frames, 0)
    claimed = claimed * int(data.get("BitsAllocated") or 16) // 8
    if claimed <= 0:
        return "the header claims no pixels"
    uid = pydicom.uid.UID(syntax)
    if not uid.is_transfer_syntax:
        return "the transfer syntax is unknown"
    if uid.is_deflated:
        return ""  # its end cannot be told from here; reading it will
    if left <= 8:
        return "there are no pixels"
    if not uid.is_compressed and claimed > left - 8:
        return f"the header claims {claimed} bytes of pixels, the file holds {max(left - 12, 0)}: truncated or damaged"
    if uid.is_compressed and claimed > left * _MAX_COMPRESSION:
        return f"the header claims {claimed} bytes of pixels, far more than {left} compressed bytes can hold"
    return ""


def _generated(data: "Dataset") -> bool:
    """Whether the image says of itself that it was synthesised: such a one must never pass for acquired."""
    words = " ".join(
        [str(data.get("SeriesDescription") or ""), *(str(p) for p in _many(data.get("ImageType")))]
    ).upper()
    return "SYNTHETIC" in words or "GENERATED" in words


def _identity(data: "Dataset") -> Identity:
    others = [*_many(data.get("OtherPatientIDs")), *_many(data.get("OtherPatientNames"))]
    others += [data.get("AccessionNumber") or "", *str(data.get("ReferringPhysicianName") or "").split("^")]
    return Identity(
        name=str(data.get("PatientName") or ""),
        patient_id=str(data.get("PatientID") or ""),
        birth_date=str(data.get("PatientBirthDate") or ""),
        others=tuple(str(other) for other in others if other),
    )


def _get(sources: "list[Dataset]", sequence: str | None, keyword: str) -> Any:
    """Value of a field: of the frame's own group, else of the shared one, else of the file."""
    for source in sources:
        inner = source.get(sequence) if sequence else None
        if inner and keyword in inner[0]:
            return inner[0].get(keyword)
        if source is sources[-1] and keyword in source:
            return source.get(keyword)
    return None


def _many(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | bytes) or not hasattr(value, "__iter__") else list(value)


def _number(value: Any) -> float | None:
    found = _numbers(value)
    return found[0] if found else None


def _numbers(value: Any) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in _many(value))
    return numbers if np.isfinite(numbers).all() else ()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning and logging: its messages quote values, names included."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
