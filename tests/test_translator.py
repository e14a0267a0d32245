"""One study: the atlas registered once and left out where it does not fit, what sources see of lesions multiplied."""

import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import tiny_config
from ummgat.completion.cohort import complete
from ummgat.completion.fill import Request, fill
from ummgat.core.domain import Domain, DomainTable
from ummgat.core.files import read_json
from ummgat.model.asked import asked_brightness, thresholds
from ummgat.model.atlas import Atlas
from ummgat.model.lesion_gate import drawing
from ummgat.model.networks import build_networks, moving_average_of
from ummgat.model.translate import Beside, Direction, translate_volume
from ummgat.model.translator import Translator
from ummgat.model.unet import Aside
from ummgat.model.weights import TrainedModel
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings

TABLE = DomainTable.from_names(["A/t1", "A/t1ce", "A/t2"])
SHAPE = (24, 28, 26)


def brain_of(seed, noise=0.0):
    """A round head of smooth texture, at 2 mm."""
    index = np.indices(SHAPE).astype(np.float32)
    inside = sum(((index[a] - s / 2) / (s * 0.4)) ** 2 for a, s in enumerate(SHAPE)) < 1
    texture = np.sin(index[0] / 3 + seed) + np.cos(index[1] / 4) + np.sin(index[2] / 5)
    grey = 100 + 22 * texture + np.random.default_rng(seed).normal(0, noise, SHAPE)
    return np.where(inside, np.clip(grey, 1, 255), 0).astype(np.uint8)


@pytest.fixture
def model():
    config = tiny_config(data__spacing_mm=2.0, model__atlas=True, model__neighbours=True, model__gate="code")
    one = brain_of(0)
    means = np.stack([np.where(one > 0, one, 100)] * 3).astype(np.uint8)
    return TrainedModel(
        nets=moving_average_of(build_networks(config.model, 3, seed=1)),
        table=TABLE,
        config=config,
        codes={"mean": torch.randn(3, 4), "mapper": torch.randn(3, 4)},
        histograms=np.full((3, 256), 1 / 256),
        spreads=np.zeros((3, 3, 5)),
        flickers=np.full(3, np.inf),
        lesions=np.array([[90.0, 100, 100], [80.0, 90, 170], [180.0, 160, 160]]),
        lesion_spreads=np.full((3, 3), 15.0),
        atlas=Atlas(means, np.full_like(means, 10), ((one > 0) * 255).astype(np.uint8)),
        criteria={"mode": "mean"},
        training={},
        version="",
        hash="",
    )


def codes_of(model, target, source):
    return model.codes["mean"][target], model.codes["mean"][source]


def test_registration_happens_once_and_is_remembered(model, monkeypatch):
    calls = []
    real = __import__("ummgat.model.translator", fromlist=["place"]).place
    monkeypatch.setattr("ummgat.model.translator.place", lambda *a: calls.append(1) or real(*a))
    translator = Translator(model, {"t1": brain_of(0), "t2": brain_of(0)}, "A")
    assert translator.brought() is not None
    for target in ("t1ce", "t2"):
        image = translator.translate("t1", Domain("A", target), codes_of(model, 1, 0), np.inf)
        assert ((image > 0) == (brain_of(0) > 0)).all()
    assert len(calls) == 2
    assert translator.similarity["t1"] > 0.9


def test_an_atlas_that_does_not_fit_one_source_is_left_out_there_and_said(model, monkeypatch, caplog):
    """The registration of T2 went astray: the study is placed by its T1 alone; where both did, the answer has no
    atlas.
    """
    real = __import__("ummgat.model.translator", fromlist=["place"]).place
    failing = {2}

    def place(volume, spacing, mean, brain, box):
        found = real(volume, spacing, mean, brain, box)
        astray = any(np.shares_memory(mean, model.atlas.means[i]) for i in failing)
        return found._replace(similarity=0.2, points=found.points + 9) if astray else found

    monkeypatch.setattr("ummgat.model.translator.place", place)
    volumes = {"t1": brain_of(0), "t2": brain_of(0)}
    both = Translator(model, volumes, "A")
    alone = Translator(model, {"t1": brain_of(0)}, "A")
    assert np.array_equal(both.brought().means, alone.brought().means)
    assert both.similarity["t2"] == 0.2
    assert "did not fit t2" in caplog.text
    failing.add(0)
    neither = Translator(model, volumes, "A")
    assert neither.brought() is None
    assert neither.expected(Domain("A", "t1ce")) is None
    image = neither.translate("t1", Domain("A", "t2"), codes_of(model, 2, 0), np.inf)
    assert ((image > 0) == (brain_of(0) > 0)).all()


