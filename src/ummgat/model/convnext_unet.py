"""ConvNeXt-style U-Net generator. Source: Liu et al. 2022; Han et al. 2022 (ConvUNeXt), by FID as good as Swin in the
paper.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ummgat.core.config import ModelConfig
from ummgat.model.masked import Convolution, MaskedAdaIN, Place, gathered, scattered
from ummgat.model.unet import UShape


class ConvNextBlock(nn.Module):
    """Depthwise 7×7, normalisation by the code, inverted bottleneck, residual."""

    def __init__(self, width: int, code_dim: int) -> None:
        super().__init__()
        self.depthwise = Convolution(width, width, kernel=7, groups=width)
        self.norm = MaskedAdaIN(width, code_dim)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, h: Tensor, place: Place, code: Tensor) -> Tensor:
        """(batch, height, width, channels) → same."""
        mask, cells = place.mask, place.cells
        new = self.depthwise(h, mask)
        if cells is None:
            return h + self._mlp(self.norm(new, mask, code)) * mask
        return h + scattered(self._mlp(self.norm.on_cells(gathered(new, cells), cells, code)), cells, h)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x)))


def convnext_unet(config: ModelConfig) -> UShape:
    """Build the U of ConvNeXt blocks."""
    return UShape(
        lambda scale, index, width, code_dim: ConvNextBlock(width, code_dim),
        None,
        config,
    )
