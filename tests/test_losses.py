import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import slices, tiny_config
from ummgat.model.encoder import unit
from ummgat.model.networks import Networks, build_networks
from ummgat.model.unet import Answer
from ummgat.train.losses import (
    SPREAD_SCALE,
    Expected,
    Target,
    Tensors,
    Terms,
    adversarial,
    atlas_loss,
    contrast_loss,
    degraded,
    detail_loss,
    discriminator_loss,
    generator_loss,
    has_lesion_pair,
    healthy_brain,
    label_loss,
    paired_loss,
    r1_penalty,
    segmentation_loss,
    structure_loss,
    target_of,
)
from ummgat.train.step import Step, build_optimizers, terms_at

CONFIG = tiny_config()
LOG2 = math.log(2)


def make_batch(n=4, lesions=(), seed=0):
    """Slices of 3 domains; `lesions` lists the pairs in which both images have one."""
    x_src, x_ref = (torch.from_numpy(slices(n, 20, 24, s)) for s in (seed, seed + 100))
    lesion_src, lesion_ref = torch.zeros_like(x_src), torch.zeros_like(x_ref)
    for i in lesions:
        lesion_src[i, :, 6 : 9 + i, 8:14] = 1
        lesion_ref[i, :, 8:13, 6 : 12 + i] = 1
    rng = torch.Generator().manual_seed(seed)
    y_src, y_trg = (torch.randint(3, (n,), generator=rng) for _ in range(2))
    z = torch.randn(2, n, 4, generator=rng)
    return Tensors(x_src, y_src, lesion_src, x_ref, y_trg, lesion_ref, z, lesion_pairs=float(len(lesions)))


def only(batch, i):
    """The pair at `i` as a batch of its own."""
    own = Tensors(*(t[i : i + 1] for t in batch[:6]), batch.z[:, i : i + 1], lesion_pairs=0.0)
    return own._replace(lesion_pairs=float(has_lesion_pair(own).sum()))


def networks(seed=0):
    return build_networks(CONFIG.model, 3, seed)


def weights(**changes):
    return CONFIG.loss.model_copy(update=changes)


def of_generator(nets, batch, kind, loss_weights, cycle=0.0):
    """Target, translation and loss of one pass of G."""
    target = target_of(nets, batch, kind, loss_weights)
    answer = nets.generator.answer(batch.x_src, target.code, target.source)
    terms = Terms(adversarial=1.0, cycle=cycle, relation=0.0, structure=0.0, detail=0.0)
    return generator_loss(nets, batch, kind, loss_weights, terms, target, answer, None)


