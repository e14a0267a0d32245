"""The U that every generator shares: embed, encode, merge, bottleneck, expand, join skips, draw pixels.

A backbone is a block; `SwinUnet`, ConvNeXt and attention-gated U-Nets differ in it, and in what passes their skips.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ummgat.model.masked import MaskedAdaIN, PixelHead, Place, Up, channels_first, channels_last, coarser, frame

MakeBlock = Callable[[int, int, int, int | None], nn.Module]
"""(scale, index in its stage, width, code_dim or None) → block called as block(h, place, code)."""

MakeGate = Callable[[int], nn.Module]
"""width → gate called as gate(skip, h)."""


class UShape(nn.Module):
    """Generator G(x, s).

    Parameters
    ----------
    make_block : MakeBlock
    make_gate : MakeGate or None
        What a skip passes through; None passes it as it is.
    width : int
        Channels of the finest tokens; doubled at each merge.
    depths : sequence of int
        Blocks per scale, finest first; the last is the bottleneck. The decoder mirrors the encoder.
    patch, pixel_width, code_dim : int
        See `config.ModelConfig`.
    """

    def __init__(
        self,
        make_block: MakeBlock,
        make_gate: MakeGate | None,
        width: int,
        depths: Sequence[int],
        patch: int,
        pixel_width: int,
        code_dim: int,
    ) -> None:
        super().__init__()
        self.unit = patch * 2 ** (len(depths) - 1)
        self.patch = patch
        coarsest = len(depths) - 1
        widths = [width * 2**i for i in range(len(depths))]

        def stage(scale: int, code: int | None) -> nn.ModuleList:
            return nn.ModuleList(make_block(scale, i, widths[scale], code) for i in range(depths[scale]))

        self.embed = nn.Conv2d(1, width, patch, stride=patch)
        self.encoder = nn.ModuleList(stage(i, None) for i in range(coarsest))
        self.merge_norms = nn.ModuleList(MaskedAdaIN(w, None) for w in widths[:-1])
        self.merges = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.bottleneck_norm = MaskedAdaIN(widths[-1], code_dim)
        self.bottleneck = stage(coarsest, code_dim)
        self.expands = nn.ModuleList(Up(2 * w, w) for w in widths[:-1])
        self.gates = nn.ModuleList(make_gate(w) for w in widths[:-1]) if make_gate else None
        self.joins = nn.ModuleList(nn.Linear(2 * w, w) for w in widths[:-1])
        self.join_norms = nn.ModuleList(MaskedAdaIN(w, code_dim) for w in widths[:-1])
        self.decoder = nn.ModuleList(stage(i, code_dim) for i in range(coarsest))
        self.to_pixels = Up(width, 2 * pixel_width, patch)
        self.head = PixelHead(2 * pixel_width, pixel_width, code_dim)

    def forward(self, x: Tensor, code: Tensor, mask: Tensor | None = None, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """Translate.

        Parameters
        ----------
        x : Tensor (batch, 1, height, width)
            Source slices in [-1, 1], background exactly -1. Any size.
        code : Tensor (batch, code_dim)
        mask : Tensor (batch, 1, height, width), optional
            Brain. Default: where `x` is not background.
        origin : (int, int)
            Where `x` was cut out of a larger image, row and column, multiples of `self.unit`. Given it, a cut that
            keeps all brain gives what the whole image would have given.

        Returns
        -------
        Tensor (batch, 1, height, width), float32
            In [-1, 1], background exactly -1.
        """
        height, width = x.shape[-2:]
        x, place_pixels = frame(x, mask, origin, self.unit)
        places = [coarser(place_pixels, self.patch)]
        for _ in self.merges:
            places.append(coarser(places[-1], 2))
        h = channels_last(self.embed(x * channels_first(place_pixels.mask))) * places[0].mask
        skips = []
        for i, merge in enumerate(self.merges):
            h = _through(self.encoder[i], h, places[i], None)
            # Normalised before it is stored: a skip carries where things are, not how bright the source was.
            skips.append(self.merge_norms[i](h, places[i].mask, None))
            h = channels_last(merge(channels_first(skips[-1]))) * places[i + 1].mask
        h = self.bottleneck_norm(h, places[-1].mask, code)
        h = _through(self.bottleneck, h, places[-1], code)
        for i in reversed(range(len(skips))):
            mask = places[i].mask
            h = self.expands[i](h, places[i + 1].mask, mask)
            skip = skips[i] if self.gates is None else self.gates[i](skips[i], h)
            h = self.joins[i](torch.cat([h, skip], dim=-1)) * mask
            h = self.join_norms[i](h, mask, code)
            h = _through(self.decoder[i], h, places[i], code)
        features = self.to_pixels(h, places[0].mask, place_pixels.mask)
        return self.head(features, x, place_pixels.mask, code)[..., :height, :width]


def _through(stage: nn.Module, h: Tensor, place: Place, code: Tensor | None) -> Tensor:
    """Apply the blocks of one stage in order."""
    assert isinstance(stage, nn.ModuleList)
    for block in stage:
        h = block(h, place, code)
    return h
