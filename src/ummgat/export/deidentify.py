"""Take the patient out of a DICOM object: names, IDs, dates, places and people, with every UID replaced consistently.

After the core of the Basic Application Confidentiality Profile (DICOM PS3.15, table E.1-1), by rules instead of its
list of some hundred attributes, so that one not thought of falls on the safe side. For objects that `dicom` and `seg`
made, whose own texts (`KEPT_TEXT`) hold nothing of the patient.
"""

import hashlib
import secrets
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ummgat.core.extras import need
from ummgat.intake.privacy import Identity, redact

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

_EMPTIED = """
PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID ContentCreatorName
AcquisitionNumber PositionReferenceIndicator
"""
EMPTIED = set(_EMPTIED.split())
"""Attributes that must be there but may be empty (type 2)."""

REPLACED = {"ContentDate": "19000101", "ContentTime": "000000", "DeviceSerialNumber": "0"}
"""Attributes that some objects must have filled (type 1)."""

_REMOVED = """
PatientSize PatientWeight PatientBodyMassIndex PatientSexNeutered PregnancyStatus SmokingStatus OtherPatientIDsSequence
IssuerOfPatientIDQualifiersSequence PatientInsurancePlanCodeSequence PatientPrimaryLanguageCodeSequence
EthnicGroupCodeSequence ReferencedPatientSequence ReferencedPatientPhotoSequence
SourcePatientGroupIdentificationSequence PatientSpeciesCodeSequence PatientBreedCodeSequence ReferencedStudySequence
ProcedureCodeSequence ReasonForPerformedProcedureCodeSequence AdmittingDiagnosesCodeSequence
IssuerOfAccessionNumberSequence ReferringPhysicianIdentificationSequence ConsultingPhysicianIdentificationSequence
PhysiciansOfRecordIdentificationSequence PhysiciansReadingStudyIdentificationSequence OperatorIdentificationSequence
InstitutionCodeSequence InstitutionalDepartmentTypeCodeSequence RequestAttributesSequence RequestingServiceCodeSequence
ReferencedPerformedProcedureStepSequence ContentCreatorIdentificationCodeSequence OriginalAttributesSequence
DeidentificationMethodCodeSequence ResponsiblePersonRole
"""
REMOVED = set(_REMOVED.split())
"""Attributes about the patient, the visit and the people that the rules on value types would leave."""

_KEPT_TEXT = """
SeriesDescription ProtocolName ImageComments DerivationDescription ContentDescription Manufacturer
ManufacturerModelName SoftwareVersions ContributionDescription CodeValue CodeMeaning CodingSchemeDesignator
CodingSchemeVersion CodingSchemeName CodingSchemeRegistry CodingSchemeExternalID CodingSchemeResponsibleOrganization
CodingSchemeURL LongCodeValue URNCodeValue SegmentLabel SegmentDescription SegmentAlgorithmName AlgorithmName
AlgorithmVersion TrackingID RescaleType StackID DimensionDescriptionLabel LUTExplanation WindowCenterWidthExplanation
"""
KEPT_TEXT = set(_KEPT_TEXT.split())
"""Texts written by this package, or that name codes and devices; every other text is removed."""

_PEOPLE_AND_TIMES = {"PN", "DA", "DT", "TM", "AS"}
_TEXTS = {"LO", "SH", "LT", "ST", "UT", "UC", "UR", "UN"}
_STANDARD = "1.2.840.10008."  # classes, transfer syntaxes: DICOM's own, the same for everybody

METHOD = "UMMGAT: names, IDs, dates, places, private removed; UIDs new"


class UidMap:
    """Replaces UIDs: the same old one always by the same new one, from which nobody without the salt finds back."""

    def __init__(self, salt: str | None = None) -> None:
        self._salt = (salt or secrets.token_hex(16)).encode()

    def __call__(self, uid: str) -> str:
        """Give the replacement; DICOM's own UIDs stay."""
        if not uid or uid.startswith(_STANDARD):
            return uid
        digest = hashlib.blake2b(uid.encode("ascii", "replace"), key=self._salt[:64], digest_size=16).digest()
        return f"2.25.{uuid.UUID(bytes=digest, version=4).int}"


@dataclass(frozen=True)
class Alias:
    """Who the patient is instead: one per subject, with one `UidMap` per export."""

    label: str
    uids: UidMap = field(repr=False)


def deidentify(data: "Dataset", alias: Alias) -> None:
    """Change `data` in place so that nothing of the patient is left in its header; pixels are not looked at.

    Raises
    ------
    ValueError
        If the label itself is, or holds, the patient's name, number or birth date.
    """
    known = Identity(
        str(data.get("PatientName", "")), str(data.get("PatientID", "")), str(data.get("PatientBirthDate", ""))
    )
    if redact(alias.label, frozenset(known.words())) != alias.label:
        raise ValueError(
            "Subject's label names the patient: --deidentify. Found the patient's name, number or birth date in it; "
            "expected an invented label. Rename the study's folder and its files, or use the labels of `ummgat "
            "inspect`."
        )
    _clean(data, alias.uids)
    data.SpecificCharacterSet = "ISO_IR 192"
    data.PatientName = data.PatientID = alias.label
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = METHOD
    meta = getattr(data, "file_meta", None)
    if meta is not None and "MediaStorageSOPInstanceUID" in meta:
        meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID


def _clean(data: "Dataset", uids: UidMap) -> None:
    for element in list(data):
        if element.keyword in EMPTIED:
            element.value = None
        elif element.keyword in REPLACED:
            element.value = REPLACED[element.keyword]
        elif _is_removed(element):
            del data[element.tag]
        elif element.VR == "SQ":
            for item in element.value:
                _clean(item, uids)
        elif element.VR == "UI" and element.value:
            multi = need("pydicom", "dicom").multival.MultiValue
            element.value = (
                [uids(u) for u in element.value] if isinstance(element.value, multi) else uids(element.value)
            )


def _is_removed(element: "DataElement") -> bool:
    # Private attributes have no keyword, nor have those that this version of pydicom does not know.
    if element.keyword in REMOVED or element.VR in _PEOPLE_AND_TIMES or not element.keyword:
        return True
    return element.VR in _TEXTS and element.keyword not in KEPT_TEXT
