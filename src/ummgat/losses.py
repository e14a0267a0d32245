"""Losses as functions of tensors, with the paper's symbols (SPEC section 4). Nothing here calls backward.

x image, y domain, s code, z latent; suffixes _src, _trg, _ref, _fake, _rec. m is a lesion mask.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ummgat.config import LossConfig
from ummgat.model.masked import BACKGROUND, brain_mask
from ummgat.model.networks import Networks
from ummgat.model.statistics import neighbourhood_mean
from ummgat.model.tone import along_surface

Pass = Literal["latent", "reference"]
Parts = dict[str, float]


class Tensors(NamedTuple):
    """`slices.Batch` as tensors on the device."""

    x_src: Tensor
    y_src: Tensor
    lesion_src: Tensor
    x_ref: Tensor
    y_trg: Tensor
    lesion_ref: Tensor
    z: Tensor
    lesion_pairs: float
    """Pairs that count for the lesion loss in the whole batch, divided by the number of processes that share it."""
    origin: tuple[int, int] = (0, 0)
    """Row and column at which the images were cut out of the training crop, see `slices.trimmed`."""
    labels_src: Tensor | None = None
    """Of the annotation, like x_src, 0 where there is none; None: the lesion counts as one label."""
    x_true: Tensor | None = None
    """For the paired schedule, see `slices.Batch`."""


def has_lesion_pair(batch: Tensors) -> Tensor:
    """Pairs that count for the lesion loss: both masks non-empty. (batch,) bool."""
    return batch.lesion_src.flatten(1).any(1) & batch.lesion_ref.flatten(1).any(1)


def adversarial(logits: Tensor, real: bool) -> Tensor:
    """Non-saturating loss: mean softplus of -logit where the answer should be real, of +logit where it should not."""
    return F.softplus(-logits if real else logits).mean()


def r1_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Half the mean squared gradient norm of the logits in their images. Source: Mescheder et al. 2018."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return 0.5 * gradient.square().sum((1, 2, 3)).mean()


def discriminator_loss(
    nets: Networks, x_real: Tensor, y_real: Tensor, x_fake: Tensor, y_fake: Tensor, r1_weight: float
) -> tuple[Tensor, Parts]:
    """L_D = sp(-D_y(x)) + sp(D_ỹ(sg x̃)) + r1_weight · R1.

    Parameters
    ----------
    x_real, y_real : Tensor (batch, 1, height, width), (batch,)
        Sources and their domains as in the paper, or references, which share the domain and height of the fakes.
    x_fake : Tensor (batch, 1, height, width)
        Detached here.
    r1_weight : float
        γ times the interval at which R1 is applied; 0 skips the double backward.
    """
    assert nets.discriminator is not None
    n = len(x_real)
    if r1_weight > 0:
        x_real = x_real.detach().requires_grad_()
        real = nets.discriminator(x_real, y_real).float()
        fake = nets.discriminator(x_fake.detach(), y_fake).float()
        penalty = r1_penalty(real, x_real)
    else:
        both = nets.discriminator(torch.cat([x_real, x_fake.detach()]), torch.cat([y_real, y_fake])).float()
        real, fake = both[:n], both[n:]
        penalty = real.new_zeros(())
    loss_real, loss_fake = adversarial(real, True), adversarial(fake, False)
    loss = loss_real + loss_fake + r1_weight * penalty
    parts = {"d_real": loss_real.item(), "d_fake": loss_fake.item()}
    if r1_weight > 0:
        parts["r1"] = penalty.item()
    return loss, parts


class Target(NamedTuple):
    """What a pass translates to, and from."""

    code: Tensor
    """s̃ (batch, code_dim): M_ỹ(z), or E_ỹ(x_ref) without gradient."""
    source: Tensor
    """sg E_y(x_src) (batch, code_dim)."""
    lesion_code: Tensor | None
    """sg E_{ỹ+N}(x_ref ⊙ m_ref) of the pairs that count; None without any, or with the lesion loss off."""


def target_of(nets: Networks, batch: Tensors, kind: Pass, weights: LossConfig) -> Target:
    """Codes of a pass. All that the encoder says here comes from one call, without gradient."""
    n = len(batch.x_src)
    images, heads, regions = [batch.x_src], [batch.y_src], [brain_mask(batch.x_src)]
    pairs = has_lesion_pair(batch)
    with_lesion = kind == "reference" and weights.lesion > 0 and bool(pairs.any())
    if kind == "reference":
        images, heads = [*images, batch.x_ref], [*heads, batch.y_trg]
        regions = [*regions, brain_mask(batch.x_ref)]
    if with_lesion:
        images, heads = [*images, batch.x_ref[pairs]], [*heads, batch.y_trg[pairs] + nets.encoder.n_domains]
        regions = [*regions, batch.lesion_ref[pairs]]
    with torch.no_grad():
        codes = nets.encoder(torch.cat(images), torch.cat(heads), torch.cat(regions))
    if kind == "latent":
        return Target(nets.mapper(batch.z[0], batch.y_trg), codes, None)
    return Target(codes[n : 2 * n], codes[:n], codes[2 * n :] if with_lesion else None)


def translated(
    nets: Networks, batch: Tensors, x: Tensor, code: Tensor, source: Tensor, mask: Tensor, apart: bool = False
) -> Tensor:
    """G(x, code); or, for the ablation `loss.lesion_apart`, lesion and rest translated apart and joined.

    Parameters
    ----------
    x : Tensor (batch, 1, height, width)
        Images that show the anatomy of `batch.x_src`: its lesion masks count.
    mask : Tensor like x
        Brain.

    Notes
    -----
    Neither part sees the other, which is what the ablation is about. Slices without a lesion are translated whole.
    """
    if not apart:
        return nets.generator(x, code, source, mask, batch.origin)
    cut = batch.lesion_src * mask
    rest = nets.generator(torch.where(cut > 0, BACKGROUND, x), code, source, mask * (1 - cut), batch.origin)
    has = cut.flatten(1).any(1)
    if not bool(has.any()):
        return rest
    inside = torch.where(cut[has] > 0, x[has], BACKGROUND)
    lesion = nets.generator(inside, code[has], source[has], cut[has], batch.origin)
    return rest.index_put((has,), torch.where(cut[has] > 0, lesion, rest[has]))


def structure_loss(x: Tensor, x_fake: Tensor, mask: Tensor, window: int = 7) -> Tensor:
    """Share of the source's local variance that no local linear map of the translation explains: 0 (all) to 1 (nothing).

    Blind to contrast and its sign, so it holds anatomy in place without holding back an inversion. Not in the paper;
    see docs/decisions/0005. The measure is local squared correlation, known from registration (Avants et al. 2008).

    Parameters
    ----------
    x, x_fake, mask : Tensor (batch, 1, height, width)
        Source, translation in [-1, 1]; brain.
    window : int
        Side of the neighbourhood in pixels, odd.
    """

    def local(t: Tensor) -> Tensor:
        return neighbourhood_mean(t, window)

    x, y = x.float(), x_fake.float()
    n = local(mask).clamp_min(1e-3)
    mean_x, mean_y = local(x * mask) / n, local(y * mask) / n
    var_x = (local(x * x * mask) / n - mean_x.square()).clamp_min(0.0)
    var_y = (local(y * y * mask) / n - mean_y.square()).clamp_min(0.0)
    covariance = local(x * y * mask) / n - mean_x * mean_y
    explained = covariance.square() / (var_y + 1e-3)  # a translation must not carry structure below about 4 grey levels
    return 1.0 - (explained * mask).sum() / (var_x * mask).sum().clamp_min(1e-6)


LEVELS = 128
"""Quantiles at which `detail_loss` compares; the outermost leave out 0.4 % at either end."""


def detail_loss(x_fake: Tensor, mask: Tensor, x_ref: Tensor) -> Tensor:
    """Distance between how much detail a translation has and how much a real image of its domain at its height has.

    Detail is the absolute difference of neighbouring brain pixels; compared are its distributions over the slice, so
    that neither a blur nor added noise can pass, while nothing is said of where an edge should be. Not in the paper; see
    docs/decisions/0005. The distance is the squared 2-Wasserstein distance, in one dimension the mean squared difference
    of quantiles, relative to the mean square of the real detail: 1 for an image without any. Its best answer to many
    references is their mean quantiles, edges included; that of an absolute difference is their median, which is flat.

    Parameters
    ----------
    x_fake, mask : Tensor (batch, 1, height, width)
        Translation in [-1, 1]; its brain.
    x_ref : Tensor (batch, 1, height, width)
        The reference it shares its domain with.
    """
    levels = (torch.arange(LEVELS, device=mask.device, dtype=torch.float32) + 0.5) / LEVELS

    def quantiles(x: Tensor, brain: Tensor) -> Tensor:
        steps = []
        for axis in (2, 3):
            inside = brain.narrow(axis, 1, brain.shape[axis] - 1) * brain.narrow(axis, 0, brain.shape[axis] - 1)
            steps.append(x.float().diff(dim=axis).abs().masked_fill(inside == 0, torch.nan).flatten(1))
        return torch.nanquantile(torch.cat(steps, dim=1), levels, dim=1)

    with torch.no_grad():
        wanted = quantiles(x_ref, brain_mask(x_ref))
    distance = (quantiles(x_fake, mask) - wanted).square().mean(0) / wanted.square().mean(0).clamp_min(1e-6)
    return distance.nanmean()  # NaN in a slice of scattered pixels without neighbours


LESION_SHARE = 0.25
"""Say of all lesions against all healthy brain in `relation_loss`. At 1 they delayed the turning of contrasts, counted by
their pixels they were drowned, and oedema became dark in a FLAIR made from T2."""


class Expected(NamedTuple):
    """`ummgat.relation.Relations` in [-1, 1], as tensors on the device; NaN where unknown."""

    curves: Tensor
    """(n_domains, n_domains, rims, knots), [source, target]."""
    lesions: Tensor
    """(n_domains, n_labels): mean."""
    spreads: Tensor
    """(n_domains, n_labels): standard deviation within a lesion, same scale."""
    window: int
    """Side in pixels of the square in which the share of brain is taken."""
    shell: int
    """Pixels around a lesion in which healthy brain weighs more."""


def relation_loss(batch: Tensors, x_fake: Tensor, expected: Expected) -> Tensor:
    """Mean absolute difference of the translation from what the training cohort lets one expect.

    In healthy brain that is a surface over the source's intensity and the closeness of the rim, per pair of domains, learnt
    from different subjects (`ummgat.relation`): enough to say which contrasts invert, too coarse to be the answer. Lesions
    follow other curves (oedema is bright in T2 and in FLAIR, fluid is not), so of each label the mean is compared, once
    per slice. A mean does not say where a lesion ends: so a pixel counts too by what it lies outside one standard deviation of its
    label, and the healthy brain next to a lesion once more, which together draw the edge. What is not known does not count. Not in
    the paper; see docs/decisions/0005.

    Parameters
    ----------
    batch : Tensors
    x_fake : Tensor (batch, 1, height, width)
    expected : Expected
    """
    knots = expected.curves[batch.y_src, batch.y_trg]
    known = knots.isfinite().flatten(1).all(1)
    brain = brain_mask(batch.x_src)
    rims = neighbourhood_mean(brain, expected.window)
    surface = along_surface(batch.x_src, rims, torch.where(known[:, None, None], knots, 0.0))
    healthy = brain * (1 - batch.lesion_src) * known.view(-1, 1, 1, 1)
    off = (x_fake - surface).abs()
    around = healthy * F.max_pool2d(batch.lesion_src, 2 * expected.shell + 1, stride=1, padding=expected.shell)
    loss_healthy = (off * healthy).sum() / healthy.sum().clamp_min(1.0)
    loss_around = (off * around).sum() / around.sum().clamp_min(1.0)
    labels = batch.lesion_src if batch.labels_src is None else batch.labels_src
    each = torch.arange(1, expected.lesions.shape[1] + 1, device=labels.device, dtype=labels.dtype)
    wanted, spread = expected.lesions[batch.y_trg], expected.spreads[batch.y_trg].nan_to_num()
    counts = wanted.isfinite() & (batch.y_src != batch.y_trg)[:, None]
    wanted = wanted.nan_to_num()
    regions = brain * (labels == each.view(1, -1, 1, 1)) * counts[..., None, None]
    size = regions.sum((2, 3))
    mean = (x_fake * regions).sum((2, 3)) / size.clamp_min(1.0)
    beyond = F.relu((x_fake - wanted[..., None, None]).abs() - spread[..., None, None]) * regions
    loss_lesion = ((size * (mean - wanted).abs()).sum() + beyond.sum()) / size.sum().clamp_min(1.0)
    return loss_healthy + LESION_SHARE * (loss_lesion + loss_around)


def paired_loss(x_fake: Tensor, x_true: Tensor) -> Tensor:
    """Mean absolute difference from the true image where it is known; 0 where it is nowhere. For the paired schedule."""
    brain = brain_mask(x_true) * brain_mask(x_fake.detach())
    return ((x_fake - x_true).abs() * brain).sum() / brain.sum().clamp_min(1.0)


class Terms(NamedTuple):
    """Weights of the terms of G's loss that change from step to step; 0 skips a term."""

    adversarial: float
    cycle: float
    """Times its interval."""
    relation: float
    structure: float
    detail: float


