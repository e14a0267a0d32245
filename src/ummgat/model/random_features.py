"""Kernel distance between two sets of images without paired truth, on features that need no download.

The features come from a fixed random convolution pyramid, so they compare checkpoints of any run with each other.
They are named for what they are: this is not FID, and not KID on Inception features.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

FEATURES = "random-convolutions-1"


class RandomFeatures(nn.Module):
    """Four strided convolutions with fixed random weights; mean and spread of each channel over the brain at each
    scale.

    Source: random features rank generators sensibly (Naeem et al. 2020); ours are untrained on purpose.
    """

    def __init__(self, width: int = 32, scales: int = 4, seed: int = 1234) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.convs = nn.ModuleList()
        for i in range(scales):
            conv = nn.Conv2d(1 if i == 0 else width, width, 3, stride=1 if i == 0 else 2, padding=1)
            nn.init.kaiming_normal_(conv.weight, generator=generator)
            nn.init.uniform_(conv.bias, -0.5, 0.5, generator=generator)  # type: ignore[arg-type]
            self.convs.append(conv)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Slices (n, 1, height, width) in [-1, 1] → features (n, 2 · scales · width)."""
        mask = (x > -1).to(x.dtype)
        h, out = x, []
        for conv in self.convs:
            h = F.leaky_relu(conv(h), 0.2)
            weight = F.adaptive_avg_pool2d(mask, (h.shape[-2], h.shape[-1]))
            total = weight.sum((2, 3)).clamp_min(1e-6)
            mean = (h * weight).sum((2, 3)) / total
            spread = ((h - mean[..., None, None]).square() * weight).sum((2, 3)) / total
            out += [mean, spread.sqrt()]
        return torch.cat(out, dim=1)


def kernel_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Unbiased squared maximum mean discrepancy with the cubic kernel of KID.

    Parameters
    ----------
    a, b : ndarray (n, d), (m, d)
        Features; standardise them first. n and m at least 2.

    Returns
    -------
    float
        0 in expectation for samples of one distribution; may be slightly negative.

    Source: Bińkowski et al. 2018.
    """

    def kernel(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise ValueError(
            f"Too few images for a kernel distance. Found {n} and {m}; expected at least 2 each. Add images."
        )
    aa, bb = kernel(a, a), kernel(b, b)
    within_a = (aa.sum() - np.trace(aa)) / (n * (n - 1))
    within_b = (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within_a + within_b - 2 * kernel(a, b).mean())
