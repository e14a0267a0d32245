"""Attention-gated U-Net generator. Source: Oktay et al. 2018; Masse-Gignac et al. 2023, which the paper also tried."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ummgat.core.config import ModelConfig
from ummgat.model.masked import Convolution, MaskedAdaIN, Place
from ummgat.model.unet import UShape


class ConvBlock(nn.Module):
    """Two 3×3 convolutions with normalisation by the code, residual."""

    def __init__(self, width: int, code_dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Convolution(width, width) for _ in range(2))
        self.norms = nn.ModuleList(MaskedAdaIN(width, code_dim) for _ in range(2))

    def forward(self, h: Tensor, place: Place, code: Tensor) -> Tensor:
        """(batch, height, width, channels) → same."""
        mask = place.mask
        out = h
        for conv, norm in zip(self.convs, self.norms, strict=True):
            out = conv(F.gelu(norm(out, mask, code)), mask)
        return h + out


class AttentionGate(nn.Module):
    """Weigh a skip by what the decoder already knows. Source: Oktay et al. 2018 (Attention U-Net)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_skip = nn.Linear(width, width)
        self.from_decoder = nn.Linear(width, width)
        self.weight = nn.Linear(width, 1)

    def forward(self, skip: Tensor, h: Tensor) -> Tensor:
        """(batch, height, width, channels) twice → the gated skip."""
        return skip * torch.sigmoid(self.weight(F.relu(self.from_skip(skip) + self.from_decoder(h))))


def attention_unet(config: ModelConfig) -> UShape:
    """Build the U of convolution blocks with gated skips."""
    return UShape(
        lambda scale, index, width, code_dim: ConvBlock(width, code_dim),
        AttentionGate,
        config,
    )
