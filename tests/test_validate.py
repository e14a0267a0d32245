import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from conftest import slices, tiny_config
from ummgat.core.domain import DomainTable
from ummgat.model.masked import to_unit
from ummgat.model.networks import Networks, build_networks
from ummgat.model.translate import Beside
from ummgat.model.weights import unpaired_score
from ummgat.train.slices import index_volumes, selection_volumes
from ummgat.train.validate import DETAIL_GREYS, PLANES, Probe, build_probe, choose, domain_codes, validate

TABLE = DomainTable.from_names(["A/t1", "A/t2", "B/t2"])


def row(source, target, mode="mean", kernel=0.0, cycle=0.0, agreement=1.0, mae=None, mae_lesion=None, detail=1.0):
    return {
        "mode": mode,
        "source": source,
        "target": target,
        "kernel": kernel,
        "kernel_copy": 1.0,
        "cycle": cycle,
        "agreement": agreement,
        "detail": detail,
        "mae": mae,
        "mae_lesion": mae_lesion,
        "n": 8,
    }


# ---------------------------------------------------------------- choosing


def test_unpaired_score_by_hand():
    """Half the distance of a copy, 16 of 32 grey levels lost, a quarter not recognised."""
    assert unpaired_score(row("A/t1", "A/t2", kernel=0.5, cycle=16.0, agreement=0.75)) == pytest.approx(1.25)


def test_slightly_negative_kernel_distance_counts_as_0_and_a_copy_at_0_does_not_divide_by_it():
    assert unpaired_score(row("A/t1", "A/t2", kernel=-0.5)) == 0
    assert unpaired_score(row("A/t1", "A/t2") | {"kernel_copy": 0.0}) == 0


def test_mode_and_sources_by_true_images():
    """`mapper` errs by 10 and 20 (15), `mean` by 12 and 14 (13), however well `mapper` does unpaired."""
    rows = [
        row("A/t1", "A/t2", "mapper", mae=10.0),
        row("A/t2", "A/t1", "mapper", mae=20.0),
        row("A/t1", "A/t2", "mean", mae=12.0, kernel=3.0),
        row("A/t2", "A/t1", "mean", mae=14.0, kernel=3.0),
    ]
    chosen = choose(rows, TABLE)
    assert chosen["mode"] == "mean"
    assert chosen["score"] == 13
    assert chosen["basis"] == "MAE to true images of selection subjects, brain plus lesion, and detail"


def test_a_mode_that_loses_lesions_does_not_win_by_the_rest_of_the_brain():
    """`mapper` 10 + (30 + 50) / 2 = 50, `mean` 14 + 20 = 34; a direction without annotated lesion counts by the
    brain.
    """
    rows = [
        row("A/t1", "A/t2", "mapper", mae=8.0, mae_lesion=30.0),
        row("A/t2", "A/t1", "mapper", mae=12.0, mae_lesion=50.0),
        row("A/t1", "A/t2", "mean", mae=13.0, mae_lesion=20.0),
        row("A/t2", "A/t1", "mean", mae=15.0),
    ]
    chosen = choose(rows, TABLE)
    assert (chosen["mode"], chosen["score"]) == ("mean", 34)


def test_a_flat_image_does_not_win_by_its_mean_absolute_error():
    """`mapper` errs by 20 less 4, but has a fifth of the detail of real images, `mean` one and a quarter: 16 + 10 ln 5
    against 20 + 10 ln 1.25."""
    rows = [row("A/t1", "A/t2", "mapper", mae=16.0, detail=0.2), row("A/t1", "A/t2", "mean", mae=20.0, detail=1.25)]
    chosen = choose(rows, TABLE)
    assert chosen["mode"] == "mean"
    assert chosen["score"] == pytest.approx(20 + DETAIL_GREYS * np.log(1.25))


def test_mode_by_unpaired_criteria_where_there_are_no_true_images():
    rows = [row("A/t1", "A/t2", mode, kernel=kernel) for mode, kernel in (("mapper", 0.4), ("mean", 0.6))]
    chosen = choose(rows, TABLE)
    assert (chosen["mode"], chosen["basis"]) == ("mapper", "unpaired criteria")
    assert chosen["score"] == pytest.approx(0.4)


