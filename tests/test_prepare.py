import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import bad_nifti as bad
from ummgat.core import study as study_module
from ummgat.core.crop import crop, crop_lost_voxels, crop_shape, crop_window, paste
from ummgat.core.normalise import brain_mask, scale_to_uint8
from ummgat.core.study import LABELS, load_cohort, load_study
from ummgat.core.volume import Grid, read_volume, resample, write_volume
from ummgat.intake.layouts import (
    LABELS_2018,
    LABELS_2023,
    LABELS_EITHER,
    LAYOUTS,
    classify_freely,
    find_studies,
    find_study,
)
from ummgat.intake.names import check_name
from ummgat.prepare import cohort as cohort_module
from ummgat.prepare import one as one_module
from ummgat.prepare.centers import assign_centers
from ummgat.prepare.cohort import cohort_table, plan_table, prepare_cohort
from ummgat.prepare.images import StudyError, prepare_images
from ummgat.prepare.labels import resample_labels, translate
from ummgat.prepare.settings import PrepareSettings

A = PrepareSettings(center="A")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def raw(tmp_path):
    """Three studies in BraTS naming."""
    for name in ("S1", "S2", "S3"):
        bad.brats_study(tmp_path / "raw" / name)
    return tmp_path / "raw"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "cohort"


def failure(raw, out, settings=A):
    """Prepare studies of which exactly one must fail; its message."""
    report = prepare_cohort(raw, out, settings)
    assert len(report.failed) == 1
    return next(iter(report.failed.values()))


# ---------------------------------------------------------------- layouts


def test_every_layout_finds_its_files(tmp_path):
    names = {
        "brats2018": ["X_t1.nii", "X_t1ce.nii.gz", "X_t2.nii.gz", "X_flair.nii.gz", "X_swi.nii.gz", "X_seg.nii.gz"],
        "brats2023": ["X-t1n.nii.gz", "X-t1c.nii.gz", "X-t2w.nii.gz", "X-t2f.nii.gz", "X-swi.nii.gz", "X-seg.nii.gz"],
        "folder": ["T1w.nii", "t1_ce.nii.gz", "ab_T2.nii.gz", "ab_T2-FLAIR_brain.nii.gz", "swi.nii.gz", "seg.nii.gz"],
    }
    assert names.keys() | {"ucsf-pdgm"} == LAYOUTS.keys()  # that one: test_paper_cohorts.py
    for layout, files in names.items():
        for name in files:
            bad.save(tmp_path / layout / "X" / name, bad.brain())
        for asked in ("auto", layout):
            (study,), used = find_studies(tmp_path / layout, asked)
            assert used == layout
            assert [p.name for p in study.images.values()] == files[:5]
            assert list(study.images) == ["t1", "t1ce", "t2", "flair", "swi"]
            assert study.labels.name == files[5]
            assert not study.problems + study.ignored


def test_label_tables_of_the_layouts(tmp_path):
    tables = {"brats2018": ("_", LABELS_2018), "brats2023": ("-", LABELS_2023)}
    for layout, (separator, table) in tables.items():
        bad.save(tmp_path / layout / "X" / f"X{separator}t1.nii.gz", bad.brain())
        bad.save(tmp_path / layout / "X" / f"X{separator}seg.nii.gz", bad.brats_labels())
        assert find_study(tmp_path / layout / "X").label_table == table


def test_subjects_below_grade_folders_and_a_single_study_folder(raw, tmp_path):
    (raw / "HGG").mkdir()
    (raw / "S1").rename(raw / "HGG" / "S1")
    assert [study.subject for study in find_studies(raw)[0]] == ["S1", "S2", "S3"]
    assert find_study(raw / "S2").subject == "S2"
    with pytest.raises(ValueError, match=r"several studies.*S1, S2, S3"):
        find_study(raw)


def test_same_subject_in_two_folders_is_an_error(raw):
    shutil.copytree(raw / "S1", raw / "LGG" / "S1")
    with pytest.raises(ValueError, match=r"occur twice.*Found S1"):
        find_studies(raw)


@pytest.mark.parametrize("make", ["empty", "loose text", "missing"])
def test_nothing_to_prepare_is_an_error(tmp_path, out, make):
    source = tmp_path / "source"
    if make != "missing":
        (source / "sub").mkdir(parents=True)
    if make == "loose text":
        (source / "sub" / "notes.txt").write_text("no images")
    with pytest.raises((ValueError, FileNotFoundError), match=r"source.*expected"):
        prepare_cohort(source, out, A)
    assert not out.exists()


def test_two_fitting_layouts_ask_for_the_layout(tmp_path):
    bad.save(tmp_path / "X" / "X_t1.nii", bad.brain())
    bad.save(tmp_path / "Y" / "Y-t1n.nii", bad.brain())
    with pytest.raises(ValueError, match=r"fit brats2018, brats2023.*--layout"):
        find_studies(tmp_path)


def test_two_files_for_one_sequence_name_both(tmp_path):
    bad.save(tmp_path / "X" / "t1.nii", bad.brain())
    bad.save(tmp_path / "X" / "T1w.nii.gz", bad.brain())
    (problem,) = find_study(tmp_path / "X").problems
    assert "T1w.nii.gz" in problem
    assert "t1.nii" in problem


