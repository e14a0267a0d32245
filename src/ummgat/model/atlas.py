"""The population's atlas: what each domain looks like on average, and bringing it to one patient's brain.

An atlas holds, in one common frame, the mean healthy image of every domain over *different* subjects. It is registered
to a study by a sequence the study has, which is registration within one contrast, and then says what the others should
look like there: where fluid is, and whether it is dark or bright. No pair of images is used. It knows nothing of
lesions.
"""

from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

ATLAS_MM = 2.0
"""Voxel size of atlases and of registration to them, or that of the images if it is larger: means of patients show
nothing finer."""

SCORE_LIMIT = 4.0
"""Standard scores beyond this count as this in registration, and background as minus this."""

LEVELS = ((4, 40), (2, 30), (1, 12))
"""Pyramid of the deformable registration: shrink factor on the `ATLAS_MM` grid, most iterations. Learning leaves the
last out: an atlas learnt with it is no better (correlation with unseen subjects .439 either way) and takes three times
as long."""

LEAST_SIMILARITY = 0.5
"""Correlation of image and registered atlas, both with background, below which the registration has failed."""

Volume = NDArray[np.uint8]
Box = tuple[slice, slice, slice]


class Atlas(NamedTuple):
    """One frame, every domain: RAS+, (plane, row, column), `ATLAS_MM` apart."""

    means: Volume
    """(n_domains, plane, row, column): mean healthy intensity, 1–255, continued beyond the brain; 0 for a domain of
    which nothing is known."""
    spreads: Volume
    """Like `means`: standard deviation over subjects of healthy intensity after registration, 0–255."""
    brain: Volume
    """(plane, row, column): share of brains that reach here, 0–255."""


FRAME_MARGIN = 4
"""Voxels that a frame keeps around the brains."""


def cropped(atlas: Atlas) -> Atlas:
    """Without the outer part of the frame that hardly a brain reaches (less than one in twenty)."""
    inside = atlas.brain >= 13
    box = []
    for axis in range(3):
        occupied = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(occupied[0]) - FRAME_MARGIN), int(occupied[-1]) + 1 + FRAME_MARGIN))
    where = tuple(box)
    every = (slice(None), *where)
    parts = (atlas.means[every], atlas.spreads[every], atlas.brain[where])
    return Atlas(*(np.ascontiguousarray(part) for part in parts))


class Placed(NamedTuple):
    """Where the voxels of an image lie in an atlas."""

    points: NDArray[np.float32]
    """(3, plane, row, column): place in atlas voxels of each voxel of the coarse image."""
    box: Box
    """Voxels of the image that the coarse image covers."""
    similarity: float
    """Correlation of image and atlas after registration."""


def coarse_box(brain: NDArray[np.bool_], spacing_mm: float) -> Box:
    """Bounding box of a brain with a margin of two coarse voxels, within the image.

    Raises
    ------
    ValueError
        If there is no brain.
    """
    box = []
    for axis in range(3):
        occupied = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(occupied):
            raise ValueError("Image is empty. Found no brain; expected one to register. Leave the image out.")
        margin = int(np.ceil(2 * max(ATLAS_MM, spacing_mm) / spacing_mm))
        box.append(slice(max(0, int(occupied[0]) - margin), min(brain.shape[axis], int(occupied[-1]) + 1 + margin)))
    return box[0], box[1], box[2]