class LinearDiscriminator(nn.Module):
    """D_y(x) = w · x + y."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x, y):
        return (x * self.w).sum((1, 2, 3)) + y


class MeanEncoder(nn.Module):
    """E_y(x) = mean of x over the region, plus y."""

    n_domains = 3

    def forward(self, x, y, region=None):
        region = (x > -1).float() if region is None else region
        return ((x * region).sum((1, 2, 3)) / region.sum((1, 2, 3)) + y)[:, None]


class ShiftingGenerator(nn.Module):
    """G(x, s, s_src) = x + s - s_src / 2 on the brain."""

    def forward(self, x, code, source, mask=None, origin=(0, 0), brain_only=False, aside=None):
        mask = (x > -1).float() if mask is None else mask
        return torch.where(mask > 0, x + (code - source / 2).view(-1, 1, 1, 1), -1.0)

    def answer(self, *args, **kwargs):
        return Answer(self(*args, **kwargs), None, None)


# ---------------------------------------------------------------- discriminator


def test_adversarial_loss_by_hand():
    """softplus(-0) = ln 2 and softplus(-ln 3) = ln(4/3) for real; ln 2 and ln 4 for fake."""
    logits = torch.tensor([0.0, math.log(3)])
    assert adversarial(logits, True).item() == pytest.approx((LOG2 + math.log(4 / 3)) / 2)
    assert adversarial(logits, False).item() == pytest.approx((LOG2 + math.log(4)) / 2)


def test_r1_of_a_linear_discriminator_is_half_its_squared_norm():
    w = torch.tensor([[1.0, 2.0], [0.0, -2.0]])  # squared norm 9
    x = torch.rand(5, 1, 2, 2, requires_grad=True)
    discriminator = LinearDiscriminator(w)
    penalty = r1_penalty(discriminator(x, torch.zeros(5)), x)
    assert penalty.item() == pytest.approx(4.5)
    penalty.backward()
    torch.testing.assert_close(discriminator.w.grad, w)  # of ½‖w‖²


def test_discriminator_loss_by_hand():
    """Logits w·x + y: real 1 + 0 and 1 + 1, fake -1 + 2; R1 ½·0.25."""
    nets = SimpleNamespace(discriminator=LinearDiscriminator(torch.full((1, 2), 0.5)))
    real, fake = torch.ones(2, 1, 1, 2), -torch.ones(2, 1, 1, 2)
    y_real, y_fake = torch.tensor([0, 1]), torch.tensor([2, 2])

    def sp(v):
        return math.log(1 + math.exp(v))

    d_real, d_fake, r1 = (sp(-1) + sp(-2)) / 2, sp(1), 0.5 * 0.5
    loss, parts = discriminator_loss(nets, real, y_real, fake, y_fake, r1_weight=3.0)
    assert loss.item() == pytest.approx(d_real + d_fake + 3 * r1)
    assert parts == pytest.approx({"d_real": d_real, "d_fake": d_fake, "r1": r1})
    loss, parts = discriminator_loss(nets, real, y_real, fake, y_fake, r1_weight=0.0)
    assert loss.item() == pytest.approx(d_real + d_fake)
    assert parts == pytest.approx({"d_real": d_real, "d_fake": d_fake})


@pytest.mark.parametrize("r1_weight", [0.0, 1.0])
def test_discriminator_loss_leaves_what_made_the_fake_alone(r1_weight):
    nets, batch = networks(), make_batch()
    x_fake = nets.generator(batch.x_src, torch.zeros(4, 4), torch.zeros(4, 4))
    discriminator_loss(nets, batch.x_src, batch.y_src, x_fake, batch.y_trg, r1_weight)[0].backward()
    assert all(p.grad is None for p in nets.generator.parameters())
    assert all(p.grad is not None for p in nets.discriminator.parameters())


# ---------------------------------------------------------------- generator, by hand


def test_generator_loss_by_hand():
    """Every network is one line, so that every term is a mean one can write down."""
    batch = make_batch()
    nets = Networks(ShiftingGenerator(), MeanEncoder(), None, LinearDiscriminator(torch.full((20, 24), 0.01)))
    code, source = torch.tensor([[0.1], [-0.2], [0.3], [0.0]]), torch.tensor([[0.2], [0.0], [-0.4], [0.8]])
    x_fake = nets.generator(batch.x_src, code, source)
    brain = batch.x_src > -1
    mean = (batch.x_src * brain).sum((1, 2, 3)) / brain.sum((1, 2, 3))

    g_adv = F.softplus(-(0.01 * x_fake.sum((1, 2, 3)) + batch.y_trg)).mean()
    style = (code[:, 0] - (mean + (code - source / 2)[:, 0] + batch.y_trg)).abs().mean()
    # Back, with target and source exchanged: x + (s̃ - s/2) + (s - s̃/2).
    off = (code / 2 + source / 2)[:, 0].abs()
    cycle = (off * brain.sum((1, 2, 3)) / (20 * 24)).mean()

    scales = weights(adversarial=99.0, style=3.0, cycle=99.0, lesion=0.0, structure=99.0, diversity=0.0)
    terms = Terms(adversarial=2.0, cycle=5.0, relation=0.0, structure=0.0, detail=0.0)
    loss = generator_loss(
        nets, batch, "latent", scales, terms, Target(code, source, None), Answer(x_fake, None, None), None
    )
    expected = {"g_adv": g_adv.item(), "style": style.item(), "cycle": cycle.item()}
    assert loss.parts == pytest.approx(expected, rel=1e-4)
    assert loss.total.item() == pytest.approx(2 * expected["g_adv"] + 3 * expected["style"] + 5 * expected["cycle"])
    assert loss.lesion is None


def test_cycle_at_weight_0_is_not_computed():
    loss = of_generator(networks(), make_batch(), "latent", weights())
    assert set(loss.parts) == {"g_adv", "style"}


# ---------------------------------------------------------------- lesion-aware module


def test_lesion_loss_of_one_pair_in_four_is_that_pairs_alone():
    nets, batch = networks(), make_batch(lesions=[2])
    whole = of_generator(nets, batch, "reference", weights(lesion=1.0))
    alone = of_generator(nets, only(batch, 2), "reference", weights(lesion=1.0))
    assert whole.lesion.item() == pytest.approx(alone.lesion.item(), rel=1e-5)
    assert whole.lesion.item() > 0.01


def test_lesion_loss_of_two_pairs_is_their_mean():
    nets, batch = networks(), make_batch(lesions=[1, 3])
    whole = of_generator(nets, batch, "reference", weights()).lesion
    each = [of_generator(nets, only(batch, i), "reference", weights()).lesion for i in (1, 3)]
    assert whole.item() == pytest.approx((each[0].item() + each[1].item()) / 2, rel=1e-5)
    assert each[0].item() != pytest.approx(each[1].item(), rel=1e-2)


def test_lesion_loss_compares_head_y_plus_n_inside_both_masks():
    nets, batch = networks(), make_batch(lesions=[0])
    target = target_of(nets, batch, "reference", weights())
    loss = of_generator(nets, batch, "reference", weights())
    y = batch.y_trg[:1] + 3
    x_fake = nets.generator(batch.x_src, target.code, target.source)[:1]
    fake = nets.encoder(torch.where(batch.lesion_src[:1] > 0, x_fake, -1.0), y, batch.lesion_src[:1])
    true = nets.encoder(torch.where(batch.lesion_ref[:1] > 0, batch.x_ref[:1], -1.0), y, batch.lesion_ref[:1])
    assert loss.lesion.item() == pytest.approx((fake - true).abs().mean().item(), rel=1e-5)
    torch.testing.assert_close(target.lesion_code, true)
    assert not target.lesion_code.requires_grad


def test_lesion_in_one_of_both_images_does_not_count():
    batch = make_batch(lesions=[0, 1, 2])
    batch.lesion_src[0], batch.lesion_ref[1] = 0, 0
    assert has_lesion_pair(batch).tolist() == [False, False, True, False]


@pytest.mark.parametrize("case", ["nobody annotated", "switched off", "latent pass"])
def test_no_lesion_loss(case):
    batch = make_batch(lesions=[] if case == "nobody annotated" else [0, 1])
    kind = "latent" if case == "latent pass" else "reference"
    loss = of_generator(networks(), batch, kind, weights(lesion=0.0 if case == "switched off" else 1.0))
    assert loss.lesion is None
    assert set(loss.parts) == {"g_adv", "style"}


def test_lesion_weight_scales_both_what_trains_g_and_what_trains_e():
    nets, batch = networks(), make_batch(lesions=[0])
    once, thrice = (of_generator(nets, batch, "reference", weights(lesion=w)) for w in (1.0, 3.0))
    assert thrice.lesion.item() == pytest.approx(3 * once.lesion.item())
    assert thrice.total.item() - once.total.item() == pytest.approx(2 * once.lesion.item(), rel=1e-4)
    assert thrice.parts["lesion"] == pytest.approx(once.parts["lesion"])  # logged unweighted


def test_codes_of_e_and_m_have_zero_mean_and_unit_variance():
    """So that neither the style nor the lesion loss can be lowered, or run away, by their size."""
    nets, batch = networks(), make_batch()
    for code in (nets.encoder(batch.x_src, batch.y_src + 3), nets.mapper(100 * batch.z[0], batch.y_trg)):
        torch.testing.assert_close(code.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(code.var(1, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)
        torch.testing.assert_close(unit(5 * code), unit(code), atol=1e-3, rtol=0)


def test_target_says_what_the_source_is_in_both_passes():
    nets, batch = networks(), make_batch(lesions=[1])
    for kind in ("latent", "reference"):
        target = target_of(nets, batch, kind, weights())
        torch.testing.assert_close(target.source, nets.encoder(batch.x_src, batch.y_src))
        assert target.source.requires_grad == (kind == "latent")  # where E learns
    torch.testing.assert_close(target.code, nets.encoder(batch.x_ref, batch.y_trg))


# ---------------------------------------------------------------- structure and diversity


def structured(n=2):
    """Brain with fine texture that every 7×7 window sees, and its mask."""
    x = torch.from_numpy(slices(n, 40, 40))
    mask = (x > -1).float()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return torch.where(mask > 0, 0.3 * noise, -1.0), mask


def test_structure_loss_is_blind_to_a_linear_map_with_a_negative_slope():
    x, mask = structured()
    inverted = torch.where(mask > 0, 0.2 - 0.8 * x, -1.0)
    assert structure_loss(x, inverted, mask) < 0.03
    assert structure_loss(x, x, mask) < 0.03


def test_structure_loss_is_near_1_for_independent_noise_and_1_for_a_flat_image():
    x, mask = structured()
    other = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    assert structure_loss(x, other, mask) > 0.9
    assert structure_loss(x, torch.full_like(x, 0.3), mask).item() == pytest.approx(1, abs=1e-4)


def test_structure_loss_ignores_the_sign_and_the_background():
    x, mask = structured()
    y = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    loss = structure_loss(x, y, mask)
    assert 0.1 < loss < 0.6
    torch.testing.assert_close(structure_loss(x, -y, mask), loss)
    torch.testing.assert_close(structure_loss(x, torch.where(mask > 0, y, 0.7), mask), loss)


# ---------------------------------------------------------------- detail


def stepped(size=12, steps=(0.1, 0.3), seed=0):
    """A slice whose neighbours differ by `steps` in turn, along rows and columns alike, on the middle of the image."""
    ramp = torch.tensor([steps[i % len(steps)] * (-1) ** (i // len(steps)) for i in range(size - 1)])
    profile = torch.cat([torch.zeros(1), ramp.cumsum(0)])
    x = F.pad(profile[:, None] + profile[None, :], (2, 2, 2, 2), value=-1.0)[None, None] * 0.5
    mask = F.pad(torch.ones(size, size), (2, 2, 2, 2))[None, None]
    return torch.where(mask > 0, x.clamp_min(-0.9), -1.0), mask


def test_detail_loss_is_0_for_like_detail_elsewhere_and_1_without_any():
    x, mask = stepped()
    assert detail_loss(x.flip(2, 3), mask, x).item() == pytest.approx(0, abs=1e-6)
    assert detail_loss(torch.where(mask > 0, 0.2, -1.0), mask, x).item() == pytest.approx(1, abs=1e-5)


def test_detail_loss_by_hand():
    """All differences scaled by c leave (1 - c)² of the energy, blurred or sharpened."""
    x, mask = stepped()
    for c in (0.5, 1.5):
        scaled = torch.where(mask > 0, c * x, -1.0)
        assert detail_loss(scaled, mask, x).item() == pytest.approx((1 - c) ** 2, rel=1e-3)


def test_detail_loss_says_nothing_of_brightness_nor_of_background():
    x, mask = stepped()
    loss = detail_loss(torch.where(mask > 0, 0.5 * x, -1.0), mask, x)
    torch.testing.assert_close(detail_loss(torch.where(mask > 0, 0.5 * x + 0.2, 0.7), mask, x), loss)
    brighter = torch.where(mask > 0, x + 0.1, -1.0)
    torch.testing.assert_close(detail_loss(torch.where(mask > 0, 0.5 * x, -1.0), mask, brighter), loss)


def test_detail_loss_tells_noise_from_edges_of_the_same_energy():
    """Few strong and many weak differences with one mean square are not the same."""
    x, mask = stepped(steps=(0.0, 0.0, 0.0, 0.4))
    even, _ = stepped(steps=(0.2,))
    assert detail_loss(even, mask, x) > 0.2


def test_detail_loss_survives_slices_without_neighbours_and_has_a_gradient():
    x, mask = stepped()
    lone = torch.full_like(x, -1.0)
    lone[..., 4, 4] = 0.3
    both = torch.cat([x * 0.5, lone]).requires_grad_()
    loss = detail_loss(both, torch.cat([mask, (lone > -1).float()]), torch.cat([x, x]))
    loss.backward()
    assert loss.isfinite()
    assert both.grad.isfinite().all()
    assert (both.grad[0].abs() > 0).any()


# ---------------------------------------------------------------- the opening of a run


def known(lesions=(), spread=0.0, threshold=1.0, ring=1, n_domains=3):
    """What a cohort knows of 3 domains; `lesions` are rows of label means."""
    means = torch.tensor(lesions or [[math.nan] * 3] * n_domains)
    ones = torch.ones(n_domains)
    return Expected(means, torch.full_like(means, spread), ones * threshold, torch.ones(n_domains, n_domains), ring)


def with_atlas(batch, spread=0.0):
    maps = torch.zeros(len(batch.x_src), 3, *batch.x_src.shape[2:])
    maps[:, 2] = spread
    return batch._replace(atlas_src=maps)


def test_atlas_loss_by_hand():
    """Off by 0.25 in all of the brain; a pair that is not asked says nothing; what the atlas does not know neither."""
    batch = with_atlas(make_batch(2))
    brain = (batch.x_src > -1).float()
    image = torch.where(brain > 0, batch.x_src + 0.25, -1.0)
    both, second = torch.tensor([True, True]), torch.tensor([False, True])
    assert atlas_loss(batch, batch.x_src, brain, image, both).item() == pytest.approx(0.25, rel=1e-5)
    half = image.clone()
    half[0] = batch.x_src[0] + 0.75
    assert atlas_loss(batch, batch.x_src, brain, half, second).item() == pytest.approx(0.25, rel=1e-5)
    unknown = torch.where(torch.arange(image.shape[-1]) % 2 == 0, image, -1.0)
    assert atlas_loss(batch, batch.x_src, brain, unknown, both).item() == pytest.approx(0.25, rel=1e-5)
    assert atlas_loss(batch, batch.x_src, brain, torch.full_like(image, -1), both).item() == 0


def test_atlas_says_less_where_subjects_differ():
    """Off by 0.4 where they differ by the scale, by nothing elsewhere: (0.4 / 2) of (1 / 2 + 1) parts each."""
    batch = with_atlas(make_batch(1))
    brain = (batch.x_src > -1).float()
    left = torch.arange(brain.shape[-1]) < 12
    batch.atlas_src[:, 2:] = torch.where(left, SPREAD_SCALE, 0.0)
    image = torch.where(left & (brain > 0), batch.x_src + 0.4, batch.x_src)
    n_left, n_right = (brain * left).sum().item(), (brain * ~left).sum().item()
    loss = atlas_loss(batch, batch.x_src, brain, image, torch.tensor([True])).item()
    assert loss == pytest.approx(0.4 * n_left / 2 / (n_left / 2 + n_right), rel=1e-4)


def test_nothing_is_asked_in_the_ring_around_a_lesion():
    batch = make_batch(1, lesions=[0])
    healthy = healthy_brain(batch, ring=2)
    rows, columns = batch.lesion_src[0, 0].nonzero().unbind(1)
    assert not healthy[..., rows.min() - 2 : rows.max() + 3, columns.min() - 2 : columns.max() + 3].any()
    outside = (batch.x_src > -1).float()
    outside[..., rows.min() - 2 : rows.max() + 3, columns.min() - 2 : columns.max() + 3] = 0
    assert torch.equal(healthy, outside)


def labelled(batch):
    """Upper half of each lesion NCR, lower half ET."""
    labels = batch.lesion_src.clone()
    labels[:, :, 8:] = labels[:, :, 8:] * 3
    return batch._replace(labels_src=labels)


def test_label_loss_by_hand():
    """NCR is right, ET off by 0.6 beyond its dead zone of 0.1: 0.25 in its share, weighted (1 - .2) / .2 = 4 to 1."""
    batch = labelled(make_batch(1, lesions=[0]))._replace(y_src=torch.tensor([0]), y_trg=torch.tensor([1]))
    brain = batch.x_src > -1
    n_ncr, n_et = ((brain & (batch.labels_src == k)).sum().item() for k in (1, 3))
    x_fake = torch.where(batch.labels_src == 1, 0.2, torch.where(batch.labels_src == 3, -0.1, batch.x_src))
    asked, spreads = torch.tensor([[0.2, math.nan, 0.5]]), torch.full((1, 3), 0.2)
    loss = label_loss(batch, x_fake, asked, spreads, torch.tensor([0.2])).item()
    assert loss == pytest.approx(0.25 * 4 * n_et / (n_ncr + 4 * n_et), rel=1e-4)
    plain = label_loss(batch, x_fake, asked, spreads, torch.tensor([1.0])).item()
    assert plain == pytest.approx(0.25 * n_et / (n_ncr + n_et), rel=1e-4)
    same = batch._replace(y_trg=batch.y_src)
    assert label_loss(same, x_fake, asked, spreads, torch.tensor([0.2])).item() == 0


def test_the_best_answer_to_an_unsure_lesion_is_graded():
    """One voxel in five enhances and nothing tells which: squares weighted 4 to 1 are best half-way, not at the
    majority.
    """
    labels = torch.tensor([1.0, 1, 1, 1, 3]).view(1, 1, 1, 5).repeat(1, 1, 4, 1)
    batch = Tensors(*[torch.zeros(1, 1, 4, 5)] * 6, torch.zeros(2, 1, 4), 0.0)
    batch = batch._replace(y_src=torch.tensor([0]), y_trg=torch.tensor([1]), labels_src=labels)
    asked = torch.tensor([[-0.4, math.nan, 0.6]])
    level = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([level], lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = label_loss(batch, level.expand(1, 1, 4, 5), asked, torch.zeros(1, 3), torch.tensor([0.2]))
        loss.backward()
        optimizer.step()
    assert level.item() == pytest.approx(0.1, abs=0.01)


def test_segmentation_loss_skips_what_nobody_annotated():
    batch = labelled(make_batch(2, lesions=[0]))
    brain = (batch.x_src > -1).float()
    labels = batch.labels_src.clone()
    labels[1] = -1
    logits = torch.randn((2, 4, *labels.shape[2:]), generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = segmentation_loss(logits, labels, brain)
    loss.backward()
    assert logits.grad[0].any()
    assert not logits.grad[1].any()
    assert segmentation_loss(logits, torch.full_like(labels, -1), brain).item() == 0
    perfect = 40 * F.one_hot(batch.labels_src.squeeze(1).long().clamp_min(0), 4).permute(0, 3, 1, 2).float()
    assert segmentation_loss(perfect, batch.labels_src, brain).item() == pytest.approx(0, abs=1e-3)


def test_a_degraded_image_keeps_its_brain_and_depends_on_what_is_drawn():
    x = make_batch(3).x_src
    noise, chances = torch.randn_like(x), torch.rand(3, 4)
    first, other = degraded(x, noise, chances), degraded(x, noise, 1 - chances)
    assert not torch.equal(first, other)
    assert not torch.equal(first, degraded(x, -noise, chances))
    assert torch.equal(first > -1, x > -1)
    grey = (first + 1) * 127.5
    assert torch.allclose(grey, grey.round(), atol=1e-3)


def test_codes_that_all_agree_cost_most():
    """The trunk of a collapsed encoder is at chance, ln n, and its codes a whole spread short."""
    batch = make_batch(4)._replace(y_src=torch.tensor([0, 0, 0, 0]))
    batch = batch._replace(x_tone=batch.x_src, x_same=batch.x_src)

    class Collapsed(nn.Module):
        def features(self, x):
            return torch.ones(len(x), 5)

        def read(self, features, y):
            return torch.ones(len(features), 6)

    loss = contrast_loss(SimpleNamespace(encoder=Collapsed()), batch).item()
    assert loss == pytest.approx(math.log(4) + 0.3, abs=1e-3)
    assert contrast_loss(networks(), batch).item() < loss


def test_e_learns_from_the_cycle():
    """A code must describe the image at hand: the way back gives E a gradient, in the latent pass alone."""
    nets, batch = networks(), make_batch()
    alone = weights(style=0.0, lesion=0.0)
    for kind, learns in (("latent", True), ("reference", False)):
        nets.encoder.zero_grad(set_to_none=True)
        target = target_of(nets, batch, kind, alone)
        answer = nets.generator.answer(batch.x_src, target.code, target.source)
        terms = Terms(adversarial=0.0, cycle=1.0, relation=0.0, structure=0.0, detail=0.0)
        generator_loss(nets, batch, kind, alone, terms, target, answer, None).total.backward()
        trunk = [p.grad for p in nets.encoder.trunk.parameters()]
        assert any(g is not None and g.any() for g in trunk) == learns


def test_paired_loss_counts_only_what_is_known():
    """Slice 0 is off by 0.3 on half of its brain, slice 1 has no true image."""
    batch = make_batch(2)
    x_true = batch.x_src.clone()
    x_true[1] = -1.0
    brain = batch.x_src > -1
    half = brain & (torch.arange(batch.x_src.shape[-1]) % 2 == 0)
    x_fake = torch.where(half, batch.x_src + 0.3, batch.x_src)
    share = half[0].sum() / brain[0].sum()
    assert paired_loss(x_fake, x_true).item() == pytest.approx(0.3 * share.item(), rel=1e-4)
    assert paired_loss(x_fake, torch.full_like(x_true, -1.0)).item() == 0


def test_the_paired_schedule_moves_g_and_m_alone():
    nets, batch = networks(), make_batch()
    before = copy.deepcopy(nets)
    step = step_of(nets, train__schedule="paired")
    parts = step.run(
        batch._replace(x_true=-batch.x_src.clamp_min(-0.99) * (batch.x_src > -1) - (batch.x_src <= -1).float()), EVEN
    )
    assert set(parts) == {"paired"}
    assert changed(nets, before) == {"generator", "mapper"}


def test_relation_leads_alone_then_all_weights_come_in():
    """100 steps, opening from 20 to 60: half way, at 40, all is half way."""
    changes = {
        "relation": 4.0,
        "relation_kept": 0.5,
        "opening": (0.2, 0.6),
        "structure": 3.0,
        "adversarial": 2.0,
        "detail": 5.0,
    }
    config = tiny_config(train__iterations=100, **{f"loss__{name}": value for name, value in changes.items()})
    assert terms_at(config, 0, 7.0) == terms_at(config, 20, 7.0) == (0.0, 7.0, 4.0, 0.0, 0.0, 0.0, 0.0)
    assert terms_at(config, 40, 7.0, back=3.0, contrast=0.2) == pytest.approx((1.0, 7.0, 3.0, 1.5, 2.5, 1.5, 0.2))
    assert (
        terms_at(config, 60, 7.0)
        == terms_at(config, 99, 0.0)._replace(cycle=7.0)
        == (2.0, 7.0, 2.0, 3.0, 5.0, 0.0, 0.0)
    )
    # Without a relation nothing opens.
    assert terms_at(tiny_config(loss__structure=3.0, loss__opening=(0.2, 0.6)), 0, 1.0) == (
        1.0,
        1.0,
        0.0,
        3.0,
        0.0,
        0.0,
        0.0,
    )


def test_an_opening_needs_its_marks_in_order():
    with pytest.raises(ValueError, match="rising order"):
        tiny_config(loss__relation=1.0, loss__opening=(0.6, 0.2))


def test_relation_reaches_g_through_the_step():
    """At the first step of an opening G learns from the atlas, and not from D."""
    config = tiny_config(model__atlas=True, loss__structure=0.0, loss__relation=4.0, loss__opening=(0.5, 1.0))
    config = config.model_copy(update={"loss": config.loss.model_copy(update={"style": 0.0, "cycle": 0.0})})
    nets, batch = build_networks(config.model, 3, 0), with_atlas(make_batch())
    batch.atlas_src[:, :2] = 0.9
    step = Step(nets, build_optimizers(nets, config.train), config, lambda parameters: None, known())
    parts = step.run(batch, EVEN)
    assert {"atlas", "style"} <= set(parts)
    assert "g_adv" not in parts
    assert any(p.grad.abs().max() > 0 for p in nets.generator.parameters())


def test_diversity_is_off_by_default_and_rewards_difference_when_on():
    nets, batch = networks(), make_batch()
    assert CONFIG.loss.diversity == 0
    off = of_generator(nets, batch, "latent", weights())
    on = of_generator(nets, batch, "latent", weights(diversity=2.0))
    assert "diversity" not in off.parts
    source = nets.encoder(batch.x_src, batch.y_src)
    first, second = (nets.generator(batch.x_src, nets.mapper(z, batch.y_trg), source) for z in batch.z)
    spread = (first - second).abs().mean().item()
    assert on.parts["diversity"] == pytest.approx(spread, rel=1e-4)
    assert spread > 0
    assert on.total.item() == pytest.approx(off.total.item() - 2 * spread, rel=1e-4)
    assert "diversity" not in of_generator(nets, batch, "reference", weights(diversity=2.0)).parts


# ---------------------------------------------------------------- who learns from what


def step_of(nets, **changes):
    config = tiny_config(loss__structure=0.0, **changes)
    return Step(nets, build_optimizers(nets, config.train), config, lambda parameters: None)


def changed(nets, before):
    """Names of the networks with a weight that moved."""
    return {
        name
        for (name, module), (_, old) in zip(nets.named(), before.named(), strict=True)
        if any(not torch.equal(p, q) for p, q in zip(module.parameters(), old.parameters(), strict=True))
    }


EVEN, ODD = 0, 1
"""Steps of the alternating schedule: latent pass, reference pass."""


@pytest.mark.parametrize(
    ("step", "lesions", "lesion_weight", "learns"),
    [
        (EVEN, [0], 1.0, {"generator", "encoder", "mapper", "discriminator"}),
        (ODD, [0], 1.0, {"generator", "encoder", "discriminator"}),
        (ODD, [], 1.0, {"generator", "discriminator"}),
        (ODD, [0], 0.0, {"generator", "discriminator"}),
    ],
)
def test_who_learns_in_the_alternating_schedule(step, lesions, lesion_weight, learns):
    nets = networks()
    before = copy.deepcopy(nets)
    step_of(nets, loss__lesion=lesion_weight).run(make_batch(lesions=lesions), step)
    assert changed(nets, before) == learns


def test_everybody_learns_in_the_literal_schedule():
    nets = networks()
    before = copy.deepcopy(nets)
    parts = step_of(nets, train__schedule="literal").run(make_batch(lesions=[0]), 0)
    assert changed(nets, before) == {"generator", "encoder", "mapper", "discriminator"}
    assert set(parts) == {"d_real", "d_fake", "r1", "g_adv", "style", "cycle", "lesion"}


def test_in_the_reference_pass_e_learns_from_the_lesion_loss_alone():
    nets, batch = networks(), make_batch(lesions=[1])
    twin = copy.deepcopy(nets)
    step_of(nets).run(batch, ODD)
    lesion = of_generator(twin, batch, "reference", weights()).lesion
    expected = torch.autograd.grad(lesion, list(twin.encoder.parameters()))
    for (name, p), gradient in zip(nets.encoder.named_parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert max(g.abs().max() for g in expected) > 1e-4
    assert all(p.grad is None for p in nets.mapper.parameters())


def test_discriminator_collects_gradients_in_its_own_step_only():
    """After a whole step its gradients are those of L_D, to which the pass of G added nothing."""
    nets, batch = networks(), make_batch()
    twin = copy.deepcopy(nets)
    step_of(nets, loss__r1_gamma=0.0).run(batch, EVEN)
    with torch.no_grad():
        source = twin.encoder(batch.x_src, batch.y_src)
        x_fake = twin.generator(batch.x_src, twin.mapper(batch.z[0], batch.y_trg), source)
    discriminator_loss(twin, batch.x_src, batch.y_src, x_fake, batch.y_trg, 0.0)[0].backward()
    for (name, p), q in zip(nets.discriminator.named_parameters(), twin.discriminator.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-4, msg=name)
        assert p.requires_grad, name


def test_d_real_chooses_what_the_discriminator_takes_for_real():
    batch = make_batch()
    seen = []
    for choice in ("source", "reference"):
        nets = networks()
        seen.append(step_of(nets, train__d_real=choice).run(batch, EVEN)["d_real"].item())
        x, y = (batch.x_src, batch.y_src) if choice == "source" else (batch.x_ref, batch.y_trg)
        assert seen[-1] == pytest.approx(adversarial(networks().discriminator(x, y), True).item(), rel=1e-5)
    assert seen[0] != pytest.approx(seen[1], rel=1e-4)


def test_intervals_skip_terms_for_both_kinds_of_pass_and_weigh_them_up():
    """Every second pair of steps: at 0 and 1, not at 2 and 3. The part logged is unweighted, the gradient is
    doubled.
    """
    config = {"train__r1_every": 2, "train__cycle_every": 2, "train__iterations": 10}
    for step, expected in ((0, True), (1, True), (2, False), (3, False), (4, True), (5, True)):
        parts = step_of(networks(), **config).run(make_batch(), step)
        assert ("r1" in parts, "cycle" in parts) == (expected, expected)
    plain, doubled = networks(), networks()
    step_of(plain, loss__cycle=2.0).run(make_batch(), EVEN)
    step_of(doubled, train__cycle_every=2).run(make_batch(), EVEN)
    for p, q in zip(plain.generator.parameters(), doubled.generator.parameters(), strict=True):
        assert torch.equal(p, q)


def test_learning_rates_fall_to_0_from_the_given_share_on():
    """Constant until step 60 of 100, then half at 80, 1/40 at 99."""
    nets = networks()
    step = step_of(nets, train__iterations=100, train__lr_decay_from=0.6, train__lr_mapper=1e-2)
    rates = []
    for at in (0, 59, 80, 99):
        step.run(make_batch(1), at)
        rates.append([optimizer.param_groups[0]["lr"] for _, optimizer in step.optimizers.named()])
    base = np.array([1e-3, 1e-4, 1e-2, 1e-4])
    for found, factor in zip(rates, (1, 1, 0.5, 1 / 40), strict=True):
        np.testing.assert_allclose(found, base * factor)


def test_weight_of_the_lesion_loss_on_two_processes_adds_up_to_that_on_one():
    """Three pairs on the first process, one on the second: the mean of the two losses is the mean over all four."""
    nets, batch = networks(), make_batch(6, lesions=[0, 1, 2, 5])
    whole = of_generator(nets, batch, "reference", weights()).lesion.item()
    shares = []
    for own in (slice(0, 3), slice(3, 6)):
        part = Tensors(*(t[own] for t in batch[:6]), batch.z[:, own], lesion_pairs=batch.lesion_pairs / 2)
        shares.append(of_generator(nets, part, "reference", weights()).lesion.item())
    assert whole == pytest.approx((shares[0] + shares[1]) / 2, rel=1e-5)
