"""ConvNeXt-style U-Net generator. Source: Liu et al. 2022; Han et al. 2022 (ConvUNeXt), by FID as good as Swin in the paper."""

from torch import Tensor, nn

from ummgat.config import ModelConfig
from ummgat.model.masked import Convolution, MaskedAdaIN, Place, add_mlp
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
        mask = place.mask
        return add_mlp(h, self.norm(self.depthwise(h, mask), mask, code), self.expand, self.contract, place)


def convnext_unet(config: ModelConfig) -> UShape:
    """Build the U of ConvNeXt blocks."""
    return UShape(
        lambda scale, index, width, code_dim: ConvNextBlock(width, code_dim),
        None,
        config,
    )
