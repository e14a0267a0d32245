"""The U that every generator shares: embed, encode, merge, bottleneck, expand, join skips, draw pixels.

A backbone is a block; `SwinUnet`, ConvNeXt and attention-gated U-Nets differ in it, and in what passes their skips.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ummgat.config import ModelConfig
from ummgat.model.codes import unit
from ummgat.model.masked import MaskedAdaIN, PixelHead, Place, Up, channels_first, channels_last, coarser, frame

MakeBlock = Callable[[int, int, int, int], nn.Module]
"""(scale, index in its stage, width, code_dim) → block called as block(h, place, code)."""

MakeGate = Callable[[int], nn.Module]
"""width → gate called as gate(skip, h)."""


class UShape(nn.Module):
    """Generator G(x, s, s_src).

    Parameters
    ----------
    make_block : MakeBlock
    make_gate : MakeGate or None
        What a skip passes through; None passes it as it is.
    config : ModelConfig
        `width` is doubled at each merge; the last of `depths` is the bottleneck, and the decoder mirrors the encoder.
    """

    def __init__(
        self,
        make_block: MakeBlock,
        make_gate: MakeGate | None,
        config: ModelConfig,
    ) -> None:
        super().__init__()
        width, depths, patch = config.width, config.depths, config.patch
        pixel_width, code_dim = config.pixel_width, config.code_dim
        self.unit = config.unit
        self.patch = patch
        coarsest = len(depths) - 1
        widths = [width * 2**i for i in range(len(depths))]

        # The sign of a contrast depends on source and target together, which a code of the target alone cannot carry,
        # and which sequence a slice shows cannot be read from it surely enough: see docs/decisions/0003.
        self.join_codes = nn.Sequential(
            nn.Linear(3 * code_dim, 2 * code_dim), nn.GELU(), nn.Linear(2 * code_dim, code_dim)
        )

        def stage(scale: int, code: int) -> nn.ModuleList:
            return nn.ModuleList(make_block(scale, i, widths[scale], code) for i in range(depths[scale]))

        self.embed = nn.Conv2d(1, width, patch, stride=patch)
        self.encoder = nn.ModuleList(stage(i, code_dim) for i in range(coarsest))
        self.merge_norms = nn.ModuleList(MaskedAdaIN(w, code_dim) for w in widths[:-1])
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

    def forward(
        self,
        x: Tensor,
        code: Tensor,
        source: Tensor,
        mask: Tensor | None = None,
        origin: tuple[int, int] = (0, 0),
        brain_only: bool = False,
    ) -> Tensor:
        """Translate.

        Parameters
        ----------
        x : Tensor (batch, 1, height, width)
            Source slices in [-1, 1], background exactly -1. Any size.
        code : Tensor (batch, code_dim)
            Of the target.
        source : Tensor (batch, code_dim)
            Code of what `x` is: from the encoder, or the stored one of its domain.
        mask : Tensor (batch, 1, height, width), optional
            Brain. Default: where `x` is not background.
        origin : (int, int)
            Where `x` was cut out of a larger image, row and column, multiples of `self.unit`. Given it, a cut that
            keeps all brain gives what the whole image would have given.
        brain_only : bool
            Leave background out of the attention and the MLPs. The same image in less time on a CPU; an accelerator
            would have to wait for the number of brain cells, block by block.

        Returns
        -------
        Tensor (batch, 1, height, width), float32
            In [-1, 1], background exactly -1.
        """
        height, width = x.shape[-2:]
        x, place_pixels = frame(x, mask, origin, self.unit, brain_only)
        source, code = unit(source), unit(code)
        # The product lets one linear map say "invert if T1 to T2, but not if T2 to T2".
        code = unit(self.join_codes(torch.cat([code, source, code * source], dim=1)))
        places = [coarser(place_pixels, self.patch)]
        for _ in self.merges:
            places.append(coarser(places[-1], 2))
        h = channels_last(self.embed(x * channels_first(place_pixels.mask))) * places[0].mask
        skips = []
        for i, merge in enumerate(self.merges):
            h = _through(self.encoder[i], h, places[i], source)
            # Normalised before it is stored, by what the source is: a skip carries where things are, not how bright.
            skips.append(self.merge_norms[i](h, places[i].mask, source))
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


def _through(stage: nn.Module, h: Tensor, place: Place, code: Tensor) -> Tensor:
    """Apply the blocks of one stage in order."""
    assert isinstance(stage, nn.ModuleList)
    for block in stage:
        h = block(h, place, code)
    return h
