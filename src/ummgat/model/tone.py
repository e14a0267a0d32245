"""Curves of intensity: what becomes of a pixel by its brightness alone."""

import torch
from torch import Tensor, nn


def along_curve(x: Tensor, knots: Tensor) -> Tensor:
    """Piecewise linear curves at each pixel.

    Parameters
    ----------
    x : Tensor (batch, …)
        In [-1, 1].
    knots : Tensor (batch, n_knots)
        Values at evenly spaced intensities, the first at -1, the last at 1.

    Returns
    -------
    Tensor like `x`
    """
    last = knots.shape[1] - 1
    at = (x.flatten(1) + 1) * (last / 2)
    low = at.detach().floor().long().clamp(0, last - 1)
    return torch.lerp(knots.gather(1, low), knots.gather(1, low + 1), (at - low).to(knots.dtype)).view(x.shape)


class ToneCurve(nn.Module):
    """A curve per image, drawn by the code.

    To invert a contrast, AdaIN must drive factors through zero in several layers at once; moving knots is a convex
    problem. See docs/decisions/0003.
    """

    def __init__(self, code_dim: int, n_knots: int = 16) -> None:
        super().__init__()
        self.knots = nn.Linear(code_dim, n_knots)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(batch, …) in [-1, 1] and (batch, code_dim) → like x."""
        return along_curve(x, self.knots(code))
