"""NIfTI, MetaImage and NRRD files in known layouts, in BIDS, and lying about."""

import json
import struct

import nibabel as nib
import numpy as np
import pytest

from bad_nifti import LPS, brain, brats_study, claim_shape, save, truncate
from phantom_dicom import NAMED, axes, lopsided, same_place
from ummgat.intake.convert import convert
from ummgat.intake.privacy import Key
from ummgat.intake.scan import scan_folder

UCSF = ("T1_bias", "T1c_bias", "T2_bias", "FLAIR_bias", "SWI_bias", "DWI_bias", "ASL", "DTI_eddy_FA")


def rows_of(folder):
    return {row.series: row for row in scan_folder(folder, Key("00" * 16)).rows}


def told(folder):
    """{series: (subject, session, sequence)}"""
    return {name: (row.subject, row.session, row.sequence) for name, row in rows_of(folder).items()}


def files(folder, *names, sidecar=None):
    """Small images that all differ."""
    for seed, name in enumerate(names):
        save(folder / name, brain(seed)[:8, :8, :8])
        if sidecar is not None:
            (folder / name).with_name(name.rpartition("/")[2].partition(".")[0] + ".json").write_text(
                json.dumps(sidecar)
            )


def itk_image(path, image, affine, **options):
    """Write with SimpleITK, which speaks LPS."""
    itk = pytest.importorskip("SimpleITK")
    made = itk.GetImageFromArray(image.astype(np.int16).T)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    made.SetSpacing(spacing.tolist())
    made.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    made.SetOrigin(lps[:3, 3].tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    itk.WriteImage(made, str(path), **options)
    return path


# ---------------------------------------------------------------- layouts


def test_brats_of_both_spellings(tmp_path):
    brats_study(tmp_path / "HGG" / "P1")
    files(tmp_path, *(f"MEN-001/MEN-001-{name}.nii.gz" for name in ("t1n", "t1c", "t2w", "t2f", "seg")))
    found = told(tmp_path)
    assert found["HGG/P1/P1_t1ce.nii.gz"] == ("P1", "", "t1ce")
    assert found["MEN-001/MEN-001-t2f.nii.gz"] == ("MEN-001", "", "flair")
    assert sorted(sequence for _, _, sequence in found.values()) == sorted(["t1", "t1ce", "t2", "flair", "seg"] * 2)


def test_ucsf_pdgm(tmp_path):
    files(tmp_path, *(f"UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_{name}.nii.gz" for name in (*UCSF, "T2")))
    found = told(tmp_path)
    assert {s for s, _, _ in found.values()} == {"UCSF-PDGM-0004"}
    by_sequence = {sequence: name for name, (_, _, sequence) in found.items() if sequence}
    assert set(by_sequence) == {"t1", "t1ce", "t2", "flair", "swi", "dwi", "asl", "hardi"}
    assert by_sequence["t2"].endswith("T2_bias.nii.gz")  # the uncorrected one is left open


def test_a_follow_up_is_refused_without_its_path(tmp_path):
    files(tmp_path, "UCSF-PDGM-0004_FU007d_nifti/UCSF-PDGM-0004_FU007d_T1_bias.nii.gz")
    (row,) = rows_of(tmp_path).values()
    assert "Second exam of one patient" in row.findings
    assert str(tmp_path) not in row.findings


def test_bids(tmp_path):
    names = (
        "sub-01_ses-2_T1w",
        "sub-01_ses-2_ce-gadolinium_T1w",
        "sub-01_ses-2_acq-tse_T2w",
        "sub-01_ses-2_FLAIR",
        "sub-01_ses-2_PDw",
    )
    files(tmp_path, *(f"sub-01/ses-2/anat/{name}.nii.gz" for name in names))
    files(tmp_path, "derivatives/x/sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz")
    found = {name.rpartition("/")[2]: value for name, value in told(tmp_path).items() if "derivatives" not in name}
    assert {value[:2] for value in found.values()} == {("sub-01", "ses-2")}
    assert [found[f"{name}.nii.gz"][2] for name in names] == ["t1", "t1ce", "t2", "flair", ""]
    assert told(tmp_path)["derivatives/x/sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"][2] == "none"


def test_a_sidecar_speaks_up(tmp_path):
    """BIDS gives seconds: a T2 named T1w, and a T1w with contrast agent."""
    files(
        tmp_path, "sub-1/sub-1_T1w.nii.gz", sidecar={"RepetitionTime": 4.5, "EchoTime": 0.095, "ScanningSequence": "SE"}
    )
    files(tmp_path, "sub-2/sub-2_T1w.nii.gz", sidecar={"ContrastBolusIngredient": "GADOLINIUM"})
    files(
        tmp_path,
        "sub-3/sub-3_T1w.nii.gz",
        sidecar={"RepetitionTime": 0.55, "EchoTime": 0.012, "ScanningSequence": "SE"},
    )
    files(
        tmp_path,
        "sub-4/anat/image.nii.gz",
        sidecar={"SeriesDescription": "t2_tse", "RepetitionTime": 4.5, "EchoTime": 0.09},
    )
    found = rows_of(tmp_path)
    one, two, three, four = (found[name] for name in sorted(found))
    assert (one.sequence, "looks like t2" in one.why) == ("", True)
    assert (two.sequence, "contrast agent" in two.why) == ("", True)
    assert three.sequence == "t1"
    assert (four.subject, four.sequence) == ("sub-4", "t2")


def test_one_folder_per_subject_and_one_for_all(tmp_path):
    files(
        tmp_path,
        "Ann/T1w.nii.gz",
        "Ann/x_t2_flair.nii.gz",
        "Ann/brain_mask.nii.gz",
        "Ann/t1_gd.nii.gz",
        "Ann/adc.nii.gz",
    )
    files(tmp_path, "flat/p1_t1.nii.gz", "flat/p1_t2.nii", "flat/p2 b_t1.nii.gz", "flat/p2 b_T1-Gd.nii.gz")
    assert told(tmp_path) == {
        "Ann/T1w.nii.gz": ("Ann", "", "t1"),
        "Ann/x_t2_flair.nii.gz": ("Ann", "", "flair"),
        "Ann/brain_mask.nii.gz": ("Ann", "", "brain_mask"),
        "Ann/t1_gd.nii.gz": ("Ann", "", "t1ce"),
        "Ann/adc.nii.gz": ("Ann", "", ""),
        "flat/p1_t1.nii.gz": ("p1", "", "t1"),
        "flat/p1_t2.nii": ("p1", "", "t2"),
        "flat/p2 b_t1.nii.gz": ("p2 b", "", "t1"),
        "flat/p2 b_T1-Gd.nii.gz": ("p2 b", "", "t1ce"),
    }


def test_folders_of_one_name_are_two_subjects(tmp_path):
    files(tmp_path, "A/p1/t1.nii.gz", "B/p1/anat/t1.nii.gz")
    assert [subject for subject, _, _ in told(tmp_path).values()] == ["A_p1", "B_p1"]


def test_ambiguous_names_and_repeats_are_asked_about(tmp_path):
    files(tmp_path, "p/flair_in_t1.nii.gz", "p/T2w.nii.gz", "p/b_t2.nii.gz", "p/thing.nii.gz")
    found = rows_of(tmp_path / "p")
    assert {row.sequence for row in found.values()} == {""}
    assert "words for flair, t1" in found["flair_in_t1.nii.gz"].why


def test_what_is_not_acquired_or_prepared_already_is_left_out(tmp_path):
    files(tmp_path, "p/t1.nii.gz", "p/t1ce_generated.nii.gz", "p/t2.nii.gz")
    (tmp_path / "p" / "t2.json").write_text('{"generated": true}')
    files(tmp_path, "done/t1.nii")
    (tmp_path / "done" / "study.json").write_text("{}")
    assert told(tmp_path) == {
        "p/t1.nii.gz": ("p", "", "t1"),
        "p/t1ce_generated.nii.gz": ("p", "", "none"),
        "p/t2.nii.gz": ("p", "", "none"),
    }


def test_folders_named_like_a_patient_get_an_invented_label(tmp_path):
    dicom = pytest.importorskip("ummgat.phantom.dicom")
    pytest.importorskip("pydicom")
    dicom.write_series(lopsided(), axes("axial"), tmp_path / "Juergen" / "d", NAMED, "t2")
    files(tmp_path, "MÜLLER-LÜDENSCHEIDT J/t1.nii.gz", "19610203/t1.nii.gz", "fine/t1.nii.gz")
    shown = "\n".join(str(row.as_dict()) for row in rows_of(tmp_path).values()).lower()
    assert "müller" not in shown
    assert "1961" not in shown
    assert "fine/t1.nii.gz" in shown


def test_sidecars_that_name_the_patient_are_heard_but_not_repeated(tmp_path):
    who = {
        "PatientName": "Doe^Johnny",
        "PatientID": "77123",
        "SeriesDescription": "t2_tse Johnny",
        "EchoTime": 0.09,
        "RepetitionTime": 5,
    }
    files(tmp_path, "77123/image.nii.gz", sidecar=who)
    (row,) = rows_of(tmp_path).values()
    assert (row.sequence, row.description) == ("t2", "t2_tse …")
    assert row.series.startswith("file:")
    assert "77123" not in str(row.as_dict())


# ---------------------------------------------------------------- headers


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd", ".nhdr"])
@pytest.mark.parametrize("kind", ["oblique", "mirrored", "sagittal"])
def test_metaimage_and_nrrd_lie_where_they_should(tmp_path, suffix, kind):
    path = itk_image(tmp_path / "p" / f"t2{suffix}", lopsided(), axes(kind))
    assert told(tmp_path) == {f"p/t2{suffix}": ("p", "", "t2")}
    same_place(lopsided(), axes(kind), convert(path, tmp_path / "out.nii.gz").path)


@pytest.mark.parametrize("kind", ["oblique", "mirrored"])
def test_nifti_lies_where_it_should(tmp_path, kind):
    path = save(tmp_path / "p" / "t2.nii.gz", lopsided().astype(np.int16), axes(kind))
    assert rows_of(tmp_path)["p/t2.nii.gz"].findings == ""
    same_place(lopsided(), axes(kind), convert(path, tmp_path / "out.nii").path)


def test_a_compressed_metaimage_is_no_lie(tmp_path):
    itk_image(tmp_path / "p" / "t2.mha", np.zeros((40, 40, 40)), LPS, useCompression=True)
    assert told(tmp_path)["p/t2.mha"][2] == "t2"


def header_text(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("t2.mha", b"DimSize = 16 20 12", b"DimSize = 16000 20000 12000", "more data than the file can hold"),
        ("t2.nrrd", b"sizes: 16 20 12", b"sizes: 16000 20000 12000", "more data than the file can hold"),
        ("t2.mha", b"ElementSpacing = 2 2.5 4", b"ElementSpacing = 2 0 4", "geometry|cannot read"),
        ("t2.mhd", b"t2.raw", b"../t2.raw", "detached header"),
        ("t2.mhd", b"t2.raw", b"gone.raw", "detached header"),
        ("t2.nrrd", b"NRRD", b"XXXX", "cannot read"),
    ],
)
def test_broken_metaimage_and_nrrd(tmp_path, name, old, new, problem):
    path = itk_image(tmp_path / "p" / name, lopsided(), axes("axial"), useCompression=False)
    header_text(path, old, new)
    (row,) = rows_of(tmp_path).values()
    assert row.sequence == "none"
    assert pytest.importorskip("re").search(problem, row.findings), row.findings
    assert str(tmp_path) not in row.findings
    with pytest.raises(ValueError, match="Found"):
        convert(path, tmp_path / "out.nii")


