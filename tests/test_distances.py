"""Distances between sets of images, against closed forms, and cells whose answers one can work out."""

import numpy as np
import pytest
from scipy import linalg

from ummgat.core.domain import Domain
from ummgat.evaluate.statistics import wilson
from ummgat.model.random_features import kernel_distance
from ummgat.quality.distances import (
    COLUMNS,
    Samples,
    cell_test,
    common_n,
    distance_rows,
    frechet_distance,
    halves,
    interval,
    mean_difference,
    thinned,
)
from ummgat.quality.domain_features import chosen_planes, gather
from ummgat.quality.features import random_convolutions

A1, A2 = Domain("A", "t1"), Domain("A", "t2")


def normal(rng, n, mean, factor):
    return mean + rng.standard_normal((n, len(mean))) @ factor


# ---------------------------------------------------------------- Fréchet


def test_distance_of_two_normals_is_the_closed_form():
    """Equal axes: squared difference of means plus squared differences of standard deviations."""
    rng = np.random.default_rng(0)
    a = normal(rng, 40_000, np.zeros(3), np.diag([1.0, 2.0, 3.0]))
    b = normal(rng, 40_000, np.array([1.0, 0, 2]), np.diag([2.0, 2.0, 1.0]))
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4, rel=0.02)


@pytest.mark.parametrize(("n", "m"), [(30, 50), (30, 7), (12, 40)])
def test_distance_is_that_of_a_matrix_root(n, m):
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((10, 10))
    a, b = normal(rng, n, np.zeros(10), mix), normal(rng, m, np.ones(10), mix.T)
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = 10 * np.mean((a.mean(0) - b.mean(0)) ** 2) + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)  # sqrtm is the inexact one at low rank


def test_fewer_images_than_features_are_stable():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((20, 300))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(300 * 4)
    b = rng.standard_normal((20, 300))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    turn, _ = linalg.qr(rng.standard_normal((300, 300)))
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))


