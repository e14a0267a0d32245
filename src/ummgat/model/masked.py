"""What all generators share: brain-masked normalisation by a code, padding to a multiple, and the output frame.

Statistics are taken over the brain only. Over the whole image they would move with the area of brain in a slice,
and brightness would drift from plane to plane.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ummgat.model.tone import ToneCurve

BACKGROUND = -1.0
"""Value of background pixels; exactly this, everywhere."""


def brain_mask(x: Tensor) -> Tensor:
    """Pixels of `x` that are not background: float (batch, 1, height, width) of 0 and 1."""
    return (x > BACKGROUND).to(x.dtype)


def masked_moments(h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the masked pixels.

    Parameters
    ----------
    h : Tensor (batch, height, width, channels)
        Must be 0 where `mask` is 0.
    mask : Tensor (batch, height, width, 1)
        1 on brain, 0 elsewhere.

    Returns
    -------
    mean, variance : Tensor (batch, 1, 1, channels), float32
        Mean 0, variance 0 where a mask is empty.
    """
    h = h.float()
    n = mask.float().sum((1, 2), keepdim=True).clamp_min(1.0)
    mean = h.sum((1, 2), keepdim=True) / n
    variance = (h.square().sum((1, 2), keepdim=True) / n - mean.square()).clamp_min(0.0)
    return mean, variance


class Cells(NamedTuple):
    """The brain of a map as a list, sample after sample."""

    where: Tensor
    """(n,): each cell's place in the flattened map (batch · height · width)."""
    sizes: list[int]
    """Cells of each sample. Known only by looking, for which an accelerator would have to wait."""


def brain_cells(mask: Tensor) -> Cells:
    """List the brain of a mask (batch, height, width, 1)."""
    return Cells(mask.flatten().nonzero().squeeze(1), mask.count_nonzero((1, 2, 3)).tolist())


class MaskedAdaIN(nn.Module):
    """(1 + γ(s)) · IN(h) + β(s) with statistics over the brain.

    Source: Huang & Belongie 2017; the paper inserts the code "by AdaIN" and leaves the statistics open.
    """

    def __init__(self, channels: int, code_dim: int) -> None:
        super().__init__()
        self.affine = nn.Linear(code_dim, 2 * channels)

    def forward(self, h: Tensor, mask: Tensor, code: Tensor) -> Tensor:
        """Normalise.

        Parameters
        ----------
        h : Tensor (batch, height, width, channels)
            0 where `mask` is 0.
        mask : Tensor (batch, height, width, 1)
        code : Tensor (batch, code_dim)

        Returns
        -------
        Tensor like h
            0 where `mask` is 0.
        """
        scale, shift = self._line(*masked_moments(h, mask), self.affine(code)[:, None, None, :])
        return (h * scale.to(h.dtype) + shift.to(h.dtype)) * mask

    def on_cells(self, x: Tensor, cells: Cells, code: Tensor) -> Tensor:
        """The same on brain cells alone: (n, channels) → (n, channels)."""
        parts = []
        for part, affine in zip(x.split(cells.sizes), self.affine(code), strict=True):
            n, values = max(len(part), 1), part.float()
            mean = values.sum(0) / n
            variance = (torch.linalg.vector_norm(values, dim=0).square() / n - mean.square()).clamp_min(0.0)
            scale, shift = self._line(mean, variance, affine)
            parts.append(torch.addcmul(shift.to(x.dtype), part, scale.to(x.dtype)))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    @staticmethod
    def _line(mean: Tensor, variance: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and summand that normalise and apply γ and β (…, 2 · channels), in float32."""
        gamma, beta = affine.float().chunk(2, dim=-1)
        scale = (1 + gamma) * torch.rsqrt(variance + 1e-5)
        return scale, beta - mean * scale


def channels_first(h: Tensor) -> Tensor:
    """(batch, height, width, channels) → (batch, channels, height, width), a view."""
    return h.permute(0, 3, 1, 2)


def channels_last(h: Tensor) -> Tensor:
    """(batch, channels, height, width) → (batch, height, width, channels), a view."""
    return h.permute(0, 2, 3, 1)


def pad_to_multiple(x: Tensor, unit: int, value: float) -> Tensor:
    """Pad (batch, 1, height, width) at the bottom and the right until both sides divide by `unit`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % unit, 0, -height % unit), value=value)


