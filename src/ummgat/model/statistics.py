"""How intensities and detail are spread over the brain: what tells sequences apart before any texture is learnt."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINS = 16

ZONES = (0.0, 0.6, 1.2, 1.8)
"""Distance from the middle of the brain, in units of its spread: ventricles, deep white matter, cortex, rim."""

N_STATISTICS = 2 * BINS * len(ZONES)


def brain_coordinates(mask: Tensor) -> Tensor:
    """Where each pixel lies relative to the brain: (batch, 2, height, width), row then column, about -2…2.

    Zero mean and unit spread over the brain `mask` (batch, 1, height, width), 0 outside; moves and scales with it.
    Given these, a network can learn that the middle of a T2 brain is bright, which an inverted contrast gets wrong.
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


def neighbourhood_mean(t: Tensor, side: int) -> Tensor:
    """Mean over the square of an odd `side` around each pixel of (…, height, width); beyond the border lies 0."""
    if t.device.type != "cpu":
        return F.avg_pool2d(t, side, stride=1, padding=side // 2)
    # On a CPU that pooling visits side² pixels for each, one by one; a row and then a column are side + side, all at
    # once.
    return _NeighbourhoodMean.apply(t, side)


class _NeighbourhoodMean(torch.autograd.Function):
    """Its own gradient, also the second one: as many pixels see this one as it sees, with the same weight."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, side: int) -> Tensor:
        ctx.side = side
        return _sum_along(_sum_along(t, -2, side // 2), -1, side // 2).div_(side**2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return neighbourhood_mean(gradient, ctx.side), None


def _sum_along(t: Tensor, axis: int, reach: int) -> Tensor:
    """Sum of each element and `reach` neighbours on either side."""
    n = t.shape[axis]
    out = t.clone(memory_format=torch.contiguous_format)
    for step in range(1, min(reach, n - 1) + 1):
        out.narrow(axis, step, n - step).add_(t.narrow(axis, 0, n - step))
        out.narrow(axis, 0, n - step).add_(t.narrow(axis, step, n - step))
    return out


def local_detail(x: Tensor, mask: Tensor) -> Tensor:
    """Difference of each brain pixel from the mean of the brain in its 7×7 neighbourhood; 0 outside."""
    return (x - neighbourhood_mean(x * mask, 7) / neighbourhood_mean(mask, 7).clamp_min(1e-3)) * mask


def brain_statistics(x: Tensor, mask: Tensor, places: Tensor | None = None, detail: Tensor | None = None) -> Tensor:
    """Soft histograms of intensity and of absolute detail in each zone of the brain.

    Parameters
    ----------
    x : Tensor (batch, 1, height, width)
        Image in [-1, 1]. Gradients flow back to it.
    mask : Tensor (batch, 1, height, width)
    places, detail : Tensor, optional
        `brain_coordinates(mask)` and `local_detail(x, mask)`, from who has them already.

    Returns
    -------
    Tensor (batch, N_STATISTICS)
        Shares of the brain times 24, which brings them to the order of 1. Background has no part in them.
    """
    places = brain_coordinates(mask) if places is None else places
    detail = local_detail(x, mask) if detail is None else detail
    distance = places.square().sum(1, keepdim=True).sqrt()
    # Evenly spaced, so made on the device: a tensor from a list would be a copy that a captured graph cannot hold.
    steps = torch.linspace(ZONES[0], ZONES[-1], len(ZONES), device=x.device, dtype=x.dtype).view(1, -1, 1, 1)
    zone = F.relu(1 - (distance - steps).abs() / (ZONES[1] - ZONES[0])) * mask
    zone = zone / mask.sum((2, 3), keepdim=True).clamp_min(1.0)
    centers = torch.linspace(-1, 1, BINS, device=x.device, dtype=x.dtype).view(1, -1, 1, 1)
    histograms = []
    for values in (x, 2 * detail.abs() - 1):
        weight = F.relu(1 - (values - centers).abs() * ((BINS - 1) / 2))
        histograms.append(torch.einsum("nbhw,nzhw->nbz", weight, zone).flatten(1))
    return 24.0 * torch.cat(histograms, dim=1)


class StatisticsMlp(nn.Module):
    """Two layers on `brain_statistics`: (batch, 1, height, width) with its mask → (batch, n_out).

    In the discriminator it is a logit per domain: convolutions alone needed hundreds of steps to notice that the
    ventricles of a "T2" were dark. See docs/decisions/0004.
    """

    def __init__(self, n_out: int, width: int = 256) -> None:
        super().__init__()
        self.hidden = nn.Linear(N_STATISTICS, width)
        self.out = nn.Linear(width, n_out)

    def forward(self, x: Tensor, mask: Tensor, places: Tensor | None = None, detail: Tensor | None = None) -> Tensor:
        """Read the statistics of `x` over `mask`; the rest as in `brain_statistics`."""
        return self.out(F.leaky_relu(self.hidden(brain_statistics(x, mask, places, detail)), 0.2))