def test_one_image_has_no_distance():
    with pytest.raises(ValueError, match="Found 1 and 5; expected at least 2"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


# ---------------------------------------------------------------- cells


def sample(mean, subjects, slices=6, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return {s: mean + rng.standard_normal((slices, d)) for s in subjects}


def world(n_subjects=6, far=5.0, near=1.0):
    """Two real domains `far` apart; model `good` is `near` the target, model `bad` twice as far."""
    names = [f"s{i}" for i in range(n_subjects)]
    real = {A1: sample(0, names, seed=1), A2: sample(far, names, seed=2)}
    made = {
        (name, source, target): sample(mean + shift, names, seed=seed)
        for seed, (name, shift) in enumerate((("good", near), ("bad", 2 * near)), 3)
        for source, target, mean in ((A1, A2, far), (A2, A1, 0))
    }
    return Samples("f", real, made, {"Fréchet distance": frechet_distance}, ("bad",))


def test_halves_share_no_subject_and_all_are_tried():
    splits = halves(sample(0, "abcdef"))
    assert len(splits) == 10
    for first, second in splits:
        assert len(first) == len(second) == 3
        assert not set(first) & set(second)
    assert len({tuple(first) for first, _ in splits}) == 10
    assert all(len(a) == len(b) == 2 and not set(a) & set(b) for a, b in halves(sample(0, "abcde")))
    assert halves(sample(0, "abc")) == []


def test_every_set_has_as_many_slices_and_every_subject_its_share():
    uneven = {"a": np.arange(20.0)[:, None], "b": np.arange(9.0)[:, None]}
    found = thinned(uneven, 9)
    assert [len(v) for v in found.values()] == [5, 4]
    assert found["a"][[0, -1], 0].tolist() == [0, 19]
    assert common_n(world()) == 18  # a half of six subjects with six slices
    assert {r["n_slices"] for r in distance_rows(world(), resamples=3)} == {18}


def test_rows_of_a_known_world():
    rows = distance_rows(world(), resamples=40)
    assert all(tuple(r) == COLUMNS for r in rows)
    value = {(r["kind"], r["source"], r["target"]): r for r in rows}
    assert set(value) == {
        ("real", "A/t1", "A/t2"),
        *(("floor", q, q) for q in ("A/t1", "A/t2")),
        *((k, *p) for k in ("generated", "generated without LAM") for p in (("A/t1", "A/t2"), ("A/t2", "A/t1"))),
    }
    real, floor = value["real", "A/t1", "A/t2"], value["floor", "A/t1", "A/t1"]
    good, bad = (value[k, "A/t1", "A/t2"] for k in ("generated", "generated without LAM"))
    assert floor["value"] < good["value"] < bad["value"] < real["value"]
    assert real["value"] == pytest.approx(3 * 25, rel=0.3)
    assert (floor["n_subjects"], good["n_subjects"], bad["model"]) == (3, 6, "bad")
    assert all(r["low"] < r["value"] < r["high"] for r in rows)
    assert rows == distance_rows(world(), resamples=40)


def test_two_subjects_give_a_value_without_interval_or_floor():
    rows = distance_rows(world(2), resamples=5)
    assert {r["kind"] for r in rows} == {"real", "generated", "generated without LAM"}
    assert all(np.isnan(r["low"]) and np.isfinite(r["value"]) for r in rows)


def test_interval_comes_from_subjects_not_from_slices():
    """Slices of a subject are alike: more of them must not narrow the interval."""
    rng = np.random.default_rng(5)
    shift = {f"s{i}": 3 * rng.standard_normal(2) for i in range(8)}

    def width(slices):
        real = {
            A1: {s: v + 0.01 * rng.standard_normal((slices, 2)) for s, v in shift.items()},
            A2: {s: v[::-1] + 9 + 0.01 * rng.standard_normal((slices, 2)) for s, v in shift.items()},
        }
        rows = distance_rows(Samples("f", real, {}, {"Fréchet distance": frechet_distance}), resamples=60)
        return next(r["high"] - r["low"] for r in rows if r["kind"] == "real")

    assert width(40) == pytest.approx(width(4), rel=0.1)


def test_a_subject_is_redrawn_in_both_sets_at_once():
    """The second domain is the first plus 2: so it is for any subjects, if they are the same in both."""
    first = sample(0, "abcdef", seed=7)
    second = {s: v + 2 for s, v in first.items()}
    other = {f"{s}2": v for s, v in second.items()}
    metrics = {"Fréchet distance": frechet_distance}
    (same,), (foreign,) = (
        [r for r in distance_rows(Samples("f", {A1: first, A2: b}, {}, metrics), resamples=30) if r["kind"] == "real"]
        for b in (second, other)
    )
    assert same["high"] - same["low"] == pytest.approx(0, abs=1e-9)
    assert foreign["value"] == pytest.approx(same["value"]) == pytest.approx(12)
    assert foreign["high"] - foreign["low"] > 1
    assert (same["n_subjects"], foreign["n_subjects"]) == (6, 12)


def test_interval_takes_the_shift_of_the_draws_out():
    assert interval(1.0, [4.0, 5.0, 6.0]) == pytest.approx((0.05, 1.95))
    assert np.isnan(interval(1.0, [])).all()


# ---------------------------------------------------------------- models side by side


def test_mean_difference_redraws_whole_subjects_and_knows_the_closer_model():
    found = mean_difference(world(), "good", "bad", "Fréchet distance", resamples=50)
    assert (found.n_cells, found.n_subjects) == (2, 6)
    assert found.low < found.mean < found.high < 0
    same = mean_difference(world(), "good", "good", "Fréchet distance", resamples=5)
    assert same[:3] == (0, 0, 0)
    assert np.isnan(mean_difference(world(2), "good", "bad", "Fréchet distance").low)
    with pytest.raises(ValueError, match="no cell in common: good and other"):
        mean_difference(world(), "good", "other", "Fréchet distance")


def test_cell_test_is_the_papers():
    """Its numbers: means 542.21, 310.96 and 258.21 with SD 310.09, 166.15 and 129.04 give d = -1.07, -1.31 and
    -0.24.
    """
    rng = np.random.default_rng(0)
    domains = [f"A/{i}" for i in range(10)]
    rows = []
    wanted = {"": (542.21, 310.09), "without": (310.96, 166.15), "with": (258.21, 129.04)}
    for model, (mean, sd) in wanted.items():
        pairs = [(a, b) for a in domains for b in domains if (a < b if model == "" else a != b)]
        values = rng.standard_normal(len(pairs))
        # Real cells count twice, once per order: scale so that the SD over both orders is the printed one.
        twice = np.repeat(values, 2) if model == "" else values
        values = mean + sd * (values - values.mean()) / twice.std(ddof=1)
        kind = {"": "real", "without": "generated without LAM", "with": "generated"}[model]
        rows += [
            {"kind": kind, "model": model, "source": a, "target": b, "metric": "m", "value": v}
            for (a, b), v in zip(pairs, values, strict=True)
        ]
    found = cell_test(rows, ["without", "with"], "m")
    assert found.n_cells == 90
    effects = [found.effects[p] for p in (("without", "real"), ("with", "real"), ("with", "without"))]
    assert effects == pytest.approx([-1.07, -1.31, -0.24], abs=0.006)
    assert found.friedman.mean_ranks["real"] > found.friedman.mean_ranks["with"]
    assert cell_test(rows, ["with"], "m").friedman is None  # two groups only


def test_wilson_by_hand():
    assert wilson(0, 0) != wilson(0, 0)  # nan
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)


# ---------------------------------------------------------------- from studies


def test_chosen_planes_have_brain_and_are_spread():
    volume = np.zeros((12, 4, 4), np.uint8)
    volume[2:10] = 7
    volume[2, 1:] = 0  # a quarter of the largest
    assert chosen_planes(volume).tolist() == list(range(3, 10))
    assert chosen_planes(volume, 3).tolist() == [3, 6, 9]
    assert chosen_planes(np.zeros_like(volume)).tolist() == []


def test_a_perfect_translation_lies_at_zero(model, cohort_studies, monkeypatch):
    truth = {s.subject: s for s in cohort_studies if {"t1", "t2"} <= set(s.acquired) and s.center == "A"}
    seen = {}

    def perfect(translator, target, mode):
        ((sequence, volume),) = translator.volumes.items()
        source = Domain(translator.center, sequence)
        owner = next(s for s in truth.values() if np.array_equal(s.volume(source.sequence), volume))
        seen.setdefault((source, target), []).append(owner.subject)
        sequence = target.sequence if target.center == "A" and target.sequence in owner.acquired else source.sequence
        return np.array(owner.volume(sequence))

    monkeypatch.setattr("ummgat.quality.domain_features.generated", perfect)
    (samples,), _ = gather(list(truth.values()), {"m": model}, [random_convolutions()], per_subject=5)
    rows = distance_rows(samples, 2)
    assert all(a != b for a, b in seen)
    assert {r["features"] for r in rows} == {"random-convolutions-1"}
    assert {r["metric"] for r in rows} == {"Fréchet distance", "kernel distance"}
    for row in rows:
        if row["metric"] != "Fréchet distance" or row["target"].startswith("B"):
            continue
        if row["kind"] == "generated":
            assert row["value"] == pytest.approx(0, abs=1e-6)
        elif row["kind"] == "real":
            assert row["value"] > 1


def test_features_are_standardised_by_real_slices_only(model, cohort_studies):
    studies = [s for s in cohort_studies if s.center == "A" and len(s.acquired) > 1][:2]
    (found,), _ = gather(studies, {"m": model}, [random_convolutions()], per_subject=4, within_center=True)
    assert {t.center for _, _, t in found.generated} == {"A"}
    every = np.concatenate([f for s in found.real.values() for f in s.values()])
    np.testing.assert_allclose(every.mean(0), 0, atol=1e-6)
    assert set(found.metrics) == {"Fréchet distance", "kernel distance"}
    assert found.metrics["kernel distance"] is kernel_distance
    with pytest.raises(ValueError, match=r"Too few domains to compare\. Found none"):
        gather([], {"m": model}, [random_convolutions()])