def test_what_the_sources_see_is_asked_once_for_all_targets(model, monkeypatch):
    """In whatever order a target ranks them; another code, another choice of planes or fewer sources are asked anew."""
    calls = []

    def seen(generator, volume, code, beside, domain, only=None):
        calls.append(domain)
        return np.full((4, *SHAPE), 0.25, np.float32)

    monkeypatch.setattr("ummgat.model.translator.lesion_posterior", seen)
    translator = Translator(model, {"t1": brain_of(0), "t2": brain_of(0)}, "A")
    a, b = model.codes["mean"][0], model.codes["mean"][1]
    first = translator.posterior({"t1": a, "t2": b})
    assert translator.posterior({"t2": b, "t1": a}) is first
    assert len(calls) == 2
    for codes, only in (({"t1": b, "t2": b}, None), ({"t1": a, "t2": b}, [0]), ({"t1": a}, None)):
        before = len(calls)
        translator.posterior(codes, only)
        assert len(calls) == before + len(codes)


def test_experts_that_agree_are_surer_together_and_a_silent_one_changes_nothing(model, monkeypatch):
    """Each says ET with .5 where a prior says .02: two are surer than one, but not as sure as if they were
    independent.
    """
    seen = np.zeros((4, *SHAPE), np.float32)
    seen[:] = np.array([0.4, 0.05, 0.05, 0.5], np.float32)[:, None, None, None]
    monkeypatch.setattr("ummgat.model.translator.lesion_posterior", lambda *a, **k: seen)
    translator = Translator(model, {"t1": brain_of(0), "t2": brain_of(0)}, "A")
    brain = brain_of(0) > 0
    code = model.codes["mean"][0]
    one = translator.posterior({"t1": code})
    two = translator.posterior({"t1": code, "t2": code})
    assert np.allclose(one[:, brain], seen[:, brain], atol=1e-3)
    independent = np.array([0.4, 0.05, 0.05, 0.5]) ** 2 / np.array([0.90, 0.02, 0.06, 0.02])
    assert 0.5 < two[3][brain].mean() < independent[3] / independent.sum()
    assert np.allclose(two.sum(0), 1, atol=1e-5)


def test_what_a_gate_paints_by_hand():
    """τ .2: p(ET) .1 is drawn by half; NCR and ED share the rest of the gate as they stand to each other."""
    posterior = torch.tensor([0.6, 0.1, 0.2, 0.1]).view(1, 4, 1, 1)
    code = torch.tensor([[-1.0, 0.0, 1.0]])  # 0, 1 and 2 above background
    found = drawing(posterior, code, torch.tensor([0.2]))
    assert found.gate.item() == pytest.approx(0.5)  # share of ET, which is more than p(lesion)
    assert found.paint.item() == pytest.approx(0.5 * 2, abs=1e-3)
    plain = drawing(posterior, code, torch.tensor([1.0]))
    assert plain.gate.item() == pytest.approx(0.4)
    assert plain.paint.item() == pytest.approx(0.1 * 0 + 0.2 * 1 + 0.1 * 2, abs=1e-3)


def test_a_lesion_code_reaches_the_image_and_only_where_the_gate_is_open(model):
    """The same slice asked for brighter ET: nothing changes where the posterior says health, in a generator that
    normalises over the whole brain apart from a little."""
    generator, volume = model.nets.generator, brain_of(0)
    x = torch.from_numpy(volume[12:13].astype(np.float32) / 127.5 - 1)[:, None]
    inside = torch.zeros_like(x)
    inside[..., 12:16, 11:15] = 1
    posterior = torch.cat([1 - inside, 0 * inside, 0 * inside, inside], dim=1)
    dark, bright = (
        generator(x, *codes, aside=Aside(expected=x + 1, lesion_code=torch.full((1, 3), v), posterior=posterior))
        for codes, v in zip([tuple(s[None] for s in codes_of(model, 1, 0))] * 2, (-0.8, 0.8), strict=True)
    )
    change = (bright - dark).abs()
    lesion = (inside > 0) & (x > -1)
    far = (x > -1) & (torch.nn.functional.max_pool2d(inside, 9, 1, 4) == 0)
    assert (bright - dark)[lesion].mean() > 0.2
    assert change[lesion].mean() > 3 * change[far].mean()


def test_planes_at_once_change_nothing_but_rounding(model):
    """Neighbours, atlas and posterior are read for the right plane."""
    translator = Translator(model, {"t1": brain_of(0, 4.0)}, "A")
    posterior = translator.posterior({"t1": model.codes["mean"][0]})
    beside = Beside.of(TABLE, model.config, model.lesions, model.lesion_spreads)
    beside = beside._replace(brought=translator.brought(), posterior=posterior)
    one, many = (
        translate_volume(
            model.nets.generator,
            brain_of(0, 4.0),
            *codes_of(model, 1, 0),
            batch=n,
            beside=beside,
            direction=Direction(0, 1),
        ).astype(int)
        for n in (1, 5)
    )
    assert np.abs(one - many).max() <= 1


