"""Translate whole volumes plane by plane with one code: whole brain, a few planes at once, nothing cropped away."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ummgat.core.config import Config
from ummgat.core.domain import DomainTable
from ummgat.model.asked import ET, asked_brightness, thresholds
from ummgat.model.atlas import Brought
from ummgat.model.lesion_gate import N_LABELS
from ummgat.model.masked import BACKGROUND, from_unit, to_unit
from ummgat.model.slice_profile import settled
from ummgat.model.unet import Aside, UShape

PLANES_PER_THREAD = 2
"""On a CPU: more planes leave the caches and share a wider frame; fewer cost more calls."""

PLANES_ON_ACCELERATOR = 16


class Beside(NamedTuple):
    """What the generator is shown beside a volume, apart from its own neighbouring planes."""

    lesion_codes: Tensor
    """(n_domains, n_labels), [-1, 1]; what is not known is the mean of the rest."""
    thresholds: Tensor
    """(n_domains,)."""
    brought: Brought | None = None
    """The atlas at the volume's voxels; None: it was not registered, or there is none."""
    posterior: NDArray[np.float32] | None = None
    """(4, plane, row, column): of lesion labels, from all sources together. None: the source speaks for itself."""

    @classmethod
    def of(
        cls, table: DomainTable, config: Config, lesions: NDArray[np.floating], spreads: NDArray[np.floating]
    ) -> "Beside":
        """What is asked of a model's lesions, see `ummgat.model.asked`."""
        asked = asked_brightness(table, lesions, spreads) / 127.5 - 1
        asked = np.where(np.isfinite(asked), asked, np.nanmean(asked) if np.isfinite(asked).any() else 0.0)
        return cls(
            torch.from_numpy(asked.astype(np.float32)),
            torch.from_numpy(thresholds(table, config.loss.label_threshold)),
        )

    def without_enhancement(self) -> "Beside":
        """Enhancing tumour as bright as what surrounds it in targets where it is drawn by a low threshold."""
        codes = self.lesion_codes.clone()
        if codes.shape[1] == N_LABELS:
            drawn = self.thresholds < 1
            codes[drawn, ET] = codes[drawn, :ET].mean(1)
        return self._replace(lesion_codes=codes, thresholds=torch.ones_like(self.thresholds))

    def aside(self, x: Tensor, source: int, target: int, near: Tensor | None, maps: Tensor | None) -> Aside:
        """For slices (n, 1, …) of one direction; `maps` (n, n_domains, …) are the atlas there, [0, 2]."""
        n, device = len(x), x.device
        code = self.lesion_codes[target].to(device).expand(n, -1) if self.lesion_codes.shape[1] == N_LABELS else None
        own, expected = (None, None) if maps is None else (maps[:, [source]], maps[:, [target]])
        return Aside(near, own, expected, code, self.thresholds[target].to(device).expand(n))


class Direction(NamedTuple):
    """From which domain of the model to which."""

    source: int
    target: int


