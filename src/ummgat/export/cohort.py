"""Completed cohorts out: study by study, a bad one is reported and the rest is done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ummgat.core.extras import need
from ummgat.core.files import FULL, explained_full_disk, replaced_folder, require_new
from ummgat.core.study import AlignmentRecord
from ummgat.core.volume import Grid, read_volume
from ummgat.export.bids import bids_label, write_dataset, write_subject
from ummgat.export.completed import CompletedStudy, completed_folders, read_completed
from ummgat.export.deidentify import Alias, UidMap
from ummgat.export.dicom import write_generated
from ummgat.export.seg import Algorithm, write_seg
from ummgat.export.sources import Candidate, Sources, find_sources, on_grid, place_and_sources
from ummgat.export.wording import MARK, shown, sources_of
from ummgat.intake.layouts import LABELS_EITHER
from ummgat.prepare.labels import resample_labels, translate
from ummgat.prepare.rigid import moved

Progress = Callable[[int, int, str], None]
"""(studies finished, studies in all, subject)."""


@dataclass
class ExportReport:
    """What was written."""

    done: dict[str, list[str]] = field(default_factory=dict)
    """Subject → series folders and files, relative to the output folder."""
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Segmentations:
    """Label maps to export, and what drew them."""

    place: Path
    """A NIfTI file, for one study; or a folder of `<subject>.nii.gz` or `<subject>_seg.nii.gz`."""
    algorithm: Algorithm


def export_bids(
    completed: Path, out: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> ExportReport:
    """Write completed studies as BIDS derivatives.

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError
        No completed studies, or something in `out` already. Problems of one study go into the report.
    """
    folders = completed_folders(completed)
    _check_out(out, overwrite, completed)
    labels: dict[str, str] = {}

    def write(study: CompletedStudy) -> list[str]:
        label = bids_label(study.subject)
        if label.lower() in labels:
            raise ValueError(
                f"Two subjects have one BIDS label: {study.subject}. Found {labels[label.lower()]} with {label} too; expected "
                "names that differ in letters and digits. Rename one."
            )
        with replaced_folder(out / f"sub-{label}") as temporary:
            files = write_subject(study, temporary, label)
        labels[label.lower()] = label
        return [f"sub-{label}/{name}" for name in files]

    report = _each(folders, out, write, progress)
    write_dataset(out, list(labels.values()))
    return report


def export_dicom(
    completed: Path,
    out: Path,
    source: Path,
    *,
    sheet: Path | None = None,
    deidentify: bool = False,
    mark: bool = False,
    segmentations: Segmentations | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the generated images of completed studies as DICOM series, and label maps as DICOM SEG.

    Parameters
    ----------
    completed : Path
        NIfTI studies completed in the grid of their series; not prepared ones, whose grid is another.
    out : Path
        Gets `<subject>/<sequence>_SYNTHETIC/IM0001.dcm` … and `<subject>/tumour_SEG.dcm`.
    source : Path
        DICOM folder with the acquired series.
    sheet : Path, optional
        See `find_sources`; needed for more than one patient.
    deidentify : bool
        Write the subject's label instead of the patient, and new UIDs, the same for one old UID wherever it occurs in
        this export; with a sheet, also in the next.
    mark : bool
        Burn SYNTHETIC into generated planes.
    segmentations : Segmentations, optional

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError
        For what concerns the whole call. Problems of one study go into the report.
    """
    for package in ("pydicom", *(["highdicom"] if segmentations else [])):
        need(package, "dicom")
    folders = completed_folders(completed)
    _check_out(out, overwrite, completed, source)
    sources = find_sources(source, sheet)
    if sources.one_patient and len(folders) > 1:
        raise ValueError(
            f"Studies cannot be told apart: {completed}. Found {len(folders)} studies and no sheet; expected one study, or a sheet "
            "that says whose the series are. Give --sheet SHEET of `ummgat inspect --out`."
        )
    if segmentations and segmentations.place.is_file() and len(folders) > 1:
        raise ValueError(
            f"One label map for several studies: {segmentations.place}. Found {len(folders)} studies; expected one. Give a folder "
            "of files called <subject>.nii.gz."
        )
    uids = UidMap(sources.salt)

    def write(study: CompletedStudy) -> list[str]:
        with replaced_folder(out / study.subject) as temporary:
            alias = Alias(study.subject, uids) if deidentify else None
            names = _write_study(study, temporary, sources, alias, mark, segmentations)
        return [f"{study.subject}/{name}" for name in names]

    return _each(folders, out, write, progress)


