"""From a corrected sheet to studies that `ummgat.prepare` takes: each is unpacked when its turn comes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from ummgat.domain import SEQUENCES
from ummgat.intake.convert import convert
from ummgat.intake.series import SourceSeries
from ummgat.intake.sheet import SheetEntry, read_sheet
from ummgat.prepare.layouts import LABELS_EITHER, LABELS_WT, Packed, RawStudy

LAYOUT = "sheet"


def studies_of_sheet(sheet: Path, folder: Path) -> tuple[list[RawStudy], list[str]]:
    """Studies of which a sheet says what each series is.

    Parameters
    ----------
    sheet : Path
        CSV of `ummgat inspect --out`, as corrected, with its key beside it.
    folder : Path
        What was inspected.

    Returns
    -------
    studies : list of RawStudy
        Sorted; named `subject`, or `subject_session` where the sheet gives a session. Their files are still to be made: images in the
        voxel order of their sources, nothing in them but voxels and geometry.
    remarks : list of str
        What the sheet leaves open.

    Raises
    ------
    FileNotFoundError, ValueError
        See `sheet.read_sheet`; or nothing in the sheet is to be used.
    """
    read = read_sheet(sheet, folder)
    remarks = []
    if read.undecided:
        remarks.append(
            f"{len(read.undecided)} series left out, as the sheet does not say what they are: {', '.join(read.undecided)}. Write the "
            "sequence, or none."
        )
    found = read.studies()
    if not found:
        raise ValueError(
            f"Sheet gives nothing to prepare: {sheet}. Found no series with a sequence; expected some. Fill in the column sequence."
        )
    exams = Counter(subject for subject, _ in found)
    studies = [_study(subject, session, roles, exams[subject]) for (subject, session), roles in found.items()]
    names = Counter(study.subject for study in studies)
    twice = [name for name, n in names.items() if n > 1]
    if twice:
        raise ValueError(
            f"Sheet gives two studies one name: {sheet}. Found {', '.join(twice)} as subject, and as subject and session; expected "
            "distinct names. Rename one subject."
        )
    return sorted(studies, key=lambda study: study.subject), remarks


def _study(subject: str, session: str, roles: Mapping[str, SheetEntry], n_exams: int) -> RawStudy:
    name = f"{subject}_{session}" if session else subject
    study = RawStudy(
        name,
        images={q: Path(f"{q}.nii.gz") for q in SEQUENCES if q in roles},
        labels=next((Path(f"{role}.nii.gz") for role in ("seg", "wt") if role in roles), None),
        packed=Packed(
            partial(_unpack, name, dict(roles)),
            tuple(part for role, entry in roles.items() for part in _stamp(role, entry)),
            {role: entry.series for role, entry in roles.items()},
        ),
    )
    if not study.images:
        study.problems.append(
            f"Study has no image: {name}. Found only {', '.join(roles)} in the sheet; expected a sequence. Say which series is one."
        )
    if n_exams > 1:
        study.findings.append(f"One of {n_exams} exams of {subject}: keep them in the same part of a split.")
    return study


def _stamp(role: str, entry: SheetEntry) -> list[tuple[str | int, ...]]:
    files = entry.source.files if isinstance(entry.source, SourceSeries) else [entry.source]
    facts = [path.stat() for path in files]
    return [(role, entry.series, len(files), sum(f.st_size for f in facts), max(f.st_mtime_ns for f in facts))]


def _unpack(name: str, roles: Mapping[str, SheetEntry], folder: Path) -> RawStudy:
    """Write the files of one study into `folder`."""
    paths = {role: convert(entry.source, folder / f"{role}.nii.gz").path for role, entry in roles.items()}
    study = RawStudy(name, images={q: paths[q] for q in SEQUENCES if q in paths}, brain_mask=paths.get("brain_mask"))
    if "wt" in paths:
        return replace(study, labels=paths["wt"], label_table=LABELS_WT, labels_regions="wt")
    return replace(study, labels=paths.get("seg"), label_table=LABELS_EITHER, labels_regions="unsaid")
