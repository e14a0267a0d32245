"""How far a model may trust itself: signs by hand, shares that are true, leaning that pays, and a file that keeps the
rest.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from ummgat.cli import app
from ummgat.completion.fill import Request, fill
from ummgat.core.domain import Domain
from ummgat.core.study import load_cohort
from ummgat.core.tensors import load_tensors
from ummgat.model.combined import Answered
from ummgat.model.lean import leant
from ummgat.model.signs import SIGNS, columns, n_columns, signs
from ummgat.model.translator import Translator
from ummgat.model.trust import LEVEL, STEPS, Trust
from ummgat.model.weights import FORMAT, load_model
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings
from ummgat.train.calibrate import SHARES, Sample, _chosen_shares, add_to_file, calibrate, fitted, shares_by_step

# ---------------------------------------------------------------- leaning


def test_leaning_by_hand():
    """A constant difference survives smoothing: .3 of the way from 100 to 140 is 112; a lesion and the unknown stay."""
    image = np.full((2, 9, 9), 100, np.uint8)
    image[:, 0] = 0
    expected = np.full((2, 9, 9), 140, np.uint8)
    found = leant(image, expected, None, 0.3)
    assert set(np.unique(found[:, 1:])) == {112}
    assert not found[:, 0].any()
    lesion = np.full(image.shape, 0.4, np.float32)
    assert np.array_equal(leant(image, expected, lesion, 0.3), image)
    half = leant(image, expected, np.full(image.shape, 0.75, np.float32), 0.3)
    assert set(np.unique(half[:, 1:])) == {106}
    assert np.array_equal(leant(image, np.zeros_like(image), None, 0.3), image)


def test_shares_are_those_of_least_error_that_keep_detail():
    """From 0 to 1 the errors fall throughout; 0 → 1 may go as far as detail lasts, 1 → 0 had better not lean."""
    detail = np.array([1.0, 0.9, 0.8, 0.5, 0.3])
    falling = np.stack([np.linspace(500, 100, 5), np.full(5, 10), detail, np.ones(5)], axis=1)
    rising = falling.copy()
    rising[:, 0] = np.linspace(100, 500, 5)
    found = _chosen_shares([(0, 1, falling), (0, 1, falling), (1, 0, rising)], 3)
    assert found[0, 1] == np.float32(SHARES[2])
    assert found[1, 0] == 0
    assert not found[2].any()


# ---------------------------------------------------------------- signs and shares


def test_signs_by_hand(model, volumes):
    """Of a model without atlas: what sets brightness, darkness, disagreement and the edge apart."""
    t1 = volumes["t1"]
    translator = Translator(model, {"t1": t1, "t2": volumes["t2"]}, "A")
    flat = np.where(t1 > 0, 100, 0).astype(np.uint8)
    other = np.where(t1 > 0, 120, 0).astype(np.uint8)
    plane = len(t1) // 2
    target = Domain("A", "t1ce")

    def sign(name, image, answers):
        made = Answered(target, image, answers, {"t1": 0.5, "t2": 0.5}, "", None)
        return signs(translator, made.at([plane]), [plane])[SIGNS.index(name), 0]

    brain = t1[plane] > 0
    assert not sign("bright", flat, [flat, flat]).any()
    np.testing.assert_allclose(sign("bright", other, [flat, flat])[brain], 20 / 32)
    np.testing.assert_allclose(sign("dark", (flat * 0.68).astype(np.uint8), [flat, flat])[brain], 1.0)
    np.testing.assert_allclose(sign("disagreement of sources", flat, [flat, other])[brain], 10 / 32, rtol=1e-3)
    edge = sign("edge of the brain", flat, [flat, flat])
    assert edge[brain].max() > 3 * edge[brain].min() > 0
    assert not edge[~brain].any()
    made = Answered(target, flat, [flat, flat], {"t1": 0.25, "t2": 0.75}, "", None)
    values = columns(translator, made.at([plane]), [plane])
    assert len(values) == n_columns(len(model.table))
    shares = values[1 : 1 + len(model.table), 0][:, brain].mean(1)
    np.testing.assert_allclose(
        shares, [{"A/t1": 0.25, "A/t2": 0.75}.get(name, 0) for name in model.table.names], atol=1e-6
    )


def test_what_is_shown_is_the_share_that_was_right():
    """A regression that says p where p² are right; shares rise, and where nobody was, what was said stays."""
    rng = np.random.default_rng(0)
    said = rng.uniform(0.3, 1, 40_000)
    shown = shares_by_step(said, rng.random(len(said)) < said**2)
    steps = np.linspace(0, 1, STEPS)
    assert (np.diff(shown) >= 0).all()
    np.testing.assert_allclose(shown[7:20], steps[7:20] ** 2, atol=0.05)


def test_a_regression_finds_what_goes_with_errors(model):
    """Errors that grow with the first sign: told apart on subjects that were left out, and of the right size."""
    rng = np.random.default_rng(1)
    n, target = n_columns(len(model.table)), model.table.index(Domain("A", "t2"))
    samples = []
    for subject in ("a", "b", "c", "d"):
        values = np.concatenate([np.ones((3000, 1)), rng.uniform(0, 1, (3000, n - 1))], axis=1).astype(np.float32)
        errors = rng.exponential(10 + 40 * values[:, 1 + len(model.table)]).astype(np.float32)
        samples.append(Sample(subject, ("t1",), target, values, errors))
    trust, facts = fitted(samples, model, ["a", "b", "c", "d"])
    (row,) = facts["out_of_fold"]
    assert row["rank_correlation"] > 0.25
    assert row["off_per_image"] < 0.03
    sure = np.zeros((n, 1), np.float32)
    sure[0] = 1
    unsure = sure.copy()
    unsure[1 + len(model.table)] = 1
    assert trust.share(target, sure) > trust.share(target, unsure) + 0.2
    assert not trust.knows(model.table.index(Domain("A", "t1")))


# ---------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def complete_cohort(phantom, tmp_path_factory):
    """Four phantoms of A with all their sequences, prepared."""
    folder = tmp_path_factory.mktemp("complete")
    for subject in ("Phantom_A_001", "Phantom_A_002", "Phantom_A_005", "Phantom_A_006"):
        shutil.copytree(phantom / "truth" / subject, folder / "raw" / subject)
    assert not prepare_cohort(
        folder / "raw", folder / "cohort", PrepareSettings(centers=phantom / "centers.csv")
    ).failed
    return folder / "cohort"


@pytest.fixture(scope="module")
def complete_studies(complete_cohort):
    return load_cohort(complete_cohort)


@pytest.fixture(scope="module")
def volumes(complete_studies):
    return {q: np.array(complete_studies[0].volume(q)) for q in ("t1", "t2")}


@pytest.fixture(scope="module")
def found(model, complete_studies):
    return calibrate(model, complete_studies)


def test_a_calibrated_model_knows_the_share_of_right_voxels(model, complete_studies, found):
    """On the subjects it learnt from, every direction: the map's mean is the share within the level, about."""
    calibration, report = found
    assert not report.failed
    assert calibration.facts["subjects"] == len(complete_studies)
    known = replace(model, trust=calibration.trust, leanings=calibration.leanings)
    off = []
    for study in complete_studies:
        truth = np.array(study.volume("t2"))
        (made,) = fill(known, {"t1": np.array(study.volume("t1"))}, "A", Request(targets=("t2",)))
        brain = (made.volume > 0) & (truth > 0)
        right = np.abs(made.volume.astype(np.float32) - truth)[brain] < LEVEL
        off.append(made.reliability[brain].mean() / 100 - right.mean())
        assert made.provenance["reliability"]["mean_percent"] == pytest.approx(made.reliability[brain].mean(), abs=1)
        assert ((made.reliability > 0) == (made.volume > 0)).all()
    assert abs(np.mean(off)) < 0.06


