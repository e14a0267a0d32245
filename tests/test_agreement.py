"""Statistics of readers against published worked examples."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from ummgat.rate.agreement import (
    bootstrap,
    crossed,
    fleiss_kappa,
    guessing_p,
    icc,
    kappa_of,
    mann_whitney,
    share,
    squared,
)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_table(k, n, low, high):
    """Newcombe 1998, Table I, method 3."""
    found = share(k, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert (found.value, found.k, found.n) == (k / n, k, n)


def test_nothing_rated_has_no_share_and_no_p():
    assert np.isnan(share(0, 0).value)
    assert guessing_p(0, 0) is None


def test_guessing_is_the_exact_binomial():
    assert guessing_p(10, 10) == pytest.approx(2 / 2**10)
    assert guessing_p(0, 10) == pytest.approx(2 / 2**10)  # always wrong is not guessing either
    assert guessing_p(5, 10) == 1.0


COHEN_1968 = np.array([[0.44, 0.07, 0.09], [0.05, 0.20, 0.05], [0.01, 0.03, 0.06]])


def test_kappa_gives_cohens_example():
    assert kappa_of(COHEN_1968) == pytest.approx(0.492, abs=5e-4)
    assert kappa_of(np.array([[20.0, 5.0], [10.0, 15.0]])) == pytest.approx(0.4)


def test_weighted_kappa_gives_cohens_example():
    """Cohen 1968, Table 1, with his disagreement weights."""
    weights = np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 6.0], [3.0, 6.0, 0.0]])
    assert kappa_of(COHEN_1968, weights) == pytest.approx(0.348, abs=5e-4)


def test_quadratic_kappa_agrees_with_another_implementation():
    rng = np.random.default_rng(3)
    a = rng.integers(0, 5, 60)
    b = np.clip(a + rng.integers(-1, 3, 60), 0, 4)
    ours = kappa_of(crossed(a, b, 5), squared(5))
    assert ours == pytest.approx(cohen_kappa_score(a, b, weights="quadratic", labels=range(5)))


def test_kappa_does_not_exist_where_nobody_could_disagree():
    assert kappa_of(np.array([[7.0, 0.0], [0.0, 0.0]])) is None
    assert kappa_of(np.zeros((2, 2))) is None
    assert kappa_of(np.array([[0.0, 4.0], [4.0, 0.0]])) == pytest.approx(-1.0)


FLEISS = [
    (0, 0, 0, 0, 14),
    (0, 2, 6, 4, 2),
    (0, 0, 3, 5, 6),
    (0, 3, 9, 2, 0),
    (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0),
    (3, 2, 6, 3, 0),
    (2, 5, 3, 2, 2),
    (6, 5, 2, 1, 0),
    (0, 2, 2, 3, 7),
]
"""Ten subjects, fourteen raters, five categories: the worked example widely printed with Fleiss' kappa, 0.210."""


def test_fleiss_kappa_gives_the_worked_example():
    ratings = np.array([np.repeat(np.arange(5), counts) for counts in FLEISS])
    assert fleiss_kappa(ratings, 5) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(np.zeros((4, 3), int), 2) is None


def test_icc_gives_the_example_of_shrout_and_fleiss():
    """Shrout & Fleiss 1979, Tables 2 and 4: six targets, four judges, ICC(2,1) = 0.29."""
    scores = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert icc(scores) == pytest.approx(0.2898, abs=5e-5)
    assert icc(np.full((3, 2), 4.0)) is None
    assert icc(np.array([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]])) == pytest.approx(1.0)


def test_bootstrap_of_a_mean_is_as_wide_as_theory_says_and_repeats():
    values = np.random.default_rng(0).normal(size=400)
    first = bootstrap(values, lambda v: float(v.mean()), seed=1)
    assert first == bootstrap(values, lambda v: float(v.mean()), seed=1)
    assert first.value == pytest.approx(values.mean())
    assert first.high - first.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_bootstrap_says_in_how_many_resamples_the_statistic_exists():
    pairs = np.array([[0, 0], [0, 0], [1, 1]])
    found = bootstrap(pairs, lambda v: kappa_of(crossed(v[:, 0], v[:, 1], 2)), resamples=500)
    assert found.value == 1.0
    assert 0 < found.n_defined < 500  # some resamples hold one category only
    assert bootstrap(pairs[:2], lambda v: kappa_of(crossed(v[:, 0], v[:, 1], 2))).value is None


def test_mann_whitney_knows_superiority_and_when_no_test_is_possible():
    a, b = np.array([4.0, 5.0, 5.0]), np.array([1.0, 2.0, 2.0])
    assert mann_whitney(a, b).superiority == 1.0
    assert mann_whitney(b, a).superiority == 0.0
    assert mann_whitney(a, a).superiority == 0.5
    assert mann_whitney(np.full(3, 2.0), np.full(4, 2.0)).p is None
    assert mann_whitney(a, np.array([])).p is None
