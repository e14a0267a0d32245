"""Codes and features of slices: what is collected, numbers with answers one can work out, and the maps."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from ummgat.quality import code_figures
from ummgat.quality.code_figures import code_figure, flatten
from ummgat.quality.codes import Codes, Encoded, collect, vector_rows
from ummgat.quality.directions import write_rows
from ummgat.quality.separation import neighbours, scaled, separation, silhouette, vote


@pytest.fixture(scope="module")
def found(model, cohort_studies):
    """Of three subjects with all of their sequences, two of them of center A."""
    whole = [s for s in cohort_studies if len(s.acquired) > 1]
    return collect(model, whole, planes=2)


# ---------------------------------------------------------------- collecting


def test_every_kind_is_collected_for_every_pair_with_both_encoders(found, model):
    names = set(model.table.names)
    for encoder in ("trained", "untrained"):
        for kind in ("real", "lesion", "flat lesion"):
            own = [found.rows[i] for i in found.chosen(encoder=encoder, kind=kind)]
            assert {r.source for r in own} == names
            assert all(r.source == r.target for r in own)
        for kind in ("generated", "generated lesion"):
            own = [found.rows[i] for i in found.chosen(encoder=encoder, kind=kind)]
            assert {(r.source, r.target) for r in own} == {(a, b) for a in names for b in names if a != b}
    assert len(found.rows) == len(found.features) == len(found.codes)
    assert np.isfinite(found.features).all()


def test_both_encoders_see_the_same_rows_and_only_the_weights_differ(found):
    trained, untrained = (found.chosen(encoder=e) for e in ("trained", "untrained"))
    assert [found.rows[i][1:] for i in trained] == [found.rows[i][1:] for i in untrained]
    assert not np.allclose(found.features[trained], found.features[untrained])


def test_a_flat_lesion_tells_nothing_but_its_mask(found):
    """All sequences of a subject share masks, so their flat lesions are one and the same; real ones are not."""
    for kind, same in (("flat lesion", True), ("lesion", False)):
        groups = {}
        for i in found.chosen(encoder="trained", kind=kind):
            groups.setdefault((found.rows[i].subject, found.rows[i].plane), []).append(found.features[i])
        spreads = [np.ptp(np.stack(g), axis=0).max() for g in groups.values() if len(g) > 1]
        assert spreads
        assert all((s < 1e-6) == same for s in spreads)


def test_codes_are_those_of_the_targets_head_and_of_the_lesion_head(found, model):
    heads = model.nets.encoder.heads
    for kind, shift in (("generated", 0), ("generated lesion", len(model.table))):
        i = int(found.chosen(encoder="trained", kind=kind)[0])
        y = model.table.names.index(found.rows[i].target) + shift
        every = heads(torch.from_numpy(found.features[i]).float()).view(-1, model.config.model.code_dim)
        code = torch.nn.functional.layer_norm(every[y], every[y].shape)
        np.testing.assert_allclose(found.codes[i], code.detach().numpy(), atol=1e-4)


def test_nothing_to_encode_and_another_grid_are_refused(model, cohort_studies, monkeypatch):
    with pytest.raises(ValueError, match="No image to encode"):
        collect(model, [])
    monkeypatch.setattr(
        model,
        "config",
        model.config.model_copy(update={"data": model.config.data.model_copy(update={"spacing_mm": 2.0})}),
    )
    with pytest.raises(ValueError, match="disagree on voxel size"):
        collect(model, cohort_studies[:1])


def test_vectors_are_written_a_row_each(found, tmp_path):
    write_rows(tmp_path / "features.csv", vector_rows(found))
    with (tmp_path / "features.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.rows)
    assert float(rows[5]["features_1"]) == pytest.approx(found.features[5, 1], abs=1e-5)


# ---------------------------------------------------------------- numbers


def texts(*names):
    return np.array(names)


def test_votes_as_near_as_the_last_count_and_ties_share():
    labels = texts("a", "b", "b", "c")
    assert vote(np.array([0.0, 1.0, 2.0, 3.0]), labels, 1) == {"a": 1.0}
    assert vote(np.array([0.0, 1.0, 2.0, 3.0]), labels, 3) == {"b": 1.0}
    assert vote(np.array([1.0, 1.0, 9.0, 1.0]), labels, 1) == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}


def world(by):
    """Six subjects with two labels; slices lie where `by` (label, subject) puts them, 0.01 apart."""
    points, labels, subjects = [], [], []
    for s in range(6):
        for label in "ab":
            for j in range(3):
                points.append([by(label, s) + 0.01 * j, 0.0])
                labels.append(label)
                subjects.append(f"s{s}")
    group = np.full(len(points), "")
    return np.array(points), np.array(labels), np.array(subjects), group


def guess(points, labels, subjects, groups):
    return neighbours(points, points, (labels, labels), (subjects, subjects), (groups, groups))


def test_neighbours_find_labels_that_subjects_share():
    votes = guess(*world(lambda label, s: 10.0 * (label == "b")))
    assert (votes.accuracy, votes.low, votes.high, votes.chance) == (1.0, 1.0, 1.0, 0.5)
    assert (votes.n, votes.n_subjects, votes.n_left_out) == (36, 6, 0)


def test_slices_of_the_same_subject_never_vote():
    """Each subject has a place of its own and within it the labels lie apart, the other way round in every second one."""
    votes = guess(*world(lambda label, s: 100.0 * (s // 2) + (10.0 if (label == "b") == (s % 2 == 0) else 0.0)))
    assert votes.accuracy == 0.0  # with its own subject's slices it would be 1


def test_labels_that_nobody_else_has_are_left_out_and_counted():
    points, labels, subjects, groups = world(lambda label, s: 10.0 * (label == "b"))
    labels = np.where(subjects == "s0", "only here", labels)
    votes = guess(points, labels, subjects, groups)
    assert (votes.n, votes.n_left_out, votes.n_subjects) == (30, 6, 5)
    alone = subjects == "s1"
    nobody = guess(points[alone], labels[alone], subjects[alone], groups[alone])
    assert np.isnan(nobody.accuracy)
    assert (nobody.n, nobody.n_left_out) == (0, 6)


def test_only_the_same_group_votes():
    points, labels, subjects, _ = world(lambda label, s: 10.0 * ((label == "b") == (s % 2 == 0)))
    even = np.where(np.isin(subjects, ["s0", "s2", "s4"]), "A", "B")
    assert guess(points, labels, subjects, even).accuracy == 1.0
    assert guess(points, labels, subjects, np.full(len(points), "")).accuracy < 1.0


def test_scaling_drops_constant_columns_and_silhouette_needs_two_labels():
    values = scaled(np.array([[1.0, 7.0], [3.0, 7.0]]), np.array([[1.0, 7.0], [3.0, 7.0]]))
    np.testing.assert_allclose(values, [[-1, 0], [1, 0]])
    points, labels, _, _ = world(lambda label, s: 10.0 * (label == "b"))
    assert silhouette(points, labels) > 0.99
    assert np.isnan(silhouette(points, np.full(len(points), "a")))


def made_up(shared):
    """Codes of four subjects of two centers with two sequences; features tell the target if `shared`."""
    rng = np.random.default_rng(0)
    rows, vectors = [], []
    for encoder in ("trained", "untrained"):
        for center, subject in (("A", "s1"), ("A", "s2"), ("A", "s3"), ("B", "s4"), ("B", "s5")):
            for kind in ("real", "lesion", "flat lesion", "generated", "generated lesion"):
                for source in ("t1", "t2"):
                    for target in ("t1", "t2") if "generated" in kind else (source,):
                        for plane in range(4):
                            rows.append(
                                Encoded(encoder, kind, subject, f"{center}/{source}", f"{center}/{target}", plane)
                            )
                            told = 5.0 * (target == "t2") + 20.0 * (center == "B") if shared else 0.0
                            noise = 0.0 if kind == "flat lesion" else rng.normal(0, 0.1)
                            vectors.append([told * (encoder == "trained" and kind != "flat lesion") + noise, 0.0])
    return Codes(rows, np.array(vectors), np.array(vectors))


def test_separation_tells_learnt_from_unlearnt_and_marks_what_heads_confound():
    rows = separation(made_up(shared=True))
    value = {(r["encoder"], r["space"], r["test"]): r for r in rows}
    assert value["trained", "features", "real slices by real ones"]["accuracy"] == 1.0
    assert value["untrained", "features", "real slices by real ones"]["accuracy"] < 0.6
    assert value["trained", "features", "generated slices by real ones"]["accuracy"] == 1.0
    assert value["trained", "features", "same mask, other texture: real lesions"]["accuracy"] == 1.0
    flat = value["trained", "features", "same mask, no texture"]
    assert flat["accuracy"] == flat["chance"] == 0.5
    assert all(r["confounded_by_heads"] == (r["space"] == "codes") for r in rows)
    assert all("source" not in r["test"] for r in rows if r["space"] == "codes")


def test_separation_works_on_what_is_collected(found):
    rows = separation(found)
    assert {r["encoder"] for r in rows} == {"trained", "untrained"}
    flat = [r for r in rows if r["test"] == "same mask, no texture" and r["space"] == "features" and r["n"]]
    assert flat
    for row in flat:
        assert row["accuracy"] == pytest.approx(row["chance"])


# ---------------------------------------------------------------- maps


def test_without_umap_the_map_says_pca(monkeypatch):
    monkeypatch.setattr(code_figures, "has_umap", lambda: False)
    x = np.random.default_rng(0).normal(size=(20, 3)) * [1, 0, 0]
    flat = flatten(x)
    assert flat.method == "PCA (umap-learn is not installed)"
    assert flat.axes == ("PCA 1 (100 % of variance)", "PCA 2 (0 % of variance)")
    np.testing.assert_allclose(np.abs(flat.points[:, 0]), np.abs(scaled(x, x)[:, 0]))
    figure = code_figure(made_up(shared=True), "codes")
    assert "PCA (umap-learn is not installed)" in figure.get_suptitle()
    assert "heads alone separate" in figure.get_suptitle()
    axes = figure.axes
    assert len(axes) == 8
    assert all(a.get_xlabel().startswith("PCA 1") for a in axes)
    assert "untrained" in axes[4].get_title()


def test_domains_differ_in_more_than_colour(monkeypatch):
    monkeypatch.setattr(code_figures, "has_umap", lambda: False)
    figure = code_figure(made_up(shared=True))
    looks = [(line.get_marker(), line.get_markerfacecolor() == "white") for line in figure.legends[0].legend_handles]
    assert len(set(looks)) == len(looks) == 4


UMAP = """
import json
import numpy as np
from ummgat.quality.code_figures import flatten
x = np.random.default_rng(0).normal(0, 1, (10, 4))
x[5:] += 30
first, again = flatten(x), flatten(x)
print(json.dumps([first.method, first.axes, first.points.tolist(), again.points.tolist()]))
"""


def test_umap_keeps_groups_apart_and_repeats_and_warns_of_nothing():
    """In an interpreter of its own without numba's compiler, which would take longer than the layout."""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "error", "-c", UMAP]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    method, axes, points, again = json.loads(result.stdout)
    assert (method, axes) == ("UMAP", ["UMAP 1", "UMAP 2"])
    assert points == again
    assert silhouette(np.array(points), np.repeat(texts("a", "b"), 5)) > 0.5
