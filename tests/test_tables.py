"""Cells, tests against copies, wins, the automatic choice, and the paper's rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ummgat.evaluate.scenarios import fixed_scenarios, substitutes_of
from ummgat.evaluate.tables import Treatment, automatic, cells, friedman_of, on_common, paper_dice, wins
from ummgat.evaluate.unfinished import missing_rows

FOUR = ("t1", "t1ce", "t2", "flair")


def row(subject, method, dice, source="t1", scenario="t2", region="WT", segmenter="plain", rule="single"):
    return {
        "subject": subject, "center": "A", "scenario": scenario, "missing": scenario, "segmenter": segmenter,
        "method": method, "rule": rule, "source": source, "region": region, "grid_mm": "2", "n_rows": "1",
        "dice": str(dice),
        "hd95_mm": "nan" if dice == 0 else "2.0", "found_ml": "1", "true_ml": "1",
    }  # fmt: skip


def rows_of(method, values, **more):
    return [row(f"s{i}", method, value, **more) for i, value in enumerate(values)]


def test_cells_are_medians_over_subjects_with_tests_against_the_same_source_copy():
    rows = rows_of("copy", [0.5, 0.55, 0.6, 0.7, 0.72]) + rows_of("generate", [0.6, 0.66, 0.73, 0.85, 0.9])
    rows += rows_of("generate", [0.4, 0.5, 0.55, 0.65, 0.7], region="TC")
    copy, generated, alone = cells(rows)
    assert copy.treatment == Treatment("t2", "plain", "copy", "t1")
    assert copy.summary == (0.6, 0.55, 0.7, 5)
    assert copy.against_copy is None
    assert generated.against_copy.p == pytest.approx(1 / 16)
    assert generated.corrected_p == pytest.approx(1 / 16)  # the only cell with a copy beside it
    assert generated.hd95_summary.n == 5
    assert alone.against_copy is None
    assert alone.corrected_p is None


def test_p_values_are_corrected_over_all_generated_cells():
    rows = []
    for source in ("t1", "t1ce", "flair"):
        rows += rows_of("copy", [0.5, 0.55, 0.6, 0.7, 0.72], source=source)
        rows += rows_of("generate", [0.6, 0.66, 0.73, 0.85, 0.9], source=source)
    found = [c.corrected_p for c in cells(rows) if c.treatment.method == "generate"]
    assert found == pytest.approx([3 / 16] * 3)


def test_wins_are_counted_as_printed():
    rows = rows_of("copy", [0.6] * 3) + rows_of("copy", [0.8] * 3, source="flair")
    rows += rows_of("generate", [0.7] * 3) + rows_of("generate", [0.80001] * 3, source="flair")
    rows += rows_of("generate", [0.9] * 3, segmenter="dropout")
    table = cells(rows)
    assert wins(table, "same-source") == (1, 1, 0)
    assert wins(table, "best") == (0, 1, 1)


def test_wins_are_counted_on_the_subjects_that_all_rivals_have():
    """A killed run: the hard subjects s2 and s3 have one copy and what was generated, but not the better copy."""
    rows = rows_of("copy", [0.3, 0.3, 0.9, 0.9]) + rows_of("copy", [0.5, 0.5], source="flair")
    rows += rows_of("generate", [0.4, 0.4, 0.95, 0.95])
    table = cells(rows)
    assert wins(table, "same-source") == (1, 0, 0)
    assert wins(table, "best") == (0, 0, 1)


def test_wins_without_a_common_subject_are_not_counted():
    rows = [row("a", "copy", 0.5), row("b", "copy", 0.6, source="flair"), row("a", "generate", 0.7)]
    assert wins(cells(rows), "best") == (0, 0, 0)
    assert wins(cells(rows), "same-source") == (1, 0, 0)


@given(st.sets(st.integers(0, 23)), st.integers(1, 4))
def test_every_row_taken_out_is_named_and_nothing_else(gone, n_centers):
    """Four subjects of one to four centers, six segmentations each; only the first center has generated ones."""
    rows = []
    for i in range(4):
        for j, (method, source) in enumerate((("empty", ""), ("copy", "t1"), ("copy", "flair"), ("flood", "t1"))):
            rows.append((6 * i + j, row(f"s{i}", method, 0.5, source=source) | {"center": f"{i % n_centers}"}))
        for j, source in enumerate(("t1", "flair")):
            if i % n_centers == 0:
                rows.append((6 * i + 4 + j, row(f"s{i}", "generate", 0.5, source=source) | {"center": "0"}))
    kept = [r for number, r in rows if number not in gone]
    found = missing_rows(kept, [f"s{i}" for i in range(4)])
    told = {(line["subject"], what) for line in found for what in line["substitutes"].split("; ")}
    there = {r["subject"] for r in kept}
    methods = {(r["method"], r["source"]) for r in kept}
    for number, r in rows:
        what = (r["subject"], f"{r['method']} {r['source']}".strip())
        if r["subject"] not in there:
            assert (r["subject"], "all") in told
        elif number in gone and (r["method"], r["source"]) in methods:
            assert what in told
        else:
            assert what not in told


def test_random_scenario_is_one_cell_per_rule_whatever_the_sources():
    rows = [
        row("a", "generate", 0.5, scenario="random", source="t1:t2;flair:t1ce", rule="criteria"),
        row("b", "generate", 0.7, scenario="random", source="t2", rule="criteria"),
    ]
    (cell,) = cells(rows)
    assert cell.treatment.source == "criteria"
    assert cell.summary.median == pytest.approx(0.6)


def test_automatic_choice_is_made_by_others_and_only_among_what_is_offered():
    calibration = (
        rows_of("copy", [0.7], source="flair") + rows_of("generate", [0.6]) + rows_of("fuse", [0.9], source="")
    )
    calibration = [r | {"subject": "c" + r["subject"]} for r in calibration]
    test = rows_of("copy", [0.2], source="flair") + rows_of("generate", [0.9])
    chosen = automatic(cells(calibration), cells(test))
    assert chosen == {"t2": Treatment("t2", "plain", "copy", "flair")}
    with pytest.raises(ValueError, match=r"Calibration and test overlap\. Found s0 in both"):
        automatic(cells(test), cells(test))


def test_friedman_takes_the_subjects_that_have_all():
    rows = rows_of("copy", [0.1, 0.2, 0.3, 0.9]) + rows_of("generate", [0.2, 0.3, 0.4, 0.8])
    rows += rows_of("matched", [0.3, 0.4, 0.5])
    table = cells(rows)
    found = friedman_of(table, "t2", "WT", [c.treatment for c in table])
    assert found.test.mean_ranks == {"copy t1": 1, "generate t1": 2, "matched t1": 3}
    assert found.n == 3  # the copy's fourth subject has no matched one
    assert found.means["copy t1"] == pytest.approx(0.2)
    assert found.effect("generate t1", "copy t1") == pytest.approx(1)  # 0.1 over 0.1, the spread of each
    assert friedman_of(table, "t2", "TC", [c.treatment for c in table]) is None


def test_every_row_of_the_papers_first_table_has_its_like_here():
    paper = paper_dice("BraTS2019")
    assert len(paper) == 3 * 53
    assert paper["none", "complete", "", "WT"].median == 0.895
    assert paper["flair", "generate", "t2", "WT"][:3] == (0.734, 0.591, 0.832)
    assert paper["t1ce+t2", "generate", "t1ce:t1;t2:flair", "WT"].median == 0.854
    ours = {("none", "complete", "")}
    for scenario in fixed_scenarios(FOUR):
        ours |= {(scenario.name, s.method, s.source) for s in substitutes_of(scenario, FOUR, {}, {}, FOUR)}
    assert {key[:3] for key in paper} <= ours


def test_wins_are_counted_on_the_subjects_that_both_have():
    """A copy's further subjects, of a center that cannot be generated, would move its median."""
    rows = rows_of("copy", [0.5, 0.5, 0.9, 0.9, 0.9]) + rows_of("generate", [0.6, 0.6])
    assert wins(cells(rows), "same-source") == (1, 0, 0)
    assert wins(cells(rows), "best") == (1, 0, 0)


def test_pictures_set_methods_side_by_side_on_the_same_subjects():
    table = on_common(cells(rows_of("copy", [0.1, 0.2, 0.9]) + rows_of("generate", [0.6, 0.4])))
    assert {c.treatment.method: (c.summary.median, c.summary.n) for c in table} == {
        "copy": (pytest.approx(0.15), 2),
        "generate": (pytest.approx(0.5), 2),
    }
    apart = cells(rows_of("copy", [0.1]) + [r | {"subject": "other"} for r in rows_of("generate", [0.6])])
    assert [c.summary.n for c in on_common(apart)] == [1, 1]
