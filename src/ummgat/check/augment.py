"""Planes as other scanners, other stripping and other heads would have given them; the sequence stays what it is."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ummgat.model.masked import BACKGROUND, brain_mask


def augmented(planes: Tensor, random: Generator) -> Tensor:
    """Each plane with its own random head, strip, scanner and noise.

    Parameters
    ----------
    planes : float32 Tensor (n, 1, height, width)
        In [-1, 1], background -1.
    random : Generator

    Returns
    -------
    float32 Tensor of the same shape and range
    """
    n = len(planes)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=random) * (high - low) + low

    x, mask = _placed(planes, uniform(-0.35, 0.35), uniform(0.8, 1.25, 2), uniform(-0.08, 0.08, 2), uniform(0, 1))
    inside = _stripped(mask, uniform(0, 1))
    value = ((x + 0.99) / 1.99).clamp(0, 1)
    # A scanner's shading, then its contrast, then how the percentiles happened to fall.
    shading = F.interpolate(uniform(-0.35, 0.35, 1, 3, 3), size=x.shape[-2:], mode="bicubic", align_corners=True)
    value = value * shading.exp() ** uniform(0, 1, 1, 1, 1)
    value = value.clamp_min(1e-4) ** uniform(-0.3, 0.3, 1, 1, 1).exp()
    value = value * uniform(0.8, 1.25, 1, 1, 1) + uniform(-0.06, 0.06, 1, 1, 1)
    value = _blurred(value, inside, uniform(0, 1))
    noise = torch.randn(value.shape, generator=random) * uniform(0, 0.03, 1, 1, 1)
    value = (value + noise).clamp(0, 1)
    return torch.where(inside > 0, value * 1.99 - 0.99, BACKGROUND)


def _placed(planes: Tensor, angle: Tensor, scale: Tensor, shift: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
    """Turn, stretch, shift and mirror each plane; its values where brain is, and the mask."""
    sign = torch.where(mirror < 0.5, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack(
        [
            torch.stack([sign * cos * scale[:, 0], -sin * scale[:, 1], shift[:, 0]], 1),
            torch.stack([sign * sin * scale[:, 0], cos * scale[:, 1], shift[:, 1]], 1),
        ],
        1,
    )
    where = F.affine_grid(matrix, list(planes.shape), align_corners=False)
    both = torch.cat([planes - BACKGROUND, brain_mask(planes)], 1)
    moved = F.grid_sample(both, where, align_corners=False)
    weight = moved[:, 1:]
    # Divided by the mask, so that no dark rim of background appears.
    return torch.where(weight > 0.5, moved[:, :1] / weight.clamp_min(0.5) + BACKGROUND, BACKGROUND), (weight > 0.5).to(
        planes.dtype
    )


def _stripped(mask: Tensor, dice: Tensor) -> Tensor:
    """Half of the brains lose a rim of one or two pixels, as a tighter strip would leave them."""
    outside = 1 - mask
    one, two = F.max_pool2d(outside, 3, 1, 1), F.max_pool2d(outside, 5, 1, 2)
    dice = dice[:, None, None, None]
    return mask * (1 - torch.where(dice < 0.25, two, torch.where(dice < 0.5, one, outside)))


def _blurred(value: Tensor, mask: Tensor, dice: Tensor) -> Tensor:
    """A third are blurred, within the brain, as thick slices are when they were interpolated."""
    side = torch.arange(-2, 3, dtype=value.dtype)
    kernel = torch.exp(-(side**2) / (2 * 0.8**2))
    kernel = kernel / kernel.sum()
    window = (kernel[:, None] * kernel)[None, None]
    weight = F.conv2d(mask, window, padding=2).clamp_min(1e-3)
    smooth = F.conv2d(value * mask, window, padding=2) / weight
    return torch.where(dice[:, None, None, None] < 0.33, smooth, value)