@pytest.mark.parametrize(
    ("stem", "meaning"),
    [
        ("t1", "t1"),
        ("T1W", "t1"),
        ("sub-01_T1w_brain", "t1"),
        ("t1_gd", "t1ce"),
        ("x_T1post", "t1ce"),
        ("T2-FLAIR", "flair"),
        ("fla", "flair"),
        ("HARDI", "hardi"),
        ("lesion_mask", "wt"),
        ("wt", "wt"),
        ("label", "seg"),
        ("t1_brain_mask", None),
        ("adc", None),
        ("t1x", None),
    ],
)
def test_free_names(stem, meaning):
    assert classify_freely("sub-01", stem) == meaning


@pytest.mark.parametrize("stem", ["flair_in_t1", "t1_mask", "t2_seg", "ce-gadolinium_T1w", "t1_reg_post"])
def test_ambiguous_free_names_are_never_guessed(tmp_path, stem):
    bad.save(tmp_path / "X" / f"{stem}.nii", bad.brain())
    study = find_study(tmp_path / "X", "folder")
    assert not study.images
    assert stem in study.problems[0]
    assert "ambiguous" in study.problems[0]


def test_unknown_name_is_listed_as_ignored(raw, out):
    bad.save(raw / "S1" / "S1_perfusion.nii.gz", bad.brain())
    report = prepare_cohort(raw, out, A)
    assert report.ignored == {"S1": ["S1_perfusion.nii.gz"]}
    assert list(report.done) == ["S1", "S2", "S3"]


def test_generated_images_are_never_taken_as_acquired(raw, out):
    (raw / "S1" / "S1_flair.nii.gz").rename(raw / "S1" / "S1_flair_generated.nii.gz")
    (raw / "S1" / "S1_t2.json").write_text('{"kind": "generated"}')
    (raw / "S1" / "S1_t1.json").write_text('{"EchoTime": 0.01}')
    report = prepare_cohort(raw, out, A)
    study = load_study(out / "S1")
    assert study.sequences == ["t1", "t1ce"]
    assert report.findings["S1"] == study.record.findings
    assert "S1_flair_generated.nii.gz is ignored" in study.record.findings[0]
    assert "S1_t2.json says generated" in study.record.findings[1]


def test_prepared_folder_is_no_source(raw, out, tmp_path):
    prepare_cohort(raw, out, A)
    report = prepare_cohort(out, tmp_path / "again", PrepareSettings(center="A", layout="folder"))
    assert "prepared already" in report.failed["S1"]


# ---------------------------------------------------------------- centers and names


def test_centers_from_csv_json_and_pattern(tmp_path):
    csv = tmp_path / "centers.csv"
    csv.write_text("\ufeffsubject,center,age\nS1,Köln,50\nS2, B ,60\nS9,C,1\n", encoding="utf-8")
    told, problems = assign_centers(["S1", "S2", "S3"], PrepareSettings(centers=csv))
    assert told == {"S1": "Köln", "S2": "B"}
    assert "S3. Found none in" in problems["S3"]
    table = tmp_path / "split.json"
    table.write_text('{"center": {"S1": "A"}, "train": []}')
    assert assign_centers(["S1"], PrepareSettings(centers=table)) == ({"S1": "A"}, {})
    told, problems = assign_centers(["x_UCL_1", "y"], PrepareSettings(center_pattern=r"_([A-Z]+)_"))
    assert (told, list(problems)) == ({"x_UCL_1": "UCL"}, ["y"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("patient,site\na,b\n", "lacks columns"),
        ("subject,center\nS1,A\nS1,B\n", "two centers: .*line 3"),
        (b"subject,center\nS\xff,A\n", "not CSV"),
    ],
)
def test_bad_centers_file(tmp_path, content, says):
    path = tmp_path / "centers.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=says):
        assign_centers(["S1"], PrepareSettings(centers=path))


def test_unsafe_center_of_one_subject_fails_that_subject(raw, out, tmp_path):
    path = tmp_path / "centers.csv"
    path.write_text("subject,center\nS1,A\nS2,A/B\n")
    report = prepare_cohort(raw, out, PrepareSettings(centers=path))
    assert list(report.done) == ["S1"]
    assert "Unsafe center name" in report.failed["S2"]
    assert "no center" in report.failed["S3"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"center": "A", "center_pattern": "(x)"},
        {"center": "../A"},
        {"center_pattern": "("},
        {"center_pattern": "x"},
        {"center": "A", "layout": "bids"},
        {"center": "A", "spacing_mm": 0},
        {"center": "A", "crop_mm": (1, -2, 3)},
        {"center": "A", "spacing": 1},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"expected|Extra inputs|greater"):
        PrepareSettings(**settings)


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "a\\b", "a\nb", " a", "a.", "x" * 121, "a:b"])
def test_unsafe_names(name):
    with pytest.raises(ValueError, match="Unsafe subject name"):
        check_name(name, "subject", "here")


def test_unsafe_subject_folder_fails_that_subject(raw, out):
    (raw / "S1").rename(raw / "a:b")
    bad.save(raw / "a:b" / "a:b_t1.nii.gz", bad.brain())
    assert "Unsafe subject name" in failure(raw, out)