def translate_volume(
    generator: UShape,
    volume: NDArray[np.uint8],
    code: Tensor,
    source: Tensor,
    flicker: float = np.inf,
    batch: int = 0,
    beside: Beside | None = None,
    direction: Direction | None = None,
    only: Sequence[int] | None = None,
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
        How much neighbouring planes of the target may differ, see `ummgat.model.slice_profile.settled`. Default: as
        they do.
    batch : int
        Planes at once; 0 = 2 per thread on a CPU, 16 on an accelerator.
    beside : Beside, optional
    direction : Direction
        Which of what stands in `beside` is meant.
    only : sequence of int, optional
        Planes to translate; the rest stays 0, and nothing is settled between planes. None: all.

    Returns
    -------
    ndarray like `volume`
        Background exactly 0 where `volume` is 0, 1–255 elsewhere.
    """
    out = np.zeros(volume.shape, np.uint8)
    device = code.device
    planes = _with_brain(volume, only)
    batch = batch or (PLANES_PER_THREAD if device.type == "cpu" else PLANES_ON_ACCELERATOR)

    @torch.inference_mode()
    def translate(chosen: NDArray[np.intp]) -> None:
        part = np.ascontiguousarray(volume[chosen])
        rows, columns, origin = _brain_box(part, generator.unit)
        x = torch.from_numpy(to_unit(part[:, rows, columns]))[:, None].to(device)
        codes = (s.expand(len(x), -1) for s in (code, source))
        aside = None
        if beside is not None:
            maps = _maps(beside.brought, chosen, volume.shape, (rows, columns))
            near = _near(volume, chosen, (rows, columns)).to(device) if generator.neighbours else None
            aside = beside.aside(x, *(direction or (0, 0)), near, None if maps is None else maps.to(device))
            if beside.posterior is not None:
                found = np.ascontiguousarray(beside.posterior[:, chosen][:, :, rows, columns].swapaxes(0, 1))
                aside = aside._replace(posterior=torch.from_numpy(found).to(device))
        y = generator(x, *codes, origin=origin, brain_only=device.type == "cpu", aside=aside)[:, 0].cpu().numpy()
        # In 32 bits tanh may reach -1, the value of background.
        out[chosen, rows, columns] = np.where(part[:, rows, columns] > 0, np.maximum(from_unit(y), 1), 0)

    _on_parts(translate, [planes[start : start + batch] for start in range(0, len(planes), batch)], device)
    return settled(out, flicker) if only is None else out


def _with_brain(volume: NDArray[np.uint8], only: Sequence[int] | None) -> NDArray[np.intp]:
    planes = np.flatnonzero(np.asarray(volume).any((1, 2)))
    return planes if only is None else np.intersect1d(planes, np.asarray(only, np.intp))


def _on_parts(work: Callable[[NDArray[np.intp]], None], parts: list[NDArray[np.intp]], device: torch.device) -> None:
    """Do the parts, on a CPU on as many Python threads as PyTorch has, each with a single one of PyTorch's."""
    n = min(torch.get_num_threads(), len(parts)) if device.type == "cpu" else 1
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


def _near(volume: NDArray[np.uint8], chosen: NDArray[np.intp], box: tuple[slice, slice]) -> Tensor:
    """Planes below and above: (n, 2, row, column), [0, 2] above background."""
    n = len(volume)
    out = np.zeros((len(chosen), 2, *(b.stop - b.start for b in box)), np.float32)
    for i, plane in enumerate(chosen):
        for j, other in enumerate((plane - 1, plane + 1)):
            if 0 <= other < n:
                out[i, j] = volume[other][box] / np.float32(127.5)
    return torch.from_numpy(out)


def _maps(
    brought: Brought | None, chosen: NDArray[np.intp], shape: tuple[int, ...], box: tuple[slice, slice]
) -> Tensor | None:
    """The atlas at some planes: (n, n_domains, row, column), [0, 2]."""
    if brought is None:
        return None
    out = np.zeros((len(chosen), len(brought.means), *shape[1:]), np.float32)
    _, rows, columns = brought.box
    for i, plane in enumerate(chosen):
        out[i, :, rows, columns] = brought.plane(brought.means, int(plane)) / np.float32(127.5)
    return torch.from_numpy(np.ascontiguousarray(out[:, :, box[0], box[1]]))


def lesion_posterior(
    generator: UShape,
    volume: NDArray[np.uint8],
    source: Tensor,
    beside: Beside,
    domain: int,
    batch: int = 8,
    only: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """What the generator's gate sees in a volume: (4, plane, row, column) probabilities; background 1 outside the
    brain, and in planes that are not among `only`. On a CPU threads take planes of their own, see `translate_volume`.
    """
    out = np.zeros((1 + N_LABELS, *volume.shape), np.float32)
    out[0] = 1
    device = source.device
    planes = _with_brain(volume, only)

    @torch.inference_mode()
    def see(chosen: NDArray[np.intp]) -> None:
        part = np.ascontiguousarray(volume[chosen])
        rows, columns, origin = _brain_box(part, generator.unit)
        x = torch.from_numpy(to_unit(part[:, rows, columns]))[:, None].to(device)
        maps = _maps(beside.brought, chosen, volume.shape, (rows, columns))
        near = _near(volume, chosen, (rows, columns)).to(device) if generator.neighbours else None
        aside = beside.aside(x, domain, domain, near, None if maps is None else maps.to(device))
        found = generator.see(x, source.expand(len(x), -1), origin, aside).softmax(1) * (x > BACKGROUND)
        found[:, :1] += (x <= BACKGROUND).to(found.dtype)
        out[:, chosen[0] : chosen[-1] + 1, rows, columns][:, chosen - chosen[0]] = found.cpu().numpy().swapaxes(0, 1)

    _on_parts(see, [planes[start : start + batch] for start in range(0, len(planes), batch)], device)
    return out


@torch.inference_mode()
def translate_slices(
    generator: UShape, x: Tensor, code: Tensor, source: Tensor, batch: int = 8, aside: Aside | None = None
) -> Tensor:
    """Translate (n, 1, height, width) slices from one source code to one target code (code_dim,), in batches."""
    aside = Aside() if aside is None else aside
    parts = [
        generator(
            part,
            code.expand(len(part), -1),
            source.expand(len(part), -1),
            brain_only=x.device.type == "cpu",
            aside=Aside(*(None if t is None else t[start : start + batch] for t in aside)),
        )
        for start, part in zip(range(0, len(x), batch), x.split(batch), strict=True)
    ]
    return torch.cat(parts) if parts else torch.full_like(x, BACKGROUND)