def test_what_is_asked_of_lesions():
    means, spreads = np.array([[90.0, 95, 100]] * 3), np.array([[5.0, 5, 20]] * 3)
    asked = asked_brightness(TABLE, means, spreads)
    assert asked[1].tolist() == [90, 95, 120]  # T1ce shows enhancement by one spread more
    assert asked[[0, 2]].tolist() == [[90, 95, 100]] * 2
    assert thresholds(TABLE, 0.15).tolist() == pytest.approx([1, 0.15, 1])


# ---------------------------------------------------------------- filling a study


@pytest.fixture
def seeing(model, monkeypatch):
    """A model whose gate is sure of a piece of enhancing tumour, and has validated nothing."""
    where = np.zeros(SHAPE, bool)
    where[10:14, 10:16, 10:16] = True
    seen = np.zeros((4, *SHAPE), np.float32)
    seen[0], seen[3] = np.where(where, 0.01, 0.97), np.where(where, 0.97, 0.01)
    seen[1:3] = 0.01
    monkeypatch.setattr("ummgat.model.translator.lesion_posterior", lambda *a, **k: seen)
    return model, where


def test_a_model_that_sees_lesions_pools_all_sources_by_default(seeing):
    model, _ = seeing
    volumes = {"t1": brain_of(0), "t2": brain_of(0)}
    (image,) = fill(model, volumes, "A", Request(with_reliability=False))
    assert image.provenance["method"] == "fuse"
    assert image.provenance["lesions_seen_by"] == ["t1", "t2"]
    (single,) = fill(model, volumes, "A", Request(sources=("t2",), with_reliability=False))
    assert single.provenance["method"] == "generate"
    (refused,) = fill(model, volumes, "A", Request(sources=("t2", "t1"), fuse=False, with_reliability=False))
    assert refused.provenance["lesions_seen_by"] == ["t2"]


def test_expected_enhancement_is_drawn_told_and_mapped_and_none_is_not_drawn(seeing):
    model, where = seeing
    volumes = {"t1": brain_of(0), "t2": brain_of(0)}
    drawn, plain = (
        fill(model, volumes, "A", Request(enhancement=how, with_reliability=False))[0] for how in ("expected", "none")
    )
    brain = brain_of(0) > 0
    difference = drawn.volume.astype(int) - plain.volume
    assert difference[where].mean() > 15
    assert np.abs(difference[brain & ~where]).mean() < 0.5 * difference[where].mean()
    assert "likely" in drawn.warnings[0]
    assert "means nothing" in plain.warnings[0]
    assert (drawn.provenance["enhancement"], plain.provenance["enhancement"]) == ("expected", "none")
    for image in (drawn, plain):
        assert (image.enhancement[where] > 90).all()
        assert ((image.enhancement > 0) == brain).all()
    # Where contrast is at hand nothing is expected: it is seen.
    (t2,) = fill(model, {"t1ce": brain_of(0), "t1": brain_of(0)}, "A", Request(with_reliability=False))
    assert t2.enhancement is None
    assert not t2.warnings


def test_a_model_of_one_center_needs_none_and_the_sidecar_says_so(seeing, tmp_path):
    """Plain NIfTI without --center, and a prepared study of another center: both are taken for the only one there
    is.
    """
    model, _ = seeing
    (tmp_path / "raw" / "S1").mkdir(parents=True)
    for name in ("t1", "t2"):
        image = nib.Nifti1Image(np.ascontiguousarray(brain_of(0).T), np.diag([2.0, 2, 2, 1]))
        nib.save(image, tmp_path / "raw" / "S1" / f"S1_{name}.nii.gz")
    request = Request(with_reliability=False)
    report = complete(tmp_path / "raw", tmp_path / "out", model, request=request)
    assert not report.failed
    said = read_json(tmp_path / "out" / "S1" / "S1_t1ce_generated.json")
    assert said["center_only_one"] == "A"
    assert "center_given" not in said
    assert (tmp_path / "out" / "S1" / "S1_t1ce_generated_enhancement.nii.gz").is_file()
    prepare_cohort(tmp_path / "raw", tmp_path / "cohort", PrepareSettings(center="Elsewhere", spacing_mm=2.0))
    report = complete(tmp_path / "cohort", tmp_path / "again", model, request=request)
    assert not report.failed
    said = read_json(tmp_path / "again" / "S1" / "t1ce_generated.json")
    assert said["center_only_one"] == "A"
    assert (tmp_path / "again" / "S1" / "t1ce_generated_enhancement.nii").is_file()
    # Where the centers are one, or the user says it, nothing is assumed.
    report = complete(tmp_path / "cohort", tmp_path / "said", model, request=request, center="A")
    assert read_json(tmp_path / "said" / "S1" / "t1ce_generated.json")["center_given"] == "A"