# ---------------------------------------------------------------- intensities


def test_scaling_has_known_values():
    """Mean and SD of what lies between the 2nd and 90th percentile become 100 and 22, whatever the rest does."""
    mask = np.zeros((12, 12, 12), bool)
    mask[2:10, 2:10, 2:10] = True
    data = np.zeros(mask.shape, np.float32)
    data[mask] = np.linspace(-100, 100, mask.sum())
    scaled = scale_to_uint8(data, mask, "x")
    tissue = data[mask][(data[mask] >= -96) & (data[mask] <= 80)]  # 2 % and 90 % of the way from -100 to 100
    mean, spread = tissue.mean(dtype=np.float64), tissue.std(dtype=np.float64)
    assert scaled.low == pytest.approx(mean - 99 / 22 * spread, rel=1e-6)
    assert scaled.high == pytest.approx(mean + 155 / 22 * spread, rel=1e-6)
    wanted = np.rint(np.clip(100 + 22 * (data[mask] - mean) / spread, 1, 255))
    assert np.abs(scaled.data[mask].astype(float) - wanted).max() <= 1
    assert set(np.unique(scaled.data[~mask])) == {0}
    bright = data.copy()
    bright[mask & (data > 85)] = 5000.0  # a tumour or a vessel moves nothing else
    again = scale_to_uint8(bright, mask, "x")
    assert (again.low, again.high) == (scaled.low, scaled.high)
    assert again.data[mask & (data > 85)].min() == 255
    assert again.clipped_fraction == pytest.approx((data[mask] > 85).mean())


def test_holes_are_brain_and_the_outside_is_not():
    data = bad.brain()
    data[9:11, 11:13, 8:10] = 0
    mask = brain_mask(data, "x")
    assert np.array_equal(mask, bad.ellipsoid())
    by_scipy = np.stack([ndimage.binary_fill_holes(data[:, :, z] != 0) for z in range(data.shape[2])], axis=2)
    assert np.array_equal(mask, by_scipy)
    touching = bad.brain()[3:-3, 4:-4, 3:-3]  # the field of view cuts into the brain on every side
    assert brain_mask(touching, "x").sum() == np.count_nonzero(touching)


def test_voxels_inside_the_brain_are_never_background(tmp_path):
    data = bad.brain() - 100 * bad.ellipsoid()  # negative values, as in z-scored exports
    path = bad.save(tmp_path / "t1.nii.gz", data)
    record, volumes, labels = prepare_images({"t1": path}, subject="s", center="A")
    assert labels is None
    assert (volumes["t1"] > 0).sum() == bad.ellipsoid().sum() == record.brain_voxels
    assert record.images["t1"].intensity_low < 0


def test_edges_do_not_darken():
    mask = bad.ellipsoid()
    noise = np.random.default_rng(0).uniform(0, 1, mask.shape)
    data = np.where(mask, 100 + noise, 0).astype(np.float32)
    grid = Grid.of(data.shape, np.diag([1.0, 1, 1.7, 1]))
    record, _, _ = prepare_images({"t1": (data, grid)}, subject="s", center="A")
    # Uniform noise: 4.5 standard deviations of it below its mean, where a darkened edge would lie tens below.
    assert record.images["t1"].intensity_low > 98.5


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (np.zeros(bad.SHAPE, np.uint8), "Image is empty"),
        (np.where(bad.ellipsoid(), 7, 0).astype(np.uint8), "constant"),
        (np.full(bad.SHAPE, 7, np.uint8), "constant"),
        (np.random.default_rng(0).uniform(1, 9, bad.SHAPE).astype(np.float32) + bad.brain(), "not skull-stripped"),
        (
            np.random.default_rng(0).poisson(2, bad.SHAPE).astype(np.int16) + bad.brain().astype(np.int16),
            "not skull-str",
        ),
        (np.where(np.arange(np.prod(bad.SHAPE)).reshape(bad.SHAPE) == 3000, 9, bad.ellipsoid()), "no contrast"),
    ],
)
def test_images_that_cannot_be_a_stripped_brain(tmp_path, out, data, says):
    bad.save(tmp_path / "raw" / "X" / "X_t1.nii.gz", data.astype(np.float32))
    message = failure(tmp_path / "raw", out)
    assert says in message
    assert "X_t1.nii.gz" in message
    assert not (out / "X").exists()


# ---------------------------------------------------------------- labels


def test_labels_2018_and_2023_mean_the_same(tmp_path, out):
    bad.brats_study(tmp_path / "a" / "X", labels=(1, 2, 4))
    for i, name in enumerate(("t1n", "t1c", "t2w", "t2f")):
        bad.save(tmp_path / "b" / "X" / f"X-{name}.nii.gz", bad.brain(seed=i))
    bad.save(tmp_path / "b" / "X" / "X-seg.nii.gz", bad.brats_labels((1, 2, 3)))
    prepare_cohort(tmp_path / "a", out / "a", A)
    prepare_cohort(tmp_path / "b", out / "b", A)
    a, b = load_study(out / "a" / "X"), load_study(out / "b" / "X")
    assert np.array_equal(a.labels(), b.labels())
    assert np.bincount(a.labels().ravel())[1:].tolist() == [32, 32, 32]
    assert all(np.array_equal(a.volume(q), b.volume(q)) for q in a.sequences)


