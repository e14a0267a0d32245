"""Losses as functions of tensors, with the paper's symbols (SPEC section 4). Nothing here calls backward.

x image, y domain, s code, z latent; suffixes _src, _trg, _ref, _fake, _rec. m is a lesion mask.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ummgat.core.config import LossConfig
from ummgat.model.lesion_gate import N_LABELS
from ummgat.model.masked import BACKGROUND, brain_mask
from ummgat.model.networks import Networks
from ummgat.model.statistics import neighbourhood_mean
from ummgat.model.unet import Answer, Aside

Pass = Literal["latent", "reference"]
Parts = dict[str, Tensor]
"""Scalars without gradient, on the device: reading one waits for all work before it."""


def numbers(parts: Parts) -> dict[str, float]:
    """Read all parts in one go."""
    return dict(zip(parts, torch.stack(list(parts.values())).tolist(), strict=True)) if parts else {}


class Tensors(NamedTuple):
    """`train.slices.Batch` as tensors on the device."""

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
    """Row and column at which the images were cut out of the training crop, see `train.slices.trimmed`."""
    labels_src: Tensor | None = None
    """Of the annotation, like x_src, 0 where there is none; None: the lesion counts as one label."""
    x_true: Tensor | None = None
    """For the schedules that see pairs, see `train.slices.Batch`."""
    labels_ref: Tensor | None = None
    x_clean: Tensor | None = None
    x_tone: Tensor | None = None
    x_same: Tensor | None = None
    near_src: Tensor | None = None
    atlas_src: Tensor | None = None
    atlas_ref: Tensor | None = None
    noise: Tensor | None = None
    """Like x_src: standard normal numbers for `degraded`, and `chances`: (batch, 4) in [0, 1]. Drawn with the batch, so
    that losses are functions of it."""
    chances: Tensor | None = None


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
    parts = {"d_real": loss_real.detach(), "d_fake": loss_fake.detach()}
    if r1_weight > 0:
        parts["r1"] = penalty.detach()
    return loss, parts


class Target(NamedTuple):
    """What a pass translates to, and from."""

    code: Tensor
    """s̃ (batch, code_dim): M_ỹ(z), or E_ỹ(x_ref) without gradient."""
    source: Tensor
    """sg E_y(x_src) (batch, code_dim)."""
    lesion_code: Tensor | None
    """sg E_{ỹ+N}(x_ref ⊙ m_ref) of the pairs that count; None without any, or with the lesion loss off."""


class Expected(NamedTuple):
    """What the training cohort knows of its domains (`ummgat.train.relation.Relations`, the atlas), in [-1, 1], as
    tensors.
    """

    lesions: Tensor
    """(n_domains, n_labels): mean; NaN where unknown."""
    spreads: Tensor
    """(n_domains, n_labels): standard deviation within a lesion; 0 where unknown."""
    thresholds: Tensor
    """(n_domains,): probability of ET at which it is drawn in full, see `ummgat.model.lesion_gate.drawing`."""
    explained: Tensor
    """(n_domains, n_domains): share of the target's local structure that the source's explains in the population,
    [source, target]."""
    ring: int
    """Pixels around a lesion in which nothing is asked: its border is blurred, and what is bright there is neither."""


def reference_of(batch: Tensors) -> Tensor:
    """What the code of a reference pass is read from: another subject, or, where a domain is translated to itself,
    another plane of the very volume in another tone, so that a code must carry the tone.
    """
    if batch.x_same is None:
        return batch.x_ref
    return torch.where((batch.y_src == batch.y_trg).view(-1, 1, 1, 1), batch.x_same, batch.x_ref)


def target_of(nets: Networks, batch: Tensors, kind: Pass, weights: LossConfig) -> Target:
    """Codes of a pass. What the encoder says of targets comes without gradient; of sources, with it in the latent pass,
    in which E learns: the cycle asks it to describe the image at hand, as the paper writes it.
    """
    n = len(batch.x_src)
    if kind == "latent":
        source = nets.encoder(batch.x_src, batch.y_src, brain_mask(batch.x_src))
        return Target(nets.mapper(batch.z[0], batch.y_trg), source, None)
    x_ref = reference_of(batch)
    images, heads = [batch.x_src, x_ref], [batch.y_src, batch.y_trg]
    regions = [brain_mask(batch.x_src), brain_mask(x_ref)]
    pairs = has_lesion_pair(batch)
    with_lesion = weights.lesion > 0 and bool(pairs.any())
    if with_lesion:
        images, heads = [*images, batch.x_ref[pairs]], [*heads, batch.y_trg[pairs] + nets.encoder.n_domains]
        regions = [*regions, batch.lesion_ref[pairs]]
    with torch.no_grad():
        codes = nets.encoder(torch.cat(images), torch.cat(heads), torch.cat(regions))
    return Target(codes[n : 2 * n], codes[:n], codes[2 * n :] if with_lesion else None)


def asked_lesion(batch: Tensors, expected: Expected) -> Tensor:
    """Lesion codes of a batch: each label's mean in the target, moved at random by up to one and a half of its spread,
    so that G learns to obey. (batch, n_labels), NaN where no subject of the target shows a label.
    """
    n = expected.lesions.shape[1]
    moves = batch.z[1][:, :n].clamp(-1.5, 1.5)
    return expected.lesions[batch.y_trg] + moves * expected.spreads[batch.y_trg]


def aside_of(batch: Tensors, expected: Expected | None) -> Aside:
    """What G is shown beside the sources of a batch."""
    code = threshold = None
    if expected is not None and expected.lesions.shape[1] == N_LABELS:
        typical = expected.lesions.nan_to_num().mean()
        asked = asked_lesion(batch, expected)
        code = torch.where(asked.isnan(), typical, asked)
        threshold = expected.thresholds[batch.y_trg]
    own, other = (None, None) if batch.atlas_src is None else (batch.atlas_src[:, :1], batch.atlas_src[:, 1:2])
    return Aside(batch.near_src, own, other, code, threshold)


def returning(aside: Aside) -> Aside:
    """For the way back of a cycle: source and target change places; of neighbours and lesions nothing is known."""
    return Aside(own=aside.expected, expected=aside.own)


def structure_loss(x: Tensor, x_fake: Tensor, mask: Tensor, window: int = 7, weight: Tensor | None = None) -> Tensor:
    """Share of the source's local variance that no local linear map of the translation explains: 0 (all) to 1
    (nothing).

    Blind to contrast and its sign, so it holds anatomy in place without holding back an inversion. Not in the paper;
    see docs/decisions/0005. The measure is local squared correlation, known from registration (Avants et al. 2008).

    Parameters
    ----------
    x, x_fake, mask : Tensor (batch, 1, height, width)
        Source, translation in [-1, 1]; brain.
    window : int
        Side of the neighbourhood in pixels, odd.
    weight : Tensor (batch,), optional
        How much each slice counts: where a source says little of its target, its edges must not be kept.
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
    if weight is None:
        return 1.0 - (explained * mask).sum() / (var_x * mask).sum().clamp_min(1e-6)
    shares = 1.0 - (explained * mask).sum((1, 2, 3)) / (var_x * mask).sum((1, 2, 3)).clamp_min(1e-6)
    return (shares * weight).mean()


