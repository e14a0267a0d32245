"""How far to trust each generated voxel, without the truth: how much the answer moves when the question is nudged.

A plain cycle residual says little: generators learn to hide the source in noise. Instead the same slice is translated
mirrored, shifted by a pixel and with the other code; voxels whose answers disagree are the ones to distrust. That this
correlates with the true error is tested on the phantom and measured on selection subjects, not assumed.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ummgat.model.unet import UShape
from ummgat.translate import translate_volume

FULL_DISTRUST = 64.0
"""Disagreement in grey levels at which reliability reaches 0."""


def nudged_translations(
    generator: UShape, volume: NDArray[np.uint8], codes: list[tuple[Tensor, Tensor]], batch: int = 16
) -> list[NDArray[np.uint8]]:
    """Translate mirrored, shifted by one voxel along row and column, and with every further pair of codes.

    Parameters
    ----------
    volume : ndarray (plane, row, column), uint8
    codes : list of (Tensor (code_dim,), Tensor (code_dim,))
        Of the target and of the source. The first pair is the one in use; others are other estimates of the same.

    Returns
    -------
    list of ndarray like `volume`
        Moved back into place.
    """
    mirrored = translate_volume(generator, volume[:, :, ::-1], *codes[0], batch)[:, :, ::-1]
    room = np.pad(volume, ((0, 0), (1, 0), (1, 0)))  # one voxel of room, so that the shift pushes nothing out
    shifted = translate_volume(generator, room, *codes[0], batch)[:, 1:, 1:]
    return [mirrored, shifted, *(translate_volume(generator, volume, *pair, batch) for pair in codes[1:])]


def disagreement(answers: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Standard deviation over answers in grey levels, smoothed in-plane over one voxel; 0 outside the brain."""
    stack = np.stack([answer.astype(np.float32) for answer in answers])
    brain = answers[0] > 0
    spread = np.where(brain, stack.std(axis=0), 0).astype(np.float32)
    sigma = (0.0, 1.0, 1.0)
    weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(spread, sigma) / np.maximum(weight, 1e-3)
    return np.where(brain, smooth, 0).astype(np.float32)


def reliability(spread: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Percent: 100 where all answers agree, 1 from a disagreement of `FULL_DISTRUST` on, 0 outside the brain."""
    percent = np.clip(np.rint(100 * (1 - spread / FULL_DISTRUST)), 1, 100)
    return np.where(brain, percent, 0).astype(np.uint8)