def resized(values: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Linear interpolation to another number of voxels in the same box; averaged first where there will be fewer."""
    if values.shape == shape:
        return values.astype(np.float32)
    out = values.astype(np.float32)
    factors = [old / new for old, new in zip(values.shape, shape, strict=True)]
    if max(factors) > 1.01:
        out = ndimage.gaussian_filter(out, [max(0.0, (f - 1) / 2) for f in factors], mode="nearest")
    for axis, (n, factor) in enumerate(zip(shape, factors, strict=True)):
        at = np.clip((np.arange(n) + 0.5) * factor - 0.5, 0, out.shape[axis] - 1)
        low = np.minimum(at.astype(np.int64), max(out.shape[axis] - 2, 0))
        high = np.minimum(low + 1, out.shape[axis] - 1)
        share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(out.ndim)])
        out = out.take(low, axis) * (1 - share) + out.take(high, axis) * share
    return out


def scored(values: NDArray[np.number], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Standard scores in the brain, within `SCORE_LIMIT`; background is at its lower end.

    Level and spread are those of the middle of the distribution, which lesions hardly move.
    """
    low, level, high = np.percentile(values[brain], (16, 50, 84))
    score = (values.astype(np.float32) - np.float32(level)) / np.float32(max((high - low) / 2, 1e-3))
    # A step above the background, so that the brain can be told from it.
    return np.where(brain, np.clip(score, -SCORE_LIMIT + 0.01, SCORE_LIMIT), -SCORE_LIMIT).astype(np.float32)


class Coarse(NamedTuple):
    """An image at about `ATLAS_MM`, cut to its brain."""

    values: NDArray[np.float32]
    brain: NDArray[np.bool_]
    box: Box
    """Of the image, that it covers."""


def coarse_image(volume: Volume, spacing_mm: float, box: Box | None = None) -> Coarse:
    """Bring an image (plane, row, column) to `ATLAS_MM`; means over brain only. `box` is that of its brain by
    default.
    """
    brain = volume > 0
    box = coarse_box(brain, spacing_mm) if box is None else box
    factor = max(ATLAS_MM, spacing_mm) / spacing_mm
    shape = tuple(max(1, round((b.stop - b.start) / factor)) for b in box)
    share = resized(brain[box].astype(np.float32), shape)
    values = resized(volume[box].astype(np.float32), shape) / np.maximum(share, 1e-3)
    return Coarse(values.astype(np.float32), share >= 0.5, box)


def _image(values: NDArray[np.float32]) -> sitk.Image:
    return sitk.GetImageFromArray(np.ascontiguousarray(values))


def start(fixed: NDArray[np.bool_], moving: NDArray[np.floating]) -> sitk.AffineTransform:
    """Affine from the brain `fixed` to the brain `moving` by their centers and extents, axis by axis. No rotation."""
    transform = sitk.AffineTransform(3)
    places = []
    for weight in (fixed.astype(np.float64), moving.astype(np.float64)):
        total = weight.sum()
        centers, spreads = [], []
        for axis in range(3):
            profile = weight.sum(axis=tuple(a for a in range(3) if a != axis)) / total
            index = np.arange(len(profile))
            centers.append(float((profile * index).sum()))
            spreads.append(float(np.sqrt((profile * (index - centers[-1]) ** 2).sum())))
        places.append((centers[::-1], spreads[::-1]))  # ITK counts x, y, z
    (center, spread), (center_to, spread_to) = places
    transform.SetCenter(center)
    transform.SetTranslation([b - a for a, b in zip(center, center_to, strict=True)])
    scales = [np.clip(b / max(a, 1e-3), 0.5, 2.0) for a, b in zip(spread, spread_to, strict=True)]
    transform.SetMatrix(np.diag(scales).ravel().tolist())
    return transform


def affine(fixed: sitk.Image, moving: sitk.Image, first: sitk.AffineTransform) -> sitk.AffineTransform:
    """Improve an affine transform by the mean square of differences, coarse voxels first."""
    method = sitk.ImageRegistrationMethod()
    method.SetGlobalDefaultNumberOfThreads(1)
    method.SetMetricAsMeanSquares()
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 0.02, 60, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    small = [sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, 2.0), [4] * 3) for image in (fixed, moving)]
    found = sitk.AffineTransform(first)
    method.SetInitialTransform(found, inPlace=True)
    method.Execute(*small)
    return found


def deformation(fixed: sitk.Image, moving: sitk.Image, levels: tuple[tuple[int, int], ...] = LEVELS) -> sitk.Image:
    """Displacement field from `fixed` to `moving` by symmetric demons (Vercauteren et al. 2009), coarse to fine."""
    field = None
    for shrink, iterations in levels:
        pair = [
            sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, shrink / 2), [shrink] * 3) if shrink > 1 else image
            for image in (fixed, moving)
        ]
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfThreads(1)  # a sum over threads would depend on their number
        demons.SetNumberOfIterations(iterations)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(1.5)
        demons.SetSmoothUpdateField(True)
        demons.SetUpdateFieldStandardDeviations(1.0)
        if field is None:
            field = demons.Execute(*pair)
        else:
            field = demons.Execute(*pair, sitk.Resample(field, pair[0]))
    assert field is not None
    return field if field.GetSize() == fixed.GetSize() else sitk.Resample(field, fixed)


