"""Raw studies: heads of the phantom are registered, stripped and brought to one grid, and left stays left."""

import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ummgat.core.files import read_json
from ummgat.core.study import load_study
from ummgat.core.volume import Grid, read_volume, resample, write_volume
from ummgat.phantom import PhantomConfig, brats_frame, make_scanner, write_phantom
from ummgat.phantom.raw import Acquisition, Pose, make_head, scan_raw
from ummgat.phantom.subject import make_body, scan
from ummgat.prepare.brain import find_brain
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.images import StudyError, reorient
from ummgat.prepare.n4 import correct_bias
from ummgat.prepare.pipeline import align_subject
from ummgat.prepare.register import choose_reference, head_mask, register_rigid
from ummgat.prepare.rigid import displacement_mm, moved, require_rigid, voxels_to_world, write_itk
from ummgat.prepare.settings import PrepareSettings, RawSettings
from ummgat.prepare.skullstrip import deepbet_mask, is_stripped

SCANNER = make_scanner("A", 0)
THICK = Acquisition("axial", 3.0, 4.0, 1.0)
FINE = Acquisition("sagittal", 3.0, 3.0)
STILL, FAR = Pose(0, 0, 8), Pose(12, 15, 8)


@pytest.fixture(scope="module")
def head():
    return make_head(make_body(4, brats_frame(3.0)), 4)


@pytest.fixture(scope="module")
def scans(head):
    """t1ce as cubes, and t2 in thick slices after the patient moved."""
    return {
        "t1ce": scan_raw(head, SCANNER, "t1ce", 1, FINE, STILL),
        "t2": scan_raw(head, SCANNER, "t2", 1, THICK, FAR),
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Another subject's stripped T1, coarse."""
    path = tmp_path_factory.mktemp("template") / "template.nii.gz"
    frame = brats_frame(3.0)
    write_volume(path, np.ascontiguousarray(scan(make_body(9, frame), SCANNER, "t1", 9)).T, frame.grid)
    return path


def brain_of(head, image):
    """Brain mask of the phantom on the grid of one of its scans."""
    truth = np.ascontiguousarray(head.brain.T).astype(np.float32)
    return (resample(truth, moved(head.grid, image.moved), image.grid) >= 0.5).astype(np.uint8)


@pytest.fixture(scope="module")
def study(head, scans, tmp_path_factory):
    """Files of one raw subject, with a brain mask on the t1ce; the t2 is stored in another order of axes."""
    folder = tmp_path_factory.mktemp("raw") / "P1"
    folder.mkdir()
    write_volume(folder / "t1ce.nii.gz", scans["t1ce"].data, scans["t1ce"].grid)
    image = nib.Nifti1Image(scans["t2"].data, scans["t2"].grid.matrix)
    now = nib.orientations.io_orientation(image.affine)
    other = nib.orientations.axcodes2ornt(("I", "R", "P"))
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(now, other)), folder / "t2.nii.gz")
    write_volume(folder / "brain_mask.nii.gz", brain_of(head, scans["t1ce"]), scans["t1ce"].grid)
    return folder


@pytest.fixture(scope="module")
def aligned(study, template):
    files = {name: study / f"{name}.nii.gz" for name in ("t1ce", "t2")}
    return align_subject(files, "P1", RawSettings(template), study / "brain_mask.nii.gz")


def error_mm(head, found, fixed, moving):
    inside = voxels_to_world(head.grid, np.argwhere(head.brain)[::50, ::-1])
    there = inside @ moving.moved[:3, :3].T + moving.moved[:3, 3]
    return displacement_mm(found, fixed.moved @ np.linalg.inv(moving.moved), there)


def test_raw_phantom_lies_where_its_transform_says(head, scans):
    again = scan_raw(head, SCANNER, "t2", 1, THICK, FAR)
    assert np.array_equal(again.data, scans["t2"].data)
    still = scan_raw(head, SCANNER, "t2", 1, Acquisition("axial", 3.0, 3.0), STILL)
    brain = head.brain.T

    def on_canvas(image):
        return resample(image.data, moved(image.grid, np.linalg.inv(image.moved)), head.grid)[brain]

    assert np.corrcoef(on_canvas(scans["t2"]), on_canvas(still))[0, 1] > 0.85
    assert np.median(scans["t2"].data[:2]) > 0  # air is noise
    spacing = scans["t2"].grid.spacing_mm
    assert spacing == pytest.approx((3, 3, 5))