@pytest.mark.parametrize(
    ("layout", "values", "found"), [("brats2018", (1, 2, 3), "3"), ("brats2023", (1, 9, 4), "4, 9")]
)
def test_unknown_label_names_file_and_value(tmp_path, out, layout, values, found):
    separator = "_" if layout == "brats2018" else "-"
    bad.save(tmp_path / "raw" / "X" / f"X{separator}t1.nii.gz", bad.brain())
    bad.save(tmp_path / "raw" / "X" / f"X{separator}seg.nii.gz", bad.brats_labels(values))
    message = failure(tmp_path / "raw", out)
    assert f"X{separator}seg.nii.gz. Found {found}; expected 0 and 1 NCR, 2 ED" in message


def test_plain_folder_takes_et_as_3_and_asks_about_4():
    labels, regions = translate(bad.brats_labels((1, 2, 3)), LABELS_EITHER, "unsaid", "x")
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert regions == "multi"
    for values in ((1, 2, 4), (1, 3, 4)):
        with pytest.raises(ValueError, match=r"Label 4 is not clear: x\..*cavity.*--label-numbers"):
            translate(bad.brats_labels(values), LABELS_EITHER, "unsaid", "x")
    with pytest.raises(ValueError, match=r"Unknown label: x\. Found 0.5"):
        translate(bad.brats_labels((1,)) * 0.5, LABELS_EITHER, "unsaid", "x")


@pytest.mark.parametrize(("name", "value"), [("wt", 1), ("lesion_mask", 255), ("seg", 1)])
def test_binary_annotation_is_whole_tumour_only(tmp_path, out, name, value):
    bad.save(tmp_path / "raw" / "X" / "t1.nii.gz", bad.brain())
    bad.save(tmp_path / "raw" / "X" / f"{name}.nii.gz", bad.brats_labels((value,)))
    prepare_cohort(tmp_path / "raw", out, A)
    study = load_study(out / "X")
    assert study.record.labels_regions == "wt"
    assert set(np.unique(study.labels())) == {0, LABELS["ED"]}


def test_missing_annotation_is_not_an_empty_one(tmp_path, out):
    bad.brats_study(tmp_path / "raw" / "empty", labels=())
    bad.brats_study(tmp_path / "raw" / "none", labels=None)
    prepare_cohort(tmp_path / "raw", out, A)
    assert load_study(out / "none").labels() is None
    assert load_study(out / "empty").lesion().sum() == 0
    cohort = json.loads((out / "cohort.json").read_text(encoding="utf-8"))
    assert {s: v["lesion_voxels"] for s, v in cohort["subjects"].items()} == {"empty": 0, "none": None}
    assert [row["lesion_ml"] for row in cohort_table(load_cohort(out))] == ["0.0", "not annotated"]


def test_labels_keep_their_size_and_place_when_the_spacing_doubles():
    fine = Grid.of((80, 80, 80), np.eye(4))
    coarse = fine.canonical(2.0)
    labels = np.zeros(fine.shape, np.uint8)
    labels[bad.ellipsoid(fine.shape, radii=(24, 22, 26))] = LABELS["ED"]
    labels[bad.ellipsoid(fine.shape, radii=(14, 14, 14))] = LABELS["ET"]
    labels[bad.ellipsoid(fine.shape, center=(30, 39.5, 39.5), radii=(10, 12, 12))] = LABELS["NCR"]
    small = resample_labels(labels, fine, coarse)
    for label in LABELS.values():
        assert 8 * (small == label).sum() == pytest.approx((labels == label).sum(), rel=0.06)
        where = coarse.matrix[:3, :3] @ ndimage.center_of_mass(small == label) + coarse.matrix[:3, 3]
        assert np.allclose(where, ndimage.center_of_mass(labels == label), atol=0.1)


# ---------------------------------------------------------------- geometry


def blob_study(spacing, oblique=False):
    """A brain (x, y, z) with a bright blob off center, its grid, and the blob's world center."""
    data = np.where(bad.ellipsoid(), bad.brain(), 0)
    blob = bad.ellipsoid(center=(12.5, 9, 10), radii=(2.5, 3, 2.5))
    data[blob] = 500
    affine = np.diag([*spacing, 1.0])
    if oblique:
        c, s = np.cos(0.3), np.sin(0.3)
        affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    affine[:3, 3] = 11, -7, 30
    grid = Grid.of(data.shape, affine)
    return data.astype(np.float32), grid, world_center(blob, grid)


def world_center(mask, grid):
    return grid.matrix[:3, :3] @ ndimage.center_of_mass(mask) + grid.matrix[:3, 3]


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.9, 0.9, 3), (-0.8, -1.2, 2)])
def test_result_is_isotropic_and_in_place_and_goes_back(spacing, oblique):
    data, grid, where = blob_study(spacing, oblique)
    record, volumes, _ = prepare_images({"t1": (data, grid)}, subject="s", center="A", spacing_mm=1.0)
    prepared_on, original = record.grid.grid(), record.original_grid.grid()
    assert np.allclose(prepared_on.spacing_mm, 1)
    assert original.matches(grid)
    bright = volumes["t1"].T > 210
    assert np.allclose(world_center(bright, prepared_on), where, atol=0.35)
    back = resample(volumes["t1"].T.astype(np.float32), prepared_on, original)
    assert np.allclose(world_center(back > 210, original), where, atol=0.35)