class Place(NamedTuple):
    """Where a map lies: its brain, and the token at which it was cut out of a larger canvas."""

    mask: Tensor
    """(batch, height, width, 1): 1 on brain, 0 elsewhere."""
    origin: tuple[int, int]
    """Row and column of the first token on the canvas; keeps attention windows where they are on the whole image."""
    cells: Cells | None = None
    """Given where blocks are to leave out the background."""


def gathered(h: Tensor, cells: Cells) -> Tensor:
    """Brain cells of a map: (batch, height, width, channels) → (n, channels)."""
    return h.flatten(0, 2).index_select(0, cells.where)


def scattered(x: Tensor, cells: Cells, like: Tensor) -> Tensor:
    """Undo `gathered`, 0 elsewhere: (n, channels) → shape of `like`."""
    return torch.zeros_like(like).flatten(0, 2).index_copy(0, cells.where, x).view_as(like)


def coarser(place: Place, factor: int) -> Place:
    """The place `factor` times coarser: cells that hold any brain."""
    row, column = place.origin
    mask = coarser_mask(place.mask, factor)
    return Place(mask, (row // factor, column // factor), None if place.cells is None else brain_cells(mask))


def coarser_mask(mask: Tensor, factor: int) -> Tensor:
    """Mask of cells that hold any brain: (batch, h, w, 1) → (batch, h / factor, w / factor, 1)."""
    return channels_last(F.max_pool2d(channels_first(mask), factor)) if factor > 1 else mask


class Convolution(nn.Module):
    """3×3 (or k×k) convolution on channels-last maps whose output is 0 outside the mask.

    Masking before zero padding matters: background is then the same as padding, so a larger canvas changes nothing.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int = 3, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, groups=groups)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """(batch, height, width, n_in) → (batch, height, width, n_out)."""
        return channels_last(self.conv(channels_first(h))) * mask


class Up(nn.Module):
    """Double the resolution: bilinear, then a linear map. Source: Odena 2016 on the checkerboard of learnt expansion.

    The published patch expanding (linear, then rearrange) left a checkerboard in every prototype.
    Neighbours outside the brain carry no weight.
    """

    def __init__(self, n_in: int, n_out: int, factor: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.factor = factor

    def forward(self, h: Tensor, mask: Tensor, fine_mask: Tensor) -> Tensor:
        """(batch, h, w, n_in) with its mask → (batch, factor·h, factor·w, n_out), 0 outside `fine_mask`."""
        h = self.linear(h) * mask

        def enlarge(t: Tensor) -> Tensor:
            t = F.interpolate(channels_first(t), scale_factor=self.factor, mode="bilinear", align_corners=False)
            return channels_last(t)

        return enlarge(h) / enlarge(mask).clamp_min(1e-3) * fine_mask


class PixelHead(nn.Module):
    """Full-resolution end of every generator: token features and input pixels, mixed under the code, → image.

    The input reaches this path through normalisation by the code and through a curve that the code draws, so that the
    contrast of the source cannot pass unasked.

    Parameters
    ----------
    n_features, n_pixels, code_dim : int
    n_aside : int
        Channels of what is shown beside the source.
    expects : bool
        An expected image comes too. It passes through a curve of its own, which starts as the identity: where nothing
        else is known, the answer is what the population lets one expect.
    """

    def __init__(self, n_features: int, n_pixels: int, code_dim: int, n_aside: int = 0, expects: bool = False) -> None:
        super().__init__()
        self.stem = Convolution(1 + n_aside, n_pixels)
        self.expected_tone = ToneCurve(code_dim) if expects else None
        self.norm_in = MaskedAdaIN(n_features + n_pixels, code_dim)
        self.mix = nn.Linear(n_features + n_pixels, 2 * n_pixels)
        self.norm_mid = MaskedAdaIN(2 * n_pixels, code_dim)
        self.conv = Convolution(2 * n_pixels, n_pixels)
        self.norm_out = MaskedAdaIN(n_pixels, code_dim)
        self.out = nn.Linear(n_pixels, 1)
        self.tone = ToneCurve(code_dim)

    def forward(
        self,
        features: Tensor,
        x: Tensor,
        mask: Tensor,
        code: Tensor,
        aside: Tensor | None = None,
        expected: Tensor | None = None,
    ) -> Tensor:
        """Draw the image.

        Parameters
        ----------
        features : Tensor (batch, height, width, n_features)
        x : Tensor (batch, 1, height, width)
            Source image, [-1, 1].
        mask : Tensor (batch, height, width, 1)
        code : Tensor (batch, code_dim)
        aside : Tensor (batch, n_aside, height, width), optional
        expected : Tensor (batch, 1, height, width), optional
            In [0, 2] above background, 0 where nothing is expected.

        Returns
        -------
        Tensor (batch, 1, height, width), float32
            In [-1, 1] on the brain, exactly -1 elsewhere.
        """
        shown = x if aside is None else torch.cat([x, aside], dim=1)
        pixels = F.gelu(self.stem(channels_last(shown) * mask, mask))
        h = self.norm_in(torch.cat([features, pixels], dim=-1), mask, code)
        h = F.gelu(self.norm_mid(self.mix(h) * mask, mask, code))
        h = F.gelu(self.norm_out(self.conv(h, mask), mask, code))
        tone = self.tone(channels_last(x), code)
        if self.expected_tone is not None and expected is not None:
            known = channels_last(expected > 0)
            # A source's curve answers for itself only where nothing is expected; elsewhere it corrects.
            tone = torch.where(known, 0.25 * tone + self.expected_tone(channels_last(expected) - 1, code), tone)
        image = torch.tanh((self.out(h) + tone).float())
        return channels_first(torch.where(mask > 0, image, BACKGROUND))


def frame(x: Tensor, mask: Tensor | None, origin: tuple[int, int], unit: int, brain_only: bool) -> tuple[Tensor, Place]:
    """Pad an image of any size and find its brain.

    Returns
    -------
    x : Tensor (batch, 1, H, W)
        Padded with background so that H and W divide by `unit`.
    place : Place
        The given mask (batch, 1, height, width) or the non-background pixels, padded likewise, and `origin`; its cells
        if work is to be done on `brain_only`.
    """
    if any(start % unit for start in origin):
        raise ValueError(f"Bad origin. Found {origin}; expected multiples of {unit}. Cut the image there.")
    if x.ndim != 4 or x.shape[1] != 1:
        raise ValueError(
            f"Bad generator input. Found shape {tuple(x.shape)}; expected (batch, 1, height, width). Fix the call."
        )
    mask = brain_mask(x) if mask is None else mask.to(x.dtype)
    mask = channels_last(pad_to_multiple(mask, unit, 0.0))
    return pad_to_multiple(x, unit, BACKGROUND), Place(mask, origin, brain_cells(mask) if brain_only else None)


def to_unit(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """0–255 → [-1, 1] float32; background 0 becomes exactly -1."""
    return values.astype(np.float32) / np.float32(127.5) - np.float32(1)


def from_unit(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[-1, 1] → 0–255 uint8; background exactly -1 becomes 0, brain at least 1."""
    scaled = np.clip(np.rint((values + 1) * 127.5), 1, 255)
    return np.where(values > -1, scaled, 0).astype(np.uint8)
