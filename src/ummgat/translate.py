"""Translate whole volumes plane by plane with one code: whole brain, a few planes at once, nothing cropped away."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ummgat.model.masked import BACKGROUND
from ummgat.model.unet import UShape
from ummgat.slice_profile import settled
from ummgat.slices import from_unit, to_unit

PLANES_PER_THREAD = 2
"""On a CPU: more planes leave the caches and share a wider frame; fewer cost more calls."""

PLANES_ON_ACCELERATOR = 16


def translate_volume(
    generator: UShape,
    volume: NDArray[np.uint8],
    code: Tensor,
    source: Tensor,
    flicker: float = np.inf,
    batch: int = 0,
) -> NDArray[np.uint8]:
    """Translate every plane that has brain.

    On a CPU each of PyTorch's threads takes planes of its own: these operations are too small to be shared by threads
    without loss.

    Parameters
    ----------
    generator : UShape
    volume : ndarray (plane, row, column), uint8
        Brain 1–255, background 0. Whole head; any size.
    code, source : Tensor (code_dim,)
        Of the target and of what `volume` is. One for all planes: a code per plane would flicker.
    flicker : float
        How much neighbouring planes of the target may differ, see `ummgat.slice_profile.settled`. Default: as they do.
    batch : int
        Planes at once; 0 = 2 per thread on a CPU, 16 on an accelerator.

    Returns
    -------
    ndarray like `volume`
        Background exactly 0 where `volume` is 0, 1–255 elsewhere.
    """
    out = np.zeros(volume.shape, np.uint8)
    device = code.device
    planes = np.flatnonzero(np.asarray(volume).any((1, 2)))
    batch = batch or (PLANES_PER_THREAD if device.type == "cpu" else PLANES_ON_ACCELERATOR)

    @torch.inference_mode()
    def translate(chosen: NDArray[np.intp]) -> None:
        part = np.ascontiguousarray(volume[chosen])
        rows, columns, origin = _brain_box(part, generator.unit)
        x = torch.from_numpy(to_unit(part[:, rows, columns]))[:, None].to(device)
        codes = (s.expand(len(x), -1) for s in (code, source))
        y = generator(x, *codes, origin=origin, brain_only=device.type == "cpu")[:, 0].cpu().numpy()
        # In 32 bits tanh may reach -1, the value of background.
        out[chosen, rows, columns] = np.where(part[:, rows, columns] > 0, np.maximum(from_unit(y), 1), 0)

    parts = [planes[start : start + batch] for start in range(0, len(planes), batch)]
    if device.type == "cpu":
        _on_all_threads(translate, parts)
    else:
        for part in parts:
            translate(part)
    return settled(out, flicker)


def _on_all_threads(work: Callable[[NDArray[np.intp]], None], parts: list[NDArray[np.intp]]) -> None:
    """Do the parts on as many Python threads as PyTorch has, each with a single one of PyTorch's."""
    n = min(torch.get_num_threads(), len(parts))
    if n <= 1:
        for part in parts:
            work(part)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for _ in pool.map(work, parts):
            pass  # raises what a part raised
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted user doesn't wait for the rest of the volume
        torch.set_num_threads(threads)


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
    parts = [
        generator(part, code.expand(len(part), -1), source.expand(len(part), -1), brain_only=x.device.type == "cpu")
        for part in x.split(batch)
    ]
    return torch.cat(parts) if parts else torch.full_like(x, BACKGROUND)