def test_capsule_is_on_the_right(head, scans):
    data, grid = reorient(scans["t1ce"].data, scans["t1ce"].grid)
    bright = voxels_to_world(grid, np.argwhere(data > 0.4 * data.max()))
    assert bright[:, 0].max() - head.center[0] > head.center[0] - bright[:, 0].min() + 5  # RAS+: right is +x


def test_registration_finds_the_movement_back(head, scans):
    fixed, moving = scans["t1ce"], scans["t2"]
    found = register_rigid((fixed.data, fixed.grid), (moving.data, moving.grid))
    error = error_mm(head, found.matrix, fixed, moving)
    assert error_mm(head, np.eye(4), fixed, moving).max() > 8
    assert np.median(error) < 0.5
    assert np.percentile(error, 95) < 1
    assert found.problem is None
    assert found.metric > found.identity_metric
    require_rigid(found.matrix, "answer")
    again = register_rigid((fixed.data, fixed.grid), (moving.data, moving.grid))
    assert np.array_equal(found.matrix, again.matrix)


def test_what_does_not_belong_together_is_flagged(scans):
    fixed = scans["t1ce"]
    rng = np.random.default_rng(0)
    noise = rng.normal(100, 20, (40, 40, 40)).astype(np.float32)
    grid = Grid.of((40, 40, 40), np.diag([5.0, 5, 5, 1]))
    found = register_rigid((fixed.data, fixed.grid), (noise, grid), None, np.ones(noise.shape, bool))
    assert found.problem is not None
    assert "mutual information" in found.problem
    with pytest.raises(ValueError, match="Nothing to register: the moving image"):
        register_rigid((fixed.data, fixed.grid), (np.zeros((9, 9, 9)), Grid.of((9, 9, 9), np.eye(4))))


def test_stripped_is_told_from_head(head, scans):
    frame = head.body.frame
    for sequence in ("t1", "t2", "flair"):
        brain = np.ascontiguousarray(scan(head.body, SCANNER, sequence, 4)).T
        assert is_stripped(brain, frame.grid).stripped, sequence
    for image in scans.values():
        assert not is_stripped(image.data, image.grid).stripped
    masked = np.where(head_mask(scans["t1ce"].data, scans["t1ce"].grid), scans["t1ce"].data, 0)
    found = is_stripped(np.pad(masked, 3), scans["t1ce"].grid)  # air set to 0 does not make a brain
    assert not found.stripped
    assert "more than a brain" in found.reason


def test_pipeline_brings_everything_to_the_template(aligned, head, scans, template):
    brain = aligned.mask
    assert aligned.reference == "t1ce"
    assert aligned.stripped_by == "given mask"
    assert aligned.grid.spacing_mm == pytest.approx((1, 1, 1))
    for data, grid in aligned.images.values():
        assert grid == aligned.grid
        assert ((data > 0) == brain).mean() > 0.99
    voxels = nib.Nifti1Image.from_filename(template).get_fdata() > 0
    there = resample(voxels.astype(np.float32), Grid.of(voxels.shape, nib.load(template).affine), aligned.grid) > 0.5
    assert 2 * (there & brain).sum() / (there.sum() + brain.sum()) > 0.85
    # Both sequences went to the same place: what led each there undoes how the patient lay.
    both = [aligned.transforms[name] @ scans[name].moved for name in ("t1ce", "t2")]
    points = voxels_to_world(head.grid, np.argwhere(head.brain)[::50, ::-1])
    assert np.percentile(displacement_mm(*both, points), 95) < 1
    require_rigid(both[0], "t1ce")  # no mirroring anywhere, whatever the order of axes in the file


def test_left_stays_left(aligned, head, scans):
    """Against the truth carried there, the images agree; against its mirror image they do so less."""
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 2 * voxels_to_world(aligned.grid, np.argwhere(aligned.mask)).mean(0)[0]
    frame, inside = head.body.frame, aligned.mask.copy()
    inside[::2] = inside[:, ::2] = False
    for name in ("t1ce", "t2"):
        matrix = aligned.transforms[name] @ scans[name].moved
        truth = np.ascontiguousarray(scan(head.body, SCANNER, name, 1)).T
        both = [resample(truth, moved(frame.grid, m @ matrix), aligned.grid)[inside] for m in (np.eye(4), mirror)]
        right, wrong = (np.corrcoef(aligned.images[name][0][inside], image)[0, 1] for image in both)
        assert right > 0.6
        assert wrong < right - 0.15


