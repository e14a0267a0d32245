"""Optional: take the shading of receive coils out (N4, Tustison et al. 2010), estimated on coarse voxels."""

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ummgat.core.volume import Array, Grid, resample
from ummgat.prepare.search import coarser, one_thread, to_sitk

_SHRUNKEN_MM = 4.0
_ROUNDS = (50, 50, 30)


def correct_bias(data: Array, grid: Grid, mask: Array) -> NDArray[np.float32]:
    """Divide an image by its smooth shading.

    Parameters
    ----------
    data : ndarray of shape grid.shape
        At least 0.
    grid : Grid
    mask : bool ndarray of the same shape
        Where the shading is estimated: the brain if it is known, else the head.

    Returns
    -------
    float32 ndarray of the same shape
        A copy; the mean within the mask is kept.
    """
    values = np.asarray(data, np.float32)
    inside = np.asarray(mask, bool)
    small = coarser(grid, np.maximum(np.array(grid.spacing_mm), _SHRUNKEN_MM))
    image = to_sitk(resample(values, grid, small), small)
    where = to_sitk((resample(inside.astype(np.float32), grid, small) > 0.5).astype(np.uint8), small)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetMaximumNumberOfIterations(_ROUNDS)
    with one_thread():
        n4.Execute(image, where)
    log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
    # Beyond the border of the coarse grid the resampled field falls to 0, which is no correction at all.
    corrected = values / np.exp(resample(log_field, small, grid))
    corrected *= float(values[inside].mean()) / float(corrected[inside].mean())
    return np.asarray(corrected, np.float32)
