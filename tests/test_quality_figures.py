"""Figures of image quality say the numbers they were given."""

import io

import numpy as np
import pytest

from ummgat.report.quality_figures import distance_heatmaps, enhancement_bars, paired_distances


def row(kind, model, source, target, value, n=18, subjects=6):
    return {
        "kind": kind, "model": model, "source": source, "target": target, "features": "f", "metric": "Fréchet distance",
        "value": value, "low": value - 1, "high": value + 1, "n_slices": n, "n_subjects": subjects,
    }  # fmt: skip


ROWS = [
    row("real", "", "A/t1", "A/t2", 57.0),
    row("floor", "", "A/t1", "A/t1", 3.25, subjects=3),
    row("generated", "with", "A/t1", "A/t2", 12.5),
    row("generated", "with", "A/t2", "A/t1", 131.2),
    row("generated without LAM", "without", "A/t1", "A/t2", 14.5),
    row("generated without LAM", "without", "A/t2", "A/t1", 9.5),
]


def texts(axes):
    return [t.get_text() for t in axes.texts]


def drawn(figure):
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=50)
    return out.getvalue().startswith(b"\x89PNG")


def test_heatmaps_print_every_value_once_per_panel_and_the_floor_on_each_diagonal():
    figure = distance_heatmaps(ROWS, "f", "Fréchet distance")
    real, with_lam, without = figure.axes[:3]
    assert sorted(texts(real)) == ["3.25", "57.0", "57.0"]
    assert sorted(texts(with_lam)) == ["12.5", "131", "3.25"]
    assert without.get_title() == "generated without LAM: without"
    assert np.ma.getdata(with_lam.images[0].get_array())[0, 1] == 12.5  # row: source
    assert with_lam.images[0].get_clim() == real.images[0].get_clim() == (3.25, 131.2)
    title = figure.get_suptitle()
    assert "Fréchet distance (f)" in title
    assert "18 slices per set, 6 subjects" in title
    assert drawn(figure)


def test_fid_needs_no_further_name():
    rows = [r | {"metric": "FID", "features": "inception-fid"} for r in ROWS]
    assert distance_heatmaps(rows, "inception-fid", "FID").get_suptitle().startswith("FID, n = ")


def test_pairs_are_differences_and_counted():
    figure = paired_distances(ROWS, "f", "Fréchet distance", "with", "without")
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["A/t1 → A/t2", "A/t2 → A/t1"]
    ends = [line.get_xdata()[-1] for line in axes.lines if len(line.get_xdata()) == 1]
    assert ends == pytest.approx([-2.0, 121.7])
    assert axes.get_title().startswith("with closer to real in 1 of 2 cells")
    assert drawn(figure)


def rate(model, method, k, n, name="absent"):
    return {
        "model": model, "method": method, "source": "t1", "rate": name, "k": k, "n": n, "n_subjects": 6,
        "value": k / n if n else float("nan"), "low": 0.1, "high": 0.9,
    }  # fmt: skip


def test_bars_print_k_of_n_and_leave_out_what_has_no_n():
    rates = [rate("", "copy", 1, 6), rate("with", "generate", 3, 6), rate("without", "generate", 5, 6)]
    figure = enhancement_bars([*rates, rate("", "copy", 0, 0, "false")])
    (axes,) = [a for a in figure.axes if a.axison]
    assert texts(axes) == ["1/6", "3/6", "5/6"]
    assert [p.get_width() for p in axes.patches] == pytest.approx([1 / 6, 0.5, 5 / 6])
    assert len({p.get_facecolor() for p in axes.patches}) == 3
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels == ["copy t1", "generate t1 [with]", "generate t1 [without]"]
    assert drawn(figure)
    with pytest.raises(ValueError, match="No rate to draw"):
        enhancement_bars([rate("", "copy", 0, 0)])