def test_a_scan_that_ends_within_the_brain_is_told(study, scans, template, tmp_path):
    data, grid = scans["t1ce"].data, scans["t1ce"].grid
    mask, _ = read_volume(study / "brain_mask.nii.gz")
    inside = np.argwhere(mask)
    turned = nib.aff2axcodes(grid.matrix)
    axis = next(a for a, code in enumerate(turned) if code in "IS")
    middle = int(np.median(inside[:, axis]))
    kept = tuple(slice(None, middle) if a == axis else slice(None) for a in range(3))
    shape = data[kept].shape
    write_volume(tmp_path / "t1ce.nii.gz", data[kept], Grid.of(shape, grid.matrix))
    write_volume(tmp_path / "mask.nii.gz", mask[kept], Grid.of(shape, grid.matrix))
    found = align_subject({"t1ce": tmp_path / "t1ce.nii.gz"}, "P1", RawSettings(template), tmp_path / "mask.nii.gz")
    end = "bottom" if turned[axis] == "I" else "top"
    assert any(f"ends within the brain at the {end}" in finding for finding in found.findings)


def test_whole_scans_are_not_called_cut(aligned):
    assert not any("ends within" in finding for finding in aligned.findings)


def test_prepared_input_is_left_alone(head, tmp_path):
    files = {}
    for name in ("t1", "t2"):
        files[name] = tmp_path / f"{name}.nii.gz"
        write_volume(files[name], np.ascontiguousarray(scan(head.body, SCANNER, name, 4)).T, head.body.frame.grid)
    found = align_subject(files, "P1")
    assert "already prepared" in (found.untouched or "")
    assert all(np.array_equal(matrix, np.eye(4)) for matrix in found.transforms.values())
    raw = nib.load(files["t1"])
    data, _ = reorient(np.asanyarray(raw.dataobj), Grid.of(raw.shape, raw.affine))
    assert np.array_equal(found.images["t1"][0], data)


def test_without_a_way_to_strip_it_says_what_to_do(study, monkeypatch):
    with pytest.raises(StudyError, match=r"No way to strip the skull.*--brain-mask"):
        align_subject({"t2": study / "t2.nii.gz"}, "P1")
    with pytest.raises(StudyError, match="Brain mask fits no image"):
        align_subject({"t2": study / "t2.nii.gz"}, "P1", mask=study / "brain_mask.nii.gz")
    monkeypatch.setattr("ummgat.core.machine.bundled_file", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"No brain mask is given: --brain-mask\. Found no bundled deepbet"):
        align_subject({"t1ce": study / "t1ce.nii.gz"}, "P1")


def test_the_brain_is_found_in_the_t1_without_another_package(head, scans, study):
    """Two lines of README are enough for --raw; what is found is one piece, and nearly the phantom's brain."""
    images = {name: reorient(image.data, image.grid) for name, image in scans.items()}
    brain = find_brain(images, "P1", {name: study / f"{name}.nii.gz" for name in images})
    assert (brain.owner, brain.how) == ("t1ce", "deepbet on t1ce")
    truth, _ = reorient(brain_of(head, scans["t1ce"]), scans["t1ce"].grid)
    assert 2 * (brain.mask & (truth > 0)).sum() / (brain.mask.sum() + truth.sum()) > 0.9
    assert ndimage.label(brain.mask, np.ones((3, 3, 3)))[1] == 1
    assert (ndimage.binary_fill_holes(brain.mask) == brain.mask).all()


def test_an_image_without_a_brain_has_none_found():
    with pytest.raises(
        ValueError, match=r"No brain found: noise\.nii\. Found .* like a brain; expected a T1 of a whole head"
    ):
        deepbet_mask(np.zeros((20, 20, 20), np.float32), Grid.of((20, 20, 20), np.eye(4)), "noise.nii")