def test_sources_of_the_own_center_come_first_and_by_one_ruler():
    table = DomainTable.from_names(["A/t1", "A/t2", "A/flair", "B/t2", "B/t1"])
    rows = [
        row("A/t1", "A/flair", kernel=0.1, mae=9.0),
        row("A/t2", "A/flair", kernel=0.9, mae=5.0),
        row("B/t1", "A/flair", kernel=0.3),
        row("B/t2", "A/flair", kernel=0.2),
        row("A/t1", "A/t2", kernel=0.8, mae=1.0),
        row("A/flair", "A/t2", kernel=0.7),  # no true image: this target falls back to unpaired criteria
    ]
    chosen = choose(rows, table)
    assert chosen["sources"]["A/flair"] == ["A/t2", "A/t1", "B/t2", "B/t1"]
    assert chosen["sources_basis"]["A/flair"] == "true images of selection subjects"
    assert chosen["sources"]["A/t2"] == ["A/flair", "A/t1"]
    assert chosen["sources_basis"]["A/t2"] == "unpaired criteria"
    assert chosen["sources"]["B/t2"] == []


def test_without_selection_subjects_nothing_is_chosen():
    assert choose([], TABLE) == {
        "score": None,
        "basis": "no selection subjects",
        "mode": "mean",
        "sources": {},
        "sources_basis": {},
    }


# ---------------------------------------------------------------- validating, by hand


class Painter(nn.Module):
    """G(x, s): the whole brain in grey s."""

    def forward(self, x, code, source, brain_only=False, aside=None):
        return torch.where(x > -1, code.view(-1, 1, 1, 1), -1.0)


