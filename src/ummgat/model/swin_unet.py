"""Swin-Unet generator with AdaIN (SPEC section 3): windowed attention with shifts, merging, expanding, skips.

Differences from the published Swin-Unet, each for a reason given in docs/decisions/0003:
any image size; only brain tokens are attended to; position comes from a depthwise convolution instead of a bias
table; shifted windows pad instead of wrapping around; bilinear expanding; every stage of the decoder is renormalised
by the code, skips included.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ummgat.config import ModelConfig
from ummgat.model.masked import Convolution, MaskedAdaIN, Place, add_mlp
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
        """(batch, height, width, channels) → like h."""
        batch, height, width, channels = h.shape
        side, heads = self.window, self.heads
        top, left = ((self.shift + start) % side for start in place.origin)
        bottom, right = -(height + top) % side, -(width + left) % side
        rows, columns = (height + top + bottom) // side, (width + left + right) // side

        def windows(t: Tensor) -> Tensor:
            t = F.pad(t, (0, 0, left, right, top, bottom))
            t = t.view(batch, rows, side, columns, side, -1).transpose(2, 3)
            return t.reshape(batch * rows * columns, side * side, -1)

        tokens, present = windows(h), windows(place.mask)
        occupied = None if place.cells is None else present.any(1).squeeze(1)
        if occupied is not None:
            tokens, present = tokens[occupied], present[occupied]
        q, k, v = self.qkv(tokens).view(-1, side * side, 3, heads, channels // heads).permute(2, 0, 3, 1, 4).unbind(0)
        # Finite, so that a window without brain stays finite; its output is masked away.
        absent = (present - 1.0).view(-1, 1, 1, side * side).to(q.dtype) * 1e4
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=absent.expand(-1, heads, side * side, -1))
        out = self.project(out.transpose(1, 2).reshape(-1, side * side, channels))
        if occupied is not None:
            everywhere = out.new_zeros((batch * rows * columns, side * side, channels))
            out = everywhere.index_put((occupied,), out)
        out = out.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        out = out.reshape(batch, rows * side, columns * side, channels)
        return out[:, top : top + height, left : left + width] * place.mask


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
        mask = place.mask
        h = h + self.position(h, mask)
        h = h + self.attention(self.norm_attention(h, mask, code), place)
        return add_mlp(h, self.norm_mlp(h, mask, code), self.expand, self.contract, place)


def swin_unet(config: ModelConfig) -> UShape:
    """Build the paper's generator: a U of Swin blocks, every second one with a shifted window grid."""

    def block(scale: int, index: int, width: int, code_dim: int) -> nn.Module:
        shift = (index % 2) * (config.window // 2)
        return SwinBlock(width, config.heads * 2**scale, config.window, shift, code_dim)

    return UShape(block, None, config)
