"""Completed cohorts out: study by study, a bad one is reported and the rest is done."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ummgat.core.each import Progress, Report, each, named, reason
from ummgat.core.extras import need
from ummgat.core.files import explained_full_disk, replaced_folder, require_new
from ummgat.core.paths import inside
from ummgat.core.stamp import STAMP, fingerprint, stamps, up_to_date, write_stamp
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

ExportReport = Report[list[str]]
"""`done`: subject → series folders and files, relative to the output folder."""

_ALGORITHM = 1  # raise when exporting the same study would give other files


@dataclass(frozen=True)
class Segmentations:
    """Label maps to export, and what drew them."""

    place: Path
    """A NIfTI file, for one study; or a folder of `<subject>.nii.gz` or `<subject>_seg.nii.gz`."""
    algorithm: Algorithm


@dataclass(frozen=True)
class _Bids:
    out: Path
    labels: Mapping[str, str]
    """Subject → its label."""
    marks: Mapping[str, str]
    """Subject → fingerprint."""


def export_bids(
    completed: Path, out: Path, *, jobs: int = 1, overwrite: bool = False, progress: Progress | None = None
) -> ExportReport:
    """Write completed studies as BIDS derivatives; those that are there already and have not changed are left as they
    are.

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError
        No completed studies, or something else in `out` already. Problems of one study go into the report.
    """
    folders = named(completed_folders(completed), lambda folder: folder.name)
    report = ExportReport()
    labels: dict[str, str] = {}
    taken: dict[str, str] = {}
    for subject in folders:
        try:
            label = bids_label(subject)
        except ValueError as error:
            report.failed[subject] = str(error)
            continue
        if label.lower() in taken:
            report.failed[subject] = (
                f"Two subjects have one BIDS label: {subject}. Found {taken[label.lower()]} with {label} too; expected "
                "names that differ in letters and digits. Rename one."
            )
        else:
            taken[label.lower()] = labels[subject] = label
    places = {subject: out / f"sub-{label}" for subject, label in labels.items()}
    _check_out(out, overwrite, places.values(), completed)
    todo, marks = _to_do(folders, places, ["bids"], overwrite, report)
    now = each(_export_bids, todo, _Bids(out, labels, marks), jobs=jobs, progress=progress)
    _add(report, now, folders)
    write_dataset(out, [labels[subject] for subject in report.present])
    return report


def _export_bids(order: _Bids, folder: Path) -> list[str]:
    label = order.labels[folder.name]
    place = order.out / f"sub-{label}"
    with explained_full_disk(place), replaced_folder(place) as temporary:
        files = write_subject(read_completed(folder), temporary, label)
        write_stamp(temporary, order.marks[folder.name], files)
    return [f"sub-{label}/{name}" for name in files]


@dataclass(frozen=True)
class _Dicom:
    out: Path
    sources: Sources
    uids: UidMap | None
    """None: the patient stays named."""
    mark: bool
    segmentations: Segmentations | None
    marks: Mapping[str, str]
    """Subject → fingerprint."""


def export_dicom(
    completed: Path,
    out: Path,
    source: Path,
    *,
    sheet: Path | None = None,
    deidentify: bool = False,
    mark: bool = False,
    segmentations: Segmentations | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the generated images of completed studies as DICOM series, and label maps as DICOM SEG.

    Studies that are there already and have not changed are left as they are.

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
    jobs : int
        Worker processes.
    overwrite : bool
        Write again what is there, whatever it is.

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError
        For what concerns the whole call. Problems of one study go into the report.
    """
    for package in ("pydicom", *(["highdicom"] if segmentations else [])):
        need(package, "dicom")
    folders = named(completed_folders(completed), lambda folder: folder.name)
    places = {subject: inside(out, subject) for subject in folders}
    _check_out(out, overwrite, places.values(), completed, source)
    sources = find_sources(source, sheet)
    if sources.one_patient and len(folders) > 1:
        raise ValueError(
            f"Studies cannot be told apart: {completed}. Found {len(folders)} studies and no sheet; expected one "
            f"study, or a sheet that says whose the series are. Give --sheet SHEET of `ummgat inspect --out`."
        )
    if segmentations and segmentations.place.is_file() and len(folders) > 1:
        raise ValueError(
            f"One label map for several studies: {segmentations.place}. Found {len(folders)} studies; expected one. "
            f"Give a folder of files called <subject>.nii.gz."
        )
    if segmentations:
        _require_fitting_labels(segmentations, folders)
    report = ExportReport()
    what = ["dicom", deidentify, mark, sorted(str(c.series.series_uid) for c in sources.candidates)]
    if segmentations:
        what += [asdict(segmentations.algorithm), _label_stamps(segmentations.place)]
    todo, marks = _to_do(folders, places, what, overwrite, report)
    order = _Dicom(out, sources, UidMap(sources.salt) if deidentify else None, mark, segmentations, marks)
    _add(report, each(_export_dicom, todo, order, jobs=jobs, progress=progress), folders)
    return report