class GreyReader(nn.Module):
    """E_y(x) and its features: mean grey of the brain."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def features(self, x):
        brain = x > -1
        return ((x * brain).sum((1, 2, 3)) / brain.sum((1, 2, 3)))[:, None]

    def forward(self, x, y):
        return self.features(x)


class ZeroMapper(nn.Module):
    """M_y(z) = 0."""

    latent_dim = 2

    def forward(self, z, y):
        return torch.zeros(len(z), 1)


NOTHING = Beside(torch.zeros(3, 0), torch.ones(3))


def probe_of(real, sources):
    """Without neighbours and atlas."""
    return Probe(real, sources, [torch.zeros(len(x), 2, *x.shape[2:]) for _, _, x, _ in sources], [None] * len(sources))


def painted(grey, n=4):
    return torch.where(torch.from_numpy(slices(n)) > -1, grey, -1.0)


def test_networks_that_paint_the_mean_grey_of_a_domain():
    """Greys 153, 204 and 51 of 255. Code `mean` paints them exactly; `mapper` always paints 0, which is 127.5."""
    greys = [0.2, 0.6, -0.6]
    nets = Networks(Painter(), GreyReader(), ZeroMapper(), None)
    lesion = torch.zeros(4, 1, 24, 28, dtype=torch.bool)
    lesion[2, :, 10:14, 10:14] = True
    sources = [("a", 0, painted(0.2), lesion), ("a", 1, painted(0.6), lesion), ("b", 2, painted(-0.6), lesion)]
    studies = [SimpleNamespace(subject="a", center="A"), SimpleNamespace(subject="b", center="B")]
    found = validate(nets, probe_of([painted(g) for g in greys], sources), TABLE, studies, seed=0, beside=NOTHING)
    rows = {(r["mode"], r["source"], r["target"]): r for r in found["directions"]}
    assert len(rows) == 2 * 6  # modes × directions between different domains

    good = rows["mean", "A/t1", "A/t2"]
    assert good["kernel"] == pytest.approx(0, abs=1e-3)
    assert good["kernel_copy"] > 1
    assert good["cycle"] == pytest.approx(0, abs=1e-3)
    assert (good["agreement"], good["n"]) == (1, 4)
    assert good["mae"] == pytest.approx(0, abs=1e-3)
    assert good["detail"] == pytest.approx(1)

    bad = rows["mapper", "A/t1", "A/t2"]
    assert bad["mae"] == pytest.approx(0.6 * 127.5, rel=1e-3)
    assert bad["mae_lesion"] == pytest.approx(0.6 * 127.5, rel=1e-3)
    assert bad["cycle"] == pytest.approx(0.2 * 127.5, rel=1e-3)
    assert bad["agreement"] == 0  # grey 0 is nearest to 0.2, the first domain

    assert rows["mean", "A/t1", "B/t2"]["mae"] is None  # nobody was scanned in both centers
    assert found["mode"] == "mean"
    assert found["score"] == pytest.approx(0, abs=1e-3)
    assert found["sources"]["A/t2"] == ["A/t1", "B/t2"]
    json.dumps(found, allow_nan=False)


def test_detail_is_relative_to_real_slices_of_the_target():
    """Real slices of the target domain alternate by 20 grey levels between columns; what is painted is flat."""
    striped = painted(0.0)
    striped[..., ::2] = torch.where(striped[..., ::2] > -1, 20 / 127.5, -1.0)
    nets = Networks(Painter(), GreyReader(), ZeroMapper(), None)
    lesion = torch.zeros(4, 1, 24, 28, dtype=torch.bool)
    sources = [("a", 0, painted(0.2), lesion), ("b", 2, painted(-0.6), lesion)]
    studies = [SimpleNamespace(subject="a", center="A"), SimpleNamespace(subject="b", center="B")]
    found = validate(
        nets, probe_of([painted(0.2), striped, painted(-0.6)], sources), TABLE, studies, seed=0, beside=NOTHING
    )
    to_striped = [r["detail"] for r in found["directions"] if r["target"] == "A/t2"]
    assert max(to_striped) < 0.01  # 1 of about 200, half of the neighbours being in rows
    assert all(r["detail"] == pytest.approx(1) for r in found["directions"] if r["target"] != "A/t2")


def test_codes_of_the_domains_by_hand():
    codes = domain_codes(Networks(Painter(), GreyReader(), ZeroMapper(), None), [painted(0.2, 40), painted(-0.4)], 0)
    torch.testing.assert_close(codes["mean"], torch.tensor([[0.2], [-0.4]]))
    assert torch.equal(codes["mapper"], torch.zeros(2, 1))


def test_mapper_code_is_the_mean_of_1000_draws_and_follows_from_the_seed():
    nets = build_networks(tiny_config().model, 2, 0)
    codes = [domain_codes(nets, [painted(0.1), painted(0.2)], seed)["mapper"] for seed in (3, 3, 4)]
    z = torch.randn(1000, 4, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(codes[0][1], nets.mapper(z, torch.ones(1000, dtype=torch.long)).mean(0))
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


# ---------------------------------------------------------------- what it looks at


def test_probe_takes_evenly_spaced_slices_of_training_and_selection_subjects(cohort_studies, strict_draw):
    config = tiny_config()
    volumes = index_volumes(cohort_studies, strict_draw, config.data)
    chosen = [s for s in cohort_studies if s.subject in strict_draw.selection]
    selection = selection_volumes(chosen, strict_draw.table, config.data)
    probe = build_probe(volumes, selection, 4, config)
    assert [(s, y) for s, y, _, _ in probe.sources] == [
        ("Phantom_A_005", 0),
        ("Phantom_A_005", 1),
        ("Phantom_A_005", 2),
        ("Phantom_B_003", 3),
    ]
    for volume, real in zip(volumes, probe.real, strict=True):
        assert real.shape == (len(volume.planes), 1, 20, 24)  # up to 64 per domain; these have fewer
    _, _, x, lesion = probe.sources[0]
    volume = selection[0]
    assert x.shape == lesion.shape == (PLANES, 1, 20, 24)
    row0, column0 = volume.corner
    last = volume.planes[-1]
    inside = volume.study.volume("t1")[last, row0 : row0 + 20, column0 : column0 + 24]
    np.testing.assert_array_equal(x[-1, 0], to_unit(inside))
    again = build_probe(volumes, selection, 4, config)
    assert all(torch.equal(a, b) for a, b in zip(probe.real, again.real, strict=True))


def test_real_networks_give_a_full_json_ready_answer(model_path, trained_run):
    (line,) = (trained_run / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    found = json.loads(line)
    assert found["step"] == 4
    assert found["basis"] == "MAE to true images of selection subjects, brain plus lesion, and detail"
    assert found["features"] == "random-convolutions-1"
    # A's selection subject has all of A, B's has B/t2: from 4 sources to 3 others, in two modes.
    assert len(found["directions"]) == 2 * 4 * 3
    assert {r["target"] for r in found["directions"] if r["mae"] is not None} == {"A/t1", "A/t1ce", "A/t2"}
    assert set(found["sources"]["A/t1"]) == {"A/t1ce", "A/t2", "B/t2"}
    assert found["sources"]["A/t1"][-1] == "B/t2"
    assert all(
        np.isfinite([r[k] for k in ("kernel", "kernel_copy", "cycle", "agreement")]).all() for r in found["directions"]
    )
