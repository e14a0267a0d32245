"""False and absent enhancement, on masks drawn by hand and on the phantom with segmenters whose answers one knows."""

import numpy as np
import pytest

from ummgat.core.each import gathered
from ummgat.core.study import LABELS
from ummgat.quality.directions import medians, quality_table
from ummgat.quality.enhancement import (
    bright,
    by_intensity,
    by_segmenter,
    enhancement_rates,
    measure_enhancement,
    pieces,
)

ML = 0.05
"""Of a voxel: two are enough to count."""


def mask(*voxels):
    out = np.zeros((5, 9, 9), bool)
    for voxel in voxels:
        out[voxel] = True
    return out


FIRST, SECOND, SPECK = np.s_[1, 1, 1:4], np.s_[3, 7, 1:4], np.s_[1, 7, 7]


def test_specks_do_not_count_and_corners_connect():
    assert len(pieces(mask(FIRST, SECOND, SPECK), ML)) == 2
    assert len(pieces(mask((0, 0, 0), (1, 1, 1)), ML)) == 1


def test_pieces_and_subjects_are_told_apart():
    found = by_segmenter(mask(FIRST, SPECK), mask(FIRST, SECOND), ML)
    assert (found["lesions"], found["lesions_missed"], found["pieces"], found["pieces_false"]) == (2, 1, 1, 0)
    assert (found["has_et"], found["absent"], found["has_no_et"], found["false"]) == (1, 0, 0, 0)
    assert (found["false_et_ml"], found["missed_et_ml"]) == pytest.approx((ML, 3 * ML))
    gone = by_segmenter(mask((1, 1, 1)), mask(FIRST), ML)  # one voxel of it is found: a speck
    assert (gone["absent"], gone["lesions_missed"]) == (1, 1)
    invented = by_segmenter(mask(SECOND), mask(), ML)
    assert (invented["has_et"], invented["has_no_et"], invented["false"], invented["pieces_false"]) == (0, 1, 1, 1)
    unclear = by_segmenter(mask(), mask(SPECK), ML)
    assert (unclear["has_et"], unclear["has_no_et"], unclear["absent"]) == (0, 0, 0)


def scene():
    """A brain of 100 with a bright 5 %, a tumour with a rim (ET, 200), a core and oedema (80)."""
    labels = np.zeros((6, 20, 20), np.uint8)
    labels[1:5, 2:12, 2:12] = LABELS["ED"]
    labels[2:4, 4:6, 4:6] = LABELS["ET"]
    true = np.full(labels.shape, 100, np.uint8)
    true[labels == LABELS["ED"]] = 80
    true[labels == LABELS["ET"]] = 200
    true[0, 0, :20] = 150
    return true, labels


def test_the_true_image_is_neither_false_nor_absent():
    true, labels = scene()
    found = by_intensity(true, true, labels, 0.1)
    assert (found["et_bright"], found["tumour_bright"]) == (1, 0)
    assert (found["absent_intensity"], found["judged_absent"], found["false_intensity"], found["judged_false"]) == (
        0, 1, 0, 1,
    )  # fmt: skip
    assert found["normal_bright"] <= 0.05


