"""What a folder is, and prepared studies of it: a prepared cohort as it is, anything else prepared first."""

from dataclasses import dataclass, field
from pathlib import Path

from ummgat.check.prepared import prepare_and_check
from ummgat.core.each import Progress
from ummgat.core.study import Study, load_study
from ummgat.intake.layouts import RawStudy, find_studies
from ummgat.intake.privacy import Key, key_path
from ummgat.intake.rows import Accept
from ummgat.intake.scan import scan_folder
from ummgat.intake.sheet import write_sheet
from ummgat.intake.studies import LAYOUT, studies_of_sheet
from ummgat.prepare.settings import PrepareSettings

PREPARED, SHEET = "prepared", "sheet.csv"
"""What a source that is not prepared leaves in the output: the prepared cohort, and the sheet that says what each
series is."""


@dataclass
class Source:
    """Studies to segment, and what happened on the way to them."""

    studies: list[Study] = field(default_factory=list)
    """Sorted by subject."""
    failed: dict[str, str] = field(default_factory=dict)
    """Subject → why it is not among them."""
    remarks: list[str] = field(default_factory=list)
    """What was found out about the folder as a whole."""


@dataclass(frozen=True)
class Intake:
    """How studies that are not prepared are treated, see `ummgat.complete_scans`."""

    raw: bool = False
    sheet: Path | None = None
    layout: str = "auto"
    template: Path | None = None
    brain_mask: str | None = None
    n4: bool = False
    checks: Path | None = None
    accept: Accept = "sure"


def is_prepared(source: Path) -> bool:
    """Whether `source` is a prepared study or holds some."""
    return (source / "study.json").is_file() or any(source.glob("[!.]*/study.json"))


def prepared_studies(source: Path) -> Source:
    """Read a prepared study or cohort; a record that cannot be read fails its study and no other."""
    found = Source()
    records = [source] if (source / "study.json").is_file() else [p.parent for p in source.glob("[!.]*/study.json")]
    for folder in sorted(records):
        try:
            found.studies.append(load_study(folder))
        except (ValueError, OSError) as error:
            found.failed[folder.name] = str(error)
    return found


def prepare_source(
    source: Path,
    out: Path,
    intake: Intake,
    spacing_mm: float,
    center: str,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    on_prepared: Progress | None = None,
    on_checked: Progress | None = None,
) -> Source:
    """Prepare and check studies that are not prepared yet.

    Parameters
    ----------
    source : Path
        NIfTI studies in a known layout; else anything that `ummgat inspect` lists, as DICOM, which is then taken for
        scans.
    out : Path
        Gets `prepared/`, and for DICOM without a sheet `sheet.csv` with its private key. A sheet that is there from an
        earlier run is read as it is, corrected or not.
    intake : Intake
    spacing_mm : float
    center : str
    jobs, overwrite, on_prepared, on_checked
        See `prepare_and_check`.

    Raises
    ------
    FileNotFoundError, ValueError, FileExistsError, OSError
        For what concerns the whole folder.
    """
    found = Source()
    sheet, raws = intake.sheet, None
    if sheet is not None and intake.accept != "sure":
        raise ValueError(
            f"Sheet and --accept exclude each other: {sheet}. Found both; expected one: a sheet says itself what is "
            f"accepted. Leave --accept out."
        )
    if sheet is None:
        raws = _plain(source, intake.layout)
        if raws is None:
            sheet = out / SHEET
            earlier = sheet.is_file()
            if not earlier:
                _inspect(source, sheet, intake.accept)
            found.remarks.append(
                f"What each series is taken for: {sheet}{', as an earlier run left it' if earlier else ''}. Correct "
                f"the column sequence and run again."
            )
    if sheet is not None:
        listed, remarks = studies_of_sheet(sheet, source, intake.brain_mask, intake.layout)
        raws, found.remarks = (listed, LAYOUT), found.remarks + remarks
    settings = PrepareSettings(
        layout=intake.layout,
        spacing_mm=spacing_mm,
        raw=intake.raw or sheet is not None,
        template=intake.template,
        brain_mask=intake.brain_mask,
        n4=intake.n4,
        center=center,
    )
    prepared, checked = prepare_and_check(
        source,
        out / PREPARED,
        settings,
        checks=intake.checks,
        jobs=jobs,
        overwrite=overwrite,
        found=raws,
        on_prepared=on_prepared,
        on_checked=on_checked,
    )
    found.failed = dict(prepared.failed)
    wanted = set(prepared.present)
    if wanted:
        there = prepared_studies(out / PREPARED)
        found.studies = [study for study in there.studies if study.subject in wanted]
    if checked is not None:
        unchecked = {s: why for s, why in checked.failed.items() if s in wanted}
        found.remarks += [f"{subject} could not be checked: {why}" for subject, why in unchecked.items()]
    return found


def _plain(source: Path, layout: str) -> tuple[list[RawStudy], str] | None:
    """NIfTI studies in a known layout, or None if `auto` finds none."""
    try:
        return find_studies(source, layout)
    except ValueError:
        if layout != "auto":
            raise
        return None


def _inspect(source: Path, sheet: Path, accept: Accept) -> None:
    """Write what `ummgat inspect` proposes."""
    key = Key.read(key_path(sheet))
    scan = scan_folder(source, key, accept=accept)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    write_sheet(sheet, scan, key)
