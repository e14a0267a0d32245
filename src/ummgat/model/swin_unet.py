"""Swin-Unet generator with AdaIN (SPEC section 3): windowed attention with shifts, merging, expanding, skips.

Differences from the published Swin-Unet, each for a reason given in docs/decisions/0003:
any image size; only brain tokens are attended to; position comes from a depthwise convolution instead of a bias
table; shifted windows pad instead of wrapping around; bilinear expanding; every stage of the decoder is renormalised
by the code, skips included.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ummgat.core.config import ModelConfig
from ummgat.model.masked import Convolution, MaskedAdaIN, Place, gathered, scattered
from ummgat.model.unet import UShape


class WindowAttention(nn.Module):
    """Multi-head attention inside square windows, over brain tokens only.

    Source: Liu et al. 2021 (Swin). `shift` moves the window grid by padding at the top left, so no window mixes
    opposite borders, and a larger canvas gives the same answer.
    """

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"Bad attention size. Found width {width} with {heads} heads; expected a multiple. Change either."
            )
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.heads, self.window, self.shift = heads, window, shift

    def forward(self, h: Tensor, place: Place) -> Tensor:
        """(batch, height, width, channels) → like h, 0 outside the brain."""
        batch, height, width, channels = h.shape
        frame = self._frame(place)
        out = self._attend(_windows(h, self.window, *frame), _windows(place.mask, self.window, *frame).squeeze(-1))
        left, right, top, bottom = frame
        rows, columns = (n // self.window for n in (height + top + bottom, width + left + right))
        out = out.view(batch, rows, columns, self.window, self.window, channels).transpose(2, 3)
        out = out.reshape(batch, rows * self.window, columns * self.window, channels)
        return self.project(out[:, top : top + height, left : left + width]) * place.mask

    def on_cells(self, x: Tensor, place: Place) -> Tensor:
        """The same on brain cells alone: (n, channels) → (n, channels).

        Windows with half their tokens or fewer make do with half the length.
        """
        assert place.cells is not None
        # Each token's number in x plus 1; 0 is no brain, and padding is 0 as well.
        numbers = torch.zeros_like(place.mask, dtype=torch.int64)
        numbers.view(-1)[place.cells.where] = torch.arange(1, len(x) + 1, device=x.device)
        numbers = _windows(numbers, self.window, *self._frame(place)).squeeze(-1)
        numbers = numbers.sort(dim=1, descending=True).values  # brain first
        size, full = (numbers > 0).sum(1), numbers.shape[1]
        out = torch.zeros_like(x)
        for least, most in ((1, full // 2), (full // 2 + 1, full)):
            own = numbers[(size >= least) & (size <= most), :most]
            if not len(own):
                continue
            present = own > 0
            tokens = x.index_select(0, (own - 1).clamp_min(0).flatten()).view(*own.shape, -1)
            out = out.index_copy(0, own[present] - 1, self._attend(tokens, present)[present])
        return self.project(out)

    def _frame(self, place: Place) -> tuple[int, int, int, int]:
        """Padding left, right, top, bottom that brings the window grid to where it lies on the canvas."""
        top, left = ((self.shift + start) % self.window for start in place.origin)
        height, width = place.mask.shape[1:3]
        return left, -(width + left) % self.window, top, -(height + top) % self.window

    def _attend(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens (n, length, channels) of n windows, and 1 where there is one, else 0 (n, length) → like tokens."""
        n, length, channels = tokens.shape
        q, k, v = self.qkv(tokens).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        # Finite, so that a window without brain stays finite; its output is masked away.
        absent = (present.to(q.dtype) - 1.0).view(n, 1, 1, length) * 1e4
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=absent.expand(-1, self.heads, length, -1))
        return out.transpose(1, 2).reshape(n, length, channels)


def _windows(t: Tensor, side: int, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Pad a map (batch, height, width, channels) and cut it into squares: (windows, side², channels)."""
    t = F.pad(t, (0, 0, left, right, top, bottom))
    batch, height, width, channels = t.shape
    t = t.view(batch, height // side, side, width // side, side, channels).transpose(2, 3)
    return t.reshape(-1, side * side, channels)


class SwinBlock(nn.Module):
    """Depthwise position → attention → MLP, each added to the stream after normalisation by the code."""

    def __init__(self, width: int, heads: int, window: int, shift: int, code_dim: int) -> None:
        super().__init__()
        self.position = Convolution(width, width, groups=width)
        self.norm_attention = MaskedAdaIN(width, code_dim)
        self.attention = WindowAttention(width, heads, window, shift)
        self.norm_mlp = MaskedAdaIN(width, code_dim)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, h: Tensor, place: Place, code: Tensor) -> Tensor:
        """(batch, height, width, channels) → same."""
        mask, cells = place.mask, place.cells
        h = h + self.position(h, mask)
        if cells is None:
            h = h + self.attention(self.norm_attention(h, mask, code), place)
            return h + self._mlp(self.norm_mlp(h, mask, code)) * mask
        x = gathered(h, cells)
        x = x + self.attention.on_cells(self.norm_attention.on_cells(x, cells, code), place)
        return scattered(x + self._mlp(self.norm_mlp.on_cells(x, cells, code)), cells, h)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x)))


def swin_unet(config: ModelConfig) -> UShape:
    """Build the paper's generator: a U of Swin blocks, every second one with a shifted window grid."""

    def block(scale: int, index: int, width: int, code_dim: int) -> nn.Module:
        shift = (index % 2) * (config.window // 2)
        return SwinBlock(width, config.heads * 2**scale, config.window, shift, code_dim)

    return UShape(block, None, config)
