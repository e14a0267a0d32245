"""Which acquired DICOM series a volume belongs to: by the patient's label, the sequence and the place of its voxels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ummgat.core.volume import Grid, same_voxels
from ummgat.export.wording import shown
from ummgat.intake.privacy import Key, key_path
from ummgat.intake.scan import scan_folder
from ummgat.intake.series import SourceSeries
from ummgat.intake.sheet import read_sheet, study_name


@dataclass(frozen=True)
class Candidate:
    """A series and the sequence it is; empty if nobody is sure."""

    sequence: str
    series: SourceSeries = field(repr=False)


@dataclass(frozen=True)
class Sources:
    """The usable series of a DICOM folder."""

    candidates: list[Candidate]
    one_patient: bool
    """No sheet says who is who: all are of one patient, to whom the one completed study must belong."""
    salt: str | None = field(repr=False)
    """Secret of the sheet's key, for replacing UIDs alike every time."""

    def of(self, subject: str) -> list[Candidate]:
        """Series of the study called `subject`, see `intake.sheet.study_name`; else, of all exams of the subject.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.one_patient:
            return self.candidates
        exam = [c for c in self.candidates if study_name(c.series.subject, c.series.session) == subject]
        found = exam or [c for c in self.candidates if c.series.subject == subject]
        if not found:
            raise ValueError(
                f"Subject has no source series: {subject}. Found "
                f"{', '.join(sorted({c.series.subject for c in self.candidates}))} in the sheet; expected the subject. "
                f"Use the sheet that the study was made with."
            )
        return found


def find_sources(folder: Path, sheet: Path | None) -> Sources:
    """Look through a DICOM folder.

    Parameters
    ----------
    folder : Path
    sheet : Path, optional
        CSV of `ummgat inspect --out`, as corrected, with its key beside it. Without it the folder must hold one
        patient.

    Raises
    ------
    FileNotFoundError, ValueError
        No such folder, no usable DICOM series, a sheet that does not fit, or several patients and no sheet.
    """
    if sheet is not None:
        entries = read_sheet(sheet, folder).entries
        found = [Candidate(e.sequence, e.source) for e in entries if isinstance(e.source, SourceSeries)]
        salt = Key.read(key_path(sheet)).salt
    else:
        rows = [row for row in scan_folder(folder, Key()).rows if row.stack is not None and not row.problems]
        subjects = {row.subject for row in rows}
        if len(subjects) > 1:
            raise ValueError(
                f"Source folder holds several patients. Found {len(subjects)}; expected one, or a sheet that says who "
                f"is who. Run `ummgat inspect FOLDER --out SHEET`, and give --sheet SHEET."
            )
        found, salt = [], None
        for row in rows:
            assert row.stack is not None
            found.append(Candidate(row.sequence, row.stack.source(row.series, row.subject, row.session)))
    if not found:
        raise ValueError(
            "Source folder holds no usable DICOM series. Found none; expected the series that the images were "
            "generated from. Look at it with `ummgat inspect`."
        )
    return Sources(found, sheet is None, salt)


def on_grid(candidates: Sequence[Candidate], grid: Grid) -> list[Candidate]:
    """Those whose voxels are the grid's, in any order."""
    return [candidate for candidate in candidates if same_voxels(grid, candidate.series.grid)]


def place_and_sources(
    candidates: Sequence[Candidate], grid: Grid, sequences: Sequence[str], what: str
) -> tuple[SourceSeries, list[SourceSeries]]:
    """Find the series on which a generated image lies, and those it was generated from.

    Parameters
    ----------
    candidates : sequence of Candidate
        Of one subject.
    grid : Grid
        Of the generated image.
    sequences : sequence of str
        What it was generated from.
    what : str
        The image, for messages.

    Returns
    -------
    place : SourceSeries
        That of the first sequence if it lies there; else, as after registration, another one there of the same exam.
    sources : list of SourceSeries
        Of `sequences`, as far as the exam has exactly one of each.

    Raises
    ------
    ValueError
        None or several fit: it is never guessed.
    """
    there = on_grid(candidates, grid)
    named = [c for c in there if c.sequence == sequences[0]]
    alone = there if len(there) == 1 and not there[0].sequence else []
    fitting = named or alone or _registered(candidates, there, sequences[0])
    if len(fitting) != 1:
        listed = ", ".join(f"{c.series.series_id} ({shown(c.sequence) or 'unknown'})" for c in there)
        raise ValueError(
            f"Source series is not clear: {what}. Found {listed or 'no series'} on its grid out of {len(candidates)}; "
            f"expected one {shown(sequences[0])} there. Say which series is what in the sheet of `ummgat inspect "
            f"--out`, and give --sheet."
        )
    place = fitting[0].series
    sources = [place] if named or alone else []
    for sequence in sequences[1:] if sources else sequences:
        same = [c.series for c in candidates if c.sequence == sequence and c.series.study_uid == place.study_uid]
        sources += same if len(same) == 1 else []
    return place, sources


def _registered(candidates: Sequence[Candidate], there: Sequence[Candidate], sequence: str) -> list[Candidate]:
    """Where an image lies whose source was brought to another series' grid: the first there, if exam and space are the
    source's.
    """
    sources = [c for c in candidates if c.sequence == sequence]
    if len(sources) != 1:
        return []
    exam = sources[0].series.study_uid
    known = [c for c in there if c.sequence and c.series.study_uid == exam]
    return known[:1] if len({c.series.frame_of_reference_uid for c in known}) == 1 else []
