"""Quality control: each check finds its fault and is silent without it."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

from ummgat.check.augment import augmented
from ummgat.check.checker import Checker, Cloud, load_checker, save_checker
from ummgat.check.cohort import check_cohort
from ummgat.check.content import content
from ummgat.check.judge import best_names, judge_cohort, margins
from ummgat.check.learning import teach
from ummgat.check.measure import measure, measure_volumes
from ummgat.check.network import CLASSES, SequenceNet, look_at
from ummgat.check.pairs import compare
from ummgat.check.reference import content_rate, learn_limits
from ummgat.check.shape import outline, rim
from ummgat.check.slices import SIDE, standard_slices
from ummgat.check.training import TrainingSettings, train_network
from ummgat.cli import app
from ummgat.completion.cohort import complete
from ummgat.completion.fill import Request
from ummgat.core.files import write_json
from ummgat.core.machine import BUNDLED_CHECKS, bundled_file
from ummgat.core.study import Study, load_cohort, load_study
from ummgat.core.volume import Grid
from ummgat.model.weights import load_model
from ummgat.phantom import PhantomConfig, write_phantom
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings

GRID = Grid.of((60, 70, 60), np.diag([3.0, 3.0, 3.0, 1.0]))


@pytest.fixture(scope="session")
def checker():
    return load_checker(bundled_file(BUNDLED_CHECKS))


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """Three complete phantoms of two scanners at 4 mm, prepared."""
    home = tmp_path_factory.mktemp("phantoms")
    four = ("t1", "t1ce", "t2", "flair")
    config = PhantomConfig(
        n_subjects={"A": 2, "B": 1}, sequences={"A": four, "B": four}, draw="complete", spacing_mm=4.0, seed=11
    )
    write_phantom(home / "raw", config)
    prepare_cohort(home / "raw" / "studies", home / "cohort", PrepareSettings(spacing_mm=4.0, center="A"))
    return home / "cohort"


@pytest.fixture
def to_break(phantoms, tmp_path):
    """A copy to break."""
    return shutil.copytree(phantoms, tmp_path / "cohort")


def volumes_of(study):
    return {name: np.array(study.volume(name)) for name in study.acquired}


def ball(radius_mm, shape=(60, 70, 60), middle=None, spacing=3.0):
    middle = np.array(shape) / 2 if middle is None else np.array(middle)
    away = np.sqrt(sum((np.indices(shape)[a] - middle[a]) ** 2 for a in range(3))) * spacing
    return away < radius_mm


def brain(seed=0):
    """(plane, row, column) uint8: smooth texture in a ball of 1.4 litres."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=GRID.shape[::-1]), 1.5)
    inside = ball(69.0, GRID.shape[::-1])
    scaled = 1 + 254 * (values - values.min()) / np.ptp(values)
    return np.where(inside, scaled, 0).astype(np.uint8)


# ---------------------------------------------------------------- outlines


def test_outline_of_a_ball_is_a_whole_brain_and_of_half_a_ball_is_not():
    whole = outline(ball(69.0), GRID)
    assert whole["brain_ml"] == pytest.approx(4 / 3 * np.pi * 6.9**3, rel=0.02)
    assert whole["pieces"] == whole["holes"] == 0
    assert whole["mirror"] > 0.99
    assert max(value for name, value in whole.items() if name.startswith("cut_")) < 0.15

    cut = ball(69.0)
    cut[:, :, 40:] = False
    found = outline(cut, GRID)
    assert found["cut_top"] > 0.7
    assert found["cut_bottom"] < 0.15

    lopsided = ball(69.0) & ~ball(35.0, middle=(8, 35, 30))
    assert outline(lopsided, GRID)["mirror"] < whole["mirror"] - 0.05


def test_outline_counts_pieces_and_holes():
    apart = ball(60.0) | ball(9.0, middle=(4, 4, 4))
    assert outline(apart, GRID)["pieces"] == pytest.approx((9 / 60) ** 3, rel=0.3)
    assert outline(ball(60.0) & ~ball(12.0), GRID)["holes"] == pytest.approx((12 / 60) ** 3, rel=0.2)