def test_lost_and_invented_enhancement_is_seen_whatever_the_scale():
    true, labels = scene()
    dark = np.where(labels == LABELS["ET"], 80, true).astype(np.uint8)
    assert by_intensity(dark, true, labels, 0.1)["absent_intensity"] == 1
    halved = (true // 2).astype(np.uint8)  # another scale, the same enhancement
    assert by_intensity(halved, true, labels, 0.1)["absent_intensity"] == 0
    lit = true.copy()
    lit[2:4, 9:11, 9:11] = 200  # in the oedema, away from ET
    assert by_intensity(lit, true, labels, 0.1)["false_intensity"] == 1
    wider = true.copy()
    wider[2:4, 4:7, 4:7] = 200  # an edge one voxel off
    assert by_intensity(wider, true, labels, 0.1)["false_intensity"] == 0
    assert by_intensity(np.minimum(true, 200) + np.uint8(55), true, labels, 0.1)["normal_bright"] == 1


def test_bright_is_five_percent_of_normal_brain():
    image = np.arange(1, 201, dtype=np.uint8).reshape(2, 10, 10)
    assert bright(image, np.zeros(image.shape, bool)).sum() == 10
    assert not bright(np.zeros_like(image), np.zeros(image.shape, bool)).any()


class Oracle:
    """Finds the true labels where it sees a true t1ce, nothing otherwise."""

    sequences, regions = ("t1", "t1ce", "t2"), "multi"

    def __init__(self, studies):
        self.known = [(np.asarray(s.volume("t1ce")), np.asarray(s.labels())) for s in studies]

    def __call__(self, images):
        found = [labels for t1ce, labels in self.known if np.array_equal(t1ce, images["t1ce"])]
        return found[0] if found else np.zeros_like(images["t1ce"])


def test_every_substitute_of_every_model_is_measured(model, studies, monkeypatch):
    monkeypatch.setattr("ummgat.quality.enhancement.MIN_ML", 0.001)  # the phantom is a miniature
    rows = gathered(measure_enhancement({"with": model, "without": model}, Oracle(studies), studies))
    kinds = {(r["model"], r["method"], r["source"]) for r in rows}
    assert kinds == {
        ("", "complete", ""),
        *(("", m, q) for m in ("copy", "matched") for q in ("t1", "t2")),
        *((m, *how) for m in ("with", "without") for how in (("generate", "t1"), ("generate", "t2"), ("fuse", ""))),
    }
    assert len(rows) == len(kinds) * len(studies)
    rates = {(r["model"], r["method"], r["rate"]): r for r in enhancement_rates(rows)}
    kept, lost = (
        rates[key]
        for key in (
            ("", "complete", "absent ET, subjects (segmenter)"),
            ("with", "fuse", "absent ET, subjects (segmenter)"),
        )
    )
    assert kept["n"] == lost["n"] == sum((np.asarray(s.labels()) == LABELS["ET"]).any() for s in studies) > 0
    assert (kept["k"], lost["k"], lost["value"], lost["n_subjects"]) == (0, lost["n"], 1.0, len(studies))
    assert lost["low"] < 1 == lost["high"]


def test_a_segmenter_without_et_cannot_judge(model, studies):
    blind = Oracle(studies)
    blind.regions = "wt"
    with pytest.raises(ValueError, match="Segmenter cannot judge enhancement"):
        measure_enhancement({"m": model}, blind, studies)


def test_rates_add_up_and_have_none_where_there_is_nothing():
    base = {"model": "m", "method": "generate", "source": "t1"}
    true, labels = scene()
    intensity = by_intensity(true, true, labels, 0.1)
    rows = [base | by_segmenter(mask(FIRST), mask(FIRST, SECOND), ML) | intensity for _ in range(3)]
    rates = {r["rate"]: r for r in enhancement_rates(rows)}
    assert (rates["absent ET, lesions (segmenter)"]["k"], rates["absent ET, lesions (segmenter)"]["n"]) == (3, 6)
    assert rates["false ET, subjects (segmenter)"]["n"] == 0
    assert np.isnan(rates["false ET, subjects (segmenter)"]["value"])


def test_quality_table_prints_ours_matched_copied_in_lesion_and_rest():
    rows = [
        {
            "subject": s, "center": "A", "source": "t1", "target": "t2", "substitute": name, "region": region,
            "mae": 10.0 * k + j, "ssim": 0.5, "correlation": 0.1, "psnr": 20.0, "n_voxels": 9 if s == "a" else j,
        }
        for s in ("a", "b")
        for k, name in enumerate(("generated", "matched", "copied"))
        for j, region in enumerate(("lesion", "rest"))
    ]  # fmt: skip
    (found,) = quality_table(medians(rows))
    assert (found["direction"], found["center"], found["n"]) == ("t1 → t2", "A", "1")
    assert found["MAE lesion"] == "0.0 / 10.0 / 20.0"
    assert found["MAE rest"] == "1.0 / 11.0 / 21.0"
    assert found["PSNR rest"] == "20.0 / 20.0 / 20.0"
