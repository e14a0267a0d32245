"""Losses as functions of tensors, with the paper's symbols (SPEC section 4). Nothing here calls backward.

x image, y domain, s code, z latent; suffixes _src, _trg, _ref, _fake, _rec. m is a lesion mask.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ummgat.config import LossConfig
from ummgat.model.masked import brain_mask
from ummgat.model.networks import Networks

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
    """Row and column at which the images were cut out of the training crop, see `trimmed`."""


def trimmed(batch: Tensors, unit: int) -> Tensors:
    """Cut away rows and columns in which no image of the batch has brain; views.

    The generator gives the same answer either way, since it attends to brain only and is told the origin; the
    arithmetic on background is saved. `unit` keeps its tokens where they were.
    """
    brain = (brain_mask(batch.x_src) + brain_mask(batch.x_ref)).sum((0, 1))
    box, origin = [], []
    for axis in (1, 0):
        occupied = torch.nonzero(brain.sum(axis)).flatten()
        start = int(occupied[0]) // unit * unit
        box.append(slice(start, min(-(-(int(occupied[-1]) + 1 - start) // unit) * unit + start, brain.shape[1 - axis])))
        origin.append(start)
    rows, columns = box

    def cut(x: Tensor) -> Tensor:
        return x[:, :, rows, columns]

    return batch._replace(
        x_src=cut(batch.x_src),
        lesion_src=cut(batch.lesion_src),
        x_ref=cut(batch.x_ref),
        lesion_ref=cut(batch.lesion_ref),
        origin=(origin[0], origin[1]),
    )


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
    """What a pass translates to."""

    code: Tensor
    """s̃ (batch, code_dim): M_ỹ(z), or E_ỹ(x_ref) without gradient."""
    lesion_code: Tensor | None
    """sg E_{ỹ+N}(x_ref ⊙ m_ref) of the pairs that count; None without any, or with the lesion loss off."""


def target_of(nets: Networks, batch: Tensors, kind: Pass, weights: LossConfig) -> Target:
    """Codes to translate to. In the reference pass image and lesion share one call of the encoder."""
    if kind == "latent":
        return Target(nets.mapper(batch.z[0], batch.y_trg), None)
    pairs = has_lesion_pair(batch)
    with torch.no_grad():
        if not weights.lesion or not bool(pairs.any()):
            return Target(nets.encoder(batch.x_ref, batch.y_trg), None)
        n = len(batch.x_ref)
        codes = nets.encoder(
            torch.cat([batch.x_ref, batch.x_ref[pairs]]),
            torch.cat([batch.y_trg, batch.y_trg[pairs] + nets.encoder.n_domains]),
            torch.cat([brain_mask(batch.x_ref), batch.lesion_ref[pairs]]),
        )
        return Target(codes[:n], codes[n:])


def structure_loss(x: Tensor, x_fake: Tensor, mask: Tensor, window: int = 7) -> Tensor:
    """Share of the source's local variance that no local linear map of the translation explains: 0 (all) to 1 (nothing).

    Blind to contrast and its sign, so it holds anatomy in place without holding back an inversion. Not in the paper;
    see docs/decisions/0005. The measure is local squared correlation, known from registration (Avants et al. 2008).

    Parameters
    ----------
    x, x_fake, mask : Tensor (batch, 1, height, width)
        Source, translation in [-1, 1]; brain.
    window : int
        Side of the neighbourhood in pixels.
    """

    def local(t: Tensor) -> Tensor:
        return F.avg_pool2d(t, window, stride=1, padding=window // 2)

    x, y = x.float(), x_fake.float()
    n = local(mask).clamp_min(1e-3)
    mean_x, mean_y = local(x * mask) / n, local(y * mask) / n
    var_x = (local(x * x * mask) / n - mean_x.square()).clamp_min(0.0)
    var_y = (local(y * y * mask) / n - mean_y.square()).clamp_min(0.0)
    covariance = local(x * y * mask) / n - mean_x * mean_y
    explained = covariance.square() / (var_y + 1e-3)  # a translation must not carry structure below about 4 grey levels
    return 1.0 - (explained * mask).sum() / (var_x * mask).sum().clamp_min(1e-6)


def position_loss(batch: Tensors, x_fake: Tensor, window: int = 5) -> Tensor:
    """Mean absolute difference of blurred translation and blurred reference, where both have healthy brain.

    The reference is another subject's slice of the target domain at about the same height. Over many references the
    blurred target domain at each place is what minimises this: enough to say that ventricles are bright in T2, too
    blurred to say where this subject's are. Meant for the start of training. Not in the paper; docs/decisions/0005.

    Parameters
    ----------
    batch : Tensors
    x_fake : Tensor (batch, 1, height, width)
    window : int
        Side of the blur in pixels.
    """
    healthy_src = brain_mask(batch.x_src) * (1 - batch.lesion_src)
    healthy_ref = brain_mask(batch.x_ref) * (1 - batch.lesion_ref)

    def blurred(x: Tensor, mask: Tensor) -> Tensor:
        weight = F.avg_pool2d(mask, window, stride=1, padding=window // 2).clamp_min(1e-3)
        return F.avg_pool2d(x.float() * mask, window, stride=1, padding=window // 2) / weight

    both = healthy_src * healthy_ref
    difference = blurred(x_fake, healthy_src) - blurred(batch.x_ref, healthy_ref)
    return (difference.abs() * both).sum() / both.sum().clamp_min(1.0)


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
    target: Target,
    x_fake: Tensor,
    cycle_weight: float,
    position_weight: float,
    structure_weight: float,
) -> GeneratorLoss:
    """L_adv + L_sty + L_cyc (+ L_sty_lesion in the reference pass, - diversity if asked for in the latent pass).

    Parameters
    ----------
    target : Target
    x_fake : Tensor (batch, 1, height, width)
        G(x_src, target.code), with gradient.
    cycle_weight : float
        Weight of the cycle term times its interval; 0 skips it.
    position_weight, structure_weight : float
        Weights of `position_loss` and `structure_loss` at this step; 0 skips them.
    """
    assert nets.discriminator is not None
    n = len(batch.x_src)
    mask = brain_mask(batch.x_src)
    loss_adv = adversarial(nets.discriminator(x_fake, batch.y_trg).float(), True)
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
    total = weights.adversarial * loss_adv + weights.style * loss_sty
    parts = {"g_adv": loss_adv.item(), "style": loss_sty.item()}
    if cycle_weight > 0:
        code_src = nets.encoder(batch.x_src, batch.y_src)
        x_rec = nets.generator(x_fake, code_src, mask, batch.origin)
        # Mean over the image, as the paper writes it; background contributes exactly 0.
        loss_cyc = (batch.x_src - x_rec).abs().mean()
        total = total + cycle_weight * loss_cyc
        parts["cycle"] = loss_cyc.item()
    if position_weight > 0:
        loss_position = position_loss(batch, x_fake)
        total = total + position_weight * loss_position
        parts["position"] = loss_position.item()
    if structure_weight > 0:
        loss_structure = structure_loss(batch.x_src, x_fake, mask)
        total = total + structure_weight * loss_structure
        parts["structure"] = loss_structure.item()
    if lesion is not None:
        total = total + weights.lesion * lesion
        parts["lesion"] = lesion.item()
    if weights.diversity > 0 and kind == "latent":
        other = nets.generator(batch.x_src, nets.mapper(batch.z[1], batch.y_trg), mask, batch.origin)
        spread = (x_fake - other.detach()).abs().mean()
        total = total - weights.diversity * spread
        parts["diversity"] = spread.item()
    return GeneratorLoss(total, None if lesion is None else weights.lesion * lesion, parts)