def test_a_metaimage_cut_short(tmp_path):
    path = truncate(itk_image(tmp_path / "p" / "t2.mha", lopsided(), axes("axial"), useCompression=False))
    assert "truncated" in rows_of(tmp_path)["p/t2.mha"].findings
    with pytest.raises(ValueError, match="truncated"):
        convert(path, tmp_path / "out.nii")


def four_d(path):
    save(path, np.zeros((4, 4, 4, 3), np.float32))


def no_spacing(path):
    save(path, lopsided())
    content = bytearray(path.read_bytes())
    struct.pack_into("<8f", content, 76, 1, 0, 0, 0, 1, 1, 1, 1)  # pixdim
    struct.pack_into("<2h", content, 252, 1, 0)  # qform only
    path.write_bytes(content)


def sheared(path):
    affine = axes("axial")
    affine[0, 2] = 0.4
    save(path, lopsided(), affine)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (four_d, "not a single volume"),
        (no_spacing, "no usable geometry"),
        (sheared, "sheared: the axes are 5.7° off"),
        (lambda path: claim_shape(save(path, lopsided()), (9000, 9000, 9000)), "more data than the file can hold"),
        (lambda path: path.parent.mkdir() or path.write_bytes(b"no image"), "not readable as NIfTI"),
    ],
)
def test_broken_nifti(tmp_path, damage, problem):
    damage(tmp_path / "p" / "t2.nii")
    (row,) = rows_of(tmp_path).values()
    assert (row.sequence, problem in row.findings) == ("none", True), row.findings
    assert str(tmp_path) not in row.findings


def test_doubts_about_left_and_right_are_asked_about(tmp_path):
    image = nib.Nifti1Image(lopsided(), axes("axial"))
    image.set_qform(axes("axial") @ np.diag([-1, 1, 1, 1]), code=1)
    image.header["sform_code"] = 1
    (tmp_path / "p").mkdir()
    nib.save(image, tmp_path / "p" / "t2.nii")
    unsaid = nib.Nifti1Image(lopsided(), None)
    nib.save(unsaid, tmp_path / "p" / "flair.nii")
    found = rows_of(tmp_path)
    assert (found["p/t2.nii"].sequence, "mirror images" in found["p/t2.nii"].findings) == ("", True)
    assert (found["p/flair.nii"].sequence, "which side is left" in found["p/flair.nii"].findings) == ("", True)
