"""Prepare one study of a cohort from its files to its folder; a problem of it is an error with a message."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ummgat.core.files import explained_full_disk, replaced_folder
from ummgat.core.placement import disagreement, header_of, placement_of
from ummgat.core.study import StudyRecord, write_study
from ummgat.core.volume import resample, write_volume
from ummgat.intake.layouts import LABELS_EITHER, NUMBERINGS, RawStudy
from ummgat.prepare.images import prepare_images
from ummgat.prepare.labels import OWN_LABELS
from ummgat.prepare.settings import PrepareSettings

if TYPE_CHECKING:
    from ummgat.prepare.raw_study import ReadyStudy

BRAIN_MASK = "brain_mask.nii"


def prepare_one(raw: RawStudy, center: str, folder: Path, fingerprint: str, settings: PrepareSettings) -> None:
    """Prepare and write one study; nothing is written if it has a problem.

    Parameters
    ----------
    raw : RawStudy
    center : str
    folder : Path
        Of the prepared study; replaced as a whole.
    fingerprint : str
        Goes into the record, see `store.fingerprint`.
    settings : PrepareSettings

    Raises
    ------
    ValueError, OSError, ImportError, MemoryError
        The problem.
    """
    with _unpacked(raw) as study:
        if settings.label_numbers is not None and study.label_table == LABELS_EITHER:
            study = replace(study, label_table=NUMBERINGS[settings.label_numbers])
        _prepare(study, center, folder, fingerprint, settings)


@contextmanager
def _unpacked(raw: RawStudy) -> Iterator[RawStudy]:
    """The study as NIfTI files, in a folder that is gone afterwards if they had to be made."""
    if raw.packed is None:
        yield raw
        return
    with tempfile.TemporaryDirectory(prefix="ummgat-") as name:
        study = replace(raw.packed.unpack(Path(name)), findings=raw.findings, packed=raw.packed)
        study.left_out = raw.left_out
        try:
            yield study
        except (ValueError, ImportError) as error:
            # The files are gone when the message is read: it names what they were made from.
            text = str(error)
            for role, origin in raw.packed.origins.items():
                text = text.replace(str(Path(name, f"{role}.nii.gz")), origin)
            raise ValueError(text) from error


def _prepare(raw: RawStudy, center: str, folder: Path, fingerprint: str, settings: PrepareSettings) -> None:
    ready = _ready(raw, settings)
    record, volumes, labels = prepare_images(
        raw.images if ready is None else ready.images,
        raw.labels if ready is None else ready.labels,
        subject=raw.subject,
        center=center,
        spacing_mm=settings.spacing_mm,
        label_table=raw.label_table if ready is None else OWN_LABELS,
        labels_regions=raw.labels_regions if ready is None else ready.regions,
        crop_mm=settings.crop_mm,
        findings=(*raw.findings, *(() if ready is None else ready.findings)),
    )
    origins = raw.packed.origins if raw.packed is not None else {q: path.name for q, path in raw.images.items()}
    for sequence, image in record.images.items():
        image.source_file = origins[sequence]
    record.findings += _disagreements(raw)
    record.fingerprint = fingerprint
    record.left_out = {name: list(sequences) for name, sequences in raw.left_out.items()}
    with explained_full_disk(folder), replaced_folder(folder) as temporary:
        if ready is not None:
            record.alignment = ready.alignment
            placed = {sequence: placement_of(path) for sequence, path in raw.images.items()}
            record.placements = {sequence: place for sequence, place in placed.items() if place is not None}
            _write_mask(temporary, ready, record)
        write_study(temporary, record, dict(volumes), labels)


def _disagreements(raw: RawStudy) -> list[str]:
    """Remarks on files that programs place differently."""
    found = {path: disagreement(header_of(path)) for path in raw.images.values()}
    return [f"{path.name}: {text}." for path, text in found.items() if text]


def _ready(raw: RawStudy, settings: PrepareSettings) -> "ReadyStudy | None":
    """The study registered and stripped, if it comes raw."""
    if not settings.raw:
        return None
    from ummgat.prepare.raw_study import ready_study  # loads SimpleITK

    return ready_study(raw, settings)


def _write_mask(folder: Path, ready: "ReadyStudy", record: StudyRecord) -> None:
    """Keep the brain mask, on the study's grid."""
    mask, grid = ready.mask
    target = record.grid.grid()
    record.brain_mask_file = BRAIN_MASK
    write_volume(folder / BRAIN_MASK, (resample(mask.astype(np.float32), grid, target) >= 0.5).astype(np.uint8), target)