def _check_out(out: Path, overwrite: bool, *inputs: Path) -> None:
    """Refuse an output folder that holds something, or that is an input, within one or around one."""
    require_new(out, overwrite)
    there = out.resolve()
    for given in inputs:
        place = given.resolve()
        if there.is_relative_to(place) or place.is_relative_to(there):
            raise ValueError(
                f"Output and input are not apart: {out}. Found one inside the other; expected another place. Choose one: inputs are "
                "never changed."
            )


def _each(
    folders: Sequence[Path], out: Path, write: Callable[[CompletedStudy], list[str]], progress: Progress | None
) -> ExportReport:
    report = ExportReport()
    for i, folder in enumerate(folders):
        try:
            with explained_full_disk(out / folder.name):
                report.done[folder.name] = write(read_completed(folder))
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno in FULL:  # stops every study
                raise
            report.failed[folder.name] = str(error)
        if progress is not None:
            progress(i + 1, len(folders), folder.name)
    return report


def _write_study(
    study: CompletedStudy,
    folder: Path,
    sources: Sources,
    alias: Alias | None,
    mark: bool,
    segmentations: Segmentations | None,
) -> list[str]:
    if study.prepared and not study.native:
        raise ValueError(
            f"Study is on the grid of `ummgat prepare`: {study.subject}. Found a study.json and no generated image on the grid of the scan; "
            "expected some. Complete the NIfTI folder itself, or a cohort of `ummgat prepare --raw`, then export."
        )
    candidates, names = sources.of(study.subject), []
    for number, image in enumerate(study.native if study.prepared else study.generated):
        data, grid = read_volume(image.file)
        what = f"{shown(image.sequence)} of {study.subject}"
        place, made_from = place_and_sources(candidates, grid, sources_of(image.provenance), what)
        name = f"{image.sequence}_{MARK}" + ("_aligned" if image.aligned else "")
        write_generated(
            data,
            grid,
            place,
            image.provenance,
            folder / name,
            sources=made_from,
            mark=mark,
            alias=alias,
            series_number=9001 + number,
        )
        names.append(name)
    labels = _labels_of(study.subject, segmentations) if segmentations else None
    if segmentations and labels is not None:
        _write_labels(study, labels, folder / "tumour_SEG.dcm", candidates, segmentations.algorithm, alias)
        names.append("tumour_SEG.dcm")
    if not names:
        raise ValueError(
            f"Study has nothing to export: {study.subject}. Found no generated image and no label map; expected one. Complete it "
            "first, or leave it out."
        )
    return names


def _on_the_scan(labels: NDArray[np.uint8], grid: Grid, alignment: AlignmentRecord) -> tuple[NDArray[np.uint8], Grid]:
    """Labels drawn on a prepared study, on the grid of the scan that the others were registered to."""
    back = np.linalg.inv(np.array(alignment.transforms[alignment.reference]))
    original = alignment.original_grids[alignment.reference].grid()
    return resample_labels(labels, moved(grid, back), original), original


def _labels_of(subject: str, segmentations: Segmentations) -> Path | None:
    place = segmentations.place
    if place.is_file():
        return place
    names = [f"{subject}{middle}.nii{end}" for middle in ("", "_seg") for end in (".gz", "")]
    found = [place / name for name in names if (place / name).is_file()]
    if len(found) > 1:
        raise ValueError(
            f"Two label maps for one study: {subject}. Found {' and '.join(p.name for p in found)}; expected one. Move one away."
        )
    return found[0] if found else None


def _write_labels(
    study: CompletedStudy,
    labels: Path,
    path: Path,
    candidates: Sequence[Candidate],
    algorithm: Algorithm,
    alias: Alias | None,
) -> None:
    """Refer to the acquired series that lies there: the first acquired one of the study, or the only one."""
    data, grid = read_volume(labels)
    numbered, regions = translate(data, dict(LABELS_EITHER), "unsaid", str(labels))
    if study.alignment is not None and study.grid is not None and grid.matches(study.grid):
        numbered, grid = _on_the_scan(numbered, grid, study.alignment)
    there = on_grid(candidates, grid)
    acquired = [image.sequence for image in study.images if image.acquired] or [
        sources_of(image.provenance)[0] for image in study.generated
    ]
    named = [c for q in acquired for c in there if c.sequence == q]
    exams = {c.series.study_uid for c in there}
    if not there or len(exams) > 1:
        raise ValueError(
            f"Source series of the label map is not clear: {study.subject}. Found {len(there)} series of {len(exams)} exams on its "
            "grid; expected one exam. Bring it to the grid of a series, or give --sheet."
        )
    generated = list(dict.fromkeys(image.sequence for image in study.generated))
    series = (named or there)[0].series
    write_seg(numbered, grid, series, path, algorithm, regions=regions, generated=generated, alias=alias)