ORIENTATIONS = ["RAS", "LPS", "LAS", "RPI", "SAR", "PIR", "ASL"]


def test_orientation_of_the_file_changes_nothing(tmp_path, out):
    affine = np.diag([1.0, 1.25, 1.5, 1])
    affine[:3, 3] = -9, -12, 4
    for code in ORIENTATIONS:
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(code))
        )
        for name, data in (("t1", bad.brain()), ("t2", bad.brain(1)), ("seg", bad.brats_labels())):
            image = nib.Nifti1Image(data, affine).as_reoriented(turn)
            assert nib.aff2axcodes(image.affine) == tuple(code)
            (tmp_path / "raw" / code).mkdir(parents=True, exist_ok=True)
            nib.save(image, tmp_path / "raw" / code / f"{code}_{name}.nii.gz")
    report = prepare_cohort(tmp_path / "raw", out, PrepareSettings(center="A", spacing_mm=1.5))
    assert len(report.done) == len(ORIENTATIONS)
    first, *others = load_cohort(out)
    for other in others:
        assert other.grid.matches(first.grid)
        for sequence in first.sequences:
            assert np.array_equal(other.volume(sequence), first.volume(sequence))
        assert np.array_equal(other.labels(), first.labels())
    volume = first.volume("t1").astype(float)  # brightness rises to the right, to the front and upwards
    for axis in range(3):
        half = np.array_split(volume, 2, axis=axis)
        low, high = (part[part > 0].mean() for part in half)
        assert high > low + 10


def test_prepared_file_keeps_world_coordinates_for_other_viewers(raw, out):
    prepare_cohort(raw, out, A)
    prepared, grid = read_volume(out / "S1" / "t1.nii")
    original, original_grid = read_volume(raw / "S1" / "S1_t1.nii.gz")
    assert np.allclose(world_center(prepared > 0, grid), world_center(original > 0, original_grid))
    assert nib.aff2axcodes(grid.matrix) == ("R", "A", "S")


def test_different_grids_name_both_files_and_grids(raw, out):
    bad.save(raw / "S2" / "S2_flair.nii.gz", bad.brain(), bad.LPS + np.diag([0, 0, 0.5, 0]))
    bad.save(raw / "S2" / "S2_seg.nii.gz", bad.brats_labels()[:-1])
    message = failure(raw, out)
    assert message.startswith("2 problems in study S2")
    for part in ("t1 and flair", "S2_flair.nii.gz", "S2_t1.nii.gz", "1 × 1 × 1.5 mm", "t1 and labels", "19 × 24 × 18"):
        assert part in message


# ---------------------------------------------------------------- crop


def test_crop_window_is_centered_and_undone_by_paste():
    brain = np.zeros((3, 10, 12), bool)
    brain[:, 2:6, 7:9] = True
    image = np.where(brain, 7, 0) + np.arange(12)
    window = crop_window(brain, 4, 4)
    assert window == (2, 6) == crop_window(brain[0], 4, 4)
    cut = crop(image, window, 4, 4)
    assert np.array_equal(cut, image[:, 2:6, 6:10])
    back = paste(cut, window, np.zeros_like(image))
    assert np.array_equal(back[:, 2:6, 6:10], image[:, 2:6, 6:10])
    assert back.sum() == cut.sum()


@pytest.mark.parametrize(("rows", "columns"), [(16, 20), (3, 30), (30, 3), (10, 12)])
def test_crop_pads_with_zero_where_the_image_ends(rows, columns):
    brain = np.ones((10, 12), bool)
    image = np.arange(120).reshape(10, 12) + 1
    window = crop_window(brain, rows, columns)
    cut = crop(image, window, rows, columns)
    assert cut.shape == (rows, columns)
    back = paste(cut, window, np.zeros_like(image))
    assert np.array_equal(back[back > 0], image[back > 0])
    assert (back > 0).sum() == min(rows, 10) * min(columns, 12) == (cut > 0).sum()


def test_crop_of_an_empty_slice_is_centered_on_the_image():
    assert crop_window(np.zeros((10, 12), bool), 4, 4) == (3, 4)


def test_lost_voxels_are_counted(raw, out):
    brain = np.ones((5, 6, 7), bool)
    assert crop_lost_voxels(brain, (5, 6, 7)) == 0
    assert crop_lost_voxels(brain, (9, 9, 9)) == 0
    assert crop_lost_voxels(brain, (5, 6, 5)) == 5 * 6 * 2
    assert crop_lost_voxels(brain, (1, 1, 1)) == 5 * 6 * 7 - 1
    assert crop_shape((155, 176, 176), 1.0) == (155, 176, 176)
    prepare_cohort(raw, out, PrepareSettings(center="A", crop_mm=(155, 8, 176)))
    study = load_study(out / "S1")
    assert 0 < study.record.crop_lost_voxels < study.record.brain_voxels
    assert study.shape == (18, 24, 20)  # stored whole


