"""The search behind `register`: mutual information on ever finer images, from several starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ummgat.core.volume import Array, Grid, resample
from ummgat.prepare.rigid import LPS, Matrix, voxels_to_world

_BINS = 32
_SAMPLES = 120_000
"""Points at which the metric is taken; beyond, answers move by less than 0.05 mm."""
_START_MM = 6.0
"""At 8 mm folds are gone, and a head turned by 15 degrees can look better than the right one."""
_JUDGE_MM = 4.0
_FINE_MM = (2.0, 1.0)
_TILT_DEG = 14.0
_MARGIN_MM = 6.0
"""Around the mask: the edge of a brain says most about where it is."""
_KEPT = (8, 3)
"""Starts that are climbed from at the first level, and answers that go on to the second."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold ITK to one thread: with more, sums differ in their last digits from run to run."""
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


class Side:
    """One image of a pair, ready to be asked for at any coarseness."""

    def __init__(self, data: Array, grid: Grid, mask: NDArray[np.bool_]) -> None:
        values = np.asarray(data, np.float32)
        low, high = np.percentile(values[mask], (0.5, 99.5))
        self.grid = grid
        self.data = np.clip(values, min(float(low), 0.0), float(high))
        self.mask = mask
        self.center = voxels_to_world(grid, np.argwhere(mask).mean(0)[None])[0]

    def at(self, level_mm: float, cubes: bool = False) -> tuple[Array, Array, Grid]:
        """Image, mask with its margin, and grid, smoothed to voxels of `level_mm`; thicker ones stay unless `cubes`."""
        spacing = np.array(self.grid.spacing_mm)
        wide = np.sqrt(np.maximum(level_mm**2 - spacing**2, 0)) / 2.355
        grid = coarser(self.grid, np.full(3, level_mm) if cubes else np.maximum(spacing, level_mm))
        values = resample(ndimage.gaussian_filter(self.data, wide / spacing), self.grid, grid)
        inside = resample(self.mask.astype(np.float32), self.grid, grid) > 0.3
        near = ndimage.distance_transform_edt(~inside, sampling=grid.spacing_mm) <= _MARGIN_MM
        return values, near, grid


@dataclass(frozen=True)
class _Level:
    """Both images at one coarseness, and the metric between them."""

    fixed: sitk.Image
    moving: sitk.Image
    method: sitk.ImageRegistrationMethod

    @classmethod
    def of(cls, fixed: Side, moving: Side, level_mm: float, seed: int) -> "_Level":
        values, near, grid = fixed.at(level_mm)
        # Cubes, because ITK smooths the gradient of the moving image by its largest voxel side: across thick slices it
        # would not be the gradient of what is measured.
        other, _, other_grid = moving.at(level_mm, cubes=True)
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricFixedMask(to_sitk(near.astype(np.uint8), grid))
        method.SetInterpolator(sitk.sitkLinear)
        share = _SAMPLES / max(int(near.sum()), 1)
        if share < 1:
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(share, seed + 1)
        return cls(to_sitk(values, grid), to_sitk(other, other_grid), method)

    def value(self, transform: sitk.Transform) -> float:
        """Mutual information, nats; 0 where the images do not overlap."""
        self.method.SetInitialTransform(transform)
        try:
            return -float(self.method.MetricEvaluate(self.fixed, self.moving))
        except RuntimeError:
            return 0.0

    def climb(self, transform: sitk.Transform, step: float, smallest: float, rounds: int) -> bool:
        """Improve `transform` in place; False if the images no longer overlapped on the way."""
        self.method.SetOptimizerAsRegularStepGradientDescent(step, smallest, rounds, 0.6, 1e-8)
        self.method.SetOptimizerScalesFromPhysicalShift()
        self.method.SetInitialTransform(transform, True)
        try:
            self.method.Execute(self.fixed, self.moving)
        except RuntimeError:
            return False
        return True


