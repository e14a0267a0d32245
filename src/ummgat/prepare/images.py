"""Prepare one study in memory: check its images, bring them to one RAS+ isotropic grid, scale them to uint8."""

import math
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ummgat.core.crop import crop_lost_voxels, crop_shape
from ummgat.core.domain import SEQUENCES, check_sequence
from ummgat.core.normalise import Scaled, brain_mask, scale_to_uint8
from ummgat.core.study import GridRecord, ImageRecord, StudyRecord
from ummgat.core.volume import FACES, Array, Grid, read_volume, resample, resample_inside
from ummgat.intake.layouts import LABELS_EITHER, Regions
from ummgat.prepare.labels import resample_labels, translate

Image = Path | tuple[Array, Grid]
"""A file, or voxels of shape (x, y, z) with their grid."""

_MOST_LESION = 0.5
_STRAIGHT = 0.5
"""Part of a lesion's largest cross-section that the outermost plane of a round one does not show."""
_LEAST_PLANES = 8

MOST_VOXELS = 500_000_000
"""Of a prepared volume: a head of 240 mm at 0.3 mm, with room."""

Prepared = tuple[StudyRecord, dict[str, NDArray[np.uint8]], NDArray[np.uint8] | None]


class StudyError(ValueError):
    """All problems of one study, one per line."""

    def __init__(self, subject: str, problems: list[str]) -> None:
        self.subject, self.problems = subject, problems
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(problems[0] if len(problems) == 1 else f"{len(problems)} problems in study {subject}:{lines}")

    def __reduce__(self) -> tuple[type["StudyError"], tuple[str, list[str]]]:
        """Pickle by the original arguments, so that it survives the way back from a worker process."""
        return StudyError, (self.subject, self.problems)


def prepare_images(
    images: Mapping[str, Image],
    labels: Image | None = None,
    *,
    subject: str,
    center: str,
    spacing_mm: float = 1.0,
    label_table: Mapping[int, str] = LABELS_EITHER,
    labels_regions: Regions = "unsaid",
    crop_mm: tuple[float, float, float] = (155.0, 176.0, 176.0),
    findings: tuple[str, ...] = (),
) -> Prepared:
    """Prepare one study without writing anything.

    Parameters
    ----------
    images : mapping of sequence → file or (voxels of shape (x, y, z), grid)
        Co-registered, on one grid, skull-stripped with background 0.
    labels : file or (voxels, grid), optional
        On the same grid. None: nobody annotated the subject, which is not the same as an empty annotation.
    subject, center : str
    spacing_mm : float
    label_table, labels_regions
        See `labels.translate`.
    crop_mm : (float, float, float)
        Training crop (plane, row, column) for which lost voxels are counted.
    findings : tuple of str
        Remarks that go into the record.

    Returns
    -------
    record : StudyRecord
        With file names as `write_study` wants them.
    volumes : dict of sequence → uint8 ndarray of shape (plane, row, column)
        Brain 1–255, background 0, in the order of `SEQUENCES`. Each sequence keeps its own brain mask; the brain of
        the study, of which `brain_voxels` and `crop_lost_voxels` speak, is their union.
    labels : uint8 ndarray of shape (plane, row, column), or None

    Raises
    ------
    StudyError (a ValueError)
        All problems of the study at once.
    """
    problems: list[str] = []
    raw: dict[str, tuple[Array, Grid]] = {}
    if not images:
        problems.append(f"Study has no image: {subject}. Found none; expected at least one sequence. Add one.")
    for sequence in sorted(images, key=lambda s: SEQUENCES.index(check_sequence(s, f"study {subject}"))):
        _try_read(images[sequence], sequence, raw, problems)
    if labels is not None:
        _try_read(labels, "labels", raw, problems)
    problems += grid_problems(subject, {name: (_where(name, images, labels), grid) for name, (_, grid) in raw.items()})
    if problems:
        raise StudyError(subject, problems)
    original = next(iter(raw.values()))[1]
    target = original.canonical(spacing_mm)
    if math.prod(target.shape) > MOST_VOXELS:
        found = f"{' × '.join(map(str, target.shape))} voxels of {spacing_mm:g} mm"
        where = _where(next(iter(images)), images, labels)
        problem = (
            f"Study would take too much memory: {where}. Found {found}; expected at most {MOST_VOXELS:.0e}. Prepare at "
            f"a larger --spacing, or crop the images."
        )
        raise StudyError(subject, [problem])

    annotation = raw.pop("labels", None)
    volumes: dict[str, NDArray[np.uint8]] = {}
    records: dict[str, ImageRecord] = {}
    for sequence, (data, grid) in raw.items():
        source = images[sequence]
        try:
            volume, scaled = _prepare_volume(data, grid, target, str(_where(sequence, images, labels)))
        except ValueError as error:
            problems.append(str(error))
            continue
        volumes[sequence] = volume
        records[sequence] = ImageRecord(
            file=f"{sequence}.nii",
            source_file=source.name if isinstance(source, Path) else None,
            intensity_low=scaled.low,
            intensity_high=scaled.high,
            clipped_fraction=scaled.clipped_fraction,
        )
    prepared_labels: NDArray[np.uint8] | None = None
    regions: Regions = "multi"
    if annotation is not None:
        try:
            data, grid = reorient(*annotation)
            table = dict(label_table)
            numbered, regions = translate(data, table, labels_regions, str(_where("labels", images, labels)))
            prepared_labels = resample_labels(numbered, grid, target).T
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise StudyError(subject, problems)

    brain = np.logical_or.reduce([volume > 0 for volume in volumes.values()])
    if prepared_labels is not None:
        share = float((prepared_labels[brain] > 0).mean())
        if share > _MOST_LESION:
            problem = (
                f"Annotation is no lesion: {_where('labels', images, labels)}. Found it in {share:.0%} of the brain; "
                f"expected at most {_MOST_LESION:.0%}. It is probably a brain mask: move it away, or call it "
                f"brain_mask.nii.gz."
            )
            raise StudyError(subject, [problem])
    record_of_study = StudyRecord(
        subject=subject,
        center=center,
        grid=GridRecord.of(target),
        original_grid=GridRecord.of(original),
        images=records,
        labels_file=None if prepared_labels is None else "labels.nii",
        labels_regions="wt" if regions == "wt" else "multi",
        brain_voxels=int(brain.sum()),
        crop_lost_voxels=crop_lost_voxels(brain, crop_shape(crop_mm, spacing_mm)),
        findings=[*findings, *_duplicates(volumes), *_misplaced(prepared_labels, brain), *_cut(prepared_labels)],
    )
    return record_of_study, volumes, prepared_labels


