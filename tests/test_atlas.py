"""The population's atlas on phantoms: registered, right in sign, without the subject; the guided filter; the
translator.
"""

import numpy as np
import pytest
import torch

from conftest import tiny_config
from ummgat.core.config import DataConfig
from ummgat.core.domain import Domain
from ummgat.core.draw import make_draw
from ummgat.core.study import load_cohort
from ummgat.model.atlas import LEAST_SIMILARITY, bring, coarse_image, cropped, place, registered, resized, scored
from ummgat.model.guide import guided
from ummgat.phantom import PhantomConfig, write_phantom
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings
from ummgat.train.atlas_learning import learn_atlas, training_atlas
from ummgat.train.loop import explained_structure
from ummgat.train.slices import SliceSampler, index_volumes, trimmed

SEQUENCES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Eight phantoms of one center at 3 mm, one sequence each, and the truth of all; their volumes for training."""
    folder = tmp_path_factory.mktemp("atlas")
    config = PhantomConfig(
        n_subjects={"A": 8}, n_test={"A": 1}, sequences={"A": SEQUENCES}, spacing_mm=3.0, draw="strict"
    )
    write_phantom(folder / "phantom", config)
    split = folder / "phantom" / "split.json"
    settings = PrepareSettings(spacing_mm=3.0, centers=split)
    assert not prepare_cohort(folder / "phantom" / "studies", folder / "studies", settings).failed
    assert not prepare_cohort(folder / "phantom" / "truth", folder / "truth", settings).failed
    cohort = load_cohort(folder / "studies")
    draw = make_draw(cohort, "strict", 0, split_file=split)
    data = DataConfig(spacing_mm=3.0, crop=(64, 64))
    volumes = index_volumes(cohort, draw, data)
    truth = {s.subject: s for s in load_cohort(folder / "truth")}
    test = next(s for s in truth if s not in draw.train)
    return draw, data, volumes, truth[test], folder


@pytest.fixture(scope="module")
def learnt(world):
    draw, _, volumes, _, _ = world
    return learn_atlas(volumes, len(draw.domains), rounds=1)


def correlation(a, b, where):
    return float(np.corrcoef(a[where].astype(float), b[where].astype(float))[0, 1])


def test_an_atlas_of_unpaired_images_has_the_right_sign_in_a_new_brain(world, learnt):
    """Registered by one sequence, it knows the contrast of all others, inverted or not, though no patient had two."""
    draw, _, _, test, _ = world
    table, atlas = draw.table, learnt.atlas
    for source in SEQUENCES:
        volume = np.array(test.volume(source))
        i = table.index(Domain("A", source))
        placed = place(volume, 3.0, atlas.means[i], atlas.brain)
        assert placed.similarity > LEAST_SIMILARITY
        at = bring(atlas, placed)
        for target in SEQUENCES:
            true = np.array(test.volume(target))[at.box]
            here = resized(at.means[table.index(Domain("A", target))].astype(np.float32), true.shape)
            assert correlation(here, true, true > 0) > 0.35, (source, target)


def test_a_smaller_frame_places_a_brain_alike(world, learnt):
    draw, _, _, test, _ = world
    i = draw.table.index(Domain("A", "t1"))
    volume, small = np.array(test.volume("t1")), cropped(learnt.atlas)
    assert small.brain.size < learnt.atlas.brain.size
    assert (small.brain >= 13).sum() == (learnt.atlas.brain >= 13).sum()
    whole, less = (bring(a, place(volume, 3.0, a.means[i], a.brain)) for a in (learnt.atlas, small))
    brain = volume[whole.box] > 0
    shown = [resized(at.means[i].astype(np.float32), brain.shape) for at in (whole, less)]
    assert correlation(*shown, brain) > 0.97


def test_a_subject_has_no_part_in_the_atlas_without_it(world, learnt):
    """Subtracting is the same as never having seen it, in the same frame: what is left is the mean of the others."""
    _, _, volumes, _, _ = world
    subject = volumes[0].study.subject
    domain = volumes[0].domain
    others = [m for m in learnt.members[domain] if m.subject != subject]
    left = learnt.without(subject)
    n = sum(m.healthy.astype(float) for m in others)
    mean = sum(np.where(m.healthy, m.values, 0).astype(float) for m in others) / np.maximum(n, 1)
    where = (n > 0) & (learnt.atlas.brain >= 128)
    assert np.abs(left.means[domain][where] - mean[where]).max() <= 1
    assert not np.array_equal(left.means[domain], learnt.atlas.means[domain])
    alone = learnt._replace(members=[[m] for m, *_ in learnt.members])
    lost = alone.totals[domain].without(alone.members[domain], "somebody else")
    assert np.array_equal(lost.n, alone.totals[domain].n)


def test_training_atlas_is_read_again_for_the_same_voxels_only(world, tmp_path, caplog):
    draw, _, volumes, _, _ = world
    file, calls = tmp_path / "atlas.safetensors", []
    first = training_atlas(volumes[:4], len(draw.domains), file, lambda n, total: calls.append((n, total)))
    assert calls[-1] == (12, 12)
    calls.clear()
    again = training_atlas(volumes[:4], len(draw.domains), file, lambda n, total: calls.append((n, total)))
    assert not calls
    assert np.array_equal(first.atlas.means, again.atlas.means)
    key = volumes[0].study.subject, volumes[0].sequence
    assert np.array_equal(first.expected[key].means, again.expected[key].means)
    assert first.expected[key].box == again.expected[key].box
    training_atlas(volumes[1:5], len(draw.domains), file, lambda n, total: calls.append((n, total)))
    assert calls


def test_a_registration_finds_a_known_shift():
    rng = np.random.default_rng(0)
    index = np.indices((30, 36, 32)).astype(np.float32)
    brain = sum(((index[a] - c) / r) ** 2 for a, c, r in ((0, 15, 11), (1, 18, 14), (2, 16, 12))) < 1
    texture = np.sin(index[0] / 3) + np.cos(index[1] / 4) + np.sin(index[2] / 5)
    values = np.where(brain, 100 + 20 * texture, 0) + rng.normal(0, 0.1, brain.shape)
    moved, moved_brain = (np.roll(v, (2, -1, 1), (0, 1, 2)) for v in (values, brain))
    points, similarity = registered(scored(values, brain), scored(moved, moved_brain))
    shift = (points - np.indices(brain.shape))[:, brain].mean(1)
    assert np.allclose(shift, (2, -1, 1), atol=0.2)
    assert similarity > 0.95


def test_another_brain_altogether_is_not_similar():
    """A ball of noise has no correlation inside: the registration must not pass for one."""
    rng = np.random.default_rng(0)
    brain = np.linalg.norm(np.indices((30, 30, 30)) - 15, axis=0) < 11
    a, b = (np.where(brain, rng.normal(0, 1, brain.shape), 0) for _ in range(2))
    _, similarity = registered(scored(a, brain), scored(b, brain))
    assert similarity < 0.95


def test_coarse_image_leaves_background_out():
    """At half the resolution the rim of a brain of 200 stays 200."""
    volume = np.zeros((20, 20, 20), np.uint8)
    volume[5:15, 5:15, 5:15] = 200
    coarse = coarse_image(volume, 1.0)
    assert np.allclose(coarse.values[coarse.brain], 200, atol=0.5)
    with pytest.raises(ValueError, match="Image is empty"):
        coarse_image(np.zeros((4, 4, 4), np.uint8), 1.0)


def test_the_guided_filter_takes_edges_and_never_the_sign():
    """Expected: dark left, bright right, blurred over ten pixels. The guide has the opposite contrast and a sharp
    edge.
    """
    x = torch.full((1, 1, 32, 32), -1.0)
    x[..., 2:30, 2:30] = torch.where(torch.arange(28) < 14, 0.4, -0.4)
    mask = (x > -1).float()
    blurred = (1.0 + 0.5 * torch.clamp((torch.arange(32) - 15.5) / 5, -1, 1)).expand_as(x) * mask
    out = guided(x, blurred, mask, 7)
    assert (out[mask == 0] == 0).all()
    row = out[0, 0, 16]
    step = row[16] - row[15]
    assert step > 3 * (blurred[0, 0, 16, 16] - blurred[0, 0, 16, 15])
    assert row[25] > row[6] + 0.4
    assert (guided(x, torch.zeros_like(x), mask, 7) == 0).all()


def test_explained_structure_of_a_domain_by_itself_is_whole(learnt):
    shares = explained_structure(learnt.atlas)
    assert np.allclose(np.diag(shares), 1)
    assert ((shares >= 0.05) & (shares <= 1)).all()


def test_batches_show_the_atlas_where_the_slice_is_and_stay_a_function_of_seed_and_step(world, tmp_path):
    draw, data, volumes, _, _ = world
    atlas = training_atlas(volumes, len(draw.domains), tmp_path / "a.safetensors")
    varied = data.model_copy(update={"augment": 1.0, "warp": 1.0})
    for config in (data, varied):
        samplers = [SliceSampler(volumes, 4, config, 7, atlas.expected, near=True) for _ in range(2)]
        first, again = (s.batch(3, 6, 4) for s in samplers)
        for a, b in zip(first, again, strict=True):
            assert a is b or np.array_equal(a, b)
    plain = SliceSampler(volumes, 4, data, 7, atlas.expected, near=True).batch(3, 6, 4)
    for i in range(6):
        brain = plain.x_src[i, 0] > -1
        own = plain.atlas_src[i, 0]
        assert (own[brain] > 0).mean() > 0.98
        assert correlation(own, plain.x_src[i, 0], brain & (own > 0)) > 0.2
    assert plain.x_clean is None
    shown = SliceSampler(volumes, 4, varied, 7, atlas.expected, near=True).batch(3, 6, 4)
    assert ((shown.x_src > -1) == (shown.x_clean > -1)).all()
    assert not np.array_equal(shown.x_src, shown.x_clean)
    config = tiny_config(model__atlas=True)
    cut = trimmed(shown, config.model.unit)
    assert (
        len({getattr(cut, name).shape[2:] for name in ("x_src", "atlas_src", "near_src", "x_same", "labels_ref")}) == 1
    )
