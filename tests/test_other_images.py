"""Images that are no T1, T2 or DWI although their names or headers hold these letters."""

import json

import pytest

from bad_nifti import brain, save
from test_intake_dicom import scan, write
from test_intake_files import rows_of
from ummgat.intake.layouts import classify_freely, find_study
from ummgat.intake.propose import Facts, propose

OTHERS = (
    "T2_star",
    "T2star",
    "T2_GRE",
    "t2-ffe",
    "T1_map",
    "T2_mapping",
    "T2_phase",
    "T1_localizer",
    "scout_T1",
    "DWI_ADC",
    "dwi_b0",
    "dwi_b_0",
    "PD_T2",
    "T1_subtraction",
    "t1_sub",
    "part-phase_T1w",
    "part-imag_T1w",
    "part-real_T1w",
    "synthetic_T2",
    "T1_MRA",
    "perfusion_T1",
)
TYPES = (
    ("ORIGINAL", "PRIMARY", "P", "ND"),
    ("ORIGINAL", "PRIMARY", "R", "ND"),
    ("ORIGINAL", "PRIMARY", "I", "ND"),
    ("ORIGINAL", "PRIMARY", "PHASE MAP", "P", "SE"),
    ("DERIVED", "PRIMARY", "PHASE"),
    ("ORIGINAL", "PRIMARY", "P_FFE", "P", "FFE"),
    ("ORIGINAL", "PRIMARY", "R_IR"),
    ("ORIGINAL", "PRIMARY", "IMAGINARY"),
    ("ORIGINAL", "PRIMARY", "M", "REAL"),
    ("DERIVED", "PRIMARY", "T1 MAP"),
    ("ORIGINAL", "PRIMARY", "LOCALIZER"),
    ("DERIVED", "SECONDARY", "ADC"),
)
T2 = {"repetition_ms": 4500, "echo_ms": 95, "scanning": ("SE",)}


@pytest.mark.parametrize("stem", OTHERS)
def test_a_name_with_a_word_that_excludes_is_no_sequence(tmp_path, stem):
    assert classify_freely("p1", f"p1_{stem}") is None
    save(tmp_path / "p1" / f"{stem}.nii.gz", brain())
    save(tmp_path / "p1" / "flair.nii.gz", brain(1))
    study = find_study(tmp_path, "folder")
    assert list(study.images) == ["flair"]
    assert study.left_out == {f"{stem}.nii.gz": ()}
    row = rows_of(tmp_path)[f"p1/{stem}.nii.gz"]
    assert (row.sequence, row.sure) == ("", "unknown")


@pytest.mark.parametrize(
    ("stem", "sequence"),
    [
        ("sub-01_dir-AP_T2w", "t2"),
        ("sub-01_ses-1_run-2_T1w", "t1"),
        ("T2-FLAIR", "flair"),
        ("dwi_b1000", "dwi"),
        ("dwi_b0_b1000", "dwi"),
        ("T1_gre", "t1"),
        ("t2_geometry", "t2"),
        ("T1w_brain", "t1"),
    ],
)
def test_words_that_exclude_are_whole_words(stem, sequence):
    assert classify_freely("", stem) == sequence


@pytest.mark.parametrize("part", ["phase", "real", "imag"])
def test_bids_parts_other_than_the_magnitude_are_asked_about(tmp_path, part):
    for seed, name in enumerate(("mag", part)):
        save(tmp_path / "sub-01" / "anat" / f"sub-01_part-{name}_T2w.nii.gz", brain(seed))
    found = rows_of(tmp_path)
    assert found["sub-01/anat/sub-01_part-mag_T2w.nii.gz"].sequence == "t2"
    row = found[f"sub-01/anat/sub-01_part-{part}_T2w.nii.gz"]
    assert (row.sequence, row.sure) == ("", "unknown")


@pytest.mark.parametrize("image_type", TYPES)
@pytest.mark.parametrize("named", [None, "t2"])
def test_image_types_of_no_magnitude_are_never_sure(image_type, named):
    found = propose(Facts("t2_tse_tra", image_type=image_type, **T2), named)
    assert (found.sequence, found.sure) == (None, "unknown")
    assert propose(Facts("t2_tse_tra", image_type=("ORIGINAL", "PRIMARY", "M"), **T2), named).sure == "sure"


@pytest.mark.parametrize("image_type", TYPES[:9])
def test_a_plain_file_whose_sidecar_says_phase_is_no_source(tmp_path, image_type):
    save(tmp_path / "p" / "t1.nii.gz", brain())
    save(tmp_path / "p" / "t2.nii.gz", brain(1))
    (tmp_path / "p" / "t2.json").write_text(json.dumps({"ImageType": image_type}))
    study = find_study(tmp_path)
    assert list(study.images) == ["t1"]
    assert "t2.nii.gz is ignored: its sidecar speaks of" in study.findings[0]


@pytest.mark.parametrize(("number", "magnitude"), [(0, True), (1, False), (2, False), (3, False)])
@pytest.mark.parametrize("vr", ["SS", "UN"])
def test_the_private_flag_of_ge_is_heard(tmp_path, number, magnitude, vr):
    pydicom = pytest.importorskip("pydicom")
    write(tmp_path / "d")
    for path in (tmp_path / "d").iterdir():
        data = pydicom.dcmread(path)
        data.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(
            0x2F, vr, number if vr == "SS" else number.to_bytes(2, "little")
        )
        data.save_as(path)
    (row,) = scan(tmp_path / "d").rows
    assert (row.proposal is not None) == magnitude, row.why
