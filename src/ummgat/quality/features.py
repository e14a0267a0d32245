"""Features of slices, in which sets of images are compared. Each set of features carries its own name.

Only distances in `inception-fid` may be called FID and KID.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ummgat.model.masked import to_unit
from ummgat.model.random_features import FEATURES as RANDOM
from ummgat.model.random_features import RandomFeatures
from ummgat.quality.inception import FEATURES as N_INCEPTION
from ummgat.quality.inception import load_fid_inception
from ummgat.segment.unet import FACTOR, UnetSegmenter

BOTTLENECK = "segmenter-bottleneck"
INCEPTION = "inception-fid"

MIDDLE, SPREAD = 128.0, 50.0
"""What every slice is shifted and scaled by for the segmenter, whatever its domain: about the mean and the standard
deviation of prepared brains. Scaling each slice by its own would hide images that are too bright or too flat."""

Slices = NDArray[np.uint8]
Features = NDArray[np.float64]


@dataclass(frozen=True)
class Extractor:
    """Turns slices into features; call it with (n, row, column) uint8, brain 1–255, background 0 → (n, `n`) float64."""

    name: str
    n: int
    description: str
    standardise: bool
    """Distances are taken after scaling every feature by its mean and spread over real slices; never for Inception."""
    of_batch: Callable[[Slices], Tensor]
    batch: int = 16

    @property
    def frechet(self) -> str:
        """What a Fréchet distance in these features is called."""
        return "FID" if self.name == INCEPTION else "Fréchet distance"

    @property
    def kernel(self) -> str:
        """What a kernel distance in these features is called."""
        return "KID" if self.name == INCEPTION else "kernel distance"

    @torch.inference_mode()
    def __call__(self, slices: Slices) -> Features:
        """Features of every slice, a few at a time."""
        if slices.ndim != 3 or slices.dtype != np.uint8:
            raise ValueError(
                f"Not slices: {self.name}. Found {slices.dtype} {slices.shape}; expected uint8 (n, row, column). "
                "Give prepared slices."
            )
        parts = [
            self.of_batch(slices[i : i + self.batch]).double().cpu().numpy() for i in range(0, len(slices), self.batch)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.n))


def segmenter_bottleneck(segmenter: UnetSegmenter) -> Extractor:
    """Mean over the brain of each channel in the deepest stage of our own segmenter's encoder.

    Every channel of the input, of every sequence and neighbouring plane, is given the same slice, (value - 128) / 50
    with background 0: nothing depends on the domain. The network was trained on four different sequences at once, so
    such input is foreign to it; its features tell images apart, and say nothing on how well it would segment them. Its
    instance norms hide part of a slice's overall brightness.

    Raises
    ------
    ValueError
        For a segmenter that works in 3-D.
    """
    if segmenter.config.dimensions != 2:
        raise ValueError(
            f"Features need a segmenter of planes: {BOTTLENECK}. Found {segmenter.config.dimensions} dimensions; "
            f"expected 2. Give another segmenter, or choose other features."
        )
    text = "mean over the brain in the deepest stage of the bundled segmenter's encoder (not Inception, not FID)"
    return Extractor(BOTTLENECK, segmenter.config.widths[4], text, True, partial(_bottleneck, segmenter))


def _bottleneck(segmenter: UnetSegmenter, slices: Slices) -> Tensor:
    net = segmenter.net
    channels = len(segmenter.sequences) * segmenter.config.planes
    images = torch.from_numpy(slices.astype(np.float32))[:, None].to(next(net.parameters()).device)
    rows, columns = (max(2 * FACTOR, n + -n % FACTOR) for n in images.shape[2:])
    images = F.pad(images, (0, columns - images.shape[3], 0, rows - images.shape[2]))
    brain = (images > 0).float()
    first: Callable[[Tensor], Tensor] = net.conv_0  # type: ignore[assignment]
    h = first(((images - MIDDLE) / SPREAD * brain).expand(-1, channels, -1, -1))
    for i in range(1, 5):
        h = getattr(net, f"down_{i}")(h)
    weight = F.adaptive_avg_pool2d(brain, h.shape[2:])  # type: ignore[arg-type]
    return (h * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-6)


def random_convolutions() -> Extractor:
    """The features by which checkpoints are chosen, see `ummgat.model.random_features`: chosen by them, a model is
    flattered by them.
    """
    net = RandomFeatures()
    n = 2 * sum(conv.out_channels for conv in net.convs if isinstance(conv, torch.nn.Conv2d))
    text = "untrained convolutions with fixed weights (not Inception, not FID)"
    return Extractor(RANDOM, n, text, True, partial(_of_unit, net))


def _of_unit(net: torch.nn.Module, slices: Slices) -> Tensor:
    out: Tensor = net(torch.from_numpy(to_unit(slices))[:, None])
    return out


def inception_fid(weights: Path) -> Extractor:
    """Inception-v3 with the user's FID weights: slices in [-1, 1], three equal channels, 299×299 bilinear.

    Numerically unverified: see `ummgat.quality.inception`. Trained on photographs; 2048 features of few slices give
    covariances of low rank, and a FID that depends strongly on their number.
    """
    net = load_fid_inception(weights)
    text = "Inception-v3 with the FID weights of 2015-12-05 (numerically unverified in this software)"
    return Extractor(INCEPTION, N_INCEPTION, text, False, partial(_of_photographs, net))


def _of_photographs(net: torch.nn.Module, slices: Slices) -> Tensor:
    x = torch.from_numpy(to_unit(slices))[:, None]
    out: Tensor = net(F.interpolate(x, (299, 299), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1))
    return out