# ---------------------------------------------------------------- one study in memory


def test_prepare_images_equals_what_a_cohort_holds(raw, out):
    prepare_cohort(raw, out, A)
    found = find_study(raw / "S1")
    images = {q: read_volume(path) for q, path in found.images.items()}
    record, volumes, labels = prepare_images(images, found.labels, subject="S1", center="A", label_table=LABELS_2018)
    study = load_study(out / "S1")
    assert all(np.array_equal(volumes[q], study.volume(q)) for q in study.sequences)
    assert np.array_equal(labels, study.labels())
    assert record.images["t1"].source_file is None
    assert study.record.images["t1"].source_file == "S1_t1.nii.gz"
    assert record.grid == study.record.grid


def test_all_problems_of_a_study_at_once(tmp_path):
    images = {
        "t1": bad.save(tmp_path / "t1.nii.gz", np.zeros((4, 4, 4, 2), np.float32)),
        "t2": bad.truncate(bad.save(tmp_path / "t2.nii.gz", bad.brain())),
        "flair": tmp_path / "flair.nii.gz",
    }
    with pytest.raises(StudyError, match="3 problems in study s") as caught:
        prepare_images(images, subject="s", center="A")
    assert all(name in str(caught.value) for name in ("t1.nii.gz", "t2.nii.gz", "flair.nii.gz"))
    with pytest.raises(StudyError, match="no image"):
        prepare_images({}, subject="s", center="A")
    with pytest.raises(ValueError, match="Unknown sequence"):
        prepare_images({"t3": tmp_path / "x.nii"}, subject="s", center="A")


def test_identical_sequences_and_misplaced_lesions_are_findings(tmp_path, out):
    folder = bad.brats_study(tmp_path / "raw" / "X", sequences=("t1", "flair"), labels=None)
    bad.save(folder / "X_t1ce.nii.gz", 3 * bad.brain(seed=1))  # flair on another scale
    corner = np.zeros(bad.SHAPE, np.uint8)
    corner[:3, :3, :3] = 1
    bad.save(folder / "X_seg.nii.gz", corner)
    report = prepare_cohort(tmp_path / "raw", out, A)
    assert list(report.done) == ["X"]
    assert any("t1ce and flair are voxel-identical" in text for text in report.findings["X"])
    assert any("100% of the annotated lesion lies outside" in text for text in report.findings["X"])
    assert load_study(out / "X").record.findings == report.findings["X"]


# ---------------------------------------------------------------- cohort


def test_prepared_cohort_is_the_documented_layout(raw, out):
    ticks = []
    report = prepare_cohort(raw, out, A, progress=lambda i, n, text: ticks.append((i, n, text)))
    assert list(report.done) == ["S1", "S2", "S3"]
    assert ticks[-1][:2] == (3, 3)
    files = ["flair.nii", "labels.nii", "study.json", "t1.nii", "t1ce.nii", "t2.nii"]
    assert sorted(p.name for p in (out / "S1").iterdir()) == files
    assert sorted(p.name for p in out.iterdir()) == ["S1", "S2", "S3", "cohort.json"]
    cohort = json.loads((out / "cohort.json").read_text(encoding="utf-8"))
    assert cohort["format"] == "ummgat-cohort-1"
    assert cohort["settings"]["spacing_mm"] == 1.0
    assert cohort["failures"] == {}
    assert cohort["subjects"]["S2"] == {
        "center": "A",
        "sequences": ["t1", "t1ce", "t2", "flair"],
        "lesion_voxels": 96,
        "brain_voxels": int(bad.ellipsoid().sum()),
        "crop_lost_voxels": 0,
        "findings": [],
    }
    volume = load_study(out / "S1").volume("t2")
    assert volume.dtype == np.uint8
    assert 90 < np.median(volume[volume > 0]) < 112
    assert np.count_nonzero(volume) == bad.ellipsoid().sum()
    assert (out / "S1").stat().st_mode & 0o077 == 0o777 & ~umask() & 0o077


def umask():
    value = os.umask(0)
    os.umask(value)
    return value


def test_names_with_spaces_and_accents(tmp_path):
    source, out = tmp_path / "Größe 1 (данные)", tmp_path / "aus gabe"
    bad.brats_study(source / "Jürgen 1")
    settings = PrepareSettings(center="Universitätsklinikum Köln")
    assert list(prepare_cohort(source, out, settings, jobs=2).done) == ["Jürgen 1"]
    assert load_study(out / "Jürgen 1").center == "Universitätsklinikum Köln"


def test_second_run_changes_nothing(raw, out):
    prepare_cohort(raw, out, A)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name != "cohort.json" and p != out}
    report = prepare_cohort(raw, out, A)
    assert (list(report.done), report.up_to_date) == ([], ["S1", "S2", "S3"])
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name != "cohort.json" and p != out}


def test_changed_input_is_prepared_again_and_a_lost_output_too(raw, out):
    prepare_cohort(raw, out, A)
    bad.save(raw / "S2" / "S2_t1.nii.gz", 2 * bad.brain(seed=5))
    (out / "S3" / "t1.nii").unlink()
    report = prepare_cohort(raw, out, A)
    assert (list(report.done), report.up_to_date) == (["S2", "S3"], ["S1"])


