"""Statistics against published worked examples, SciPy, and answers one can work out."""

import math

import numpy as np
import pytest
from scipy import stats

from ummgat.evaluate.statistics import cohens_d, compare, friedman, holm, smallest_p, summarise

DARWIN = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
"""Heights of cross- minus self-fertilised maize (Darwin), the example of SciPy's and R's documentation: W 24, p
0.04126."""

BASES = """
5.40 5.50 5.55 5.85 5.70 5.75 5.20 5.60 5.50 5.55 5.50 5.40 5.90 5.85 5.70 5.45 5.55 5.60 5.40 5.40 5.35 5.45 5.50 5.35
5.25 5.15 5.00 5.85 5.80 5.70 5.25 5.20 5.10 5.65 5.55 5.45 5.60 5.35 5.45 5.05 5.00 4.95 5.50 5.50 5.40 5.45 5.55 5.50
5.55 5.55 5.35 5.45 5.50 5.55 5.50 5.45 5.25 5.65 5.60 5.40 5.70 5.65 5.55 6.30 6.30 6.25
"""
"""Rounding first base, Hollander & Wolfe 1973, table 7.1: R's `friedman.test` gives chi² 11.143, p 0.003805."""


def bases():
    table = np.array([float(v) for v in BASES.split()]).reshape(22, 3)
    return dict(zip(("round out", "narrow", "wide"), table.T.tolist(), strict=True))


def test_median_and_quartiles_leave_out_what_is_not_finite():
    found = summarise([4, 1, math.nan, 2, 3, math.inf])
    assert found == (2.5, 1.75, 3.25, 4)
    assert str(found) == "2.500 [1.750, 3.250]"
    assert summarise([]).n == 0


def test_wilcoxon_of_the_textbook():
    found = compare(DARWIN, [0] * 15)
    assert found.p == pytest.approx(0.041259765625)
    assert found.effect == pytest.approx((96 - 24) / 120)
    assert (found.n, found.median_difference) == (15, 24)
    assert found.low < 24 < found.high
    reverse = compare([0] * 15, DARWIN)
    assert (reverse.p, reverse.effect) == (found.p, pytest.approx(-found.effect))


def test_smallest_p_is_reached_when_all_agree():
    a = [0.5, 0.6, 0.71, 0.83, 0.9]
    found = compare(a, [0.4, 0.45, 0.5, 0.55, 0.52])
    assert found.p == pytest.approx(found.smallest_p) == pytest.approx(smallest_p(5)) == pytest.approx(1 / 16)
    assert found.effect == 1


def test_equal_pairs_count_for_the_median_and_not_for_the_test():
    found = compare([1, 1, 2, 3.5], [1, 1, 1, 1])
    assert found.n == 4
    assert found.median_difference == 0.5
    assert found.smallest_p == 0.5  # two differences are left


@pytest.mark.parametrize(("a", "b"), [([0.3], [0.2]), ([0.5] * 6, [0.5] * 6), ([], []), ([math.nan] * 3, [1, 2, 3])])
def test_no_p_where_no_test_is_possible(a, b):
    found = compare(a, b)
    assert found.p is found.effect is found.smallest_p is None


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match=r"Values are not pairs\. Found 2 and 3"):
        compare([1, 2], [1, 2, 3])


def test_friedman_of_the_textbook_and_its_post_hoc():
    found = friedman(bases())
    assert found.chi2 == pytest.approx(11.143, abs=5e-4)
    assert found.p == pytest.approx(0.003805, abs=5e-7)
    # Hollander & Wolfe: narrow angle and round out do not differ, wide angle does from round out.
    ranks = found.mean_ranks
    error = math.sqrt(3 * 4 / (6 * 22))
    by_hand = min(1.0, 3 * 2 * stats.norm.sf(abs(ranks["round out"] - ranks["wide"]) / error))
    assert found.pairs["round out", "wide"] == pytest.approx(by_hand)
    assert by_hand < 0.05
    assert found.pairs["round out", "narrow"] > 0.5


def test_post_hoc_respects_pairing():
    """Subjects differ far more than treatments: ranks within subjects see it, ranks over all would not."""
    base = np.arange(12) * 100.0
    found = friedman({"a": base, "b": base + 1, "c": base + 2})
    assert found.pairs["a", "c"] < 1e-4
    assert stats.kruskal(base, base + 1, base + 2).pvalue > 0.8


def test_friedman_needs_three_treatments_two_subjects_and_a_difference():
    assert friedman({"a": [1, 2], "b": [2, 1]}) is None
    assert friedman({"a": [1], "b": [2], "c": [3]}) is None
    assert friedman({"a": [1, 2], "b": [1, 2], "c": [1, 2]}) is None


def test_holm_of_the_textbook_and_cells_without_a_test():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.03, None, 0.6]) == [None, 0.06, None, 0.6]
    assert holm([]) == []


def test_effect_sizes_of_the_papers_figure_4_from_its_printed_means_and_deviations():
    """Real 542.21 ± 310.09, with LAM 258.21 ± 129.04, without 310.96 ± 166.15; printed -1.07, -1.31, -0.24."""
    deviations = [310.09, 129.04, 166.15]
    assert cohens_d(310.96 - 542.21, deviations) == pytest.approx(-1.07, abs=0.005)
    assert cohens_d(258.21 - 542.21, deviations) == pytest.approx(-1.31, abs=0.005)
    assert cohens_d(258.21 - 310.96, deviations) == pytest.approx(-0.24, abs=0.005)
