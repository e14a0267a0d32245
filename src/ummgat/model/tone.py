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
    low, share = _cells((x.flatten(1) + 1) * ((knots.shape[1] - 1) / 2), knots.shape[1])
    return torch.lerp(knots.gather(1, low), knots.gather(1, low + 1), share.to(knots.dtype)).view(x.shape)


def along_surface(x: Tensor, rims: Tensor, knots: Tensor) -> Tensor:
    """Bilinear in each pixel's intensity and a second property of it.

    Parameters
    ----------
    x : Tensor (batch, …)
        In [-1, 1].
    rims : Tensor like `x`
        In [0, 1].
    knots : Tensor (batch, n_rims, n_knots)
        Values at evenly spaced properties, 0 to 1, and intensities, -1 to 1.

    Returns
    -------
    Tensor like `x`
    """
    n_rims, n_knots = knots.shape[1:]
    low, share = _cells((x.flatten(1) + 1) * ((n_knots - 1) / 2), n_knots)
    row, share_of_row = _cells(rims.flatten(1) * (n_rims - 1), n_rims)
    values, first = knots.flatten(1), row * n_knots + low

    def between(index: Tensor) -> Tensor:
        return torch.lerp(values.gather(1, index), values.gather(1, index + 1), share)

    return torch.lerp(between(first), between(first + n_knots), share_of_row).view(x.shape)


def _cells(at: Tensor, n_knots: int) -> tuple[Tensor, Tensor]:
    """Of places in 0 … n_knots - 1: the knot below, and how far on the way to the next."""
    low = at.detach().floor().long().clamp(0, n_knots - 2)
    return low, at - low


class ToneCurve(nn.Module):
    """A curve per image, drawn by the code.

    To invert a contrast, AdaIN must drive factors through zero in several layers at once; moving knots is a convex
    problem. See docs/decisions/0003.
    """

    def __init__(self, code_dim: int, n_knots: int = 16) -> None:
        super().__init__()
        self.knots = nn.Linear(code_dim, n_knots)

    def start_at_identity(self) -> None:
        """Let tanh of the curve be what goes in, for every code."""
        with torch.no_grad():
            self.knots.weight.mul_(0.1)
            levels = torch.linspace(-0.98, 0.98, self.knots.out_features)
            self.knots.bias.copy_(torch.atanh(levels))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(batch, …) in [-1, 1] and (batch, code_dim) → like x."""
        return along_curve(x, self.knots(code).float())  # 8 bits of a 16-bit float would show as bands