def test_a_bright_rim_is_seen():
    plain = brain()
    inside = plain > 0
    scalp = np.where(inside & ~ndimage.binary_erosion(inside, iterations=2), 255, plain // 2 + inside).astype(np.uint8)
    assert rim(scalp, GRID) > 1.3 * rim(plain, GRID)


def test_content_counts_fluid_and_pieces_at_their_places():
    random = np.random.default_rng(0)
    inside = ball(69.0, GRID.shape[::-1])
    plain = {q: np.where(inside, random.integers(100, 140, inside.shape), 0).astype(np.uint8) for q in CLASSES}
    before = content(plain, GRID)
    assert before == {"fluid_ml": 0, "fluid_largest_ml": 0, "oedema_pieces": 0, "enhancing_pieces": 0}
    pool = ball(20.0, inside.shape)
    wet = {q: np.where(pool, 250 if q == "t2" else 20, v).astype(np.uint8) for q, v in plain.items()}
    found = content(wet, GRID)
    assert found["fluid_ml"] == found["fluid_largest_ml"] == pytest.approx(4 / 3 * np.pi * 2**3, rel=0.15)
    spots = [ball(9.0, inside.shape, middle=m) for m in ((30, 35, 20), (30, 35, 40), (20, 35, 30))]
    many = dict(plain)
    for spot in spots:
        for q, value in (("t1ce", 250), ("flair", 250), ("t2", 240)):
            many[q] = np.where(spot, value, many[q]).astype(np.uint8)
    assert content(many, GRID)["oedema_pieces"] == content(many, GRID)["enhancing_pieces"] == 3
    rim_only = ball(69.0, inside.shape) & ~ball(62.0, inside.shape)
    sulci = {q: np.where(rim_only, 250 if q == "t2" else 20, v).astype(np.uint8) for q, v in plain.items()}
    assert content(sulci, GRID)["fluid_ml"] == 0
    assert content({"t1": plain["t1"]}, GRID) == {}


# ---------------------------------------------------------------- pairs


def test_a_copy_is_one_through_any_rescaling_and_another_image_is_not():
    image = brain()
    curve = np.r_[0, np.sort(np.random.default_rng(1).integers(1, 256, 255))].astype(np.uint8)
    assert compare(image, curve[image], GRID)["correlation"] > 0.98
    other = compare(image, brain(1), GRID)
    assert abs(other["correlation"]) < 0.2
    assert other["dice"] == 1


def test_information_and_its_peak_fall_when_an_image_is_shifted():
    image, other = brain(), 256 - brain().astype(int)
    other = np.where(image > 0, np.clip(other, 1, 255), 0).astype(np.uint8)
    aligned = compare(image, other, GRID)
    shifted = compare(image, np.roll(other, 2, axis=1), GRID)
    assert aligned["peak"] > 3 * shifted["peak"]
    assert shifted["information"] < 0.5 * aligned["information"]


def test_brains_that_do_not_meet_share_nothing():
    one = np.zeros(GRID.shape[::-1], np.uint8)
    one[:20], other = 9, np.zeros_like(one)
    other[40:] = 7
    assert compare(one, other, GRID) == {"dice": 0.0, "correlation": 0.0, "information": 0.0, "peak": 0.0}


# ---------------------------------------------------------------- planes and network


def test_planes_are_the_same_whatever_the_voxels():
    coarse = brain()
    fine = np.repeat(np.repeat(np.repeat(coarse, 3, 0), 3, 1), 3, 2)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -1  # middle of the first coarse voxel stays where it was
    a = standard_slices(coarse, GRID)
    b = standard_slices(fine, Grid.of((180, 210, 180), affine))
    assert a.shape == b.shape == (len(a), 1, SIDE, SIDE)
    assert a.min() == -1
    assert a.max() <= 1
    both = (a > -1) & (b > -1)
    assert float((a - b)[both].abs().mean()) < 0.1
    with pytest.raises(ValueError, match="Image is empty"):
        standard_slices(np.zeros_like(coarse), GRID)


def test_augmented_planes_stay_in_range_with_exact_background_and_repeat_by_seed():
    planes = standard_slices(brain(), GRID)
    one = augmented(planes, torch.Generator().manual_seed(3))
    two = augmented(planes, torch.Generator().manual_seed(3))
    other = augmented(planes, torch.Generator().manual_seed(4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == planes.shape
    assert float(one.min()) == -1
    assert float(one.max()) <= 1
    kept = (one > -1).float().mean() / (planes > -1).float().mean()
    assert 0.4 < kept < 1.8


def test_a_network_learns_to_tell_sequences_and_repeats(phantoms):
    studies = load_cohort(phantoms)
    volumes = [(standard_slices(v, s.grid), q) for s in studies[:2] for q, v in volumes_of(s).items()]
    short = TrainingSettings(iterations=3, batch=8)
    one, two = (train_network(volumes, settings=short) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    net = train_network(volumes, settings=TrainingSettings(iterations=80, batch=16))
    right = [CLASSES[int(look_at(net, planes)[0].argmax())] == name for planes, name in volumes]
    print(right)
    assert sum(right) >= 6  # of 8, where chance gives 2
    with pytest.raises(ValueError, match="no training volume of t2"):
        train_network([(p, q) for p, q in volumes if q != "t2"], settings=short)


def test_distance_is_one_within_a_cloud_and_grows_outside():
    features = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    features[:, 0] *= 5
    cloud = Cloud.of(features)
    inside = np.mean([cloud.distance(row) for row in features])
    assert 0.7 < inside < 1.3
    step = np.zeros(12, np.float32)
    step[0] = 6
    other = np.zeros(12, np.float32)
    other[1] = 6
    # Six along the axis in which the cohort itself varies is less strange than six along another.
    assert cloud.distance(features.mean(0) + other) > 2 * cloud.distance(features.mean(0) + step)


# ---------------------------------------------------------------- judgement


def test_nothing_is_said_of_phantoms_but_that_they_are_no_patients(phantoms, checker):
    measured = {study.subject: measure(study, checker) for study in load_cohort(phantoms)}
    found = {f.check for findings in judge_cohort(measured, checker.reference).values() for f in findings}
    assert found <= {"unlike", "strip"}  # heads of phantoms may be larger than any that the limits were learnt from


def test_every_wrong_name_of_a_phantom_is_found(phantoms, checker):
    wrong = missed = 0
    for study in load_cohort(phantoms):
        measured = measure(study, checker)
        for true in CLASSES:
            for called in set(CLASSES) - {true}:
                alone = measured | {"images": {called: measured["images"][true]}, "pairs": {}}
                findings = judge_cohort({"x": alone}, checker.reference)["x"]
                wrong += 1
                missed += not any(f.check == "sequence" and f.images == [called] for f in findings)
    assert wrong == 36
    assert missed <= 3


def test_swapped_names_are_found_together(checker):
    logs = {
        "t1": {"t1": 0.4, "t1ce": 0.6, "t2": 1e-9, "flair": 1e-9},
        "t1ce": {"t1": 0.7, "t1ce": 0.3, "t2": 0, "flair": 0},
    }
    images = {name: {"digest": name, "rim": 0.0, "probabilities": p, "unlike": 1.0} for name, p in logs.items()}
    measured = {"images": images, "pairs": {}, "outline": {}, "content": {}}
    reference = checker.reference.model_copy(update={"margin": -2.0, "swap": -1.0, "outline": {}, "rim": {}})
    (finding,) = judge_cohort({"x": measured}, reference)["x"]
    assert finding.images == ["t1", "t1ce"]
    assert "swapped" in finding.text
    assert finding.value == pytest.approx(np.log(0.4 / 0.6) + np.log(0.3 / 0.7), rel=1e-4)
    assert margins(logs["t1"], "t1")["t1ce"] == pytest.approx(np.log(0.4 / 0.6))


def test_names_are_dealt_out_among_all_images():
    clear = {
        "t1": {"t1": 0.0, "t1ce": 0.0, "t2": 1.0, "flair": 0.0},
        "t2": {"t1": 0.0, "t1ce": 0.0, "t2": 0.0, "flair": 1.0},
        "flair": {"t1": 0.8, "t1ce": 0.2, "t2": 0.0, "flair": 0.0},
        "t1ce": {"t1": 0.6, "t1ce": 0.4, "t2": 0.0, "flair": 0.0},
    }
    # The t1ce alone would be called t1, but the image called flair fits that name better.
    assert best_names(clear, 0.0) == {"t1": "t2", "t2": "flair", "flair": "t1", "t1ce": "t1ce"}
    assert best_names({"t2": clear["t1"]}, 0.0) == {"t2": "t2"}
    close = {"t1": {"t1": 0.49, "t1ce": 0.51}, "t1ce": {"t1": 0.5, "t1ce": 0.5}}
    assert best_names(close, 0.0) == {"t1": "t1ce", "t1ce": "t1"}
    assert best_names(close, -1.0) == {"t1": "t1", "t1ce": "t1ce"}


def test_a_weak_doubt_is_dropped_where_the_other_image_fits_the_name_worse(checker):
    """Which of two is the t1ce is asked of both: a t1ce without enhancement beside a clear t1 is believed."""

    def said(of_t1ce, of_t1):
        images = {"t1ce": {"t1": of_t1ce, "t1ce": 1 - of_t1ce, "t2": 0, "flair": 0}}
        if of_t1 is not None:
            images["t1"] = {"t1": of_t1, "t1ce": 1 - of_t1, "t2": 0, "flair": 0}
        entries = {name: {"digest": name, "rim": 0.0, "probabilities": p} for name, p in images.items()}
        reference = checker.reference.model_copy(update={"margin": 0.0, "swap": 0.0, "outline": {}, "rim": {}})
        findings = judge_cohort({"x": {"images": entries, "pairs": {}, "outline": {}, "content": {}}}, reference)["x"]
        return [finding.images for finding in findings]

    assert said(0.7, None) == [["t1ce"]]
    assert said(0.7, 0.95) == []
    assert said(0.95, 0.99) == [["t1ce"]]  # nine to one and more: it looks like a second t1
    assert said(0.7, 0.2) == [["t1", "t1ce"]]


def test_faults_are_named(phantoms, checker):
    study = load_cohort(phantoms)[0]
    volumes = volumes_of(study)

    def said(changed):
        measured = measure_volumes(volumes | changed, study.grid, checker)
        return {(f.check, *f.images) for f in judge_cohort({"x": measured}, checker.reference)["x"]}

    usual = said({})
    assert ("copy", "t1", "flair") in said({"flair": volumes["t1"]}) - usual
    brain_of_all = np.logical_or.reduce([v > 0 for v in volumes.values()])
    shifted = np.where(brain_of_all, np.maximum(np.roll(volumes["t2"], 3, axis=2), 1), 0).astype(np.uint8)
    assert ("registration", "t2") in said({"t2": shifted}) - usual
    two = measure_volumes({"t1": volumes["t1"], "t2": shifted}, study.grid, checker)
    found = [f.images for f in judge_cohort({"x": two}, checker.reference)["x"] if f.check == "registration"]
    assert found == [["t1", "t2"]]  # of two neither is known to be the wrong one
    last = int(np.flatnonzero(brain_of_all.any((1, 2)))[-1]) - 8
    cut = {q: np.where(np.arange(len(v))[:, None, None] <= last, v, 0).astype(np.uint8) for q, v in volumes.items()}
    assert ("field of view",) in said(cut) - usual


def test_more_content_than_any_study_had_is_told(phantoms, checker):
    measured = measure(load_cohort(phantoms)[0], checker)
    reference = checker.reference.model_copy(update={"content": {"fluid_ml": 10.0, "oedema_pieces": 2.0}})
    for name, value, cause in (("fluid_ml", 11.0, "cavity"), ("oedema_pieces", 3.0, "many lesions")):
        found = judge_cohort({"x": measured | {"content": {name: value}}}, reference)["x"]
        assert any(f.check == "unlike" and cause in f.text and f.value == value for f in found)
    found = judge_cohort({"x": measured | {"content": {"fluid_ml": 10.0, "oedema_pieces": 2.0}}}, reference)["x"]
    assert not any("The brain holds" in f.text for f in found)


def test_the_share_beyond_all_others_is_counted():
    measured = [{"content": {"fluid_ml": value}} for value in (1.0, 2.0, 9.0, 9.0)]
    assert content_rate(measured) == 0
    assert content_rate([*measured, {"content": {"fluid_ml": 10.0}}]) == 0.2


def test_one_patient_under_two_names_is_found(phantoms, checker):
    studies = load_cohort(phantoms)
    measured = {study.subject: measure(study, checker) for study in studies}
    measured["Twin"] = measured[studies[0].subject]
    found = judge_cohort(measured, checker.reference)
    assert any("voxel for voxel" in f.text and studies[0].subject in f.text for f in found["Twin"])
    assert not any("voxel for voxel" in f.text for f in found[studies[1].subject])


def test_limits_hold_the_cohort_they_were_learnt_from(phantoms, checker):
    measured = [measure(study, checker) for study in load_cohort(phantoms)]
    limits = learn_limits(measured)
    for study in measured:
        assert all(low <= study["outline"][name] <= high for name, (low, high) in limits["outline"].items())
        assert all(study["images"][q]["rim"] <= limits["rim"][q] for q in study["images"])


# ---------------------------------------------------------------- files


def test_a_checker_comes_back_as_it_was_saved(tmp_path, checker):
    save_checker(tmp_path / "c.safetensors", checker)
    back = load_checker(tmp_path / "c.safetensors")
    assert back.reference == checker.reference
    planes = standard_slices(brain(), GRID)
    for a, b in zip(look_at(checker.net, planes), look_at(back.net, planes), strict=True):
        torch.testing.assert_close(a, b)
    assert back.clouds["t2"].distance(checker.clouds["t2"].middle) == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="another kind"):
        load_checker(bundled_file("small.safetensors"))


def test_check_writes_numbers_findings_and_a_page_and_measures_once(to_break, checker):
    study = load_cohort(to_break)[0]
    flair = study.folder / "flair.nii"
    shutil.copyfile(study.folder / "t1.nii", flair)
    report = check_cohort(to_break, checker)
    assert len(report.done) == 3
    assert report.failed == {}
    record = load_study(study.folder).record.checks
    assert record.checker == checker.hash
    assert set(record.measured["images"]) == set(CLASSES)
    assert any(f.check == "copy" and f.images == ["t1", "flair"] for f in record.findings)
    assert any(f.check == "sequence" and "flair" in f.images for f in record.findings)
    page = report.page.read_text(encoding="utf-8")
    assert page.count("<section") == 3
    assert page.index(study.subject) < page.index(load_cohort(to_break)[2].subject)  # findings first
    assert not re.search(r"(src|href)=[\"']?http", page)
    again = check_cohort(to_break, checker)
    assert (len(again.done), len(again.up_to_date)) == (0, 3)
    assert again.findings == report.findings
    shutil.copyfile(study.folder / "t2.nii", flair)
    assert len(check_cohort(to_break, checker).done) == 1


def test_a_study_that_cannot_be_read_is_reported_and_the_rest_is_checked(to_break, checker):
    studies = load_cohort(to_break)
    (studies[0].folder / "t1.nii").write_bytes(b"no image")
    (studies[1].folder / "study.json").write_text("{", encoding="utf-8")
    report = check_cohort(to_break, checker)
    assert set(report.failed) == {studies[0].subject, studies[1].subject}
    assert set(report.findings) == {studies[2].subject}
    assert "could not be checked" in report.page.read_text(encoding="utf-8")


def test_generated_images_are_not_judged(to_break, checker):
    study = load_cohort(to_break)[0]
    study.record.images["t2"].kind = "generated"
    measured = measure(Study(study.folder, study.record), checker)
    assert "t2" not in measured["images"]


def test_completion_repeats_what_was_found(to_break, checker, model_path, tmp_path):
    model = load_model(model_path)
    model.config = model.config.model_copy(update={"data": model.config.data.model_copy(update={"spacing_mm": 4.0})})
    study = load_cohort(to_break)[0]
    shutil.copyfile(study.folder / "t1.nii", study.folder / "t2.nii")
    (study.folder / "flair.nii").unlink()
    del study.record.images["flair"], study.record.images["t1ce"]
    write_json(study.folder / "study.json", study.record.model_dump(mode="json"))
    check_cohort(to_break, checker)
    report = complete(study.folder, tmp_path / "out", model, request=Request(targets=("t1ce",), with_reliability=False))
    assert report.failed == {}
    assert any("ummgat check" in warning and "one image" in warning for warning in report.warnings[study.subject])


# ---------------------------------------------------------------- commands


def test_the_commands_check_and_prepare_say_what_they_found(to_break, tmp_path):
    study = load_cohort(to_break)[0]
    shutil.copyfile(study.folder / "t1.nii", study.folder / "flair.nii")
    result = CliRunner().invoke(app, ["check", str(to_break)])
    assert result.exit_code == 0, result.output
    assert "t1 and flair are one image" in result.output
    assert (to_break / "checks.html").is_file()
    broken = load_cohort(to_break)[1]
    (broken.folder / "t1.nii").write_bytes(b"no image")
    result = CliRunner().invoke(app, ["check", str(to_break)])
    assert result.exit_code == 1
    assert broken.subject in result.output


def test_prepare_checks_unless_told_not_to(tmp_path):
    write_phantom(tmp_path / "raw", PhantomConfig(n_subjects={"A": 1}, sequences={"A": ("t1",)}, spacing_mm=4.0))
    told = ["prepare", str(tmp_path / "raw" / "studies"), "--spacing", "4", "--center", "A"]
    result = CliRunner().invoke(app, [*told, str(tmp_path / "checked")])
    assert result.exit_code == 0, result.output
    assert "1 studies checked" in result.output
    (folder,) = [path.parent for path in (tmp_path / "checked").glob("*/study.json")]
    assert json.loads((folder / "study.json").read_text())["checks"]["measured"]["images"]["t1"]["probabilities"]
    # Checked studies are up to date for the next run.
    assert "1 up to date" in CliRunner().invoke(app, [*told, str(tmp_path / "checked")]).output
    result = CliRunner().invoke(app, [*told, str(tmp_path / "not"), "--no-checks"])
    assert result.exit_code == 0
    assert "studies checked" not in result.output
    assert not (tmp_path / "not" / "checks.html").exists()


def test_teaching_needs_enough_studies_and_gives_a_checker(phantoms, tmp_path):
    studies = load_cohort(phantoms)
    with pytest.raises(ValueError, match="Too few studies"):
        teach(studies)
    many = [
        Study(s.folder, s.record.model_copy(update={"subject": f"{s.subject}-{i}"})) for s in studies for i in range(4)
    ]
    taught, held = teach(many, settings=TrainingSettings(iterations=2, batch=4))
    assert isinstance(taught, Checker)
    assert isinstance(taught.net, SequenceNet)
    assert len(held.stated) == 4 * len(many)
    assert len(held.renamed) == 3 * len(held.stated)
    assert len(held.distances) == len(many)
    assert set(taught.reference.pairs) == {"t1+t1ce", "t1+t2", "t1+flair", "t1ce+t2", "t1ce+flair", "t2+flair"}
    assert taught.reference.margin <= 0
