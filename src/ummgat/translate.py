"""Translate whole volumes plane by plane with one code: whole brain, in batches, nothing cropped away."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ummgat.model.masked import BACKGROUND
from ummgat.model.unet import UShape
from ummgat.slices import from_unit, to_unit


@torch.inference_mode()
def translate_volume(
    generator: UShape, volume: NDArray[np.uint8], code: Tensor, source: Tensor, batch: int = 8
) -> NDArray[np.uint8]:
    """Translate every plane that has brain.

    Parameters
    ----------
    generator : UShape
    volume : ndarray (plane, row, column), uint8
        Brain 1–255, background 0. Whole head; any size.
    code, source : Tensor (code_dim,)
        Of the target and of what `volume` is. One for all planes: a code per plane would flicker.
    batch : int
        Planes at once.

    Returns
    -------
    ndarray like `volume`
        Background exactly 0 where `volume` is 0, 1–255 elsewhere.
    """
    out = np.zeros(volume.shape, np.uint8)
    device = code.device
    planes = np.flatnonzero(np.asarray(volume).any((1, 2)))
    for start in range(0, len(planes), batch):
        chosen = planes[start : start + batch]
        part = np.ascontiguousarray(volume[chosen])
        rows, columns, origin = _brain_box(part, generator.unit)
        x = torch.from_numpy(to_unit(part[:, rows, columns]))[:, None].to(device)
        codes = (s.expand(len(x), -1) for s in (code, source))
        y = from_unit(generator(x, *codes, origin=origin)[:, 0].cpu().numpy())
        # In 32 bits tanh may reach -1, the value of background.
        out[chosen, rows, columns] = np.where(part[:, rows, columns] > 0, np.maximum(y, 1), 0)
    return out


def _brain_box(part: NDArray[np.uint8], unit: int) -> tuple[slice, slice, tuple[int, int]]:
    """Rows and columns that hold brain, starting at a multiple of `unit`, so that tokens stay where they were."""
    found = []
    for axes in ((0, 2), (0, 1)):
        occupied = np.flatnonzero(part.any(axes))
        found.append(slice(int(occupied[0]) // unit * unit, int(occupied[-1]) + 1))
    return found[0], found[1], (found[0].start, found[1].start)


@torch.inference_mode()
def translate_slices(generator: UShape, x: Tensor, code: Tensor, source: Tensor, batch: int = 8) -> Tensor:
    """Translate (n, 1, height, width) slices from one source code to one target code (code_dim,), in batches."""
    parts = [generator(part, code.expand(len(part), -1), source.expand(len(part), -1)) for part in x.split(batch)]
    return torch.cat(parts) if parts else torch.full_like(x, BACKGROUND)
