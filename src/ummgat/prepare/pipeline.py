"""From the images of one subject as scanned to brains on one grid: every step of SPEC's preprocessing, in order.

reorient → N4 (optional) → register to one sequence → that to a template → one linear interpolation to 1 mm → strip and
crop to the common grid. Transforms are multiplied, never applied one after the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ummgat.core.volume import FACES, Grid, read_volume, resample, resample_inside
from ummgat.prepare.brain import Brain, find_brain
from ummgat.prepare.images import StudyError, reorient
from ummgat.prepare.n4 import correct_bias
from ummgat.prepare.register import Image, Registration, choose_reference, head_mask, register_rigid, register_subject
from ummgat.prepare.rigid import Matrix, moved
from ummgat.prepare.settings import RawSettings
from ummgat.prepare.skullstrip import is_stripped, odd_volume
from ummgat.prepare.template import load_template

_LEAST_COVERED = 0.97
_CUT = 0.05
"""Part of the largest cross-section that the outermost plane of a whole brain does not show."""
_TEMPLATE = "template"


@dataclass
class Aligned:
    """One subject on the common grid."""

    images: dict[str, Image]
    """Sequence → (float32 (x, y, z), common grid): brain above 0, background exactly 0."""
    mask: NDArray[np.bool_]
    """Brain on the common grid."""
    grid: Grid
    original: dict[str, Grid]
    """Grid of each file, in the file's own order of voxels, so that results can go back."""
    transforms: dict[str, Matrix]
    """Sequence → (4, 4) from the file's world to the common one, mm, RAS+; its inverse leads back."""
    reference: str
    registrations: dict[str, Registration] = field(default_factory=dict)
    """Sequence → to the reference; `template` → the reference to the template."""
    stripped_by: str = ""
    untouched: str | None = None
    """Why nothing was done; None if something was."""
    findings: list[str] = field(default_factory=list)


def align_subject(
    files: Mapping[str, Path], subject: str, settings: RawSettings | None = None, mask: Path | None = None
) -> Aligned:
    """Bring the sequences of one subject to one grid, stripped; leave them as they are if they are so already.

    Parameters
    ----------
    files : mapping of sequence → NIfTI file
        On any grids, in any orientation, with the skull or without.
    subject : str
        For messages.
    settings : RawSettings, optional
    mask : Path, optional
        Brain mask on the grid of one of the files.

    Returns
    -------
    Aligned

    Raises
    ------
    StudyError
        All problems of the study at once: unreadable or sheared files, no way to find the brain.
    FileNotFoundError
        The brain must be found and this package came without weights.
    """
    how = RawSettings() if settings is None else settings
    images, original = _read(files, subject, how)
    brain_mask = None if mask is None else read_volume(mask)
    ready = None if mask is not None else already_prepared(images)
    if ready is not None:
        return _as_they_are(images, original, ready, how.reference)
    try:
        brain = find_brain(images, subject, files, brain_mask, mask)
    except ValueError as error:
        raise StudyError(subject, [str(error)]) from error
    if how.n4:
        images = {name: (correct_bias(*image, _where(name, image, brain)), image[1]) for name, image in images.items()}
    reference = how.reference or choose_reference(images)
    found = register_subject(images, reference, brain.stripped)
    template, template_grid, common = load_template(how.template)
    to_reference = {name: registration.matrix for name, registration in found.items()}
    carried = carry_mask(brain, to_reference[brain.owner], images[reference][1])
    found[_TEMPLATE] = _to_template((template, template_grid), images[reference], carried)
    transforms = {name: found[_TEMPLATE].matrix @ matrix for name, matrix in to_reference.items()}
    owner_grid = moved(brain.grid, transforms[brain.owner])
    inside = resample(brain.mask.astype(np.float32), owner_grid, common) >= 0.5
    out = Aligned(
        {
            name: to_grid(image, transforms[name], common, inside, brain.stripped.get(name))
            for name, image in images.items()
        },
        inside,
        common,
        original,
        transforms,
        reference,
        found,
        brain.how,
    )
    out.findings = _findings(out, brain)
    return out


def already_prepared(images: Mapping[str, Image]) -> str | None:
    """Say why images need no preparation: one grid, all stripped, and brains at the same place. None if they do."""
    (first, grid), *rest = images.values()
    if not all(grid.matches(other) for _, other in rest):
        return None
    reasons = [is_stripped(*image) for image in images.values()]
    if not all(found.stripped for found in reasons):
        return None
    brain = np.asarray(first != 0)
    least = min([1.0, *(2 * float((brain & (d != 0)).sum()) / float(brain.sum() + (d != 0).sum()) for d, _ in rest)])
    if least < 0.9:
        return None
    return f"already prepared: one grid, stripped ({reasons[0].reason}), brains overlap by at least {least:.2f} (Dice)"


