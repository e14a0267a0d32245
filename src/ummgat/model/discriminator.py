"""Discriminator D_y(x): is this a real image of domain y? One logit, chosen by index after pooling over space."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ummgat.model.encoder import Trunk
from ummgat.model.masked import brain_mask
from ummgat.model.statistics import StatisticsMlp, brain_coordinates, local_detail


def brain_centred(x: Tensor, mask: Tensor, detail: Tensor) -> Tensor:
    """Image with background 0, and its `local_detail` at like strength: (batch, 2, height, width).

    With background at -1 the brain's outline, which real and translated images share, drowns what tells them apart.
    """
    return torch.cat([2.0 * (x + 0.3) * mask, 4.0 * detail], dim=1)


class Discriminator(nn.Module):
    """Shared trunk and a 1×1 head per domain; pooled over the brain.

    Parameters
    ----------
    n_domains : int
    widths : sequence of int
    position : bool
        Also show it `brain_coordinates`; not in the paper, see docs/decisions/0004.
    statistics : bool
        Add logits of a `StatisticsMlp`; not in the paper, see docs/decisions/0004.
    """

    def __init__(self, n_domains: int, widths: Sequence[int], position: bool, statistics: bool) -> None:
        super().__init__()
        self.position = position
        self.statistics = StatisticsMlp(n_domains) if statistics else None
        self.trunk = Trunk(4 if position else 2, widths)
        self.head = nn.Conv2d(widths[-1], n_domains, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Slices (batch, 1, height, width) in [-1, 1] and domains (batch,) → logits (batch,)."""
        mask = brain_mask(x.detach())
        detail = local_detail(x, mask)
        places = brain_coordinates(mask) if self.position or self.statistics is not None else None
        h = brain_centred(x, mask, detail)
        if self.position and places is not None:
            h = torch.cat([h, places], dim=1)
        logits = self.head(self.trunk(h))
        weight = F.adaptive_avg_pool2d(mask, logits.shape[-2:])
        # (batch, n_domains): pooled before the index, so that any image size keeps the domains apart
        logits = (logits * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-6)
        if self.statistics is not None:
            logits = logits + self.statistics(x, mask, places, detail)
        return logits[torch.arange(len(x), device=x.device), y]
