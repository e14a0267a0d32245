"""Lean a generated image on the population's atlas where the brain is healthy.

A generator that must look real decides on details that it cannot know, and each wrong one costs twice. Part of the way
towards the expectation costs less. How far is measured on selection subjects, see `ummgat.train.calibrate`.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.uint8]
Maps = NDArray[np.float32]


def leant(image: Volume, expected: Volume, healthy: Maps | None, share: float) -> Volume:
    """`image`, led towards `expected` by `share` of their difference, smoothed so that fine detail stays.

    Parameters
    ----------
    image, expected : ndarray (plane, row, column), uint8
        Brain 1–255, background 0. Where `expected` is 0, nothing is known and nothing changes.
    healthy : ndarray like `image`, optional
        Probability that there is no lesion: below one half nothing changes, at one all of `share` counts. None: one.
    share : float
        0 to 1.
    """
    known = (image > 0) & (expected > 0)
    way = smoothed(np.where(known, expected.astype(np.float32) - image, 0), image > 0)
    if healthy is not None:
        way *= np.clip(2 * healthy - 1, 0, 1)
    return np.where(image > 0, np.clip(np.rint(image + np.float32(share) * way), 1, 255), 0).astype(np.uint8)


def smoothed(values: Maps, brain: NDArray[np.bool_]) -> Maps:
    """In-plane, over one voxel, within the brain; 0 outside."""
    sigma = (0.0, 1.0, 1.0)
    inside = np.where(brain, values, 0).astype(np.float32)
    weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(inside, sigma) / np.maximum(weight, 1e-3)
    return np.where(brain, smooth, 0).astype(np.float32)