class GeneratorLoss(NamedTuple):
    """Total for G (and, in the latent pass, E and M), the lesion term that also trains E, and the parts to log."""

    total: Tensor
    lesion: Tensor | None
    parts: Parts


def generator_loss(
    nets: Networks,
    batch: Tensors,
    kind: Pass,
    weights: LossConfig,
    terms: Terms,
    target: Target,
    x_fake: Tensor,
    expected: Expected | None,
) -> GeneratorLoss:
    """L_adv + L_sty + L_cyc (+ L_sty_lesion in the reference pass, - diversity if asked for in the latent pass).

    Parameters
    ----------
    weights : LossConfig
        Those that stay the same over the run: style, lesion, diversity.
    terms : Terms
        Those that do not.
    target : Target
    x_fake : Tensor (batch, 1, height, width)
        G(x_src, target.code, target.source), with gradient.
    expected : Expected or None
        For `relation_loss`; None skips it.
    """
    assert nets.discriminator is not None
    n = len(batch.x_src)
    mask = brain_mask(batch.x_src)
    total = x_fake.new_zeros(())
    parts: Parts = {}
    if terms.adversarial > 0:
        loss_adv = adversarial(nets.discriminator(x_fake, batch.y_trg).float(), True)
        total = total + terms.adversarial * loss_adv
        parts["g_adv"] = loss_adv.item()
    lesion: Tensor | None = None
    if target.lesion_code is None:
        code_fake = nets.encoder(x_fake, batch.y_trg, mask).float()
    else:
        pairs = has_lesion_pair(batch)
        codes = nets.encoder(
            torch.cat([x_fake, x_fake[pairs]]),
            torch.cat([batch.y_trg, batch.y_trg[pairs] + nets.encoder.n_domains]),
            torch.cat([mask, batch.lesion_src[pairs]]),
        ).float()
        code_fake = codes[:n]
        lesion = (codes[n:] - target.lesion_code.float()).abs().mean()  # mean over pairs that count, not over the batch
        # A factor of 1 with one process; with several, their mean becomes the mean over the pairs of all.
        lesion = lesion * (len(target.lesion_code) / batch.lesion_pairs)
    loss_sty = (target.code.float() - code_fake).abs().mean()
    total = total + weights.style * loss_sty
    parts["style"] = loss_sty.item()
    if terms.cycle > 0:
        x_rec = translated(nets, batch, x_fake, target.source, target.code.detach(), mask, weights.lesion_apart)
        # Mean over the image, as the paper writes it; background contributes exactly 0.
        loss_cyc = (batch.x_src - x_rec).abs().mean()
        total = total + terms.cycle * loss_cyc
        parts["cycle"] = loss_cyc.item()
    if terms.relation > 0 and expected is not None:
        loss_relation = relation_loss(batch, x_fake, expected)
        total = total + terms.relation * loss_relation
        parts["relation"] = loss_relation.item()
    if terms.structure > 0:
        loss_structure = structure_loss(batch.x_src, x_fake, mask)
        total = total + terms.structure * loss_structure
        parts["structure"] = loss_structure.item()
    if terms.detail > 0:
        loss_detail = detail_loss(x_fake, mask, batch.x_ref)
        total = total + terms.detail * loss_detail
        parts["detail"] = loss_detail.item()
    if lesion is not None:
        total = total + weights.lesion * lesion
        parts["lesion"] = lesion.item()
    if weights.diversity > 0 and kind == "latent":
        code = nets.mapper(batch.z[1], batch.y_trg)
        other = translated(nets, batch, batch.x_src, code, target.source, mask, weights.lesion_apart)
        spread = (x_fake - other.detach()).abs().mean()
        total = total - weights.diversity * spread
        parts["diversity"] = spread.item()
    return GeneratorLoss(total, None if lesion is None else weights.lesion * lesion, parts)