def to_grid(
    image: Image, matrix: Matrix, common: Grid, brain: NDArray[np.bool_], own: NDArray[np.bool_] | None = None
) -> Image:
    """Interpolate an image once, linearly, to the common grid, and leave the brain only.

    Parameters
    ----------
    image : (voxels, grid)
    matrix : (4, 4)
        From the image's world to the common one.
    common : Grid
    brain : bool ndarray of shape common.shape
    own : bool ndarray of the image's shape, optional
        The brain of an image that is stripped already; it then speaks for itself.

    Returns
    -------
    (float32 ndarray of shape common.shape, Grid)
        Above 0 wherever the image shows brain, else exactly 0.
    """
    data, grid = image
    there = moved(grid, matrix)
    seen = np.ones(grid.shape, bool) if own is None else own
    values = resample_inside(data, seen, there, common)
    covered = resample(seen.astype(np.float32), there, common) >= 0.5
    inside = covered if own is not None else covered & brain
    positive = values[inside & (values > 0)]
    least = np.float32(positive.min()) if positive.size else np.float32(1)
    return np.where(inside, np.maximum(values, least), np.float32(0)).astype(np.float32), common


def carry_mask(brain: Brain, matrix: Matrix, grid: Grid) -> NDArray[np.bool_]:
    """The brain mask on the grid of another sequence; `matrix` leads there from the mask's world."""
    return np.asarray(resample(brain.mask.astype(np.float32), moved(brain.grid, matrix), grid) >= 0.5)


def _read(files: Mapping[str, Path], subject: str, how: RawSettings) -> tuple[dict[str, Image], dict[str, Grid]]:
    """Images in RAS+ order, and the grids of their files."""
    images: dict[str, Image] = {}
    original: dict[str, Grid] = {}
    problems = []
    if not files or (how.reference is not None and how.reference not in files):
        wanted = how.reference or "at least one sequence"
        problems.append(
            f"Study lacks its reference: {subject}. Found {', '.join(files) or 'no image'}; expected {wanted}. "
            "Add it, or choose another reference."
        )
    for name, path in files.items():
        try:
            data, original[name] = read_volume(path)
            data, grid = reorient(data, original[name])
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        images[name] = (data, grid)
    if problems:
        raise StudyError(subject, problems)
    return images, original


def _as_they_are(images: Mapping[str, Image], original: dict[str, Grid], reason: str, reference: str | None) -> Aligned:
    grid = next(iter(images.values()))[1]
    brain = np.logical_or.reduce([np.asarray(data != 0) for data, _ in images.values()])
    return Aligned(
        dict(images),
        brain,
        grid,
        original,
        {name: np.eye(4) for name in images},
        reference or choose_reference(images),
        stripped_by="already stripped",
        untouched=reason,
    )


def _where(name: str, image: Image, brain: Brain) -> NDArray[np.bool_]:
    """Voxels from which the shading of an image is estimated."""
    if name in brain.stripped:
        return brain.stripped[name]
    return brain.mask if name == brain.owner else head_mask(*image)


def _to_template(template: Image, image: Image, brain: NDArray[np.bool_]) -> Registration:
    """Register the reference: brain to brain, or head to head if the template has its skull."""
    if not is_stripped(*template).stripped:
        return register_rigid(template, image, same_brain=False)
    stripped = np.where(brain, image[0], 0), image[1]
    return register_rigid(template, stripped, np.asarray(template[0] > 0), brain, same_brain=False)


def _findings(aligned: Aligned, brain: Brain) -> list[str]:
    """Remarks, with numbers."""
    found = [
        f"Registration of {name if name != _TEMPLATE else aligned.reference} to "
        f"{aligned.reference if name != _TEMPLATE else 'the template'} may have failed: {registration.problem}. Look "
        f"at it."
        for name, registration in aligned.registrations.items()
        if registration.problem is not None
    ]
    ml = float(brain.mask.sum()) * brain.grid.voxel_ml
    kept = float(aligned.mask.sum()) * aligned.grid.voxel_ml / ml
    if kept < _LEAST_COVERED:
        found.append(f"{1 - kept:.0%} of the brain lies outside the common grid.")
    for name, (data, _) in aligned.images.items():
        share = float((data > 0)[aligned.mask].mean())
        if share < _LEAST_COVERED:
            found.append(f"{name} shows {share:.0%} of the brain only: its field of view ends before.")
    found += _cut_off(brain)
    odd = odd_volume(brain.mask, brain.grid)
    return [*found, *([odd] if odd else [])]


def _cut_off(brain: Brain) -> list[str]:
    """Say where the image that gave the mask ends within the brain: there the mask is too small for the others too."""
    found = []
    for axis, ends in enumerate(FACES):
        areas = brain.mask.sum(tuple(a for a in range(3) if a != axis))
        for name, area in zip(ends, (areas[0], areas[-1]), strict=True):
            share = float(area) / float(areas.max())
            if share > _CUT:
                found.append(
                    f"{brain.owner} ends within the brain at the {name}: its last plane there shows {share:.0%} of the "
                    f"largest cross-section. The mask ends with it."
                )
    return found
