"""The results file: one writer at a time, labels judged on a finer grid, who was evaluated."""

import csv

import numpy as np
import pytest

from ummgat.core.metrics import dice
from ummgat.core.study import load_cohort
from ummgat.core.volume import resample
from ummgat.evaluate.cohort_table import cohort_rows, read_demographics
from ummgat.evaluate.results import opened_results, round_trip, scores
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings

ABOUT = dict.fromkeys(("subject", "center", "scenario", "missing", "segmenter", "method", "rule", "source"), "")


@pytest.fixture(scope="module")
def coarse(phantom, tmp_path_factory):
    """The phantom prepared at 2 mm."""
    out = tmp_path_factory.mktemp("coarse") / "cohort"
    assert not prepare_cohort(
        phantom / "studies", out, PrepareSettings(spacing_mm=2.0, centers=phantom / "centers.csv")
    ).failed
    return {s.subject: s for s in load_cohort(out)}


def test_one_process_writes_to_a_folder(tmp_path):
    with (
        opened_results(tmp_path, {"a": 1}),
        pytest.raises(ValueError, match="Folder is in use"),
        opened_results(tmp_path, {"a": 1}),
    ):
        pytest.fail("two at once")
    with opened_results(tmp_path, {"a": 1}):
        pass
    with pytest.raises(ValueError, match=r"another evaluation.*Found other a"), opened_results(tmp_path, {"a": 2}):
        pytest.fail("other settings")


def test_labels_are_judged_on_the_finer_grid_as_the_whole_image_would_be(cohort_studies, coarse):
    """The box that is cut out loses nothing, wherever the segmenter found something."""
    rng = np.random.default_rng(0)
    for fine in [s for s in cohort_studies if s.labels() is not None][:3]:
        study = coarse[fine.subject]
        for found in (
            np.asarray(study.labels()),
            rng.choice([0, 2, 3], study.shape).astype(np.uint8),
            np.zeros(study.shape, np.uint8),
        ):
            rows = {(r["region"], r["grid_mm"]): r for r in scores(ABOUT, found, study, "multi", fine)}
            assert {int(r["n_rows"]) for r in rows.values()} == {6}
            there = resample(found.T, study.grid, fine.grid, order=0).T
            truth = np.asarray(fine.labels())
            assert float(rows["WT", "1"]["dice"]) == pytest.approx(dice(there > 0, truth > 0), abs=1e-5)
            assert float(rows["ET", "1"]["dice"]) == pytest.approx(dice(there == 3, truth == 3), abs=1e-5)
            assert float(rows["WT", "1"]["true_ml"]) == pytest.approx((truth > 0).sum() / 1000)
            assert rows["WT", "1"]["hd95_mm"] == ""
            assert rows["WT", "2"]["hd95_mm"] != ""


def test_the_round_trip_says_what_the_grid_costs(cohort_studies, coarse):
    fine = next(s for s in cohort_studies if s.labels() is not None and (np.asarray(s.labels()) > 0).sum() > 50)
    rows = round_trip(coarse[fine.subject], fine)
    assert {r["segmenter"] for r in rows} == {"round trip"}
    whole = next(float(r["dice"]) for r in rows if r["region"] == "WT")
    assert 0.5 < whole < 1


def test_cohort_table_counts_and_says_what_is_not_known(cohort_studies, tmp_path):
    own = [s for s in cohort_studies if s.center == "A"]
    rows = cohort_rows({"test": cohort_studies})
    assert {(r["part"], r["center"]) for r in rows} == {("test", c) for c in {s.center for s in cohort_studies}}
    first = next(r for r in rows if r["center"] == "A")
    assert first["n"] == str(len(own))
    assert f"t1 {sum('t1' in s.acquired for s in own)}" in first["sequences"]
    assert first["sex"] == first["age, median (range)"] == "not given"
    path = tmp_path / "people.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "age", "sex"])
        writer.writerows([[own[0].subject, "40", "F"], [own[1].subject, "60.5", "M"]])
    told = cohort_rows({"test": cohort_studies}, read_demographics(path))
    first = next(r for r in told if r["center"] == "A")
    assert first["age, median (range)"] == "50 (40 to 60), n 2"
    assert first["sex"] == "F 1, M 1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("subject,age\na,1\n", "other columns"),
        ("subject,age,sex\na,old,F\n", "age 'old'"),
        ("subject,age,sex\na,1,F\na,2,F\n", "two rows"),
    ],
)
def test_demographics_that_are_not_clear_are_refused(tmp_path, text, said):
    path = tmp_path / "people.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_demographics(path)
    with pytest.raises(FileNotFoundError, match="Demographics are missing"):
        read_demographics(tmp_path / "nobody.csv")
