"""From a corrected sheet to studies that `ummgat.prepare` takes: each is unpacked when its turn comes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ummgat.core.domain import SEQUENCES
from ummgat.core.files import FULL
from ummgat.intake.convert import convert
from ummgat.intake.images import data_file
from ummgat.intake.layouts import LABELS_EITHER, LABELS_WT, Packed, RawStudy
from ummgat.intake.series import SourceSeries
from ummgat.intake.sheet import SheetEntry, read_sheet, study_name

LAYOUT = "sheet"


def studies_of_sheet(
    sheet: Path, folder: Path, brain_mask: str | None = None, layout: str = "auto"
) -> tuple[list[RawStudy], list[str]]:
    """Studies of which a sheet says what each series is.

    Parameters
    ----------
    sheet : Path
        CSV of `ummgat inspect --out`, as corrected, with its key beside it.
    folder : Path
        What was inspected.
    brain_mask : str, optional
        Must not be given: masks have the role brain_mask in the sheet.
    layout : str
        Must be `auto`: the sheet says what each file is.

    Returns
    -------
    studies : list of RawStudy
        Sorted; named as `sheet.study_name` says. Exams of which nothing is decided come with that as their problem. The
        files of the others are still to be made: images in the voxel order of their sources, nothing in them but voxels
        and geometry.
    remarks : list of str
        What the sheet leaves open.

    Raises
    ------
    FileNotFoundError, ValueError
        See `sheet.read_sheet`; or nothing in the sheet is to be used.
    """
    if brain_mask is not None:
        raise ValueError(
            f"Brain masks are named in the sheet: --brain-mask. Found {brain_mask} with --sheet; expected the role "
            f"brain_mask in the column sequence. Leave --brain-mask out."
        )
    if layout != "auto":
        raise ValueError(
            f"Layout and sheet exclude each other: --layout. Found {layout!r} with --sheet; expected one. Leave "
            f"--layout out: the sheet says what each file is."
        )
    read = read_sheet(sheet, folder)
    remarks = []
    if read.undecided:
        remarks.append(
            f"{len(read.undecided)} series left out, as the sheet does not say what they are: "
            f"{', '.join(read.undecided)}. Write the sequence, or none."
        )
    found = read.studies()
    if not found:
        raise ValueError(
            f"Sheet gives nothing to prepare: {sheet}. Found no series with a sequence; expected some. Fill in the "
            f"column sequence."
        )
    exams = Counter(subject for subject, _ in found)
    studies = [
        _study(exam, found.get(exam, {}), read.asked.get(exam, ()), exams[exam[0]]) for exam in {**found, **read.asked}
    ]
    for study, exam in zip(studies, {**found, **read.asked}, strict=True):
        study.left_out = {series: read.may_be[series] for series in read.asked.get(exam, ())}
    names = Counter(study.subject.casefold() for study in studies)
    twice = sorted({study.subject for study in studies if names[study.subject.casefold()] > 1})
    if twice:
        raise ValueError(
            f"Sheet gives two studies one name: {sheet}. Found {', '.join(twice)} for more than one subject and "
            f"session; expected names that differ, not in upper and lower case only. Rename one subject."
        )
    return sorted(studies, key=lambda study: study.subject), remarks


def _study(exam: tuple[str, str], roles: Mapping[str, SheetEntry], asked: Sequence[str], n_exams: int) -> RawStudy:
    name = study_name(*exam)
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
            f"Study has no image: {name}. Found {', '.join(roles) or 'nothing decided'} and {len(asked)} undecided "
            f"series in the sheet; expected a sequence. Say in the sheet what its series are, or none for all of them."
        )
    if n_exams > 1:
        study.findings.append(f"One of {n_exams} exams of {exam[0]}: keep them in the same part of a split.")
    return study


def _stamp(role: str, entry: SheetEntry) -> list[tuple[str | int, ...]]:
    """Role, series, size and time of every file of an entry."""
    if isinstance(entry.source, SourceSeries):
        files = entry.source.files
    else:
        files = list(dict.fromkeys((entry.source, data_file(entry.source))))
    facts = [path.stat() for path in files]
    return [(role, entry.series, f.st_size, f.st_mtime_ns) for f in facts]


def _unpack(name: str, roles: Mapping[str, SheetEntry], folder: Path) -> RawStudy:
    """Write the files of one study into `folder`."""
    paths = {role: _convert(entry, folder / f"{role}.nii.gz") for role, entry in roles.items()}
    study = RawStudy(name, images={q: paths[q] for q in SEQUENCES if q in paths}, brain_mask=paths.get("brain_mask"))
    if "wt" in paths:
        return replace(study, labels=paths["wt"], label_table=LABELS_WT, labels_regions="wt")
    return replace(study, labels=paths.get("seg"), label_table=LABELS_EITHER, labels_regions="unsaid")


def _convert(entry: SheetEntry, out: Path) -> Path:
    """Convert; errors call the source as the sheet does, since its path may name the patient."""
    try:
        return convert(entry.source, out).path
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        text = str(error)
        for file in entry.source.files if isinstance(entry.source, SourceSeries) else [entry.source]:
            text = text.replace(str(file), entry.series).replace(file.name, entry.series)
        raise ValueError(text) from None
