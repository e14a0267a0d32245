"""A center's segmenter elsewhere: what it is given, and what the section says of it."""

import csv
import json

import numpy as np
import pytest

from ummgat.completion.fill import Request, fill
from ummgat.core.domain import Domain
from ummgat.core.matching import match_histogram
from ummgat.evaluate.cross_center import cross_center, looking_like
from ummgat.evaluate.results import read_results
from ummgat.report.page import build_report
from ummgat.report.shift import shift_section


class Threshold:
    """Whole tumour is what is bright in T2."""

    sequences, regions = ("t2",), "wt"

    def __init__(self):
        self.given = []

    def __call__(self, images):
        self.given.append(images["t2"])
        return np.where(images["t2"] > 200, 2, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def studies(cohort_studies):
    found = [s for s in cohort_studies if "t2" in s.acquired and s.labels() is not None]
    return [next(s for s in found if s.center == c) for c in ("A", "B")]


SETTINGS = {"home": "A", "sequences": ["t2"], "part": "test"}


def test_images_of_home_are_given_once_and_others_in_every_look(tmp_path, model, studies):
    segmenter = Threshold()
    report = cross_center(segmenter, "A", model, studies, tmp_path, SETTINGS, {studies[1].subject: studies[0]})
    assert not report.failed
    rows = read_results(tmp_path / "results.csv")
    assert [(r["scenario"], r["method"]) for r in rows] == [
        ("A at home", "complete"), ("B to A", "complete"), ("B to A", "matched"), ("B to A", "generate"),
        ("B to A", "scanned"),
    ]  # fmt: skip
    own, away = (np.asarray(s.volume("t2")) for s in studies)
    histogram = model.histograms[model.table.index(Domain("A", "t2"))]
    aligned = fill(model, {"t2": away}, "B", Request(targets=("t2",), align_to="A", with_reliability=False))[0].volume
    for given, expected in zip(
        segmenter.given, (own, away, match_histogram(away, histogram), aligned, own), strict=True
    ):
        np.testing.assert_array_equal(given, expected)
    assert not np.array_equal(aligned, away)
    again = cross_center(segmenter, "A", model, studies, tmp_path, SETTINGS)
    assert (again.done, again.up_to_date) == ({}, [s.subject for s in studies])
    assert len(segmenter.given) == 5  # nothing is done twice


def test_a_subject_without_labels_leaves_the_others_alone(tmp_path, model, studies, monkeypatch):
    monkeypatch.setattr(
        type(studies[0]),
        "labels",
        lambda self: None if self.subject == studies[0].subject else np.zeros(self.shape, np.uint8),
    )
    report = cross_center(Threshold(), "A", model, studies, tmp_path, SETTINGS)
    assert list(report.failed) == [studies[0].subject]
    assert list(report.done) == [studies[1].subject]


def test_a_home_that_the_model_does_not_know_is_refused(tmp_path, model, studies):
    with pytest.raises(ValueError, match="Found no C/t2"):
        cross_center(Threshold(), "C", model, studies, tmp_path, SETTINGS)


def test_unknown_method_images_are_those_of_the_study(model, studies):
    images = looking_like(model, studies[1], "A", "complete", Threshold())
    np.testing.assert_array_equal(images["t2"], np.asarray(studies[1].volume("t2")))


def test_section_compares_with_images_as_they_are_on_the_same_subjects(tmp_path, model, studies):
    cross_center(Threshold(), "A", model, studies, tmp_path / "cross", SETTINGS)
    section = shift_section(tmp_path / "cross")
    (table,) = section.tables.values()
    by = {(r["subjects"], r["images"]): r for r in table}
    assert by["B to A", "as they are"]["minus as they are"] == ""
    assert "no test possible" in by["B to A", "aligned"]["minus as they are"]  # one subject
    raw, aligned = (float(by["B to A", what]["Dice"].split()[0]) for what in ("as they are", "aligned"))
    assert float(by["B to A", "aligned"]["minus as they are"].split()[0]) == pytest.approx(aligned - raw, abs=2e-3)


def test_report_shows_the_section(tmp_path, model, studies):
    cross_center(Threshold(), "A", model, studies, tmp_path / "cross", SETTINGS)
    results = tmp_path / "ev"
    results.mkdir()
    with (tmp_path / "cross" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows = [r | {"scenario": "none"} for r in rows if r["method"] == "complete"]
    with (results / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (results / "settings.json").write_text(json.dumps({"model": "m", "segmenters": {"plain": "s"}, "part": "test"}))
    html = build_report(results, tmp_path / "out", shifts=[tmp_path / "cross"]).read_text(encoding="utf-8")
    assert "Across centers: segmenter of A" in html
    assert (tmp_path / "out" / "cross_center_A_cross.csv").is_file()
