"""Where a header says that voxels are: trusted, doubted or refused in the same way everywhere, and carried along."""

import re

import nibabel as nib
import numpy as np
import pytest

from bad_nifti import brain, save
from phantom_dicom import lopsided
from test_complete import A, some_of
from test_intake_files import itk_image, rows_of
from ummgat.completion.cohort import complete
from ummgat.core.placement import disagreement, header_of
from ummgat.core.volume import read_grid, read_volume
from ummgat.intake.convert import convert
from ummgat.intake.images import read_itk
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.images import StudyError, prepare_images
from ummgat.prepare.pipeline import align_subject
from ummgat.prepare.settings import PrepareSettings

FIELDS = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x")
LPS = np.array([[-1.0, 0, 0, 19], [0, -1, 0, 23], [0, 0, 1, 0], [0, 0, 0, 1]])


def turned(seed):
    """A rigid motion by up to 40 degrees and 90 mm."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    axis *= rng.uniform(0.05, 0.7) / np.linalg.norm(axis)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.linalg.norm(axis)
    motion = np.eye(4)
    motion[:3, :3] += np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
    motion[:3, 3] = rng.uniform(-90, 90, 3)
    return motion


def rewritten(path, change):
    """Change the header of a file in place; its voxels stay."""
    image = nib.load(path)
    data, header = np.asarray(image.dataobj).copy(), image.header.copy()
    change(header)
    nib.save(nib.Nifti1Image(data, None, header), path)
    return path


def unsaid(header):
    header["sform_code"] = header["qform_code"] = 0


def mirrored(header):
    affine = header.get_best_affine()
    header.set_sform(affine, 1)
    header.set_qform(affine @ np.diag([-1, 1, 1, 1]), 1)


def sheared(header):
    affine = header.get_best_affine()
    affine[:3, 2] += 0.1 * affine[:3, 0]
    header.set_sform(affine, 1)


def no_rotation(header):
    header.set_sform(header.get_best_affine(), 1)
    header["qform_code"] = 1
    header["quatern_b"] = header["quatern_c"] = header["quatern_d"] = 3


def kilometres(header):
    header["xyzt_units"] = 1  # metres, with sizes that are mm


def tiny(header):
    header.set_sform(header.get_best_affine() @ np.diag([1e-2, 1e-2, 1e-2, 1]), 1)


def study_with(phantom, folder, change):
    study = some_of(phantom, folder, A, ["t1", "t2"])
    for path in study.iterdir():
        rewritten(path, change)
    return study


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (unsaid, "which side is left"),
        (mirrored, "mirror images"),
        (sheared, "sheared grid"),
        (no_rotation, "no rotation"),
        (kilometres, "implausible voxel sizes.*metres"),
        (tiny, "implausible voxel sizes"),
    ],
)
def test_every_command_refuses_what_it_cannot_place(phantom, model, tmp_path, change, says):
    study = study_with(phantom, tmp_path / "in", change)
    path = study / f"{A}_t1.nii.gz"
    for read in (read_volume, read_grid):
        with pytest.raises(ValueError, match=rf"{A}_t1\.nii\.gz\. .*Found|{says}") as caught:
            read(path)
        assert re.search(says, str(caught.value))
    for way in ({}, {"dry_run": True}):
        report = prepare_cohort(study.parent, tmp_path / "cohort", PrepareSettings(center="A"), **way)
        assert re.search(says, report.failed[A])
    assert re.search(says, complete(study, tmp_path / "out", model, center="A").failed[A])
    with pytest.raises(StudyError, match=says):
        align_subject({"t1": path}, A)
    (first, *_) = rows_of(study.parent).values()
    assert first.sequence in ("", "none")
    assert first.findings


def test_a_person_may_decide_which_side_is_left(tmp_path):
    """What `inspect` asks about and a person answers is converted to a file that says it."""
    path = rewritten(save(tmp_path / "t2.nii.gz", brain()), unsaid)
    made = convert(path, tmp_path / "out.nii.gz").path
    np.testing.assert_allclose(read_volume(made)[0], brain())
    assert int(header_of(made)["sform_code"]) > 0


@pytest.mark.parametrize("seed", range(12))
def test_generated_files_lie_on_their_source_for_every_reader(phantom, model, tmp_path, seed):
    """Readers that believe the qform, and those that believe the sform, put both at one place."""

    def two_places(header):
        affine = header.get_best_affine()
        header.set_sform(affine, 1 + seed % 4)
        header.set_qform(turned(seed) @ affine, 1 + (seed // 4) % 2)

    study = study_with(phantom, tmp_path / "in", two_places)
    report = complete(study, tmp_path / "out", model, center="A")
    assert "sform and qform disagree by up to" in " ".join(report.warnings[A])
    made = [name for name in report.done[A] if name.endswith(".nii.gz")]
    assert len(made) == 2
    source = nib.load(study / f"{A}_t1.nii.gz").header
    for name in made:
        header = nib.load(tmp_path / "out" / name).header
        for field in FIELDS:
            np.testing.assert_array_equal(header[field], source[field])
        np.testing.assert_array_equal(header.get_qform(), source.get_qform())


@pytest.mark.parametrize(("code", "factor"), [(1, 1e-3), (2, 1.0), (3, 1e3), (0, 1.0)])
def test_lengths_are_read_in_the_headers_unit(phantom, model, tmp_path, code, factor):
    plain = some_of(phantom, tmp_path / "mm", A, ["t1", "t2"])
    expected = read_grid(plain / f"{A}_t1.nii.gz")

    def in_unit(header):
        affine = header.get_best_affine()
        affine[:3] *= factor
        header.set_sform(affine, 1)
        header["pixdim"][1:4] *= factor
        header["xyzt_units"] = code

    study = study_with(phantom, tmp_path / "in", in_unit)
    assert read_grid(study / f"{A}_t1.nii.gz").matches(expected)
    report = complete(study, tmp_path / "out", model, center="A")
    assert read_grid(tmp_path / "out" / report.done[A][0]).matches(expected)


def test_small_differences_of_qform_and_sform_are_rounding(tmp_path):
    path = save(tmp_path / "t1.nii", brain())

    def nearly(header):
        affine = header.get_best_affine()
        header.set_sform(affine, 1)
        affine[:3, 3] += 0.2
        header.set_qform(affine, 1)

    assert disagreement(header_of(rewritten(path, nearly))) is None


def test_implausible_or_sheared_metaimages_are_refused(tmp_path):
    with pytest.raises(ValueError, match="implausible voxel sizes"):
        read_itk(itk_image(tmp_path / "a" / "t2.mha", lopsided(), np.diag([0.01, 0.01, 0.01, 1])))
    path = itk_image(tmp_path / "b" / "t2.mha", lopsided(), LPS, useCompression=False)
    content = path.read_bytes()
    old = next(line for line in content.split(b"\n") if line.startswith(b"TransformMatrix"))
    path.write_bytes(content.replace(old, b"TransformMatrix = 1 0 0 0.0995 0.995 0 0 0 1"))
    with pytest.raises(ValueError, match=r"sheared grid|cannot read"):
        read_itk(path)


def test_a_prepared_volume_that_no_memory_holds_is_refused_before(tmp_path):
    path = save(tmp_path / "t1.nii.gz", brain(), np.diag([45.0, 45, 45, 1]))
    with pytest.raises(StudyError, match=r"too much memory.*--spacing"):
        prepare_images({"t1": path}, subject="S", center="A", spacing_mm=0.5)
