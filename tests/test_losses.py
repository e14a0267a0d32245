import copy
import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import slices, tiny_config
from ummgat.losses import (
    Target,
    Tensors,
    adversarial,
    discriminator_loss,
    generator_loss,
    has_lesion_pair,
    position_loss,
    r1_penalty,
    structure_loss,
    target_of,
    trimmed,
)
from ummgat.model.networks import Networks, build_networks
from ummgat.train_step import Step, build_optimizers, opening_weights

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
    x_fake = nets.generator(batch.x_src, target.code)
    return loss_of(nets, batch, kind, loss_weights, target, x_fake, cycle_weight=cycle)


def loss_of(*args, **wanted):
    """`generator_loss` with those terms that may be skipped (cycle, structure, …) off unless `wanted`."""
    skippable = [name for name in inspect.signature(generator_loss).parameters if name.endswith("_weight")]
    return generator_loss(*args, **(dict.fromkeys(skippable, 0.0) | wanted))


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
    """G(x, s) = x + s on the brain."""

    def forward(self, x, code, mask=None, origin=(0, 0)):
        mask = (x > -1).float() if mask is None else mask
        return torch.where(mask > 0, x + code.view(-1, 1, 1, 1), -1.0)


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
    x_fake = nets.generator(batch.x_src, torch.zeros(4, 4))
    discriminator_loss(nets, batch.x_src, batch.y_src, x_fake, batch.y_trg, r1_weight)[0].backward()
    assert all(p.grad is None for p in nets.generator.parameters())
    assert all(p.grad is not None for p in nets.discriminator.parameters())


# ---------------------------------------------------------------- generator, by hand


def test_generator_loss_by_hand():
    """Every network is one line, so that every term is a mean one can write down."""
    batch = make_batch()
    nets = Networks(ShiftingGenerator(), MeanEncoder(), None, LinearDiscriminator(torch.full((20, 24), 0.01)))
    code = torch.tensor([[0.1], [-0.2], [0.3], [0.0]])
    x_fake = nets.generator(batch.x_src, code)
    brain = batch.x_src > -1
    mean = (batch.x_src * brain).sum((1, 2, 3)) / brain.sum((1, 2, 3))

    g_adv = F.softplus(-(0.01 * x_fake.sum((1, 2, 3)) + batch.y_trg)).mean()
    style = (code[:, 0] - (mean + code[:, 0] + batch.y_trg)).abs().mean()
    # Back with the code of the source: x + s̃ + (mean + y).
    off = (code[:, 0] + mean + batch.y_src).abs()
    cycle = (off * brain.sum((1, 2, 3)) / (20 * 24)).mean()

    scales = weights(adversarial=2.0, style=3.0, cycle=99.0, lesion=0.0, structure=0.0, diversity=0.0)
    loss = loss_of(nets, batch, "latent", scales, Target(code, None), x_fake, cycle_weight=5.0)
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
    x_fake = nets.generator(batch.x_src, target.code)[:1]
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


# ---------------------------------------------------------------- the opening of a run


def test_position_loss_wants_what_is_bright_in_the_reference_bright_there():
    batch = make_batch(2)
    brain = batch.x_src > -1
    same = batch._replace(x_ref=batch.x_src)
    inverted = torch.where(brain, -batch.x_src, -1.0)
    assert position_loss(same, batch.x_src) < 0.05
    assert position_loss(same, inverted) > 0.3


def test_position_loss_does_not_look_at_lesions():
    batch = make_batch(2, lesions=[0])
    fakes = [torch.where(batch.lesion_src > 0, grey, batch.x_src) for grey in (0.1, 0.9)]
    dark, bright = (position_loss(batch, fake) for fake in fakes)
    torch.testing.assert_close(dark, bright)


def test_position_falls_and_structure_rises_over_the_opening():
    """100 steps, opening of 40: half way, position is halved and structure has a sixteenth of its weight."""
    changes = {"loss__position": 2.0, "loss__position_until": 0.4, "loss__structure": 3.0, "train__iterations": 100}
    config = tiny_config(**changes)
    assert opening_weights(config, 0) == (2.0, 0.0)
    assert opening_weights(config, 20) == pytest.approx((1.0, 3 / 16))
    assert opening_weights(config, 40) == opening_weights(config, 99) == (0.0, 3.0)
    assert opening_weights(tiny_config(loss__structure=3.0), 0) == (0.0, 3.0)  # without position nothing opens


def test_trimmed_batch_keeps_all_brain_and_gives_the_generator_the_same_answer():
    nets, batch = networks(), make_batch(2, lesions=[0])
    wide = batch._replace(**{k: F.pad(getattr(batch, k), (9, 7, 6, 11), value=-1.0) for k in ("x_src", "x_ref")})
    wide = wide._replace(**{k: F.pad(getattr(batch, k), (9, 7, 6, 11)) for k in ("lesion_src", "lesion_ref")})
    small = trimmed(wide, nets.generator.unit)
    assert small.x_src.numel() < 0.75 * wide.x_src.numel()
    assert all(start % nets.generator.unit == 0 for start in small.origin)
    for name in ("x_src", "x_ref", "lesion_src", "lesion_ref"):
        before, after = getattr(wide, name), getattr(small, name)
        empty = 0 if "lesion" in name else -1
        assert after.shape == small.x_src.shape
        assert (after != empty).sum() == (before != empty).sum(), name
    code = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    row, column = small.origin
    whole = nets.generator(wide.x_src, code)[
        ..., row : row + small.x_src.shape[2], column : column + small.x_src.shape[3]
    ]
    torch.testing.assert_close(nets.generator(small.x_src, code, origin=small.origin), whole, atol=5e-4, rtol=0)


def test_diversity_is_off_by_default_and_rewards_difference_when_on():
    nets, batch = networks(), make_batch()
    assert CONFIG.loss.diversity == 0
    off = of_generator(nets, batch, "latent", weights())
    on = of_generator(nets, batch, "latent", weights(diversity=2.0))
    assert "diversity" not in off.parts
    first, second = (nets.generator(batch.x_src, nets.mapper(z, batch.y_trg)) for z in batch.z)
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
        x_fake = twin.generator(batch.x_src, twin.mapper(batch.z[0], batch.y_trg))
    discriminator_loss(twin, batch.x_src, batch.y_src, x_fake, batch.y_trg, 0.0)[0].backward()
    for (name, p), q in zip(nets.discriminator.named_parameters(), twin.discriminator.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-4, msg=name)
        assert p.requires_grad, name


def test_d_real_chooses_what_the_discriminator_takes_for_real():
    batch = make_batch()
    seen = []
    for choice in ("source", "reference"):
        nets = networks()
        seen.append(step_of(nets, train__d_real=choice).run(batch, EVEN)["d_real"])
        x, y = (batch.x_src, batch.y_src) if choice == "source" else (batch.x_ref, batch.y_trg)
        assert seen[-1] == pytest.approx(adversarial(networks().discriminator(x, y), True).item(), rel=1e-5)
    assert seen[0] != pytest.approx(seen[1], rel=1e-4)


def test_intervals_skip_terms_for_both_kinds_of_pass_and_weigh_them_up():
    """Every second pair of steps: at 0 and 1, not at 2 and 3. The part logged is unweighted, the gradient is doubled."""
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