LEVELS = 128
"""Quantiles at which `detail_loss` compares; the outermost leave out 0.4 % at either end."""


def detail_loss(x_fake: Tensor, mask: Tensor, x_ref: Tensor, weight: Tensor | None = None) -> Tensor:
    """Distance between how much detail a translation has and how much a real image of its domain at its height has.

    Detail is the absolute difference of neighbouring brain pixels; compared are its distributions over the slice, so
    that neither a blur nor added noise can pass, while nothing is said of where an edge should be. Not in the paper;
    see docs/decisions/0005. The distance is the squared 2-Wasserstein distance, in one dimension the mean squared
    difference of quantiles, relative to the mean square of the real detail: 1 for an image without any. Its best answer
    to many references is their mean quantiles, edges included; that of an absolute difference is their median, which is
    flat.

    Parameters
    ----------
    x_fake, mask : Tensor (batch, 1, height, width)
        Translation in [-1, 1]; its brain.
    x_ref : Tensor (batch, 1, height, width)
        The reference it shares its domain with.
    weight : Tensor (batch,), optional
        How much each slice counts; then distances are taken slice by slice: where a source says little of its target,
        detail would be noise.
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
    if weight is not None:
        each = (quantiles(x_fake, mask) - wanted).square().mean(0) / wanted.square().mean(0).clamp_min(1e-4)
        return (each.clamp_max(4.0) * weight).nanmean()
    distance = (quantiles(x_fake, mask) - wanted).square().mean(0) / wanted.square().mean(0).clamp_min(1e-6)
    return distance.nanmean()  # NaN in a slice of scattered pixels without neighbours


SPREAD_SCALE = 12 / 127.5
"""Spread between subjects at which the atlas weighs half."""

DEAD_ZONE = 0.5
"""Spreads of a label within which its brightness is right: lesions have texture."""


def healthy_brain(batch: Tensors, ring: int) -> Tensor:
    """Annotated brain without lesion and the ring around it, 0/1; nothing of a slice that nobody annotated is
    lesion.
    """
    around = F.max_pool2d(batch.lesion_src, 2 * ring + 1, stride=1, padding=ring)
    return brain_mask(batch.x_src) * (1 - around)


def atlas_loss(batch: Tensors, x_fake: Tensor, healthy: Tensor, expected_image: Tensor, asked: Tensor) -> Tensor:
    """Mean absolute difference from what the population shows here, in healthy brain.

    Not in the paper; see docs/decisions/0015. It weighs less where subjects differ.

    Parameters
    ----------
    healthy : Tensor (batch, 1, height, width)
    expected_image : Tensor (batch, 1, height, width)
        `Answer.expected`.
    asked : Tensor (batch,)
        Pairs that count.
    """
    assert batch.atlas_src is not None
    known = healthy * (expected_image > BACKGROUND) * asked.view(-1, 1, 1, 1)
    weight = known / (1 + batch.atlas_src[:, 2:] / SPREAD_SCALE)
    return ((x_fake - expected_image).abs() * weight).sum() / weight.sum().clamp_min(1.0)


def label_loss(batch: Tensors, x_fake: Tensor, asked: Tensor, spreads: Tensor, thresholds: Tensor) -> Tensor:
    """Weighted mean square of how far lesions are from the brightness asked for, beyond half a spread of the label.

    Squares, since what minimises them is the mean over what a source leaves open, while that of absolute differences is
    the median, which has no enhancement wherever its probability is below one half. Enhancing tumour weighs
    (1 - τ) / τ more, so that the answer is half-way to its brightness at probability τ. Not in the paper.

    Parameters
    ----------
    asked, spreads : Tensor (batch, n_labels)
        Asked-for brightness, NaN where nothing is asked; spread of the label in the target.
    thresholds : Tensor (batch,)
        τ; 1 for targets in which ET weighs like the rest.
    """
    assert batch.labels_src is not None
    numbers = torch.arange(1, asked.shape[1] + 1, device=x_fake.device, dtype=x_fake.dtype)
    counts = asked.isfinite() & (batch.y_src != batch.y_trg)[:, None]
    regions = brain_mask(batch.x_src) * (batch.labels_src == numbers.view(1, -1, 1, 1)) * counts[..., None, None]
    costly = torch.where(thresholds < 1, (1 - thresholds) / thresholds, 1.0)
    weight = torch.ones_like(asked)
    weight[:, -1] = costly
    weight = regions * weight[..., None, None]
    off = (x_fake - asked.nan_to_num()[..., None, None]).abs() - DEAD_ZONE * spreads[..., None, None]
    return (F.relu(off).square() * weight).sum() / weight.sum().clamp_min(1.0)


def segmentation_loss(logits: Tensor, labels: Tensor, brain: Tensor) -> Tensor:
    """Cross-entropy over annotated brain, which calibrates, and the soft Dice of the whole lesion, which finds small
    ones.

    Parameters
    ----------
    logits : Tensor (batch, 1 + N_LABELS, height, width)
    labels : Tensor (batch, 1, height, width)
        -1 where nobody annotated.
    brain : Tensor like labels
    """
    known = (brain > 0) & (labels >= 0)
    wanted = torch.where(known, labels, -1.0).squeeze(1).long()
    entropy = F.cross_entropy(logits, wanted, ignore_index=-1, reduction="sum") / known.sum().clamp_min(1)
    found = (1 - logits.softmax(1)[:, :1]) * known
    lesion = ((labels > 0) & known).to(found.dtype)
    dice = (2 * (found * lesion).sum() + 1.0) / (found.sum() + lesion.sum() + 1.0)
    return entropy + 0.3 * (1 - dice)


def region_weights(labels: Tensor, brain: Tensor, thresholds: Tensor) -> Tensor:
    """How much each pixel of a true image says: lesion twice, ET of a costly target (1 - τ) / τ times."""
    costly = torch.where(thresholds < 1, (1 - thresholds) / thresholds, 2.0).view(-1, 1, 1, 1)
    return brain * torch.where(labels == N_LABELS, costly, 1 + (labels > 0).to(brain.dtype))


def weighted_difference(x: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean absolute difference; 0 where nothing weighs."""
    return ((x - truth).abs() * weight).sum() / weight.sum().clamp_min(1.0)


