"""Which center each subject comes from: told by the user, never guessed."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from ummgat.core.files import read_json
from ummgat.intake.names import check_name
from ummgat.prepare.settings import PrepareSettings


def assign_centers(subjects: Sequence[str], settings: PrepareSettings) -> tuple[dict[str, str], dict[str, str]]:
    """Center of every subject.

    Returns
    -------
    centers : dict of subject → center
    problems : dict of subject → message
        Subjects without a center, or with one that is unsafe as a name.

    Raises
    ------
    FileNotFoundError, ValueError
        The centers file is missing or is not what it should be.
    """
    if settings.center is not None:
        return dict.fromkeys(subjects, settings.center), {}
    if settings.centers is not None:
        where = str(settings.centers)
        told = read_centers(settings.centers)
    else:
        where = f"--center-pattern {settings.center_pattern}"
        matches = {s: re.search(settings.center_pattern or "", s) for s in subjects}
        told = {subject: match[1] for subject, match in matches.items() if match and match[1]}
    centers, problems = {}, {}
    for subject in subjects:
        if subject not in told:
            problems[subject] = (
                f"Subject has no center: {subject}. Found none in {where}; expected one. Add it, or correct the "
                f"pattern."
            )
            continue
        try:
            centers[subject] = check_name(told[subject], "center", f"{where}, subject {subject}")
        except ValueError as error:
            problems[subject] = str(error)
    return centers, problems


def read_centers(path: Path) -> dict[str, str]:
    """Read subject → center from a CSV with columns subject,center, or a JSON file with a "center" map."""
    path = Path(path)
    if path.suffix.lower() == ".json":
        value = read_json(path)
        told = value.get("center") if isinstance(value, dict) else None
        if not isinstance(told, dict) or not all(isinstance(center, str) for center in told.values()):
            raise ValueError(
                f'Centers file has no centers: {path}. Found no "center" map of names; expected '
                '{"center": {"subject": "center"}}. Correct the file.'
            )
        return told
    if not path.is_file():
        raise FileNotFoundError(
            f"Centers file is missing: {path}. Found no file; expected a CSV or JSON. Check the path."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"Centers file is not CSV: {path}. Found {error}; expected UTF-8 text with the columns subject,center. "
            f"Export it again."
        ) from error
    if "subject" not in columns or "center" not in columns:
        raise ValueError(
            f"Centers file lacks columns: {path}. Found {', '.join(columns) or 'none'}; expected subject,center in the "
            "first line, separated by commas. Correct the first line."
        )
    told = {}
    for number, row in enumerate(rows, start=2):
        subject, center = (row["subject"] or "").strip(), (row["center"] or "").strip()
        if told.setdefault(subject, center) != center:
            raise ValueError(
                f"Subject has two centers: {path}, line {number}. Found {center} for {subject}; expected "
                f"{told[subject]} as before. Remove one line."
            )
    return {subject: center for subject, center in told.items() if subject and center}