def registered(
    fixed: NDArray[np.float32], moving: NDArray[np.float32], levels: tuple[tuple[int, int], ...] = LEVELS
) -> tuple[NDArray[np.float32], float]:
    """Find the voxels of `moving` in `fixed`: affine from their extents, improved, then deformable.

    Parameters
    ----------
    fixed, moving : ndarray (plane, row, column)
        As `scored` gives them, at one voxel size.

    Returns
    -------
    ndarray (3, plane, row, column), float32
        Where each voxel of `fixed` lies in `moving`, in voxels.
    float
        Correlation of `fixed` and `moving` there, background included.
    """
    background = np.float32(-SCORE_LIMIT)
    first = start(fixed > background, (moving > background).astype(np.float32))
    a, b = _image(fixed), _image(moving)
    transform = affine(a, b, first)
    field = deformation(a, sitk.Resample(b, a, transform, sitk.sitkLinear, float(background)), levels)
    shifts = sitk.GetArrayViewFromImage(field)  # (plane, row, column, 3), x y z
    index = np.stack(np.meshgrid(*(np.arange(n) for n in fixed.shape), indexing="ij"), -1)[..., ::-1]
    matrix, center = np.array(transform.GetMatrix()).reshape(3, 3), np.array(transform.GetCenter())
    moved = (index + shifts - center) @ matrix.T + center + np.array(transform.GetTranslation())
    points = np.moveaxis(moved[..., ::-1], -1, 0).astype(np.float32)
    found = ndimage.map_coordinates(moving, points, order=1, mode="constant", cval=background)
    return points, float(np.corrcoef(found.ravel(), fixed.ravel())[0, 1])


def place(
    volume: Volume,
    spacing_mm: float,
    mean: NDArray[np.number],
    brain: Volume,
    box: Box | None = None,
) -> Placed:
    """Register an atlas to an image of its own domain.

    Parameters
    ----------
    volume : ndarray (plane, row, column), uint8
        Brain 1–255, background 0, RAS+.
    spacing_mm : float
        Its voxel size.
    mean, brain : ndarray (plane, row, column)
        Of the atlas: `Atlas.means` of the image's domain, and `Atlas.brain`.
    box : Box, optional
        Part of the image to register, for images of one study whose brains differ a little. Default: the brain's.
    """
    coarse = coarse_image(volume, spacing_mm, box)
    points, similarity = registered(scored(coarse.values, coarse.brain), scored(mean, brain >= 128))
    return Placed(points, coarse.box, similarity)


def brought(values: NDArray[np.number], placed: Placed) -> NDArray[np.float32]:
    """Values of an atlas (plane, row, column) at the voxels of the coarse image."""
    out = ndimage.map_coordinates(values.astype(np.float32), placed.points, order=1, mode="nearest")
    return np.asarray(out, np.float32)


class Brought(NamedTuple):
    """An atlas at the voxels of one image, coarse."""

    means: Volume
    """(n_domains, plane, row, column), 0 for a domain of which nothing is known."""
    spreads: Volume
    """Like `means`."""
    box: Box
    """Voxels of the image that this covers."""

    def plane(self, which: Volume, index: int) -> NDArray[np.float32]:
        """One plane of the image, at its rows and columns within `box`: maps (n, plane, row, column) → (n, row,
        column).
        """
        planes, rows, columns = (b.stop - b.start for b in self.box)
        at = (index - self.box[0].start + 0.5) * which.shape[1] / planes - 0.5
        low = int(np.clip(np.floor(at), 0, max(which.shape[1] - 2, 0)))
        high, share = min(low + 1, which.shape[1] - 1), np.float32(np.clip(at - low, 0, 1))
        between = which[:, low] * (1 - share) + which[:, high] * share
        return np.stack([resized(m, (rows, columns)) for m in between])


def bring(atlas: Atlas, placed: Placed) -> Brought:
    """Bring all domains of an atlas to an image."""
    means, spreads = (
        np.stack([np.clip(np.rint(brought(m, placed)), 0, 255).astype(np.uint8) for m in maps])
        for maps in (atlas.means, atlas.spreads)
    )
    return Brought(means, spreads, placed.box)
