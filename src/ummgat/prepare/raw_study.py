"""The hook between `pipeline` and `cohort`: a raw study becomes what `images.prepare_images` takes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ummgat.core.study import AlignmentRecord, GridRecord, RegistrationRecord
from ummgat.core.volume import Grid, read_volume, same_voxels
from ummgat.intake.layouts import RawStudy, Regions
from ummgat.prepare.images import reorient
from ummgat.prepare.labels import resample_labels, translate
from ummgat.prepare.pipeline import Aligned, align_subject
from ummgat.prepare.register import Image
from ummgat.prepare.rigid import moved
from ummgat.prepare.settings import PrepareSettings


@dataclass(frozen=True)
class ReadyStudy:
    """A study on the common grid, for `prepare_images`."""

    images: dict[str, Image]
    labels: tuple[NDArray[np.uint8], Grid] | None
    """Numbered as `LABELS`."""
    regions: Regions
    alignment: AlignmentRecord
    mask: tuple[NDArray[np.bool_], Grid]
    """The brain."""
    findings: list[str]


def ready_study(raw: RawStudy, settings: PrepareSettings) -> ReadyStudy:
    """Run the pipeline on one raw study and carry its annotation along.

    Raises
    ------
    StudyError, ValueError, ImportError
        See `pipeline.align_subject`; an annotation that is on the grid of no image.
    """
    mask = raw.brain_mask or _mask_file(raw, settings.brain_mask)
    aligned = align_subject(raw.images, raw.subject, settings.raw_settings(), mask)
    labels, regions = None, raw.labels_regions
    if raw.labels is not None:
        data, grid = reorient(*read_volume(raw.labels))
        numbered, regions = translate(data, raw.label_table, raw.labels_regions, str(raw.labels))
        carried = resample_labels(
            numbered, moved(grid, aligned.transforms[_drawn_on(grid, raw, aligned)]), aligned.grid
        )
        labels = carried, aligned.grid
    findings = list(aligned.findings)
    if aligned.untouched is not None:
        findings.append(f"Left as it is: {aligned.untouched}.")
    return ReadyStudy(
        aligned.images, labels, regions, _record(aligned, settings), (aligned.mask, aligned.grid), findings
    )


def _mask_file(raw: RawStudy, name: str | None) -> Path | None:
    if name is None:
        return None
    path = next(iter(raw.images.values())).parent / name
    if not path.is_file():
        raise FileNotFoundError(
            f"Brain mask is missing: {path}. Found no file; expected the mask that --brain-mask names in every study. "
            f"Add it, or prepare this study without the option."
        )
    return path


def _drawn_on(grid: Grid, raw: RawStudy, aligned: Aligned) -> str:
    """The sequence on whose grid an annotation lies."""
    for name, own in aligned.original.items():
        if same_voxels(grid, own):
            return name
    raise ValueError(
        f"Annotation fits no image: {raw.labels}. Found a grid of {grid.shape} voxels; expected that of one of "
        f"{', '.join(raw.images)}. Export it on the grid of the sequence it was drawn on."
    )


def _record(aligned: Aligned, settings: PrepareSettings) -> AlignmentRecord:
    template = "MNI152" if settings.template is None else settings.template.name
    return AlignmentRecord(
        reference=aligned.reference,
        template=None if aligned.untouched is not None else template,
        stripped_by=aligned.stripped_by,
        transforms={name: matrix.tolist() for name, matrix in aligned.transforms.items()},
        original_grids={name: GridRecord.of(grid) for name, grid in aligned.original.items()},
        registrations={
            name: RegistrationRecord(
                metric=found.metric,
                identity_metric=found.identity_metric,
                sharpness=found.sharpness,
                problem=found.problem,
            )
            for name, found in aligned.registrations.items()
            if name != aligned.reference
        },
    )
