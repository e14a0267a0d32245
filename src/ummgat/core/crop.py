"""Crop windows around the brain, which may stick out of the image: what lies outside is 0.

Volumes are stored whole. The crop of the paper is a training crop only, so preparing counts what it would lose.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ummgat.core.volume import Array


def crop_shape(crop_mm: tuple[float, float, float], spacing_mm: float) -> tuple[int, int, int]:
    """(plane, row, column) voxels that cover `crop_mm`.

    Source: the paper crops to (155, 176, 176) at 1 mm.

    Examples
    --------
    >>> crop_shape((155, 176, 176), 2.0)
    (78, 88, 88)
    """
    planes, rows, columns = (math.ceil(side / spacing_mm - 1e-6) for side in crop_mm)
    return planes, rows, columns


def _start(brain: NDArray[np.bool_], axis: int, length: int) -> int:
    """First index of a window of `length` along `axis`, centered on the brain's extent, or on the image if it is
    empty.
    """
    others = tuple(a for a in range(brain.ndim) if a != axis % brain.ndim)
    found = np.flatnonzero(np.any(brain, axis=others))
    first, last = (int(found[0]), int(found[-1])) if found.size else (0, brain.shape[axis] - 1)
    return (first + last + 1 - length) // 2


def crop_window(brain: NDArray[np.bool_], rows: int, columns: int) -> tuple[int, int]:
    """Place a window on the middle of the brain's bounding box.

    Source: the paper gives the size of the crop and not its place; see docs/decisions.

    Parameters
    ----------
    brain : bool ndarray of shape (..., row, column)
        One slice or a whole volume. If empty, the window is centered on the image.
    rows, columns : int
        Size of the window.

    Returns
    -------
    (row0, column0) : (int, int)
        First row and column of the window; negative where it sticks out.

    Examples
    --------
    >>> brain = np.zeros((10, 12), bool)
    >>> brain[2:6, 7:9] = True
    >>> crop_window(brain, 4, 4)
    (2, 6)
    """
    return _start(brain, -2, rows), _start(brain, -1, columns)


def crop(array: Array, window: tuple[int, int], rows: int, columns: int) -> Array:
    """Cut a window out of `array`, 0 where it sticks out.

    Parameters
    ----------
    array : ndarray of shape (..., row, column)
    window : (int, int)
        From `crop_window`.
    rows, columns : int

    Returns
    -------
    ndarray of shape (..., rows, columns), same dtype, a copy
    """
    out = np.zeros((*array.shape[:-2], rows, columns), array.dtype)
    inner, outer = _overlap(window, (rows, columns), array.shape[-2:])
    out[..., inner[0], inner[1]] = array[..., outer[0], outer[1]]
    return out


def paste(cropped: Array, window: tuple[int, int], into: Array) -> Array:
    """Undo `crop`: a copy of `into` with the part of `cropped` that lies inside it put back.

    Parameters
    ----------
    cropped : ndarray of shape (..., rows, columns)
    window : (int, int)
        The window it was cut with.
    into : ndarray of shape (..., row, column)
        What surrounds it, for example zeros.

    Returns
    -------
    ndarray of shape `into.shape` and the dtype of `into`
    """
    out = into.copy()
    inner, outer = _overlap(window, cropped.shape[-2:], into.shape[-2:])
    out[..., outer[0], outer[1]] = cropped[..., inner[0], inner[1]]
    return out


def _overlap(
    window: tuple[int, int], size: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Row and column slices of the part that window and image share: inside the window, inside the image."""
    inner, outer = [], []
    for start, length, limit in zip(window, size, shape, strict=True):
        first, last = max(start, 0), max(min(start + length, limit), max(start, 0))
        inner.append(slice(first - start, last - start))
        outer.append(slice(first, last))
    return (inner[0], inner[1]), (outer[0], outer[1])


def crop_lost_voxels(brain: NDArray[np.bool_], shape: tuple[int, int, int]) -> int:
    """Brain voxels outside a window of `shape` centered on the brain's bounding box.

    Parameters
    ----------
    brain : bool ndarray of shape (plane, row, column)
    shape : (int, int, int)
        (plane, row, column) of the window, see `crop_shape`.
    """
    kept = brain
    for axis, length in enumerate(shape):
        start = _start(brain, axis, length)
        kept = kept.take(range(max(start, 0), min(start + length, brain.shape[axis])), axis=axis)
    return int(brain.sum() - kept.sum())