class Search:
    """The search for the transform from one side's world to the other's."""

    def __init__(self, fixed: Side, moving: Side, seed: int) -> None:
        self.fixed, self.moving, self.seed = fixed, moving, seed
        self._judge = _Level.of(fixed, moving, _JUDGE_MM, seed)

    def run(self) -> Matrix:
        """Rank all starts, climb from the best few on coarse images, and from the best of these on ever finer ones."""
        coarse = _Level.of(self.fixed, self.moving, _START_MM, self.seed)
        starts = sorted(self._starts(), key=lambda m: -coarse.value(self._transform(m)))
        tries = [self._climb(coarse, start, 4.0, 0.1, 60) for start in starts[: _KEPT[0]]]
        tries.sort(key=lambda m: -coarse.value(self._transform(m)))
        tries = [self._climb(self._judge, start, 2.0, 0.02, 80) for start in tries[: _KEPT[1]]]
        matrix = max(tries, key=self.metric)
        finest = min(min(self.fixed.grid.spacing_mm), min(self.moving.grid.spacing_mm))
        for level in (mm for mm in _FINE_MM if mm > finest / 2):
            images = _Level.of(self.fixed, self.moving, level, self.seed)
            matrix = self._climb(images, matrix, level / 4, 0.002 * level, 60)
        return matrix

    def metric(self, matrix: Matrix) -> float:
        """Mutual information at 4 mm, nats."""
        return self._judge.value(self._transform(matrix))

    def around(self, matrix: Matrix) -> float:
        """Mean mutual information 8 mm or 8 degrees away from `matrix`, in twelve directions."""
        values = []
        for axis in range(3):
            for sign in (-8.0, 8.0):
                for shift, turn in ((sign, 0.0), (0.0, sign)):
                    values.append(self.metric(self._start(turn * np.eye(3)[axis], shift * np.eye(3)[axis]) @ matrix))
        return float(np.mean(values))

    def overlap(self, matrix: Matrix) -> float:
        """Share of the smaller mask that falls into the field of view of the other image."""
        shares = []
        for one, other, there in ((self.fixed, self.moving, matrix), (self.moving, self.fixed, np.linalg.inv(matrix))):
            index = np.argwhere(one.mask)[:: max(1, int(one.mask.sum()) // 5000)]
            to_voxel = np.linalg.inv(other.grid.matrix) @ there @ one.grid.matrix
            place = index @ to_voxel[:3, :3].T + to_voxel[:3, 3]
            shares.append(float(np.all((place > -1) & (place < np.array(other.grid.shape)), axis=1).mean()))
        return max(shares)

    def _starts(self) -> list[Matrix]:
        """Headers believed, middles laid upon each other, and half of that; each straight and tilted about each
        axis.
        """
        turns = [np.zeros(3), *(sign * _TILT_DEG * np.eye(3)[axis] for axis in range(3) for sign in (-1, 1))]
        apart = self.moving.center - self.fixed.center
        return [self._start(turn, share * apart) for share in (0.0, 0.5, 1.0) for turn in turns]

    def _start(self, turn_deg: NDArray[np.float64], shift_mm: NDArray[np.float64]) -> Matrix:
        """Turn about the middle of the fixed side, then shift."""
        out = np.eye(4)
        out[:3, :3] = Rotation.from_rotvec(np.deg2rad(turn_deg)).as_matrix()
        out[:3, 3] = self.fixed.center + shift_mm - out[:3, :3] @ self.fixed.center
        return out

    def _climb(self, images: _Level, start: Matrix, step: float, smallest: float, rounds: int) -> Matrix:
        transform = self._transform(start)
        return _matrix(transform) if images.climb(transform, step, smallest, rounds) else start

    def _transform(self, matrix: Matrix) -> sitk.Euler3DTransform:
        turned = LPS @ matrix @ LPS
        center = LPS[:3, :3] @ self.fixed.center
        transform = sitk.Euler3DTransform()
        transform.SetCenter(center.tolist())
        transform.SetMatrix(turned[:3, :3].ravel().tolist(), 1e-4)
        transform.SetTranslation((turned[:3, :3] @ center + turned[:3, 3] - center).tolist())
        return transform


def _matrix(transform: sitk.Euler3DTransform) -> Matrix:
    """The (4, 4) RAS+ matrix of an ITK transform, made rigid to the last digit."""
    out = np.eye(4)
    out[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    center = np.array(transform.GetCenter())
    out[:3, 3] = center + np.array(transform.GetTranslation()) - out[:3, :3] @ center
    return LPS @ out @ LPS


def coarser(grid: Grid, spacing: NDArray[np.float64]) -> Grid:
    """Same axes and field of view, voxels of `spacing`; edges start at the same corner."""
    old = np.array(grid.spacing_mm)
    shape = np.maximum(np.ceil(np.array(grid.shape) * old / spacing - 1e-3), 1).astype(int)
    affine = grid.matrix
    affine[:3, 3] += affine[:3, :3] @ (0.5 * spacing / old - 0.5)
    affine[:3, :3] *= spacing / old
    return Grid.of(tuple(int(n) for n in shape), affine)


def to_sitk(data: Array, grid: Grid) -> sitk.Image:
    """Make a SimpleITK image of an array (x, y, z); a copy, in LPS+."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    affine = LPS @ grid.matrix
    spacing = np.array(grid.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image
