"""Smooth random fields: the raw material of shape, texture, tumour edge and coil shading."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Field:
    """Gaussian random field with mean 0, standard deviation about 1 and correlation length `sigma` voxels.

    Long fields are made on a coarser lattice and interpolated, which costs a fraction of filtering at full size.

    Parameters
    ----------
    rng : Generator
    shape : tuple of int
    sigma : float
        Standard deviation of the smoothing kernel in voxels; below 0.3 the field is white.

    Returns
    -------
    ndarray of shape `shape`, float32
    """
    if sigma < 0.3:
        return rng.standard_normal(shape, dtype=np.float32)
    step = max(1, int(sigma / 2.6))
    fine = sigma / step
    coarse_shape = tuple(math.ceil(n / step) + 1 for n in shape)
    white = rng.standard_normal(coarse_shape, dtype=np.float32)
    coarse = ndimage.gaussian_filter(white, fine, mode="wrap", truncate=3.0)
    # The kernel is sampled, so its sum of squares is too: no closed form is right for small `fine`.
    taps = np.exp(-0.5 * (np.arange(-math.ceil(3 * fine), math.ceil(3 * fine) + 1) / fine) ** 2)
    taps /= taps.sum()
    coarse /= np.float32((taps**2).sum() ** (len(shape) / 2))
    return enlarge(coarse, step, shape)


def enlarge(coarse: Field, step: int, shape: tuple[int, ...], start: tuple[float, ...] | None = None) -> Field:
    """Linear interpolation of a lattice whose nodes lie `step` voxels apart.

    Parameters
    ----------
    coarse : ndarray, float32
        Values at voxels 0, step, 2·step, …
    step : int
    shape : tuple of int
        Shape of the result.
    start : tuple of float, optional
        Voxel at which the result begins; default the first node.

    Returns
    -------
    ndarray of shape `shape`, float32
        A copy.
    """
    out = coarse
    for axis, n in enumerate(shape):  # one axis after the other: several times faster than ndimage's general transform
        place = ((0.0 if start is None else start[axis]) + np.arange(n)) / step
        low = np.minimum(place.astype(np.intp), coarse.shape[axis] - 1)
        high = np.minimum(low + 1, coarse.shape[axis] - 1)
        weight = (place - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(len(shape))])
        base = out.take(low, axis)
        out = base + weight * (out.take(high, axis) - base)
    return out
