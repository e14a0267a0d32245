"""One training iteration, in the literal order of StarGAN v2 or in a cheaper one. Here one sees who is updated by whom.

literal      D on the latent pass, D on the reference pass, G+E+M on the latent pass, G (+ E's lesion heads) on the
             reference pass. Every pass translates anew; R1 at every step of D.
alternating  one kind of pass per iteration, latent and reference in turn; D and G share one translation; R1 and the
             cycle loss at intervals, weighted by them. Its batches come cut to the brain (`train.slices.trimmed`).
mixed        alternating, and the true image where a training subject has it (`loss.pairs`).
paired       G + M by the true image, which an unpaired method never sees: the bound that ours is measured against.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ummgat.core.config import Config, TrainConfig
from ummgat.model.masked import brain_mask
from ummgat.model.networks import Networks
from ummgat.model.unet import Answer
from ummgat.train.losses import (
    Expected,
    Parts,
    Pass,
    Target,
    Tensors,
    Terms,
    aside_of,
    discriminator_loss,
    generator_loss,
    paired_loss,
    target_of,
)

AverageGradients = Callable[[Iterable[nn.Parameter]], None]
"""Average gradients over processes, in place; does nothing with one process. All processes must call it alike."""


@dataclass
class Optimizers:
    """One Adam per network."""

    generator: Optimizer
    encoder: Optimizer
    mapper: Optimizer
    discriminator: Optimizer

    def named(self) -> Iterator[tuple[str, Optimizer]]:
        """Name and optimizer, in a fixed order."""
        for name in ("generator", "encoder", "mapper", "discriminator"):
            yield name, getattr(self, name)


def build_optimizers(nets: Networks, config: TrainConfig, capturable: bool = False) -> Optimizers:
    """Adam as in the paper: β (0, 0.99), weight decay added to the gradient.

    `capturable`: what changes from step to step lies on the device, where a captured graph can read it.
    """

    def adam(module: nn.Module, lr: float) -> Adam:
        parameters = list(module.parameters())
        rate = torch.tensor(lr, device=parameters[0].device) if capturable else lr
        return Adam(
            parameters,
            lr=rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            foreach=True,
            capturable=capturable,
        )

    assert nets.discriminator is not None
    return Optimizers(
        adam(nets.generator, config.lr_generator),
        adam(nets.encoder, config.lr_encoder),
        adam(nets.mapper, config.lr_mapper),
        adam(nets.discriminator, config.lr_discriminator),
    )


def set_learning_rates(optimizers: Optimizers, config: TrainConfig, step: int) -> None:
    """Constant, then linear to 0 from `lr_decay_from` on; computed from the step, so that resuming changes nothing."""
    start = config.lr_decay_from * config.iterations
    factor = 1.0 if step < start else max(0.0, config.iterations - step) / max(config.iterations - start, 1.0)
    for name, optimizer in optimizers.named():
        for group in optimizer.param_groups:
            rate = getattr(config, f"lr_{name}") * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def terms_at(config: Config, step: int, cycle: float, back: float = 0.0, contrast: float = 0.0) -> Terms:
    """Weights of G's loss at `step`; computed from it, so that resuming changes nothing.

    With a relation loss the run has an opening. Until its first mark the relation leads alone, so that every direction
    first learns which contrasts invert: the adversarial loss would rather be fooled by texture than wait for that, and
    the structure loss, blind to sign, would lock a wrong one in. Up to the second mark both rise, and relation falls.
    """
    loss = config.loss
    if not loss.relation:
        return Terms(loss.adversarial, cycle, 0.0, loss.structure, loss.detail, back, contrast)
    begin, end = (mark * config.train.iterations for mark in loss.opening)
    done = 1.0 if step >= end else max(0.0, (step - begin) / (end - begin))
    relation = loss.relation * (1 - (1 - loss.relation_kept) * done)
    return Terms(
        loss.adversarial * done, cycle, relation, loss.structure * done, loss.detail * done, back * done, contrast
    )


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """Let gradients pass through modules without collecting any for their weights."""
    for module in modules:
        module.requires_grad_(False)
    try:
        yield
    finally:
        for module in modules:
            module.requires_grad_(True)


@dataclass
class Step:
    """All that one iteration needs and changes."""

    nets: Networks
    optimizers: Optimizers
    config: Config
    average_gradients: AverageGradients
    expected: Expected | None = None
    """For the relation loss; None where its weight is 0."""
    live: Mapping[str, Tensor] | None = None
    """See `losses.generator_loss`."""

    def run(self, batch: Tensors, step: int) -> Parts:
        """Do iteration `step` by the configured schedule; returns the parts of the losses."""
        set_learning_rates(self.optimizers, self.config.train, step)
        if self.config.train.schedule == "literal":
            return self.literal(batch, step)
        if self.config.train.schedule == "paired":
            return self.paired(batch)
        return self.alternating(batch, step)

    def literal(self, batch: Tensors, step: int) -> Parts:
        """StarGAN v2's order, every term every time."""
        parts: Parts = {}
        weights = self.config.loss
        kinds: tuple[Pass, Pass] = ("latent", "reference")
        for kind in kinds:
            with torch.no_grad():
                x_fake = self._translate(batch, target_of(self.nets, batch, kind, weights)).image
            parts |= self._discriminate(batch, x_fake, weights.r1_gamma)
        for kind in kinds:
            target = target_of(self.nets, batch, kind, weights)
            answer = self._translate(batch, target)
            terms = terms_at(self.config, step, weights.cycle, weights.back, weights.contrast)
            parts |= self._generate(batch, kind, target, answer, terms)
        return parts

    def alternating(self, batch: Tensors, step: int) -> Parts:
        """One kind of pass, one translation; intervals count pairs of iterations, so that both kinds get every term."""
        weights = self.config.loss
        kind: Pass = "latent" if step % 2 == 0 else "reference"
        r1, terms = self.due(step)
        target = target_of(self.nets, batch, kind, weights)
        answer = self._translate(batch, target)
        parts = self._discriminate(batch, answer.image, r1)
        return parts | self._generate(batch, kind, target, answer, terms)

    def due(self, step: int) -> tuple[float, Terms]:
        """Weight of R1 and of G's terms in iteration `step` of the alternating schedule; 0 where a term is left out."""
        weights, train, pair = self.config.loss, self.config.train, step // 2
        r1 = weights.r1_gamma * train.r1_every if pair % train.r1_every == 0 else 0.0
        cycle = weights.cycle * train.cycle_every if pair % train.cycle_every == 0 else 0.0
        # Not on the steps of the cycle, so that steps cost alike.
        turn = (pair + 1) % train.back_every == 0
        back, contrast = (w * train.back_every if turn else 0.0 for w in (weights.back, weights.contrast))
        return r1, terms_at(self.config, step, cycle, back, contrast)

    def paired(self, batch: Tensors) -> Parts:
        """The same generator, told the truth: mean absolute difference, one code per domain from the mapper."""
        assert batch.x_true is not None
        nets, optimizers = self.nets, self.optimizers
        code, source = nets.mapper(batch.z[0], batch.y_trg), nets.mapper(batch.z[1], batch.y_src)
        aside = aside_of(batch, self.expected)
        x_fake = nets.generator(batch.x_src, code, source, brain_mask(batch.x_src), batch.origin, aside=aside)
        loss = paired_loss(x_fake, batch.x_true)
        for optimizer in (optimizers.generator, optimizers.mapper):
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for module, optimizer in ((nets.generator, optimizers.generator), (nets.mapper, optimizers.mapper)):
            self._take_step(module, optimizer)
        return {"paired": loss.detach()}

    def _translate(self, batch: Tensors, target: Target) -> Answer:
        """What G makes of the sources."""
        mask, aside = brain_mask(batch.x_src), aside_of(batch, self.expected)
        return self.nets.generator.answer(batch.x_src, target.code, target.source, mask, batch.origin, aside=aside)

    def _discriminate(self, batch: Tensors, x_fake: Tensor, r1_weight: float) -> Parts:
        """D learns."""
        assert self.nets.discriminator is not None
        clean = batch.x_src if batch.x_clean is None else batch.x_clean
        real = (clean, batch.y_src) if self.config.train.d_real == "source" else (batch.x_ref, batch.y_trg)
        loss, parts = discriminator_loss(self.nets, *real, x_fake, batch.y_trg, r1_weight)
        self.optimizers.discriminator.zero_grad(set_to_none=True)
        loss.backward()
        self._take_step(self.nets.discriminator, self.optimizers.discriminator)
        return parts

    def _generate(self, batch: Tensors, kind: Pass, target: Target, answer: Answer, terms: Terms) -> Parts:
        """G learns; E and M too in the latent pass; in the reference pass E learns from the lesion loss alone."""
        nets, optimizers = self.nets, self.optimizers
        assert nets.discriminator is not None
        for optimizer in (optimizers.generator, optimizers.encoder, optimizers.mapper):
            optimizer.zero_grad(set_to_none=True)
        with _frozen(nets.discriminator):
            loss = generator_loss(nets, batch, kind, self.config.loss, terms, target, answer, self.expected, self.live)
            if kind == "latent":
                loss.total.backward()
            else:
                encoder = list(nets.encoder.parameters())
                if loss.lesion is not None:
                    gradients = torch.autograd.grad(loss.lesion, encoder, retain_graph=True)
                    for parameter, gradient in zip(encoder, gradients, strict=True):
                        parameter.grad = gradient
                loss.total.backward(inputs=list(nets.generator.parameters()))
        self._take_step(nets.generator, optimizers.generator)
        if kind == "latent":
            self._take_step(nets.encoder, optimizers.encoder)
            self._take_step(nets.mapper, optimizers.mapper)
        elif self.config.loss.lesion > 0 and batch.lesion_pairs > 0:
            # On all processes or on none, see AverageGradients: so it is the whole batch that decides.
            self._take_step(nets.encoder, optimizers.encoder)
        return loss.parts

    def _take_step(self, module: nn.Module, optimizer: Optimizer) -> None:
        self.average_gradients(module.parameters())
        optimizer.step()
