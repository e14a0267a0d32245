"""What is taken for an annotation of a lesion, and what its numbers mean."""

import numpy as np
import pytest

from bad_nifti import SHAPE, brain, brats_labels, brats_study, ellipsoid, save
from ummgat.core.study import LABELS, load_study
from ummgat.intake.layouts import find_study
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings


def prepared(source, out, **settings):
    return prepare_cohort(source, out, PrepareSettings(center="A", **settings))


@pytest.mark.parametrize(
    "name",
    [
        "mask",
        "X_mask",
        "t_mask_mask",
        "bet_mask",
        "stripped-mask",
        "mask_reg",
        "seg_nnunet",
        "X_pred_seg",
        "synthseg_labels",
        "auto_seg",
        "hdglio_seg",
        "aseg_label",
    ],
)
def test_masks_of_the_brain_and_of_software_are_no_annotations(tmp_path, name):
    save(tmp_path / "raw" / "X" / "t1.nii.gz", brain())
    save(tmp_path / "raw" / "X" / f"{name}.nii.gz", (brain() > 0).astype(np.uint8))
    report = prepared(tmp_path / "raw", tmp_path / "out")
    assert not report.failed
    assert load_study(tmp_path / "out" / "X").labels() is None
    assert f"{name}.nii.gz is not used" in " ".join(report.findings["X"])


def test_the_mask_of_the_inpainting_task_is_no_tumour(tmp_path):
    for sequence in ("t1n", "mask"):
        save(tmp_path / "raw" / "X" / f"X-{sequence}.nii.gz", brain() if sequence == "t1n" else brats_labels((1,)))
    study = find_study(tmp_path / "raw")
    assert study.labels is None
    assert "X-mask.nii.gz is not used" in study.findings[0]


@pytest.mark.parametrize("name", ["seg", "wt", "X_seg", "label", "lesion_mask", "tumor-mask", "tumour_mask"])
def test_what_says_that_it_is_a_lesion_is_one(tmp_path, name):
    save(tmp_path / "X" / "t1.nii.gz", brain())
    save(tmp_path / "X" / f"{name}.nii.gz", brats_labels((1,)))
    assert find_study(tmp_path).labels.name == f"{name}.nii.gz"


@pytest.mark.parametrize("name", ["seg", "wt"])
@pytest.mark.parametrize("share", [0.97, 1.0])
def test_what_fills_half_a_brain_is_no_lesion_whatever_its_name(tmp_path, name, share):
    save(tmp_path / "raw" / "X" / "t1.nii.gz", brain())
    inside = ellipsoid(radii=[share * 0.4 * n for n in SHAPE]).astype(np.uint8)
    save(tmp_path / "raw" / "X" / f"{name}.nii.gz", inside)
    report = prepared(tmp_path / "raw", tmp_path / "out")
    assert f"{name}.nii.gz. Found it in" in report.failed["X"]
    assert "brain mask" in report.failed["X"]


@pytest.mark.parametrize(
    ("values", "numbers", "et"),
    [((1, 2, 3), None, 3), ((1, 2, 3), "brats2023", 3), ((1, 2, 4), "brats2018", 4), ((2, 4), "brats2018", 4)],
)
def test_numbers_that_are_clear_or_said(tmp_path, values, numbers, et):
    labels = brats_labels(values)
    save(tmp_path / "raw" / "X" / "t1.nii.gz", brain())
    save(tmp_path / "raw" / "X" / "seg.nii.gz", labels)
    assert not prepared(tmp_path / "raw", tmp_path / "out", label_numbers=numbers).failed
    made = load_study(tmp_path / "out" / "X").labels()
    assert (made == LABELS["ET"]).sum() == (labels == et).sum() > 0


@pytest.mark.parametrize("values", [(1, 2, 4), (4,), (2, 4), (1, 2, 3, 4), (3, 4)])
def test_label_4_of_a_plain_folder_is_asked_about(tmp_path, values):
    save(tmp_path / "raw" / "X" / "t1.nii.gz", brain())
    save(tmp_path / "raw" / "X" / "seg.nii.gz", brats_labels(values))
    assert "cavity" in prepared(tmp_path / "raw", tmp_path / "out").failed["X"]
    assert not (tmp_path / "out" / "X").exists()
    if 3 in values:
        told = prepared(tmp_path / "raw", tmp_path / "out", label_numbers="brats2018")
        assert "Found 3; expected" in told.failed["X"]


def test_a_straight_edge_is_remarked_and_a_round_one_is_not(tmp_path):
    shape = (48, 48, 48)
    for name, cut in (("round", 0), ("cut", 24)):
        folder = brats_study(tmp_path / "raw" / name, sequences=(), labels=None)
        save(folder / f"{name}_t1.nii.gz", brain(shape=shape))
        lesion = ellipsoid(shape, radii=[9, 10, 11]).astype(np.uint8)
        lesion[:, :, :cut] = 0
        save(folder / f"{name}_seg.nii.gz", lesion)
    report = prepared(tmp_path / "raw", tmp_path / "out")
    assert "straight edge at the bottom" in " ".join(report.findings["cut"])
    assert "round" not in report.findings