def degraded(x: Tensor, noise: Tensor, chances: Tensor) -> Tensor:
    """A generated image as another scanner might have acquired it: tone, noise, a blur now and then, 8 bit.

    So that nothing can be hidden in it: a network that is to read its own translation learns to write notes (Chu et al.
    2017).

    Parameters
    ----------
    x, noise : Tensor (batch, 1, height, width)
        Image in [-1, 1]; standard normal numbers.
    chances : Tensor (batch, 4)
        Of blur, gain, gamma and strength of noise, uniform in [0, 1].
    """
    mask = brain_mask(x)
    blur, gain, gamma, strength = (c.view(-1, 1, 1, 1) for c in chances.unbind(1))
    blurred = neighbourhood_mean((x - BACKGROUND) * mask, 3) / neighbourhood_mean(mask, 3).clamp_min(1e-3) + BACKGROUND
    x = torch.where(blur < 0.5, blurred, x)
    grey = (x + 1) * 127.5
    grey = 100 + (0.8 + 0.45 * gain) * (100 * (grey.clamp_min(1) / 100) ** (0.85 + 0.33 * gamma) - 100)
    grey = grey + noise * (1 + 5 * strength)
    return torch.where(mask > 0, grey.round().clamp(1, 255) / 127.5 - 1, BACKGROUND)


