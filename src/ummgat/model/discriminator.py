"""Discriminator D_y(x): is this a real image of domain y? One logit, chosen by index after pooling over space."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ummgat.model.encoder import Trunk
from ummgat.model.masked import brain_mask


def brain_coordinates(mask: Tensor) -> Tensor:
    """Where each pixel lies relative to the brain: (batch, 2, height, width), row then column, about -2…2.

    Zero mean and unit spread over the brain, 0 outside; moves and scales with it. Given these, the discriminator can
    learn that the middle of a T2 brain is bright, which is what an inverted contrast gets wrong.
    """
    n = mask.sum((2, 3), keepdim=True).clamp_min(1.0)
    places = []
    for axis in (2, 3):
        shape = [1, 1, 1, 1]
        shape[axis] = mask.shape[axis]
        index = torch.arange(mask.shape[axis], device=mask.device, dtype=mask.dtype).view(shape)
        centered = (index - (index * mask).sum((2, 3), keepdim=True) / n) * mask
        spread = (centered.square().sum((2, 3), keepdim=True) / n).sqrt().clamp_min(1.0)
        places.append(centered / spread)
    return torch.cat(places, dim=1)


def brain_centred(x: Tensor, mask: Tensor) -> Tensor:
    """Image with background 0, and its detail (difference from the 7×7 neighbourhood): (batch, 2, height, width).

    With background at -1 the brain's outline, which real and translated images share, drowns what tells them apart.
    """
    neighbours = F.avg_pool2d(x * mask, 7, stride=1, padding=3) / F.avg_pool2d(mask, 7, stride=1, padding=3).clamp_min(
        1e-3
    )
    return torch.cat([2.0 * (x + 0.3) * mask, 4.0 * (x - neighbours) * mask], dim=1)


class Discriminator(nn.Module):
    """Shared trunk and a 1×1 head per domain; pooled over the brain.

    Parameters
    ----------
    n_domains : int
    widths : sequence of int
    position : bool
        Also show it `brain_coordinates`; not in the paper, see docs/decisions/0004.
    """

    def __init__(self, n_domains: int, widths: Sequence[int], position: bool) -> None:
        super().__init__()
        self.position = position
        self.trunk = Trunk(4 if position else 2, widths)
        self.head = nn.Conv2d(widths[-1], n_domains, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Slices (batch, 1, height, width) in [-1, 1] and domains (batch,) → logits (batch,)."""
        mask = brain_mask(x.detach())
        h = brain_centred(x, mask)
        if self.position:
            h = torch.cat([h, brain_coordinates(mask)], dim=1)
        logits = self.head(self.trunk(h))
        weight = F.adaptive_avg_pool2d(mask, logits.shape[-2:])
        # (batch, n_domains): pooled before the index, so that any image size keeps the domains apart
        logits = (logits * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-6)
        return logits[torch.arange(len(x), device=x.device), y]
