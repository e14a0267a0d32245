"""Rigid registration by mutual information: of two images, and of the sequences of a subject to one of them.

Deterministic: one thread, fixed seeds. What may have gone wrong is said in words beside the transform.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from ummgat.core.volume import Array, Grid
from ummgat.prepare.rigid import Matrix, rotation_deg
from ummgat.prepare.search import Search, Side, one_thread

Image = tuple[Array, Grid]
"""Voxels of shape (x, y, z) and their grid."""

_LONGEST_DEG = 50.0
"""No head lies further from where its header says; beyond it is an orientation in the header that is wrong."""
_SHARPNESS = 1.5
"""Mutual information at the answer over that around it, below which the answer is not a peak."""
_SHARPNESS_OTHER = 1.15
"""The same against another person's brain, of which the folds do not fit."""
_OVERLAP = 0.6


@dataclass(frozen=True)
class Registration:
    """A rigid transform and whether to believe it."""

    matrix: Matrix
    """(4, 4): from the moving image's world to the fixed image's, mm, RAS+."""
    metric: float
    """Mutual information within the fixed mask, nats; higher is better, comparable for the same two images only."""
    identity_metric: float
    """The same with the headers believed."""
    sharpness: float
    """`metric` over its mean 8 mm or 8 degrees away; 1 is no peak at all."""
    problem: str | None = None
    """Why it may have failed; None if nothing speaks for it."""


def head_mask(data: Array, grid: Grid) -> NDArray[np.bool_]:
    """Head, or brain of a stripped image: what is brighter than the background, in one piece and without holes.

    Parameters
    ----------
    data : ndarray of shape grid.shape
    grid : Grid

    Returns
    -------
    bool ndarray of the same shape
    """
    values = ndimage.gaussian_filter(np.asarray(data, np.float32), [1.5 / s for s in grid.spacing_mm])
    if not values.max() > values.min():
        return np.zeros(values.shape, bool)
    capped = np.minimum(values, np.percentile(values, 98))  # bright fat must not hide the brain
    mask = ndimage.binary_opening(values > 0.7 * threshold_otsu(capped))
    parts, n = ndimage.label(mask)
    if n > 1:
        mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    # Slice by slice: a head that the field of view cuts has holes that are open at the cut.
    return np.stack([ndimage.binary_fill_holes(mask[..., k]) for k in range(mask.shape[2])], -1)


def register_rigid(
    fixed: Image,
    moving: Image,
    fixed_mask: Array | None = None,
    moving_mask: Array | None = None,
    seed: int = 0,
    same_brain: bool = True,
) -> Registration:
    """Find the rigid transform that brings `moving` onto `fixed`; any two sequences, any grids, starts of 15° and 20 mm
    and more.

    Starts at the headers, at the middles of both masks, and at both tilted; a coarse search with Mattes mutual
    information chooses, three finer levels refine. Of the two the one with thicker slices gives the points at which the
    other is interpolated.

    Parameters
    ----------
    fixed, moving : (ndarray of shape (x, y, z), Grid)
    fixed_mask, moving_mask : bool ndarray of the image's shape, optional
        Where to look, with a margin that is added; default the head.
    seed : int
        Of the points that are drawn.
    same_brain : bool
        False for another person's brain, as a template is: `fixed` then gives the points whatever its slices, as it is
        whole where the other may be cut off, and a lower peak is believed.

    Returns
    -------
    Registration

    Raises
    ------
    ValueError
        If an image is empty within its mask.
    """
    masks = [
        head_mask(*image) if mask is None else np.asarray(mask, bool)
        for image, mask in ((fixed, fixed_mask), (moving, moving_mask))
    ]
    for name, mask in zip(("fixed", "moving"), masks, strict=True):
        if not mask.any():
            raise ValueError(
                f"Nothing to register: the {name} image. Found no head in it; expected one. Look at the image, or "
                f"leave it out."
            )
    thicker = max(moving[1].spacing_mm) > 1.2 * max(fixed[1].spacing_mm)
    # Where one brain only is known, the points must come from it: a whole head around a stripped brain says nothing.
    swap = same_brain and (thicker if (fixed_mask is None) == (moving_mask is None) else fixed_mask is None)
    pair = [(fixed, masks[0]), (moving, masks[1])]
    if swap:
        pair.reverse()
    sides = [Side(*image, mask) for image, mask in pair]
    with one_thread():
        search = Search(sides[0], sides[1], seed)
        matrix = search.run()  # fixed side's world → moving side's world
        metric, identity = search.metric(matrix), search.metric(np.eye(4))
        sharpness = metric / max(search.around(matrix), 1e-9)
    problem = _problem(
        matrix, metric, identity, sharpness, search.overlap(matrix), _SHARPNESS if same_brain else _SHARPNESS_OTHER
    )
    forward = np.asarray(matrix if swap else np.linalg.inv(matrix), np.float64)
    return Registration(forward, metric, identity, sharpness, problem)


def register_subject(
    images: Mapping[str, Image], reference: str, masks: Mapping[str, Array] | None = None, seed: int = 0
) -> dict[str, Registration]:
    """Register every sequence of a subject to the one named `reference`, whose own transform is the identity.

    Parameters
    ----------
    images : mapping of sequence → (voxels, grid)
    reference : str
    masks : mapping of sequence → bool ndarray, optional
        Brain masks where they are known.
    """
    known = masks or {}
    return {
        name: Registration(np.eye(4), float("nan"), float("nan"), float("nan"))
        if name == reference
        else register_rigid(images[reference], image, known.get(reference), known.get(name), seed)
        for name, image in images.items()
    }


def choose_reference(images: Mapping[str, Image]) -> str:
    """The sequence to which the others are registered: t1ce, else t1, else the one with the smallest largest voxel
    side.
    """
    for name in ("t1ce", "t1"):
        if name in images:
            return name
    return min(images, key=lambda name: max(images[name][1].spacing_mm))


def _problem(
    matrix: Matrix, metric: float, identity: float, sharpness: float, overlap: float, least: float
) -> str | None:
    """Say what speaks against a transform, with numbers."""
    found = []
    if metric < identity * 0.98:
        found.append(f"mutual information {metric:.3f} is below the {identity:.3f} of the headers as they are")
    if sharpness < least:
        found.append(f"mutual information is only {sharpness:.2f} times that around it, below {least:g}")
    if rotation_deg(matrix) > _LONGEST_DEG:
        found.append(f"a rotation of {rotation_deg(matrix):.0f} degrees is beyond {_LONGEST_DEG:g}")
    if overlap < _OVERLAP:
        found.append(f"only {overlap:.0%} of one image lies within the other, below {_OVERLAP:.0%}")
    return "; ".join(found) or None
