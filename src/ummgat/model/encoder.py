"""Sequence encoder E_y(x) → s and the residual trunk it shares its design with (the discriminator)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ummgat.model.masked import BACKGROUND, brain_mask


class ResidualDown(nn.Module):
    """Pre-activation residual block that halves the resolution. No normalisation: contrast is the message."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_in, 3, padding=1)
        self.conv2 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.skip = nn.Conv2d(n_in, n_out, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """(batch, n_in, height, width) → (batch, n_out, ⌈height/2⌉, ⌈width/2⌉), of unit variance."""
        shortcut = self.skip(F.avg_pool2d(h, 2, ceil_mode=True))
        h = F.avg_pool2d(self.conv1(F.leaky_relu(h, 0.2)), 2, ceil_mode=True)
        return (shortcut + self.conv2(F.leaky_relu(h, 0.2))) / 2**0.5


class Trunk(nn.Module):
    """Strided stem, then one `ResidualDown` per further width: (batch, n_in, H, W) → (batch, widths[-1], h, w)."""

    def __init__(self, n_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(n_in, widths[0], 4, stride=2, padding=1)
        self.blocks = nn.Sequential(*(ResidualDown(a, b) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the last block after activation."""
        return F.leaky_relu(self.blocks(self.stem(x)), 0.2)


class SequenceEncoder(nn.Module):
    """Shared trunk, masked global pooling, one linear head per domain and per lesion domain.

    Parameters
    ----------
    n_domains : int
        N. Heads 0…N-1 encode the brain, head y + N the lesion region of domain y.
    widths : sequence of int
    code_dim : int
    pool : int
        Pixels per side that count as one.
    """

    def __init__(self, n_domains: int, widths: Sequence[int], code_dim: int, pool: int = 1) -> None:
        super().__init__()
        self.pool = pool
        self.n_domains = n_domains
        self.trunk = Trunk(1, widths)
        self.heads = nn.Linear(widths[-1], 2 * n_domains * code_dim)
        self.code_dim = code_dim

    def features(self, x: Tensor, region: Tensor | None = None) -> Tensor:
        """Pooled trunk features, shared by all heads.

        Parameters
        ----------
        x : Tensor (batch, 1, height, width)
        region : Tensor (batch, 1, height, width), optional
            Where to look: pixels outside become background, and pooling is weighted by it, so that the code speaks
            of the texture inside and not of the region's outline or size. Default: the brain.

        Returns
        -------
        Tensor (batch, widths[-1])
        """
        if region is None:
            region = brain_mask(x)
        else:
            x = torch.where(region > 0, x, BACKGROUND)
        if self.pool > 1:
            share = F.avg_pool2d(region.to(x.dtype), self.pool, ceil_mode=True)
            mean = F.avg_pool2d((x - BACKGROUND) * region, self.pool, ceil_mode=True) / share.clamp_min(1e-6)
            region = (share >= 0.5).to(x.dtype)
            x = mean * region + BACKGROUND
        h = self.trunk(x - BACKGROUND)  # background is 0, like padding: more or less of it changes next to nothing
        weight = F.adaptive_avg_pool2d(region.to(h.dtype), h.shape[-2:])
        return (h * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-6)

    def forward(self, x: Tensor, y: Tensor, region: Tensor | None = None) -> Tensor:
        """Code of each image under its head.

        Parameters
        ----------
        x : Tensor (batch, 1, height, width)
            Slices in [-1, 1].
        y : Tensor (batch,), int64
            Head: domain index, or domain index + N for a lesion.
        region : see `features`

        Returns
        -------
        Tensor (batch, code_dim)
            Of zero mean and unit variance, see `unit`.
        """
        return self.read(self.features(x, region), y)

    def read(self, features: Tensor, y: Tensor) -> Tensor:
        """Codes by the heads `y`, from the `features` of each image."""
        codes = self.heads(features).view(len(features), 2 * self.n_domains, self.code_dim)
        return unit(codes[torch.arange(len(features), device=features.device), y])


def unit(code: Tensor) -> Tensor:
    """Bring codes (…, code_dim) to zero mean and unit variance each.

    The generator only looks at a code's direction. Were its length free, the encoder could lower the style loss by
    shrinking codes and raise it without bound: a run ended with a lesion loss of 372. See docs/decisions/0003.
    """
    return F.layer_norm(code, code.shape[-1:])
