"""Lesions that vanish in translation, with segmenters whose answers one knows."""

import numpy as np
import pytest

from ummgat.core.each import gathered
from ummgat.quality import kept_lesions
from ummgat.quality.kept_lesions import kept_rates, measure_kept, shares_found

SEQUENCES = ("t1", "t1ce", "t2")


@pytest.fixture(autouse=True)
def miniature(monkeypatch):
    """The phantom's tumours are small."""
    monkeypatch.setattr("ummgat.quality.enhancement.MIN_ML", 0.001)
    monkeypatch.setattr(kept_lesions, "LEAST_ML", 0.001)


class Oracle:
    """Finds the true labels where every image named in `looks_at` is the true one, nothing otherwise."""

    sequences, regions = SEQUENCES, "multi"

    def __init__(self, studies, looks_at):
        self.studies, self.looks_at = studies, looks_at

    def __call__(self, images):
        for study in self.studies:
            if all(np.array_equal(study.volume(q), images[q]) for q in self.looks_at):
                return np.asarray(study.labels())
        return np.zeros_like(images["t1"])


def test_shares_by_hand():
    found, lesion = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    lesion[0, :2, :] = True
    found[0, 0, :3] = found[1] = True
    assert shares_found(found, [lesion, ~lesion]) == [3 / 8, 16 / 24]


def test_a_segmenter_that_reads_t1_keeps_what_a_true_t1_shows(model, studies):
    """T2 is the one target here. With T1 true nothing is lost; made from T1ce alone, T1 is generated and all is
    lost.
    """
    rows = gathered(measure_kept({"model": model}, Oracle(studies, ["t1"]), studies))
    kinds = {(r["target"], r["source"], r["setting"]) for r in rows}
    assert kinds == {("t2", q, s) for q in ("t1", "t1ce") for s in ("others true", "source alone")}
    lost = {(r["source"], r["setting"]) for r in rows if r["vanished"]}
    assert lost == {("t1ce", "source alone")}
    assert {r["share_true"] for r in rows} == {1.0}
    assert {r["subject"] for r in rows} == {s.subject for s in studies}
    rates = {(r["source"], r["setting"]): r for r in kept_rates(rows)}
    strict, lenient = rates["t1ce", "source alone"], rates["t1ce", "others true"]
    assert strict["n"] == lenient["n"] >= len(studies)
    assert (strict["k"], strict["median_share"]) == (strict["n"], 0)
    assert (lenient["k"], lenient["median_share"]) == (0, 1)


def test_what_true_images_do_not_show_is_not_held_against_the_generator(model, studies):
    blind = Oracle([], [])
    rows = gathered(measure_kept({"model": model}, blind, studies))
    assert rows
    assert not any(r["vanished"] for r in rows)
    assert kept_rates(rows) == []


def test_small_lesions_and_studies_without_labels_or_images_do_not_count(model, studies, cohort_studies, monkeypatch):
    without = [s for s in cohort_studies if not set(SEQUENCES) <= set(s.sequences)]
    assert without
    done = []
    oracle = Oracle(studies, ["t1"])
    report = measure_kept({"model": model}, oracle, without, progress=lambda i, n, _: done.append((i, n)))
    assert (report.done, report.failed, len(report.skipped)) == ({}, {}, len(without))
    assert all("no " in why for why in report.skipped.values())
    assert (done[0], done[-1]) == ((0, len(without)), (len(without), len(without)))
    monkeypatch.setattr(kept_lesions, "LEAST_ML", 1e6)
    assert set(measure_kept({"model": model}, oracle, studies).skipped) == {s.subject for s in studies}
