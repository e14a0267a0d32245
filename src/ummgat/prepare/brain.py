"""Which image of a subject says where the brain is, and how it is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ummgat.core.volume import Grid
from ummgat.prepare.images import reorient
from ummgat.prepare.register import Image
from ummgat.prepare.skullstrip import check_mask, deepbet_mask, is_stripped


@dataclass(frozen=True)
class Brain:
    """A brain mask on the grid of one of the subject's images."""

    mask: NDArray[np.bool_]
    grid: Grid
    owner: str
    """Sequence in whose world the mask lies."""
    how: str
    stripped: dict[str, NDArray[np.bool_]]
    """Sequence → its own brain mask, for those that came stripped."""


def find_brain(
    images: Mapping[str, Image],
    subject: str,
    files: Mapping[str, Path],
    given: Image | None = None,
    given_path: Path | None = None,
) -> Brain:
    """Find the brain: by the mask given, else by a sequence that is stripped already, else by deepbet on a T1.

    Parameters
    ----------
    images : mapping of sequence → (voxels, grid)
        Reoriented.
    subject : str
    files : mapping of sequence → Path
        Of the images, for messages.
    given : (voxels, grid), optional
        A mask on the grid of one of the images, in any orientation.
    given_path : Path, optional
        Of `given`, for messages.

    Raises
    ------
    ValueError
        The mask fits no image, or there is neither mask nor stripped image nor T1.
    FileNotFoundError
        The brain must be found and this package came without weights.
    """
    stripped = {name: _outline(data) for name, (data, grid) in images.items() if is_stripped(data, grid).stripped}
    if given is not None:
        data, grid = reorient(*given)
        for name, (_, own) in images.items():
            if grid.matches(own):
                return Brain(check_mask(data, grid, str(given_path)), grid, name, "given mask", stripped)
        raise ValueError(
            f"Brain mask fits no image: {given_path}. Found a grid of {grid.shape} voxels; expected that of one of "
            f"{', '.join(files[name].name for name in images)}. Draw the mask on one of them."
        )
    t1 = sorted({"t1", "t1ce"} & set(images), key=lambda name: (round(max(images[name][1].spacing_mm), 1), name))
    for name in (*t1, *images):
        if name in stripped:
            return Brain(stripped[name], images[name][1], name, f"{name} came stripped", stripped)
    if not t1:
        raise ValueError(
            f"No way to strip the skull: {subject}. Found {', '.join(images)} with their skulls on; expected a T1 for "
            f"deepbet, a brain mask, or stripped images. Give a mask (--brain-mask), add the T1, or strip them with "
            f"HD-BET or SynthStrip."
        )
    data, grid = images[t1[0]]
    return Brain(deepbet_mask(data, grid, str(files[t1[0]])), grid, t1[0], f"deepbet on {t1[0]}", stripped)


def _outline(data: NDArray[np.generic]) -> NDArray[np.bool_]:
    """What is not background, holes filled slice by slice."""
    inside = np.asarray(data != data[0, 0, 0])
    return np.stack([ndimage.binary_fill_holes(inside[..., k]) for k in range(inside.shape[2])], -1)
