"""What an object that is computed from a DICOM series takes over from it, and how files of such objects are read and
written.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ummgat.core.extras import need
from ummgat.core.files import atomic_path
from ummgat.core.version import __version__
from ummgat.intake.headers import quiet
from ummgat.intake.series import SourceSeries

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER, MODEL = "UMMGAT (software)", "ummgat"

_PATIENT = """
PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence TypeOfPatientID OtherPatientIDs
OtherPatientIDsSequence OtherPatientNames PatientBirthDate PatientBirthTime PatientSex EthnicGroup PatientComments
QualityControlSubject PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence
"""
_STUDY = """
StudyInstanceUID StudyDate StudyTime StudyID AccessionNumber IssuerOfAccessionNumberSequence ReferringPhysicianName
StudyDescription PhysiciansOfRecord NameOfPhysiciansReadingStudy ProcedureCodeSequence ReferencedStudySequence
PatientAge PatientSize PatientWeight AdmissionID AdmittingDiagnosesDescription Occupation AdditionalPatientHistory
ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName
ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ClinicalTrialTimePointID
"""
_NEEDED = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName"
)
_SPACE = "PositionReferenceIndicator PatientPosition BodyPartExamined AnatomicRegionSequence"
_LOSSY = "LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod"


def read_header(series: SourceSeries, plane: int = 0) -> "Dataset":
    """Header of one plane of a series, without pixels and without values that cannot be read.

    Attributes of patient and study that must be there are, maybe empty.

    Raises
    ------
    ValueError
        The file is gone or damaged. Names the series, not the file: paths may hold the patient's name.
    """
    pydicom = need("pydicom", "dicom")
    try:
        with quiet():
            data = pydicom.dcmread(series.instances[plane].file, stop_before_pixels=True, force=True)
            for tag in list(data.keys()):
                if not _readable(data, tag):
                    del data[tag]
            uid = str(data.get("SOPInstanceUID", ""))
    # Damaged headers raise whatever they like, and the message may quote the patient.
    except Exception as error:  # noqa: BLE001
        raise _unreadable(series, type(error).__name__) from None
    if uid != series.instances[plane].sop_instance_uid:
        raise _unreadable(series, "another object in its place")
    for keyword in _NEEDED.split():
        if keyword not in data:
            setattr(data, keyword, "")
    return data


def _readable(data: "Dataset", tag: Any) -> bool:
    """Whether the value is what its type promises: no words for a number or a date."""
    valuerep = need("pydicom.valuerep", "dicom")
    try:
        element = data[tag]
        kind = {"DA": valuerep.DA, "TM": valuerep.TM}.get(element.VR)
        if kind is not None and element.VM == 1:
            kind(element.value)
    except Exception:  # noqa: BLE001 (its message quotes the value)
        return False
    return True


def _unreadable(series: SourceSeries, why: str) -> ValueError:
    return ValueError(
        f"Source series cannot be read again: {series.series_id}. Found {why}; expected the files that were there when "
        f"the folder was looked at. Restore them and run again."
    )


def inherited(source: "Dataset") -> "Dataset":
    """New dataset with the patient, the study, and the place in space.

    Nothing of the scan itself is taken over: no echo times, no contrast agent, no series, no private attributes. Nor is
    the scanner, not even as ContributingEquipmentSequence: dcm2niix takes the maker and the hospital named there for
    the image's own, and would scale by that maker's private rules.
    """
    pydicom = need("pydicom", "dicom")
    data: Dataset = pydicom.Dataset()
    if "SpecificCharacterSet" in source:
        data.SpecificCharacterSet = source.SpecificCharacterSet
    _copy(source, data, f"{_PATIENT} {_STUDY} {_SPACE} {_LOSSY}")
    data.Manufacturer, data.ManufacturerModelName, data.SoftwareVersions = MANUFACTURER, MODEL, __version__
    return data


def _copy(source: "Dataset", target: "Dataset", keywords: str) -> None:
    for keyword in keywords.split():
        if keyword in source:
            element = copy.deepcopy(source[keyword])
            target.add(element)
            for item in element.value if element.VR == "SQ" else ():
                item.remove_private_tags()


def code(value: str, scheme: str, meaning: str) -> "Dataset":
    """Item of a code sequence."""
    data: Dataset = need("pydicom", "dicom").Dataset()
    data.CodeValue, data.CodingSchemeDesignator, data.CodeMeaning = value, scheme, meaning
    return data


def new_uid() -> str:
    """UID that was never used before."""
    return str(need("pydicom.uid", "dicom").generate_uid(prefix=None))


def save(data: "Dataset", path: Path) -> None:
    """Write as a DICOM file, explicit VR little endian, under its name only when whole."""
    pydicom = need("pydicom", "dicom")
    if not hasattr(data, "file_meta"):
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    with quiet(), atomic_path(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)
