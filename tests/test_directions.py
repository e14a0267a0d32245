"""Directions measured against the truth: rows, medians, wins, tables and pictures with answers one can work out."""

import csv

import numpy as np
import pytest
import torch

from conftest import tiny_config
from ummgat.core.domain import Domain
from ummgat.core.each import gathered
from ummgat.quality.directions import (
    SUBSTITUTES,
    count_wins,
    direction_table,
    measure,
    medians,
    substitutes_for,
    translator_of,
    write_rows,
)
from ummgat.quality.pictures import best_plane, comparison, direction_grid


def row(substitute, mae, subject="s1", region="brain", target="t2", n_voxels=5):
    return {
        "subject": subject,
        "center": "A",
        "source": "t1",
        "target": target,
        "substitute": substitute,
        "region": region,
        "mae": mae,
        "ssim": 1 - mae / 100,
        "correlation": 0.0,
        "psnr": 0.0,
        "n_voxels": n_voxels,
        "flicker_ratio": 1.0,
        "gradient_ratio": 1.0,
    }


def test_median_is_over_subjects_and_skips_regions_that_are_empty():
    rows = [row("generated", 1.0, "a"), row("generated", 3.0, "b"), row("generated", 100.0, "c")]
    rows += [row("generated", float("nan"), "d", n_voxels=0)]
    (only,) = medians(rows)
    assert only["mae"] == 3.0
    assert only["n"] == 3


def test_wins_follow_the_direction_of_the_metric_and_ties_are_no_wins():
    rows = [
        row("generated", 1.0),
        row("matched", 2.0),
        row("generated", 5.0, target="flair"),
        row("matched", 5.0, target="flair"),
    ]
    assert count_wins(medians(rows), "matched", "mae", "brain") == (1, ["t1→flair (A)"], 2)
    assert count_wins(medians(rows), "matched", "ssim", "brain")[0] == 1  # lower error is higher similarity here


def test_table_prints_ours_then_matched_then_copied():
    rows = [row(s, float(i)) for i, s in enumerate(("generated", "matched", "copied"))]
    rows += [row(s, 7.0, region=r) for s in ("generated", "matched", "copied") for r in ("lesion", "rest")]
    assert "| t1 → t2 | 0.0 / 1.0 / 2.0 |" in direction_table(medians(rows), "A")


def test_measure_knows_that_a_copy_of_the_truth_is_perfect(model, cohort_studies, monkeypatch):
    study = next(s for s in cohort_studies if len(s.acquired) > 1)
    sources = [q for q in study.acquired if Domain(study.center, q) in model.table]
    rows = gathered(measure(model, [study]))
    assert {r["substitute"] for r in rows} == set(SUBSTITUTES)
    assert {(r["source"], r["target"]) for r in rows} == {
        (a, b) for a in sources for b in model.table.sequences_of(study.center) if a != b and b in study.sequences
    }
    empty = [r for r in rows if r["substitute"] == "empty" and r["region"] == "brain"]
    for r in empty:
        truth = study.volume(r["target"])
        assert r["mae"] == pytest.approx(float(truth[truth > 0].mean()), rel=1e-6)
    # A "translation" that is the truth itself must score 0 error, correlation 1 and ratios 1.
    target = rows[0]["target"]
    truth = np.array(study.volume(target))
    monkeypatch.setattr("ummgat.model.translator.translate_volume", lambda *a, **k: truth)
    best = [r for r in gathered(measure(model, [study])) if r["substitute"] == "generated" and r["target"] == target]
    for r in best:
        if r["region"] == "brain":
            assert (r["mae"], r["ssim"]) == (0.0, pytest.approx(1.0))
            assert r["correlation"] == pytest.approx(1.0)
            assert (r["flicker_ratio"], r["gradient_ratio"]) == (1.0, 1.0)


def test_substitutes_keep_the_brain_and_empty_is_empty(model, cohort_studies):
    study = cohort_studies[0]
    source = np.array(study.volume(study.acquired[0]))
    target, domain = model.table.domains[:2]
    found = substitutes_for(translator_of(model, source, domain), target, "mean")
    assert not found["empty"].any()
    assert found["copied"] is source
    for name in ("generated", "matched"):
        assert ((found[name] > 0) == (source > 0)).all()


def test_rows_are_written_as_csv_with_every_column(tmp_path):
    write_rows(tmp_path / "rows.csv", [row("generated", 1.23456789), {**row("copied", 2.0), "extra": 1}])
    with (tmp_path / "rows.csv").open() as file:
        found = list(csv.DictReader(file))
    assert found[0]["mae"] == "1.23457"
    assert found[1]["extra"] == "1"


def test_pictures_are_drawn_without_a_display(model, cohort_studies, tmp_path):
    study = next(s for s in cohort_studies if len(s.acquired) > 1)
    direction_grid(model, study, study, tmp_path / "grid.png")
    volume = np.array(study.volume(study.acquired[0]))
    comparison([("a → b", volume, volume, volume, volume)], best_plane(study), tmp_path / "comparison.png", "title")
    for name in ("grid.png", "comparison.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".tmp*"))


def test_tiny_config_is_what_the_model_was_trained_with(model):
    assert model.config.model.width == tiny_config().model.width
    assert torch.isfinite(model.codes["mean"]).all()