def reorient(data: Array, grid: Grid) -> tuple[Array, Grid]:
    """Flip and permute axes to RAS+ order without touching a value, so that every orientation gives the same result.

    Returns
    -------
    data : ndarray of shape grid.shape
        A view where nothing moves, else a copy; contiguous either way.
    grid : Grid
    """
    orientation = nib.orientations.io_orientation(grid.matrix)
    affine = grid.matrix @ nib.orientations.inv_ornt_aff(orientation, grid.shape)
    turned = np.ascontiguousarray(nib.orientations.apply_orientation(data, orientation))
    return turned, Grid.of(turned.shape, affine)


def grid_problems(subject: str, grids: Mapping[str, tuple[str | Path, Grid]]) -> list[str]:
    """One message per image that is not on the grid of the first one.

    Parameters
    ----------
    subject : str
    grids : mapping of name → (where, grid)
    """
    found = []
    names = list(grids)
    for name in names[1:]:
        (where, grid), (first_where, first) = grids[name], grids[names[0]]
        if not grid.matches(first):
            found.append(
                f"{names[0]} and {name} of subject {subject} are on different grids: {where}. Found {_describe(grid)}; "
                f"expected {_describe(first)} like {first_where}. Register and resample the study to one grid first, "
                f"or remove the file to treat {name} as missing."
            )
    return found


def _describe(grid: Grid) -> str:
    spacing = " × ".join(f"{v:.4g}" for v in grid.spacing_mm)
    origin = ", ".join(f"{v:.4g}" for v in grid.matrix[:3, 3])
    axes = "".join(nib.aff2axcodes(grid.matrix))
    return f"{' × '.join(map(str, grid.shape))} voxels of {spacing} mm, {axes}, first voxel at ({origin}) mm"


def _where(name: str, images: Mapping[str, Image], labels: Image | None) -> str | Path:
    image = labels if name == "labels" else images[name]
    return image if isinstance(image, Path) else f"{name} in memory"


def _try_read(image: Image, name: str, raw: dict[str, tuple[Array, Grid]], problems: list[str]) -> None:
    try:
        raw[name] = read_volume(image) if isinstance(image, Path) else image
    except (ValueError, OSError) as error:
        problems.append(str(error))


def _prepare_volume(data: Array, grid: Grid, target: Grid, where: str) -> tuple[NDArray[np.uint8], Scaled]:
    """One raw volume (x, y, z) on `grid` → uint8 of shape (plane, row, column) on `target`, and how it was scaled."""
    data, grid = reorient(data, grid)
    brain = brain_mask(data, where)
    values = resample_inside(data, brain, grid, target)
    inside = resample(brain.astype(np.float32), grid, target) >= 0.5 - 1e-4
    scaled = scale_to_uint8(values, inside, where)
    return scaled.data.T, scaled


def _duplicates(volumes: Mapping[str, NDArray[np.uint8]]) -> list[str]:
    """Remarks on sequences that show the same voxels, up to a linear scale."""
    names = list(volumes)
    return [
        f"{a} and {b} are voxel-identical: one of them is probably mislabelled or a copy."
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if np.array_equal(volumes[a], volumes[b])
    ]


def _misplaced(labels: NDArray[np.uint8] | None, brain: NDArray[np.bool_]) -> list[str]:
    """Remark that more than half of the lesion lies outside the brain."""
    if labels is None or not labels.any():
        return []
    outside = float((labels[~brain] > 0).sum() / (labels > 0).sum())
    return (
        [f"{outside:.0%} of the annotated lesion lies outside the brain: check the annotation."]
        if outside > 0.5
        else []
    )


def _cut(labels: NDArray[np.uint8] | None) -> list[str]:
    """Remark that a lesion ends in a plane: drawn in a box, or cut with the image. Small lesions say nothing."""
    if labels is None or not labels.any():
        return []
    lesion = labels > 0
    for axis, ends in zip((2, 1, 0), FACES, strict=True):
        areas = lesion.sum(axis=tuple(a for a in range(3) if a != axis))
        shown = np.flatnonzero(areas)
        if shown[-1] - shown[0] < _LEAST_PLANES:
            continue
        for end, area in zip(ends, (areas[shown[0]], areas[shown[-1]]), strict=True):
            if area > _STRAIGHT * areas.max() and area >= _LEAST_PLANES**2:
                text = (
                    f"The annotated lesion has a straight edge at the {end}: its last plane there shows "
                    f"{area / areas.max():.0%} of the largest cross-section. Check the annotation."
                )
                return [text]
    return []
