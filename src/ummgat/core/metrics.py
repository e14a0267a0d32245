"""Image and overlap metrics with plain definitions; no torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]


class ImageScores(NamedTuple):
    """Scores inside one region; NaN where the region is empty (or constant, for the correlation)."""

    mae: float
    """Mean absolute error, in units of 255."""
    ssim: float
    """Mean over the region of the SSIM map."""
    correlation: float
    """Pearson."""
    psnr: float
    """dB, peak 255."""


def ssim_map(image: Floats, truth: Floats) -> Floats:
    """SSIM at every voxel, computed per axial plane.

    Parameters
    ----------
    image, truth : ndarray (plane, row, column)
        0–255.

    Returns
    -------
    ndarray (plane, row, column)
        Window: 7×7 uniform, data range 255, background included at the edge of the brain (both are 0 there).
    """
    maps = [
        structural_similarity(a, b, win_size=7, data_range=255, full=True)[1]
        for a, b in zip(image.astype(np.float64), truth.astype(np.float64), strict=True)
    ]
    return np.stack(maps)


def image_scores(image: Floats, truth: Floats, similarity: Floats, region: Mask) -> ImageScores:
    """Scores of `image` against `truth` inside `region`; `similarity` is their `ssim_map`."""
    if not region.any():
        return ImageScores(np.nan, np.nan, np.nan, np.nan)
    a, b = image[region].astype(np.float64), truth[region].astype(np.float64)
    error = a - b
    spread = a.std() * b.std()
    correlation = float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else np.nan
    mse = float((error**2).mean())
    psnr = float(10 * np.log10(255**2 / mse)) if mse > 0 else np.inf
    return ImageScores(float(np.abs(error).mean()), float(similarity[region].mean()), correlation, psnr)


def flicker(volume: NDArray[np.number], brain: Mask) -> float:
    """Mean absolute difference of neighbouring planes, over voxels that are brain in both."""
    both = brain[1:] & brain[:-1]
    return float(np.abs(np.diff(volume.astype(np.float64), axis=0))[both].mean())


def gradient_energy(volume: Floats, brain: Mask) -> float:
    """Mean squared in-plane difference of neighbouring voxels, both brain; low when blurred, high when noisy."""
    total, n = 0.0, 0
    for axis in (1, 2):
        difference = np.diff(volume.astype(np.float64), axis=axis)
        lower = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        upper = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        inside = brain[lower] & brain[upper]
        total += float((difference[inside] ** 2).sum())
        n += int(inside.sum())
    return total / max(n, 1)


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation of two equally long samples; NaN if one is constant."""
    from scipy.stats import spearmanr

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def dice(found: Mask, truth: Mask) -> float:
    """Dice overlap: 2 |A ∩ B| / (|A| + |B|); 1 where both are empty, 0 where one of them is."""
    total = int(found.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2.0 * int((found & truth).sum()) / total


def hd95(found: Mask, truth: Mask, spacing_mm: tuple[float, float, float]) -> float:
    """Larger of the two 95th percentiles of distances from one surface to the other, as the field defines it.

    Both ways pooled, a small false piece far away would not count: it has too few voxels among those of the rest.

    Parameters
    ----------
    found, truth : ndarray (plane, row, column), bool
    spacing_mm : (float, float, float)
        Along plane, row and column.

    Returns
    -------
    float
        mm; 0 where both are empty, NaN where one of them is (no distance exists: count these apart).
    """
    if not found.any() and not truth.any():
        return 0.0
    if not found.any() or not truth.any():
        return float("nan")
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(found | truth))
    a, b = (np.pad(mask[box], 1) for mask in (found, truth))
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing_mm) for edge in edges]
    return float(max(np.percentile(away[1][edges[0]], 95), np.percentile(away[0][edges[1]], 95)))
