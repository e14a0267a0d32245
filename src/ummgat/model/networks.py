"""The four networks together: built from a config, initialised, copied for the moving average."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ummgat.core.config import ModelConfig
from ummgat.model.attention_unet import attention_unet
from ummgat.model.convnext_unet import convnext_unet
from ummgat.model.discriminator import Discriminator
from ummgat.model.encoder import SequenceEncoder
from ummgat.model.mapper import Mapper
from ummgat.model.swin_unet import swin_unet
from ummgat.model.unet import UShape

GENERATORS: dict[str, Callable[[ModelConfig], UShape]] = {
    "swin_unet": swin_unet,
    "convnext_unet": convnext_unet,
    "attention_unet": attention_unet,
}


@dataclass
class Networks:
    """G, E, M and D. The moving average has no D: it is never evaluated."""

    generator: UShape
    encoder: SequenceEncoder
    mapper: Mapper
    discriminator: Discriminator | None

    def named(self) -> Iterator[tuple[str, nn.Module]]:
        """Name and module of every network present, in a fixed order."""
        for name in ("generator", "encoder", "mapper", "discriminator"):
            module = getattr(self, name)
            if module is not None:
                yield name, module

    def to(self, device: torch.device) -> "Networks":
        """Move in place; returns self."""
        for _, module in self.named():
            module.to(device)
        return self


def build_networks(config: ModelConfig, n_domains: int, seed: int) -> Networks:
    """Build G, E, M, D with He initialisation and zero biases, reproducibly from `seed`.

    Source: paper, "Training and validation of UMMGAT". Affine layers of AdaIN start small, so that every
    code starts as plain normalisation.
    """
    nets = Networks(
        GENERATORS[config.generator](config),
        SequenceEncoder(n_domains, config.encoder_widths, config.code_dim, config.encoder_pool),
        Mapper(n_domains, config.latent_dim, config.mapper_width, config.code_dim),
        Discriminator(
            n_domains, config.discriminator_widths, config.discriminator_position, config.discriminator_statistics
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    for _, module in nets.named():
        for name, parameter in module.named_parameters():
            if parameter.ndim < 2:
                nn.init.zeros_(parameter)  # biases, and γ, β of plain normalisation, which are offsets from identity
            else:
                nn.init.kaiming_normal_(parameter, generator=generator)
                if name in ("head.out.weight", "head.weight", "statistics.out.weight"):
                    parameter.data.mul_(0.1)  # tanh and the logits of D start in their linear part
                elif name.endswith(("affine.weight", "tone.knots.weight")):
                    parameter.data.mul_(0.1 if "tone" in name else 0.3)  # γ and β start as corrections, not as noise
    head = nets.generator.head
    if head.expected_tone is not None:
        head.expected_tone.start_at_identity()
    _same_start(nets, n_domains, generator)
    return nets


@torch.no_grad()
def _same_start(nets: Networks, n_domains: int, generator: torch.Generator) -> None:
    """Let the codes of a domain start near one random point, the same for E and M.

    From separate starts G spent its first hundred steps waiting until both had agreed on where a domain lies.
    """
    points = torch.randn((n_domains, nets.encoder.code_dim), generator=generator)
    heads = nets.encoder.heads
    rows = points.numel()  # heads of domains come before those of lesions
    heads.bias[:rows] = points.flatten()
    heads.weight[:rows] *= 0.3
    for branch, point in zip(nets.mapper.branches, points, strict=True):
        last = branch[-1]  # type: ignore[index]  # a Sequential
        last.bias.copy_(point)
        last.weight.mul_(0.3)


def moving_average_of(nets: Networks) -> Networks:
    """A copy of G, E and M to average into, without gradients. Make it after initialisation."""
    average = Networks(copy.deepcopy(nets.generator), copy.deepcopy(nets.encoder), copy.deepcopy(nets.mapper), None)
    for _, module in average.named():
        module.requires_grad_(False).eval()
    return average


@torch.no_grad()
def update_average(average: Networks, nets: Networks, decay: float) -> None:
    """Average ← decay · average + (1 - decay) · nets, in place."""
    sources = dict(nets.named())
    for name, module in average.named():
        torch._foreach_lerp_(list(module.parameters()), list(sources[name].parameters()), 1.0 - decay)
