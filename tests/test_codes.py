"""Codes and features of slices: what is collected, numbers with answers one can work out, and the maps."""

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from ummgat.quality.codes import collect
from ummgat.quality.separation import scaled, silhouette


@pytest.fixture(scope="module")
def found(model, cohort_studies):
    """Of three subjects with all of their sequences, two of them of center A."""
    whole = [s for s in cohort_studies if len(s.acquired) > 1]
    return collect(model, whole, planes=2)[0]


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


# ---------------------------------------------------------------- silhouettes


@pytest.mark.parametrize("seed", range(5))
def test_silhouettes_are_those_of_scikit_learn(seed):
    """Groups of unequal size, one of them of a single row, and rows that coincide."""
    rng = np.random.default_rng(seed)
    labels = np.array(["a"] * 9 + ["b"] * 4 + ["c"] + ["d"] * 2)
    vectors = rng.normal(size=(len(labels), 3)) + 2.0 * (labels == "a")[:, None]
    vectors[-2:] = vectors[0]
    order = rng.permutation(len(labels))
    theirs = silhouette_score(scaled(vectors, vectors)[order], labels[order])
    assert silhouette(vectors[order], labels[order]) == pytest.approx(theirs, abs=1e-12)


def test_silhouettes_that_do_not_exist_are_nan():
    vectors = np.arange(4.0)[:, None]
    assert np.isnan(silhouette(vectors, np.array(["a"] * 4)))
    assert np.isnan(silhouette(vectors, np.array(["a", "b", "c", "d"])))
