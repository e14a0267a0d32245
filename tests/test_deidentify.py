"""Nothing of the patient is left in a de-identified object."""

import pydicom
import pytest
from pydicom.sequence import Sequence

from ummgat.export.deidentify import Alias, UidMap, deidentify

CORE = """
AccessionNumber AcquisitionDate AcquisitionDateTime AcquisitionTime AdditionalPatientHistory AdmissionID
AdmittingDiagnosesDescription Allergies BranchOfService ClinicalTrialSiteID ClinicalTrialSiteName
ClinicalTrialSubjectID ConsultingPhysicianName ContentCreatorName CountryOfResidence DeviceSerialNumber EthnicGroup
ImageComments InstanceCreationDate InstanceCreationTime InstitutionAddress InstitutionName InstitutionalDepartmentName
IssuerOfPatientID MedicalAlerts MedicalRecordLocator MilitaryRank NameOfPhysiciansReadingStudy Occupation OperatorsName
OtherPatientIDs OtherPatientNames PatientAddress PatientAge PatientBirthDate PatientBirthName PatientBirthTime
PatientComments PatientInstitutionResidence PatientMotherBirthName PatientReligiousPreference PatientTelephoneNumbers
PerformedProcedureStepDescription PerformedProcedureStepID PerformedProcedureStepStartDate PerformedStationName
PerformingPhysicianName PhysiciansOfRecord ReasonForStudy ReferringPhysicianAddress ReferringPhysicianName
ReferringPhysicianTelephoneNumbers RegionOfResidence RequestedProcedureDescription RequestedProcedureID
RequestingPhysician RequestingService ResponsibleOrganization ResponsiblePerson SeriesDate SeriesTime SpecialNeeds
StationName StudyComments StudyDate StudyDescription StudyID StudyTime TimezoneOffsetFromUTC
"""
"""Text, name, date and time attributes of PS3.15 table E.1-1 that the basic profile empties, replaces or removes."""

KEPT_BECAUSE_OURS = {"ImageComments"}
SECRET = {"DA": "19610203", "TM": "081512", "DT": "19610203081512", "AS": "059Y"}


def secret_of(keyword):
    return SECRET.get(pydicom.datadict.dictionary_VR(pydicom.datadict.tag_for_keyword(keyword)), "Quastenflosser")


def an_object():
    data = pydicom.Dataset()
    data.SOPClassUID = pydicom.uid.MRImageStorage
    data.SOPInstanceUID, data.StudyInstanceUID = "1.2.3.4", "1.2.3.5"
    data.PatientName, data.PatientID, data.PatientSex = "Quastenflosser^Petronella", "ZX-4711", "F"
    data.PatientSize, data.PatientWeight = 1.71, 66.0
    return data


def clean(data, uids=None):
    deidentify(data, Alias("S001", uids or UidMap("salt")))
    return data


@pytest.mark.parametrize("keyword", [k for k in CORE.split() if k not in KEPT_BECAUSE_OURS])
def test_each_attribute_of_the_core_is_gone_also_inside_sequences(keyword):
    data, item = an_object(), pydicom.Dataset()
    for place in (data, item):
        setattr(place, keyword, secret_of(keyword))
    data.ReferencedInstanceSequence = Sequence([item])
    clean(data)
    assert secret_of(keyword) not in str(data)
    assert "Quastenflosser" not in data.to_json()


def test_the_label_stands_for_the_patient():
    data = clean(an_object())
    assert (data.PatientName, data.PatientID, data.PatientIdentityRemoved) == ("S001", "S001", "YES")
    assert not data.PatientSex
    assert "PatientSize" not in data
    assert "PatientWeight" not in data


@pytest.mark.parametrize("label", ["quastenflosser", "P_Petronella", "ZX-4711", "zx4711b", "S-19610203"])
def test_a_label_that_names_the_patient_is_refused_unsaid(label):
    data = an_object()
    data.PatientBirthDate = "19610203"
    with pytest.raises(ValueError, match="label names the patient") as caught:
        deidentify(data, Alias(label, UidMap()))
    assert label not in str(caught.value)


def test_private_attributes_go_at_every_depth():
    data, item = an_object(), pydicom.Dataset()
    for place in (data, item):
        block = place.private_block(0x0029, "ACME", create=True)
        block.add_new(1, "LO", "Quastenflosser")
        block.add_new(2, "DS", "1961")
    data.ReferencedInstanceSequence = Sequence([item])
    clean(data)
    assert not [element for element in data.iterall() if element.tag.is_private]


def test_other_ids_go_with_their_sequence():
    data, item = an_object(), pydicom.Dataset()
    item.PatientID, item.TypeOfPatientID = "ZX-4711", "TEXT"
    data.OtherPatientIDsSequence = Sequence([item])
    assert "OtherPatientIDsSequence" not in clean(data)


def test_unknown_attributes_go():
    """Of a newer standard, say: what it holds nobody knows."""
    data = an_object()
    data.add_new(0x00100F01, "LO", "Quastenflosser")
    data.add_new(0x00100F03, "UN", b"Quastenflosser")
    clean(data)
    assert 0x00100F01 not in data
    assert 0x00100F03 not in data


def test_uids_are_replaced_alike_wherever_they_occur():
    data, item, uids = an_object(), pydicom.Dataset(), UidMap("salt")
    item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID = "1.2.3.4", pydicom.uid.MRImageStorage
    data.SourceImageSequence = Sequence([item])
    clean(data, uids)
    other = clean(an_object(), uids)
    assert data.SOPInstanceUID == data.SourceImageSequence[0].ReferencedSOPInstanceUID == other.SOPInstanceUID
    assert data.StudyInstanceUID == other.StudyInstanceUID != data.SOPInstanceUID
    assert data.SOPInstanceUID.startswith("2.25.")
    assert data.SOPInstanceUID.is_valid
    assert data.SOPClassUID == item.ReferencedSOPClassUID == pydicom.uid.MRImageStorage


def test_uids_cannot_be_found_without_the_salt():
    assert UidMap()("1.2.3.4") != UidMap()("1.2.3.4")
    assert UidMap("a")("1.2.3.4") == UidMap("a")("1.2.3.4") != UidMap("b")("1.2.3.4")
    assert UidMap("a")("") == ""


def test_our_own_texts_stay():
    data = an_object()
    data.SeriesDescription, data.DerivationDescription = "SYNTHETIC T2 from T1", "SYNTHETIC: not acquired"
    clean(data)
    assert (data.SeriesDescription, data.DerivationDescription) == ("SYNTHETIC T2 from T1", "SYNTHETIC: not acquired")


def test_a_label_in_any_script_can_be_written(tmp_path):
    data = an_object()
    data.SpecificCharacterSet = "ISO_IR 100"
    deidentify(data, Alias("病人-7", UidMap()))
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert pydicom.dcmread(tmp_path / "a.dcm").PatientName == "病人-7"