def back_loss(nets: Networks, batch: Tensors, code: Tensor, source: Tensor, expected: Expected | None) -> Tensor:
    """Back-translation (Sennrich et al. 2016): a real image of the target domain, from its own translation to the
    source's.

    A real image is the answer without any pair; the question is synthetic. Not in the paper.

    Parameters
    ----------
    code, source : Tensor (batch, code_dim)
        Of target and source domain.
    """
    assert batch.noise is not None
    assert batch.chances is not None
    mask = brain_mask(batch.x_ref)
    there = here = Aside()
    if batch.atlas_ref is not None:
        own, other = batch.atlas_ref[:, :1], batch.atlas_ref[:, 1:2]
        there, here = Aside(own=own, expected=other), Aside(own=other, expected=own)
    thresholds = batch.x_ref.new_ones(len(mask))
    if expected is not None and expected.lesions.shape[1] == N_LABELS:
        here = aside_of(batch, expected)._replace(near=None, own=here.own, expected=here.expected)
        here = here._replace(lesion_code=expected.lesions[batch.y_trg].nan_to_num())
        back = expected.lesions[batch.y_src].nan_to_num()
        there = there._replace(lesion_code=back, threshold=torch.ones_like(thresholds))
        thresholds = expected.thresholds[batch.y_trg]
    with torch.no_grad():
        question = nets.generator(batch.x_ref, source, code, mask, batch.origin, aside=there)
        question = degraded(question, batch.noise, batch.chances)
    answer = nets.generator(question, code, source, mask, batch.origin, aside=here)
    labels = batch.lesion_ref if batch.labels_ref is None else batch.labels_ref
    other_domain = (batch.y_src != batch.y_trg).to(mask.dtype).view(-1, 1, 1, 1)
    return weighted_difference(answer, batch.x_ref, region_weights(labels, mask, thresholds) * other_domain)


CONTRAST_TEMPERATURE = 0.2
LEAST_SPREAD = 0.3
"""Standard deviation of codes within a domain below which they count as collapsed."""


def contrast_loss(nets: Networks, batch: Tensors) -> Tensor:
    """Two planes of a volume in one tone have one code; volumes and tones of a domain have different ones.

    The trunk is asked to tell which plane belongs to which (InfoNCE, van den Oord et al. 2018), the codes of a domain
    to spread (VICReg, Bardes et al. 2022). Single images only.
    """
    assert batch.x_tone is not None
    assert batch.x_same is not None
    images, n = torch.cat([batch.x_tone, batch.x_same]), len(batch.x_tone)
    features = nets.encoder.features(images)
    unit = F.normalize(features.float(), dim=1)
    likeness = unit[:n] @ unit[n:].T / CONTRAST_TEMPERATURE
    same = torch.arange(n, device=likeness.device)
    nce = F.cross_entropy(likeness, same)
    codes = nets.encoder.read(features, batch.y_src.repeat(2)).float()[:n]
    pair = torch.triu(batch.y_src[:, None] == batch.y_src[None], diagonal=1).to(codes.dtype)
    apart = ((codes[:, None] - codes[None]).square().mean(2) / 2 + 1e-8).sqrt()
    return nce + (F.relu(LEAST_SPREAD - apart) * pair).sum() / pair.sum().clamp_min(1.0)