def test_jobs_and_order_change_nothing(model, complete_studies, found):
    again, _ = calibrate(model, complete_studies[::-1], jobs=2)
    np.testing.assert_array_equal(again.trust.weights, found[0].trust.weights)
    assert np.array_equal(again.leanings, found[0].leanings)


def test_too_few_studies_are_refused(model, complete_studies):
    with pytest.raises(ValueError, match=r"Found 2 with two sequences.*expected at least 3"):
        calibrate(model, complete_studies[:2])


def test_a_model_that_knows_nothing_makes_no_map(model, volumes):
    (made,) = fill(replace(model, trust=None), volumes, "A", Request(targets=("t1ce",)))
    assert made.reliability is None
    assert made.provenance["reliability"] is None
    ignorant = Trust(np.zeros_like(model.trust.weights), model.trust.shown)
    (made,) = fill(replace(model, trust=ignorant), volumes, "A", Request(targets=("t1ce",)))
    assert made.reliability is None


def test_a_file_keeps_everything_else(model_path, found, tmp_path):
    out = tmp_path / "calibrated.safetensors"
    add_to_file(model_path, out, found[0])
    before, after = load_tensors(model_path, FORMAT)[0], load_tensors(out, FORMAT)[0]
    changed = {name for name in after if name not in before or not before[name].equal(after[name])}
    assert changed <= {"leanings", "trust.weights", "trust.shown"}
    model = load_model(out)
    assert model.criteria["reliability"]["level"] == LEVEL
    np.testing.assert_array_equal(model.trust.weights, found[0].trust.weights)


def test_the_command(model_path, complete_cohort, tmp_path):
    out = tmp_path / "calibrated.safetensors"
    arguments = ["calibrate", str(model_path), str(complete_cohort), str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Calibrated on 4 subjects" in result.output
    assert load_model(out).trust is not None
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "overwrite" in again.output


def test_studies_of_another_voxel_size_are_refused(model, complete_studies):
    data = model.config.data.model_copy(update={"spacing_mm": 1.5})
    other = replace(model, config=model.config.model_copy(update={"data": data}))
    with pytest.raises(ValueError, match=r"on another grid: Phantom_A_001.*expected 1\.5 mm"):
        calibrate(other, complete_studies)
