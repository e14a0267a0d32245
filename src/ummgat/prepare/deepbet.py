"""The two networks of deepbet (Fisch et al. 2024, MIT licence), which find the brain in a T1: their shape, and how they
are asked.

The weights are deepbet's own, of which this package carries a copy. Its package is not needed: that brings a graphical
toolkit, pandas and LGPL code for what ten lines of scipy do. A test compares the two where both are installed.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from ummgat.core.machine import BUNDLED_STRIP, given_or_bundled
from ummgat.core.tensors import load_finite, without_prefix
from ummgat.core.volume import Array

FORMAT = "ummgat-deepbet-1"

_COARSE, _FINE = (128, 128, 128), (256, 256, 256)
"""Voxels to which the whole image, and then the box around its brain, is stretched: nearest neighbours, as in
training."""
_MARGIN = 0.1
"""Of the box's size, on each side."""
_EMPTY = 0.02
"""Share of a plane that is brain, up to which the box leaves it out."""
_ALL_NEIGHBOURS = np.ones((3, 3, 3))


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        stride = 1 if n_in == n_out else 2
        self.double_conv = nn.Sequential(
            nn.Conv3d(n_in, n_out, 3, stride, 1, bias=False),
            nn.InstanceNorm3d(n_out),
            nn.ReLU(),
            nn.Conv3d(n_out, n_out, 3, 1, 1, bias=False),
            nn.InstanceNorm3d(n_out),
        )
        if stride == 1:
            self.downsample: nn.Module = nn.Identity()
        else:
            self.downsample = nn.Sequential(nn.Conv3d(n_in, n_out, 1, stride, bias=False), nn.InstanceNorm3d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.double_conv(x) + self.downsample(x))


def _down(n_in: int, n_out: int) -> nn.Sequential:
    blocks = nn.Sequential()
    blocks.add_module("block1", _Block(n_in, n_out))
    blocks.add_module("block2", _Block(n_out, n_out))
    return blocks


def _normed(conv: nn.Module, n: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.InstanceNorm3d(n), nn.ReLU())


def _up(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    n = n_in // 4
    steps = nn.Sequential()
    steps.add_module("conv1", _normed(nn.Conv3d(n_in, n, 1, bias=False), n))
    steps.add_module("tp_conv", _normed(nn.ConvTranspose3d(n, n, 3, stride, 1, stride - 1, bias=False), n))
    steps.add_module("conv2", _normed(nn.Conv3d(n, n_out, 1, bias=False), n_out))
    return steps


class LinkNet(nn.Module):
    """Residual encoder, decoder of bottlenecks, skips that are added (Chaurasia & Culurciello 2017) in 3-D.

    Takes (n, 1, x, y, z) with sides that divide by 32, mean 0.449 and standard deviation 0.226; gives probabilities (n,
    2, x, y, z) of background and brain. Names of parameters are deepbet's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.init = nn.Sequential(
            *_normed(nn.Conv3d(1, 16, 7, 2, 3, bias=False), 16), nn.MaxPool3d(kernel_size=3, stride=2, padding=1)
        )
        self.down0, self.down1, self.down2, self.down3 = _down(16, 16), _down(16, 32), _down(32, 64), _down(64, 128)
        self.up0, self.up1, self.up2, self.up3 = _up(128, 64, 2), _up(64, 32, 2), _up(32, 16, 2), _up(16, 16, 1)
        self.tp_conv1 = _normed(nn.ConvTranspose3d(16, 8, 3, 2, 1, 1), 8)
        self.conv = _normed(nn.Conv3d(8, 8, 3, 1, 1), 8)
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities of background and brain."""
        first = self.init(x)
        second = self.down0(first)
        third = self.down1(second)
        fourth = self.down2(third)
        up = self.up0(self.down3(fourth)) + fourth
        up = self.up1(up) + third
        up = self.up2(up) + second
        up = self.up3(up) + first
        return torch.softmax(self.tp_conv2(self.conv(self.tp_conv1(up))), 1)


def _networks() -> tuple[LinkNet, LinkNet]:
    """The one that finds the box, and the one that looks inside; on the CPU, whose masks do not depend on the machine's
    GPU.
    """
    tensors, _ = load_finite(given_or_bundled(None, BUNDLED_STRIP), FORMAT)
    found = LinkNet(), LinkNet()
    for network, name in zip(found, ("box", "brain"), strict=True):
        network.load_state_dict({key: value.float() for key, value in without_prefix(name, tensors).items()})
        network.eval()
    return found


def brain_of(data: Array) -> NDArray[np.bool_]:
    """Find the brain in a T1 or T1ce.

    Parameters
    ----------
    data : ndarray, (x, y, z)
        In RAS+ order; any scale.

    Returns
    -------
    bool ndarray of the same shape
        One piece without holes.

    Raises
    ------
    ValueError
        Nothing in it looks like a brain.
    """
    box_network, brain_network = _networks()
    image = torch.nan_to_num(torch.from_numpy(np.ascontiguousarray(data, np.float32)))
    small = _stretched(image, _COARSE)
    low, high = small.quantile(0.005), small.quantile(0.995)
    with torch.no_grad():
        rough = box_network(_scaled(small, low, high)[None, None])[0, 1].numpy() > 0.5
        box = _box(_largest(rough), data.shape)
        inside = brain_network(_scaled(_stretched(image[box], _FINE), low, high)[None, None])[0, 1]
    mask = np.zeros(data.shape, bool)
    mask[box] = _stretched(inside, image[box].shape).numpy() > 0.5
    mask[box] = ndimage.binary_fill_holes(_largest(mask[box]))
    return mask


def _stretched(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(image[None, None], tuple(shape), mode="nearest-exact")[0, 0]


def _scaled(image: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clipped between `low` and `high`, then with the mean and the spread that the networks were trained on."""
    image = ((image - low) / (high - low)).clamp(0, 1)
    return 0.226 * (image - image.mean()) / image.std() + 0.449


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest piece; touching corners join. ValueError if there is none."""
    pieces, n = ndimage.label(mask, _ALL_NEIGHBOURS)
    if not n:
        raise ValueError("nothing that looks like a brain")
    return np.asarray(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)


def _box(rough: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Slices of an image of `shape` around the brain of its stretched copy, with a margin."""
    box = []
    for axis, n in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        planes = np.flatnonzero(rough.mean(others) > _EMPTY)
        if not len(planes):
            raise ValueError("too little that looks like a brain")
        scale = n / rough.shape[axis]
        first, last = planes[0], planes[-1] + 1
        # In float32 and rounded half to even, as deepbet does.
        center = float(np.round(np.float32(scale) * np.float32((first + last) / 2)))
        size = float(np.round(np.float32(1 + 2 * _MARGIN) * (np.float32(scale) * np.float32(last - first))))
        box.append(slice(max(0, int(center - size / 2)), min(n, int(center + size / 2))))
    return tuple(box)
