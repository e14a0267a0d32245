"""Where is lesion, seen from the source alone: the gate through which lesion codes enter the generator."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ummgat.model.masked import Convolution, Place, Up, channels_last

N_LABELS = 3
"""NCR, ED, ET, as `ummgat.core.study.LABELS` numbers them from 1."""


class Drawing(NamedTuple):
    """What is to be drawn where, in [0, 2] above background like everything G is shown beside its source."""

    gate: Tensor
    """(batch, 1, height, width): share of lesion, 0 to 1."""
    paint: Tensor
    """(batch, 1, height, width): sum over labels of share · asked-for brightness."""


class LesionGate(nn.Module):
    """From the encoder's scales back up to pixels, to logits of background, NCR, ED and ET.

    Parameters
    ----------
    widths : sequence of int
        Channels of the encoder's scales, finest first; the last enters through its own linear map.
    patch : int
    n_in : int
        Channels of what the generator is shown of the source.
    width : int
    """

    def __init__(self, widths: Sequence[int], patch: int, n_in: int, width: int = 32) -> None:
        super().__init__()
        self.from_coarsest = nn.Linear(widths[-1], width)
        self.from_skips = nn.ModuleList(nn.Linear(w, width) for w in widths[:-1])
        self.ups = nn.ModuleList(Up(width, width) for _ in widths[:-1])
        self.mixes = nn.ModuleList(Convolution(width, width) for _ in widths[:-1])
        self.to_pixels = Up(width, width // 2, patch)
        self.stem = Convolution(n_in, width // 4)
        self.mix = Convolution(width // 2 + width // 4, width // 2)
        self.out = nn.Linear(width // 2, 1 + N_LABELS)

    def forward(self, shown: Tensor, scales: Sequence[Tensor], places: Sequence[Place], pixels: Place) -> Tensor:
        """Logits.

        Parameters
        ----------
        shown : Tensor (batch, n_in, height, width)
            0 in the background.
        scales : sequence of Tensor (batch, h, w, channels)
            Of the encoder, finest first, with the `places` they have.
        pixels : Place

        Returns
        -------
        Tensor (batch, 1 + N_LABELS, height, width), float32
        """
        h = self.from_coarsest(scales[-1]) * places[-1].mask
        for i in reversed(range(len(self.ups))):
            up, mix, skip = self.ups[i], self.mixes[i], self.from_skips[i]
            h = up(h, places[i + 1].mask, places[i].mask) + skip(scales[i]) * places[i].mask
            h = F.gelu(mix(F.gelu(h), places[i].mask))
        h = self.to_pixels(h, places[0].mask, pixels.mask)
        near = F.gelu(self.stem(channels_last(shown), pixels.mask))
        h = F.gelu(self.mix(F.gelu(torch.cat([h, near], dim=-1)), pixels.mask))
        return self.out(h).permute(0, 3, 1, 2).float()


def drawing(posterior: Tensor, code: Tensor, threshold: Tensor) -> Drawing:
    """What a lesion code asks for, where the posterior allows.

    Enhancing tumour is rare, so that a threshold of one half on its probability would draw it almost nowhere, while the
    Dice of a calibrated probability is best at about half its best value, .1 to .25 (Lipton et al. 2014): its share
    rises to 1 at `threshold`, and the other labels make room.

    Parameters
    ----------
    posterior : Tensor (batch, 1 + N_LABELS, height, width)
        Probabilities of background, NCR, ED, ET.
    code : Tensor (batch, N_LABELS)
        Asked-for mean brightness of each label, [-1, 1].
    threshold : Tensor (batch,)
        Probability of ET at which it is drawn in full; 1 for targets in which labels differ little.
    """
    et = posterior[:, 3:]
    share = (et / threshold.view(-1, 1, 1, 1)).clamp_max(1.0)
    gate = (1 - posterior[:, :1]).clamp(0.0, 1.0)
    gate = torch.maximum(gate, share)
    rest = (gate - share) / (posterior[:, 1:3].sum(1, keepdim=True)).clamp_min(1e-4)
    shares = torch.cat([posterior[:, 1:3] * rest, share], dim=1)
    paint = (shares * (code + 1).view(*code.shape, 1, 1)).sum(1, keepdim=True)
    return Drawing(gate, paint)
