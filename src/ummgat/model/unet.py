"""The U that every generator shares: embed, encode, merge, bottleneck, expand, join skips, draw pixels.

A backbone is a block; `SwinUnet`, ConvNeXt and attention-gated U-Nets differ in it, and in what passes their skips.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ummgat.core.config import ModelConfig
from ummgat.model.encoder import unit
from ummgat.model.guide import guided
from ummgat.model.lesion_gate import LesionGate, drawing
from ummgat.model.masked import (
    BACKGROUND,
    MaskedAdaIN,
    PixelHead,
    Place,
    Up,
    channels_first,
    channels_last,
    coarser,
    frame,
    pad_to_multiple,
)

MakeBlock = Callable[[int, int, int, int], nn.Module]
"""(scale, index in its stage, width, code_dim) → block called as block(h, place, code)."""

MakeGate = Callable[[int], nn.Module]
"""width → gate called as gate(skip, h)."""


class Aside(NamedTuple):
    """What a generator may be shown beside its source. All images are (batch, …, height, width) in [0, 2] above
    background, 0 in the background and where nothing is known; None: nothing is.
    """

    near: Tensor | None = None
    """(batch, 2, …): the planes below and above."""
    own: Tensor | None = None
    """(batch, 1, …): what the population shows here in the source's domain."""
    expected: Tensor | None = None
    """(batch, 1, …): what the population shows here in the target's domain."""
    lesion_code: Tensor | None = None
    """(batch, N_LABELS): asked-for brightness of each label in the target, [-1, 1]."""
    threshold: Tensor | None = None
    """(batch,): see `ummgat.model.lesion_gate.drawing`."""
    posterior: Tensor | None = None
    """(batch, 1 + N_LABELS, …): of lesion labels, from who knows better than this source alone."""