def _export_dicom(order: _Dicom, folder: Path) -> list[str]:
    place = order.out / folder.name
    with explained_full_disk(place), replaced_folder(place) as temporary:
        study = read_completed(folder)
        alias = None if order.uids is None else Alias(study.subject, order.uids)
        names = _write_study(study, temporary, order.sources, alias, order.mark, order.segmentations)
        write_stamp(temporary, order.marks[folder.name], names)
    return [f"{folder.name}/{name}" for name in names]


def _label_stamps(place: Path) -> list[tuple[str, int, int]]:
    return stamps([place] if place.is_file() else sorted(p for p in place.glob("*.nii*") if p.is_file()))


def _to_do(
    folders: Mapping[str, Path], places: Mapping[str, Path], what: Sequence[Any], overwrite: bool, report: ExportReport
) -> tuple[dict[str, Path], dict[str, str]]:
    """Studies that must be written, and fingerprints; the others go into the report."""
    todo, marks = {}, {}
    for subject, place in places.items():
        files = sorted(p for p in folders[subject].rglob("*") if p.is_file())
        try:
            marks[subject] = fingerprint(_ALGORITHM, what, stamps(files))
            if up_to_date(place, marks[subject], overwrite) is None:
                todo[subject] = folders[subject]
            else:
                report.up_to_date.append(subject)
        except (ValueError, OSError) as error:
            report.failed[subject] = reason(error)
    return todo, marks


def _add(report: ExportReport, now: ExportReport, folders: Mapping[str, Path]) -> None:
    failed = report.failed | now.failed
    report.done, report.failed = now.done, {subject: failed[subject] for subject in folders if subject in failed}


def _check_out(out: Path, overwrite: bool, places: Iterable[Path], *inputs: Path) -> None:
    """Refuse an output folder that holds something this export did not write, or that is an input, within one or around
    one.
    """
    ours = [place for place in places if (place / STAMP).is_file()]
    if not ours:
        require_new(out, overwrite)
    there = out.resolve()
    for given in inputs:
        place = given.resolve()
        if there.is_relative_to(place) or place.is_relative_to(there):
            raise ValueError(
                f"Output and input are not apart: {out}. Found one inside the other; expected another place. Choose "
                f"one: inputs are never changed."
            )


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
            f"Study is on the grid of `ummgat prepare`: {study.subject}. Found a study.json and no generated image on "
            f"the grid of the scan; expected some. Complete the NIfTI folder itself, or a cohort of `ummgat prepare "
            f"--raw`, then export."
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
            f"Study has nothing to export: {study.subject}. Found no generated image and no label map; expected one. "
            f"Complete it first, or leave it out."
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
    found = [place / name for name in label_names(subject) if (place / name).is_file()]
    if len(found) > 1:
        raise ValueError(
            f"Two label maps for one study: {subject}. Found {' and '.join(p.name for p in found)}; expected one. Move "
            f"one away."
        )
    return found[0] if found else None


def unused_labels(place: Path, completed: Path) -> tuple[list[str], list[str]]:
    """Label maps of a folder that are of no study, and studies that have none; names, sorted. A single file is of its
    study.
    """
    if place.is_file():
        return [], []
    return _unused(place, [folder.name for folder in completed_folders(completed)])


def _unused(place: Path, subjects: Iterable[str]) -> tuple[list[str], list[str]]:
    names = {path.name for path in place.glob("*.nii*") if path.is_file()}
    of = {subject: {name for name in label_names(subject) if name in names} for subject in subjects}
    return sorted(names - set().union(*of.values())), sorted(subject for subject, own in of.items() if not own)


def label_names(subject: str) -> list[str]:
    """What a label map of a subject may be called."""
    return [f"{subject}{middle}.nii{end}" for middle in ("", "_seg") for end in (".gz", "")]


def _require_fitting_labels(segmentations: Segmentations, subjects: Mapping[str, Path]) -> None:
    """Refuse a folder of label maps of which none is of a study."""
    place = segmentations.place
    if place.is_file():
        return
    others, without = _unused(place, subjects)
    if len(without) == len(subjects):
        raise ValueError(
            f"No label map fits a study: {place}. Found "
            f"{', '.join(others[:5]) or 'no NIfTI file'}{', …' if len(others) > 5 else ''}; expected "
            f"{' or '.join(label_names(next(iter(subjects)))[::2])} and the like. Rename them, or choose another "
            f"folder."
        )


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
            f"Source series of the label map is not clear: {study.subject}. Found {len(there)} series of {len(exams)} "
            f"exams on its grid; expected one exam. Bring it to the grid of a series, or give --sheet."
        )
    generated = list(dict.fromkeys(image.sequence for image in study.generated))
    series = (named or there)[0].series
    write_seg(numbered, grid, series, path, algorithm, regions=regions, generated=generated, alias=alias)
