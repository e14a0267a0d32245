"""The sheet: a CSV of proposals that a person corrects, and its strict reading back."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ummgat.core.domain import SEQUENCES
from ummgat.core.files import csv_text, require_new, write_text
from ummgat.intake.names import check_name
from ummgat.intake.privacy import Key, key_path
from ummgat.intake.rows import COLUMNS, NOT_USED, ROLES, Row
from ummgat.intake.scan import Scan, scan_folder
from ummgat.intake.series import SourceSeries

_NEEDED = ("subject", "session", "series", "sequence")


@dataclass(frozen=True)
class SheetEntry:
    """One line that is to be used: whose, as what, from where."""

    line: int
    subject: str
    session: str
    sequence: str
    """One of `rows.ROLES`."""
    series: str
    source: SourceSeries | Path = field(repr=False)
    """For `convert.convert`."""


@dataclass(frozen=True)
class Sheet:
    """What the user decided."""

    entries: list[SheetEntry]
    asked: dict[tuple[str, str], list[str]]
    """(subject, session) → series whose `sequence` is empty: nobody has said what they are."""
    not_used: list[str]
    """Series marked `none`."""
    may_be: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Series of which nobody has said what they are → sequences that they may be."""

    @property
    def undecided(self) -> list[str]:
        """All series of which nobody has said what they are."""
        return [series for names in self.asked.values() for series in names]

    def studies(self) -> dict[tuple[str, str], dict[str, SheetEntry]]:
        """(subject, session) → role → entry, sequences in the order of `SEQUENCES`, then annotation and mask."""
        found: dict[tuple[str, str], dict[str, SheetEntry]] = {}
        for entry in sorted(self.entries, key=lambda e: (e.subject, e.session, ROLES.index(e.sequence))):
            found.setdefault((entry.subject, entry.session), {})[entry.sequence] = entry
        return found


def study_name(subject: str, session: str) -> str:
    """Name of the study of one exam, in `prepare`, `complete` and `export`.

    Examples
    --------
    >>> study_name("S001", "2"), study_name("p7", "")
    ('S001_2', 'p7')
    """
    return f"{subject}_{session}" if session else subject


def write_sheet(path: Path, scan: Scan, key: Key, overwrite: bool = False) -> None:
    """Write the CSV, and beside it the key that keeps its labels the same next time.

    Raises
    ------
    FileExistsError
        If there is a CSV already, which may hold a person's corrections, and `overwrite` is False.
    """
    require_new(path, overwrite)
    key.write(key_path(path))
    write_text(path, csv_text([row.as_dict() for row in scan.rows], COLUMNS))


def read_sheet(path: Path, folder: Path) -> Sheet:
    """Read a sheet that a person may have edited, and find its series in `folder` again.

    Labels, sessions and sequences are the user's to change. Every series that is to be used must be there and usable.

    Raises
    ------
    FileNotFoundError, ValueError
        All problems at once, with their lines: unknown sequence, one sequence twice in a study, a series or file that
        is not in the folder or cannot be used, unsafe labels, a line twice.
    """
    path = Path(path)
    lines = _read(path)
    if not key_path(path).is_file() and any(row["series"].startswith(("dicom:", "file:")) for row in lines.values()):
        raise FileNotFoundError(
            f"Key of the sheet is missing: {key_path(path)}. Found no file; expected the one that `ummgat inspect` "
            f"wrote beside the CSV. Copy it there, or inspect the folder again."
        )
    found = {row.series: row for row in scan_folder(folder, Key.read(key_path(path))).rows}
    problems: list[str] = []
    entries: list[SheetEntry] = []
    asked: dict[tuple[str, str], list[str]] = {}
    maybe: dict[str, tuple[str, ...]] = {}
    not_used, seen = [], set()
    for line, told in lines.items():
        role = told["sequence"].lower()
        if told["series"] in seen:
            problems.append(f"line {line}: {told['series']} is there twice; expected one line for each series")
        seen.add(told["series"])
        if role == "":
            asked.setdefault((told["subject"], told["session"]), []).append(told["series"])
            maybe[told["series"]] = _may_be(found.get(told["series"]))
        elif role == NOT_USED:
            not_used.append(told["series"])
        elif role not in ROLES:
            problems.append(
                f"line {line}: unknown sequence {role!r}; expected {', '.join(ROLES)}, {NOT_USED} or nothing"
            )
        else:
            try:
                entries.append(_entry(line, told, role, found.get(told["series"])))
            except ValueError as error:
                problems.append(f"line {line}: {error}")
    problems += _repeats(entries)
    if problems:
        raise ValueError(
            f"Sheet cannot be used: {path}. Found {len(problems)} {'problem' if len(problems) == 1 else 'problems'}; "
            "expected none. Correct these lines:" + "".join(f"\n  - {problem}" for problem in problems)
        )
    return Sheet(entries, asked, not_used, maybe)


def _may_be(row: Row | None) -> tuple[str, ...]:
    """Sequences that a series may be of which nobody said; none for one that is gone or cannot be used."""
    if row is None or row.problems:
        return ()
    if row.contrast_unsaid:
        return ("t1", "t1ce")
    if row.proposal is not None:
        return (row.proposal,) if row.proposal in SEQUENCES else ()
    return tuple(SEQUENCES)


def _entry(line: int, told: Mapping[str, str], role: str, row: Row | None) -> SheetEntry:
    name = told["series"]
    if row is None:
        raise ValueError(f"{name} is not in the folder; expected a series that `ummgat inspect` lists there")
    if row.problems:
        raise ValueError(f"{name} cannot be used: {'; '.join(row.problems)}; expected {NOT_USED} as its sequence")
    subject = check_name(told["subject"], "subject", f"line {line}")
    session = check_name(told["session"], "session", f"line {line}") if told["session"] else ""
    if row.stack is not None:
        return SheetEntry(line, subject, session, role, name, row.stack.source(name, subject, session))
    assert row.path is not None
    return SheetEntry(line, subject, session, role, name, row.path)


def _repeats(entries: list[SheetEntry]) -> list[str]:
    """Say which lines give one study the same sequence, or two annotations."""
    first: dict[tuple[str, str, str], SheetEntry] = {}
    problems = []
    for entry in entries:
        role = "annotation" if entry.sequence in ("seg", "wt") else entry.sequence
        other = first.setdefault((entry.subject.casefold(), entry.session.casefold(), role), entry)
        if other is not entry:
            study = f"{entry.subject}, session {entry.session}" if entry.session else entry.subject
            problems.append(
                f"line {entry.line}: {role} of {study} again, after line {other.line}; expected one "
                f"{'file' if role not in SEQUENCES else 'series'}, and {NOT_USED} for the other"
            )
    return problems


def _read(path: Path) -> dict[int, dict[str, str]]:
    """Line number → the needed columns, stripped. Spreadsheets write semicolons or tabs where they please."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Sheet is missing: {path}. Found no file; expected a CSV. Run `ummgat inspect` with --out."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        head = text.partition("\n")[0]
        separator = max(",;\t", key=head.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        columns = [(name or "").strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"Sheet is not CSV: {path}. Found {error}; expected UTF-8 text as `ummgat inspect` wrote it. Export it "
            f"again."
        ) from error
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise ValueError(
            f"Sheet lacks columns: {path}. Found {', '.join(columns) or 'none'}; expected also {', '.join(missing)}. "
            "Keep the first line as `ummgat inspect` wrote it."
        )
    kept = {line: {name: (row[name] or "").strip() for name in _NEEDED} for line, row in rows}
    return {line: row for line, row in kept.items() if any(row.values())}
