"""Mapper M_y(z) → s: codes of a domain drawn from noise. Source: StarGAN v2 (Choi et al. 2020), 512 wide."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ummgat.model.encoder import unit


class Mapper(nn.Module):
    """Shared MLP, then a branch per domain."""

    def __init__(self, n_domains: int, latent_dim: int, width: int, code_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

        def layers(n_in: int, n_layers: int) -> list[nn.Module]:
            sizes = [n_in] + [width] * n_layers
            return [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]

        self.shared = nn.Sequential(*layers(latent_dim, 4))
        self.branches = nn.ModuleList(
            nn.Sequential(*layers(width, 1), nn.Linear(width, code_dim)) for _ in range(n_domains)
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """(batch, latent_dim) noise and (batch,) domain indices → (batch, code_dim), of zero mean and unit variance."""
        h = self.shared(z)
        codes = torch.stack([branch(h) for branch in self.branches], dim=1)
        return unit(codes[torch.arange(len(z), device=z.device), y])
