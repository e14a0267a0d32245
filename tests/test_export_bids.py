"""Completed studies as BIDS derivatives."""

import json
import os
import re

import nibabel as nib
import numpy as np
import pytest

from export_world import PROVENANCE, affine_of, asymmetric, write_completed
from ummgat.export.bids import bids_label
from ummgat.export.cohort import export_bids
from ummgat.intake.layouts import find_studies

SHAPE = (12, 10, 8)
GRID = (SHAPE, affine_of("oblique"))

NAME = re.compile(r"sub-[A-Za-z0-9]+(_ce-gadolinium)?(_desc-[A-Za-z0-9]+)?_[A-Za-z0-9]+\.(nii\.gz|json|tsv)")


@pytest.fixture
def completed(tmp_path):
    write_completed(tmp_path / "completed", GRID, asymmetric(SHAPE), "Phantom_A_001")
    told = {"target": "A/t1ce", "warnings": ["contrast uptake is not in the other sequences"]}
    write_completed(tmp_path / "completed", GRID, asymmetric(SHAPE), "sub-07", told, "t1ce_generated")
    return tmp_path / "completed"


def files_of(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_names_and_tree(completed, tmp_path):
    report = export_bids(completed, tmp_path / "bids")
    assert not report.failed
    out = tmp_path / "bids"
    assert files_of(out) == [
        ".bidsignore",
        "README",
        "dataset_description.json",
        "participants.tsv",
        "sub-07/.ummgat.json",
        "sub-07/anat/sub-07_ce-gadolinium_desc-reliability_T1wmap.json",
        "sub-07/anat/sub-07_ce-gadolinium_desc-reliability_T1wmap.nii.gz",
        "sub-07/anat/sub-07_ce-gadolinium_desc-synthetic_T1w.json",
        "sub-07/anat/sub-07_ce-gadolinium_desc-synthetic_T1w.nii.gz",
        "sub-07/anat/sub-07_desc-preproc_T1w.json",
        "sub-07/anat/sub-07_desc-preproc_T1w.nii.gz",
        "sub-PhantomA001/.ummgat.json",
        "sub-PhantomA001/anat/sub-PhantomA001_desc-preproc_T1w.json",
        "sub-PhantomA001/anat/sub-PhantomA001_desc-preproc_T1w.nii.gz",
        "sub-PhantomA001/anat/sub-PhantomA001_desc-reliability_T2wmap.json",
        "sub-PhantomA001/anat/sub-PhantomA001_desc-reliability_T2wmap.nii.gz",
        "sub-PhantomA001/anat/sub-PhantomA001_desc-synthetic_T2w.json",
        "sub-PhantomA001/anat/sub-PhantomA001_desc-synthetic_T2w.nii.gz",
    ]
    assert all(NAME.fullmatch(path.name) for path in out.rglob("sub-*_*"))
    assert (out / "participants.tsv").read_text() == "participant_id\nsub-07\nsub-PhantomA001\n"
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "ummgat"
    assert {"Name", "BIDSVersion"} <= set(description)


def test_images_keep_voxels_and_places_and_say_synthetic(completed, tmp_path):
    export_bids(completed, tmp_path / "bids")
    image = nib.load(tmp_path / "bids/sub-PhantomA001/anat/sub-PhantomA001_desc-synthetic_T2w.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), asymmetric(SHAPE))
    assert np.allclose(image.affine, GRID[1], atol=1e-4)
    assert bytes(image.header["descrip"]).startswith(b"SYNTHETIC T2 from T1 by UMMGAT 0123456789abcdef")
    acquired = nib.load(tmp_path / "bids/sub-PhantomA001/anat/sub-PhantomA001_desc-preproc_T1w.nii.gz")
    assert not bytes(acquired.header["descrip"]).strip(b"\0")


def test_sidecars_carry_the_provenance_without_file_names(completed, tmp_path):
    export_bids(completed, tmp_path / "bids")
    path = tmp_path / "bids/sub-07/anat/sub-07_ce-gadolinium_desc-synthetic_T1w.json"
    told = json.loads(path.read_text())
    expected = PROVENANCE | {"target": "A/t1ce", "warnings": ["contrast uptake is not in the other sequences"]}
    assert {k: told[k] for k in expected} == expected
    assert told["Sources"] == ["bids::sub-07/anat/sub-07_desc-preproc_T1w.nii.gz"]
    assert told["Description"].startswith("SYNTHETIC: not acquired by a scanner. T1ce computed")
    assert "contrast uptake" in told["Description"]
    assert "source_files" not in told
    assert not [key for key in told if "Contrast" in key]
    assert "generated" not in json.loads((path.parent / "sub-07_desc-preproc_T1w.json").read_text())


def test_what_is_exported_never_comes_back_as_acquired(completed, tmp_path):
    export_bids(completed, tmp_path / "bids")
    for folder in (tmp_path / "bids").glob("sub-*"):
        (study,), _ = find_studies(folder, "folder")
        assert [path.name for path in study.images.values()] == [f"{folder.name}_desc-preproc_T1w.nii.gz"]


def test_headers_that_name_somebody_are_written_anew(completed, tmp_path):
    path = completed / "sub-07/sub-07_t1.nii.gz"
    image = nib.load(path)
    image.header["descrip"] = b"Quastenflosser"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Quastenflosser"))
    nib.save(image, path)
    export_bids(completed, tmp_path / "bids")
    written = nib.load(tmp_path / "bids/sub-07/anat/sub-07_desc-preproc_T1w.nii.gz")
    assert not written.header.extensions
    assert b"Quasten" not in bytes(written.header["descrip"])


def test_a_bad_study_is_reported_and_the_rest_is_done(completed, tmp_path):
    (completed / "sub-07/sub-07_t1ce_generated.json").unlink()
    report = export_bids(completed, tmp_path / "bids")
    assert list(report.done) == ["Phantom_A_001"]
    assert "sub-07_t1ce_generated.json" in report.failed["sub-07"]
    assert not (tmp_path / "bids/sub-07").exists()


def test_a_sidecar_without_provenance_is_refused(completed, tmp_path):
    (completed / "sub-07/sub-07_t1ce_generated.json").write_text('{"target": "A/t1ce"}')
    report = export_bids(completed, tmp_path / "bids")
    assert "does not say how the image was generated" in report.failed["sub-07"]


def test_two_names_with_one_label_are_not_mixed(completed, tmp_path):
    write_completed(completed, GRID, asymmetric(SHAPE), "phantom-a-001")
    report = export_bids(completed, tmp_path / "bids")
    assert "Two subjects have one BIDS label" in report.failed["phantom-a-001"]


def test_a_name_without_letters_is_refused():
    with pytest.raises(ValueError, match="no BIDS label: 病人"):
        bids_label("病人")


def test_nothing_is_overwritten_unasked(completed, tmp_path):
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids" / "letter.txt").write_text("not ours")
    with pytest.raises(FileExistsError, match="exists already"):
        export_bids(completed, tmp_path / "bids")
    assert not export_bids(completed, tmp_path / "bids", overwrite=True).failed


def test_a_second_export_finds_all_up_to_date_and_a_changed_study_is_told(completed, tmp_path):
    first = export_bids(completed, tmp_path / "bids")
    again = export_bids(completed, tmp_path / "bids")
    assert (again.done, again.up_to_date, again.failed) == ({}, list(first.done), {})
    participants = (tmp_path / "bids" / "participants.tsv").read_text()
    assert participants == "participant_id\nsub-07\nsub-PhantomA001\n"
    image = next(p for p in sorted((completed / "Phantom_A_001").iterdir()) if p.name.endswith("nii.gz"))
    os.utime(image, ns=(1, 1))
    changed = export_bids(completed, tmp_path / "bids")
    assert list(changed.failed) == ["Phantom_A_001"]
    assert "made from other files" in changed.failed["Phantom_A_001"]
    assert not export_bids(completed, tmp_path / "bids", overwrite=True).failed
    assert export_bids(completed, tmp_path / "bids").up_to_date == list(first.done)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()])
def test_no_studies_are_said(tmp_path, make):
    make(tmp_path / "completed")
    with pytest.raises((ValueError, FileNotFoundError), match=r"ompleted stud.*Found no folder"):
        export_bids(tmp_path / "completed", tmp_path / "bids")


def test_aligned_images_say_so(tmp_path):
    write_completed(tmp_path / "completed", GRID, asymmetric(SHAPE), "p", stem="t2_generated_as-B")
    export_bids(tmp_path / "completed", tmp_path / "bids")
    assert (tmp_path / "bids/sub-p/anat/sub-p_desc-syntheticAligned_T2w.nii.gz").is_file()