class Answer(NamedTuple):
    """What a generator says."""

    image: Tensor
    """(batch, 1, height, width), float32, in [-1, 1], background exactly -1."""
    logits: Tensor | None
    """(batch, 1 + N_LABELS, height, width) of background and lesion labels, from the source alone; None without a
    gate."""
    expected: Tensor | None
    """(batch, 1, height, width), in [-1, 1]: the population's image with the edges of the source, no lesion; -1 where
    not known. None without an atlas."""


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

        # What shows the source goes in at the beginning, what speaks of the target at the end: so the encoder, and
        # where it finds lesion, depend on the source alone.
        self.guide_window = config.guide_window
        self.neighbours, self.atlas, self.gated = config.neighbours, config.atlas, config.gate
        n_source = 2 * config.neighbours + config.atlas
        n_target = config.atlas + 2 * (config.gate != "off")
        self.embed = nn.Conv2d(1 + n_source, width, patch, stride=patch)
        self.embed_target = nn.Conv2d(n_target, width, patch, stride=patch) if n_target else None
        self.gate = LesionGate(widths, patch, 1 + n_source) if config.gate != "off" else None
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
        self.head = PixelHead(2 * pixel_width, pixel_width, code_dim, n_source + n_target, config.atlas)

    def forward(
        self,
        x: Tensor,
        code: Tensor,
        source: Tensor,
        mask: Tensor | None = None,
        origin: tuple[int, int] = (0, 0),
        brain_only: bool = False,
        aside: Aside | None = None,
    ) -> Tensor:
        """Translate: the image of `answer`, which has the parameters."""
        return self.answer(x, code, source, mask, origin, brain_only, aside).image

    def answer(
        self,
        x: Tensor,
        code: Tensor,
        source: Tensor,
        mask: Tensor | None = None,
        origin: tuple[int, int] = (0, 0),
        brain_only: bool = False,
        aside: Aside | None = None,
    ) -> Answer:
        """Translate, and say where lesion is.

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

        aside : Aside, optional
            Sources of what the config lets it be shown; what is missing counts as not known.

        Returns
        -------
        Answer
        """
        height, width = x.shape[-2:]
        aside = Aside() if aside is None else aside
        x, place_pixels = frame(x, mask, origin, self.unit, brain_only)
        source, code = unit(source), unit(code)
        # The product lets one linear map say "invert if T1 to T2, but not if T2 to T2".
        code = unit(self.join_codes(torch.cat([code, source, code * source], dim=1)))
        h, skips, places, beside, logits = self._encode(x, source, aside, place_pixels)
        target, healthy, expected = self._of_target(x, aside, logits, place_pixels)
        h = self.bottleneck_norm(h, places[-1].mask, code)
        h = _through(self.bottleneck, h, places[-1], code)
        for i in reversed(range(len(skips))):
            mask = places[i].mask
            h = self.expands[i](h, places[i + 1].mask, mask)
            skip = skips[i] if self.gates is None else self.gates[i](skips[i], h)
            h = self.joins[i](torch.cat([h, skip], dim=-1)) * mask
            if i == 0 and target is not None and self.embed_target is not None:
                h = h + channels_last(self.embed_target(target)) * mask
            h = self.join_norms[i](h, mask, code)
            h = _through(self.decoder[i], h, places[i], code)
        features = self.to_pixels(h, places[0].mask, place_pixels.mask)
        both = [t for t in (beside, target) if t is not None]
        image = self.head(features, x, place_pixels.mask, code, torch.cat(both, dim=1) if both else None, expected)
        cut = (..., slice(None, height), slice(None, width))
        return Answer(
            image[cut], None if logits is None else logits[cut], None if healthy is None else healthy[cut] + BACKGROUND
        )

    def see(self, x: Tensor, source: Tensor, origin: tuple[int, int], aside: Aside) -> Tensor:
        """Logits of background and lesion labels, see `Answer.logits`, without drawing anything; parameters as in
        `answer`.
        """
        height, width = x.shape[-2:]
        x, pixels = frame(x, None, origin, self.unit, False)
        logits = self._encode(x, unit(source), aside, pixels).logits
        if logits is None:
            raise ValueError(
                "Generator sees no lesions. Found model.gate off; expected a model with a gate. Choose another."
            )
        return logits[..., :height, :width]

    def _encode(self, x: Tensor, source: Tensor, aside: Aside, pixels: Place) -> "_Seen":
        """All that depends on the source alone."""
        places = [coarser(pixels, self.patch)]
        for _ in self.merges:
            places.append(coarser(places[-1], 2))
        beside = self._of_source(x, aside, pixels)
        shown = x * channels_first(pixels.mask)
        shown = shown if beside is None else torch.cat([shown, beside], dim=1)
        h = channels_last(self.embed(shown)) * places[0].mask
        skips: list[Tensor] = []
        for i, merge in enumerate(self.merges):
            h = _through(self.encoder[i], h, places[i], source)
            # Normalised before it is stored, by what the source is: a skip carries where things are, not how bright.
            skips.append(self.merge_norms[i](h, places[i].mask, source))
            h = channels_last(merge(channels_first(skips[-1]))) * places[i + 1].mask
        logits = None if self.gate is None else self.gate(shown, [*skips, h], places, pixels)
        return _Seen(h, skips, places, beside, logits)

    def _of_source(self, x: Tensor, aside: Aside, pixels: Place) -> Tensor | None:
        """What is shown of the source beside it: (batch, channels, H, W), 0 in the background."""
        shown = []
        if self.neighbours:
            shown.append(self._padded(x, aside.near, 2))
        if self.atlas:
            shown.append(self._padded(x, aside.own, 1))
        return torch.cat(shown, dim=1) * channels_first(pixels.mask) if shown else None

    def _of_target(
        self, x: Tensor, aside: Aside, logits: Tensor | None, pixels: Place
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What is shown of the target: all channels together, what is expected in health, and what with the lesion.

        Channels are the expected image, share of lesion and its paint; (batch, channels, H, W), 0 in the background.
        """
        mask = channels_first(pixels.mask)
        shown, healthy, expected = [], None, None
        if self.atlas:
            population = self._padded(x, aside.expected, 1) * mask
            healthy = expected = guided(x.detach(), population, mask, self.guide_window)
            shown.append(healthy)
        if logits is not None:
            found = logits.detach().softmax(1) if aside.posterior is None else self._padded(x, aside.posterior, 4)
            if self.gated == "code" and aside.lesion_code is not None:
                threshold = x.new_ones(len(x)) if aside.threshold is None else aside.threshold
                gate, paint = drawing(found, aside.lesion_code, threshold)
                if healthy is not None:
                    expected = torch.where(healthy > 0, (1 - gate) * healthy + paint, 0.0) * mask
            else:
                gate, paint = 1 - found[:, :1], torch.zeros_like(found[:, :1])
            shown += [gate * mask, paint * mask]
        return (torch.cat(shown, dim=1) if shown else None), healthy, expected

    def _padded(self, x: Tensor, t: Tensor | None, n: int) -> Tensor:
        """Padded like `x`; zeros where it is not known."""
        if t is None:
            return x.new_zeros((len(x), n, *x.shape[-2:]))
        return pad_to_multiple(t.to(x.dtype), self.unit, 0.0)


class _Seen(NamedTuple):
    """What the encoder makes of a source."""

    h: Tensor
    skips: list[Tensor]
    places: list[Place]
    beside: Tensor | None
    logits: Tensor | None


def _through(stage: nn.Module, h: Tensor, place: Place, code: Tensor) -> Tensor:
    """Apply the blocks of one stage in order."""
    assert isinstance(stage, nn.ModuleList)
    for block in stage:
        h = block(h, place, code)
    return h
