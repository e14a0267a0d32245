"""Give a smooth image the edges of another: the guided filter within the brain. Source: He et al. 2010."""

import torch
from torch import Tensor

from ummgat.model.masked import BACKGROUND
from ummgat.model.statistics import neighbourhood_mean

EPS = (4.5 / 127.5) ** 2
"""Variance of the guide below which it counts as flat: noise, not edges."""


@torch.no_grad()
def guided(x: Tensor, image: Tensor, mask: Tensor, window: int) -> Tensor:
    """The line in `x` that comes nearest to `image` around each pixel, lines of a neighbourhood averaged.

    Parameters
    ----------
    x : Tensor (batch, 1, height, width)
        The guide, [-1, 1].
    image : Tensor like x
        In [0, 2] above background, 0 where it is not known.
    mask : Tensor like x
        Brain.
    window : int
        Side of the neighbourhood, odd.

    Returns
    -------
    Tensor like x
        In [0, 2]; 0 where `image` is. Without gradient.
    """

    def local(t: Tensor) -> Tensor:
        return neighbourhood_mean(t, window)

    guide = (x - BACKGROUND).float() * mask
    known = mask * (image > 0)
    n = local(known).clamp_min(1e-3)
    mean_g, mean_i = local(guide * known) / n, local(image * known) / n
    variance = (local(guide * guide * known) / n - mean_g.square()).clamp_min(0.0)
    slope = (local(guide * image * known) / n - mean_g * mean_i) / (variance + EPS)
    offset = mean_i - slope * mean_g
    return (local(slope * known) / n * guide + local(offset * known) / n).clamp(1e-3, 2.0) * known