def test_file_added_by_the_user_is_not_removed_unasked(raw, out):
    prepare_cohort(raw, out, A)
    (out / "S2" / "notes.txt").write_text("mine")
    assert prepare_cohort(raw, out, A).up_to_date == ["S1", "S2", "S3"]
    bad.save(raw / "S2" / "S2_t1.nii.gz", 2 * bad.brain(seed=5))
    assert "notes.txt" in failure(raw, out)
    assert (out / "S2" / "notes.txt").read_text() == "mine"
    assert list(prepare_cohort(raw, out, A, overwrite=True).done) == ["S1", "S2", "S3"]
    assert not (out / "S2" / "notes.txt").exists()


def test_other_settings_need_overwrite(raw, out):
    prepare_cohort(raw, out, A)
    before = bad.contents(out)
    coarse = PrepareSettings(center="A", spacing_mm=2)
    report = prepare_cohort(raw, out, coarse)
    assert sorted(report.failed) == ["S1", "S2", "S3"]
    assert "other settings" in report.failed["S1"]
    assert bad.contents(out) == before
    assert list(prepare_cohort(raw, out, coarse, overwrite=True).done) == ["S1", "S2", "S3"]
    assert load_study(out / "S1").grid.spacing_mm == (2, 2, 2)


def test_two_sources_share_a_cohort_unless_names_or_settings_clash(raw, out, tmp_path):
    prepare_cohort(raw, out, A)
    bad.brats_study(tmp_path / "second" / "T1")
    b = PrepareSettings(center="B")
    with pytest.raises(FileExistsError, match="other settings"):
        prepare_cohort(tmp_path / "second", out, PrepareSettings(center="B", spacing_mm=2))
    assert list(prepare_cohort(tmp_path / "second", out, b).done) == ["T1"]
    assert [s.center for s in load_cohort(out)] == ["A", "A", "A", "B"]
    assert len(json.loads((out / "cohort.json").read_text(encoding="utf-8"))["subjects"]) == 4
    bad.brats_study(tmp_path / "second" / "S1")
    assert "another center" in failure(tmp_path / "second", out, b)


def test_foreign_folder_in_the_way_is_not_replaced(raw, out):
    (out / "S1").mkdir(parents=True)
    (out / "S1" / "thesis.txt").write_text("precious")
    assert "exists already" in failure(raw, out)
    assert (out / "S1" / "thesis.txt").read_text() == "precious"


def test_damaged_record_fails_its_subject_only(raw, out):
    prepare_cohort(raw, out, A)
    (out / "S1" / "study.json").write_text("{")
    assert "not valid JSON" in failure(raw, out)
    assert list(prepare_cohort(raw, out, A, overwrite=True).done) == ["S1", "S2", "S3"]


def test_output_inside_the_source_is_refused(raw):
    with pytest.raises(ValueError, match="overlap"):
        prepare_cohort(raw, raw / "cohort", A)
    with pytest.raises(ValueError, match="overlap"):
        prepare_cohort(raw, raw.parent, A)


def test_bad_study_does_not_stop_the_others(raw, out):
    bad.truncate(raw / "S1" / "S1_t1.nii.gz")
    shutil.rmtree(raw / "S2")
    bad.save(raw / "S2" / "S2_what.nii.gz", bad.brain())
    report = prepare_cohort(raw, out, A)
    assert list(report.done) == ["S3"]
    assert "S1_t1.nii.gz" in report.failed["S1"]
    assert "No image recognised" in report.failed["S2"]
    assert sorted(p.name for p in out.iterdir()) == ["S3", "cohort.json"]
    assert json.loads((out / "cohort.json").read_text(encoding="utf-8"))["failures"] == report.failed


def test_bug_in_one_study_is_reported_as_a_bug(raw, out, monkeypatch):
    real = one_module.prepare_images
    monkeypatch.setattr(
        one_module,
        "prepare_images",
        lambda *a, subject, **k: real(*a, subject=subject, **k) if subject != "S2" else {}["oops"],
    )
    report = prepare_cohort(raw, out, A)
    assert list(report.done) == ["S1", "S3"]
    assert "Unexpected KeyError" in report.failed["S2"]


@pytest.mark.parametrize("broken", [False, True])
def test_dry_run_writes_nothing(raw, out, broken):
    if broken:
        bad.claim_shape(raw / "S2" / "S2_t1.nii.gz", (20, 24, 9))
    report = prepare_cohort(raw, out, A, dry_run=True)
    assert not out.exists()
    assert list(report.done) == []
    assert list(report.failed) == (["S2"] if broken else [])
    assert plan_table(report)[0] == {
        "subject": "S1",
        "center": "A",
        "sequences": "t1 t1ce t2 flair",
        "annotation": "S1_seg.nii.gz",
        "grid": "20 × 24 × 18 of 1 × 1 × 1 mm",
        "action": "prepare (new)",
    }
    prepare_cohort(raw, out, A)
    before = bad.contents(out)
    assert plan_table(prepare_cohort(raw, out, A, dry_run=True))[0]["action"] == "leave (up to date)"
    assert bad.contents(out) == before


