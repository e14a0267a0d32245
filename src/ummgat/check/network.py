"""The classifier that names a sequence by its image: a small convolutional network over planes, averaged over a
volume.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ummgat.model.masked import BACKGROUND, brain_mask

CLASSES = ("t1", "t1ce", "t2", "flair")
"""Sequences it can tell. Others are not checked, and that is said."""

WIDTHS = (16, 32, 64, 96)


class SequenceNet(nn.Module):
    """Two convolutions per width, mean and spread of the features over the brain, one linear layer.

    Normalised by batch, unlike the networks of the generator, whose trunks it does not share: trained the same way they
    learnt four times as slowly, and what they had learnt for translation told sequences apart badly, see
    docs/experiments.md.

    Parameters
    ----------
    widths : sequence of int
        Channels, each at half the resolution of the one before.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 1
        for n in widths:
            for n_from, stride in ((n_in, 2), (n, 1)):
                layers += [nn.Conv2d(n_from, n, 3, stride, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU()]
            n_in = n
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(2 * n_in, len(CLASSES))

    def features(self, x: Tensor) -> Tensor:
        """Planes (n, 1, height, width) in [-1, 1], background -1 → (n, 2 · widths[-1])."""
        h = self.trunk(x - BACKGROUND)
        weight = F.adaptive_avg_pool2d(brain_mask(x), h.shape[-2:])
        weight = weight / weight.sum((2, 3), keepdim=True).clamp_min(1e-6)
        mean = (h * weight).sum((2, 3))
        variance = ((h - mean[..., None, None]).square() * weight).sum((2, 3))
        return torch.cat([mean, (variance + 1e-6).sqrt()], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Planes (n, 1, height, width) → logits (n, len(CLASSES))."""
        return torch.as_tensor(self.head(self.features(x)))


def look_at(net: SequenceNet, planes: Tensor) -> tuple[Tensor, Tensor]:
    """Judge one volume by its planes (n, 1, height, width).

    Returns
    -------
    Tensor (len(CLASSES),)
        Log-probabilities. Those of the planes are averaged, not summed: neighbouring planes are no independent
        witnesses.
    Tensor (2 · widths[-1],)
        Features, averaged over the planes.
    """
    with torch.inference_mode():
        features = net.features(planes)
        return torch.as_tensor(net.head(features)).log_softmax(1).mean(0).log_softmax(0), features.mean(0)