def test_masks_are_those_of_deepbet(scans):
    """Where its package is installed (it needs a graphical toolkit, and is nowhere required)."""
    theirs = pytest.importorskip("deepbet", reason="pip install deepbet to compare with it")
    data, grid = reorient(scans["t1ce"].data, scans["t1ce"].grid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own old torch calls
        _, mask, _ = theirs.BrainExtraction(no_gpu=True).run(nib.Nifti1Image(data.astype(np.float32), grid.matrix))
    assert np.array_equal(deepbet_mask(data, grid, "t1ce"), np.asarray(mask.dataobj) != 0)


def test_sheared_grid_is_refused(tmp_path, scans):
    affine = scans["t1ce"].grid.matrix
    affine[:3, 1] += 0.2 * affine[:3, 0]
    write_volume(tmp_path / "t1.nii", scans["t1ce"].data, Grid.of(scans["t1ce"].data.shape, affine))
    with pytest.raises(StudyError, match=r"sheared grid: .*t1\.nii.*expected 90"):
        align_subject({"t1": tmp_path / "t1.nii"}, "P1")


def test_n4_flattens_shading(head, monkeypatch):
    monkeypatch.setattr("ummgat.prepare.n4._ROUNDS", (20, 15, 10))
    data = np.ascontiguousarray(scan(head.body, SCANNER, "t1", 4)).T
    grid, mask = head.body.frame.grid, data > 0
    ramp = np.exp(np.linspace(-0.6, 0.6, data.shape[1], dtype=np.float32))[None, :, None]

    def slope(image):
        along = np.broadcast_to(np.arange(data.shape[1])[None, :, None], data.shape)[mask]
        return abs(np.polyfit(along, np.log(image[mask] / data[mask]), 1)[0])

    flat = correct_bias(data * ramp, grid, mask)
    assert slope(flat) < 0.6 * slope(data * ramp)
    assert flat[mask].mean() == pytest.approx((data * ramp)[mask].mean(), rel=1e-3)


def test_itk_reads_the_transform(tmp_path, scans):
    matrix = scans["t2"].moved
    write_itk(tmp_path / "x.tfm", matrix)
    point = np.array([10.0, -20.0, 30.0])
    there = matrix[:3, :3] @ point + matrix[:3, 3]
    back = sitk.ReadTransform(tmp_path / "x.tfm").TransformPoint((there * [-1, -1, 1]).tolist())
    assert np.array(back) * [-1, -1, 1] == pytest.approx(point, abs=1e-6)
    with pytest.raises(ValueError, match="not rigid"):
        require_rigid(np.diag([-1.0, 1, 1, 1]), "mirror")


def test_reference_is_chosen_by_name_then_by_voxels():
    cubes, thick = ((np.zeros((1, 1, 1)), Grid.of((1, 1, 1), np.diag([1.0, 1, z, 1]))) for z in (1, 5))
    assert choose_reference({"t1": thick, "t1ce": thick, "t2": cubes}) == "t1ce"
    assert choose_reference({"flair": thick, "t2": cubes}) == "t2"


def test_prepare_raw_cohort_records_the_way_back(study, template, tmp_path):
    settings = PrepareSettings(center="A", raw=True, template=template, brain_mask="brain_mask.nii.gz", spacing_mm=3)
    report = prepare_cohort(study.parent, tmp_path / "cohort", settings)
    assert report.failed == {}
    record = load_study(tmp_path / "cohort" / "P1").record
    assert set(record.images) == {"t1ce", "t2"}
    assert record.images["t2"].source_file == "t2.nii.gz"
    assert record.alignment is not None
    assert record.alignment.template == "template.nii.gz"
    assert set(record.alignment.registrations) == {"t2", "template"}
    require_rigid(np.array(record.alignment.transforms["t2"]), "t2")
    assert prepare_cohort(study.parent, tmp_path / "cohort", settings).up_to_date == ["P1"]
    plain = PrepareSettings(center="A", spacing_mm=3)
    assert "different grids" in prepare_cohort(study.parent, tmp_path / "plain", plain).failed["P1"]
    with pytest.raises(ValueError, match="needs --raw"):
        PrepareSettings(center="A", n4=True)


def test_phantom_writes_raw_studies(tmp_path):
    config = PhantomConfig(n_subjects={"A": 1}, sequences={"A": ("t1",)}, spacing_mm=6, raw=True)
    write_phantom(tmp_path / "p", config)
    subject = "Phantom_A_001"
    told = read_json(tmp_path / "p" / "truth" / subject / "transforms.json")["anatomy_to_scan"]
    require_rigid(np.array(told["t1"]), "t1")
    (image,) = (tmp_path / "p" / "studies" / subject).iterdir()
    scanned = nib.load(image)
    assert not is_stripped(np.asanyarray(scanned.dataobj), Grid.of(scanned.shape, scanned.affine)).stripped
    with pytest.raises(ValueError, match="Miniatures have no heads"):
        PhantomConfig(raw=True, grid="analytic")