def failing_write(monkeypatch, at_call, error):
    """Let the n-th volume that is written raise `error` after half of it is on disk."""
    calls = []

    def write(path, data, grid, *text):
        calls.append(path)
        if len(calls) == at_call:
            path.with_name("half").write_bytes(b"half")
            raise error
        write_volume(path, data, grid, *text)

    monkeypatch.setattr(study_module, "write_volume", write)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "Disk is full.*finished studies are kept"),
        (OSError(errno.EDQUOT, "quota"), "Disk is full"),
        (KeyboardInterrupt(), None),
    ],
)
def test_abort_leaves_nothing_half_written_and_the_next_run_resumes(raw, out, monkeypatch, error, says):
    with monkeypatch.context() as patch:
        failing_write(patch, 8, error)
        with pytest.raises(type(error), match=says):
            prepare_cohort(raw, out, A)
    assert [p.name for p in out.iterdir()] == ["S1"]
    assert len(bad.contents(out)) == 6
    report = prepare_cohort(raw, out, A)
    assert (report.up_to_date, list(report.done)) == (["S1"], ["S2", "S3"])


def test_abort_while_replacing_keeps_the_old_study(raw, out, monkeypatch):
    prepare_cohort(raw, out, A)
    before = bad.contents(out)
    with monkeypatch.context() as patch:
        failing_write(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare_cohort(raw, out, A, overwrite=True)
    assert bad.contents(out) == before


def test_full_disk_at_the_last_file(raw, out, monkeypatch):
    def full(path, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cohort_module, "write_json", full)
    with pytest.raises(OSError, match=r"Disk is full: .*cohort\.json"):
        prepare_cohort(raw, out, A)
    assert len(load_cohort(out)) == 3


def test_leftovers_of_a_killed_run_are_removed_when_old(raw, out):
    for name, age in (("old", 7200), ("young", 0)):
        folder = out / f".tmp-ummgat-{name}"
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    prepare_cohort(raw, out, A)
    assert [p.name for p in out.glob(".tmp*")] == [".tmp-ummgat-young"]
    assert len(load_cohort(out)) == 3


def test_two_workers_give_the_same_files_as_one(raw, out):
    bad.truncate(raw / "S2" / "S2_t1.nii.gz")
    reports = [prepare_cohort(raw, out / str(jobs), A, jobs=jobs) for jobs in (1, 2)]
    assert reports[0] == reports[1]
    assert bad.contents(out / "1") == bad.contents(out / "2")
    with pytest.raises(ValueError, match="--jobs"):
        prepare_cohort(raw, out / "0", A, jobs=0)


def test_interrupt_of_parallel_workers_leaves_whole_studies_only(raw, out, tmp_path):
    for i in range(12):
        shutil.copytree(raw / "S1", raw / f"T{i}")
        for path in (raw / f"T{i}").iterdir():
            path.rename(path.with_name(path.name.replace("S1", f"T{i}")))
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from ummgat.prepare.cohort import prepare_cohort\nfrom ummgat.prepare.settings import PrepareSettings\n"
        "if __name__ == '__main__':\n"
        "    prepare_cohort(Path(sys.argv[1]), Path(sys.argv[2]), PrepareSettings(center='A', spacing_mm=0.3), "
        "jobs=2,\n                   progress=lambda i, n, text: print(text, flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(raw), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them, and so their children, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdout.readline()  # none is done yet
    process.stdout.readline()  # the first study is done
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    done = load_cohort(out)
    assert 0 < len(done) < 15
    assert sorted(p.name for p in out.iterdir()) == [study.folder.name for study in done]
    assert all(study.volume(q).any() for study in done for q in study.sequences)


def test_preparing_needs_no_torch():
    code = "import sys, ummgat.prepare.cohort; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.real
@pytest.mark.skipif(
    not (REAL / "brats2018").is_dir(), reason=f"REAL MRI IS MISSING: {REAL / 'brats2018'}; nothing was tested on it"
)
def test_real_brats_subject_at_2_mm(tmp_path, out):
    source = min((REAL / "brats2018").iterdir())
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / source.name).symlink_to(source)
    report = prepare_cohort(tmp_path / "raw", out, PrepareSettings(centers=REAL / "split.json", spacing_mm=2))
    assert list(report.done) == [source.name]
    study = load_study(out / source.name)
    assert study.shape == (78, 120, 120)
    assert study.center == "A"
    raw_labels, raw_grid = read_volume(source / f"{source.name}_seg.nii.gz")
    assert 8 * study.lesion().sum() == pytest.approx((raw_labels > 0).sum(), rel=0.03)
    lesion = study.lesion().T
    assert np.allclose(world_center(lesion, study.grid), world_center(raw_labels > 0, raw_grid), atol=0.3)
    for sequence in ("t1", "t1ce", "t2", "flair"):
        volume = study.volume(sequence)
        assert 0.1 < (volume > 0).mean() < 0.25
        assert (volume == 255).sum() / (volume > 0).sum() < 0.05
        assert 90 < np.median(volume[volume > 0]) < 112
