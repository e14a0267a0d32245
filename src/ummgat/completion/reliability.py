"""How far to trust each generated voxel, without the truth.

Two reasons for distrust add up. *Disagreement*: how much the answer moves when the question is nudged, i.e. the source
shown in another tone, or the other code taken. *Ambiguity*: how widely the target's intensities spread among training
subjects at places where a source looks as it does here. A plain cycle residual says little: generators learn to hide the
source in noise. That distrust correlates with the true error is tested on the phantom, not assumed.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ummgat.core.domain import Domain
from ummgat.model.translator import Translator

TONES = (0.8, 1.25)
"""Contrasts about ordinary tissue in which the source is shown once more."""

FULL_DISTRUST = 96.0
"""Distrust in grey levels at which reliability reaches its end."""


def nudged_translations(
    translator: Translator,
    source: str,
    target: Domain,
    codes: list[tuple[Tensor, Tensor]],
    flicker: float,
    posterior: NDArray[np.float32] | None,
) -> list[NDArray[np.uint8]]:
    """Translate in two other tones of the source, and with every further pair of codes.

    Parameters
    ----------
    translator : Translator
    source : str
        Sequence of the study.
    target : Domain
    codes : list of (Tensor (code_dim,), Tensor (code_dim,))
        Of the target and of the source. The first pair is the one in use; others are other estimates of the same.
    flicker : float
        Of the target, see `ummgat.model.slice_profile.settled`.
    posterior : ndarray (4, plane, row, column) or None
        Of lesion labels, as in the answer in use.

    Returns
    -------
    list of ndarray (plane, row, column), uint8
    """
    volume = translator.volumes[source]
    grey = np.arange(256, dtype=np.float32)
    tones = [np.clip(np.rint(100 + gain * (grey - 100)), 1, 255).astype(np.uint8) for gain in TONES]
    retoned = [np.where(volume > 0, tone[volume], 0).astype(np.uint8) for tone in tones]
    return [
        *(translator.translate(source, target, codes[0], flicker, posterior, v) for v in retoned),
        *(translator.translate(source, target, pair, flicker, posterior) for pair in codes[1:]),
    ]


def disagreement(answers: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Standard deviation over answers in grey levels, smoothed in-plane over one voxel; 0 outside the brain."""
    stack = np.stack([answer.astype(np.float32) for answer in answers])
    brain = answers[0] > 0
    return smoothed(stack.std(axis=0), brain)


def smoothed(values: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """In-plane, over one voxel, within the brain; 0 outside."""
    sigma = (0.0, 1.0, 1.0)
    inside = np.where(brain, values, 0).astype(np.float32)
    weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(inside, sigma) / np.maximum(weight, 1e-3)
    return np.where(brain, smooth, 0).astype(np.float32)


def ambiguity(volume: NDArray[np.uint8], spread: NDArray[np.float64]) -> NDArray[np.float32]:
    """Spread of target intensities at each voxel's source intensity, in grey levels, smoothed in-plane; 0 outside.

    Parameters
    ----------
    volume : ndarray (plane, row, column), uint8
        The source.
    spread : ndarray (knots,)
        See `ummgat.train.relation.Relations.spreads`; NaN (unknown) counts as 0.
    """
    at = np.interp(np.arange(256), np.linspace(0, 255, len(spread)), np.nan_to_num(spread)).astype(np.float32)
    return smoothed(at[volume], volume > 0)


def reliability(distrust: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Percent: 100 at no distrust, 1 from `FULL_DISTRUST` grey levels on, 0 outside the brain."""
    percent = np.clip(np.rint(100 * (1 - distrust / FULL_DISTRUST)), 1, 100)
    return np.where(brain, percent, 0).astype(np.uint8)