def paired_loss(x_fake: Tensor, x_true: Tensor) -> Tensor:
    """Mean absolute difference from the true image where it is known; 0 where it is nowhere. For the paired
    schedule.
    """
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
    back: float = 0.0
    """Times its interval."""
    contrast: float = 0.0
    """Times its interval."""


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
    answer: Answer,
    expected: Expected | None,
    live: Mapping[str, Tensor] | None = None,
) -> GeneratorLoss:
    """L_adv + L_sty + L_cyc (+ L_sty_lesion in the reference pass) of the paper, and what the config adds.

    Parameters
    ----------
    weights : LossConfig
        Those that stay the same over the run.
    terms : Terms
        Those that do not.
    target : Target
    answer : Answer
        G(x_src, target.code, target.source), with gradient.
    expected : Expected or None
        What the cohort knows; None skips what needs it.
    live : mapping of part → Tensor (), optional
        Takes the place of a weight in `terms` that is not 0: a captured graph of the step cannot hold one that changes.
    """
    assert nets.discriminator is not None
    live = {} if live is None else live
    n, x_fake = len(batch.x_src), answer.image
    mask = brain_mask(batch.x_src)
    total = x_fake.new_zeros(())
    parts: Parts = {}

    def add(name: str, weight: float, loss: Tensor) -> None:
        nonlocal total
        total = total + live.get(name, weight) * loss
        parts[name] = loss.detach()

    if terms.adversarial > 0:
        add("g_adv", terms.adversarial, adversarial(nets.discriminator(x_fake, batch.y_trg).float(), True))
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
    asked_code = target.code if weights.contrast == 0 else target.code.detach()  # else M is punished for varying
    add("style", weights.style, (asked_code.float() - code_fake).abs().mean())
    aside = aside_of(batch, expected)
    if terms.cycle > 0:
        x_rec = nets.generator(x_fake, target.source, target.code.detach(), mask, batch.origin, aside=returning(aside))
        # Mean over the image, as the paper writes it; background contributes exactly 0.
        add("cycle", terms.cycle, (batch.x_src - x_rec).abs().mean())
    other = batch.y_src != batch.y_trg
    if expected is not None:
        unpaired = other
        if weights.pairs > 0 and batch.x_true is not None:
            has_truth = brain_mask(batch.x_true).flatten(1).any(1) & other
            unpaired = other & ~has_truth
            labels = batch.lesion_src if batch.labels_src is None else batch.labels_src
            region = region_weights(labels, mask * brain_mask(batch.x_true), expected.thresholds[batch.y_trg])
            loss = weighted_difference(x_fake, batch.x_true, region * has_truth.view(-1, 1, 1, 1))
            add("pairs", weights.pairs, loss)
        if terms.relation > 0 and answer.expected is not None and batch.atlas_src is not None:
            healthy = healthy_brain(batch, expected.ring)
            add("atlas", terms.relation, atlas_loss(batch, x_fake, healthy, answer.expected, unpaired))
        if weights.labels > 0 and batch.labels_src is not None:
            spreads, thresholds = expected.spreads[batch.y_trg], expected.thresholds[batch.y_trg]
            loss = label_loss(batch, x_fake, asked_lesion(batch, expected), spreads, thresholds)
            add("labels", weights.labels, loss)
    if weights.segmentation > 0 and answer.logits is not None and batch.labels_src is not None:
        add("segmentation", weights.segmentation, segmentation_loss(answer.logits, batch.labels_src, mask))
    explained = None if expected is None else expected.explained[batch.y_src, batch.y_trg]
    if terms.structure > 0:
        add("structure", terms.structure, structure_loss(batch.x_src, x_fake, mask, weight=explained))
    if terms.detail > 0:
        add("detail", terms.detail, detail_loss(x_fake, mask, batch.x_ref, explained))
    if weights.own > 0 and kind == "reference" and batch.x_tone is not None:
        same = mask * (~other).to(mask.dtype).view(-1, 1, 1, 1)
        add("own", weights.own, weighted_difference(x_fake, batch.x_tone, same))
    if terms.back > 0:
        code, source = target.code.detach(), target.source.detach()
        add("back", terms.back, back_loss(nets, batch, code, source, expected))
    if terms.contrast > 0 and kind == "latent":
        add("contrast", terms.contrast, contrast_loss(nets, batch))
    if lesion is not None:
        add("lesion", weights.lesion, lesion)
    if weights.diversity > 0 and kind == "latent":
        code = nets.mapper(batch.z[1], batch.y_trg)
        another = nets.generator(batch.x_src, code, target.source, mask, batch.origin, aside=aside)
        add("diversity", -weights.diversity, (x_fake - another.detach()).abs().mean())
    return GeneratorLoss(total, None if lesion is None else weights.lesion * lesion, parts)
